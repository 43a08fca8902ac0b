//! A condition variable for the tasks of one core.

use crate::waiters::{Place, Waiters};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

#[derive(Default)]
struct Inner {
    /// Counts notifications.
    notified: Cell<u64>,
    waiters: RefCell<Waiters>,
}

/// Edge-triggered: [`Event::wait`] resolves at the first [`Event::notify_all`] after it was
/// *called* (not after it was first polled), so that the loop
/// `while !condition() { event.wait().await }` misses nothing. Clones name the same event.
#[derive(Clone, Default)]
pub struct Event(Rc<Inner>);

impl Event {
    /// An event that was never notified.
    pub fn new() -> Self {
        Self::default()
    }
    /// Wakes all that wait now.
    pub fn notify_all(&self) {
        self.0.notified.set(self.0.notified.get() + 1);
        let waiters = self.0.waiters.borrow_mut().take_all();
        for waker in waiters.into_values() {
            waker.wake();
        }
    }
    /// Waits for the next notification. Cancel-safe.
    pub fn wait(&self) -> Wait {
        Wait { event: self.clone(), seen: self.0.notified.get(), place: None }
    }
    /// Tasks that wait.
    pub fn waiting(&self) -> usize {
        self.0.waiters.borrow().len()
    }
}

/// The future of [`Event::wait`].
pub struct Wait {
    event: Event,
    seen: u64,
    place: Place,
}

impl Future for Wait {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.event.0.notified.get() != this.seen {
            return Poll::Ready(());
        }
        this.event.0.waiters.borrow_mut().wait(&mut this.place, cx.waker());
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let waker = self.event.0.waiters.borrow_mut().leave(&mut self.place);
        drop(waker);
    }
}
