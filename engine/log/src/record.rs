//! Records and their bytes inside a batch.

use bytes::Bytes;
use cfs_device::crc32c;
use cfs_types::{GroupId, LogIndex, MoveEpoch, Term};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a record is. The numbers are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RecordKind {
    /// A Raft entry. A later one at index i supersedes all of its group at or above i.
    Entry,
    /// The group's Raft term, vote and commit. The newest one survives until superseded.
    HardState,
    /// The group's voters. The newest one survives until superseded.
    ConfState,
    /// A node's own fact about the group; `index` is the group's local sequence.
    Local,
    /// A core takes the group over at a raised epoch; `index` is the last entry it takes over:
    /// entries above it of earlier epochs are void. The newest one survives until superseded.
    Adopt,
}

impl RecordKind {
    const ALL: [RecordKind; 5] =
        [RecordKind::Entry, RecordKind::HardState, RecordKind::ConfState, RecordKind::Local, RecordKind::Adopt];

    fn code(self) -> u8 {
        match self {
            RecordKind::Entry => 1,
            RecordKind::HardState => 2,
            RecordKind::ConfState => 3,
            RecordKind::Local => 4,
            RecordKind::Adopt => 5,
        }
    }
    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
    /// Whether only the newest of a group counts, and the log itself carries it along.
    pub(crate) fn is_state(self) -> bool {
        matches!(self, RecordKind::HardState | RecordKind::ConfState | RecordKind::Adopt)
    }
}

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Whose it is.
    pub group: GroupId,
    /// What it is.
    pub kind: RecordKind,
    /// The owner's move epoch when it was written.
    pub epoch: MoveEpoch,
    /// Raft term.
    pub term: Term,
    /// Raft index, local sequence, or 0, as the kind says.
    pub index: LogIndex,
    /// The caller's bytes.
    pub payload: Bytes,
}

/// Where a record was first written: its place in the order of its group. Copies carry it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Origin {
    pub boot: u64,
    pub core: u16,
    pub sequence: u64,
    pub ordinal: u32,
}

/// Where a payload lies, and its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub at: u64,
    pub bytes: u32,
    pub crc: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawRecord {
    kind: u8,
    flags: u8,
    group: U16,
    epoch: U32,
    term: U64,
    index: U64,
    bytes: U32,
    payload_crc: U32,
}
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawOrigin {
    boot: U64,
    sequence: U64,
    core: U16,
    reserved: U16,
    ordinal: U32,
}
pub(crate) const RECORD_BYTES: usize = 32;
pub(crate) const ORIGIN_BYTES: usize = 24;
const _: () = assert!(size_of::<RawRecord>() == RECORD_BYTES && size_of::<RawOrigin>() == ORIGIN_BYTES);
const FLAG_COPY: u8 = 1;

/// Bytes that a record takes in a batch.
pub(crate) fn encoded_bytes(payload_bytes: usize, is_copy: bool) -> usize {
    RECORD_BYTES + if is_copy { ORIGIN_BYTES } else { 0 } + payload_bytes
}

/// A record's bytes in a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Encoded {
    /// Where the payload begins.
    pub payload_at: usize,
    pub payload_crc: u32,
    /// Bytes in all.
    pub bytes: usize,
}

/// Writes the record to the front of `out`. Panics where that is shorter than [`encoded_bytes`].
pub(crate) fn encode(record: &Record, origin: Option<Origin>, out: &mut [u8]) -> Encoded {
    let payload_crc = crc32c(&record.payload);
    let raw = RawRecord {
        kind: record.kind.code(),
        flags: if origin.is_some() { FLAG_COPY } else { 0 },
        group: U16::new(record.group.get()),
        epoch: U32::new(record.epoch.get()),
        term: U64::new(record.term.get()),
        index: U64::new(record.index.get()),
        bytes: U32::new(u32::try_from(record.payload.len()).expect("bounded by the longest record")),
        payload_crc: U32::new(payload_crc),
    };
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
        at
    };
    let mut payload_at = put(raw.as_bytes());
    if let Some(origin) = origin {
        let raw = RawOrigin {
            boot: U64::new(origin.boot),
            sequence: U64::new(origin.sequence),
            core: U16::new(origin.core),
            reserved: U16::new(0),
            ordinal: U32::new(origin.ordinal),
        };
        payload_at = put(raw.as_bytes());
    }
    Encoded { payload_at, payload_crc, bytes: put(&record.payload) }
}

