//! An allocator that counts what a thread holds, so that a decoder's appetite can be measured.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that this thread has allocated and not given back, and the most of them since the last look.
/// Memory that another thread gives back is counted there, so it may be below zero.
#[derive(Clone, Copy)]
struct Held {
    now: i64,
    peak: i64,
}

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held { now: 0, peak: 0 }) };
}

fn note(bytes: usize, taken: bool) {
    let bytes = i64::try_from(bytes).expect("no allocation is longer than memory");
    // A thread that is ending has no counter any more.
    let _ = HELD.try_with(|held| {
        let Held { now, peak } = held.get();
        let now = if taken { now + bytes } else { now - bytes };
        held.set(Held { now, peak: peak.max(now) });
    });
}

/// The system's allocator, counted.
struct Counting;

// SAFETY: every call goes to the system's allocator with the caller's own arguments; counting neither
// allocates (a `const` thread-local without destructor) nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), true);
        // SAFETY: the caller keeps the rules of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), true);
        // SAFETY: the caller keeps the rules of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(layout.size(), false);
        // SAFETY: `at` came from the system's allocator with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // Both are held while the bytes move.
        note(bytes, true);
        note(layout.size(), false);
        // SAFETY: `at` came from the system's allocator with this layout; the caller checked `bytes`.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

/// Does the work; also says how many bytes it held at the most, beyond what the thread held before.
pub(crate) fn with_peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = HELD.get().now;
    HELD.set(Held { now: before, peak: before });
    let done = work();
    let peak = HELD.get().peak - before;
    (done, u64::try_from(peak).expect("the peak is not below where it began"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_counts_what_is_held_at_once() {
        let (_, peak) = with_peak(|| {
            drop(vec![0_u8; 10_000]);
            drop(vec![0_u8; 30_000]);
            drop(vec![0_u8; 20_000]);
        });
        assert_eq!(peak, 30_000);
        let (kept, peak) = with_peak(|| [vec![1_u8; 5_000], vec![2_u8; 6_000]]);
        assert_eq!((kept.len(), peak), (2, 11_000));
        let (_, peak) = with_peak(|| Vec::<u8>::with_capacity(100).reserve_exact(1_000));
        assert_eq!(peak, 1_100, "both are held while the bytes move");
    }
}
