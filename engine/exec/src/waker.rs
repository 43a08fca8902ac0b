//! Wakers: one a task slot, pooled with the slot.
//!
//! The owner's thread queues the slot straight away, without a lock; any other thread goes
//! through the [`Inbox`]. A waker of a task that is gone may wake the slot's next task once too
//! often, which every future tolerates.

#![allow(unsafe_code)]

use crate::ready::Ready;
use crate::remote::{Inbox, RemoteFlag};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Wake;

/// A number that no other thread of this process has or had.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local!(static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

/// A value that only the thread that made it can look at.
pub struct OwnerOnly<T> {
    thread: u64,
    value: T,
}

// SAFETY: a shared reference to the wrapper yields `&T` on the owner's thread only, because
// `get` compares thread numbers and these are never reused; so `T` is never shared between
// threads. The last `Arc` may be dropped on another thread, which moves `T` there: `T: Send`.
unsafe impl<T: Send> Sync for OwnerOnly<T> {}

impl<T> OwnerOnly<T> {
    pub fn new(value: T) -> Self {
        OwnerOnly { thread: thread_number(), value }
    }
    /// None on any thread but the owner's.
    pub fn get(&self) -> Option<&T> {
        (self.thread == thread_number()).then_some(&self.value)
    }
}

/// What wakers and executor share.
pub struct Shared {
    ready: OwnerOnly<RefCell<Ready>>,
    pub inbox: Inbox,
}

impl Shared {
    pub fn new() -> Self {
        Shared { ready: OwnerOnly::new(RefCell::default()), inbox: Inbox::new() }
    }
    /// Runs `f` on the ready queues. Owner's thread only; `f` must not call foreign code.
    pub fn with_ready<R>(&self, f: impl FnOnce(&mut Ready) -> R) -> R {
        let ready = self.ready.get().expect("an executor does not leave its thread");
        f(&mut ready.borrow_mut())
    }
}

/// The waker of one task slot.
pub struct SlotWaker {
    pub shared: Arc<Shared>,
    pub slot: u32,
    pub remote: RemoteFlag,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        match self.shared.ready.get() {
            Some(ready) => ready.borrow_mut().wake(self.slot),
            None => self.shared.inbox.wake(self.slot, &self.remote),
        }
    }
}
