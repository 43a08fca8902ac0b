//! What is on a simulated device, and what a power cut leaves of it.
//!
//! A device is durable sectors under a volatile cache. A completed write sits in the cache until a
//! flush that began after it completes. A power cut decides for each 512-byte sector by itself
//! whether it keeps its durable value or one of the newer ones, of unflushed and of in-flight
//! writes alike: writes are lost, kept, torn and reordered, flushed ones survive.

use crate::rng::{Stream, mix};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

/// Unit that a device writes whole.
pub const SECTOR_BYTES: usize = 512;
/// Newer values of one sector that are remembered; forgetting one only makes crashes milder.
const VERSIONS_MAX: usize = 4;

/// Sectors in 4 KiB.
const SECTORS_A_BLOCK: u64 = 8;

/// Unit in which durable bytes are kept and shared between copies of a device.
const BLOCK_BYTES: usize = 4096;

type Sector = [u8; SECTOR_BYTES];
type Block = [u8; BLOCK_BYTES];

/// One sector of a write, which is kept once for all its sectors.
#[derive(Clone)]
struct Version {
    write: WriteId,
    /// Number of its completion.
    completed: u64,
    data: Rc<[u8]>,
    from: usize,
}

impl Version {
    fn bytes(&self) -> &[u8] {
        &self.data[self.from..self.from + SECTOR_BYTES]
    }
}

/// A write that has begun.
#[derive(Clone)]
struct Write {
    id: WriteId,
    first_sector: u64,
    data: Rc<[u8]>,
}

impl Write {
    fn versions(&self, completed: u64) -> impl Iterator<Item = (u64, Version)> + '_ {
        (self.first_sector..)
            .zip((0..self.data.len()).step_by(SECTOR_BYTES))
            .map(move |(sector, from)| (sector, Version { write: self.id, completed, data: self.data.clone(), from }))
    }
}

/// Names a write in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WriteId(u64);

/// How far a flush reaches: everything completed when it began.
#[derive(Clone, Copy, Debug)]
pub struct FlushMark(u64);

/// The contents of one device.
#[derive(Clone)]
pub struct Media {
    bytes: u64,
    /// By block; shared with copies of the device until one of them writes.
    durable: BTreeMap<u64, Rc<Block>>,
    cache: BTreeMap<u64, Vec<Version>>,
    in_flight: BTreeMap<WriteId, Write>,
    begun: u64,
    completed: u64,
    /// What a sector holds that was never written: zeros, or bytes made from this key.
    litter: Option<u64>,
}

fn within_block(sector: u64) -> usize {
    usize::try_from(sector % SECTORS_A_BLOCK).expect("small") * SECTOR_BYTES
}

fn sector_of(offset: u64) -> u64 {
    offset / u64::try_from(SECTOR_BYTES).expect("small")
}

fn arbitrary(key: u64, sector: u64) -> Sector {
    let stream = Stream::new(key ^ mix(sector));
    let mut bytes = [0; SECTOR_BYTES];
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&stream.next().to_le_bytes());
    }
    bytes
}

