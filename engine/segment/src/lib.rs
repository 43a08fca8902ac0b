//! One core's space: regions, segments, cells.
//!
//! Purpose: hand out contiguous pieces of the device (*cells*) to owners, read them back with
//! proof that they are what was written, take them back, and name segments worth cleaning.
//!
//! Invariants
//! - A unit belongs to at most one live cell. A segment is handed out again only when no cell in
//!   it is live and no operation of this core is in flight on it.
//! - Nothing is durable before [`Space::sync`] has returned.
//! - The owner's record says where a cell lies; segment tables are a second witness for fsck and
//!   rebuild, never consulted on the request path.
//! - After a failed write or flush this space accepts no more writes until restart; whoever waits for
//!   that ([`Space::wait_failed`]) takes the device out of service.

mod book;
mod cell;
mod failure;
mod grants;
mod layout;
mod pending;
mod space;
mod table;

pub use book::{Floors, Purpose, Room, Usage};
pub use cell::{CellOwner, CellRef, checksum};
pub use cfs_seam::Lifetime;
pub use grants::{LocalRegions, RegionGrants};
pub use layout::{
    CELL_UNITS_MAX, Part, REGION_BYTES, REGION_UNITS, RegionLayout, SEGMENT_UNITS, SEGMENTS_PER_REGION, SegmentId,
    ZoneShape,
};
pub use space::{Leaving, Reservation, Space, SpaceConfig, SpaceError, Victim, Written};
pub use table::{RegionHeader, SegmentTable, TableEntry, TableError};

/// Bytes of one unit of allocation, reading and checksums.
pub const UNIT_BYTES: usize = 4096;
const _: () = assert!(UNIT_BYTES == cfs_seam::BLOCK_BYTES);
const _: () = assert!(UNIT_BYTES as u64 == cfs_types::UNIT_BYTES as u64);
