//! Records that wait for the device.

use crate::LogError;
use crate::batch::padded_bytes;
use crate::record::{self, Origin, Position, Record, RecordKind};
use crate::slots::Urgency;
use cfs_seam::Promise;
use cfs_types::GroupId;
use std::collections::{BTreeSet, VecDeque};

/// A record on its way to the device.
pub(super) struct Queued {
    pub record: Record,
    /// Set on copies.
    pub origin: Option<Origin>,
    /// The payload that a copy of an entry replaces.
    pub replaces: Option<Position>,
}

impl Queued {
    pub fn bytes(&self) -> usize {
        record::encoded_bytes(self.record.payload.len(), self.origin.is_some())
    }
}

/// Records that go into one batch together.
pub(super) struct Item {
    pub records: Vec<Queued>,
    pub bytes: usize,
    pub urgency: Urgency,
    /// Who hears of it.
    pub done: Option<Promise<Result<(), LogError>>>,
}

impl Item {
    pub fn new(records: Vec<Queued>) -> Self {
        let entry = |queued: &Queued| queued.record.kind == RecordKind::Entry;
        let urgency = if records.iter().any(entry) { Urgency::Normal } else { Urgency::Flush };
        Item { bytes: records.iter().map(Queued::bytes).sum(), urgency, records, done: None }
    }

    fn is_copy(&self) -> bool {
        self.records.iter().all(|queued| queued.origin.is_some())
    }

    fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.records.iter().map(|queued| queued.record.group)
    }
}

/// Items in order of arrival.
#[derive(Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Queue {
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
    pub fn push(&mut self, item: Item) {
        self.bytes += item.bytes;
        self.items.push_back(item);
    }
    /// Copies stand in no order to what waits, so they may go first.
    pub fn push_copies(&mut self, item: Item) {
        self.bytes += item.bytes;
        self.items.push_front(item);
    }

    /// Whether anything at least as urgent could be written now.
    pub fn has(&self, urgency: Urgency) -> bool {
        self.next_from(0, urgency, &mut BTreeSet::new()).is_some()
    }

    /// Takes what fits `room` bytes of the device, in order. What is less urgent is passed over, and
    /// with it all that follows of the same groups: records of a group never overtake each other.
    pub fn take(&mut self, room: usize, urgency: Urgency) -> Vec<Item> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut blocked = BTreeSet::new();
        let mut from = 0;
        while let Some(at) = self.next_from(from, urgency, &mut blocked) {
            bytes += self.items[at].bytes;
            if padded_bytes(bytes) > room {
                break;
            }
            let item = self.items.remove(at).expect("just found");
            self.bytes -= item.bytes;
            taken.push(item);
            from = at;
        }
        taken
    }

    fn next_from(&self, from: usize, urgency: Urgency, blocked: &mut BTreeSet<GroupId>) -> Option<usize> {
        for (at, item) in self.items.iter().enumerate().skip(from) {
            // A copy stands in no order to the others.
            if item.urgency >= urgency && item.is_copy() {
                return Some(at);
            }
            if item.urgency >= urgency && !item.groups().any(|group| blocked.contains(&group)) {
                return Some(at);
            }
            blocked.extend(item.groups());
        }
        None
    }

    /// Everything, for a log that ends.
    pub fn drain(&mut self) -> Vec<Item> {
        self.bytes = 0;
        std::mem::take(&mut self.items).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_types::{LogIndex, MoveEpoch, Term};

    fn item(group: u16, kind: RecordKind) -> Item {
        let record = Record {
            group: GroupId::new(group),
            kind,
            epoch: MoveEpoch::default(),
            term: Term::default(),
            index: LogIndex::default(),
            payload: vec![0; 100].into(),
        };
        Item::new(vec![Queued { record, origin: None, replaces: None }])
    }
    fn taken(queue: &mut Queue, room: usize, urgency: Urgency) -> Vec<u16> {
        queue.take(room, urgency).iter().flat_map(|i| i.groups().map(GroupId::get).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn urgent_records_pass_others_but_never_their_own_group() {
        let mut queue = Queue::default();
        queue.push(item(1, RecordKind::Entry));
        queue.push(item(1, RecordKind::HardState));
        queue.push(item(2, RecordKind::Local));
        assert!(queue.has(Urgency::Flush));
        assert_eq!(taken(&mut queue, 1 << 20, Urgency::Flush), [2]);
        assert!(!queue.has(Urgency::Flush));
        assert_eq!(taken(&mut queue, 1 << 20, Urgency::Normal), [1, 1]);
        assert_eq!((queue.bytes(), queue.is_empty()), (0, true));
    }

    #[test]
    fn only_what_fits_is_taken() {
        let mut queue = Queue::default();
        for group in 0..50 {
            queue.push(item(group, RecordKind::Entry));
        }
        assert_eq!(taken(&mut queue, 4096, Urgency::Normal).len(), (4096 - 128) / 132);
        assert_eq!(taken(&mut queue, 0, Urgency::Normal).len(), 0);
    }
}
