//! The records beside extents: chunks, back references, ranges and what an inode knows of them.

use super::codec::{Fields, Writer};
use crate::view::Value;
use cfs_types::{InodeId, ShardId};

const VERSION: u8 = 1;
/// Stands for 'nothing to trim' in a [`RangeRecord`].
const NO_TRIM: u64 = u64::MAX;

/// A chunk that extents name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRecord {
    /// Bytes the chunk was written with.
    pub len: u32,
    /// Bytes that extents name: never 0 in a stored record.
    pub live: u32,
}

impl ChunkRecord {
    /// The stored value.
    pub fn encode(&self) -> Value {
        Writer::of(VERSION).reserved::<3>().u32(self.len).u32(self.live).done()
    }
    /// None where the bytes are not a valid record.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(bytes, VERSION)?;
        fields.reserved::<3>()?;
        let record = ChunkRecord { len: fields.u32()?, live: fields.u32()? };
        fields.end()?;
        (record.live > 0 && record.live <= record.len).then_some(record)
    }
}

/// Who names the bytes of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackRef {
    /// The extent of this file that ends at this offset.
    Extent {
        /// The file.
        ino: InodeId,
        /// The extent's end, as in its key.
        end: u64,
    },
    /// A message that has yet to reach another shard.
    Message {
        /// Where it goes.
        to: ShardId,
        /// The file.
        ino: InodeId,
        /// Sequence of the message among the file's.
        sequence: u64,
    },
}

impl BackRef {
    /// The stored value.
    pub fn encode(&self) -> Value {
        match self {
            BackRef::Extent { ino, end } => Writer::of(VERSION).u8(1).reserved::<2>().u64(ino.get()).u64(*end).done(),
            BackRef::Message { to, ino, sequence } => {
                Writer::of(VERSION).u8(2).u8(to.get()).reserved::<1>().u64(ino.get()).u64(*sequence).done()
            }
        }
    }
    /// None where the bytes are not a valid record.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(bytes, VERSION)?;
        let kind = fields.u8()?;
        let to = ShardId::new(fields.u8()?);
        fields.reserved::<1>()?;
        let ino = InodeId::from_raw(fields.u64()?)?;
        let number = fields.u64()?;
        fields.end()?;
        match kind {
            1 if to.get() == 0 => Some(BackRef::Extent { ino, end: number }),
            2 => Some(BackRef::Message { to, ino, sequence: number }),
            _ => None,
        }
    }
}

/// The state of a range beside its extents: in the inode for range 0, in a record of the range's
/// shard for the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    /// Bytes of the range's extents, those to be trimmed included.
    pub allocated: u64,
    /// Extents from this offset on are dead: they read as zeros and are deleted in steps.
    pub trim_from: Option<u64>,
}

/// A range's record in its shard (ranges 1 and up).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RangeRecord {
    /// Epoch of the last message: requests with a lower one are refused.
    pub epoch: u64,
    /// Sequence of the last message executed.
    pub sequence: u64,
    /// Extents.
    pub shape: Shape,
    /// The file is gone: the record goes with the last extent.
    pub dying: bool,
}

impl RangeRecord {
    /// The stored value.
    pub fn encode(&self) -> Value {
        Writer::of(VERSION)
            .u8(u8::from(self.dying))
            .reserved::<6>()
            .u64(self.epoch)
            .u64(self.sequence)
            .u64(self.shape.allocated)
            .u64(self.shape.trim_from.unwrap_or(NO_TRIM))
            .done()
    }
    /// None where the bytes are not a valid record.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(bytes, VERSION)?;
        let dying = match fields.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        fields.reserved::<6>()?;
        let (epoch, sequence) = (fields.u64()?, fields.u64()?);
        let allocated = fields.u64()?;
        let trim_from = Some(fields.u64()?).filter(|from| *from != NO_TRIM);
        fields.end()?;
        Some(RangeRecord { epoch, sequence, shape: Shape { allocated, trim_from }, dying })
    }
}

/// What the inode's shard knows of a range in another shard: it was told something, and where
/// its bytes can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Sequence of the last message sent to the range.
    pub sequence: u64,
    /// No extent of the range begins below this offset.
    pub from: u64,
    /// No extent of the range ends above this offset; `from` where there is none.
    pub through: u64,
    /// Bytes of its extents: never too low; exact while the hull has no holes.
    pub bytes: u64,
}

