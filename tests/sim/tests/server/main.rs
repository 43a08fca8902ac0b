//! The whole server in the simulator: real cores and real clients, simulated device and network.

mod basics;
mod history;
mod leaks;
mod limits;
mod pressure;
mod private;
mod raw;
mod reference;
mod seeds;
mod stage;
mod walk;
