//! One Raft group without I/O: the wrapper around the Raft library that every shard uses.
//!
//! The driver (shards/server) feeds proposals, peers' messages and ticks, and carries out the
//! [`Work`] that [`Group::poll`] returns: append to the core log, flush, tell the group with
//! [`Group::persisted`], execute what is committed, send messages. One voter or five, same code.
//!
//! Invariants: nothing is acknowledged or voted before it is persisted; the log index of an entry
//! is the index of its record in the core log; entries handed to the library are validated first,
//! because the library panics on malformed messages. Election timeouts come from the driver's
//! seeded randomness, so that one seed is one history.
//!
//! Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014);
//! raft-rs 0.7 (`RawNode`, asynchronous ready).

mod group;
mod lease;
mod message;
mod storage;

pub use group::{Committed, Group, GroupConfig, LogEntry, NotLeader, Restored, Role, SnapshotPoint, VoteState, Work};
pub use message::{MessageError, PeerMessage};

/// Ticks between two heartbeats of a leader.
pub const HEARTBEAT_TICKS: usize = 2;
/// Fewest ticks without a leader before an election; the actual wait is drawn from one to two times this.
pub const ELECTION_TICKS: usize = 10;
/// Bytes of entries a group keeps in memory for followers that lag; beyond it they get a snapshot.
pub const CACHED_ENTRY_BYTES_MAX: usize = 1 << 20;
/// The same while a follower is being sent the state: what it must catch up with afterwards.
pub const CATCH_UP_BYTES_MAX: usize = 16 << 20;
