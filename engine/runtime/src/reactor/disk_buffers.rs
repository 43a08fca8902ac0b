//! Disk buffers whose pages the kernel has pinned.
//!
//! Invariant: what the ring's table names is the memory of a pool that lives as long as the table.
#![allow(unsafe_code)]

use super::Ring;
use cfs_seam::{BufferPool, InstalledPool, IoBuf};
use std::sync::Arc;

/// Processes without the capability IPC_LOCK share memlock between all their user's rings, which
/// need some 64 KiB each to exist at all: one core's buffers take at most this part of it.
const MEMLOCK_PART: usize = 64;
/// CAP_IPC_LOCK (linux/capability.h).
const IPC_LOCK: u32 = 14;

pub(super) struct DiskBuffers {
    pool: Arc<BufferPool>,
    /// Address of each buffer and its index in the ring's table, by address.
    indices: Vec<(usize, u16)>,
}

impl DiskBuffers {
    /// Registers about `bytes` bytes, fewer where memlock is small. None where none are wanted, or
    /// memlock forbids it: the core then runs without.
    pub(super) fn register(ring: &Ring, bytes: usize) -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let afforded = afforded(&read("/proc/self/status"), &read("/proc/self/limits"));
        let pool = BufferPool::new(bytes.min(afforded));
        let vector = |(address, bytes): &(usize, usize)| libc::iovec {
            iov_base: std::ptr::without_provenance_mut(*address),
            iov_len: *bytes,
        };
        let vectors: Vec<_> = pool.regions().iter().map(vector).collect();
        if vectors.is_empty() || u16::try_from(vectors.len()).is_err() {
            return None;
        }
        // SAFETY: the regions stay as long as the pool, which lives beside the ring until the
        // buffers are unregistered or the ring is closed.
        unsafe { ring.submitter().register_buffers(&vectors) }.ok()?;
        let addresses = pool.regions().iter().map(|(address, _)| *address);
        let mut indices: Vec<(usize, u16)> = addresses.zip(0..).collect();
        indices.sort_unstable();
        Some(DiskBuffers { pool, indices })
    }

    pub(super) fn bytes(&self) -> usize {
        self.pool.regions().iter().map(|(_, bytes)| bytes).sum()
    }

    pub(super) fn install(&self) -> InstalledPool {
        self.pool.install()
    }

    /// The buffer's index, if it is one of these.
    pub(super) fn index_of(&self, buf: &IoBuf) -> Option<u16> {
        let place = self.indices.binary_search_by_key(&buf.as_ptr().addr(), |(address, _)| *address);
        place.ok().map(|place| self.indices[place].1)
    }
}

/// What a process may register, by its `/proc/self/status` and `/proc/self/limits`.
fn afforded(status: &str, limits: &str) -> usize {
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    if capabilities.is_some_and(|set| set >> IPC_LOCK & 1 == 1) {
        return usize::MAX;
    }
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match limit.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => usize::MAX,
        Some(bytes) => bytes.parse::<usize>().map_or(0, |bytes| bytes / MEMLOCK_PART),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_leaves_memlock_for_the_rings() {
        let limit = |soft: &str| format!("Max processes 1 1 processes\nMax locked memory   {soft}  8388608  bytes\n");
        let (ordinary, root) = ("Uid:\t0\nCapEff:\t0000000000000000\n", "CapEff:\t000001ffffffffff\n");
        assert_eq!(afforded(ordinary, &limit("8388608")), 128 << 10);
        assert_eq!(afforded(ordinary, &limit("unlimited")), usize::MAX);
        assert_eq!(afforded(root, &limit("0")), usize::MAX);
        assert_eq!(afforded(ordinary, &limit("rubbish")), 0);
        assert_eq!(afforded("", ""), 0);
    }

    #[test]
    fn only_buffers_of_the_pool_have_an_index() {
        let ring = Ring::builder().build(8).expect("a ring");
        let before = IoBuf::zeroed(4096);
        assert!(DiskBuffers::register(&ring, 0).is_none());
        // Where memlock forbids it there is nothing to look at.
        let Some(buffers) = DiskBuffers::register(&ring, 1 << 18) else { return };
        let _installed = buffers.install();
        assert!(buffers.bytes() <= 1 << 18);
        let (small, large) = (IoBuf::zeroed(4096), IoBuf::zeroed(65536));
        let indices = [buffers.index_of(&small), buffers.index_of(&large)];
        assert!(indices[0].is_some() && indices[0] != indices[1], "{indices:?}");
        assert_eq!(buffers.index_of(&before), None);
        assert_eq!(buffers.index_of(&IoBuf::zeroed(1 << 20)), None);
    }
}
