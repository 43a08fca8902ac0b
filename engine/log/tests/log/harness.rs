//! A small store.

use cfs_device::{DEVICE_BYTES_MIN, FormatOptions, Superblock, Uuid, format};
use cfs_log::{Record, RecordKind};
use cfs_sim::{MemoryDisk, SkipsZeros, now};
use cfs_types::{GroupId, LogIndex, MoveEpoch, Term};

/// Slots of the test stores.
pub const SLOT_BYTES: u64 = 64 << 10;

/// Bytes of the test devices.
pub const DEVICE_BYTES: u64 = DEVICE_BYTES_MIN;

/// Lays out a new device with this many log slots.
pub fn formatted(device: &MemoryDisk, slots: u64) -> Superblock {
    let options = FormatOptions {
        log_slot_bytes: Some(SLOT_BYTES),
        log_bytes: Some(slots * SLOT_BYTES),
        ..FormatOptions::new(Uuid::new([1; 16]), Uuid::new([2; 16]), Uuid::new([3; 16]))
    };
    now(format(&SkipsZeros(device.clone()), &options, &mut |_, _| {})).expect("an empty device")
}

pub fn record(group: u16, kind: RecordKind, term: u64, index: u64, payload: Vec<u8>) -> Record {
    Record {
        group: GroupId::new(group),
        kind,
        epoch: MoveEpoch::new(1),
        term: Term::new(term),
        index: LogIndex::new(index),
        payload: payload.into(),
    }
}
