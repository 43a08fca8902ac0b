//! Anchors: small records that are replaced atomically.
//!
//! Each entry has two copies. A write goes to the copy that is not the newest valid one, is
//! flushed, then goes to the other, flushed. So at any moment one copy is intact, and when
//! [`Anchors::write`] returns, both are: damage of one of them later loses nothing.

use crate::layout::{ANCHOR_COPY_BYTES, ANCHOR_ENTRIES, MEMBERS_ENTRY, STREAM_ENTRIES_FROM, STREAMS_MAX};
use crate::transfer::{crc32c, flush, read_at, write_at};
use crate::{DeviceError, GENERATIONS, Superblock};
use cfs_seam::{BLOCK_BYTES, Disk, IoBuf};
use cfs_types::GroupId;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const MAGIC: [u8; 4] = *b"cfsA";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
const COPY_BYTES: usize = 16 << 10;
const _: () = assert!(COPY_BYTES as u64 == ANCHOR_COPY_BYTES);
/// Longest record of an anchor, bytes.
pub const ANCHOR_BYTES_MAX: usize = COPY_BYTES - HEADER_BYTES;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    magic: [u8; 4],
    version: U16,
    entry: U16,
    device: [u8; 16],
    generation: U64,
    bytes: U32,
    body_crc: U32,
    reserved: [u8; 20],
    crc: U32,
}
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const CRC_AT: usize = HEADER_BYTES - 4;

/// Number of an anchor entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AnchorId(u16);

impl AnchorId {
    /// The entry of a group's manifest. Panics where the group does not exist.
    pub fn group(group: GroupId) -> Self {
        assert!(group.is_valid(), "no group {group}");
        AnchorId(group.get())
    }
    /// The entry of the n-th log stream; None from [`STREAMS_MAX`] on.
    pub fn stream(n: u16) -> Option<Self> {
        (n < STREAMS_MAX).then(|| AnchorId(STREAM_ENTRIES_FROM + n))
    }
    /// The entry of the list of a node's devices.
    pub const MEMBERS: AnchorId = AnchorId(MEMBERS_ENTRY);
    /// The raw number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What one copy turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyState {
    /// Nothing was ever written there.
    Blank,
    /// Intact.
    Valid {
        /// Rises with each write of the entry.
        generation: u64,
        /// The record.
        record: Vec<u8>,
    },
    /// Not intact, and why.
    Damaged(&'static str),
}

impl CopyState {
    fn generation(&self) -> Option<u64> {
        match self {
            CopyState::Valid { generation, .. } => Some(*generation),
            CopyState::Blank | CopyState::Damaged(_) => None,
        }
    }
}

/// Both copies of an entry as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnchorState {
    /// Copy A, then copy B.
    pub copies: [CopyState; 2],
}

impl AnchorState {
    fn newest(&self) -> Option<usize> {
        let [a, b] = [self.copies[0].generation(), self.copies[1].generation()];
        match (a, b) {
            (None, None) => None,
            (a, b) if b > a => Some(1),
            _ => Some(0),
        }
    }
    /// True when the entry was being written for the first time, or never was.
    fn never_written(&self) -> bool {
        self.newest().is_none() && self.copies.contains(&CopyState::Blank)
    }
}

struct Known {
    generation: u64,
    first: usize,
}

/// The anchors of a device. An entry is written by one task at a time.
#[derive(Clone)]
pub struct Anchors {
    disk: Rc<dyn Disk>,
    at: u64,
    device: [u8; 16],
    known: Rc<RefCell<BTreeMap<AnchorId, Known>>>,
}

impl Anchors {
    /// The anchors of the device that `superblock` describes.
    pub fn new(disk: Rc<dyn Disk>, superblock: &Superblock) -> Self {
        Anchors { disk, at: superblock.layout.anchors_at, device: superblock.device.bytes(), known: Rc::default() }
    }

    /// Device offsets of copies A and B.
    pub fn offsets(&self, id: AnchorId) -> [u64; 2] {
        assert!(id.0 < ANCHOR_ENTRIES, "checked when the id was made");
        let a = self.at + u64::from(id.0) * 2 * ANCHOR_COPY_BYTES;
        [a, a + ANCHOR_COPY_BYTES]
    }

    /// Both copies, for checkers; one that cannot be read counts as damaged. Reads only. An error: neither
    /// can be read.
    pub async fn inspect(&self, id: AnchorId) -> Result<AnchorState, DeviceError> {
        let [a, b] = self.offsets(id);
        let copies = match [self.read_copy(id, a).await, self.read_copy(id, b).await] {
            [Err(error), Err(_)] => return Err(error),
            copies => copies.map(|copy| copy.unwrap_or(CopyState::Damaged("the device does not give it"))),
        };
        Ok(AnchorState { copies })
    }

    async fn read_copy(&self, id: AnchorId, offset: u64) -> Result<CopyState, DeviceError> {
        let head = read_at(&*self.disk, offset, BLOCK_BYTES).await?;
        let fits = record_bytes(&head).is_none_or(|bytes| bytes <= BLOCK_BYTES - HEADER_BYTES);
        let whole = if fits { head } else { read_at(&*self.disk, offset, COPY_BYTES).await? };
        Ok(decode(self.device, id, &whole))
    }

