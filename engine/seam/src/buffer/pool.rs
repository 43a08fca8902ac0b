//! Buffers that stay where they are: a runtime registers them with the kernel once. And long ones,
//! which are not registered but used again: a fresh one costs its page faults and as much writing
//! of zeros as the transfer itself.
//!
//! Invariants: the registered memory is freed only with the pool, and a buffer keeps its pool alive, so
//! what is registered never becomes other memory. At most [`SPARE_BYTES_MAX`] lie ready in long buffers.
//! A buffer may be dropped on any thread: the lock is there for that and otherwise uncontended.

use super::{BLOCK_BYTES, Block, IoBuf};
use std::alloc::Layout;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::FromZeros;

/// Sizes of pooled buffers in blocks: one for blocks of metadata and small reads, one for larger
/// transfers.
const SMALL_BLOCKS: usize = 1;
const LARGE_BLOCKS: usize = 16;
/// Size of the long buffers in blocks, 1 MiB: the longest transfer of a mount. Only what is just as long
/// becomes one, so that nobody holds more memory than it has asked for.
const LONG_BLOCKS: usize = 256;
/// Long buffers of a pool that nobody uses, at most, bytes.
pub const SPARE_BYTES_MAX: usize = 8 << 20;
const SPARES_MAX: usize = SPARE_BYTES_MAX / (LONG_BLOCKS * BLOCK_BYTES);

thread_local! {
    static INSTALLED: RefCell<Option<Arc<BufferPool>>> = const { RefCell::new(None) };
}

struct Size {
    blocks: usize,
    /// Free ones that are kept at most.
    spares_max: usize,
    free: Mutex<Vec<Vec<Block>>>,
}

