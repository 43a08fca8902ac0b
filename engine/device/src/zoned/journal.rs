//! What is written again in place, on zones that can only be appended to.
//!
//! Each core has a pair of zones of its own and appends records to one of them. When that is long enough, and at the first
//! write of a process, the other one is reset, gets what is alive, is flushed, is said to be whole, is flushed again, and takes
//! its place: a zone is only reset while the other one of its pair is whole. At a start the records of all pairs are read, and of those
//! for one block the newest counts. A block is written by one core at a time (its owner's, while a server runs), so that
//! cores need not agree on an order; what a core knows of the others' journals is what was there when it came.

use super::record::{Record, What, encode_all};
use cfs_seam::{BLOCK_BYTES, DiskError, Durability, IoBuf, Lifetime, Zone, ZoneAction, ZoneState, ZonedDevice};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Pairs of zones: as many cores can write.
pub const JOURNALS: u16 = 4;
/// Zones before those of the log.
pub(super) const JOURNAL_ZONES: u32 = 2 * JOURNALS as u32;
/// Bytes before the first zone of the log: what the journals stand for.
pub const ZONED_HEAD_BYTES: u64 = 64 << 20;
/// A zone with so many bytes of records, or twice as many as are alive, is replaced.
const REPLACED_BYTES: u64 = 8 << 20;
/// Read and written at once.
const STRIDE_BYTES: usize = 1 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;

#[derive(Clone)]
struct Block {
    sequence: u64,
    pair: u16,
    /// Without the zeros at its end.
    bytes: Rc<[u8]>,
}

/// Where this core appends.
#[derive(Clone, Copy)]
struct Current {
    zone: u32,
    epoch: u64,
    at: u64,
}

pub(super) struct Journal {
    device: Rc<dyn ZonedDevice>,
    pair: u16,
    state: RefCell<State>,
}

struct State {
    /// By offset.
    blocks: BTreeMap<u64, Block>,
    sequence: u64,
    current: Option<Current>,
    /// Of each zone of the pair: the epoch of which it is whole, and whether the device counts it as active.
    zones: [(Option<u64>, bool); 2],
    /// The highest epoch of the pair.
    epoch: u64,
    /// Zones that were reset.
    resets: u64,
    /// Zones that are not empty, without any record in them.
    is_foreign: bool,
}

impl Journal {
    /// Reads the journals of all cores; this one will write that of pair `pair`.
    pub async fn open(device: Rc<dyn ZonedDevice>, pair: u16, report: &[Zone]) -> Result<Self, (u64, DiskError)> {
        let mut state = State {
            blocks: BTreeMap::new(),
            sequence: 0,
            current: None,
            zones: [(None, false); 2],
            epoch: 0,
            resets: 0,
            is_foreign: false,
        };
        let mut in_use = false;
        for (number, zone) in (0..JOURNAL_ZONES).zip(report) {
            let found = scan(&*device, number, zone, &mut state).await?;
            in_use |= zone.state != ZoneState::Empty;
            if number / 2 == u32::from(pair) {
                let (whole, epoch) = found;
                state.zones[usize::from(number % 2 == 1)] = (whole, zone.state == ZoneState::Active);
                state.epoch = state.epoch.max(epoch);
            }
        }
        state.is_foreign = in_use && state.sequence == 0;
        Ok(Journal { device, pair, state: RefCell::new(state) })
    }

    /// Whether the zones hold something else than records.
    pub fn is_foreign(&self) -> bool {
        self.state.borrow().is_foreign
    }
    /// How many zones it has reset.
    pub fn resets(&self) -> u64 {
        self.state.borrow().resets
    }
    /// The zone that is being appended to.
    pub fn current(&self) -> Option<u32> {
        self.state.borrow().current.map(|current| current.zone)
    }

