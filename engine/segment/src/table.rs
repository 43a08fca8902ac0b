//! Segment tables and region headers, byte for byte (docs/formats/segment.md).

use crate::layout::TABLE_UNITS;
use crate::{CellOwner, Lifetime, SEGMENT_UNITS, SegmentId, UNIT_BYTES};
use cfs_seam::IoBuf;
use cfs_types::Reader;
use crc_fast::crc32_iscsi;

const TABLE_MAGIC: [u8; 8] = *b"CFSSEGT1";
const REGION_MAGIC: [u8; 8] = *b"CFSREGN1";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 20;
/// Bytes of a table on the device.
pub(crate) const TABLE_BYTES: usize = TABLE_UNITS as usize * UNIT_BYTES;
const _: () = assert!(HEADER_BYTES + SEGMENT_UNITS as usize * (ENTRY_BYTES + 4) <= TABLE_BYTES);

/// A cell as its segment's table describes it: what was written, live or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableEntry {
    /// Whose it was.
    pub owner: CellOwner,
    /// First unit inside the segment.
    pub at: u32,
    /// [`crate::checksum`] of each unit; as many as the cell has units.
    pub checksums: Vec<u32>,
}

/// A sealed segment's table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentTable {
    /// The segment it describes.
    pub segment: SegmentId,
    /// Rises with each use of a segment.
    pub generation: u64,
    /// Class of its cells.
    pub class: Lifetime,
    /// In order of place, not overlapping.
    pub entries: Vec<TableEntry>,
}

/// Why a table or header cannot be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    /// Zeros or other bytes: the segment was never sealed, or its table was discarded.
    #[error("no table")]
    Absent,
    /// The magic is there, the rest does not add up.
    #[error("damaged table")]
    Damaged,
}

/// Tells a header that lost its magic from other bytes: with the magic its checksum holds.
fn without_magic(bytes: &[u8], magic: [u8; 8]) -> TableError {
    let Some(head) = bytes.get(..HEADER_BYTES) else { return TableError::Absent };
    let (covered, crc) = head.split_at(HEADER_BYTES - 4);
    let whole = [&magic, &covered[8..]].concat();
    if crc32_iscsi(&whole).to_le_bytes() == crc { TableError::Damaged } else { TableError::Absent }
}

impl SegmentTable {
    /// The 64 KiB on the device.
    pub fn encode(&self) -> IoBuf {
        let mut body = Vec::new();
        for entry in &self.entries {
            let units = u16::try_from(entry.checksums.len()).expect("at most 512 units");
            body.extend_from_slice(&entry.owner.encode());
            body.extend_from_slice(&u16::try_from(entry.at).expect("below 512").to_le_bytes());
            body.extend_from_slice(&units.to_le_bytes());
            entry.checksums.iter().for_each(|sum| body.extend_from_slice(&sum.to_le_bytes()));
        }
        let count = u16::try_from(self.entries.len()).expect("at most 512 cells");
        let mut head = Vec::with_capacity(HEADER_BYTES);
        head.extend_from_slice(&TABLE_MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&u16::try_from(self.class.index()).expect("below 5").to_le_bytes());
        head.extend_from_slice(&count.to_le_bytes());
        head.extend_from_slice(&[0; 2]);
        head.extend_from_slice(&self.segment.region().to_le_bytes());
        head.extend_from_slice(&self.segment.slot().to_le_bytes());
        head.extend_from_slice(&self.generation.to_le_bytes());
        head.extend_from_slice(&u32::try_from(body.len()).expect("below 64 KiB").to_le_bytes());
        head.extend_from_slice(&crc32_iscsi(&body).to_le_bytes());
        head.resize(HEADER_BYTES - 4, 0);
        head.extend_from_slice(&crc32_iscsi(&head).to_le_bytes());
        let mut buf = IoBuf::zeroed(TABLE_BYTES);
        buf[..HEADER_BYTES].copy_from_slice(&head);
        buf[HEADER_BYTES..HEADER_BYTES + body.len()].copy_from_slice(&body);
        buf
    }

    /// Verifies and decodes the table of `segment`.
    pub fn decode(bytes: &[u8], segment: SegmentId) -> Result<Self, TableError> {
        if bytes.get(..8) != Some(&TABLE_MAGIC) {
            return Err(without_magic(bytes, TABLE_MAGIC));
        }
        Self::decode_body(bytes, segment).ok_or(TableError::Damaged)
    }

