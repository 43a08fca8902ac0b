//! A fair counting semaphore: bounds memory, queues and work in flight.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Waiter {
    ticket: u64,
    wanted: u64,
    waker: Waker,
}

struct State {
    total: u64,
    free: u64,
    queue: VecDeque<Waiter>,
    /// Tickets whose permits are taken for them but not yet picked up, with the amount.
    granted: Vec<(u64, u64)>,
    tickets: u64,
}

impl State {
    /// Serves the queue from its head, as far as the free permits reach.
    fn grant(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(head) = self.queue.pop_front_if(|head| head.wanted <= self.free) {
            self.free -= head.wanted;
            self.granted.push((head.ticket, head.wanted));
            wakers.push(head.waker);
        }
        wakers
    }
    fn take_granted(&mut self, ticket: u64) -> Option<u64> {
        let at = self.granted.iter().position(|(t, _)| *t == ticket)?;
        Some(self.granted.swap_remove(at).1)
    }
}

/// Permits in first-come-first-served order: a large request is not starved by small ones.
/// Clones are the same semaphore.
#[derive(Clone)]
pub struct Semaphore(Rc<RefCell<State>>);

impl Semaphore {
    /// A semaphore with `permits` free.
    pub fn new(permits: u64) -> Self {
        let state = State { total: permits, free: permits, queue: VecDeque::new(), granted: Vec::new(), tickets: 0 };
        Semaphore(Rc::new(RefCell::new(state)))
    }
    /// Waits for `wanted` permits; more than the total waits for all of them. Cancel-safe.
    pub fn acquire(&self, wanted: u64) -> Acquire {
        let wanted = wanted.min(self.0.borrow().total);
        Acquire { semaphore: self.clone(), wanted, ticket: None }
    }
    /// `wanted` permits (at most the total) if they are free and nobody waits.
    pub fn try_acquire(&self, wanted: u64) -> Option<Permit> {
        let mut state = self.0.borrow_mut();
        let wanted = wanted.min(state.total);
        if !state.queue.is_empty() || state.free < wanted {
            return None;
        }
        state.free -= wanted;
        Some(Permit { semaphore: self.clone(), permits: wanted })
    }
    /// Permits nobody holds.
    pub fn free(&self) -> u64 {
        self.0.borrow().free
    }
    /// Tasks that wait.
    pub fn waiting(&self) -> usize {
        self.0.borrow().queue.len()
    }

    fn give_back(&self, permits: u64) {
        let wakers = {
            let mut state = self.0.borrow_mut();
            state.free += permits;
            state.grant()
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Permits held; dropping returns them.
#[must_use = "dropping the permit returns it"]
pub struct Permit {
    semaphore: Semaphore,
    permits: u64,
}

impl Permit {
    /// How many permits it holds.
    pub fn permits(&self) -> u64 {
        self.permits
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.give_back(self.permits);
    }
}

/// The future of [`Semaphore::acquire`].
pub struct Acquire {
    semaphore: Semaphore,
    wanted: u64,
    ticket: Option<u64>,
}

impl Future for Acquire {
    type Output = Permit;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let this = self.get_mut();
        let Some(ticket) = this.ticket else {
            if let Some(permit) = this.semaphore.try_acquire(this.wanted) {
                return Poll::Ready(permit);
            }
            let mut state = this.semaphore.0.borrow_mut();
            state.tickets += 1;
            let ticket = state.tickets;
            state.queue.push_back(Waiter { ticket, wanted: this.wanted, waker: cx.waker().clone() });
            this.ticket = Some(ticket);
            return Poll::Pending;
        };
        let mut state = this.semaphore.0.borrow_mut();
        if let Some(permits) = state.take_granted(ticket) {
            this.ticket = None;
            return Poll::Ready(Permit { semaphore: this.semaphore.clone(), permits });
        }
        if let Some(waiter) = state.queue.iter_mut().find(|w| w.ticket == ticket) {
            waiter.waker.clone_from(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let granted = {
            let mut state = self.semaphore.0.borrow_mut();
            state.queue.retain(|w| w.ticket != ticket);
            state.take_granted(ticket)
        };
        self.semaphore.give_back(granted.unwrap_or(0));
    }
}
