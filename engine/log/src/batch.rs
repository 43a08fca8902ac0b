//! Batches: what one write puts on the device.
//!
//! Header, records, zeros up to the block. The header's checksum covers the body's, and the next
//! batch carries it, so that a stream is a chain.

use crate::record::{self, Origin, Parsed, Record};
use crate::stream::StreamId;
use cfs_device::crc32c;
use cfs_seam::{BLOCK_BYTES, IoBuf};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const MAGIC: [u8; 4] = *b"cfsL";
const VERSION: u16 = 1;
const FLAG_END: u16 = 1;
pub(crate) const BATCH_HEADER_BYTES: usize = 128;
const CRC_AT: usize = BATCH_HEADER_BYTES - 4;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    version: U16,
    flags: U16,
    salt: U64,
    boot: U64,
    core: U16,
    reserved_a: U16,
    next_slot: U32,
    sequence: U64,
    durable_through: U64,
    previous_crc: U32,
    body_bytes: U32,
    records: U32,
    body_crc: U32,
    key_id: U32,
    nonce: [u8; 12],
    tag: [u8; 16],
    reserved_b: [u8; 28],
    crc: U32,
}
const _: () = assert!(size_of::<Raw>() == BATCH_HEADER_BYTES);

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub stream: StreamId,
    pub sequence: u64,
    /// The batches up to this one had been flushed when this one was written.
    pub durable_through: u64,
    /// Checksum of the header before.
    pub previous_crc: u32,
    /// Where the stream goes on when this slot is full.
    pub next_slot: u32,
    /// The stream ends here on purpose.
    pub is_end: bool,
    pub body_bytes: u32,
    pub records: u32,
    pub body_crc: u32,
    /// Checksum of this header.
    pub crc: u32,
}

impl Header {
    /// Bytes of the whole batch on the device.
    pub fn batch_bytes(&self) -> u64 {
        (u64::from(self.body_bytes) + BATCH_HEADER_BYTES as u64).next_multiple_of(BLOCK_BYTES as u64)
    }
}

/// Bytes on the device of a batch whose records take `body_bytes`.
pub(crate) fn padded_bytes(body_bytes: usize) -> usize {
    (BATCH_HEADER_BYTES + body_bytes).next_multiple_of(BLOCK_BYTES)
}

/// A batch under construction, in the buffer that goes to the device.
pub(crate) struct Body {
    buf: IoBuf,
    /// Bytes so far, the header's among them.
    used: usize,
    records: u32,
}

impl Body {
    /// Without records; there is room for `body_bytes` bytes of them.
    pub fn with_room(body_bytes: usize) -> Self {
        Body { buf: IoBuf::stale(padded_bytes(body_bytes)), used: BATCH_HEADER_BYTES, records: 0 }
    }

    /// Adds a record; returns its ordinal, the offset of its payload in the batch and the payload's
    /// checksum. Panics where there is no room for it.
    pub fn push(&mut self, record: &Record, origin: Option<Origin>) -> (u32, usize, u32) {
        let (ordinal, at) = (self.records, self.used);
        let encoded = record::encode(record, origin, &mut self.buf[at..]);
        self.records += 1;
        self.used += encoded.bytes;
        (ordinal, at + encoded.payload_at, encoded.payload_crc)
    }

    /// The batch as it goes to the device, and its header's checksum. The lengths and checksums in
    /// `header` are filled in here.
    pub fn seal(mut self, header: &Header) -> (IoBuf, u32) {
        let body = &self.buf[BATCH_HEADER_BYTES..self.used];
        let mut raw = Raw::new_zeroed();
        raw.magic = MAGIC;
        raw.version = U16::new(VERSION);
        raw.flags = U16::new(if header.is_end { FLAG_END } else { 0 });
        raw.salt = U64::new(header.stream.salt);
        raw.boot = U64::new(header.stream.boot);
        raw.core = U16::new(header.stream.core);
        raw.next_slot = U32::new(header.next_slot);
        raw.sequence = U64::new(header.sequence);
        raw.durable_through = U64::new(header.durable_through);
        raw.previous_crc = U32::new(header.previous_crc);
        raw.body_bytes = U32::new(u32::try_from(body.len()).expect("bounded by the slot"));
        raw.records = U32::new(self.records);
        raw.body_crc = U32::new(crc32c(body));
        let crc = crc32c(&raw.as_bytes()[..CRC_AT]);
        raw.crc = U32::new(crc);
        self.buf[..BATCH_HEADER_BYTES].copy_from_slice(raw.as_bytes());
        self.buf.set_len(self.used.next_multiple_of(BLOCK_BYTES));
        self.buf[self.used..].fill(0);
        (self.buf, crc)
    }
}

/// Reads a header. None where the bytes are no intact header; the body is not looked at.
pub(crate) fn parse_header(bytes: &[u8]) -> Option<Header> {
    let (raw, _) = Raw::ref_from_prefix(bytes).ok()?;
    if raw.magic != MAGIC || raw.crc.get() != crc32c(&bytes[..CRC_AT]) {
        return None;
    }
    let reserved = raw.reserved_a.get() != 0 || raw.reserved_b != [0; 28];
    let sealed = raw.key_id.get() != 0 || raw.nonce != [0; 12] || raw.tag != [0; 16];
    if raw.version.get() != VERSION || raw.flags.get() & !FLAG_END != 0 || reserved || sealed {
        return None;
    }
    Some(Header {
        stream: StreamId { boot: raw.boot.get(), core: raw.core.get(), salt: raw.salt.get() },
        sequence: raw.sequence.get(),
        durable_through: raw.durable_through.get(),
        previous_crc: raw.previous_crc.get(),
        next_slot: raw.next_slot.get(),
        is_end: raw.flags.get() & FLAG_END != 0,
        body_bytes: raw.body_bytes.get(),
        records: raw.records.get(),
        body_crc: raw.body_crc.get(),
        crc: raw.crc.get(),
    })
}

/// The body that `header` describes; `bytes` begin with the header. None where it is cut off or
/// fails its checksum.
pub(crate) fn body<'a>(header: &Header, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(header.body_bytes).ok()?;
    let body = bytes.get(BATCH_HEADER_BYTES..)?.get(..length)?;
    (crc32c(body) == header.body_crc).then_some(body)
}

/// All records of an intact body; None where it holds something else than the header says.
pub(crate) fn records<'a>(header: &Header, body: &'a [u8]) -> Option<Vec<Parsed<'a>>> {
    // Each record takes at least its header, so the count is bounded by the body.
    if u64::from(header.records) * record::RECORD_BYTES as u64 > u64::try_from(body.len()).ok()? {
        return None;
    }
    let mut records = Vec::with_capacity(usize::try_from(header.records).ok()?);
    let mut at = 0;
    for _ in 0..header.records {
        let (parsed, next) = record::parse(body, at)?;
        records.push(parsed);
        at = next;
    }
    (at == body.len()).then_some(records)
}

#[cfg(test)]
mod tests;