    fn decode_body(bytes: &[u8], segment: SegmentId) -> Option<Self> {
        let head = bytes.get(..HEADER_BYTES)?;
        let (covered, crc) = head.split_at(HEADER_BYTES - 4);
        (crc32_iscsi(covered).to_le_bytes() == crc).then_some(())?;
        let mut reader = Reader::new(&covered[8..]);
        (reader.u16()? == VERSION).then_some(())?;
        let class = *Lifetime::ALL.get(usize::from(reader.u16()?)).filter(|class| **class != Lifetime::Log)?;
        let count = reader.u16()?;
        (reader.u16()? == 0).then_some(())?;
        ((reader.u32()?, reader.u32()?) == (segment.region(), segment.slot())).then_some(())?;
        let generation = reader.u64()?;
        let length = usize::try_from(reader.u32()?).ok()?;
        let crc = reader.u32()?;
        reader.rest().iter().all(|b| *b == 0).then_some(())?;
        let body = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(length)?)?;
        (crc32_iscsi(body) == crc).then_some(())?;
        bytes[HEADER_BYTES + length..].iter().all(|b| *b == 0).then_some(())?;
        let mut reader = Reader::new(body);
        let (mut entries, mut end) = (Vec::new(), 0);
        for _ in 0..count {
            let owner = CellOwner::decode(reader.bytes()?)?;
            let (at, units) = (u32::from(reader.u16()?), u32::from(reader.u16()?));
            (at >= end && units > 0 && at + units <= SEGMENT_UNITS).then_some(())?;
            end = at + units;
            let checksums = (0..units).map(|_| reader.u32()).collect::<Option<_>>()?;
            entries.push(TableEntry { owner, at, checksums });
        }
        reader.rest().is_empty().then_some(SegmentTable { segment, generation, class, entries })
    }
}

/// First block of a region: says which region it is and since when it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionHeader {
    /// Number of the region.
    pub region: u32,
    /// Generation of the segment that was opened first.
    pub generation: u64,
}

impl RegionHeader {
    /// One block on the device.
    pub fn encode(&self) -> IoBuf {
        let mut buf = IoBuf::zeroed(UNIT_BYTES);
        buf[..8].copy_from_slice(&REGION_MAGIC);
        buf[8..10].copy_from_slice(&VERSION.to_le_bytes());
        buf[12..16].copy_from_slice(&self.region.to_le_bytes());
        buf[16..24].copy_from_slice(&self.generation.to_le_bytes());
        let crc = crc32_iscsi(&buf[..HEADER_BYTES - 4]);
        buf[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        buf
    }
    /// Verifies and decodes the header of `region`.
    pub fn decode(bytes: &[u8], region: u32) -> Result<Self, TableError> {
        if bytes.get(..8) != Some(&REGION_MAGIC) {
            return Err(without_magic(bytes, REGION_MAGIC));
        }
        let mut reader = Reader::new(bytes.get(16..24).ok_or(TableError::Damaged)?);
        let header = RegionHeader { region, generation: reader.u64().ok_or(TableError::Damaged)? };
        let same = bytes.get(..UNIT_BYTES) == Some(&header.encode()[..]);
        same.then_some(header).ok_or(TableError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_types::{ChunkId, GroupId};

    fn sample() -> SegmentTable {
        let entries = vec![
            TableEntry { owner: CellOwner::Chunk(ChunkId::from_raw(0x0102)), at: 0, checksums: vec![0xa1, 0xa2] },
            TableEntry { owner: CellOwner::Table { group: GroupId::new(3), table: 9 }, at: 2, checksums: vec![0xb1] },
        ];
        SegmentTable { segment: SegmentId::new(5, 30), generation: 0x77, class: Lifetime::Cold, entries }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_table_is_these_bytes() {
        let buf = sample().encode();
        assert_eq!(buf.len(), 65536);
        let golden = include_str!("../tests/golden/segment-table.hex");
        assert_eq!(hex(&buf[..116]), golden.split_whitespace().collect::<String>());
        assert!(buf[116..].iter().all(|b| *b == 0));
        assert_eq!(SegmentTable::decode(&buf, SegmentId::new(5, 30)), Ok(sample()));
    }

    #[test]
    fn a_region_header_is_these_bytes() {
        let buf = RegionHeader { region: 7, generation: 0x99 }.encode();
        let golden = include_str!("../tests/golden/region-header.hex");
        assert_eq!(hex(&buf[..64]), golden.split_whitespace().collect::<String>());
        assert_eq!(RegionHeader::decode(&buf, 7), Ok(RegionHeader { region: 7, generation: 0x99 }));
        assert_eq!(RegionHeader::decode(&buf, 8), Err(TableError::Damaged));
    }

    #[test]
    fn a_flipped_byte_is_noticed() {
        let table = sample().encode();
        for at in (0..200).chain([4096, 65535]) {
            let mut bytes = table.to_vec();
            bytes[at] ^= 0x40;
            let refused = SegmentTable::decode(&bytes, SegmentId::new(5, 30));
            assert_eq!(refused, Err(TableError::Damaged), "byte {at}");
        }
        let zeros = vec![0; table.len()];
        assert_eq!(SegmentTable::decode(&zeros, SegmentId::new(5, 30)), Err(TableError::Absent));
        assert_eq!(SegmentTable::decode(&table, SegmentId::new(5, 29)), Err(TableError::Damaged));
        for length in [0, 7, 8, 63, 64, 100, 115] {
            assert!(SegmentTable::decode(&table[..length], SegmentId::new(5, 30)).is_err());
        }
    }

    #[test]
    fn a_full_table_fits() {
        let entries = (0..SEGMENT_UNITS)
            .map(|at| TableEntry { owner: CellOwner::Chunk(ChunkId::from_raw(at.into())), at, checksums: vec![at] })
            .collect();
        let table = SegmentTable { segment: SegmentId::new(0, 0), generation: 1, class: Lifetime::Hot, entries };
        assert_eq!(SegmentTable::decode(&table.encode(), table.segment), Ok(table));
    }
}
