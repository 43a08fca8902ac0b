//! Identity and age of a transaction.

use cfs_types::{ShardId, Term};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Names a transaction; given by the coordinator, never used twice.
///
/// `shard` coordinates and holds the decision; `term` is the coordinator's: a decision is refused
/// in any other term. `sequence` is the coordinator's hybrid clock, made unique and rising, so
/// that the order of ids is the order of age: the smaller is the older.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct TxId {
    /// The shard that coordinates.
    pub shard: ShardId,
    /// The coordinator's term.
    pub term: Term,
    /// The coordinator's clock when it began.
    pub sequence: u64,
    /// Counts the attempts of one operation, which keep its age.
    pub attempt: u16,
}

impl TxId {
    /// The id of the next attempt.
    #[must_use]
    pub fn retry(self) -> Self {
        TxId { attempt: self.attempt.saturating_add(1), ..self }
    }
}

impl Ord for TxId {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |tx: &TxId| (tx.sequence, tx.shard, tx.term, tx.attempt);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for TxId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
