//! Sorted tables, byte for byte (docs/formats/kv-table.md).
//!
//! A table is one cell: data blocks, a meta section (index and filter), a footer in the last unit.

use crate::block::{BlockBuilder, compare};
use crate::{KEY_BYTES_MAX, Stem, filter};
use cfs_segment::{CELL_UNITS_MAX, CellOwner, CellRef, UNIT_BYTES, checksum};
use cfs_types::GroupId;
use std::cell::OnceCell;

const MAGIC: [u8; 8] = *b"CFSTABL1";
const VERSION: u16 = 2;
/// Its filters know whole keys only.
const VERSION_WITHOUT_STEMS: u16 = 1;
const FOOTER_HEAD_BYTES: usize = 64;
const META_HEAD_BYTES: usize = 16;
/// Of an index entry before its key: inverted time u64, first unit u16, units u16, key bytes u16.
const INDEX_ENTRY_BYTES: usize = 14;
const UNITS_MAX: usize = CELL_UNITS_MAX as usize;
const _: () = assert!(FOOTER_HEAD_BYTES + 2 * KEY_BYTES_MAX <= UNIT_BYTES);

/// A version's place in the order: key, then inverted time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub key: Box<[u8]>,
    pub inverted: u64,
}

/// First and last version of a table, and where its parts lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Footer {
    pub first: Position,
    pub last: Position,
    pub meta_unit: u32,
    pub entries: u64,
    /// The filter knows stems where keys have one.
    pub stems: bool,
}

/// A table of the current version of a store.
pub(crate) struct Table {
    pub id: u64,
    pub cell: CellRef,
    /// Loaded on first use, then kept.
    pub footer: OnceCell<Footer>,
}

impl Table {
    pub fn owner(&self, group: GroupId) -> CellOwner {
        CellOwner::Table { group, table: self.id }
    }
    /// Whether its filter knows stems. False while the footer is not loaded.
    pub fn has_stems(&self) -> bool {
        self.footer.get().is_some_and(|f| f.stems)
    }
    /// Whether its keys and the range of keys (both ends inclusive) have anything in common.
    /// True while the footer is not loaded.
    pub fn overlaps(&self, from: &[u8], to: &[u8]) -> bool {
        self.footer.get().is_none_or(|f| &*f.first.key <= to && &*f.last.key >= from)
    }
}

fn put_u16(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&u16::try_from(n).expect("bounded by the cell").to_le_bytes());
}
fn put_u32(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&u32::try_from(n).expect("bounded by the cell").to_le_bytes());
}
/// Pads with zeros to whole units and fills in the checksum of what begins at `start`.
pub(crate) fn seal(out: &mut Vec<u8>, start: usize, owner: CellOwner) {
    out.resize(out.len().next_multiple_of(UNIT_BYTES), 0);
    let unit = u32::try_from(start / UNIT_BYTES).expect("bounded by the cell");
    let crc = checksum(owner, unit, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}
pub(crate) fn is_sound(bytes: &[u8], owner: CellOwner, unit: u32) -> bool {
    bytes.split_first_chunk().is_some_and(|(crc, rest)| checksum(owner, unit, rest) == u32::from_le_bytes(*crc))
}
pub(crate) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl Footer {
    fn encode(&self, group: GroupId, table: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&MAGIC);
        let version = if self.stems { VERSION } else { VERSION_WITHOUT_STEMS };
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&group.get().to_le_bytes());
        out.extend_from_slice(&table.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        put_u16(out, usize::try_from(self.meta_unit).expect("small"));
        put_u16(out, start / UNIT_BYTES + 1);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.first.inverted.to_le_bytes());
        out.extend_from_slice(&self.last.inverted.to_le_bytes());
        put_u16(out, self.first.key.len());
        put_u16(out, self.last.key.len());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.first.key);
        out.extend_from_slice(&self.last.key);
        seal(out, start, CellOwner::Table { group, table });
    }

    /// Verifies the last unit of a table of `units` units. None where anything is wrong.
    pub fn decode(bytes: &[u8], group: GroupId, table: u64, units: u32) -> Option<Self> {
        let footer_unit = units.checked_sub(1)?;
        is_sound(bytes, CellOwner::Table { group, table }, footer_unit).then_some(())?;
        let version = u16::from_le_bytes(number(bytes, 12)?);
        let same = bytes.get(4..12)? == MAGIC
            && matches!(version, VERSION | VERSION_WITHOUT_STEMS)
            && u16::from_le_bytes(number(bytes, 14)?) == group.get()
            && u64::from_le_bytes(number(bytes, 16)?) == table
            && u32::from(u16::from_le_bytes(number(bytes, 34)?)) == units;
        same.then_some(())?;
        let meta_unit = u32::from(u16::from_le_bytes(number(bytes, 32)?));
        (meta_unit > 0 && meta_unit < footer_unit).then_some(())?;
        let lengths = (u16::from_le_bytes(number(bytes, 56)?), u16::from_le_bytes(number(bytes, 58)?));
        let first_end = FOOTER_HEAD_BYTES + usize::from(lengths.0);
        let last_end = first_end + usize::from(lengths.1);
        let inverted = |at| number(bytes, at).map(u64::from_le_bytes);
        let zeros = [bytes.get(36..40)?, bytes.get(60..64)?, bytes.get(last_end..UNIT_BYTES)?];
        zeros.iter().all(|part| part.iter().all(|b| *b == 0)).then_some(())?;
        let first = Position { key: bytes.get(FOOTER_HEAD_BYTES..first_end)?.into(), inverted: inverted(40)? };
        let last = Position { key: bytes.get(first_end..last_end)?.into(), inverted: inverted(48)? };
        let sorted = compare((&first.key, first.inverted), (&last.key, last.inverted)).is_le();
        let stems = version == VERSION;
        sorted.then_some(Footer { first, last, meta_unit, entries: inverted(24)?, stems })
    }
}

