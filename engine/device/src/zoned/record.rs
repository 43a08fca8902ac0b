//! Records of the journal: a block that was written, or a range of zeros, with the place that it is for.

use crate::transfer::crc32c;
use cfs_seam::{BLOCK_BYTES, IoBuf};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const MAGIC: [u8; 4] = *b"cfsJ";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
const CRC_AT: usize = HEADER_BYTES - 4;
const KIND_BLOCK: u16 = 1;
const KIND_ZEROS: u16 = 2;
const KIND_WHOLE: u16 = 3;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    version: U16,
    kind: U16,
    sequence: U64,
    epoch: U64,
    offset: U64,
    bytes: U32,
    body_crc: U32,
    reserved: [u8; 20],
    crc: U32,
}
const _: () = assert!(size_of::<Raw>() == HEADER_BYTES);

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// The block at `offset` begins with these bytes; the rest of it is zeros.
    Block { offset: u64, bytes: Vec<u8> },
    /// So many bytes from `offset` on are zeros.
    Zeros { offset: u64, bytes: u32 },
    /// The zone has everything that was alive in the one that it replaces.
    Whole,
}

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Of several for a block the highest counts.
    pub sequence: u64,
    /// Rises each time one zone of the pair replaces the other.
    pub epoch: u64,
    pub what: What,
}

impl Record {
    /// Bytes on the device.
    pub fn padded_bytes(&self) -> usize {
        let body = match &self.what {
            What::Block { bytes, .. } => bytes.len(),
            What::Zeros { .. } | What::Whole => 0,
        };
        (HEADER_BYTES + body).next_multiple_of(BLOCK_BYTES)
    }

    fn encode(&self, out: &mut [u8]) {
        let mut raw = Raw::new_zeroed();
        raw.magic = MAGIC;
        raw.version = U16::new(VERSION);
        raw.sequence = U64::new(self.sequence);
        raw.epoch = U64::new(self.epoch);
        out.fill(0);
        let (kind, offset, bytes) = match &self.what {
            What::Block { offset, bytes } => {
                out[HEADER_BYTES..HEADER_BYTES + bytes.len()].copy_from_slice(bytes);
                raw.body_crc = U32::new(crc32c(bytes));
                (KIND_BLOCK, *offset, u32::try_from(bytes.len()).expect("at most a block"))
            }
            What::Zeros { offset, bytes } => (KIND_ZEROS, *offset, *bytes),
            What::Whole => (KIND_WHOLE, 0, 0),
        };
        raw.kind = U16::new(kind);
        raw.offset = U64::new(offset);
        raw.bytes = U32::new(bytes);
        raw.crc = U32::new(crc32c(&raw.as_bytes()[..CRC_AT]));
        out[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
    }

    /// The intact record that `bytes` begin with, for a head of `head_bytes`.
    pub fn decode(bytes: &[u8], head_bytes: u64) -> Option<Record> {
        let (raw, rest) = Raw::ref_from_prefix(bytes).ok()?;
        let is_intact = raw.magic == MAGIC && raw.crc.get() == crc32c(&bytes[..CRC_AT]);
        if !is_intact || raw.version.get() != VERSION || raw.reserved != [0; 20] {
            return None;
        }
        let block = u64::try_from(BLOCK_BYTES).expect("4 KiB");
        let (offset, length) = (raw.offset.get(), raw.bytes.get());
        let fits = |length: u64| {
            offset.is_multiple_of(block) && offset.checked_add(length).is_some_and(|end| end <= head_bytes)
        };
        let what = match raw.kind.get() {
            KIND_BLOCK if fits(block) => {
                let body = rest.get(..usize::try_from(length).ok().filter(|length| *length <= BLOCK_BYTES)?)?;
                (crc32c(body) == raw.body_crc.get()).then(|| What::Block { offset, bytes: body.to_vec() })?
            }
            KIND_ZEROS if fits(length.into()) && u64::from(length).is_multiple_of(block) => {
                What::Zeros { offset, bytes: length }
            }
            KIND_WHOLE => What::Whole,
            _ => return None,
        };
        Some(Record { sequence: raw.sequence.get(), epoch: raw.epoch.get(), what })
    }
}

/// Records one behind the other, as they are written.
pub(super) fn encode_all(records: &[Record]) -> IoBuf {
    let mut buf = IoBuf::stale(records.iter().map(Record::padded_bytes).sum());
    let mut at = 0;
    for record in records {
        let end = at + record.padded_bytes();
        record.encode(&mut buf[at..end]);
        at = end;
    }
    buf
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: u64 = 64 << 20;

    #[test]
    fn a_record_has_these_bytes() {
        let what = What::Block { offset: 0x1000, bytes: vec![7, 8, 9] };
        let block = Record { sequence: 5, epoch: 3, what };
        let buf = encode_all(std::slice::from_ref(&block));
        let mut expected =
            b"cfsJ\x01\x00\x01\x00\x05\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x00\x10\0\0\0\0\0\0\x03\0\0\0".to_vec();
        expected.extend(crc32c(&[7, 8, 9]).to_le_bytes());
        expected.extend([0; 20]);
        expected.extend(crc32c(&expected).to_le_bytes());
        expected.extend([7, 8, 9]);
        expected.resize(4096, 0);
        assert_eq!(&buf[..], &expected[..]);
        assert_eq!(Record::decode(&buf, HEAD), Some(block));
        for at in [0, 4, 6, 8, 25, 33, 40, 64, 66] {
            let mut wrong = expected.clone();
            wrong[at] ^= 1;
            assert_eq!(Record::decode(&wrong, HEAD), None, "{at}");
        }
        assert_eq!(Record::decode(&expected, 0x1fff), None, "outside of the head");
    }

    #[test]
    fn what_is_longer_than_a_block_allows_takes_two() {
        let full = Record { sequence: 1, epoch: 1, what: What::Block { offset: 0, bytes: vec![1; 4096] } };
        let zeros = Record { sequence: 2, epoch: 1, what: What::Zeros { offset: 4096, bytes: 1 << 20 } };
        let whole = Record { sequence: 3, epoch: 1, what: What::Whole };
        let records = [full, zeros, whole];
        let buf = encode_all(&records);
        assert_eq!(buf.len(), 4 * 4096);
        let found: Vec<_> = [0, 8192, 12288].iter().filter_map(|at| Record::decode(&buf[*at..], HEAD)).collect();
        assert_eq!(found, records);
        assert_eq!(Record::decode(&buf[4096..], HEAD), None);
    }
}
