//! The requests in work.

use cfs_exec::Event;
use cfs_seam::TaskHandle;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

/// A request that somebody waits for.
pub struct Waiting {
    /// Thread that waits; 0 if unknown.
    pub pid: u32,
    /// The kernel said that the thread got a signal.
    pub interrupted: Cell<bool>,
    given_up: Cell<bool>,
    giving_up: Event,
}

impl Waiting {
    pub fn new(pid: u32) -> Self {
        Waiting { pid, interrupted: Cell::new(false), given_up: Cell::new(false), giving_up: Event::new() }
    }

    /// Has the request answered EINTR unless its answer is already on the way.
    pub fn give_up(&self) {
        self.given_up.set(true);
        self.giving_up.notify_all();
    }

    /// Runs `work` to its end or until the request is given up (None).
    pub async fn unless_given_up<W: Future>(&self, mut work: Pin<&mut W>) -> Option<W::Output> {
        let mut stop = pin!(self.giving_up.wait());
        std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            if self.given_up.get() {
                return Poll::Ready(None);
            }
            stop.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

/// Requests by the number the kernel gave them.
#[derive(Default)]
pub struct Table(RefCell<BTreeMap<u64, (Rc<Waiting>, TaskHandle)>>);

impl Table {
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Keeps a request and its task; one of the same number is dropped, which cancels it.
    pub fn insert(&self, unique: u64, waiting: Rc<Waiting>, handle: TaskHandle) {
        let old = self.0.borrow_mut().insert(unique, (waiting, handle));
        drop(old);
    }

    /// Called by the request's own task when it is done.
    pub fn remove(&self, unique: u64, waiting: &Rc<Waiting>) {
        let mut requests = self.0.borrow_mut();
        let own = requests.get(&unique).is_some_and(|(held, _)| Rc::ptr_eq(held, waiting));
        let removed = if own { requests.remove(&unique) } else { None };
        drop(requests);
        if let Some((_, handle)) = removed {
            handle.detach();
        }
    }

    pub fn get(&self, unique: u64) -> Option<Rc<Waiting>> {
        self.0.borrow().get(&unique).map(|(waiting, _)| waiting.clone())
    }

    /// Up to `count` requests after number `after`, in order.
    pub fn some_after(&self, after: u64, count: usize) -> Vec<(u64, Rc<Waiting>)> {
        let requests = self.0.borrow();
        let later = requests.range(after.saturating_add(1)..);
        later.take(count).map(|(unique, (waiting, _))| (*unique, waiting.clone())).collect()
    }

    /// The youngest request's number.
    pub fn last(&self) -> Option<u64> {
        self.0.borrow().last_key_value().map(|(unique, _)| *unique)
    }

    /// Cancels what is left.
    pub fn clear(&self) {
        let left = std::mem::take(&mut *self.0.borrow_mut());
        drop(left);
    }
}
