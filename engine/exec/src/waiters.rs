//! Wakers of tasks that wait for one thing, in order of arrival.

use std::collections::BTreeMap;
use std::task::Waker;

/// Names a place in a [`Waiters`]; None before the first wait.
pub type Place = Option<u64>;

/// Waiting tasks. A place is kept over repeated polls, so order of arrival is kept too.
#[derive(Default)]
pub struct Waiters {
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

impl Waiters {
    /// Waits at `place`, or at a new place at the end.
    pub fn wait(&mut self, place: &mut Place, waker: &Waker) {
        let at = *place.get_or_insert_with(|| {
            self.next += 1;
            self.next
        });
        match self.wakers.get_mut(&at) {
            Some(known) => known.clone_from(waker),
            None => {
                self.wakers.insert(at, waker.clone());
            }
        }
    }

    /// Gives a place up; the waker is the caller's to drop.
    pub fn leave(&mut self, place: &mut Place) -> Option<Waker> {
        place.take().and_then(|at| self.wakers.remove(&at))
    }

    /// Removes all; the caller wakes them outside of its borrow.
    pub fn take_all(&mut self) -> BTreeMap<u64, Waker> {
        std::mem::take(&mut self.wakers)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.wakers.len()
    }
}
