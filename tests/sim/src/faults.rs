//! What a device is and what goes wrong with it, and how often it did.
//!
//! Invariant: a fault that is not asked for draws nothing: histories without it stay what they were.

/// What a device is and what goes wrong with it. Probabilities are per million operations.
#[derive(Clone, Copy, Debug)]
pub struct DiskFaults {
    /// Smallest write, bytes: a multiple of 512.
    pub block_bytes: u32,
    /// Whether completed writes can be lost before a flush.
    pub volatile_cache: bool,
    /// Whether the device says that `Durability::Through` is cheap.
    pub fua: bool,
    /// Sectors never written hold garbage instead of zeros.
    pub litter: bool,
    /// Reads answered with EIO; the data is untouched.
    pub read_error_per_million: u32,
    /// Reads from which on one sector of their range answers EIO until it is written again.
    pub unreadable_per_million: u32,
    /// Writes answered with EIO; any part of them is stored.
    pub write_error_per_million: u32,
    /// Flushes are acknowledged and not carried out: only for tests that must notice it.
    pub flushes_lie: bool,
    /// Flushes answered with EIO; any part of the cache is lost.
    pub flush_error_per_million: u32,
    /// A flush that failed is followed by none that succeeds until the machine restarts, whichever of
    /// its cores asks: so it is behind `engine/runtime`. Else the next one succeeds, as Linux has it.
    pub failed_flush_sticks: bool,
    /// Reads before which one bit of their range flips for good.
    pub rot_per_million: u32,
    /// Writes that land somewhere else and report success.
    pub misdirect_per_million: u32,
    /// Writes that land nowhere and report success, also to the flush that follows.
    pub lost_per_million: u32,
    /// First byte of what becomes unreadable, rots, is lost or goes astray.
    pub damage_from: u64,
    /// Shortest and longest time of an operation, nanoseconds.
    pub latency_ns: (u64, u64),
    /// Operations that take fifty times as long.
    pub slow_per_million: u32,
}

impl Default for DiskFaults {
    /// A sound NVMe device with a volatile cache.
    fn default() -> Self {
        DiskFaults {
            block_bytes: 4096,
            volatile_cache: true,
            fua: false,
            litter: false,
            flushes_lie: false,
            read_error_per_million: 0,
            unreadable_per_million: 0,
            write_error_per_million: 0,
            flush_error_per_million: 0,
            failed_flush_sticks: true,
            rot_per_million: 0,
            misdirect_per_million: 0,
            lost_per_million: 0,
            damage_from: 0,
            latency_ns: (5_000, 400_000),
            slow_per_million: 10_000,
        }
    }
}

/// What went wrong with a device so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Injected {
    /// Reads that failed and would not fail again.
    pub read_errors: u64,
    /// Reads that failed because of a sector that stays unreadable.
    pub unreadable: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Flushes that failed; those that failed because an earlier one had are not counted.
    pub flush_errors: u64,
    /// Bits that flipped.
    pub rotten: u64,
    /// Writes that landed elsewhere.
    pub misdirected: u64,
    /// Writes that landed nowhere.
    pub lost: u64,
}

impl Injected {
    /// Adds the counts of another device.
    pub fn add(&mut self, other: &Injected) {
        self.read_errors += other.read_errors;
        self.unreadable += other.unreadable;
        self.write_errors += other.write_errors;
        self.flush_errors += other.flush_errors;
        self.rotten += other.rotten;
        self.misdirected += other.misdirected;
        self.lost += other.lost;
    }
}
