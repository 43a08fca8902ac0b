//! What the state machine reads: a view of the shard's store, and an overlay of writes on it.

use std::collections::BTreeMap;
use std::rc::Rc;

/// A stored value.
pub type Value = Rc<[u8]>;
/// A stored key.
pub type Key = Box<[u8]>;
/// Keys with their values, in key order.
pub type Rows = Vec<(Key, Value)>;
/// Writes in key order; None deletes.
pub type Writes = Vec<(Key, Option<Value>)>;

/// The shard's ordered state as of the entry before this one. Answers from memory.
pub trait View {
    /// The value of a key; `Ok(None)` is proven absence.
    fn get(&self, key: &[u8]) -> Result<Option<Value>, NeedMore>;
    /// The first `limit` rows with `from <= key < to`.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, NeedMore>;
}

/// What the view does not hold in memory: the driver prefetches it and calls again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NeedMore {
    /// One key.
    Key(Key),
    /// Several keys.
    Keys(Vec<Key>),
    /// The first `limit` rows with `from <= key < to`.
    Range {
        /// First key.
        from: Key,
        /// One past the last key.
        to: Key,
        /// Rows wanted.
        limit: usize,
    },
}

/// A view with writes laid over it, so that the commands of one entry see each other.
pub struct Overlay<'a> {
    base: &'a dyn View,
    writes: BTreeMap<Key, Option<Value>>,
}

impl<'a> Overlay<'a> {
    /// An overlay without writes.
    pub fn new(base: &'a dyn View) -> Self {
        Overlay { base, writes: BTreeMap::new() }
    }
    /// Writes a value, or deletes the key.
    pub fn write(&mut self, key: Key, value: Option<Value>) {
        self.writes.insert(key, value);
    }
    /// Lays further writes over the present ones.
    pub fn apply(&mut self, writes: Writes) {
        self.writes.extend(writes);
    }
    /// Forgets all writes.
    pub fn clear(&mut self) {
        self.writes.clear();
    }
    /// All writes, in key order.
    pub fn into_writes(self) -> Writes {
        self.writes.into_iter().collect()
    }
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, NeedMore> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, NeedMore> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let range = (std::ops::Bound::Included(from), std::ops::Bound::Excluded(to));
        let deleted = self.writes.range::<[u8], _>(range).filter(|(_, v)| v.is_none()).count();
        let wanted = limit.saturating_add(deleted);
        let mut rows: BTreeMap<Key, Value> = self.base.scan(from, to, wanted)?.into_iter().collect();
        // Past the last row of a full answer the base is unknown: only writes before it count.
        let known = if rows.len() == wanted { rows.keys().next_back().cloned() } else { None };
        for (key, value) in self.writes.range::<[u8], _>(range) {
            if known.as_ref().is_some_and(|last| key > last) {
                break;
            }
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().take(limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;

    fn keys(rows: Rows) -> Vec<u8> {
        rows.into_iter().map(|(k, _)| k[0]).collect()
    }

    #[test]
    fn a_scan_merges_writes_and_skips_deleted_keys() {
        let mut base = Memory::default();
        base.apply((0..10u8).map(|k| ([k].into(), Some([k].into()))).collect());
        let mut overlay = Overlay::new(&base);
        overlay.write([2].into(), None);
        overlay.write([3].into(), None);
        overlay.write([20].into(), Some([1].into()));
        assert_eq!(keys(overlay.scan(&[1], &[30], 3).expect("in memory")), [1, 4, 5]);
        assert_eq!(keys(overlay.scan(&[8], &[30], 9).expect("in memory")), [8, 9, 20]);
        assert_eq!(keys(overlay.scan(&[9], &[9], 9).expect("in memory")), [0u8; 0]);
        assert_eq!(overlay.get(&[2]).expect("in memory"), None);
    }
}
