//! Streams: one core's log since one start, and the anchor that says where its live part begins, and where it ended.

use std::ops::Range;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Names a stream. The salt is random and known to nobody outside, so that bytes of users which
/// happen to lie in a reused slot are never taken for a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamId {
    pub boot: u64,
    pub core: u16,
    pub salt: u64,
}

/// The batch at which a stream was ended on purpose. It was durable before its anchor named it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamTail {
    pub sequence: u64,
    /// Checksum of its header, and so of the whole chain up to it.
    pub crc: u32,
}

/// Where the live part of a stream begins, and where it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamHead {
    pub stream: StreamId,
    /// Slot of the first live batch, which lies at its beginning.
    pub slot: u32,
    /// Sequence of that batch. Above 1 it is known to have been flushed.
    pub sequence: u64,
    /// Checksum of the header before it, 0 for batch 1.
    pub previous_crc: u32,
    /// None: the log was not closed.
    pub tail: Option<StreamTail>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Raw {
    version: U16,
    core: U16,
    slot: U32,
    boot: U64,
    salt: U64,
    sequence: U64,
    previous_crc: U32,
    reserved: U32,
}
/// Follows in an anchor of version 2.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawTail {
    sequence: U64,
    crc: U32,
    reserved: U32,
}

/// Without a tail.
const VERSION_OPEN: u16 = 1;
/// With a tail.
const VERSION_ENDED: u16 = 2;
/// Starts and sequences: one of a damaged device that could not rise is refused.
const COUNTS: Range<u64> = 1..1 << 63;

impl StreamHead {
    /// The record in the stream's anchor. An empty record is a free anchor.
    pub fn encode(&self) -> Vec<u8> {
        let raw = Raw {
            version: U16::new(if self.tail.is_some() { VERSION_ENDED } else { VERSION_OPEN }),
            core: U16::new(self.stream.core),
            slot: U32::new(self.slot),
            boot: U64::new(self.stream.boot),
            salt: U64::new(self.stream.salt),
            sequence: U64::new(self.sequence),
            previous_crc: U32::new(self.previous_crc),
            reserved: U32::new(0),
        };
        let mut bytes = raw.as_bytes().to_vec();
        if let Some(tail) = self.tail {
            let raw = RawTail { sequence: U64::new(tail.sequence), crc: U32::new(tail.crc), reserved: U32::new(0) };
            bytes.extend(raw.as_bytes());
        }
        bytes
    }

    /// None where the bytes are no head.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (raw, rest) = Raw::ref_from_prefix(bytes).ok()?;
        let tail = match raw.version.get() {
            VERSION_OPEN if rest.is_empty() => None,
            VERSION_ENDED => Some(decode_tail(rest).filter(|tail| tail.sequence >= raw.sequence.get())?),
            _ => return None,
        };
        let counts = [raw.boot.get(), raw.sequence.get()].iter().all(|count| COUNTS.contains(count));
        let fits = raw.reserved.get() == 0 && counts;
        fits.then(|| StreamHead {
            stream: StreamId { boot: raw.boot.get(), core: raw.core.get(), salt: raw.salt.get() },
            slot: raw.slot.get(),
            sequence: raw.sequence.get(),
            previous_crc: raw.previous_crc.get(),
            tail,
        })
    }
}

fn decode_tail(bytes: &[u8]) -> Option<StreamTail> {
    let raw = RawTail::ref_from_bytes(bytes).ok()?;
    let fits = raw.reserved.get() == 0 && COUNTS.contains(&raw.sequence.get());
    fits.then(|| StreamTail { sequence: raw.sequence.get(), crc: raw.crc.get() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_these_bytes() {
        let head = StreamHead {
            stream: StreamId { boot: 2, core: 1, salt: 0x0807_0605_0403_0201 },
            slot: 9,
            sequence: 77,
            previous_crc: 0x0d0c_0b0a,
            tail: None,
        };
        let mut expected = vec![1, 0, 1, 0, 9, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([1, 2, 3, 4, 5, 6, 7, 8, 77, 0, 0, 0, 0, 0, 0, 0, 10, 11, 12, 13, 0, 0, 0, 0]);
        assert_eq!(head.encode(), expected);
        assert_eq!(StreamHead::decode(&expected), Some(head));
        assert_eq!(StreamHead::decode(&expected[1..]), None);
        expected[37] = 1;
        assert_eq!(StreamHead::decode(&expected), None);
    }

    #[test]
    fn the_head_of_an_ended_stream_has_these_bytes() {
        let stream = StreamId { boot: 2, core: 1, salt: 0x0807_0605_0403_0201 };
        let tail = Some(StreamTail { sequence: 99, crc: 0x1d1c_1b1a });
        let head = StreamHead { stream, slot: 9, sequence: 77, previous_crc: 0x0d0c_0b0a, tail };
        let mut expected = vec![2, 0, 1, 0, 9, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([1, 2, 3, 4, 5, 6, 7, 8, 77, 0, 0, 0, 0, 0, 0, 0, 10, 11, 12, 13, 0, 0, 0, 0]);
        expected.extend([99, 0, 0, 0, 0, 0, 0, 0, 26, 27, 28, 29, 0, 0, 0, 0]);
        assert_eq!(head.encode(), expected);
        assert_eq!(StreamHead::decode(&expected), Some(head));
        // Its version says how long it is, and it cannot end before it begins.
        for (at, byte) in [(0, 1), (0, 3), (40, 76), (47, 0x80), (52, 1)] {
            let mut wrong = expected.clone();
            wrong[at] = byte;
            assert_eq!(StreamHead::decode(&wrong), None, "{at} {byte}");
        }
        assert_eq!(StreamHead::decode(&expected[..40]), None);
    }
}
