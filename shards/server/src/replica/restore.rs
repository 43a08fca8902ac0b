//! A group as the device holds it: manifest, local records, the tail of the log.
//!
//! Invariants: what the manifest covers is not taken from the log again; records are complete or
//! the start ends with the place of the damage; no commit index is taken from the manifest, whose
//! log may not have been durable yet.

use super::records::{adopt_record, decode_local, decode_vote};
use super::{LocalWrite, Mark};
use crate::boot::StartError;
use crate::hybrid_clock::HybridClock;
use crate::manifest::GroupManifest;
use cfs_consensus::{LogEntry, Restored, VoteState};
use cfs_kv::{Manifest, Store, StoreConfig};
use cfs_log::{CoreLog, EntryAt, GroupLog, Record};
use cfs_segment::Space;
use cfs_types::{GroupId, LogIndex, MoveEpoch, Timestamp};
use std::rc::Rc;

/// What groups are opened with.
pub struct Opener {
    /// The core's log.
    pub log: CoreLog,
    /// Where tables lie.
    pub space: Space,
    /// Settings of the stores.
    pub config: StoreConfig,
    /// The core's hybrid clock.
    pub clock: Rc<HybridClock>,
}

/// A group that was read and does not run yet.
pub struct Opened {
    /// Which.
    pub id: GroupId,
    /// Its store, with the local records of the log.
    pub store: Store,
    /// For the Raft group.
    pub restored: Restored,
    /// What the manifest covers, and the clock then.
    pub flushed: (Mark, Timestamp),
    /// What the store holds.
    pub mark: Mark,
    /// Tables the manifest names; their cells must be claimed.
    pub tables: Manifest,
    /// The epoch in which this core owns the group.
    pub epoch: MoveEpoch,
}

impl Opened {
    /// The record to append before the group runs: this core takes it over.
    pub fn adopt_record(&self) -> Record {
        let last = self.restored.entries.last().map_or(LogIndex::new(self.mark.applied.0), |entry| entry.index);
        adopt_record(self.id, self.epoch, last)
    }
}

impl Opener {
    /// Opens a group from its manifest's bytes and what the log holds of it.
    pub async fn open(&self, id: GroupId, manifest: Option<Vec<u8>>, log: GroupLog) -> Result<Opened, StartError> {
        let damaged = |what: &str| StartError(format!("damage: {what} of group {id}"));
        let manifest = match manifest {
            Some(bytes) => GroupManifest::decode(&bytes).ok_or_else(|| damaged("the manifest"))?,
            None => GroupManifest::default(),
        };
        self.clock.restore(manifest.timestamp);
        let tables = manifest.tables.load(&self.space, id).await;
        let tables = tables.map_err(|e| StartError::new("reading a manifest", e))?;
        let store = Store::open(id, Some(tables.clone()), self.space.clone(), self.config.clone());
        let mut mark = manifest.mark;
        for record in log.locals.iter().filter(|r| r.index.get() > manifest.mark.locals) {
            let write: LocalWrite = decode_local(&record.payload).ok_or_else(|| damaged("a local record"))?;
            if record.index.get() != mark.locals + 1 {
                return Err(damaged("the sequence of local records"));
            }
            mark.locals = record.index.get();
            store.apply(vec![write], self.clock.tick());
        }
        let logged = match &log.hard_state {
            Some(record) => Some(decode_vote(&record.payload).ok_or_else(|| damaged("the vote"))?),
            None => None,
        };
        let vote = newest_vote(manifest.vote, logged);
        let newer: Vec<EntryAt> = log.entries.iter().filter(|e| e.index.get() > mark.applied.0).copied().collect();
        for (expected, at) in (mark.applied.0 + 1..).zip(&newer) {
            if at.index.get() != expected {
                return Err(damaged(&format!("entry {expected} is missing before entry {} in the log", at.index)));
            }
        }
        let payloads = self.log.read_payloads(id, &newer).await;
        let payloads = payloads.map_err(|e| StartError::new("reading the log", e))?;
        let entries = newer.iter().zip(payloads);
        let entries =
            entries.map(|(at, data)| LogEntry { term: at.term, index: at.index, data: data.into() }).collect();
        let restored = Restored { vote, applied: mark.applied, entries };
        let flushed = (manifest.mark, manifest.timestamp);
        let epoch = MoveEpoch::new(manifest.epoch.max(log.epoch).get() + 1);
        Ok(Opened { id, store, restored, flushed, mark, tables, epoch })
    }
}

/// The later of the manifest's vote and the log's. A vote once cast in a term stands.
fn newest_vote(manifest: VoteState, logged: Option<VoteState>) -> VoteState {
    let from_manifest = VoteState { commit: 0, ..manifest };
    match logged {
        Some(logged) if logged.term > manifest.term => logged,
        Some(logged) if logged.term == manifest.term => {
            VoteState { vote: if logged.vote == 0 { manifest.vote } else { logged.vote }, ..logged }
        }
        Some(logged) => VoteState { commit: logged.commit, ..from_manifest },
        None => from_manifest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_stands_wherever_it_was_recorded() {
        let state = |term, vote, commit| VoteState { term, vote, commit };
        assert_eq!(newest_vote(state(3, 2, 90), None), state(3, 2, 0));
        assert_eq!(newest_vote(state(3, 2, 90), Some(state(2, 1, 7))), state(3, 2, 7));
        assert_eq!(newest_vote(state(3, 2, 90), Some(state(3, 0, 7))), state(3, 2, 7));
        assert_eq!(newest_vote(state(3, 0, 90), Some(state(4, 1, 8))), state(4, 1, 8));
    }
}
