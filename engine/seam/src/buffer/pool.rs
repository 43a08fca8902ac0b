//! Buffers that stay where they are: a runtime registers them with the kernel once.
//!
//! Invariants: a pool's memory is freed only with the pool, and a buffer keeps its pool alive, so
//! what is registered never becomes other memory. A buffer may be dropped on any thread: the lock
//! is there for that and otherwise uncontended.

use super::{BLOCK_BYTES, Block, IoBuf};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// Sizes of pooled buffers in blocks: one for blocks of metadata and small reads, one for larger
/// transfers. What is longer comes from the heap, where its pages cost little beside its bytes.
const SMALL_BLOCKS: usize = 1;
const LARGE_BLOCKS: usize = 16;

thread_local! {
    static INSTALLED: RefCell<Option<Arc<BufferPool>>> = const { RefCell::new(None) };
}

struct Size {
    blocks: usize,
    free: Mutex<Vec<Vec<Block>>>,
}

impl Size {
    fn new(blocks: usize, count: usize) -> Self {
        let free = (0..count).map(|_| vec![Block([0; BLOCK_BYTES]); blocks]).collect();
        Size { blocks, free: Mutex::new(free) }
    }
    fn with<R>(&self, work: impl FnOnce(&mut Vec<Vec<Block>>) -> R) -> R {
        work(&mut self.free.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Buffers of 4 and 64 KiB.
pub struct BufferPool {
    small: Size,
    large: Size,
    /// Address and bytes of every buffer.
    regions: Vec<(usize, usize)>,
}

impl BufferPool {
    /// A pool of about `bytes` bytes, a quarter of them in buffers of 4 KiB.
    pub fn new(bytes: usize) -> Arc<Self> {
        let small = Size::new(SMALL_BLOCKS, bytes / 4 / (SMALL_BLOCKS * BLOCK_BYTES));
        let large = Size::new(LARGE_BLOCKS, bytes / 4 * 3 / (LARGE_BLOCKS * BLOCK_BYTES));
        let mut regions = Vec::new();
        for size in [&small, &large] {
            let region = |blocks: &Vec<Block>| (blocks.as_ptr().addr(), size.blocks * BLOCK_BYTES);
            size.with(|free| regions.extend(free.iter().map(region)));
        }
        Arc::new(BufferPool { small, large, regions })
    }

    /// Address and length in bytes of every buffer; they stay as long as the pool lives.
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
            _ => None,
        }
    }

    pub(super) fn give_back(&self, blocks: Vec<Block>) {
        if let Some(size) = self.size(blocks.len()) {
            size.with(|free| free.push(blocks));
        }
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
        let taken = pool.size(blocks)?.with(Vec::pop)?;
        Some((taken, pool.clone()))
    });
    installed.ok().flatten()
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