    /// The newest intact record, or None where no write was ever completed. Reads only.
    pub async fn read(&self, id: AnchorId) -> Result<Option<Vec<u8>>, DeviceError> {
        let state = self.inspect(id).await?;
        self.settle(id, state).map(|newest| newest.map(|(record, _)| record))
    }

    /// As [`Anchors::read`], then makes both copies equal again where a crash or damage left only
    /// one. Whoever acts on a record at start takes this, or damage of that one copy would bring
    /// an older record back.
    pub async fn recover(&self, id: AnchorId) -> Result<Option<Vec<u8>>, DeviceError> {
        let state = self.inspect(id).await?;
        let Some((record, whole)) = self.settle(id, state)? else {
            return Ok(None);
        };
        if !whole {
            self.write(id, &record).await?;
        }
        Ok(Some(record))
    }

    /// Replaces the record; durable in both copies when it returns. After an error the device
    /// has failed, unless the record was too long.
    pub async fn write(&self, id: AnchorId, record: &[u8]) -> Result<(), DeviceError> {
        if record.len() > ANCHOR_BYTES_MAX {
            return Err(DeviceError::AnchorTooLong { entry: id.0, bytes: record.len() });
        }
        if !self.known.borrow().contains_key(&id) {
            self.read(id).await?;
        }
        let (generation, first) = {
            let mut known = self.known.borrow_mut();
            let entry = known.get_mut(&id).expect("read has noted it");
            entry.generation += 1;
            (entry.generation, std::mem::take(&mut entry.first))
        };
        let offsets = self.offsets(id);
        let mut buf = encode(self.device, id, generation, record);
        for offset in [offsets[first], offsets[1 - first]] {
            buf = write_at(&*self.disk, offset, buf).await?;
            flush(&*self.disk).await?;
        }
        Ok(())
    }

    /// Picks the newest copy and notes how to write next; the flag tells whether both copies hold it.
    fn settle(&self, id: AnchorId, state: AnchorState) -> Result<Option<(Vec<u8>, bool)>, DeviceError> {
        let whole = state.copies[0] == state.copies[1];
        let Some(newest) = state.newest() else {
            if !state.never_written() {
                let [offset_a, offset_b] = self.offsets(id);
                return Err(DeviceError::AnchorDamaged { entry: id.0, offset_a, offset_b });
            }
            self.known.borrow_mut().insert(id, Known { generation: 0, first: 0 });
            return Ok(None);
        };
        let [a, b] = state.copies;
        let copy = if newest == 0 { a } else { b };
        let CopyState::Valid { generation, record } = copy else {
            unreachable!("only a valid copy has a generation");
        };
        let first = if whole { 0 } else { 1 - newest };
        self.known.borrow_mut().insert(id, Known { generation, first });
        Ok(Some((record, whole)))
    }
}

fn encode(device: [u8; 16], id: AnchorId, generation: u64, record: &[u8]) -> IoBuf {
    let mut header = Header {
        magic: MAGIC,
        version: U16::new(VERSION),
        entry: U16::new(id.0),
        device,
        generation: U64::new(generation),
        bytes: U32::new(u32::try_from(record.len()).expect("at most 16 KiB")),
        body_crc: U32::new(crc32c(record)),
        reserved: [0; 20],
        crc: U32::new(0),
    };
    header.crc = U32::new(crc32c(&header.as_bytes()[..CRC_AT]));
    let bytes = HEADER_BYTES + record.len();
    let mut buf = IoBuf::zeroed(bytes.next_multiple_of(BLOCK_BYTES));
    buf[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    buf[HEADER_BYTES..bytes].copy_from_slice(record);
    buf
}

/// Length of the record as an unverified header says. None where there is no header.
fn record_bytes(head: &[u8]) -> Option<usize> {
    let (header, _) = Header::ref_from_prefix(head).ok()?;
    usize::try_from(header.bytes.get()).ok()
}

fn decode(device: [u8; 16], id: AnchorId, bytes: &[u8]) -> CopyState {
    let Ok((header, body)) = Header::ref_from_prefix(bytes) else {
        return CopyState::Damaged("length");
    };
    if bytes[..BLOCK_BYTES] == [0; BLOCK_BYTES] {
        return CopyState::Blank;
    }
    if header.crc.get() != crc32c(&bytes[..CRC_AT]) {
        return CopyState::Damaged("header checksum");
    }
    if header.magic != MAGIC || header.version.get() != VERSION || header.reserved != [0; 20] {
        return CopyState::Damaged("magic, version or reserved bytes");
    }
    if header.entry.get() != id.0 || header.device != device {
        return CopyState::Damaged("belongs elsewhere");
    }
    if !GENERATIONS.contains(&header.generation.get()) {
        return CopyState::Damaged("generation");
    }
    let record = usize::try_from(header.bytes.get()).ok().and_then(|n| body.get(..n));
    match record {
        Some(record) if crc32c(record) == header.body_crc.get() => {
            CopyState::Valid { generation: header.generation.get(), record: record.to_vec() }
        }
        Some(_) => CopyState::Damaged("record checksum"),
        None => CopyState::Damaged("record length"),
    }
}

#[cfg(test)]
mod tests;
