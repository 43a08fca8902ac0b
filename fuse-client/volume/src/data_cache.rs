//! File data read ahead, in blocks of 1 MiB, bounded.
//!
//! A block belongs to an *era*: one uninterrupted lease of its inode. Blocks of past eras are
//! never found again and age out. What is held back by writers is not in here: readers lay it
//! over.

use crate::signal::Signal;
use cfs_seam::IoBuf;
use cfs_types::InodeId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes of a block: as much as the kernel asks for at once.
pub(crate) const BLOCK_BYTES: u64 = 1 << 20;
/// What one counts in the cache, also where the file ends in it.
const COST: usize = 1 << 20;

/// Which block of which inode in which era.
pub(crate) type BlockKey = (InodeId, u64, u64);

struct Block {
    /// None while it is being fetched.
    bytes: Option<Rc<IoBuf>>,
    stamp: u64,
}

/// What the cache says of a block.
pub(crate) enum Cached {
    /// Its bytes; shorter than a block where the file's stored bytes end.
    Ready(Rc<IoBuf>),
    /// Wait for `DataCache::changed` and look again.
    Loading,
    Missing,
}

pub(crate) struct DataCache {
    blocks: RefCell<BTreeMap<BlockKey, Block>>,
    by_stamp: RefCell<BTreeMap<u64, BlockKey>>,
    stamp: Cell<u64>,
    blocks_max: usize,
    /// A fetch ended.
    pub changed: Signal,
}

impl DataCache {
    pub fn new(bytes_max: usize) -> Self {
        DataCache {
            blocks: RefCell::default(),
            by_stamp: RefCell::default(),
            stamp: Cell::new(0),
            blocks_max: bytes_max / COST,
            changed: Signal::default(),
        }
    }

    pub fn look(&self, key: BlockKey) -> Cached {
        match self.blocks.borrow().get(&key) {
            None => Cached::Missing,
            Some(Block { bytes: None, .. }) => Cached::Loading,
            Some(Block { bytes: Some(bytes), .. }) => Cached::Ready(bytes.clone()),
        }
    }

    /// Reserves a block for a fetch. False where it is there already or there is no room.
    pub fn begin(&self, key: BlockKey) -> bool {
        let mut blocks = self.blocks.borrow_mut();
        if blocks.contains_key(&key) {
            return false;
        }
        let mut by_stamp = self.by_stamp.borrow_mut();
        if blocks.len() >= self.blocks_max {
            // The oldest that is not being fetched.
            let ready = |key: &BlockKey| blocks.get(key).is_some_and(|block| block.bytes.is_some());
            let Some((stamp, oldest)) = by_stamp.iter().find(|(_, key)| ready(key)).map(|(s, k)| (*s, *k)) else {
                return false;
            };
            by_stamp.remove(&stamp);
            blocks.remove(&oldest);
        }
        self.stamp.set(self.stamp.get() + 1);
        blocks.insert(key, Block { bytes: None, stamp: self.stamp.get() });
        by_stamp.insert(self.stamp.get(), key);
        true
    }

    /// Ends a fetch; None where nothing may be kept.
    pub fn end(&self, key: BlockKey, bytes: Option<IoBuf>) {
        {
            let mut blocks = self.blocks.borrow_mut();
            match bytes {
                Some(bytes) => {
                    if let Some(block) = blocks.get_mut(&key) {
                        block.bytes = Some(Rc::new(bytes));
                    }
                }
                None => self.remove(&mut blocks, key),
            }
        }
        self.changed.notify();
    }

    fn remove(&self, blocks: &mut BTreeMap<BlockKey, Block>, key: BlockKey) {
        if let Some(block) = blocks.remove(&key) {
            self.by_stamp.borrow_mut().remove(&block.stamp);
        }
    }

    /// Forgets blocks of an inode that overlap the range; a fetch under way ends unkept.
    pub fn forget_range(&self, ino: InodeId, offset: u64, bytes: u64) {
        let (first, last) = (offset / BLOCK_BYTES, offset.saturating_add(bytes) / BLOCK_BYTES);
        let mut blocks = self.blocks.borrow_mut();
        let within = blocks.range((ino, 0, 0)..=(ino, u64::MAX, u64::MAX));
        let keys: Vec<_> = within.map(|(key, _)| *key).filter(|key| (first..=last).contains(&key.2)).collect();
        for key in keys {
            self.remove(&mut blocks, key);
        }
        drop(blocks);
        self.changed.notify();
    }

    /// Forgets all blocks of an inode.
    pub fn forget(&self, ino: InodeId) {
        self.forget_range(ino, 0, u64::MAX);
    }
}
