//! CoreFS: a distributed POSIX file system for NVMe servers.

fn main() {}
