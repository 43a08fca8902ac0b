//! What the tests of this crate play on: a core that polls descriptors, and a file system in memory.

pub mod core;
pub mod memory;
