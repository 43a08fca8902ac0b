//! The ordered store of one group: memtable, sorted tables in cells, leveled compaction.
//!
//! Purpose: keys in order, many versions by timestamp, reads that never block (what is not in
//! memory is a [`Fetch`] away), larger than memory.
//!
//! Invariants
//! - What a durable root names, itself or through lists, is complete on the device and stays until a later
//!   root that does not name it is durable. So a crash at any await loses nothing that was flushed,
//!   and what no root names is nobody's and thus free after a restart.
//! - Bytes that fail their checksum are never interpreted. What passed it is still walked once
//!   before use, so that no table can make the program panic.
//! - Newer sources hold newer versions of a key: memtable, frozen memtable, level 0 newest first,
//!   then level by level.

mod block;
mod cache;
mod filter;
#[cfg(test)]
mod golden;
mod list;
mod manifest;
mod memtable;
mod stem;
mod store;
mod table;
mod verify;

pub use cache::{BlockCache, UnitCache};
pub use list::List;
pub use manifest::{Manifest, ROOT_ENTRIES_MAX, Root, RootError, TableRef};
pub use stem::Stem;
pub use store::{
    Change, DatedRow, DatedScan, Fetch, KvError, Lookup, Pins, Replacement, Rows, Scan, Store, StoreConfig, StoreStats,
};
pub use verify::{TableCheck, verify_list, verify_table};

use std::rc::Rc;

/// A value, or None for a deleted key.
pub type Value = Option<Rc<[u8]>>;
/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value, bytes.
pub const VALUE_BYTES_MAX: usize = 512 << 10;
