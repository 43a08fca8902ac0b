//! Blocks and table indexes of all stores of a core in memory, and units of its chunks: one budget.
//!
//! S3-FIFO (Yang et al., SOSP 2023): a small queue that most one-time visitors do not survive, a
//! main queue with second chances, and a list of what left the small queue lately. A scan passes
//! through the small queue and leaves the main one alone.
//!
//! Invariants: what somebody holds is never evicted, so a fetched block is there as long as its
//! pin; otherwise the budget is kept.

use crate::block::Block;
use crate::table::Meta;
use cfs_seam::{Io, IoBuf, Promise};
use cfs_types::UNIT_BYTES;
use std::cell::RefCell;
#[expect(clippy::disallowed_types, reason = "see `Map`")]
use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

/// Store (see [`BlockCache::register`]), table, first unit.
pub(crate) type CacheKey = (u32, u64, u32);

/// Something cached; clones share it.
#[derive(Clone)]
pub(crate) enum Object {
    Block(Rc<Block>),
    Meta(Rc<Meta>),
    Unit(Rc<[u8]>),
}

impl Object {
    fn memory_bytes(&self) -> usize {
        ENTRY_OVERHEAD_BYTES
            + match self {
                Object::Block(block) => block.memory_bytes(),
                Object::Meta(meta) => meta.memory_bytes(),
                Object::Unit(unit) => unit.len(),
            }
    }
    fn is_held(&self) -> bool {
        match self {
            Object::Block(block) => Rc::strong_count(block) > 1,
            Object::Meta(meta) => Rc::strong_count(meta) > 1,
            Object::Unit(unit) => Rc::strong_count(unit) > 1,
        }
    }
}

/// Map and queue entries, about.
const ENTRY_OVERHEAD_BYTES: usize = 96;
/// The small queue's share of the budget: a tenth.
const SMALL_SHARE: usize = 10;
const USES_MAX: u8 = 3;

/// Mixes the three integers of a key; the same in every run.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[expect(clippy::disallowed_types, reason = "hashes the same way every time, and is never iterated")]
type Map<V> = HashMap<CacheKey, V, BuildHasherDefault<KeyHasher>>;

struct Entry {
    object: Object,
    uses: u8,
}

struct Inner {
    budget: usize,
    bytes: usize,
    small_bytes: usize,
    map: Map<Entry>,
    small: VecDeque<CacheKey>,
    main: VecDeque<CacheKey>,
    /// Keys that left the small queue unused, oldest first, and how often each is in the list.
    ghosts: VecDeque<CacheKey>,
    ghost_count: Map<u32>,
    /// What is being read from the device, and who else waits for it.
    loading: Map<Vec<Promise<()>>>,
    stores: u32,
    hits: u64,
    misses: u64,
    unit_hits: u64,
    unit_misses: u64,
}

/// A read from the device that others wait for; over when dropped.
pub(crate) struct Loading {
    cache: BlockCache,
    key: CacheKey,
}

impl Drop for Loading {
    fn drop(&mut self) {
        let waiting = self.cache.0.borrow_mut().loading.remove(&self.key);
        waiting.into_iter().flatten().for_each(|promise| promise.complete(()));
    }
}

/// A cache of one core; clones are handles to the same one.
#[derive(Clone)]
pub struct BlockCache(Rc<RefCell<Inner>>);

