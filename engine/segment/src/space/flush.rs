//! Flushes shared by all who wait for one.

use super::{Space, SpaceError, State};
use crate::pending::Pending;
use cfs_seam::DiskError;
use std::future::poll_fn;
use std::task::{Context, Poll};

#[derive(Default)]
pub(super) struct Flushes {
    running: Pending<Result<(), DiskError>>,
    /// Writes completed so far.
    pub completed: u64,
    /// Value of `completed` when the running flush began.
    covers: u64,
    /// Value of `completed` when the last successful flush began.
    durable: u64,
}

/// Passes the polling on when a waiter goes away.
struct Waiting<'a>(&'a Space);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.inner.state.borrow_mut().flushes.running.wake_all();
    }
}

impl Space {
    /// Makes every write that has completed before the call durable. Callers share flushes: one
    /// that runs when the last such write completed does not count, the next one serves all who
    /// came meanwhile.
    pub async fn sync(&self) -> Result<(), SpaceError> {
        self.after_release(None);
        if !self.inner.disk.geometry().volatile_cache {
            return match self.failed() {
                Some(error) => Err(SpaceError::Failed(error)),
                None => Ok(()),
            };
        }
        let target = self.inner.state.borrow().flushes.completed;
        let waiting = Waiting(self);
        poll_fn(|cx| waiting.0.poll_sync(target, cx)).await
    }

    fn poll_sync(&self, target: u64, cx: &mut Context<'_>) -> Poll<Result<(), SpaceError>> {
        let mut state = self.inner.state.borrow_mut();
        let State { flushes, failed, .. } = &mut *state;
        loop {
            if let Some(error) = failed.get() {
                return Poll::Ready(Err(SpaceError::Failed(error)));
            }
            if flushes.durable >= target {
                return Poll::Ready(Ok(()));
            }
            if flushes.running.is_idle() {
                flushes.covers = flushes.completed;
                flushes.running.start(self.inner.disk.flush());
            }
            match flushes.running.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => flushes.durable = flushes.covers,
                Poll::Ready(Err(error)) => failed.set(error),
            }
        }
    }
}
