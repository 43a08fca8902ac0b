//! What the tests of this crate play on: a core, and a file system in memory.

pub mod core;
pub mod memory;
