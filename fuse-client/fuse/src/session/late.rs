//! Threads that came too late: what their path had led to was gone when they used it. The kernel looks
//! such a path up anew, but only once; after that the program is told ESTALE.

use crate::request::FileOperation;
use cfs_seam::Instant;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than the kernel takes until it has looked the path up again.
const WINDOW: Duration = Duration::from_secs(1);
/// Threads remembered; another one looks its path up as if it were new.
const THREADS_MAX: usize = 1024;

#[derive(Default)]
pub struct Late(RefCell<BTreeMap<u32, Instant>>);

impl Late {
    /// The thread was told ESTALE.
    pub fn told(&self, thread: u32, now: Instant) {
        let mut threads = self.0.borrow_mut();
        threads.retain(|_, end| *end > now);
        if threads.len() < THREADS_MAX {
            threads.insert(thread, now.after(WINDOW));
        }
    }

    /// The thread begins an operation: marks lookups of a path that is tried again.
    pub fn mark(&self, thread: u32, operation: &mut FileOperation, now: Instant) {
        let mut threads = self.0.borrow_mut();
        match operation {
            FileOperation::Lookup { again, .. } => *again = threads.get(&thread).is_some_and(|end| *end > now),
            FileOperation::Open { .. } | FileOperation::Create { .. } => drop(threads.remove(&thread)),
            _ => {}
        }
    }
}
