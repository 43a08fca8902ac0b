//! The core log: group commit, recovery, reclaim.
//!
//! Purpose: all Raft groups of a core append to one log; what arrives while the device is busy
//! goes out in the next write: one write, one flush, a batch of any size.
//!
//! Invariants:
//! - An append resolves `Ok` only when its records are on stable media.
//! - Damage at or below what a later batch proves to have been flushed is an error that names the
//!   place; above it is a torn tail: cut and reported.
//! - A slot is reused only when the stream's anchor no longer covers it; streams free their slots
//!   oldest first, so that no record outlives the one that superseded it.
//! - A failed write or flush ends the log: nothing is retried.
//!
//! The life of a log: [`recover`] reads all streams, [`Recovered::split`] gives each core its
//! part, [`CoreLog::open`] starts the core's new stream and writes again what was not proven,
//! [`OldStreams::settle`] follows once all cores are open. The bytes are tabulated in
//! `docs/formats/log.md`.

mod batch;
mod core_log;
mod error;
mod index;
mod old;
mod payload;
mod record;
mod recover;
mod signal;
mod slots;
mod stream;

pub use core_log::{CoreLog, Usage};
pub use error::LogError;
pub use old::{Freed, OldStreams};
pub use payload::read_entry;
pub use record::{Record, RecordKind};
pub use recover::{
    CorePart, EntryAt, GroupLog, Recovered, SLOTS_PER_CORE_MIN, StreamEnd, StreamReport, inspect, recover,
};
