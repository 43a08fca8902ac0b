//! Bytes of recent small writes, so that they are served and packed without reading the log.
//!
//! Invariant: bounded; what is not here is in the core log.

use bytes::Bytes;
use cfs_types::{GroupId, LogIndex};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

/// Forgotten entries that are never worth a sweep of the order.
const FORGOTTEN_ALLOWED: usize = 64;

/// A log entry.
type Entry = (GroupId, LogIndex);

/// Data areas of recent entries, first in, first out.
pub struct InlineCache {
    bytes_max: usize,
    bytes: Cell<usize>,
    areas: RefCell<BTreeMap<Entry, Bytes>>,
    order: RefCell<VecDeque<Entry>>,
}

impl InlineCache {
    /// At most `bytes_max` bytes of data areas.
    pub fn new(bytes_max: usize) -> Self {
        InlineCache { bytes_max, bytes: Cell::new(0), areas: RefCell::default(), order: RefCell::default() }
    }

    /// Keeps an executed entry's data area.
    pub fn put(&self, group: GroupId, index: LogIndex, data: Bytes) {
        if data.is_empty() || data.len() > self.bytes_max {
            return;
        }
        let (mut areas, mut order) = (self.areas.borrow_mut(), self.order.borrow_mut());
        self.bytes.set(self.bytes.get() + data.len());
        areas.insert((group, index), data);
        order.push_back((group, index));
        while self.bytes.get() > self.bytes_max {
            let Some(oldest) = order.pop_front() else { break };
            if let Some(gone) = areas.remove(&oldest) {
                self.bytes.set(self.bytes.get() - gone.len());
            }
        }
    }

    /// Nobody needs the group's entries up to `through` any more: their room goes to others.
    pub fn forget(&self, group: GroupId, through: LogIndex) {
        let mut areas = self.areas.borrow_mut();
        let gone: Vec<Entry> = areas.range((group, LogIndex::new(0))..=(group, through)).map(|(e, _)| *e).collect();
        let freed: usize = gone.iter().filter_map(|entry| areas.remove(entry)).map(|area| area.len()).sum();
        self.bytes.set(self.bytes.get() - freed);
        let mut order = self.order.borrow_mut();
        if order.len() > 2 * areas.len() + FORGOTTEN_ALLOWED {
            order.retain(|entry| areas.contains_key(entry));
        }
    }

    /// An entry's data area, if it is still here.
    pub fn get(&self, group: GroupId, index: LogIndex) -> Option<Bytes> {
        self.areas.borrow().get(&(group, index)).cloned()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_the_bound_holds() {
        let cache = InlineCache::new(10);
        let group = GroupId::new(3);
        for index in 1..=4 {
            cache.put(group, LogIndex::new(index), Bytes::from_static(&[0; 4]));
        }
        assert_eq!(cache.bytes(), 8);
        assert!(cache.get(group, LogIndex::new(2)).is_none());
        assert!(cache.get(group, LogIndex::new(4)).is_some());
    }

    #[test]
    fn what_is_forgotten_leaves_its_room_and_no_trace() {
        let cache = InlineCache::new(10);
        let (group, other) = (GroupId::new(3), GroupId::new(4));
        cache.put(other, LogIndex::new(1), Bytes::from_static(&[0; 4]));
        for index in 1..=1000 {
            cache.put(group, LogIndex::new(index), Bytes::from_static(&[0; 4]));
            cache.forget(group, LogIndex::new(index));
        }
        assert_eq!(cache.bytes(), 4);
        assert!(cache.get(other, LogIndex::new(1)).is_some() && cache.get(group, LogIndex::new(1000)).is_none());
        assert!(cache.order.borrow().len() <= FORGOTTEN_ALLOWED + 3);
    }
}
