//! Every decoder of bytes from disk, network, kernel and users, under mutants.

mod consensus;
mod device;
mod disk;
mod frames;
mod kernel;
mod log;
mod messages;
mod rows;
mod segment;
mod server;
mod store;
