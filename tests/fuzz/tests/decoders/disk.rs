//! Devices in memory that answer at once.

use cfs_device::{DEVICE_BYTES_MIN, FormatOptions, Superblock, Uuid, crc32c, format};
use cfs_sim::{MemoryDisk, SkipsZeros, now};

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
