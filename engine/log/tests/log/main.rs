//! The log over the simulated device: crashes, damage, limits, and what version 1 wrote.

mod crash;
mod damage;
mod ended;
mod golden;
mod harness;
mod limits;
mod model;
