//! What can be wrong with a device.

use cfs_seam::DiskError;

/// Why a device was refused or an operation on it failed. Nothing was written where the variant
/// is a refusal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeviceError {
    /// Refusal: the device is blank wherever it was looked at. Formatting is safe if the target is meant.
    #[error("the device is blank: it has never been formatted")]
    Blank,
    /// Refusal: `format` was interrupted. Formatting it is safe.
    #[error("the device is only half formatted: format it again")]
    Unfinished,
    /// Refusal: both places of the superblock are blank, and the device is not.
    #[error(
        "both copies of the superblock are blank, but there is data at offset {offset}: they are lost, or the device belongs to something else"
    )]
    HeadLost {
        /// First byte in use that was met.
        offset: u64,
    },
    /// Refusal: the device holds something else.
    #[error("no CoreFS superblock at offsets 0 and 65536: the device belongs to something else")]
    Foreign,
    /// Refusal: a later CoreFS wrote it.
    #[error("the superblock has format version {found}, this program knows up to {known}")]
    NewerVersion {
        /// Version on the device.
        found: u32,
        /// Newest version that this program knows.
        known: u32,
    },
    /// Refusal: neither copy of the superblock is intact.
    #[error("both copies of the superblock, at offsets 0 and 65536, are damaged: {reason}")]
    SuperblockDamaged {
        /// What is wrong with the better copy.
        reason: &'static str,
    },
    /// Refusal: the superblock's layout contradicts itself or the device.
    #[error("the layout in the superblock is impossible: {reason}")]
    BadLayout {
        /// What contradicts what.
        reason: &'static str,
    },
    /// Refusal: the device was shortened after it was formatted.
    #[error("it has {actual} bytes, and {expected} by its superblock")]
    Shrunk {
        /// Bytes of the device now.
        actual: u64,
        /// Bytes in the superblock.
        expected: u64,
    },
    /// Refusal: it ends before the first superblock does, if there ever was one.
    #[error("it has {actual} bytes, which is not even a superblock")]
    NoRoom {
        /// Bytes of the device.
        actual: u64,
    },
    /// Refusal: too small to be of use.
    #[error("the device has {actual} bytes, at least {needed} are needed")]
    TooSmall {
        /// Bytes of the device.
        actual: u64,
        /// Bytes it needs.
        needed: u64,
    },
    /// Refusal: the device is made of zones that are of no use, or not in this way.
    #[error("the device is made of zones: {reason}")]
    Zones {
        /// What is wrong.
        reason: &'static str,
    },
    /// Refusal: a wish in the format options cannot be met.
    #[error("format option out of range: {reason}")]
    BadOption {
        /// Which and why.
        reason: &'static str,
    },
    /// Refusal: formatting would destroy something.
    #[error("the device is not empty (there is data at offset {offset})")]
    NotEmpty {
        /// First non-zero byte.
        offset: u64,
    },
    /// Refusal: an earlier write or flush failed; what the device holds is not known.
    #[error("the device was taken out of service after a failed write or flush")]
    OutOfService,
    /// Refusal: the device was one of a node and is none any more.
    #[error("the device was retired: it belongs to no store any more")]
    Left,
    /// Neither copy of an anchor is intact.
    #[error("anchor {entry} is damaged: copies at offsets {offset_a} and {offset_b}")]
    AnchorDamaged {
        /// Entry number.
        entry: u16,
        /// Device offset of copy A.
        offset_a: u64,
        /// Device offset of copy B.
        offset_b: u64,
    },
    /// Refusal: the list of the node's devices is not one that this program knows, or not one of this device.
    #[error("the list of the node's devices (anchor 257) is damaged")]
    MembersDamaged,
    /// The caller's record does not fit an anchor; nothing was written.
    #[error("a record of {bytes} bytes does not fit anchor {entry}")]
    AnchorTooLong {
        /// Entry number.
        entry: u16,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A read failed; a retry is safe.
    #[error("read of {bytes} bytes at offset {offset}: {source}")]
    Read {
        /// Device offset.
        offset: u64,
        /// Bytes asked for.
        bytes: usize,
        /// The device's answer.
        source: DiskError,
    },
    /// A write failed: never retry, the contents are unknown.
    #[error("write of {bytes} bytes at offset {offset}: {source}")]
    Write {
        /// Device offset.
        offset: u64,
        /// Bytes asked for.
        bytes: usize,
        /// The device's answer.
        source: DiskError,
    },
    /// A write or flush of what lies beside the log failed: never retry, the contents are unknown.
    #[error("write or flush of file data or tables: {source}")]
    Segments {
        /// The device's answer.
        source: DiskError,
    },
    /// A flush failed: never retry, the contents are unknown.
    #[error("flush: {source}")]
    Flush {
        /// The device's answer.
        source: DiskError,
    },
}
