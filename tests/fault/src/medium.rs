//! What is durable, what is not yet, and what a power cut leaves of it.
//!
//! Invariants: the backing file holds what survives a cut and nothing else; a flush that is answered without lying
//! has moved all there. Each sector that is written again before a flush may have reached the backing file in its
//! older form: a cache writes back when it likes. Every choice comes from the seeds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What is written whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// As an offset counts.
const SECTOR: u64 = 512;
/// How much of a cache survives a cut, of 4: nothing, a part, or all of it.
const SHARES: u64 = 5;

type Sector = [u8; SECTOR_BYTES];

/// A request that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    Read,
    Write,
    Flush,
}

/// Why a request failed. The device's answer is the same for all.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no power.
    #[error("the power is cut")]
    Dark,
    /// It was told to fail.
    #[error("told to fail")]
    Told,
    /// No whole sectors of this disk.
    #[error("not whole sectors of this disk")]
    Misplaced,
    /// The backing file failed, which is no part of the play.
    #[error("the backing file: {0}")]
    Backing(#[from] io::Error),
}

/// What was asked for since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    /// Flushes answered that made nothing durable.
    pub lies: u64,
    /// Requests that failed as they were told to.
    pub failed: u64,
}

/// A disk with a volatile write cache.
pub struct Medium {
    backing: File,
    bytes: u64,
    cache: BTreeMap<u64, Box<Sector>>,
    has_power: bool,
    is_lying: bool,
    fault: Option<(Request, u64)>,
    /// The power goes after so many writes and flushes, with this seed.
    cut_after: Option<(u64, u64)>,
    rng: Rng,
    counts: Counts,
}

impl Medium {
    /// Over a backing file, which gets `bytes` bytes.
    pub fn new(backing: File, bytes: u64, seed: u64) -> io::Result<Self> {
        backing.set_len(bytes)?;
        Ok(Medium {
            backing,
            bytes,
            cache: BTreeMap::new(),
            has_power: true,
            is_lying: false,
            fault: None,
            cut_after: None,
            rng: Rng(seed),
            counts: Counts::default(),
        })
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sectors that a cut may take.
    pub fn unflushed(&self) -> usize {
        self.cache.len()
    }

    /// What was asked for since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether requests are served.
    pub fn has_power(&self) -> bool {
        self.has_power
    }

    /// Reads what was written last, flushed or not. Less than asked for only at the end.
    pub fn read(&mut self, offset: u64, bytes: u32) -> Result<Vec<u8>, Refused> {
        self.counts.reads += 1;
        self.admit(Request::Read)?;
        let bytes = u64::from(bytes).min(self.bytes.saturating_sub(offset));
        let (first, last) = (offset / SECTOR, (offset + bytes).div_ceil(SECTOR));
        let mut data = vec![0; index((last - first) * SECTOR)];
        self.backing.read_exact_at(&mut data, first * SECTOR)?;
        for (number, sector) in self.cache.range(first..last) {
            let at = index((number - first) * SECTOR);
            data[at..at + SECTOR_BYTES].copy_from_slice(&sector[..]);
        }
        data.drain(..index(offset - first * SECTOR));
        data.truncate(index(bytes));
        Ok(data)
    }

    /// Writes to the cache.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Refused> {
        self.counts.writes += 1;
        self.count_down()?;
        let (sectors, rest) = data.as_chunks::<SECTOR_BYTES>();
        let inside = u64::try_from(data.len()).ok().and_then(|bytes| offset.checked_add(bytes));
        if !rest.is_empty() || !offset.is_multiple_of(SECTOR) || inside.is_none_or(|end| end > self.bytes) {
            return Err(Refused::Misplaced);
        }
        let admitted = self.admit(Request::Write);
        if let Err(Refused::Dark) = admitted {
            return admitted;
        }
        for (number, sector) in (offset / SECTOR..).zip(sectors) {
            // What is left of a write that failed is as unknown as anything.
            if admitted.is_err() && self.rng.is(1, 2) {
                continue;
            }
            if let Some(older) = self.cache.insert(number, Box::new(*sector))
                && self.rng.is(1, 2)
            {
                self.backing.write_all_at(&older[..], number * SECTOR)?;
            }
        }
        admitted
    }

    /// Makes durable what was written. One that fails loses a part of it, and what is read from then on is what is
    /// left: the worst that is known of disks and kernels.
    pub fn flush(&mut self) -> Result<(), Refused> {
        self.counts.flushes += 1;
        self.count_down()?;
        match self.admit(Request::Flush) {
            Ok(()) if self.is_lying => {
                self.counts.lies += 1;
                Ok(())
            }
            Ok(()) => self.keep(|_| true).map(drop).map_err(Refused::from),
            Err(Refused::Told) => {
                self.lose_some()?;
                Err(Refused::Told)
            }
            refused => refused,
        }
    }

    /// The power goes: nothing is served, and of what was not flushed a subset is left. Answers how many sectors
    /// there were and how many are left.
    pub fn cut(&mut self, seed: u64) -> io::Result<(usize, usize)> {
        (self.has_power, self.cut_after) = (false, None);
        self.rng = Rng(seed);
        self.lose_some()
    }

    /// The power goes after so many more writes and flushes.
    pub fn cut_after(&mut self, requests: u64, seed: u64) {
        self.cut_after = Some((requests, seed));
    }

    /// The power is back, and no fault is left.
    pub fn restore(&mut self) {
        (self.has_power, self.is_lying, self.fault, self.cut_after) = (true, false, None, None);
    }

    /// One request of this kind fails, after so many that do not.
    pub fn fail(&mut self, request: Request, after: u64) {
        self.fault = Some((request, after));
    }

    /// From now on flushes are answered and make nothing durable, or do again.
    pub fn lie(&mut self, lies: bool) {
        self.is_lying = lies;
    }

    fn admit(&mut self, request: Request) -> Result<(), Refused> {
        if !self.has_power {
            return Err(Refused::Dark);
        }
        match &mut self.fault {
            Some((kind, 0)) if *kind == request => {
                self.fault = None;
                self.counts.failed += 1;
                Err(Refused::Told)
            }
            Some((kind, left)) if *kind == request => {
                *left -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn count_down(&mut self) -> Result<(), Refused> {
        match &mut self.cut_after {
            Some((0, seed)) => {
                let seed = *seed;
                self.cut(seed)?;
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    fn lose_some(&mut self) -> io::Result<(usize, usize)> {
        let (share, mut rng) = (self.rng.below(SHARES), self.rng.split());
        self.keep(|_| rng.is(share, SHARES - 1))
    }

    /// Empties the cache; what is `kept` goes to the backing file, the sectors of a run together.
    fn keep(&mut self, mut kept: impl FnMut(u64) -> bool) -> io::Result<(usize, usize)> {
        let (all, mut left) = (self.cache.len(), 0);
        let (mut run, mut from) = (Vec::new(), 0);
        for (number, sector) in std::mem::take(&mut self.cache) {
            if !kept(number) {
                continue;
            }
            left += 1;
            if number * SECTOR != from + u64::try_from(run.len()).expect("64-bit lengths") {
                self.backing.write_all_at(&run, from)?;
                run.clear();
                from = number * SECTOR;
            }
            run.extend_from_slice(&sector[..]);
        }
        self.backing.write_all_at(&run, from)?;
        Ok((all, left))
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("64-bit lengths")
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    /// True `share` times of `all`.
    fn is(&mut self, share: u64, all: u64) -> bool {
        self.below(all) < share
    }
    fn split(&mut self) -> Rng {
        Rng(self.next())
    }
}

#[cfg(test)]
mod tests;