impl Media {
    /// An empty device of `bytes`; sectors never written hold zeros, or litter made from a key.
    pub fn new(bytes: u64, litter: Option<u64>) -> Media {
        Media {
            bytes,
            durable: BTreeMap::new(),
            cache: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            begun: 0,
            completed: 0,
            litter,
        }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a range lies on the device.
    pub fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.bytes)
    }

    /// Fills `out`, sectors of one block, with the durable ones that begin with `sector`.
    fn read_durable(&self, sector: u64, out: &mut [u8]) {
        match (self.durable.get(&(sector / SECTORS_A_BLOCK)), self.litter) {
            (Some(block), _) => {
                let from = within_block(sector);
                out.copy_from_slice(&block[from..from + out.len()]);
            }
            (None, Some(key)) => {
                for (sector, out) in (sector..).zip(out.chunks_mut(SECTOR_BYTES)) {
                    out.copy_from_slice(&arbitrary(key, sector)[..out.len()]);
                }
            }
            (None, None) => out.fill(0),
        }
    }

    /// Fills `buf` with what the device answers: the newest completed writes.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        let first = sector_of(offset);
        let (mut sector, mut rest) = (first, &mut buf[..]);
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(rest.len().min(BLOCK_BYTES - within_block(sector)));
            self.read_durable(sector, now);
            sector += SECTORS_A_BLOCK - sector % SECTORS_A_BLOCK;
            rest = later;
        }
        for (at, versions) in self.cache.range(first..sector) {
            let from = usize::try_from(at - first).expect("within the buffer") * SECTOR_BYTES;
            if let (Some(version), true) = (versions.last(), from < buf.len()) {
                let to = buf.len().min(from + SECTOR_BYTES);
                buf[from..to].copy_from_slice(&version.bytes()[..to - from]);
            }
        }
    }

    /// A write begins: a power cut may leave any of it, reads do not see it yet.
    pub fn begin_write(&mut self, offset: u64, data: &[u8]) -> WriteId {
        self.begun += 1;
        let id = WriteId(self.begun);
        self.in_flight.insert(id, Write { id, first_sector: sector_of(offset), data: data.into() });
        id
    }

    /// A write completes, into the cache or straight to the durable sectors. False where it is no
    /// longer known: the power was cut since.
    pub fn complete_write(&mut self, id: WriteId, through: bool) -> bool {
        let Some(write) = self.in_flight.remove(&id) else { return false };
        self.completed += 1;
        for (sector, version) in write.versions(self.completed) {
            if through {
                self.cache.remove(&sector);
                self.store(sector, version.bytes());
                continue;
            }
            let versions = self.cache.entry(sector).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(0);
            }
            versions.push(version);
        }
        true
    }

    /// A write fails: what it left behind is anybody's guess.
    pub fn fail_write(&mut self, id: WriteId, rng: &Stream) {
        let Some(write) = self.in_flight.remove(&id) else { return };
        for (sector, version) in write.versions(self.completed) {
            if rng.next().is_multiple_of(2) {
                self.cache.entry(sector).or_default().push(version);
            }
        }
    }

    /// A write is reported as done, and nothing of it is stored.
    pub fn forget_write(&mut self, id: WriteId) {
        self.in_flight.remove(&id);
    }

    /// A block in use at or behind `from`: its bytes. None where there is none.
    pub fn any_in_use(&self, from: u64, rng: &Stream) -> Option<Range<u64>> {
        let bytes = u64::try_from(BLOCK_BYTES).expect("small");
        let first = from.div_ceil(bytes);
        let last = *self.durable.last_key_value()?.0;
        let some = first + rng.below(last.saturating_sub(first) + 1);
        let found = self.durable.range(some.max(first)..).next().or_else(|| self.durable.range(first..).next());
        found.map(|(number, _)| number * bytes..(number + 1) * bytes)
    }

    /// A flush begins.
    pub fn begin_flush(&self) -> FlushMark {
        FlushMark(self.completed)
    }

    /// A flush completes: what was completed when it began is durable.
    pub fn complete_flush(&mut self, mark: FlushMark) {
        let mut settled = Vec::new();
        self.cache.retain(|sector, versions| {
            let covered = versions.iter().take_while(|v| v.completed <= mark.0).count();
            if let Some(newest) = versions.drain(..covered).next_back() {
                settled.push((*sector, newest));
            }
            !versions.is_empty()
        });
        for (sector, version) in settled {
            self.store(sector, version.bytes());
        }
    }

    fn store(&mut self, sector: u64, bytes: &[u8]) {
        let number = sector / SECTORS_A_BLOCK;
        let is_zero = self.litter.is_none() && *bytes == [0; SECTOR_BYTES];
        if !self.durable.contains_key(&number) {
            if is_zero {
                return;
            }
            let mut fresh = [0; BLOCK_BYTES];
            self.read_durable(number * SECTORS_A_BLOCK, &mut fresh);
            self.durable.insert(number, Rc::new(fresh));
        }
        let block = Rc::make_mut(self.durable.get_mut(&number).expect("just looked or inserted"));
        let from = within_block(sector);
        block[from..from + SECTOR_BYTES].copy_from_slice(bytes);
        if is_zero && *block == [0; BLOCK_BYTES] {
            // What was never written reads as zeros too: a device that is mostly zeros stays small.
            self.durable.remove(&number);
        }
    }

    /// Cuts the power.
    pub fn cut_power(&mut self, rng: &Stream) {
        let mut candidates = std::mem::take(&mut self.cache);
        for write in std::mem::take(&mut self.in_flight).into_values() {
            for (sector, version) in write.versions(self.completed) {
                candidates.entry(sector).or_default().push(version);
            }
        }
        self.settle(candidates, rng);
    }

    /// A flush failed: dirty data is dropped unseen, and reads then show what is left (Rebello et
    /// al., ATC 2020).
    pub fn lose_cache(&mut self, rng: &Stream) {
        let candidates = std::mem::take(&mut self.cache);
        self.settle(candidates, rng);
    }

    /// Keeps one value of each sector: chance decides for each sector, each 4 KiB block, or each
    /// write, since the likeliest damage differs: tears, lost blocks, whole writes overtaken.
    fn settle(&mut self, candidates: BTreeMap<u64, Vec<Version>>, rng: &Stream) {
        // Some cuts lose everything and some keep nearly everything: both find bugs of their own.
        let keep_per_million = [0, 100_000, 500_000, 900_000, 1_000_000][rng.index(5)];
        let (unit, key) = (rng.below(3), rng.next());
        for (sector, versions) in candidates {
            let kept = |version: &&Version| {
                let lot = match unit {
                    0 => sector,
                    1 => sector / SECTORS_A_BLOCK,
                    _ => version.write.0,
                };
                mix(key ^ mix(lot)) % 1_000_000 < keep_per_million
            };
            let newest = versions.iter().rev().find(kept);
            // Once in a while an older value: the cache wrote it out before the newer one came.
            let oldest = versions.iter().find(kept);
            if let Some(version) = if rng.chance(250_000) { oldest } else { newest } {
                self.store(sector, version.bytes());
            }
        }
    }

    /// Whoever waits for a write is gone, the device is not: it arrives, or fails half way.
    pub fn abandon_write(&mut self, id: WriteId, rng: &Stream) {
        if rng.next().is_multiple_of(2) {
            self.complete_write(id, false);
        } else {
            self.fail_write(id, rng);
        }
    }

    /// The range is unused: each written sector keeps its bytes, becomes zero, or becomes garbage.
    pub fn discard(&mut self, offset: u64, bytes: u64, rng: &Stream) {
        let key = rng.next();
        let range = sector_of(offset)..sector_of(offset + bytes);
        let blocks = range.start / SECTORS_A_BLOCK..range.end.div_ceil(SECTORS_A_BLOCK);
        let blocks = self.durable.range(blocks).map(|(number, _)| number * SECTORS_A_BLOCK);
        let mut written: BTreeSet<u64> = blocks.flat_map(|first| first..first + SECTORS_A_BLOCK).collect();
        written.extend(self.cache.range(range.clone()).map(|(sector, _)| *sector));
        for sector in written.into_iter().filter(|sector| range.contains(sector)) {
            match mix(key ^ sector) % 3 {
                0 => continue,
                1 => self.store(sector, &[0; SECTOR_BYTES]),
                _ => self.store(sector, &arbitrary(key, sector)),
            }
            self.cache.remove(&sector);
        }
    }

    /// The range is zeros from now on, durably.
    pub fn erase(&mut self, range: &Range<u64>) {
        let sectors = sector_of(range.start)..sector_of(range.end);
        let blocks = sectors.start / SECTORS_A_BLOCK..sectors.end / SECTORS_A_BLOCK;
        let written: Vec<u64> = self.durable.range(blocks).map(|(number, _)| *number).collect();
        written.iter().for_each(|number| drop(self.durable.remove(number)));
        let cached: Vec<u64> = self.cache.range(sectors).map(|(sector, _)| *sector).collect();
        cached.iter().for_each(|sector| drop(self.cache.remove(sector)));
    }

    /// Inverts one bit of what reads answer at `offset`, durably.
    pub fn flip_bit(&mut self, offset: u64, bit: u8) {
        let sector = sector_of(offset);
        let mut bytes = [0; SECTOR_BYTES];
        let start = sector * u64::try_from(SECTOR_BYTES).expect("small");
        self.read(start, &mut bytes);
        bytes[usize::try_from(offset - start).expect("inside the sector")] ^= 1 << (bit % 8);
        self.cache.remove(&sector);
        self.store(sector, &bytes);
    }

    /// Sectors whose newest value a power cut may lose.
    pub fn unflushed_sectors(&self) -> usize {
        self.cache.len() + self.in_flight.values().map(|w| w.data.len() / SECTOR_BYTES).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(media: &mut Media, byte: u8) {
        let id = media.begin_write(0, &[byte; SECTOR_BYTES]);
        assert!(media.complete_write(id, false));
    }

    /// What 100 power cuts leave of the first sector.
    fn outcomes(media: &Media) -> Vec<u8> {
        let mut found: Vec<u8> = (0..100)
            .map(|seed| {
                let mut media = media.clone();
                media.cut_power(&Stream::new(seed));
                let mut sector = [0; SECTOR_BYTES];
                media.read(0, &mut sector);
                sector[0]
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn a_flush_covers_what_was_complete_when_it_began() {
        let mut media = Media::new(4096, None);
        write(&mut media, 1);
        write(&mut media, 2);
        assert_eq!(outcomes(&media), [0, 1, 2]);
        let mark = media.begin_flush();
        let begun_before = media.begin_write(0, &[3; SECTOR_BYTES]);
        assert!(media.complete_write(begun_before, false));
        assert_eq!(outcomes(&media), [0, 1, 2, 3], "nothing is durable before the flush ends");
        media.complete_flush(mark);
        assert_eq!(outcomes(&media), [2, 3]);
        media.complete_flush(media.begin_flush());
        assert_eq!(outcomes(&media), [3]);
    }

    #[test]
    fn a_through_write_is_durable_over_older_values() {
        let mut media = Media::new(4096, None);
        write(&mut media, 1);
        let id = media.begin_write(0, &[2; SECTOR_BYTES]);
        assert_eq!(outcomes(&media), [0, 1, 2]);
        media.complete_write(id, true);
        assert_eq!(outcomes(&media), [2]);
    }
}
