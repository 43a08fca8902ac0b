//! Data blocks: sorted, prefix-compressed entries in whole 4 KiB units.

use cfs_segment::{CellOwner, UNIT_BYTES, checksum};
use std::cmp::Ordering;
use std::ops::Range;
use std::rc::Rc;

/// Bytes before the first entry: CRC32C u32, used u32, entries u16, restarts u16.
const HEAD_BYTES: usize = 12;
/// Bytes of an entry before its key suffix: shared u16, suffix u16, value u32, inverted time u64.
const ENTRY_BYTES: usize = 16;
/// Every so many entries a key is stored whole.
const RESTART_EVERY: u16 = 8;
const TOMBSTONE: u32 = u32::MAX;

/// Order of versions: by key, newest first (`inverted` is the bitwise complement of the time).
pub(crate) fn compare(a: (&[u8], u64), b: (&[u8], u64)) -> Ordering {
    a.0.cmp(b.0).then(a.1.cmp(&b.1))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Fills one block after another.
#[derive(Default)]
pub(crate) struct BlockBuilder {
    entries: Vec<u8>,
    restarts: Vec<u16>,
    last_key: Vec<u8>,
    count: u16,
}

impl BlockBuilder {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// Units of a block with this one entry.
    pub fn units_alone(key: &[u8], value: usize) -> usize {
        (HEAD_BYTES + ENTRY_BYTES + key.len() + value + 2).div_ceil(UNIT_BYTES)
    }
    fn used(&self) -> usize {
        HEAD_BYTES + self.entries.len() + self.restarts.len() * 2
    }
    /// Units of the block so far.
    pub fn units(&self) -> usize {
        self.used().div_ceil(UNIT_BYTES)
    }
    /// Whether the entry still goes into this block's one unit.
    pub fn fits(&self, key: &[u8], value: usize) -> bool {
        self.count == 0 || self.used() + ENTRY_BYTES + key.len() + value + 2 <= UNIT_BYTES
    }
    pub fn push(&mut self, key: &[u8], inverted: u64, value: Option<&[u8]>) {
        let restart = self.count.is_multiple_of(RESTART_EVERY);
        let shared = if restart { 0 } else { key.iter().zip(&self.last_key).take_while(|(a, b)| a == b).count() };
        if restart {
            let at = HEAD_BYTES + self.entries.len();
            self.restarts.push(u16::try_from(at).expect("only the first entry may be long"));
        }
        let suffix = &key[shared..];
        let length = value.map_or(TOMBSTONE, |v| u32::try_from(v.len()).expect("checked by the store"));
        self.entries.extend_from_slice(&u16::try_from(shared).expect("keys are short").to_le_bytes());
        self.entries.extend_from_slice(&u16::try_from(suffix.len()).expect("keys are short").to_le_bytes());
        self.entries.extend_from_slice(&length.to_le_bytes());
        self.entries.extend_from_slice(&inverted.to_le_bytes());
        self.entries.extend_from_slice(suffix);
        self.entries.extend_from_slice(value.unwrap_or_default());
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.count += 1;
    }
    /// Appends the block to `out`, whole units, and begins the next one.
    pub fn finish(&mut self, owner: CellOwner, first_unit: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let used = self.used();
        out.reserve(used.next_multiple_of(UNIT_BYTES));
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&u32::try_from(used).expect("below 2 MiB").to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.restarts.len()).expect("fewer than entries").to_le_bytes());
        out.extend_from_slice(&self.entries);
        self.restarts.iter().for_each(|at| out.extend_from_slice(&at.to_le_bytes()));
        out.resize(start + used.next_multiple_of(UNIT_BYTES), 0);
        let crc = checksum(owner, first_unit, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        self.entries.clear();
        self.restarts.clear();
        self.last_key.clear();
        self.count = 0;
    }
}

/// A verified block in memory.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Box<[u8]>,
    end: usize,
    restarts: usize,
}

struct Entry<'a> {
    shared: usize,
    suffix: &'a [u8],
    inverted: u64,
    /// Where the value lies; None for a tombstone.
    value: Option<Range<usize>>,
    next: usize,
}

