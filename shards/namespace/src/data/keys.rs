//! Keys of the data records. Numbers are big-endian, so that byte order is number order.
//!
//! An extent's key carries its end, so that the extent that covers an offset is the first row
//! after it: one scan of one row finds it. All ranges of a file that a shard holds lie in one
//! key range, in file order.

use super::place::Source;
use crate::keys::KeyBuilder;
use crate::view::Key;
use cfs_types::{ChunkId, InodeId, LogIndex, RangeIndex};

// Of the key spaces 0x20 to 0x3f.
/// Extents.
pub const EXTENT: u8 = 0x20;
/// Chunks.
pub const CHUNK: u8 = 0x21;
/// Back references.
pub const BACK_REF: u8 = 0x22;
/// Ranges.
pub const RANGE: u8 = 0x23;
/// Summaries of ranges.
pub const SUMMARY: u8 = 0x24;
/// The next chunk sequence.
pub const GRANT: u8 = 0x25;
/// Ranges that are being trimmed.
pub const TRIMMING: u8 = 0x26;

/// After [`BACK_REF`]: sources in log entries, ordered by index.
const IN_LOG: u8 = 0;
/// After [`BACK_REF`]: sources in chunks.
const IN_CHUNK: u8 = 1;

/// The extent of `ino` that ends at `end`.
pub fn extent(ino: InodeId, end: u64) -> Key {
    KeyBuilder::new(EXTENT).number(ino.get()).number(end).build()
}

/// The end that an extent's key carries.
pub fn extent_end(key: &[u8]) -> Option<u64> {
    let tail: &[u8; 8] = key.get(9..)?.try_into().ok()?;
    Some(u64::from_be_bytes(*tail))
}

/// A chunk's record.
pub fn chunk(id: ChunkId) -> Key {
    KeyBuilder::new(CHUNK).number(id.get()).build()
}

/// First key of the chunks' records.
pub fn chunks_begin() -> Key {
    [CHUNK].into()
}

/// First key after the chunks' records.
pub fn chunks_end() -> Key {
    [CHUNK + 1].into()
}

/// First key after a chunk's record.
pub fn chunk_after(id: ChunkId) -> Key {
    after(&chunk(id))
}

/// The chunk whose record has this key.
pub fn chunk_id(key: &[u8]) -> Option<ChunkId> {
    let (space, number) = key.split_first()?;
    let number: &[u8; 8] = number.try_into().ok()?;
    (*space == CHUNK).then_some(ChunkId::from_raw(u64::from_be_bytes(*number)))
}

/// Who names the bytes that begin at `source`.
pub fn back_ref(source: Source) -> Key {
    let (kind, holder, offset) = match source {
        Source::Log { index, offset } => (IN_LOG, index.get(), offset),
        Source::Chunk { id, offset } => (IN_CHUNK, id.get(), offset),
    };
    KeyBuilder::new(BACK_REF).bytes(&[kind]).number(holder).bytes(&offset.to_be_bytes()).build()
}

/// The source a back reference's key carries.
pub fn back_ref_source(key: &[u8]) -> Option<Source> {
    let (prefix, rest) = key.split_first_chunk::<2>()?;
    let (holder, rest) = rest.split_first_chunk::<8>()?;
    let offset = u32::from_be_bytes(*<&[u8; 4]>::try_from(rest).ok()?);
    let holder = u64::from_be_bytes(*holder);
    match prefix {
        [BACK_REF, IN_LOG] => Some(Source::Log { index: LogIndex::new(holder), offset }),
        [BACK_REF, IN_CHUNK] => Some(Source::Chunk { id: ChunkId::from_raw(holder), offset }),
        _ => None,
    }
}

/// First key after the back reference of a source.
pub fn back_ref_after(source: Source) -> Key {
    after(&back_ref(source))
}

/// First key after every back reference into log entries.
pub fn log_refs_end() -> Key {
    [BACK_REF, IN_CHUNK].into()
}

/// First key after the back references into `id`.
pub fn back_refs_end(id: ChunkId) -> Key {
    after(&back_ref(Source::Chunk { id, offset: u32::MAX }))
}

