//! A reference file system in memory.
