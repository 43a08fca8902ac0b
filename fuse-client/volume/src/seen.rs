//! How far each shard was when it answered.
//!
//! What a server has shown is durable: one that starts anew on the same store has it all. A shard that
//! has not is an older copy of what this volume knows, where inode numbers name other files.
//! (Session guarantees, Terry et al., PDIS 1994: monotonic reads, kept across restarts.)

use cfs_types::{ShardId, Timestamp};
use std::cell::Cell;

/// The newest timestamp in the answers of each shard.
pub(crate) struct Seen {
    /// Of servers before the one that is connected.
    before: Vec<Cell<Timestamp>>,
    /// Of all.
    newest: Vec<Cell<Timestamp>>,
}

impl Default for Seen {
    fn default() -> Self {
        let none = || ShardId::all().map(|_| Cell::default()).collect();
        Seen { before: none(), newest: none() }
    }
}

impl Seen {
    /// A shard has answered.
    pub fn note(&self, shard: ShardId, timestamp: Timestamp) {
        let newest = &self.newest[usize::from(shard.get())];
        newest.set(newest.get().max(timestamp));
    }

    /// The server has started anew: what was seen until now it must have.
    pub fn server_began(&self) {
        for (before, newest) in self.before.iter().zip(&self.newest) {
            before.set(newest.get());
        }
    }

    /// What was seen of a shard before the server began, if anything was.
    pub fn before(&self, shard: ShardId) -> Option<Timestamp> {
        let before = self.before[usize::from(shard.get())].get();
        (before != Timestamp::default()).then_some(before)
    }
}
