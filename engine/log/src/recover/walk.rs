//! Following one stream from its head to its end.
//!
//! Each batch must continue the one before it. Where the chain breaks, every place is searched
//! where a later batch of the stream can lie; if one says that the missing batch had been flushed,
//! this is damage, else a torn tail.

use super::Found;
use crate::LogError;
use crate::batch::{self, Header};
use crate::record::{Origin, Position};
use crate::stream::StreamHead;
use cfs_device::{Layout, read_at};
use cfs_seam::{BLOCK_BYTES, Disk, IoBuf, gather};

/// First blocks of slots read at once.
pub(super) const READS_AT_ONCE: usize = 32;

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamEnd {
    /// The log was closed.
    Clean,
    /// The process or the machine stopped; every batch that was begun is whole.
    Cut,
    /// As `Cut`, and the last batch is not whole. It had not been acknowledged.
    Torn,
}

/// A stream as it lies on the device.
pub(super) struct Walked {
    pub head: StreamHead,
    /// Slots that hold its batches, in order.
    pub slots: Vec<u32>,
    /// The last intact batch.
    pub through: u64,
    /// The last batch that an intact batch of the chain, or the anchor, calls flushed. What only a
    /// torn batch behind the end proves is not counted: its place is free for others.
    pub proven: u64,
    pub end: StreamEnd,
    /// Where the chain ended.
    pub end_at: u64,
    /// Bytes of its batches.
    pub bytes: u64,
    pub found: Vec<Found>,
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    walked: Walked,
    next_slot: Option<u32>,
    previous_crc: u32,
    is_end: bool,
}

/// Reads the stream that begins at `head`. Memory: one slot, and what is found.
pub(super) async fn walk(disk: &dyn Disk, layout: &Layout, head: StreamHead) -> Result<Walked, LogError> {
    // The head moves only to a batch that has been flushed, and names its tail only once that is.
    let first = if head.sequence > 1 { head.sequence } else { 0 };
    let proven = head.tail.map_or(first, |tail| tail.sequence);
    let walked = Walked {
        head,
        slots: Vec::new(),
        through: head.sequence - 1,
        proven,
        end: StreamEnd::Cut,
        end_at: 0,
        bytes: 0,
        found: Vec::new(),
    };
    let mut walk = Walk { disk, layout, walked, next_slot: None, previous_crc: head.previous_crc, is_end: false };
    let mut slot = head.slot;
    loop {
        if u64::from(slot) >= layout.log_slots || walk.walked.slots.contains(&slot) {
            return Err(walk.damage(slot.min(walk.last_slot()), 0, "the next slot is impossible"));
        }
        let buf = walk.read_slot(slot).await?;
        let at = walk.take_batches(slot, &buf)?;
        // A slot of which nothing was taken is where the chain ends: its first batch may be torn behind a
        // header that is whole, and would be gone on to again and again.
        if at > 0 && walk.continues_in_next().await? {
            slot = walk.next_slot.expect("it continues there");
            continue;
        }
        walk.finish(slot, at, &buf).await?;
        return Ok(walk.walked);
    }
}