    /// What lies at `offset`.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        let state = self.state.borrow();
        for (at, out) in (offset..).step_by(BLOCK_BYTES).zip(buf.chunks_mut(BLOCK_BYTES)) {
            let bytes = state.blocks.get(&at).map_or(&[][..], |block| &block.bytes);
            out[..bytes.len()].copy_from_slice(bytes);
            out[bytes.len()..].fill(0);
        }
    }

    /// Appends what was written; one call at a time.
    pub async fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), DiskError> {
        let records = self.state.borrow_mut().records(offset, data);
        let bytes: usize = records.iter().map(Record::padded_bytes).sum();
        let bytes = u64::try_from(bytes).expect("64-bit lengths");
        let current = self.state.borrow().current;
        let mut current = match current {
            Some(current) if current.at + bytes <= self.state.borrow().limit() => current,
            _ => self.replace().await?,
        };
        self.append(&mut current, records.clone(), durability).await?;
        let mut state = self.state.borrow_mut();
        state.is_foreign = false;
        state.current = Some(current);
        records.iter().for_each(|record| state.note(record, self.pair));
        Ok(())
    }

    /// Makes the other zone of the pair the one that is appended to.
    async fn replace(&self) -> Result<Current, DiskError> {
        let (target, epoch, live) = {
            let mut state = self.state.borrow_mut();
            state.current = None;
            state.epoch += 1;
            (state.target(), state.epoch, state.live(self.pair))
        };
        let zone = |n: usize| u32::from(self.pair) * 2 + u32::try_from(n).expect("0 or 1");
        let other = 1 - target;
        // What was read need not be durable, where the process before this one was killed.
        self.device.flush().await?;
        if self.state.borrow().zones[other].1 {
            self.device.manage(zone(other), ZoneAction::Finish).await?;
            self.state.borrow_mut().zones[other].1 = false;
        }
        self.device.manage(zone(target), ZoneAction::Reset).await?;
        {
            let mut state = self.state.borrow_mut();
            state.zones[target] = (None, true);
            state.resets += 1;
        }
        let mut current = Current { zone: zone(target), epoch, at: 0 };
        self.append(&mut current, live, Durability::Flush).await?;
        self.device.flush().await?;
        let sequence = self.state.borrow_mut().next();
        let whole = Record { sequence, epoch, what: What::Whole };
        self.append(&mut current, vec![whole], Durability::Flush).await?;
        self.device.flush().await?;
        self.state.borrow_mut().zones[target] = (Some(epoch), true);
        Ok(current)
    }

    async fn append(&self, current: &mut Current, mut records: Vec<Record>, how: Durability) -> Result<(), DiskError> {
        records.iter_mut().for_each(|record| record.epoch = current.epoch);
        let start = u64::from(current.zone) * self.device.zones().stride_bytes;
        let mut rest = &records[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|record| {
                bytes += record.padded_bytes();
                bytes <= STRIDE_BYTES
            });
            let (now, later) = rest.split_at(fits.count());
            let buf = encode_all(now);
            let length = u64::try_from(buf.len()).expect("64-bit lengths");
            self.device.write(start + current.at, buf, how, Lifetime::Log).await.result?;
            current.at += length;
            rest = later;
        }
        Ok(())
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The zone of the pair that may be reset: not the one that is whole and the newest.
    fn target(&self) -> usize {
        let [(a, _), (b, _)] = self.zones;
        usize::from(a.is_some() && a >= b)
    }

    /// Bytes of records after which a zone is replaced.
    fn limit(&self) -> u64 {
        let live = u64::try_from(self.blocks.len()).expect("few") * 2 * BLOCK;
        (2 * live).clamp(REPLACED_BYTES, ZONED_HEAD_BYTES)
    }

    /// The records of a write.
    fn records(&mut self, offset: u64, data: &[u8]) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        for (offset, block) in (offset..).step_by(BLOCK_BYTES).zip(data.chunks(BLOCK_BYTES)) {
            let used = block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if used == 0
                && let Some(Record { what: What::Zeros { bytes, .. }, .. }) = records.last_mut()
            {
                *bytes += u32::try_from(BLOCK).expect("4 KiB");
                continue;
            }
            let what = match used {
                0 => What::Zeros { offset, bytes: u32::try_from(BLOCK).expect("4 KiB") },
                _ => What::Block { offset, bytes: block[..used].to_vec() },
            };
            records.push(Record { sequence: self.next(), epoch: 0, what });
        }
        records
    }

    /// What the pair has that nothing newer replaces.
    fn live(&self, pair: u16) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        for (offset, block) in self.blocks.iter().filter(|(_, block)| block.pair == pair) {
            if let Some(Record { sequence, what: What::Zeros { offset: from, bytes }, .. }) = records.last_mut()
                && (*sequence, *from + u64::from(*bytes), block.bytes.len()) == (block.sequence, *offset, 0)
            {
                *bytes += u32::try_from(BLOCK).expect("4 KiB");
                continue;
            }
            let what = match block.bytes.len() {
                0 => What::Zeros { offset: *offset, bytes: u32::try_from(BLOCK).expect("4 KiB") },
                _ => What::Block { offset: *offset, bytes: block.bytes.to_vec() },
            };
            records.push(Record { sequence: block.sequence, epoch: 0, what });
        }
        records
    }

    /// A record is in the journal of `pair`.
    fn note(&mut self, record: &Record, pair: u16) {
        self.sequence = self.sequence.max(record.sequence);
        let (offsets, bytes) = match &record.what {
            What::Block { offset, bytes } => (*offset..*offset + BLOCK, Rc::from(&bytes[..])),
            What::Zeros { offset, bytes } => (*offset..*offset + u64::from(*bytes), Rc::from(&[][..])),
            What::Whole => return,
        };
        for offset in offsets.step_by(BLOCK_BYTES) {
            if self.blocks.get(&offset).is_none_or(|known| known.sequence <= record.sequence) {
                let block = Block { sequence: record.sequence, pair, bytes: Rc::clone(&bytes) };
                self.blocks.insert(offset, block);
            }
        }
    }
}

