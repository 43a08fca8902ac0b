//! Devices in memory that answer at once.

use cfs_device::{DEVICE_BYTES_MIN, FormatOptions, Superblock, Uuid, crc32c, format};
use cfs_seam::{Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone};
use cfs_sim::MemoryDisk;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// What a future over such a device comes to; None where it waits for something else.
pub fn at_once<T>(work: impl Future<Output = T>) -> Option<T> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

pub fn now<T>(work: impl Future<Output = T>) -> T {
    at_once(work).expect("the device answers at once")
}

/// A new device is zero already: writing 18 MiB of zeros to it would only cost time.
struct SkipsZeros(MemoryDisk);

impl Disk for SkipsZeros {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        self.0.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability) -> Io<IoDone> {
        if buf.iter().all(|byte| *byte == 0) {
            return Io::ready(IoDone { result: Ok(()), buf });
        }
        self.0.write(offset, buf, durability)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.0.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.0.discard(offset, bytes)
    }
}

/// A device that was laid out with the smallest log.
pub fn formatted() -> (MemoryDisk, Superblock) {
    let device = cfs_sim::disk(DEVICE_BYTES_MIN);
    let options = FormatOptions {
        log_slot_bytes: Some(64 << 10),
        log_bytes: Some(1 << 20),
        ..FormatOptions::new(Uuid::new([1; 16]), Uuid::new([2; 16]), Uuid::new([3; 16]))
    };
    let superblock = now(format(&SkipsZeros(device.clone()), &options, &mut |_, _| {})).expect("an empty device");
    (device, superblock)
}

/// Writes the CRC32C of `bytes[from..to]` to `at`, little-endian, where all of that is there.
pub fn seal(bytes: &mut [u8], from: usize, to: usize, at: usize) {
    let Some(covered) = bytes.get(from..to) else { return };
    let crc = crc32c(covered).to_le_bytes();
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&crc);
    }
}

/// The little-endian number at `at`; 0 behind the end.
pub fn number(bytes: &[u8], at: usize) -> usize {
    let four = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    four.map_or(0, |four| usize::try_from(u32::from_le_bytes(*four)).expect("usize holds 32 bits"))
}

/// Lays bytes on the device in whole blocks: what is behind them in the last one is zero.
pub fn lay(device: &MemoryDisk, offset: u64, bytes: &[u8], whole: usize) {
    let mut padded = bytes[..bytes.len().min(whole)].to_vec();
    padded.resize(whole, 0);
    device.poke(offset, &padded);
}
