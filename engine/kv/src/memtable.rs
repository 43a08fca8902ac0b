//! What was applied and not yet written to tables.

use crate::Value;
use cfs_types::Timestamp;
use smallvec::SmallVec;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;
use std::rc::Rc;

/// Rough cost of a key and a version beyond their bytes.
const ROW_OVERHEAD_BYTES: usize = 96;

/// A key, in the node itself where it is as short as most are: a search then compares without
/// following a pointer a step.
pub(crate) type Key = SmallVec<[u8; 40]>;

/// Versions of one key, newest first; never empty. One is the rule.
#[derive(Default)]
pub(crate) struct Versions(SmallVec<[(Timestamp, Value); 1]>);

impl Versions {
    /// The version that a read at `at` sees.
    pub fn at(&self, at: Timestamp) -> Option<&(Timestamp, Value)> {
        self.0.iter().find(|(time, _)| *time <= at)
    }
    /// All of them, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &(Timestamp, Value)> {
        self.0.iter()
    }
}

/// How many versions, newest first, reads at or above `floor` see.
pub(crate) fn needed(times: impl Iterator<Item = Timestamp>, floor: Timestamp) -> usize {
    let mut count = 0;
    for time in times {
        count += 1;
        if time <= floor {
            break;
        }
    }
    count
}

/// Keys in order with their versions.
pub(crate) type KeyRange<'a> = Range<'a, Key, Versions>;

/// An ordered map in memory.
#[derive(Default)]
pub(crate) struct Memtable {
    rows: BTreeMap<Key, Versions>,
    bytes: usize,
    /// Bytes of all memtables that share it.
    total: Rc<Cell<usize>>,
}

fn cost(value: &Value) -> usize {
    value.as_ref().map_or(0, |v| v.len()) + ROW_OVERHEAD_BYTES
}

impl Memtable {
    /// An empty one whose bytes are added to `total` while it lives.
    pub fn counted(total: &Rc<Cell<usize>>) -> Self {
        Memtable { rows: BTreeMap::new(), bytes: 0, total: total.clone() }
    }
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    pub fn get(&self, key: &[u8], at: Timestamp) -> Option<&Value> {
        self.rows.get(key)?.at(at).map(|(_, value)| value)
    }
    /// Adds a version, replaces one of the same time, and drops what reads at or above `floor`
    /// no longer see.
    pub fn insert(&mut self, key: &[u8], time: Timestamp, value: Value, floor: Timestamp) {
        let versions = &mut self.rows.entry(Key::from_slice(key)).or_default().0;
        let added = if versions.is_empty() { key.len() } else { 0 } + cost(&value);
        let mut gone = 0;
        let index = versions.partition_point(|(t, _)| *t > time);
        match versions.get_mut(index) {
            Some(old) if old.0 == time => gone += cost(&std::mem::replace(&mut old.1, value)),
            // Nobody sees the older ones any more: no place for another is needed.
            Some(old) if index == 0 && time <= floor => gone += cost(&std::mem::replace(old, (time, value)).1),
            _ => versions.insert(index, (time, value)),
        }
        let keep = needed(versions.iter().map(|(t, _)| *t), floor);
        gone += versions.drain(keep..).map(|(_, value)| cost(&value)).sum::<usize>();
        self.bytes = self.bytes + added - gone;
        self.total.set(self.total.get() + added - gone);
    }
    /// Keys from `from` (inclusive) to `to` (exclusive). Panics where `to` lies before `from`.
    pub fn range(&self, from: &[u8], to: &[u8]) -> KeyRange<'_> {
        assert!(from <= to, "the end of a range lies before its beginning");
        self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
    }
    /// Everything in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Versions)> {
        self.rows.iter().map(|(k, v)| (&**k, v))
    }
}

impl Drop for Memtable {
    fn drop(&mut self) {
        self.total.set(self.total.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(byte: u8) -> Value {
        Some([byte].as_slice().into())
    }

    #[test]
    fn versions_below_the_floor_are_dropped_but_the_one_it_sees() {
        let mut table = Memtable::default();
        let floor = Timestamp::new(4);
        for time in [1, 3, 5, 7] {
            let byte = u8::try_from(time).expect("small");
            table.insert(b"k", Timestamp::new(time), value(byte), floor);
        }
        let at = |time| table.get(b"k", Timestamp::new(time)).cloned().flatten().map(|v| v[0]);
        assert_eq!([at(2), at(4), at(5), at(6), at(9)], [None, Some(3), Some(5), Some(5), Some(7)]);
    }

    #[test]
    fn the_same_time_replaces_and_bytes_come_back() {
        let mut table = Memtable::default();
        for byte in 0..100 {
            table.insert(b"key", Timestamp::new(byte.into()), value(byte), Timestamp::MAX);
        }
        assert_eq!(table.bytes(), 3 + 1 + ROW_OVERHEAD_BYTES);
        table.insert(b"key", Timestamp::new(99), None, Timestamp::MAX);
        assert_eq!(table.bytes(), 3 + ROW_OVERHEAD_BYTES);
        assert_eq!(table.get(b"key", Timestamp::MAX), Some(&None));
    }
}
