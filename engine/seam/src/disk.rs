//! One open device.

use crate::{Io, IoBuf, Lifetime, ZonedDevice};
use cfs_types::Latencies;
use std::rc::Rc;

/// When a write is on stable media.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// After the next flush that begins once this write has completed.
    Flush,
    /// On completion (FUA, RWF_DSYNC).
    Through,
}

/// What the device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Size in bytes.
    pub bytes: u64,
    /// Smallest write, bytes; offsets and lengths are multiples of it.
    pub block_bytes: u32,
    /// False where completed writes are already durable: flushes are then skipped.
    pub volatile_cache: bool,
    /// Whether `Durability::Through` costs less than a write and a flush.
    pub fua: bool,
    /// Where the device is made of zones: what whoever uses it must keep to.
    pub zoning: Option<Zoning>,
}

/// Zones as they are seen above the seam (`engine/device`, docs/decisions/0017-zones.md): behind the first `head_bytes` each zone is
/// written from its first byte on, in order, and again only after all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zoning {
    /// Bytes before the first zone. There, and only there, blocks are written again in place.
    pub head_bytes: u64,
    /// Bytes of a zone, a multiple of 64 MiB.
    pub zone_bytes: u64,
    /// So many zones may be begun and not full, for all cores together. None: no limit.
    pub active_max: Option<u32>,
}

/// Why an operation failed. What says nothing of the device (EINTR, EAGAIN, ENOMEM) the disk itself has tried
/// again for a while, but for a flush. A failed read can be retried; a failed write or flush leaves the
/// device's contents unknown and must not be retried (Rebello et al., ATC 2020).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskError {
    /// The device answered with an error (errno).
    #[error("device answered errno {0}")]
    Device(i32),
    /// The controller answered with an error: status code type in bits 10:8, status code in bits 7:0 (NVM Express Base
    /// Specification, 'Status Field Definition').
    #[error("the NVMe controller answered status type {}, code {:#04x}", .0 >> 8, .0 & 0xff)]
    Nvme(u16),
    /// Fewer bytes than asked for: the range lies beyond the end.
    #[error("range lies beyond the end of the device")]
    OutOfRange,
    /// No space under a file that has holes.
    #[error("no space left on the file system that the store lies on")]
    NoSpace,
    /// A write to a zone in front of what was written there already. Nothing was written.
    #[error("a zone is written in order only")]
    OutOfOrder,
    /// It cannot be done here, as a discard.
    #[error("not supported by the device")]
    NotSupported,
}

/// Completion of a read or write: the buffer comes back either way.
#[derive(Debug)]
pub struct IoDone {
    /// Whole length done, or why not.
    pub result: Result<(), DiskError>,
    /// The buffer that was handed in.
    pub buf: IoBuf,
}

/// What a device was asked to do by one core since it was attached. Latencies are from the request to its completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskUsage {
    /// Reads that ended.
    pub reads: Latencies,
    /// Writes that ended.
    pub writes: Latencies,
    /// Flushes that ended.
    pub flushes: Latencies,
    /// Bytes of these reads.
    pub read_bytes: u64,
    /// Bytes of these writes by class, in the order of [`Lifetime::ALL`].
    pub written_bytes: [u64; Lifetime::ALL.len()],
    /// The placement handle of each class, in the same order; None where the device has none.
    pub placements: [Option<u16>; Lifetime::ALL.len()],
    /// Bytes of discards asked for.
    pub discarded_bytes: u64,
    /// Zones that were reset.
    pub zone_resets: u64,
    /// Operations that did not end yet.
    pub in_flight: u64,
    /// Operations that ended in an error.
    pub errors: u64,
}

impl DiskUsage {
    /// What both were asked to do.
    pub fn merge(&mut self, other: &DiskUsage) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.flushes.merge(&other.flushes);
        self.read_bytes += other.read_bytes;
        self.written_bytes.iter_mut().zip(other.written_bytes).for_each(|(all, more)| *all += more);
        // Devices of one node may have other handles for a class: those of the first are shown.
        self.placements.iter_mut().zip(other.placements).for_each(|(first, other)| *first = first.or(other));
        self.discarded_bytes += other.discarded_bytes;
        self.zone_resets += other.zone_resets;
        self.in_flight += other.in_flight;
        self.errors += other.errors;
    }
}

/// A device opened for direct I/O by this core. Operations complete in any order; a write is
/// durable as [`Durability`] says. Offsets and lengths are multiples of the block size.
pub trait Disk {
    /// What the device is.
    fn geometry(&self) -> Geometry;
    /// Fills the whole of `buf` from `offset`.
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone>;
    /// Writes the whole of `buf` at `offset`, beside what lives as long.
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone>;
    /// Makes every completed write durable. After one that failed none of this process succeeds, whichever core
    /// asks: what it dropped may have been anybody's.
    fn flush(&self) -> Io<Result<(), DiskError>>;
    /// Tells the device that the range is unused; its contents become unspecified.
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>>;
    /// Ends what an earlier process has left unfinished. At a start, before any core writes to zones.
    fn settle(&self) -> Io<Result<(), DiskError>> {
        Io::ready(Ok(()))
    }
    /// The device below where it has zones: then it takes no write as this trait has it.
    fn zoned(self: Rc<Self>) -> Option<Rc<dyn ZonedDevice>> {
        None
    }
    /// What it was asked to do so far; zeros where nobody counts (simulated devices).
    fn usage(&self) -> DiskUsage {
        DiskUsage::default()
    }
}
