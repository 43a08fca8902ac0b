//! The future of one I/O operation: completed once, by a reactor on the same core.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// Resolves to what the paired [`Promise`] completes with.
///
/// Dropping it abandons the result, not the operation: the reactor still owns the buffers and
/// drops them on completion. If the promise is dropped unfulfilled the future never resolves
/// (that happens only when a whole core is torn down).
pub struct Io<T>(Rc<RefCell<Slot<T>>>);

/// The completing side of an [`Io`].
pub struct Promise<T>(Rc<RefCell<Slot<T>>>);

/// A connected pair.
pub fn io<T>() -> (Promise<T>, Io<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None }));
    (Promise(slot.clone()), Io(slot))
}

impl<T> Io<T> {
    /// An operation that was complete when it began.
    pub fn ready(value: T) -> Self {
        Io(Rc::new(RefCell::new(Slot { value: Some(value), waker: None })))
    }
}

impl<T> Promise<T> {
    /// Completes the operation and wakes whoever waits.
    pub fn complete(self, value: T) {
        let waker = {
            let mut slot = self.0.borrow_mut();
            slot.value = Some(value);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
    /// True when nobody waits for the result any more.
    pub fn is_abandoned(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

impl<T> Future for Io<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.borrow_mut();
        match slot.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                if !slot.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    slot.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}