/// A record read from a batch; the payload stays where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parsed<'a> {
    pub group: GroupId,
    pub kind: RecordKind,
    pub epoch: MoveEpoch,
    pub term: Term,
    pub index: LogIndex,
    pub origin: Option<Origin>,
    pub payload: &'a [u8],
    /// Offset of the payload in the bytes that were parsed.
    pub payload_at: usize,
    pub payload_crc: u32,
}

/// Reads the record that begins at `at`; also returns where the next one begins. None where the
/// bytes are no record.
pub(crate) fn parse(bytes: &[u8], at: usize) -> Option<(Parsed<'_>, usize)> {
    let (raw, rest) = RawRecord::ref_from_prefix(bytes.get(at..)?).ok()?;
    let group = GroupId::new(raw.group.get());
    if raw.flags & !FLAG_COPY != 0 || !group.is_valid() {
        return None;
    }
    let (origin, rest) = if raw.flags & FLAG_COPY == 0 {
        (None, rest)
    } else {
        let (origin, rest) = RawOrigin::ref_from_prefix(rest).ok()?;
        if origin.reserved.get() != 0 {
            return None;
        }
        let origin = Origin {
            boot: origin.boot.get(),
            core: origin.core.get(),
            sequence: origin.sequence.get(),
            ordinal: origin.ordinal.get(),
        };
        (Some(origin), rest)
    };
    let payload = rest.get(..usize::try_from(raw.bytes.get()).ok()?)?;
    let payload_at = bytes.len() - rest.len();
    let parsed = Parsed {
        group,
        kind: RecordKind::from_code(raw.kind)?,
        epoch: MoveEpoch::new(raw.epoch.get()),
        term: Term::new(raw.term.get()),
        index: LogIndex::new(raw.index.get()),
        origin,
        payload,
        payload_at,
        payload_crc: raw.payload_crc.get(),
    };
    Some((parsed, payload_at + payload.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Record {
        Record {
            group: GroupId::new(0x0102 - 2),
            kind: RecordKind::Local,
            epoch: MoveEpoch::new(3),
            term: Term::new(4),
            index: LogIndex::new(5),
            payload: Bytes::from_static(b"fact"),
        }
    }

    #[test]
    fn a_record_and_a_copy_have_these_bytes() {
        let mut plain = vec![4, 0, 0, 1, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
        plain.extend(crc32c(b"fact").to_le_bytes());
        let mut copy = plain.clone();
        copy[1] = 1;
        copy.extend([6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0]);
        for bytes in [&mut plain, &mut copy] {
            bytes.extend(b"fact");
        }
        let origin = Origin { boot: 6, core: 8, sequence: 7, ordinal: 9 };
        for (origin, expected) in [(None, plain), (Some(origin), copy)] {
            let mut out = vec![0; encoded_bytes(4, origin.is_some())];
            let encoded = encode(&sample(), origin, &mut out);
            assert_eq!(out, expected);
            assert_eq!(out.len(), encoded.bytes);
            let (parsed, end) = parse(&out, 0).expect("intact");
            let Encoded { payload_at, payload_crc, .. } = encoded;
            assert_eq!((parsed.payload_at, parsed.payload_crc, parsed.origin), (payload_at, payload_crc, origin));
            assert_eq!((parsed.kind, parsed.payload, end), (RecordKind::Local, &b"fact"[..], out.len()));
        }
    }

    #[test]
    fn hostile_lengths_and_kinds_are_no_records() {
        let mut out = vec![0; encoded_bytes(4, false)];
        encode(&sample(), None, &mut out);
        for (at, value) in [(0, 0), (0, 6), (1, 2), (3, 2), (27, 0xff), (24, 5)] {
            let mut bytes = out.clone();
            bytes[at] = value;
            assert_eq!(parse(&bytes, 0), None, "byte {at}");
        }
        for end in 0..out.len() {
            assert_eq!(parse(&out[..end], 0), None);
        }
    }
}
