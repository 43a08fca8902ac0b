//! Work over a device without delay: it is over when it is first polled.

use crate::MemoryDisk;
use cfs_seam::{Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime};
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

/// As [`at_once`], for a future that waits for nothing else. Panics where it does.
pub fn now<T>(work: impl Future<Output = T>) -> T {
    at_once(work).expect("the device answers at once")
}

/// A new device, to be formatted: it is zero already, and writing MiB of zeros to it would only cost time.
pub struct SkipsZeros(pub MemoryDisk);

impl Disk for SkipsZeros {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        self.0.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        if buf.iter().all(|byte| *byte == 0) {
            return Io::ready(IoDone { result: Ok(()), buf });
        }
        self.0.write(offset, buf, durability, lifetime)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.0.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.0.discard(offset, bytes)
    }
}
