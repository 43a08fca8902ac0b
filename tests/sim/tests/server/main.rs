//! The whole server in the simulator: real cores and real clients, simulated device and network.

mod basics;
mod pressure;
mod stage;
