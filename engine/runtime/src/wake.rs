//! Waking a core from another thread without losing a wake-up and without waking it in vain.
//!
//! A core that is about to sleep raises `sleeping`, then looks once more for work; whoever brings
//! work publishes it, then looks at `sleeping`. The sequentially consistent fence between the two
//! steps on both sides means that at least one of them sees the other (Dekker). The flag is taken
//! by one waker only; a wake-up that arrives late is one needless turn.

use crate::RuntimeError;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// The wake-up state of one core, shared by all threads.
pub(crate) struct WakeCell {
    sleeping: AtomicBool,
    notified: AtomicBool,
    event: File,
    ring: OnceLock<OwnedFd>,
}

impl WakeCell {
    pub(crate) fn new() -> Result<Self, RuntimeError> {
        let event = crate::system::eventfd().map_err(RuntimeError::system("eventfd"))?;
        Ok(WakeCell {
            sleeping: AtomicBool::new(false),
            notified: AtomicBool::new(false),
            event: event.into(),
            ring: OnceLock::new(),
        })
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
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel)
    }

    /// Wakes the core from a thread without a ring, if it sleeps.
    pub(crate) fn notify(&self) {
        self.notified.store(true, Ordering::Release);
        if self.claim() {
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
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The core runs again.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether somebody notified since the last call.
    pub(crate) fn take_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed) && self.notified.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waker_claims_a_sleeper_and_nobody_an_awake_core() {
        let cell = WakeCell::new().expect("eventfd");
        assert!(!cell.claim());
        cell.fall_asleep();
        assert!(cell.claim());
        assert!(!cell.claim());
        cell.fall_asleep();
        cell.awake();
        assert!(!cell.claim());
    }

    #[test]
    fn a_notification_is_seen_once() {
        let cell = WakeCell::new().expect("eventfd");
        cell.notify();
        assert!(cell.take_notified());
        assert!(!cell.take_notified());
    }
}