impl Block {
    /// Verifies and walks the block at the start of `bytes`, which may go on behind it.
    /// None where anything is wrong.
    pub fn decode(owner: CellOwner, first_unit: u32, bytes: &[u8]) -> Option<Self> {
        let used = usize::try_from(u32_at(bytes, 4)?).ok()?;
        (used >= HEAD_BYTES).then_some(())?;
        let bytes = bytes.get(..used.checked_next_multiple_of(UNIT_BYTES)?)?;
        (checksum(owner, first_unit, &bytes[4..]) == u32_at(bytes, 0)?).then_some(())?;
        let (count, restarts) = (u16_at(bytes, 8)?, usize::from(u16_at(bytes, 10)?));
        let end = used.checked_sub(restarts * 2).filter(|end| *end >= HEAD_BYTES)?;
        let block = Block { bytes: bytes.into(), end, restarts };
        block.walk(count).then_some(block)
    }
    /// Whether entries are whole, ascending and as many as the header says, and restarts are
    /// where the entries say.
    fn walk(&self, count: u16) -> bool {
        let (mut at, mut seen, mut restart) = (HEAD_BYTES, 0u16, 0);
        let (mut key, mut previous): (Vec<u8>, Option<(Vec<u8>, u64)>) = (Vec::new(), None);
        while at < self.end {
            let Some(entry) = self.entry(at).filter(|e| e.shared <= key.len()) else { return false };
            if seen.is_multiple_of(RESTART_EVERY) {
                if entry.shared != 0 || self.restart(restart) != at {
                    return false;
                }
                restart += 1;
            }
            key.truncate(entry.shared);
            key.extend_from_slice(entry.suffix);
            let sorted = previous.as_ref().is_none_or(|(k, t)| compare((k, *t), (&key, entry.inverted)).is_lt());
            if !sorted || key.len() > crate::KEY_BYTES_MAX {
                return false;
            }
            previous = Some((key.clone(), entry.inverted));
            at = entry.next;
            seen = seen.saturating_add(1);
        }
        seen == count && seen > 0 && restart == self.restarts
    }
    /// Bytes it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }
    /// Units on the device.
    pub fn units(&self) -> u32 {
        u32::try_from(self.bytes.len() / UNIT_BYTES).expect("a cell has at most 512 units")
    }
    fn restart(&self, index: usize) -> usize {
        if index >= self.restarts {
            return self.end;
        }
        u16_at(&self.bytes, self.end + index * 2).map_or(self.end, usize::from)
    }
    fn entry(&self, at: usize) -> Option<Entry<'_>> {
        let bytes = &self.bytes[..self.end];
        let suffix_at = at.checked_add(ENTRY_BYTES)?;
        let value_at = suffix_at.checked_add(usize::from(u16_at(bytes, at + 2)?))?;
        let suffix = bytes.get(suffix_at..value_at)?;
        let length = u32_at(bytes, at + 4)?;
        let next = if length == TOMBSTONE { value_at } else { value_at.checked_add(usize::try_from(length).ok()?)? };
        (next <= bytes.len()).then_some(())?;
        let value = (length != TOMBSTONE).then_some(value_at..next);
        Some(Entry { shared: usize::from(u16_at(bytes, at)?), suffix, inverted: u64_at(bytes, at + 8)?, value, next })
    }
}

/// A place in a block.
pub(crate) struct BlockCursor {
    block: Rc<Block>,
    key: Vec<u8>,
    inverted: u64,
    value: Option<Range<usize>>,
    next: usize,
    valid: bool,
}

impl BlockCursor {
    /// At the first entry.
    pub fn first(block: Rc<Block>) -> Self {
        let mut cursor = BlockCursor {
            block,
            key: Vec::with_capacity(64),
            inverted: 0,
            value: None,
            next: HEAD_BYTES,
            valid: false,
        };
        cursor.advance();
        cursor
    }
    /// At the first entry at or after the version.
    pub fn seek(block: Rc<Block>, key: &[u8], inverted: u64) -> Self {
        let whole =
            |at: usize| block.entry(at).is_some_and(|e| compare((e.suffix, e.inverted), (key, inverted)).is_lt());
        let (mut low, mut high) = (0, block.restarts);
        while low < high {
            let middle = low + (high - low) / 2;
            if whole(block.restart(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let next = block.restart(low.saturating_sub(1));
        let mut cursor =
            BlockCursor { block, key: Vec::with_capacity(64), inverted: 0, value: None, next, valid: false };
        cursor.advance();
        while cursor.valid && compare((&cursor.key, cursor.inverted), (key, inverted)).is_lt() {
            cursor.advance();
        }
        cursor
    }
    /// Goes to the next entry; not valid behind the last.
    pub fn advance(&mut self) {
        self.valid = false;
        if self.next >= self.block.end {
            return;
        }
        if let Some(entry) = self.block.entry(self.next) {
            self.key.truncate(entry.shared);
            self.key.extend_from_slice(entry.suffix);
            (self.inverted, self.value, self.next, self.valid) = (entry.inverted, entry.value, entry.next, true);
        }
    }
    pub fn is_valid(&self) -> bool {
        self.valid
    }
    pub fn key(&self) -> &[u8] {
        &self.key
    }
    pub fn inverted(&self) -> u64 {
        self.inverted
    }
    pub fn value(&self) -> Option<&[u8]> {
        self.value.clone().map(|range| &self.block.bytes[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_types::GroupId;

    const OWNER: CellOwner = CellOwner::Table { group: GroupId::new(4), table: 6 };

    fn keys(count: u32) -> Vec<(Vec<u8>, u64)> {
        (0..count).flat_map(|i| [1, 5].map(|t| (format!("key{:04}", i * 2).into_bytes(), t))).collect()
    }
    fn block(keys: &[(Vec<u8>, u64)]) -> Vec<u8> {
        let mut builder = BlockBuilder::default();
        for (key, inverted) in keys {
            assert!(builder.fits(key, 8));
            builder.push(key, *inverted, (*inverted == 1).then_some(&key[..7]));
        }
        let mut out = Vec::new();
        builder.finish(OWNER, 3, &mut out);
        out
    }

    #[test]
    fn seek_finds_the_first_entry_at_or_after() {
        let keys = keys(40);
        let block = Rc::new(Block::decode(OWNER, 3, &block(&keys)).expect("sound"));
        for i in 0..82 {
            for inverted in 0..7 {
                let wanted = format!("key{i:04}").into_bytes();
                let expected = keys.iter().find(|(k, t)| compare((k, *t), (&wanted, inverted)).is_ge());
                let cursor = BlockCursor::seek(block.clone(), &wanted, inverted);
                assert_eq!(cursor.is_valid().then(|| (cursor.key().to_vec(), cursor.inverted())), expected.cloned());
                assert!(!cursor.is_valid() || cursor.value().is_some() == (cursor.inverted() == 1));
            }
        }
    }

    #[test]
    fn flipped_or_misplaced_blocks_are_refused() {
        let good = block(&keys(20));
        assert!(Block::decode(OWNER, 4, &good).is_none());
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            assert!(Block::decode(OWNER, 3, &bytes).is_none(), "byte {at}");
        }
    }
}
