//! Where the bytes of an extent are: in a log entry, in a chunk, or nowhere yet.
//!
//! Invariant: a [`LogRef`] covers whole 4 KiB blocks of the write it came from (the last may be
//! short), so that every block it names can be verified by its checksum; `skip` is below 4 KiB.

use cfs_types::{CHUNK_BYTES_MAX, ChunkId, INLINE_WRITE_BYTES_MAX, LogIndex, UNIT_BYTES};
use serde::{Deserialize, Serialize};

/// A slice of the data area of a log entry of the shard's own group.
///
/// To read it: take `data_len` bytes at `data_offset` of the entry's data area, verify each 4 KiB
/// block (the last may be short) against `checksums`, and drop the first `skip` bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogRef {
    /// The entry.
    pub index: LogIndex,
    /// Where the blocks begin in the entry's data area, bytes.
    pub data_offset: u32,
    /// Bytes of the blocks, at most 64 KiB.
    pub data_len: u32,
    /// Bytes of the first block that are not part of the extent, below 4096.
    pub skip: u32,
    /// CRC32C of each 4 KiB block.
    pub checksums: Vec<u32>,
}

/// What an extent's bytes are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Place {
    /// They ride in a log entry.
    Log(LogRef),
    /// A slice of a chunk of this shard.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// First byte within it.
        offset: u32,
    },
    /// Allocated, never written: zeros.
    Unwritten,
}

/// Identity of bytes, for compare-and-swap and for the back references: what holds them and
/// where in it the first one is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Source {
    /// Byte `offset` of an entry's data area.
    Log {
        /// The entry.
        index: LogIndex,
        /// Within its data area.
        offset: u32,
    },
    /// Byte `offset` of a chunk.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Within it.
        offset: u32,
    },
}

impl Source {
    /// The byte `distance` further on; None where that leaves the 32-bit space.
    pub fn advanced(self, distance: u32) -> Option<Self> {
        Some(match self {
            Source::Log { index, offset } => Source::Log { index, offset: offset.checked_add(distance)? },
            Source::Chunk { id, offset } => Source::Chunk { id, offset: offset.checked_add(distance)? },
        })
    }
}

impl LogRef {
    /// Whether the numbers agree with each other and `len` extent bytes fit.
    pub fn holds(&self, len: u32) -> bool {
        let blocks = self.data_len.div_ceil(UNIT_BYTES);
        self.data_len <= INLINE_WRITE_BYTES_MAX
            && self.skip < UNIT_BYTES
            && u32::try_from(self.checksums.len()) == Ok(blocks)
            && self.data_offset.checked_add(self.data_len).is_some()
            && u64::from(self.skip) + u64::from(len) <= u64::from(self.data_len)
    }

    /// The slice of `len` bytes that begins `distance` bytes into the extent.
    fn narrowed(&self, distance: u32, len: u32) -> LogRef {
        let begin = self.skip + distance;
        let first = begin / UNIT_BYTES;
        let end = (begin + len).div_ceil(UNIT_BYTES) * UNIT_BYTES;
        let end = end.min(self.data_len);
        let blocks = index(first)..index(end.div_ceil(UNIT_BYTES));
        LogRef {
            index: self.index,
            data_offset: self.data_offset + first * UNIT_BYTES,
            data_len: end - first * UNIT_BYTES,
            skip: begin - first * UNIT_BYTES,
            checksums: self.checksums[blocks].to_vec(),
        }
    }
}

impl Place {
    /// The place of the sub-extent of `len` bytes that begins `distance` bytes in. The caller
    /// keeps `distance + len` within the extent.
    pub fn narrowed(&self, distance: u32, len: u32) -> Place {
        match self {
            Place::Log(log) => Place::Log(log.narrowed(distance, len)),
            Place::Chunk { id, offset } => Place::Chunk { id: *id, offset: offset + distance },
            Place::Unwritten => Place::Unwritten,
        }
    }

    /// Identity of the first byte; None where no bytes were ever written.
    pub fn source(&self) -> Option<Source> {
        match self {
            Place::Log(log) => Some(Source::Log { index: log.index, offset: log.data_offset + log.skip }),
            Place::Chunk { id, offset } => Some(Source::Chunk { id: *id, offset: *offset }),
            Place::Unwritten => None,
        }
    }

    /// Whether `len` bytes are within what the place can hold.
    pub fn holds(&self, len: u32) -> bool {
        match self {
            Place::Log(log) => log.holds(len),
            Place::Chunk { offset, .. } => offset.checked_add(len).is_some_and(|end| end <= CHUNK_BYTES_MAX),
            Place::Unwritten => true,
        }
    }

    /// Whether an extent at `next` continues one at `self` of `len` bytes without a seam.
    pub fn continues(&self, len: u32, next: &Place) -> bool {
        match (self, next) {
            (Place::Chunk { id: a, offset }, Place::Chunk { id: b, offset: then }) => a == b && offset + len == *then,
            (Place::Unwritten, Place::Unwritten) => true,
            _ => false,
        }
    }
}

fn index(n: u32) -> usize {
    usize::try_from(n).expect("32 bits fit a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(data_len: u32, skip: u32) -> LogRef {
        let blocks = data_len.div_ceil(UNIT_BYTES);
        LogRef { index: LogIndex::new(9), data_offset: 100, data_len, skip, checksums: (0..blocks).collect() }
    }

    #[test]
    fn a_narrowed_log_slice_keeps_the_blocks_it_touches_and_no_more() {
        let whole = Place::Log(log(10_000, 0));
        let Place::Log(part) = whole.narrowed(5000, 10) else { panic!("a log slice") };
        assert_eq!(part.checksums, vec![1]);
        assert_eq!((part.data_offset, part.data_len, part.skip), (100 + 4096, 4096, 904));
        let Place::Log(tail) = whole.narrowed(4095, 5905) else { panic!("a log slice") };
        assert_eq!(tail.checksums, vec![0, 1, 2]);
        assert_eq!((tail.data_len, tail.skip), (10_000, 4095));
    }

    #[test]
    fn narrowing_moves_the_identity_by_the_distance() {
        let place = Place::Log(log(10_000, 7));
        let first = place.source().expect("bytes");
        assert_eq!(place.narrowed(6000, 1).source(), first.advanced(6000));
    }

    #[test]
    fn slices_that_do_not_hold_their_bytes_are_refused() {
        assert!(log(4096, 0).holds(4096));
        assert!(!log(4096, 1).holds(4096));
        assert!(!LogRef { checksums: vec![], ..log(4096, 0) }.holds(1));
        assert!(!LogRef { skip: 4096, ..log(8192, 0) }.holds(1));
        assert!(!log(INLINE_WRITE_BYTES_MAX + 1, 0).holds(1));
        let chunk = Place::Chunk { id: ChunkId::from_raw(1), offset: CHUNK_BYTES_MAX };
        assert!(!chunk.holds(1));
    }
}
