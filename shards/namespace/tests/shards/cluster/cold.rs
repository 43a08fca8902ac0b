//! A view that knows nothing but what was prefetched, as a store larger than memory.

use cfs_namespace::memory::Memory;
use cfs_namespace::{Key, NeedMore, Rows, Value, View};
use std::collections::BTreeSet;

/// Prefetches one execution may ask for.
const ROUNDS_MAX: usize = 64;

pub struct Cold<'a> {
    store: &'a Memory,
    keys: BTreeSet<Key>,
    ranges: BTreeSet<(Key, Key, usize)>,
}

impl<'a> Cold<'a> {
    pub fn new(store: &'a Memory) -> Self {
        Cold { store, keys: BTreeSet::new(), ranges: BTreeSet::new() }
    }

    /// Calls again with what was asked for, until nothing is.
    pub fn until_warm<T>(&mut self, run: impl Fn(&dyn View) -> Result<T, NeedMore>) -> T {
        for _ in 0..ROUNDS_MAX {
            match run(self) {
                Ok(done) => return done,
                Err(NeedMore::Key(key)) => assert!(self.keys.insert(key), "asked for twice"),
                Err(NeedMore::Keys(keys)) => self.keys.extend(keys),
                Err(NeedMore::Range { from, to, limit }) => {
                    assert!(self.ranges.insert((from, to, limit)), "asked for twice");
                }
            }
        }
        panic!("asks for more and more");
    }
}

impl View for Cold<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, NeedMore> {
        if self.keys.contains(key) {
            return self.store.get(key);
        }
        Err(NeedMore::Key(key.into()))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, NeedMore> {
        let range = (from.into(), to.into(), limit);
        if self.ranges.contains(&range) {
            return self.store.scan(from, to, limit);
        }
        let (from, to, limit) = range;
        Err(NeedMore::Range { from, to, limit })
    }
}
