//! Page-aligned buffers for direct I/O.
//!
//! They come from the heap, or from the thread's [`BufferPool`] where a runtime installed one.

mod pool;

pub use pool::{BufferPool, InstalledPool, SPARE_BYTES_MAX, spare_bytes};

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Alignment and granularity of direct I/O, bytes.
pub const BLOCK_BYTES: usize = 4096;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// An owned buffer aligned to 4 KiB whose capacity is a multiple of 4 KiB.
///
/// `len` may be any number of bytes up to the capacity; direct I/O needs it to be a multiple of
/// the device's block. Bytes beyond `len` are unspecified but initialised.
pub struct IoBuf {
    /// At least `capacity` bytes; more where a pool's next size was larger.
    blocks: Vec<Block>,
    len: usize,
    capacity: usize,
    home: Option<Arc<BufferPool>>,
}

impl IoBuf {
    /// `len` zero bytes; the capacity is rounded up to whole blocks.
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::stale(len);
        if buf.home.is_some() {
            buf.blocks[..buf.capacity / BLOCK_BYTES].fill(Block([0; BLOCK_BYTES]));
        }
        buf
    }
    /// `len` bytes that are zero or what an earlier user of the memory left: for what fills them
    /// all, a read above all. The capacity is rounded up to whole blocks.
    pub fn stale(len: usize) -> Self {
        let count = len.div_ceil(BLOCK_BYTES);
        let capacity = count * BLOCK_BYTES;
        match pool::take(count) {
            Some((blocks, home)) => IoBuf { blocks, len, capacity, home: Some(home) },
            None => IoBuf { blocks: pool::fresh(count), len, capacity, home: None },
        }
    }
    /// A copy of `bytes`; each is written once.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let count = bytes.len().div_ceil(BLOCK_BYTES);
        if let Some((blocks, home)) = pool::take(count) {
            let mut buf = IoBuf { blocks, len: bytes.len(), capacity: count * BLOCK_BYTES, home: Some(home) };
            buf.copy_from_slice(bytes);
            return buf;
        }
        let (whole, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        let mut blocks = Vec::with_capacity(count);
        blocks.extend(whole.iter().map(|block| Block(*block)));
        if !rest.is_empty() {
            let mut last = Block([0; BLOCK_BYTES]);
            last.0[..rest.len()].copy_from_slice(rest);
            blocks.push(last);
        }
        IoBuf { blocks, len: bytes.len(), capacity: count * BLOCK_BYTES, home: None }
    }
    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
    /// Sets the length; bytes that come into view are whatever they were.
    /// Panics where `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length beyond the buffer's capacity");
        self.len = len;
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back(std::mem::take(&mut self.blocks));
        }
    }
}

impl Deref for IoBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.blocks.as_bytes()[..self.len]
    }
}
impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.blocks.as_mut_bytes()[..self.len]
    }
}
impl AsRef<[u8]> for IoBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
impl std::fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_rounded_up() {
        let buf = IoBuf::zeroed(4097);
        assert_eq!(buf.as_ptr().addr() % BLOCK_BYTES, 0);
        assert_eq!((buf.len(), buf.capacity()), (4097, 8192));
    }

    #[test]
    fn a_copy_is_equal_and_zero_behind_its_end() {
        for len in [0, 1, 4095, 4096, 4097, 70_000] {
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251 + 1).expect("small")).collect();
            let mut copy = IoBuf::copy_of(&bytes);
            assert_eq!((&copy[..], copy.as_ptr().addr() % BLOCK_BYTES), (&bytes[..], 0));
            copy.set_len(copy.capacity());
            assert!(copy[len..].iter().all(|byte| *byte == 0), "{len}");
        }
    }
}
