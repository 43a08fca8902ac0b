//! The client library: sessions, routing, caches, leases, write-behind.
//!
//! A [`Volume`] is one session at one server, used by one core. Every operation runs where it is
//! called: answered from what leases allow to keep, or by one request to the core that owns the
//! shard, sent again under its number until it is answered.
//!
//! Invariants: nothing is cached without a lease that is valid now; a reply that left before a
//! revocation is never kept; bytes held back are bounded, written before their lease is given up,
//! and their loss is told once to every handle by fsync; no wait without a deadline, except that
//! a hard mount waits for its server.

mod ahead;
mod attributes;
mod call;
mod connect;
mod core;
mod data_cache;
mod dirty;
mod files;
mod inodes;
mod keeper;
mod lane;
mod link;
mod map;
mod names;
mod options;
mod parts;
mod read;
mod seen;
mod session;
mod signal;
mod volume;
mod wait;
mod write;
mod write_back;

pub use files::{Handle, OpenFlags};
pub use names::Creation;
pub use options::{Patience, VolumeError, VolumeOptions};
pub use parts::Parts;
pub use volume::{Entry, KernelCache, Listed, Listing, Lookup, RenameMode, Volume, WriteFlags};
pub use write::PRIVILEGE_BITS;