/// Index and filter of a table in memory.
pub(crate) struct Meta {
    bytes: Box<[u8]>,
    blocks: usize,
    filter_at: usize,
    used: usize,
}

/// Where a block lies in its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockPlace {
    pub first_unit: u32,
    pub units: u32,
}

impl Meta {
    /// Verifies the meta section that begins at `meta_unit`. None where anything is wrong.
    pub fn decode(bytes: &[u8], owner: CellOwner, meta_unit: u32) -> Option<Self> {
        is_sound(bytes, owner, meta_unit).then_some(())?;
        let read = |at| usize::try_from(u32::from_le_bytes(number(bytes, at)?)).ok();
        let (used, blocks, filter) = (read(4)?, read(8)?, read(12)?);
        let filter_at = used.checked_sub(filter)?;
        let sound =
            used <= bytes.len() && blocks > 0 && filter_at >= META_HEAD_BYTES.checked_add(blocks.checked_mul(4)?)?;
        sound.then_some(())?;
        let meta = Meta { bytes: bytes.into(), blocks, filter_at, used };
        let mut next = 0;
        for index in 0..blocks {
            let (position, place) = meta.entry(index)?;
            let previous = index.checked_sub(1).and_then(|i| meta.entry(i));
            let sorted = previous.is_none_or(|(before, _)| compare(before, position).is_lt());
            (sorted && place.units > 0 && place.first_unit == next).then_some(())?;
            next += place.units;
        }
        (next == meta_unit).then_some(meta)
    }
    /// Last version of a block, and where the block lies.
    fn entry(&self, index: usize) -> Option<((&[u8], u64), BlockPlace)> {
        let bytes = &self.bytes[..self.filter_at];
        let at = usize::try_from(u32::from_le_bytes(number(bytes, META_HEAD_BYTES + index * 4)?)).ok()?;
        let entry = bytes.get(at..)?;
        let inverted = u64::from_le_bytes(number(entry, 0)?);
        let first_unit = u32::from(u16::from_le_bytes(number(entry, 8)?));
        let units = u32::from(u16::from_le_bytes(number(entry, 10)?));
        let length = usize::from(u16::from_le_bytes(number(entry, 12)?));
        let key = entry.get(INDEX_ENTRY_BYTES..INDEX_ENTRY_BYTES + length)?;
        Some(((key, inverted), BlockPlace { first_unit, units }))
    }
    pub fn block(&self, index: usize) -> Option<BlockPlace> {
        (index < self.blocks).then(|| self.entry(index)).flatten().map(|(_, place)| place)
    }
    /// Number of the first block that may hold the version or one after it.
    pub fn seek(&self, key: &[u8], inverted: u64) -> usize {
        let (mut low, mut high) = (0, self.blocks);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle).is_some_and(|(last, _)| compare(last, (key, inverted)).is_lt()) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
    pub fn may_contain(&self, hash: u64) -> bool {
        filter::may_contain(&self.bytes[self.filter_at..self.used], hash)
    }
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }
}

