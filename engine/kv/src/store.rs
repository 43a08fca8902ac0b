//! The store: what is in memory, what is in tables, and how one becomes the other.

mod change;
mod compact;
mod fetch;
mod flush;
mod listing;
mod merge;
mod read;
mod replace;
mod version;

pub use change::Change;
pub use fetch::{Fetch, Pins};
pub use read::{DatedRow, DatedScan, Lookup, Rows, Scan};
pub use replace::Replacement;

use crate::cache::{BlockCache, CacheKey, Object};
use crate::list::LIST_TABLES_MAX;
use crate::manifest::{LEVELS, Manifest, ROOT_ENTRIES_MAX};
use crate::memtable::Memtable;
use crate::table::Table;
use crate::{KEY_BYTES_MAX, Stem, VALUE_BYTES_MAX, Value};
use cfs_segment::{Space, SpaceError};
use cfs_types::{GroupId, PlaceName, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use version::Version;

/// Level 0 is merged into level 1 when it has so many tables.
const LEVEL0_TABLES: usize = 4;
/// Flushing should wait for compaction from so many tables in level 0 on.
const LEVEL0_TABLES_STALL: usize = 12;

/// Size that level 1 should have, units (16 MiB).
const LEVEL1_UNITS: u64 = 4096;

/// Settings of one store.
#[derive(Clone)]
pub struct StoreConfig {
    /// The memtable asks to be flushed from this size on, bytes.
    pub memtable_bytes: usize,
    /// Blocks in memory, shared by the stores of a core.
    pub cache: BlockCache,
    /// Rises with every start of the server, so that table numbers used before a crash that no
    /// manifest names are not used again.
    pub start: u32,
    /// Size that level 1 should have, units of 4 KiB; each deeper level is eight times larger.
    pub level1_units: u64,
    /// Tables that the anchor names itself, at most [`ROOT_ENTRIES_MAX`]: where there are more, deep
    /// levels are named by lists in cells.
    pub root_tables: usize,
    /// Tables of one list, at most.
    pub list_tables: usize,
    /// Which keys are looked for together. Another one than the tables were written with does not find what
    /// is there.
    pub stem: Stem,
    /// Bytes of the memtables of all stores with this configuration or a clone of it, about.
    pub memory: Rc<Cell<usize>>,
}

impl StoreConfig {
    /// The usual level sizes.
    pub fn new(memtable_bytes: usize, cache: BlockCache, start: u32, stem: Stem) -> Self {
        StoreConfig {
            memtable_bytes,
            cache,
            start,
            level1_units: LEVEL1_UNITS,
            root_tables: ROOT_ENTRIES_MAX,
            list_tables: LIST_TABLES_MAX,
            stem,
            memory: Rc::default(),
        }
    }
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KvError {
    /// Bytes on the device are not what was written. Retrying does not help.
    #[error("damage: table {table} of group {group} at {}", PlaceName(*offset))]
    Damaged {
        /// The group.
        group: GroupId,
        /// Number of the table.
        table: u64,
        /// Where, bytes from the start of the device.
        offset: u64,
    },
    /// The device or its space; see there whether a retry helps.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// Another change of the same kind is under way: try again when it is installed.
    #[error("another change of the store is under way")]
    Busy,
    /// The lists of tables would outgrow the group's anchor. With tables of the usual size that is
    /// 32 TiB of a group's metadata.
    #[error("the store has as many tables as it can have")]
    TooManyTables,
}

/// Sizes, for metrics and pacing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreStats {
    /// Tables of each level.
    pub level_tables: [usize; LEVELS],
    /// Units of 4 KiB of each level.
    pub level_units: [u64; LEVELS],
    /// Memtable and frozen memtable, bytes, about.
    pub memory_bytes: usize,
}

struct State {
    mem: Memtable,
    frozen: Option<Rc<Memtable>>,
    version: Rc<Version>,
    next_table_id: u64,
    floor: Option<Timestamp>,
    /// Tables that a change under way replaces.
    locked: BTreeSet<u64>,
    flushing: bool,
    next_change: u64,
    /// The change whose manifest is being made durable.
    committing: Option<u64>,
    /// Where each level's next compaction begins.
    cursors: [Box<[u8]>; LEVELS],
}

struct Inner {
    group: GroupId,
    space: Space,
    config: StoreConfig,
    /// This store's name in the cache.
    cached_as: u32,
    state: RefCell<State>,
    /// What a fetch's reads touch, to be pinned.
    touched: RefCell<Option<Vec<Object>>>,
}

impl Inner {
    fn cache_key(&self, table: &Table, unit: u32) -> CacheKey {
        (self.cached_as, table.id, unit)
    }
}

/// The ordered store of one group. Clones are handles to the same store.
///
/// # How a change becomes durable
/// [`Store::flush`], [`Store::compact_step`] and [`Store::relocate`] write cells, make them
/// durable and return a [`Change`]. The caller takes [`Store::propose`]'s root, makes it
/// durable in the group's anchor, and then calls [`Store::install`], which retires the cells
/// that are no longer named. A change that is dropped before it was proposed gives its
/// cells back; dropped after that, the cells stay taken until restart, since the root may
/// be durable.
#[derive(Clone)]
pub struct Store {
    inner: Rc<Inner>,
}

impl Store {
    /// Opens a store from its durable manifest, or an empty one. No I/O: tables are looked at on
    /// first use. Their cells have been claimed in `space` ([`Manifest::claims`]).
    pub fn open(group: GroupId, manifest: Option<Manifest>, space: Space, config: StoreConfig) -> Self {
        let manifest = manifest.unwrap_or_default();
        let state = State {
            mem: Memtable::counted(&config.memory),
            frozen: None,
            version: Rc::new(Version::of_manifest(&manifest)),
            next_table_id: manifest.next_table_id.max(u64::from(config.start) << 32),
            floor: None,
            locked: BTreeSet::new(),
            flushing: false,
            next_change: 0,
            committing: None,
            cursors: Default::default(),
        };
        let (state, touched) = (RefCell::new(state), RefCell::default());
        let cached_as = config.cache.register();
        Store { inner: Rc::new(Inner { group, space, config, cached_as, state, touched }) }
    }

    /// The group whose store this is.
    pub fn group(&self) -> GroupId {
        self.inner.group
    }

    /// Applies writes at `time`, atomically for readers. None deletes. `time` is not below the
    /// newest version of any of the keys; a version of the same time is replaced.
    /// Panics where a key is longer than 1 KiB or a value than 512 KiB.
    pub fn apply(&self, writes: Vec<(Box<[u8]>, Value)>, time: Timestamp) {
        let mut state = self.inner.state.borrow_mut();
        let floor = state.floor.unwrap_or(Timestamp::MAX);
        for (key, value) in writes {
            assert!(key.len() <= KEY_BYTES_MAX, "key of {} bytes", key.len());
            assert!(value.as_ref().is_none_or(|v| v.len() <= VALUE_BYTES_MAX), "value too long");
            state.mem.insert(&key, time, value, floor);
        }
    }

    /// Keeps what reads at or above `floor` see; None keeps only the newest version of a key.
    /// A floor below the time of writes that were applied without one comes too late for them.
    pub fn set_floor(&self, floor: Option<Timestamp>) {
        self.inner.state.borrow_mut().floor = floor;
    }

    /// Memory of the memtables, bytes, about.
    pub fn memory_bytes(&self) -> usize {
        let state = self.inner.state.borrow();
        state.mem.bytes() + state.frozen.as_ref().map_or(0, |f| f.bytes())
    }
    /// Whether the memtable has reached its budget.
    pub fn should_flush(&self) -> bool {
        self.inner.state.borrow().mem.bytes() >= self.inner.config.memtable_bytes
    }
    /// Whether some level is larger than it should be.
    pub fn should_compact(&self) -> bool {
        self.inner.state.borrow().pick_level(self.inner.config.level1_units).is_some()
    }
    /// Whether flushing should wait for compaction: reads would otherwise look at ever more
    /// tables.
    pub fn is_stalled(&self) -> bool {
        self.inner.state.borrow().version.levels[0].len() >= LEVEL0_TABLES_STALL
    }
    /// Whether nothing is in memory that is not in durable tables.
    pub fn is_clean(&self) -> bool {
        let state = self.inner.state.borrow();
        state.mem.is_empty() && state.frozen.is_none()
    }
    /// Sizes, for metrics and pacing.
    pub fn stats(&self) -> StoreStats {
        let memory_bytes = self.memory_bytes();
        let state = self.inner.state.borrow();
        let mut stats = StoreStats { memory_bytes, ..StoreStats::default() };
        for (index, level) in state.version.levels.iter().enumerate() {
            stats.level_tables[index] = level.len();
            stats.level_units[index] = Version::units(level);
        }
        stats
    }
    /// The manifest of what is installed now. Durable already, unless nothing was ever installed.
    pub fn manifest(&self) -> Manifest {
        let state = self.inner.state.borrow();
        state.version.manifest(state.next_table_id)
    }
}
