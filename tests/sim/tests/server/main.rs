//! The whole server in the simulator: real cores and real clients, simulated device and network.

mod basics;
mod bulk;
mod history;
mod images;
mod leaks;
mod limits;
mod linear;
mod open_limit;
mod opens;
mod pressure;
mod private;
mod proof;
mod ranges;
mod raw;
mod reference;
mod revoke;
mod room;
mod seeds;
mod shared;
mod stage;
mod stuck;
mod summary;
mod takeover;
mod walk;
