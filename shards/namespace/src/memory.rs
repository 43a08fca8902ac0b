//! A store in memory: what tests and the simulator execute against.

use crate::view::{Key, NeedMore, Rows, Value, View, Writes};
use std::collections::BTreeMap;

/// A shard's state as an ordered map.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Memory {
    rows: BTreeMap<Key, Value>,
}

impl Memory {
    /// Applies the writes of an executed command.
    pub fn apply(&mut self, writes: Writes) {
        for (key, value) in writes {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }
    /// All rows in key order.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.rows.iter().map(|(k, v)| (&**k, &**v))
    }
}

impl View for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, NeedMore> {
        Ok(self.rows.get(key).cloned())
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, NeedMore> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = (std::ops::Bound::Included(from), std::ops::Bound::Excluded(to));
        let rows = self.rows.range::<[u8], _>(range).take(limit);
        Ok(rows.map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}
