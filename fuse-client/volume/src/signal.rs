//! Waiting for a change of state.

use cfs_seam::{Io, Promise, io};
use std::cell::RefCell;

/// Wakes whoever waits; each waiter looks at the state again.
#[derive(Default)]
pub(crate) struct Signal(RefCell<Vec<Promise<()>>>);

impl Signal {
    /// Resolves at the next `notify` after this call.
    pub fn changed(&self) -> Io<()> {
        let (promise, wake) = io();
        let mut waiters = self.0.borrow_mut();
        waiters.retain(|w| !w.is_abandoned());
        waiters.push(promise);
        wake
    }

    /// Wakes all.
    pub fn notify(&self) {
        let waiters = std::mem::take(&mut *self.0.borrow_mut());
        for waiter in waiters {
            waiter.complete(());
        }
    }
}