impl Summary {
    /// Accounts for `from..to` having been written or allocated.
    pub fn cover(&mut self, from: u64, to: u64) {
        if self.from == self.through {
            (self.from, self.through, self.bytes) = (from, to, to - from);
            return;
        }
        let outside = self.from.saturating_sub(from).min(to - from) + to.saturating_sub(self.through).min(to - from);
        let inside = to - from - outside;
        let holes = self.through - self.from - self.bytes;
        self.bytes += outside + inside.min(holes);
        self.from = self.from.min(from);
        self.through = self.through.max(to);
    }

    /// Accounts for `from..to` having become a hole.
    pub fn uncover(&mut self, from: u64, to: u64) {
        let (low, high) = (from.max(self.from), to.min(self.through));
        if low >= high {
            return;
        }
        let gone = high - low;
        let rest = self.through - self.from - gone;
        self.bytes = self.bytes.min(rest);
        if low == self.from {
            self.from = high;
        } else if high == self.through {
            self.through = low;
        }
    }

    /// The stored value.
    pub fn encode(&self) -> Value {
        Writer::of(VERSION).reserved::<7>().u64(self.sequence).u64(self.from).u64(self.through).u64(self.bytes).done()
    }
    /// None where the bytes are not a valid record.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(bytes, VERSION)?;
        fields.reserved::<7>()?;
        let sequence = fields.u64()?;
        let (from, through, bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
        fields.end()?;
        let hull = through.checked_sub(from)?;
        (bytes <= hull).then_some(Summary { sequence, from, through, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn golden_chunk_record() {
        let record = ChunkRecord { len: 0x20_0000, live: 4096 };
        assert_eq!(hex(&record.encode()), "010000000000200000100000");
        assert_eq!(ChunkRecord::decode(&record.encode()), Some(record));
        assert_eq!(ChunkRecord::decode(&ChunkRecord { live: 0, ..record }.encode()), None);
        assert_eq!(ChunkRecord::decode(&ChunkRecord { len: 1, ..record }.encode()), None);
    }

    #[test]
    fn golden_back_references() {
        let ino = InodeId::from_raw(0x0203).expect("valid");
        let extent = BackRef::Extent { ino, end: 5 };
        assert_eq!(hex(&extent.encode()), "0101000003020000000000000500000000000000");
        let message = BackRef::Message { to: ShardId::new(7), ino, sequence: 6 };
        assert_eq!(hex(&message.encode()), "0102070003020000000000000600000000000000");
        for record in [extent, message] {
            assert_eq!(BackRef::decode(&record.encode()), Some(record));
        }
        assert_eq!(BackRef::decode(&[1, 3, 0, 0]), None);
    }

    #[test]
    fn golden_range_record() {
        let shape = Shape { allocated: 9, trim_from: None };
        let record = RangeRecord { epoch: 1, sequence: 2, shape, dying: true };
        assert_eq!(
            hex(&record.encode()),
            "0101000000000000010000000000000002000000000000000900000000000000ffffffffffffffff"
        );
        assert_eq!(RangeRecord::decode(&record.encode()), Some(record));
        let mut odd = record.encode().to_vec();
        odd[1] = 2;
        assert_eq!(RangeRecord::decode(&odd), None);
    }

    #[test]
    fn golden_summary() {
        let summary = Summary { sequence: 3, from: 64, through: 128, bytes: 60 };
        assert_eq!(
            hex(&summary.encode()),
            "01000000000000000300000000000000400000000000000080000000000000003c00000000000000"
        );
        assert_eq!(Summary::decode(&summary.encode()), Some(summary));
        assert_eq!(Summary::decode(&Summary { bytes: 65, ..summary }.encode()), None);
        assert_eq!(Summary::decode(&Summary { from: 129, ..summary }.encode()), None);
    }

    #[test]
    fn a_summary_is_exact_for_sequential_and_overwritten_ranges_and_never_too_low() {
        let mut summary = Summary::default();
        summary.cover(100, 200);
        summary.cover(200, 300);
        summary.cover(150, 250);
        assert_eq!(summary.bytes, 200);
        summary.cover(400, 500);
        assert_eq!((summary.from, summary.through, summary.bytes), (100, 500, 300));
        summary.uncover(300, 400);
        assert_eq!(summary.bytes, 300);
        summary.uncover(400, 1000);
        assert_eq!((summary.through, summary.bytes), (400, 300));
        summary.uncover(0, 1000);
        assert_eq!(summary.bytes, 0);
        assert_eq!(summary.from, summary.through);
    }
}
