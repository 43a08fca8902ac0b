//! Waking a core from another thread without losing a wake-up and without waking it in vain.
//!
//! The protocol is in `wake/flags.rs`; here it gets its means: MSG_RING from cores, an event
//! counter from other threads.

mod flags;

use crate::RuntimeError;
use flags::Flags;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// The wake-up state of one core, shared by all threads.
pub(crate) struct WakeCell {
    flags: Flags,
    event: File,
    ring: OnceLock<OwnedFd>,
}

impl WakeCell {
    pub(crate) fn new() -> Result<Self, RuntimeError> {
        let event = crate::system::eventfd().map_err(RuntimeError::system("eventfd"))?;
        Ok(WakeCell { flags: Flags::new(), event: event.into(), ring: OnceLock::new() })
    }

    /// Publishes the core's ring: a duplicate that stays open as long as anybody may send to it,
    /// so that its number never names another file.
    pub(crate) fn publish_ring(&self, ring: BorrowedFd<'_>) -> Result<(), RuntimeError> {
        let ring = ring.try_clone_to_owned().map_err(RuntimeError::system("dup of the ring"))?;
        self.ring.set(ring).map_err(|_| RuntimeError::Config { what: "a mesh seat serves one core only" })
    }

    /// The ring's descriptor once the core runs.
    pub(crate) fn ring(&self) -> Option<RawFd> {
        self.ring.get().map(AsRawFd::as_raw_fd)
    }

    /// The descriptor the core reads to be woken by threads without a ring.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// To be called after work was published: true if the caller must wake the core.
    pub(crate) fn claim(&self) -> bool {
        self.flags.claim()
    }

    /// Wakes the core from a thread without a ring, if it sleeps.
    pub(crate) fn notify(&self) {
        if self.flags.notify() {
            self.signal();
        }
    }

    /// Wakes the core by its event descriptor. The only failure is a counter that is full, and
    /// then the core is being woken already.
    pub(crate) fn signal(&self) {
        drop((&self.event).write_all(&1u64.to_ne_bytes()));
    }

    /// The core is about to sleep; it must look for work once more before it does.
    pub(crate) fn fall_asleep(&self) {
        self.flags.fall_asleep();
    }

    /// The core runs again.
    pub(crate) fn awake(&self) {
        self.flags.awake();
    }

    /// Whether somebody notified since the last call.
    pub(crate) fn take_notified(&self) -> bool {
        self.flags.take_notified()
    }
}
