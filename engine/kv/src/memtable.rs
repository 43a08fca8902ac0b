//! What was applied and not yet written to tables.

use crate::Value;
use cfs_types::Timestamp;
use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

/// Rough cost of a key and a version beyond their bytes.
const ROW_OVERHEAD_BYTES: usize = 96;

/// Versions of one key, newest first; never empty.
#[derive(Default)]
pub(crate) struct Versions(Vec<(Timestamp, Value)>);

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
pub(crate) type KeyRange<'a> = Range<'a, Box<[u8]>, Versions>;

/// An ordered map in memory.
#[derive(Default)]
pub(crate) struct Memtable {
    rows: BTreeMap<Box<[u8]>, Versions>,
    bytes: usize,
}

fn cost(value: &Value) -> usize {
    value.as_ref().map_or(0, |v| v.len()) + ROW_OVERHEAD_BYTES
}

impl Memtable {
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
    pub fn insert(&mut self, key: Box<[u8]>, time: Timestamp, value: Value, floor: Timestamp) {
        let key_bytes = key.len();
        let versions = &mut self.rows.entry(key).or_default().0;
        if versions.is_empty() {
            self.bytes += key_bytes;
        }
        self.bytes += cost(&value);
        let index = versions.partition_point(|(t, _)| *t > time);
        match versions.get_mut(index).filter(|(t, _)| *t == time) {
            Some(old) => self.bytes -= cost(&std::mem::replace(&mut old.1, value)),
            None => versions.insert(index, (time, value)),
        }
        let keep = needed(versions.iter().map(|(t, _)| *t), floor);
        self.bytes -= versions.drain(keep..).map(|(_, value)| cost(&value)).sum::<usize>();
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
            table.insert(b"k".as_slice().into(), Timestamp::new(time), value(byte), floor);
        }
        let at = |time| table.get(b"k", Timestamp::new(time)).cloned().flatten().map(|v| v[0]);
        assert_eq!([at(2), at(4), at(5), at(6), at(9)], [None, Some(3), Some(5), Some(5), Some(7)]);
    }

    #[test]
    fn the_same_time_replaces_and_bytes_come_back() {
        let mut table = Memtable::default();
        for byte in 0..100 {
            table.insert(b"key".as_slice().into(), Timestamp::new(byte.into()), value(byte), Timestamp::MAX);
        }
        assert_eq!(table.bytes(), 3 + 1 + ROW_OVERHEAD_BYTES);
        table.insert(b"key".as_slice().into(), Timestamp::new(99), None, Timestamp::MAX);
        assert_eq!(table.bytes(), 3 + ROW_OVERHEAD_BYTES);
        assert_eq!(table.get(b"key", Timestamp::MAX), Some(&None));
    }
}
