//! Every row of file data as what it is, for checkers.

use super::extent::Extent;
use super::keys;
use super::place::Source;
use super::record::{BackRef, ChunkRecord, RangeRecord, Summary};
use crate::keys::parse_inode;
use crate::record;
use crate::view::Key;
use cfs_types::{ChunkId, InodeId, RangeIndex};

/// A row of file data.
#[derive(Clone, PartialEq, Debug)]
pub enum DataRow {
    /// A piece of a file.
    Extent(InodeId, Extent),
    /// A chunk that extents name.
    Chunk(ChunkId, ChunkRecord),
    /// Who names the bytes of a source.
    BackRef(Source, BackRef),
    /// A range in its shard.
    Range(InodeId, RangeIndex, RangeRecord),
    /// A range as the inode's shard knows it.
    Summary(InodeId, RangeIndex, Summary),
    /// The next chunk sequence to grant.
    Grant(u64),
    /// A range that is being trimmed.
    Trimming(InodeId, RangeIndex),
}

impl DataRow {
    /// The key under which such a row is stored.
    pub fn key(&self) -> Key {
        match self {
            DataRow::Extent(ino, extent) => keys::extent(*ino, extent.end()),
            DataRow::Chunk(id, _) => keys::chunk(*id),
            DataRow::BackRef(source, _) => keys::back_ref(*source),
            DataRow::Range(ino, range, _) => keys::range(*ino, *range),
            DataRow::Summary(ino, range, _) => keys::summary(*ino, *range),
            DataRow::Grant(_) => keys::grant(),
            DataRow::Trimming(ino, range) => keys::trimming(*ino, *range),
        }
    }
}

/// Decodes a row of the key spaces 0x20 to 0x3f; None where it is not one.
pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<DataRow> {
    let of_range = || Some((parse_inode(key)?, keys::summary_range(key)?));
    Some(match *key.first()? {
        keys::EXTENT => DataRow::Extent(parse_inode(key)?, Extent::decode(keys::extent_end(key)?, value)?),
        keys::CHUNK => DataRow::Chunk(keys::chunk_id(key)?, ChunkRecord::decode(value)?),
        keys::BACK_REF => DataRow::BackRef(keys::back_ref_source(key)?, BackRef::decode(value)?),
        keys::RANGE => {
            let (ino, range) = of_range()?;
            DataRow::Range(ino, range, RangeRecord::decode(value)?)
        }
        keys::SUMMARY => {
            let (ino, range) = of_range()?;
            DataRow::Summary(ino, range, Summary::decode(value)?)
        }
        keys::GRANT => DataRow::Grant(record::decode(value).ok()?),
        keys::TRIMMING => {
            let (ino, range) = of_range()?;
            value.is_empty().then_some(DataRow::Trimming(ino, range))?
        }
        _ => return None,
    })
}
