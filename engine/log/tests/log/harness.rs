//! A small store.

use cfs_device::{DEVICE_BYTES_MIN, FormatOptions, Superblock, Uuid, format};
use cfs_log::{Record, RecordKind};
use cfs_seam::{Disk, Durability, Geometry, Io, IoBuf, IoDone};
use cfs_sim::MemoryDisk;
use cfs_types::{GroupId, LogIndex, MoveEpoch, Term};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Slots of the test stores.
pub const SLOT_BYTES: u64 = 64 << 10;

/// Runs a future over a device that answers at once.
pub fn now<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the device answers at once"),
    }
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
    fn flush(&self) -> Io<Result<(), cfs_seam::DiskError>> {
        self.0.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), cfs_seam::DiskError>> {
        self.0.discard(offset, bytes)
    }
}

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
