//! The future of one I/O operation: completed once, by a reactor on the same core.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    hook: Option<Hook<T>>,
}

/// What is done with a result when it is there.
type Hook<T> = Box<dyn FnOnce(&T)>;

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
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None, hook: None }));
    (Promise(slot.clone()), Io(slot))
}

impl<T> Io<T> {
    /// An operation that was complete when it began.
    pub fn ready(value: T) -> Self {
        Io(Rc::new(RefCell::new(Slot { value: Some(value), waker: None, hook: None })))
    }
}

impl<T: 'static> Io<T> {
    /// Has `hook` see the result when the operation completes, before whoever waits is woken; at once where it
    /// has. It is called also if this future is dropped meanwhile. One operation takes one hook.
    #[must_use]
    pub fn on_done(self, hook: impl FnOnce(&T) + 'static) -> Self {
        let mut slot = self.0.borrow_mut();
        match &slot.value {
            Some(value) => hook(value),
            None => {
                let before = slot.hook.replace(Box::new(hook));
                assert!(before.is_none(), "an operation has one hook");
            }
        }
        drop(slot);
        self
    }
}

impl<T> Promise<T> {
    /// Completes the operation and wakes whoever waits.
    pub fn complete(self, value: T) {
        let hook = self.0.borrow_mut().hook.take();
        if let Some(hook) = hook {
            hook(&value);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_hook_sees_the_result_once_whether_or_not_somebody_waits() {
        let seen = Rc::new(Cell::new(0));
        let add = |seen: &Rc<Cell<u32>>| {
            let seen = seen.clone();
            move |value: &u32| seen.set(seen.get() + value)
        };
        let (promise, waited) = io();
        let mut waited = waited.on_done(add(&seen));
        let (dropped, gone) = io();
        drop(gone.on_done(add(&seen)));
        assert_eq!(seen.get(), 0);
        promise.complete(1);
        dropped.complete(20);
        let _known = Io::ready(300).on_done(add(&seen));
        assert_eq!(seen.get(), 321);
        assert_eq!(Pin::new(&mut waited).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(1));
    }
}
