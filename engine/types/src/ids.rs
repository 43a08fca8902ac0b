//! Newtypes for every id, index and epoch.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        pub struct $name($inner);
        impl $name {
            /// Wraps a raw number; every value of the inner type is valid.
            pub const fn new(raw: $inner) -> Self { Self(raw) }
            /// The raw number, for encoding and display.
            pub const fn get(self) -> $inner { self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
        }
    };
}

macro_rules! successor {
    ($name:ident) => {
        impl $name {
            /// The next value. Panics at the end of the range, which no running system reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("64-bit counters do not run out"))
            }
        }
    };
}

number! { /** One of the 256 virtual shards. */ ShardId(u8) }
number! { /** A Raft group: 0 to 255 are the shards, 256 is the control group. */ GroupId(u16) }
number! { /** A core of one node, counted from 0. */ CoreId(u16) }
number! { /** Raft term. */ Term(u64) }
number! { /** Raft log index; the first entry is 1. */ LogIndex(u64) }
number! { /** Rises when a shard changes its owning core (ARCHITECTURE, Log). */ MoveEpoch(u32) }
number! { /** Version of the shard map that a client acted on. */ MapEpoch(u32) }
number! { /** A client session, issued by the control group, rising, never reused; 0 is none. */ SessionId(u64) }
number! { /** A session's running number of a mutation; 0 marks a request that needs no exactly-once. */ RequestNumber(u64) }
number! { /** A volume; 0 is the default one. */ VolumeId(u32) }
number! { /** A 64 MiB range of a file, counted from 0. */ RangeIndex(u32) }
successor!(Term);
successor!(LogIndex);
successor!(RequestNumber);
successor!(SessionId);

impl GroupId {
    /// The group that issues sessions and owns membership.
    pub const CONTROL: GroupId = GroupId(256);
    /// Groups of a one-node cluster: the shards and the control group.
    pub const COUNT: usize = 257;
    /// The shard this group replicates, if it is a shard's.
    pub fn shard(self) -> Option<ShardId> {
        u8::try_from(self.0).ok().map(ShardId)
    }
    /// Whether the number names a group that exists.
    pub fn is_valid(self) -> bool {
        usize::from(self.0) < Self::COUNT
    }
}

impl From<ShardId> for GroupId {
    fn from(shard: ShardId) -> Self {
        GroupId(u16::from(shard.0))
    }
}

impl ShardId {
    /// All 256 in order.
    pub fn all() -> impl Iterator<Item = ShardId> {
        (0..=u8::MAX).map(ShardId)
    }
}

/// An inode number: `0 | cell 11 | sequence 44 | shard 8` bits, never reused.
///
/// The root directory is number 1 (sequence 0, shard 1), which is also FUSE's root node id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct InodeId(u64);

impl TryFrom<u64> for InodeId {
    type Error = &'static str;
    fn try_from(raw: u64) -> Result<Self, Self::Error> {
        Self::from_raw(raw).ok_or("not an inode number")
    }
}
impl From<InodeId> for u64 {
    fn from(ino: InodeId) -> Self {
        ino.0
    }
}

impl InodeId {
    /// The root directory of a volume.
    pub const ROOT: InodeId = InodeId(1);
    /// Largest sequence of a shard.
    pub const SEQUENCE_MAX: u64 = (1 << 44) - 1;

    /// Builds a number in cell 0. None where the sequence is out of range or the number would be 0.
    pub fn new(sequence: u64, shard: ShardId) -> Option<Self> {
        (sequence <= Self::SEQUENCE_MAX).then_some(())?;
        Self::from_raw(sequence << 8 | u64::from(shard.get()))
    }
    /// Checks a number from outside: not 0, top bit clear.
    pub fn from_raw(raw: u64) -> Option<Self> {
        (raw != 0 && raw >> 63 == 0).then_some(InodeId(raw))
    }
    /// The number as the kernel and users see it.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// The shard that owns the inode.
    pub fn shard(self) -> ShardId {
        ShardId(self.0.to_le_bytes()[0])
    }
    /// The running number inside its shard.
    pub fn sequence(self) -> u64 {
        self.0 >> 8 & Self::SEQUENCE_MAX
    }
}

impl fmt::Debug for InodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode {}.{}", self.shard().get(), self.sequence())
    }
}
impl fmt::Display for InodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl RangeIndex {
    /// The shard that holds the extents of this range of a file: the inode's for range 0, a
    /// hashed one for the others.
    ///
    /// Part of the replicated format and of routing: FNV-1a of the little-endian inode number
    /// and range index, its high half folded into the low one, lowest byte.
    pub fn shard(self, ino: InodeId) -> ShardId {
        if self.0 == 0 {
            return ino.shard();
        }
        let bytes = ino.get().to_le_bytes().into_iter().chain(self.0.to_le_bytes());
        let hash = bytes
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let folded = hash ^ hash >> 32;
        ShardId((folded ^ folded >> 16).to_le_bytes()[0])
    }
}

/// An immutable piece of file data: `sequence 56 | shard 8` bits, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId(u64);

impl ChunkId {
    /// Largest sequence of a shard.
    pub const SEQUENCE_MAX: u64 = (1 << 56) - 1;
    /// None where the sequence does not fit 56 bits.
    pub fn new(sequence: u64, shard: ShardId) -> Option<Self> {
        (sequence <= Self::SEQUENCE_MAX).then(|| ChunkId(sequence << 8 | u64::from(shard.get())))
    }
    /// Any 64-bit number is a chunk id in form.
    pub const fn from_raw(raw: u64) -> Self {
        ChunkId(raw)
    }
    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// The shard that wrote it.
    pub fn shard(self) -> ShardId {
        ShardId(self.0.to_le_bytes()[0])
    }
    /// The running number inside its shard.
    pub fn sequence(self) -> u64 {
        self.0 >> 8
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {}.{}", self.shard().get(), self.sequence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_number_one_in_shard_one() {
        assert_eq!(InodeId::new(0, ShardId::new(1)), Some(InodeId::ROOT));
        assert_eq!(InodeId::ROOT.shard(), ShardId::new(1));
    }

    #[test]
    fn zero_and_the_top_bit_are_refused() {
        assert_eq!(InodeId::from_raw(0), None);
        assert_eq!(InodeId::from_raw(1 << 63), None);
        assert_eq!(InodeId::new(0, ShardId::new(0)), None);
    }
}