/// Takes the records of a zone in: the epoch of which it is whole, and the highest that it has.
async fn scan(
    device: &dyn ZonedDevice,
    number: u32,
    zone: &Zone,
    state: &mut State,
) -> Result<(Option<u64>, u64), (u64, DiskError)> {
    let zones = device.zones();
    let written = match zone.state {
        ZoneState::Empty => 0,
        ZoneState::Active => zone.written_bytes,
        ZoneState::Full | ZoneState::Worn => zones.capacity_bytes,
    };
    let (mut whole, mut epoch) = (None, 0);
    let end = written.min(ZONED_HEAD_BYTES);
    let start = u64::from(number) * zones.stride_bytes;
    let stride = u64::try_from(STRIDE_BYTES).expect("a mebibyte");
    let (mut at, mut window) = (0, (0, IoBuf::zeroed(0)));
    while at < end {
        // A record lies wholly in what was read from its first block on.
        let read = window.0 + u64::try_from(window.1.len()).expect("64-bit lengths");
        if at >= read || (read < end && at + 2 * BLOCK > read) {
            let bytes = usize::try_from(stride.min(end - at)).expect("a mebibyte");
            let done = device.read(start + at, IoBuf::stale(bytes)).await;
            done.result.map_err(|error| (start + at, error))?;
            // What was finished early is zeros from there on.
            if done.buf.iter().all(|byte| *byte == 0) {
                break;
            }
            window = (at, done.buf);
        }
        let from = usize::try_from(at - window.0).expect("within the window");
        let Some(record) = Record::decode(&window.1[from..], ZONED_HEAD_BYTES) else {
            at += BLOCK;
            continue;
        };
        epoch = epoch.max(record.epoch);
        whole = whole.max((record.what == What::Whole).then_some(record.epoch));
        state.note(&record, u16::try_from(number / 2).expect("few pairs"));
        at += u64::try_from(record.padded_bytes()).expect("two blocks");
    }
    Ok((whole, epoch))
}
