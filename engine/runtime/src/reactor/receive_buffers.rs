//! The core's pool of receive buffers, from which the kernel picks for every multishot receive
//! (a provided-buffer ring, io_uring_register_buf_ring(3)).
//!
//! Invariant: a buffer belongs to the kernel from `give` to the completion that names it; then its
//! bytes are copied out and it is given back at once, so the pool is as large as what can arrive
//! between two turns.
#![allow(unsafe_code)]

use super::Ring;
use crate::RuntimeError;
use cfs_seam::IoBuf;
use io_uring::types::BufRingEntry;
use std::sync::atomic::{AtomicU16, Ordering};

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;

pub(super) struct ReceiveBuffers {
    /// The ring of entries, shared with the kernel; page-aligned as it demands.
    entries: IoBuf,
    bytes: Vec<u8>,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl ReceiveBuffers {
    pub(super) fn register(ring: &Ring, count: u16, buffer_bytes: u32) -> Result<Self, RuntimeError> {
        let entry_bytes = size_of::<BufRingEntry>();
        let entries = IoBuf::zeroed(usize::from(count) * entry_bytes);
        let bytes = vec![0; usize::from(count) * usize::try_from(buffer_bytes).expect("32 bits fit")];
        let mut buffers = ReceiveBuffers { entries, bytes, count, buffer_bytes, tail: 0 };
        let address = u64::try_from(buffers.entries.as_mut_ptr().expose_provenance()).expect("64-bit addresses");
        // SAFETY: `entries` holds `count` entries, and stays where it is until it is unregistered,
        // or is leaked where that did not happen.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, count, GROUP, 0) }.map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EINVAL) => RuntimeError::Kernel { missing: "provided-buffer ring".to_owned() },
                _ => RuntimeError::System { operation: "registering receive buffers", source },
            }
        })?;
        for buffer in 0..count {
            buffers.give(buffer);
        }
        Ok(buffers)
    }

    fn range(&self, buffer: u16) -> std::ops::Range<usize> {
        let length = usize::try_from(self.buffer_bytes).expect("32 bits fit");
        let start = usize::from(buffer) * length;
        start..start + length
    }

    /// Gives a buffer to the kernel.
    fn give(&mut self, buffer: u16) {
        let range = self.range(buffer);
        let address = u64::try_from(self.bytes[range].as_mut_ptr().expose_provenance()).expect("64-bit addresses");
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        let place = usize::from(self.tail % self.count);
        // SAFETY: `place` is below `count`, so the entry lies inside `entries`, which is aligned to
        // a page. The kernel reads entries only up to the tail, which is raised below.
        let entry = unsafe { &mut *base.add(place) };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is a u16 inside the first entry, aligned, and shared with the kernel
        // only by atomic access.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Copies the first `length` bytes of a buffer the kernel filled and gives it back. A buffer
    /// that does not exist, or a length beyond it, would be the kernel's fault: cut.
    pub(super) fn take(&mut self, buffer: u16, length: usize) -> Vec<u8> {
        if buffer >= self.count {
            return Vec::new();
        }
        let range = self.range(buffer);
        let end = range.end.min(range.start + length);
        let bytes = self.bytes[range.start..end].to_vec();
        self.give(buffer);
        bytes
    }

    /// Takes the pool back from the kernel; nothing may be in flight.
    pub(super) fn unregister(&mut self, ring: &Ring) {
        if ring.submitter().unregister_buf_ring(GROUP).is_err() {
            self.leak();
        }
    }

    /// Forgets the memory without freeing it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.entries, IoBuf::zeroed(0)));
        std::mem::forget(std::mem::take(&mut self.bytes));
    }
}