/// A range's record in the range's shard.
pub fn range(ino: InodeId, range: RangeIndex) -> Key {
    KeyBuilder::new(RANGE).number(ino.get()).bytes(&range.get().to_be_bytes()).build()
}

/// What the inode's shard knows of a range.
pub fn summary(ino: InodeId, range: RangeIndex) -> Key {
    KeyBuilder::new(SUMMARY).number(ino.get()).bytes(&range.get().to_be_bytes()).build()
}

/// A range that is being trimmed; no value.
pub fn trimming(ino: InodeId, range: RangeIndex) -> Key {
    KeyBuilder::new(TRIMMING).number(ino.get()).bytes(&range.get().to_be_bytes()).build()
}

/// First key of the ranges that are being trimmed, and the first after them.
pub fn all_trimming() -> (Key, Key) {
    ([TRIMMING].into(), [TRIMMING + 1].into())
}

/// The file and range of a [`trimming`] key.
pub fn trimming_range(key: &[u8]) -> Option<(InodeId, RangeIndex)> {
    let (number, _) = key.get(1..)?.split_first_chunk::<8>()?;
    Some((InodeId::from_raw(u64::from_be_bytes(*number))?, summary_range(key)?))
}

/// The range that a summary's key carries.
pub fn summary_range(key: &[u8]) -> Option<RangeIndex> {
    let tail: &[u8; 4] = key.get(9..)?.try_into().ok()?;
    Some(RangeIndex::new(u32::from_be_bytes(*tail)))
}

/// First key after every summary of `ino`.
pub fn summaries_end(ino: InodeId) -> Key {
    after(&summary(ino, RangeIndex::new(u32::MAX)))
}

/// The next chunk sequence to grant.
pub fn grant() -> Key {
    [GRANT].into()
}

/// The least key above `key`.
fn after(key: &[u8]) -> Key {
    [key, &[0]].concat().into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_give_back_what_they_carry() {
        let ino = InodeId::from_raw(77).expect("valid");
        assert_eq!(extent_end(&extent(ino, 1 << 40)), Some(1 << 40));
        assert_eq!(extent_end(&extent(ino, 1)[..16]), None);
        let range = RangeIndex::new(9);
        assert_eq!(summary_range(&summary(ino, range)), Some(range));
        for source in
            [Source::Log { index: LogIndex::new(5), offset: 6 }, Source::Chunk { id: ChunkId::from_raw(5), offset: 6 }]
        {
            assert_eq!(back_ref_source(&back_ref(source)), Some(source));
        }
        assert_eq!(back_ref_source(&[BACK_REF, 2]), None);
    }

    #[test]
    fn golden_keys() {
        let hex = |key: Key| key.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let ino = InodeId::from_raw(0x4d01).expect("valid");
        let (id, range) = (ChunkId::from_raw(0x0507), RangeIndex::new(3));
        let in_log = Source::Log { index: LogIndex::new(5), offset: 6 };
        assert_eq!(hex(extent(ino, 0x1000)), "200000000000004d010000000000001000");
        assert_eq!(hex(chunk(id)), "210000000000000507");
        assert_eq!(hex(back_ref(in_log)), "2200000000000000000500000006");
        assert_eq!(hex(back_ref(Source::Chunk { id, offset: 6 })), "2201000000000000050700000006");
        assert_eq!(hex(super::range(ino, range)), "230000000000004d0100000003");
        assert_eq!(hex(summary(ino, range)), "240000000000004d0100000003");
        assert_eq!(hex(grant()), "25");
        assert_eq!(hex(trimming(ino, range)), "260000000000004d0100000003");
        assert_eq!(trimming_range(&trimming(ino, range)), Some((ino, range)));
    }

    #[test]
    fn key_order_is_file_order_and_log_order() {
        let ino = InodeId::from_raw(77).expect("valid");
        assert!(extent(ino, 255) < extent(ino, 256));
        let log = |i, offset| back_ref(Source::Log { index: LogIndex::new(i), offset });
        assert!(log(255, 9) < log(256, 0));
        assert!(log(u64::MAX, u32::MAX) < log_refs_end());
    }
}
