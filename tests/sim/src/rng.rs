//! Seeded randomness, split in independent streams.
//!
//! A stream is SplitMix64 (Steele, Lea and Flood, 2014): 64 bits of state, any seed is good. Each
//! purpose has its own stream, so that one more draw for the disk does not change the schedule.

use std::cell::Cell;

/// Mixes 64 bits well (the finaliser of SplitMix64).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a stream is for. The numbers are part of what a seed means.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Schedule = 1,
    Disk = 2,
    Net = 3,
    Workload = 4,
    Core = 5,
    Clock = 6,
}

/// One stream of random numbers.
pub struct Stream(Cell<u64>);

impl Stream {
    /// A stream of its own.
    pub fn new(seed: u64) -> Stream {
        Stream(Cell::new(mix(seed ^ 0x5851_f42d_4c95_7f2d)))
    }
    /// The stream of `seed` for one purpose and one user of it.
    pub(crate) fn split(seed: u64, purpose: Purpose, user: u64) -> Stream {
        Stream::new(mix(seed).wrapping_add(mix(purpose as u64)).wrapping_add(mix(user ^ 0xabcd)))
    }
    /// 64 random bits.
    pub fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        mix(self.0.get())
    }
    /// A number in `0..bound`; 0 for an empty range.
    pub fn below(&self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
    /// A number in `low..=high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below((high - low).saturating_add(1))
    }
    /// An index in `0..len`; `len` must not be 0.
    pub fn index(&self, len: usize) -> usize {
        let len = u64::try_from(len).expect("a length fits 64 bits");
        usize::try_from(self.below(len)).expect("less than a length")
    }
    /// True in `per_million` of a million cases.
    pub fn chance(&self, per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(per_million)
    }
}

impl cfs_seam::Rng for Stream {
    fn next_u64(&self) -> u64 {
        self.next()
    }
}
