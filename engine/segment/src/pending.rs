//! One operation that several tasks wait for.

use cfs_seam::Io;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// An operation in flight and the tasks that want to know when it is over.
///
/// An [`Io`] wakes only whoever polled it last. Here each waiter registers, and a waiter that
/// goes away calls [`Pending::wake_all`], so that another takes over polling.
pub(crate) struct Pending<T> {
    running: Option<Io<T>>,
    waiting: Vec<Waker>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Pending { running: None, waiting: Vec::new() }
    }
}

impl<T> Pending<T> {
    pub fn is_idle(&self) -> bool {
        self.running.is_none()
    }
    /// Begins an operation. Panics while another one runs.
    pub fn start(&mut self, io: Io<T>) {
        assert!(self.running.is_none(), "one operation at a time");
        self.running = Some(io);
    }
    /// Ready with the result for exactly one caller; the others are woken and look at the state
    /// that caller left. Pending (and registered) otherwise. Panics when idle.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let io = self.running.as_mut().expect("polled only while an operation runs");
        match Pin::new(io).poll(cx) {
            Poll::Ready(value) => {
                self.running = None;
                self.wake_all();
                Poll::Ready(value)
            }
            Poll::Pending => {
                self.register(cx);
                Poll::Pending
            }
        }
    }
    /// Has the task woken by the next [`Pending::wake_all`].
    pub fn register(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|w| w.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }
    pub fn wake_all(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}