impl Walk<'_> {
    fn last_slot(&self) -> u32 {
        u32::try_from(self.layout.log_slots - 1).expect("checked by the layout")
    }

    fn damage(&self, slot: u32, at: usize, reason: &'static str) -> LogError {
        let stream = self.walked.head.stream;
        LogError::Damaged {
            boot: stream.boot,
            core: stream.core,
            slot,
            offset: self.layout.slot_at(slot) + bytes_u64(at),
            sequence: self.walked.through + 1,
            reason,
        }
    }

    async fn read_slot(&self, slot: u32) -> Result<IoBuf, LogError> {
        let bytes = usize::try_from(self.layout.log_slot_bytes).expect("at most 64 MiB");
        Ok(read_at(self.disk, self.layout.slot_at(slot), bytes).await?)
    }

    fn is_next(&self, header: &Header) -> bool {
        header.stream == self.walked.head.stream
            && header.sequence == self.walked.through + 1
            && header.previous_crc == self.previous_crc
            && self.walked.head.tail.is_none_or(|tail| tail.sequence != header.sequence || tail.crc == header.crc)
    }

    /// Takes batches from the beginning of the slot; returns where they end.
    fn take_batches(&mut self, slot: u32, buf: &[u8]) -> Result<usize, LogError> {
        let mut at = 0;
        while at < buf.len() {
            let Some(header) = batch::parse_header(&buf[at..]).filter(|header| self.is_next(header)) else {
                break;
            };
            let Some(body) = batch::body(&header, &buf[at..]) else {
                break;
            };
            let body_at = self.layout.slot_at(slot) + bytes_u64(at + batch::BATCH_HEADER_BYTES);
            if self.take_records(&header, body, body_at).is_none() {
                return Err(self.damage(slot, at, "intact batch with malformed records"));
            }
            if at == 0 {
                self.walked.slots.push(slot);
            }
            self.walked.through = header.sequence;
            self.walked.proven = self.walked.proven.max(header.durable_through);
            self.walked.bytes += header.batch_bytes();
            self.previous_crc = header.crc;
            self.next_slot = Some(header.next_slot);
            self.is_end = header.is_end;
            at += usize::try_from(header.batch_bytes()).expect("within the slot");
        }
        Ok(at)
    }

    fn take_records(&mut self, header: &Header, body: &[u8], body_at: u64) -> Option<()> {
        for (ordinal, parsed) in (0..).zip(batch::records(header, body)?) {
            let here =
                Origin { boot: header.stream.boot, core: header.stream.core, sequence: header.sequence, ordinal };
            let payload = if parsed.kind == crate::RecordKind::Entry { Vec::new() } else { parsed.payload.to_vec() };
            self.walked.found.push(Found {
                origin: parsed.origin.unwrap_or(here),
                sequence: header.sequence,
                group: parsed.group,
                kind: parsed.kind,
                epoch: parsed.epoch,
                term: parsed.term,
                index: parsed.index,
                position: Position {
                    at: body_at + bytes_u64(parsed.payload_at),
                    bytes: u32::try_from(parsed.payload.len()).ok()?,
                    crc: parsed.payload_crc,
                },
                payload,
                stream: 0,
                rewrite: false,
            });
        }
        Some(())
    }

    async fn continues_in_next(&self) -> Result<bool, LogError> {
        let Some(slot) = self.next_slot.filter(|slot| u64::from(*slot) < self.layout.log_slots) else {
            return Ok(false);
        };
        if self.walked.slots.contains(&slot) {
            return Ok(false);
        }
        let block = read_at(self.disk, self.layout.slot_at(slot), BLOCK_BYTES).await?;
        Ok(batch::parse_header(&block).is_some_and(|header| self.is_next(&header)))
    }

    /// The chain ended at `at` of `slot`: damage or an end?
    async fn finish(&mut self, slot: u32, at: usize, buf: &[u8]) -> Result<(), LogError> {
        self.walked.end_at = self.layout.slot_at(slot) + bytes_u64(at);
        let here = self.evidence(&buf[at..]);
        if here.proven > self.walked.through {
            return Err(self.damage(slot, at, "a batch is missing"));
        }
        self.look_elsewhere(slot, at).await?;
        if self.walked.proven > self.walked.through {
            return Err(self.missing_by_anchor(slot, at, buf.len()));
        }
        self.walked.end = match (self.is_end, here.torn) {
            (true, _) => StreamEnd::Clean,
            (false, true) => StreamEnd::Torn,
            (false, false) => StreamEnd::Cut,
        };
        Ok(())
    }

    /// The anchor names a batch behind the end of the chain, which is at `at` of `slot`.
    fn missing_by_anchor(&self, slot: u32, at: usize, slot_bytes: usize) -> LogError {
        let reason = match self.walked.head.tail {
            Some(_) => "missing, but the stream's anchor says that it ended later",
            None => "the batch that the stream's anchor names is missing",
        };
        let next = self.next_slot.filter(|next| at == slot_bytes && *next <= self.last_slot());
        next.map_or_else(|| self.damage(slot, at, reason), |next| self.damage(next, 0, reason))
    }

    /// The slot that was named in advance may hold later batches anywhere, other slots have them at
    /// their beginning.
    async fn look_elsewhere(&self, ended_in: u32, at: usize) -> Result<(), LogError> {
        let slots: Vec<u32> = (0..=self.last_slot()).filter(|slot| *slot != ended_in).collect();
        let reads = slots.iter().map(|slot| read_at(self.disk, self.layout.slot_at(*slot), BLOCK_BYTES));
        let blocks = gather(reads, READS_AT_ONCE).await;
        for (slot, bytes) in slots.into_iter().zip(blocks) {
            let whole = self.next_slot == Some(slot);
            let first = self.evidence(&bytes?);
            let all = if whole { self.evidence(&self.read_slot(slot).await?) } else { first };
            if all.proven > self.walked.through {
                // The missing batch was the first of the next slot, or the last of this one.
                let (slot, at) = if whole && !first.torn { (slot, 0) } else { (ended_in, at) };
                return Err(self.damage(slot, at, "a batch is missing"));
            }
        }
        Ok(())
    }

    fn evidence(&self, bytes: &[u8]) -> Evidence {
        let mut evidence = Evidence { proven: 0, torn: false };
        for block in bytes.chunks(BLOCK_BYTES) {
            let Some(header) = batch::parse_header(block) else { continue };
            if header.stream == self.walked.head.stream && header.sequence > self.walked.through {
                evidence.proven = evidence.proven.max(header.durable_through);
                evidence.torn = true;
            }
        }
        evidence
    }
}

#[derive(Clone, Copy)]
struct Evidence {
    /// Highest batch that a later one calls flushed.
    proven: u64,
    /// A later batch was begun.
    torn: bool,
}

fn bytes_u64(n: usize) -> u64 {
    u64::try_from(n).expect("a usize fits 64 bits")
}