impl Size {
    fn new(blocks: usize, count: usize, spares_max: usize) -> Self {
        let free = (0..count).map(|_| fresh(blocks)).collect();
        Size { blocks, spares_max, free: Mutex::new(free) }
    }
    fn with<R>(&self, work: impl FnOnce(&mut Vec<Vec<Block>>) -> R) -> R {
        work(&mut self.free.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Zeros from the heap, which knows whether its pages are zero already.
pub(super) fn fresh(blocks: usize) -> Vec<Block> {
    Block::new_vec_zeroed(blocks).unwrap_or_else(|_| std::alloc::handle_alloc_error(Layout::new::<Block>()))
}

/// Buffers of 4 and 64 KiB, and of 1 MiB.
pub struct BufferPool {
    small: Size,
    large: Size,
    long: Size,
    /// Address and bytes of every buffer that stays.
    regions: Vec<(usize, usize)>,
}

impl BufferPool {
    /// A pool of about `bytes` bytes, a quarter of them in buffers of 4 KiB. Long buffers come on top, once
    /// they were used.
    pub fn new(bytes: usize) -> Arc<Self> {
        let small = Size::new(SMALL_BLOCKS, bytes / 4 / (SMALL_BLOCKS * BLOCK_BYTES), usize::MAX);
        let large = Size::new(LARGE_BLOCKS, bytes / 4 * 3 / (LARGE_BLOCKS * BLOCK_BYTES), usize::MAX);
        let mut regions = Vec::new();
        for size in [&small, &large] {
            let region = |blocks: &Vec<Block>| (blocks.as_ptr().addr(), size.blocks * BLOCK_BYTES);
            size.with(|free| regions.extend(free.iter().map(region)));
        }
        Arc::new(BufferPool { small, large, long: Size::new(LONG_BLOCKS, 0, SPARES_MAX), regions })
    }

    /// Address and length in bytes of every buffer that stays as long as the pool lives.
    pub fn regions(&self) -> &[(usize, usize)] {
        &self.regions
    }

    /// Has [`IoBuf`]s that this thread makes come from the pool, as long as it has some, until the
    /// guard is dropped.
    pub fn install(self: &Arc<Self>) -> InstalledPool {
        let before = INSTALLED.with(|installed| installed.replace(Some(self.clone())));
        InstalledPool { before, this_thread: PhantomData }
    }

    fn size(&self, blocks: usize) -> Option<&Size> {
        match blocks {
            0 => None,
            1..=SMALL_BLOCKS => Some(&self.small),
            blocks if blocks <= LARGE_BLOCKS => Some(&self.large),
            LONG_BLOCKS => Some(&self.long),
            _ => None,
        }
    }

    fn take(&self, blocks: usize) -> Option<Vec<Block>> {
        let taken = self.size(blocks)?.with(Vec::pop);
        if blocks == LONG_BLOCKS { Some(taken.unwrap_or_else(|| fresh(blocks))) } else { taken }
    }

    pub(super) fn give_back(&self, blocks: Vec<Block>) {
        let Some(size) = self.size(blocks.len()) else { return };
        let refused = size.with(|free| {
            if free.len() >= size.spares_max {
                return Some(blocks);
            }
            free.push(blocks);
            None
        });
        // Freed without the lock.
        drop(refused);
    }

    fn spare_bytes(&self) -> usize {
        self.long.with(|free| free.len()) * LONG_BLOCKS * BLOCK_BYTES
    }
}

/// While it lives, the thread's buffers come from a pool.
#[must_use = "dropping it uninstalls the pool"]
pub struct InstalledPool {
    before: Option<Arc<BufferPool>>,
    this_thread: PhantomData<*const IoBuf>,
}

impl Drop for InstalledPool {
    fn drop(&mut self) {
        let before = self.before.take();
        // The thread may be ending; then nobody makes buffers any more.
        let pool = INSTALLED.try_with(|installed| installed.replace(before));
        drop(pool);
    }
}

/// A buffer of at least that many blocks from the thread's pool, with unspecified contents.
pub(super) fn take(blocks: usize) -> Option<(Vec<Block>, Arc<BufferPool>)> {
    let installed = INSTALLED.try_with(|installed| {
        let installed = installed.borrow();
        let pool = installed.as_ref()?;
        let taken = pool.take(blocks)?;
        Some((taken, pool.clone()))
    });
    installed.ok().flatten()
}

/// Bytes that lie ready in long buffers of the thread's pool, at most [`SPARE_BYTES_MAX`].
pub fn spare_bytes() -> usize {
    let spare = INSTALLED.try_with(|installed| installed.borrow().as_ref().map(|pool| pool.spare_bytes()));
    spare.ok().flatten().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_pooled(pool: &BufferPool, buf: &IoBuf) -> bool {
        pool.regions().iter().any(|(address, _)| *address == buf.as_ptr().addr())
    }

    #[test]
    fn pooled_buffers_look_like_others_and_come_back_clean() {
        let pool = BufferPool::new(1 << 20);
        assert_eq!(pool.regions().len(), 64 + 12);
        let installed = pool.install();
        for len in [1, 4096, 4097, 65536] {
            for _ in 0..100 {
                let mut buf = IoBuf::zeroed(len);
                assert!(is_pooled(&pool, &buf));
                assert_eq!((buf.len(), buf.capacity()), (len, len.next_multiple_of(BLOCK_BYTES)));
                assert!(buf.iter().all(|byte| *byte == 0));
                buf.fill(0xff);
            }
        }
        assert!(!is_pooled(&pool, &IoBuf::zeroed(65537)));
        drop(installed);
        assert!(!is_pooled(&pool, &IoBuf::zeroed(1)));
    }

    #[test]
    fn an_empty_pool_leaves_the_heap() {
        let pool = BufferPool::new(1 << 20);
        let _installed = pool.install();
        let held: Vec<IoBuf> = (0..13).map(|_| IoBuf::zeroed(65536)).collect();
        assert_eq!(held.iter().filter(|buf| is_pooled(&pool, buf)).count(), 12);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another thread is the point")]
    fn a_long_buffer_is_used_again_and_few_lie_ready() {
        let pool = BufferPool::new(1 << 16);
        let _installed = pool.install();
        let long = LONG_BLOCKS * BLOCK_BYTES;
        let mut first = IoBuf::zeroed(long);
        let address = first.as_ptr().addr();
        first.fill(7);
        std::thread::spawn(move || drop(first)).join().expect("drops it");
        assert_eq!(spare_bytes(), long);
        let again = IoBuf::zeroed(long);
        assert_eq!(again.as_ptr().addr(), address);
        assert!(again.iter().all(|byte| *byte == 0));
        for len in [long - BLOCK_BYTES, long + 1] {
            drop(IoBuf::zeroed(len));
            assert_eq!(spare_bytes(), 0, "{len} bytes are no long buffer");
        }
        let many: Vec<IoBuf> = (0..SPARES_MAX + 3).map(|_| IoBuf::stale(long)).collect();
        drop(many);
        assert_eq!(spare_bytes(), SPARE_BYTES_MAX);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another thread is the point")]
    fn a_buffer_dropped_by_another_thread_comes_home() {
        let pool = BufferPool::new(1 << 16);
        let installed = pool.install();
        let count = 4;
        for _ in 0..3 {
            let held: Vec<IoBuf> = (0..count).map(|_| IoBuf::zeroed(1)).collect();
            assert!(held.iter().all(|buf| is_pooled(&pool, buf)));
            std::thread::spawn(move || drop(held)).join().expect("drops them");
        }
        drop(installed);
        let outlives = {
            let pool = BufferPool::new(1 << 16);
            let _installed = pool.install();
            IoBuf::copy_of(b"still here")
        };
        assert_eq!(&outlives[..], b"still here");
    }
}