impl BlockCache {
    /// A cache that keeps to about `budget` bytes, apart from what is being used just now.
    pub fn new(budget: usize) -> Self {
        BlockCache(Rc::new(RefCell::new(Inner {
            budget,
            bytes: 0,
            small_bytes: 0,
            map: Map::default(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_count: Map::default(),
            loading: Map::default(),
            stores: 0,
            hits: 0,
            misses: 0,
            unit_hits: 0,
            unit_misses: 0,
        })))
    }
    /// A name for one opening of a store: what another opening of the same group left behind,
    /// perhaps of tables that were never installed, is not found under it.
    pub(crate) fn register(&self) -> u32 {
        let mut inner = self.0.borrow_mut();
        inner.stores += 1;
        inner.stores
    }
    /// Memory it takes, about.
    pub fn memory_bytes(&self) -> usize {
        self.0.borrow().bytes
    }
    /// Lookups that found something, and those that did not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let inner = self.0.borrow();
        (inner.hits, inner.misses)
    }
    /// The same for [`UnitCache::read`].
    pub fn unit_hits_and_misses(&self) -> (u64, u64) {
        let inner = self.0.borrow();
        (inner.unit_hits, inner.unit_misses)
    }
    /// A view of this cache for units of 4 KiB of what is written once under a number and never changes.
    pub fn units(&self) -> UnitCache {
        UnitCache { name: self.register(), cache: self.clone() }
    }
    /// Looks an object up as part of loading what a read lacks: that read will count.
    pub(crate) fn peek(&self, key: CacheKey) -> Option<Object> {
        self.0.borrow().map.get(&key).map(|entry| entry.object.clone())
    }
    /// Looks an object up for a read.
    pub(crate) fn get(&self, key: CacheKey) -> Option<Object> {
        let inner = &mut *self.0.borrow_mut();
        let Some(entry) = inner.map.get_mut(&key) else {
            inner.misses += 1;
            return None;
        };
        inner.hits += 1;
        entry.uses = (entry.uses + 1).min(USES_MAX);
        Some(entry.object.clone())
    }
    /// Announces that an object is being read; or, where somebody reads it already, resolves when
    /// that is over.
    pub(crate) fn begin_loading(&self, key: CacheKey) -> Result<Loading, Io<()>> {
        let mut inner = self.0.borrow_mut();
        if let Some(waiting) = inner.loading.get_mut(&key) {
            let (promise, over) = cfs_seam::io();
            waiting.push(promise);
            return Err(over);
        }
        inner.loading.insert(key, Vec::new());
        drop(inner);
        Ok(Loading { cache: self.clone(), key })
    }
    /// Adds an object; one that is there already stays.
    pub(crate) fn insert(&self, key: CacheKey, object: &Object) {
        self.0.borrow_mut().insert(key, 0, || object.clone());
    }
}

/// Verified units of 4 KiB of a core's chunks. A chunk is immutable and its number never used again, so what is here is
/// right as long as anybody asks for it.
#[derive(Clone)]
pub struct UnitCache {
    cache: BlockCache,
    name: u32,
}

impl UnitCache {
    /// `len` bytes of `chunk` from unit `first` on, if all their units are here; at least one byte.
    pub fn read(&self, chunk: u64, first: u32, len: usize) -> Option<IoBuf> {
        let inner = &mut *self.cache.0.borrow_mut();
        let mut read: Option<IoBuf> = None;
        for (unit, at) in (first..).zip((0..len).step_by(UNIT_BYTES as usize)) {
            let entry = inner.map.get_mut(&(self.name, chunk, unit));
            let Some(Entry { object: Object::Unit(bytes), uses }) = entry else {
                inner.unit_misses += 1;
                return None;
            };
            *uses = (*uses + 1).min(USES_MAX);
            let end = len.min(at + bytes.len());
            read.get_or_insert_with(|| IoBuf::stale(len))[at..end].copy_from_slice(&bytes[..end - at]);
        }
        inner.unit_hits += 1;
        read
    }
    /// Keeps units of `chunk` from `first` on, as they were read and verified. Multiples of 4 KiB.
    pub fn insert(&self, chunk: u64, first: u32, bytes: &[u8]) {
        let inner = &mut *self.cache.0.borrow_mut();
        for (unit, bytes) in (first..).zip(bytes.chunks_exact(UNIT_BYTES as usize)) {
            // The read that brought it counts as its first use, as that of a block does.
            inner.insert((self.name, chunk, unit), 1, || Object::Unit(Rc::from(bytes)));
        }
    }
}

