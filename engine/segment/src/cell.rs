//! Cells: where they lie, whom they belong to, how long they are expected to live.

use cfs_types::{ChunkId, GroupId};
use crc_fast::{CrcAlgorithm, Digest};
use std::fmt;

/// A contiguous piece of the device: 1 to 512 units inside one segment.
///
/// Any 64-bit number is a cell in form; whether it lies inside a segment is checked by
/// [`crate::RegionLayout::locate`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellRef(u64);

impl CellRef {
    /// None unless `units` is 1 to 512 and `unit` below 2^55.
    pub fn new(unit: u64, units: u32) -> Option<Self> {
        let fits = (1..=crate::CELL_UNITS_MAX).contains(&units) && unit < 1 << 55;
        fits.then(|| CellRef(unit << 9 | u64::from(units - 1)))
    }
    /// The packed form: first unit in the upper 55 bits, units - 1 in the lower 9.
    pub const fn to_raw(self) -> u64 {
        self.0
    }
    /// Unpacks [`CellRef::to_raw`].
    pub const fn from_raw(raw: u64) -> Self {
        CellRef(raw)
    }
    /// First unit, counted from the start of the device.
    pub const fn unit(self) -> u64 {
        self.0 >> 9
    }
    /// Length in units, 1 to 512.
    pub fn units(self) -> u32 {
        u32::try_from(self.0 & 0x1ff).expect("nine bits") + 1
    }
    /// Byte offset on the device; the highest number where it is beyond that, where no segment is.
    pub fn offset(self) -> u64 {
        self.unit().saturating_mul(crate::UNIT_BYTES as u64)
    }
}

impl fmt::Debug for CellRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cell {}+{}", self.unit(), self.units())
    }
}

/// Who has a cell. Names are never reused, so a cell read under the wrong name fails its checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CellOwner {
    /// A chunk of file data.
    Chunk(ChunkId),
    /// A sorted table of a group's store.
    Table {
        /// The group.
        group: GroupId,
        /// The table's number in that group's store.
        table: u64,
    },
}

impl CellOwner {
    /// The form on disk and in checksum seeds: kind u16, group u16, zero u32, number u64.
    pub(crate) fn encode(self) -> [u8; 16] {
        let (kind, group, number) = match self {
            CellOwner::Chunk(chunk) => (1u16, 0, chunk.get()),
            CellOwner::Table { group, table } => (2, group.get(), table),
        };
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&group.to_le_bytes());
        bytes[8..].copy_from_slice(&number.to_le_bytes());
        bytes
    }
    /// None where the bytes are no owner.
    pub(crate) fn decode(bytes: &[u8; 16]) -> Option<Self> {
        let (kind, rest) = bytes.split_first_chunk::<2>()?;
        let (group, rest) = rest.split_first_chunk::<2>()?;
        let (zero, number) = rest.split_first_chunk::<4>()?;
        let number = u64::from_le_bytes(number.try_into().ok()?);
        let group = GroupId::new(u16::from_le_bytes(*group));
        let owner = match u16::from_le_bytes(*kind) {
            1 if group.get() == 0 => CellOwner::Chunk(ChunkId::from_raw(number)),
            2 if group.is_valid() => CellOwner::Table { group, table: number },
            _ => return None,
        };
        (*zero == [0; 4]).then_some(owner)
    }
}

impl fmt::Display for CellOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CellOwner::Chunk(chunk) => write!(f, "{chunk:?}"),
            CellOwner::Table { group, table } => write!(f, "table {table} of group {group}"),
        }
    }
}

/// CRC32C of `bytes` seeded with owner and block number: the checksum of a 24-byte prefix
/// (owner 16 bytes, `block` u32, zero u32) followed by `bytes`. A block that was written for
/// another owner or another place of the same owner does not match.
pub fn checksum(owner: CellOwner, block: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut prefix = [0; 24];
    prefix[..16].copy_from_slice(&owner.encode());
    prefix[16..20].copy_from_slice(&block.to_le_bytes());
    digest.update(&prefix);
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("a 32-bit CRC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_round_trip_at_their_limits() {
        for (unit, units) in [(0, 1), (7, 512), ((1 << 55) - 1, 511)] {
            let cell = CellRef::new(unit, units).expect("in range");
            assert_eq!(CellRef::from_raw(cell.to_raw()), cell);
            assert_eq!((cell.unit(), cell.units()), (unit, units));
        }
        assert_eq!(CellRef::new(0, 0), None);
        assert_eq!(CellRef::new(0, 513), None);
        assert_eq!(CellRef::new(1 << 55, 1), None);
    }

    #[test]
    fn owners_round_trip_and_others_are_refused() {
        let table = CellOwner::Table { group: GroupId::new(256), table: 9 };
        for owner in [CellOwner::Chunk(ChunkId::from_raw(77)), table] {
            assert_eq!(CellOwner::decode(&owner.encode()), Some(owner));
        }
        let mut bytes = table.encode();
        bytes[5] = 1;
        assert_eq!(CellOwner::decode(&bytes), None);
        assert_eq!(CellOwner::decode(&[0; 16]), None);
    }

    #[test]
    fn a_checksum_tells_owner_and_place() {
        let a = CellOwner::Chunk(ChunkId::from_raw(1));
        let b = CellOwner::Chunk(ChunkId::from_raw(2));
        let bytes = [5; 4096];
        assert_ne!(checksum(a, 0, &bytes), checksum(b, 0, &bytes));
        assert_ne!(checksum(a, 0, &bytes), checksum(a, 1, &bytes));
    }
}
