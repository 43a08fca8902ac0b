//! Giving up requests whose callers die.

use super::Session;
use super::table::Waiting;
use crate::caller::{Caller, look};
use crate::file_system::FileSystem;
use cfs_seam::{Class, sleep, spawn};
use std::rc::Rc;
use std::time::Duration;

/// Time between two looks at the callers. A second signal of the same caller brings no second
/// INTERRUPT, an INTERRUPT may be read from another queue, and reading pauses when everything is
/// full: so whoever waits this long is looked at, interrupted or not.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Callers looked at in one go; the others have their turn at the next.
const LOOKS_MAX: usize = 256;

impl<F: FileSystem> Session<F> {
    /// The caller of `unique` got a signal.
    pub(super) fn interrupt(&self, unique: u64) {
        let Some(waiting) = self.table.get(unique) else { return };
        waiting.interrupted.set(true);
        if look(waiting.pid) == Caller::Dying {
            waiting.give_up();
        }
    }

    /// Has somebody look at the callers while there are any.
    pub(super) fn watch(self: &Rc<Self>) {
        if self.watching.replace(true) {
            return;
        }
        let session = self.clone();
        // Ends by itself when no request is left.
        spawn(&self.host.tasks, Class::Foreground, async move { session.look_at_callers().await }).detach();
    }

    async fn look_at_callers(&self) {
        let (mut seen, mut from) = (0, 0);
        loop {
            sleep(&self.host.clock, LOOK_EVERY).await;
            // Only requests that were there at the look before: the others did not wait long.
            let some = self.table.some_after(from, LOOKS_MAX);
            let old = some.iter().take_while(|(unique, _)| *unique <= seen);
            from = 0;
            for (unique, waiting) in old {
                from = *unique;
                if gone(waiting) {
                    waiting.give_up();
                }
            }
            if some.len() < LOOKS_MAX {
                from = 0;
            }
            match self.table.last() {
                Some(last) => seen = last,
                None => break,
            }
        }
        self.watching.set(false);
    }
}

/// Whether nobody waits for the answer. Where nothing is known of the caller, its signal counts.
fn gone(waiting: &Waiting) -> bool {
    match look(waiting.pid) {
        Caller::Dying => true,
        Caller::Alive => false,
        Caller::Unknown => waiting.interrupted.get(),
    }
}
