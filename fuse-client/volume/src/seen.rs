//! How far each shard was when it answered.
//!
//! What a server has shown is durable: one that starts anew on the same store has it all. A shard that
//! has not is an older copy of what this volume knows, where inode numbers name other files.
//! (Session guarantees, Terry et al., PDIS 1994: monotonic reads, kept across restarts.)

use cfs_types::{ShardId, Timestamp};
use std::cell::Cell;

/// What is known of a shard.
#[derive(Default)]
struct Known {
    /// The start of the server whose history is known to have all that was seen before.
    incarnation: Cell<u64>,
    /// The newest timestamp of its answers.
    newest: Cell<Timestamp>,
}

/// What is known of each shard.
pub(crate) struct Seen(Vec<Known>);

impl Default for Seen {
    fn default() -> Self {
        Seen(ShardId::all().map(|_| Known::default()).collect())
    }
}

impl Seen {
    fn of(&self, shard: ShardId) -> &Known {
        &self.0[usize::from(shard.get())]
    }

    /// A shard has answered.
    pub fn note(&self, shard: ShardId, timestamp: Timestamp) {
        let newest = &self.of(shard).newest;
        newest.set(newest.get().max(timestamp));
    }

    /// What a server that began as `incarnation` must have of a shard, as far as it was not asked: under which start it was
    /// seen, and up to where.
    pub fn unasked(&self, shard: ShardId, incarnation: u64) -> Option<(u64, Timestamp)> {
        let known = self.of(shard);
        let (before, newest) = (known.incarnation.get(), known.newest.get());
        (before != incarnation && newest != Timestamp::default()).then_some((before, newest))
    }

    /// That server has it.
    pub fn asked(&self, shard: ShardId, incarnation: u64) {
        self.of(shard).incarnation.set(incarnation);
    }
}
