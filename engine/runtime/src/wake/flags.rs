//! The two flags by which a core sleeps and is woken.
//!
//! A core that is about to sleep raises `sleeping`, then looks once more for work; whoever brings
//! work publishes it, then looks at `sleeping`. The sequentially consistent fence between the two
//! steps on both sides means that at least one of them sees the other (Dekker). The flag is taken
//! by one waker only; a wake-up that arrives late is one needless turn, because it waits in the
//! ring. The loom tests try every interleaving, `.ci/run` those with at most three preemptions:
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p cfs-runtime --lib --profile ci loom_`.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

pub(super) struct Flags {
    sleeping: AtomicBool,
    notified: AtomicBool,
}

impl Flags {
    pub(super) fn new() -> Self {
        Flags { sleeping: AtomicBool::new(false), notified: AtomicBool::new(false) }
    }

    /// By who has published work: true if it must wake the core.
    pub(super) fn claim(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel)
    }

    /// Publishes 'there is news' and claims: true if the caller must wake the core.
    pub(super) fn notify(&self) -> bool {
        self.notified.store(true, Ordering::Release);
        self.claim()
    }

    /// By the core, before its last look for work.
    pub(super) fn fall_asleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// By the core, when it runs again.
    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// By the core: whether there was news since the last call.
    pub(super) fn take_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed) && self.notified.swap(false, Ordering::AcqRel)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_waker_claims_a_sleeper_and_nobody_an_awake_core() {
        let flags = Flags::new();
        assert!(!flags.claim());
        flags.fall_asleep();
        assert!(flags.claim());
        assert!(!flags.claim());
        flags.fall_asleep();
        flags.awake();
        assert!(!flags.claim());
    }

    #[test]
    fn news_is_seen_once() {
        let flags = Flags::new();
        assert!(!flags.notify());
        assert!(flags.take_notified());
        assert!(!flags.take_notified());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::atomic::AtomicUsize;
    use loom::sync::{Arc, Condvar, Mutex};

    /// The ring: a wake-up that came before the sleep ends it at once.
    struct Ring {
        woken: Mutex<bool>,
        changed: Condvar,
    }

    impl Ring {
        fn wake(&self) {
            *self.woken.lock().expect("not poisoned") = true;
            self.changed.notify_one();
        }
        fn sleep(&self) {
            let mut woken = self.woken.lock().expect("not poisoned");
            while !*woken {
                woken = self.changed.wait(woken).expect("not poisoned");
            }
            *woken = false;
        }
    }

    struct Shared {
        flags: Flags,
        ring: Ring,
        /// Messages a core has pushed: its ring in the mesh.
        pushed: AtomicUsize,
    }

    fn shared() -> Arc<Shared> {
        let ring = Ring { woken: Mutex::new(false), changed: Condvar::new() };
        Arc::new(Shared { flags: Flags::new(), ring, pushed: AtomicUsize::new(0) })
    }

    /// The core's loop until it has seen all messages and all news: a lost wake-up is a deadlock,
    /// which loom reports.
    fn own(shared: &Shared, messages: usize, mut news: bool) {
        let look = |news: &mut bool| {
            let notified = shared.flags.take_notified();
            *news &= !notified;
            shared.pushed.load(Ordering::Acquire) == messages && !*news
        };
        while !look(&mut news) {
            shared.flags.fall_asleep();
            let seen = look(&mut news);
            if !seen {
                shared.ring.sleep();
            }
            shared.flags.awake();
        }
    }

    #[test]
    fn loom_a_message_and_news_both_arrive() {
        loom::model(|| {
            let shared = shared();
            let (core, thread) = (shared.clone(), shared.clone());
            let core = loom::thread::spawn(move || {
                core.pushed.store(1, Ordering::Release);
                if core.flags.claim() {
                    core.ring.wake();
                }
            });
            let thread = loom::thread::spawn(move || {
                if thread.flags.notify() {
                    thread.ring.wake();
                }
            });
            own(&shared, 1, true);
            core.join().expect("does not panic");
            thread.join().expect("does not panic");
        });
    }

    #[test]
    fn loom_a_second_message_arrives_too() {
        loom::model(|| {
            let shared = shared();
            let core = shared.clone();
            let core = loom::thread::spawn(move || {
                for message in 1..=2 {
                    core.pushed.store(message, Ordering::Release);
                    if core.flags.claim() {
                        core.ring.wake();
                    }
                }
            });
            own(&shared, 2, false);
            core.join().expect("does not panic");
        });
    }
}
