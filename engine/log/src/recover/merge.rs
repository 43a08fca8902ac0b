//! The records of one group from all streams, in their order, without what was superseded.

use super::{EntryAt, Found, GroupLog};
use crate::record::{Record, RecordKind};
use crate::slots::Hold;
use std::collections::BTreeSet;

/// A group's log, and what follows from where its records lie.
pub(super) struct Merged {
    pub log: GroupLog,
    /// Surviving records that must be written again.
    pub rewrite: Vec<Found>,
    /// Streams that hold surviving records which stay where they are.
    pub held_streams: BTreeSet<usize>,
    /// Up to where the group must release to give those streams up.
    pub held: Hold,
}

#[derive(Default)]
struct Survivors {
    entries: Vec<Found>,
    locals: Vec<Found>,
    hard_state: Option<Found>,
    conf_state: Option<Found>,
    adopt: Option<Found>,
}

impl Survivors {
    fn take(&mut self, found: Found) {
        match found.kind {
            RecordKind::Entry => supersede(&mut self.entries, found),
            RecordKind::Local => supersede(&mut self.locals, found),
            RecordKind::HardState => self.hard_state = Some(found),
            RecordKind::ConfState => self.conf_state = Some(found),
            RecordKind::Adopt => {
                let void = |entry: &Found| entry.epoch < found.epoch && entry.index > found.index;
                while self.entries.last().is_some_and(void) {
                    self.entries.pop();
                }
                self.adopt = Some(found);
            }
        }
    }
}

fn supersede(records: &mut Vec<Found>, found: Found) {
    while records.last().is_some_and(|last| last.index >= found.index) {
        records.pop();
    }
    records.push(found);
}

/// Joins what was found of one group.
pub(super) fn merge(mut all: Vec<Found>) -> Merged {
    // Of an original and its copies one stays: rather one that needs not be written again.
    all.sort_by_key(|found| (found.epoch, found.origin, found.rewrite));
    all.dedup_by_key(|found| (found.epoch, found.origin));
    let epoch = all.last().map(|found| found.epoch).unwrap_or_default();
    let mut survivors = Survivors::default();
    for found in all {
        survivors.take(found);
    }
    let Survivors { entries, locals, hard_state, conf_state, adopt } = survivors;
    let log = GroupLog {
        epoch,
        hard_state: hard_state.as_ref().map(to_record),
        conf_state: conf_state.as_ref().map(to_record),
        adopt: adopt.as_ref().map(to_record),
        entries: entries.iter().map(to_entry).collect(),
        locals: locals.iter().map(to_record).collect(),
    };
    let mut merged = Merged { log, rewrite: Vec::new(), held_streams: BTreeSet::new(), held: Hold::default() };
    let states = [hard_state, conf_state, adopt].into_iter().flatten();
    for found in states.chain(entries).chain(locals) {
        if found.rewrite {
            merged.rewrite.push(found);
        } else {
            merged.held_streams.insert(found.stream);
            merged.held.raise(found.kind, found.index.get());
        }
    }
    merged.rewrite.sort_by_key(|found| (found.epoch, found.origin));
    merged
}

fn to_record(found: &Found) -> Record {
    Record {
        group: found.group,
        kind: found.kind,
        epoch: found.epoch,
        term: found.term,
        index: found.index,
        payload: found.payload.clone().into(),
    }
}

fn to_entry(found: &Found) -> EntryAt {
    EntryAt { index: found.index, term: found.term, epoch: found.epoch, position: found.position }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Origin, Position};
    use cfs_types::{GroupId, LogIndex, MoveEpoch, Term};

    fn found(kind: RecordKind, epoch: u32, at: (u64, u64), index: u64) -> Found {
        Found {
            origin: Origin { boot: at.0, core: 0, sequence: at.1, ordinal: 0 },
            sequence: at.1,
            group: GroupId::new(1),
            kind,
            epoch: MoveEpoch::new(epoch),
            term: Term::new(at.1),
            index: LogIndex::new(index),
            position: Position { at: at.1, bytes: 0, crc: 0 },
            payload: Vec::new(),
            stream: 0,
            rewrite: false,
        }
    }
    fn indexes(merged: &Merged) -> Vec<(u64, u64)> {
        merged.log.entries.iter().map(|e| (e.index.get(), e.position.at)).collect()
    }

    #[test]
    fn a_copy_takes_the_place_of_its_original_in_the_order() {
        use RecordKind::Entry;
        let original = found(Entry, 0, (1, 1), 5);
        let later = found(Entry, 0, (1, 3), 4);
        let mut copy = original.clone();
        copy.position.at = 99;
        copy.rewrite = true;
        let all = vec![copy.clone(), later, original];
        assert_eq!(indexes(&merge(all)), [(4, 3)], "a copy of what was superseded supersedes nothing");
        let next = found(Entry, 0, (1, 2), 6);
        assert_eq!(indexes(&merge(vec![next, copy])), [(5, 99), (6, 2)], "a copy without its original counts");
    }

    #[test]
    fn a_later_epoch_comes_after_an_earlier_one_and_voids_its_tail() {
        use RecordKind::{Adopt, Entry};
        let all = vec![
            found(Entry, 1, (1, 3), 3),
            found(Adopt, 1, (1, 2), 2),
            found(Entry, 0, (1, 1), 1),
            found(Entry, 0, (1, 7), 2),
            found(Entry, 0, (1, 8), 3),
            found(Entry, 0, (1, 9), 4),
        ];
        let merged = merge(all);
        assert_eq!(indexes(&merged), [(1, 1), (2, 7), (3, 3)]);
        assert_eq!(merged.log.epoch, MoveEpoch::new(1));
    }

    #[test]
    fn what_stays_in_an_old_stream_holds_it() {
        let mut moved = found(RecordKind::Local, 0, (1, 1), 8);
        moved.rewrite = true;
        let stays = found(RecordKind::Local, 0, (1, 2), 9);
        let merged = merge(vec![moved, stays]);
        assert_eq!((merged.rewrite.len(), merged.held_streams.len()), (1, 1));
        assert!(!merged.held.is_released(0, 8) && merged.held.is_released(0, 9));
    }
}