impl Inner {
    /// Adds an object that was used so often; one that is there already stays.
    fn insert(&mut self, key: CacheKey, uses: u8, object: impl FnOnce() -> Object) {
        if self.map.contains_key(&key) {
            return;
        }
        let object = object();
        let bytes = object.memory_bytes();
        self.bytes += bytes;
        if self.ghost_count.contains_key(&key) {
            self.main.push_back(key);
        } else {
            self.small.push_back(key);
            self.small_bytes += bytes;
        }
        self.map.insert(key, Entry { object, uses });
        self.shrink();
    }
    fn shrink(&mut self) {
        // Everything may be held: give up after each entry had all its chances.
        let mut tries = (self.small.len() + self.main.len()) * (usize::from(USES_MAX) + 2);
        while self.bytes > self.budget && tries > 0 {
            tries -= 1;
            if self.small_bytes > self.budget / SMALL_SHARE || self.main.is_empty() {
                self.shrink_small();
            } else {
                self.shrink_main();
            }
        }
    }
    fn shrink_small(&mut self) {
        let Some(key) = self.small.pop_front() else { return };
        let entry = self.map.get_mut(&key).expect("queued keys are mapped");
        let bytes = entry.object.memory_bytes();
        self.small_bytes -= bytes;
        // The first use is the read that had it loaded.
        if entry.uses > 1 || entry.object.is_held() {
            entry.uses = 0;
            self.main.push_back(key);
            return;
        }
        self.map.remove(&key);
        self.bytes -= bytes;
        self.ghosts.push_back(key);
        *self.ghost_count.entry(key).or_insert(0) += 1;
        while self.ghosts.len() > self.map.len().max(16) {
            self.forget_ghost();
        }
    }
    fn forget_ghost(&mut self) {
        let Some(key) = self.ghosts.pop_front() else { return };
        let count = self.ghost_count.get_mut(&key).expect("listed ghosts are counted");
        *count -= 1;
        if *count == 0 {
            self.ghost_count.remove(&key);
        }
    }
    fn shrink_main(&mut self) {
        let Some(key) = self.main.pop_front() else { return };
        let entry = self.map.get_mut(&key).expect("queued keys are mapped");
        if entry.uses > 0 || entry.object.is_held() {
            entry.uses = entry.uses.saturating_sub(1);
            self.main.push_back(key);
            return;
        }
        self.bytes -= entry.object.memory_bytes();
        self.map.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockBuilder;
    use cfs_segment::CellOwner;
    use cfs_types::GroupId;

    fn block() -> Object {
        let owner = CellOwner::Table { group: GroupId::new(0), table: 0 };
        let (mut builder, mut out) = (BlockBuilder::default(), Vec::new());
        builder.push(b"k", 0, None);
        builder.finish(owner, 0, &mut out);
        Object::Block(Rc::new(Block::decode(owner, 0, &out).expect("sound")))
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_used() {
        let cache = BlockCache::new(100 * 4400);
        for unit in 0..20 {
            cache.insert((0, 1, unit), &block());
        }
        for table in 2..50 {
            for unit in 0..20 {
                assert!(cache.get((0, 1, unit)).is_some(), "table {table} pushed out unit {unit}");
                cache.insert((0, table, unit), &block());
                assert!(cache.get((0, table, unit)).is_some());
            }
        }
        assert!(cache.memory_bytes() <= 100 * 4400);
    }

    #[test]
    fn held_objects_stay_and_the_budget_returns() {
        let cache = BlockCache::new(10 * 4400);
        let held: Vec<Object> = (0..40).map(|_| block()).collect();
        (0u32..).zip(&held).for_each(|(unit, object)| cache.insert((0, 1, unit), object));
        assert!((0..40).all(|unit| cache.get((0, 1, unit)).is_some()));
        drop(held);
        (0..40).for_each(|unit| cache.insert((0, 2, unit), &block()));
        assert!(cache.memory_bytes() <= 10 * 4400);
    }
}
