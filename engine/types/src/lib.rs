//! Identifiers, epochs, timestamps and errors shared by every layer.
//!
//! Purpose: one meaning, one type. Every id is a newtype with checked construction, so that
//! an inode number cannot be passed where a chunk id is wanted.
//!
//! Invariants: no I/O, no clock, no randomness, no allocation beyond names.

mod attribute_name;
mod error;
mod ids;
mod latencies;
mod name;
mod place;
mod reader;
mod time;

pub use attribute_name::{check_attribute_asked, check_attribute_name};
pub use error::FsError;
pub use ids::{
    ChunkId, CoreId, GroupId, InodeId, LogIndex, MapEpoch, MoveEpoch, RangeIndex, RequestNumber, SessionId, ShardId,
    Term, VolumeId,
};
pub use latencies::{LATENCY_BUCKETS, Latencies};
pub use name::{NAME_BYTES_MAX, Name};
pub use place::{MEMBER_BYTES_MAX, MEMBERS_MAX, PlaceName, member_of, member_offset};
pub use reader::Reader;
pub use time::{Nanos, Timestamp};

/// Virtual shards of a cluster; an inode's shard is the low 8 bits of its number.
pub const SHARDS: usize = 256;
/// Bytes of one range of a large file: range 0 lives in the inode's shard, others are hashed.
pub const RANGE_BYTES: u64 = 64 << 20;
/// Longest contiguous immutable piece of file data, bytes.
pub const CHUNK_BYTES_MAX: u32 = 2 << 20;
/// Writes up to this many bytes ride in the log entry; longer ones become chunks first.
pub const INLINE_WRITE_BYTES_MAX: u32 = 64 << 10;
/// Largest file, 2^58 bytes: its last range still has a 32-bit index.
pub const FILE_BYTES_MAX: u64 = RANGE_BYTES << 32;
/// Unit of allocation and of checksums on a device, bytes.
pub const UNIT_BYTES: u32 = 4096;
