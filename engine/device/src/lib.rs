//! Superblock, layout and anchors of a device.
//!
//! Purpose: what every other part of the engine must know before it may touch a device: whose it
//! is, where its areas lie, and a place for small records that are replaced atomically.
//!
//! Invariants: nothing is written to a device whose superblock was refused; a superblock and an
//! anchor are believed only with a valid checksum; sizes and offsets are derived once, in
//! [`Layout`], and checked again on every open. The bytes are tabulated in
//! `docs/formats/device.md`.

mod anchor;
mod error;
mod format;
mod layout;
mod members;
mod pool;
mod pool_disk;
mod roles;
mod superblock;
mod transfer;
mod zoned;

pub use anchor::{ANCHOR_BYTES_MAX, AnchorId, AnchorState, Anchors, CopyState};
pub use error::DeviceError;
pub use format::{FormatOptions, format};
use layout::GENERATIONS;
pub use layout::{
    ANCHOR_COPY_BYTES, ANCHOR_ENTRIES, ANCHORS_AT, DEVICE_BYTES_MIN, LOG_AT, LOG_SLOT_BYTES, LOG_SLOT_BYTES_MIN,
    Layout, REGION_BYTES, STREAMS_MAX,
};
pub use members::{Member, MemberList, MemberState};
pub use pool::{
    Joined, Joining, Pool, PoolError, admit_member, check_member, path_of, prepare_member, read_list, recover_list,
    write_list,
};
pub use pool_disk::PoolDisk;
pub use roles::Roles;
pub use superblock::{
    FORMAT_VERSION, MemberPlace, Mended, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES_AT, Superblock, SuperblockCopy, Uuid,
    inspect, mark_failed, mark_left, newest, open, recover, return_to_service,
};
pub use transfer::{crc32c, flush, read_at, write_at};
pub use zoned::{JOURNALS, ZONED_HEAD_BYTES, open_zones};