/// Builds one table from versions in order.
pub(crate) struct TableBuilder {
    group: GroupId,
    id: u64,
    stem: Stem,
    data: Vec<u8>,
    block: BlockBuilder,
    /// Index entries, and where each begins in it.
    index: Vec<u8>,
    index_at: Vec<usize>,
    hashes: Vec<u64>,
    first: Option<Position>,
    last: Position,
    entries: u64,
}

impl TableBuilder {
    pub fn new(group: GroupId, id: u64, stem: Stem) -> Self {
        TableBuilder {
            group,
            id,
            stem,
            data: Vec::new(),
            block: BlockBuilder::default(),
            index: Vec::new(),
            index_at: Vec::new(),
            hashes: Vec::new(),
            first: None,
            last: Position { key: Box::default(), inverted: 0 },
            entries: 0,
        }
    }
    fn owner(&self) -> CellOwner {
        CellOwner::Table { group: self.group, table: self.id }
    }
    /// Whether the entry certainly still goes into this table's cell.
    pub fn fits(&self, key: &[u8], value: usize) -> bool {
        if self.entries == 0 {
            return true;
        }
        let data = self.data.len() / UNIT_BYTES + self.block.units() + BlockBuilder::units_alone(key, value);
        let per_key = INDEX_ENTRY_BYTES + 4;
        let index = self.index.len() + self.index_at.len() * 4 + 2 * (per_key + KEY_BYTES_MAX);
        let meta = META_HEAD_BYTES + index + filter::filter_bytes(self.hashes.len() + 1);
        data + meta.div_ceil(UNIT_BYTES) < UNITS_MAX
    }
    pub fn push(&mut self, key: &[u8], inverted: u64, value: Option<&[u8]>) {
        if !self.block.fits(key, value.map_or(0, <[u8]>::len)) {
            self.finish_block();
        }
        self.block.push(key, inverted, value);
        if self.entries == 0 || *self.last.key != *key {
            let hash = filter::hash((self.stem)(key).unwrap_or(key));
            self.hashes.extend(Some(hash).filter(|hash| self.hashes.last() != Some(hash)));
        }
        self.last = Position { key: key.into(), inverted };
        self.first.get_or_insert_with(|| Position { key: key.into(), inverted });
        self.entries += 1;
    }
    fn finish_block(&mut self) {
        let first = self.data.len() / UNIT_BYTES;
        let owner = self.owner();
        self.block.finish(owner, u32::try_from(first).expect("bounded by the cell"), &mut self.data);
        self.index_at.push(self.index.len());
        self.index.extend_from_slice(&self.last.inverted.to_le_bytes());
        put_u16(&mut self.index, first);
        put_u16(&mut self.index, self.data.len() / UNIT_BYTES - first);
        put_u16(&mut self.index, self.last.key.len());
        self.index.extend_from_slice(&self.last.key);
    }
    /// The bytes of the cell, and the footer. None where nothing was pushed.
    pub fn finish(mut self) -> Option<(Vec<u8>, Footer)> {
        let first = self.first.take()?;
        if !self.block.is_empty() {
            self.finish_block();
        }
        let (owner, start) = (self.owner(), self.data.len());
        let filter = filter::build(&self.hashes);
        let index_start = META_HEAD_BYTES + self.index_at.len() * 4;
        let mut out = std::mem::take(&mut self.data);
        out.extend_from_slice(&[0; 4]);
        put_u32(&mut out, index_start + self.index.len() + filter.len());
        put_u32(&mut out, self.index_at.len());
        put_u32(&mut out, filter.len());
        self.index_at.iter().for_each(|at| put_u32(&mut out, index_start + at));
        out.extend_from_slice(&self.index);
        out.extend_from_slice(&filter);
        seal(&mut out, start, owner);
        let meta_unit = u32::try_from(start / UNIT_BYTES).expect("bounded by the cell");
        let footer = Footer { first, last: self.last.clone(), meta_unit, entries: self.entries, stems: true };
        footer.encode(self.group, self.id, &mut out);
        assert!(out.len() / UNIT_BYTES <= UNITS_MAX, "a table fits its cell");
        Some((out, footer))
    }
}

#[cfg(test)]
mod tests;
