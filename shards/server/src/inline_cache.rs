//! Bytes of recent small writes, so that they are served and packed without reading the log.
//!
//! Invariant: bounded; what is not here is in the core log.

use cfs_types::{GroupId, LogIndex};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A log entry.
type Entry = (GroupId, LogIndex);

/// Data areas of recent entries, first in, first out.
pub struct InlineCache {
    bytes_max: usize,
    bytes: Cell<usize>,
    areas: RefCell<BTreeMap<Entry, Rc<[u8]>>>,
    order: RefCell<VecDeque<Entry>>,
}

impl InlineCache {
    /// At most `bytes_max` bytes of data areas.
    pub fn new(bytes_max: usize) -> Self {
        InlineCache { bytes_max, bytes: Cell::new(0), areas: RefCell::default(), order: RefCell::default() }
    }

    /// Keeps an executed entry's data area.
    pub fn put(&self, group: GroupId, index: LogIndex, data: Rc<[u8]>) {
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

    /// An entry's data area, if it is still here.
    pub fn get(&self, group: GroupId, index: LogIndex) -> Option<Rc<[u8]>> {
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
            cache.put(group, LogIndex::new(index), Rc::from([0u8; 4].as_slice()));
        }
        assert_eq!(cache.bytes(), 8);
        assert!(cache.get(group, LogIndex::new(2)).is_none());
        assert!(cache.get(group, LogIndex::new(4)).is_some());
    }
}
