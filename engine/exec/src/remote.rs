//! How another thread wakes a task of this executor.
//!
//! A waking thread marks the task's [`RemoteFlag`], puts the slot into the [`Inbox`] and, where
//! the inbox was empty, notifies the reactor. The owner empties the inbox at the start of a turn,
//! clears the flags and queues the slots.
//!
//! Why no wake is lost: the notification follows the push, and the reactor's notification is
//! sticky (an eventfd or a completion in the ring), so an owner that looked into the inbox just
//! before the push does not sleep through it. A flag is cleared before its task is polled, so a
//! wake that finds it set is served by that poll. The flag also bounds the inbox: a slot is in it
//! at most once. The loom test at the end checks both under every interleaving:
//! `RUSTFLAGS="--cfg loom" cargo test -p cfs-exec --lib --target-dir target/loom loom_`.

use crate::sync::{AtomicBool, Mutex, Ordering};
use std::sync::Arc;

/// What a reactor wants called, on the waking thread, when there is news from another thread.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

struct State {
    slots: Vec<u32>,
    notify: Option<Notify>,
}

/// Slots woken by other threads since the owner last looked.
pub struct Inbox {
    /// Set while `slots` may be non-empty: spares the owner the lock in every quiet turn.
    news: AtomicBool,
    state: Mutex<State>,
}

/// Set while a task's slot is in the inbox.
pub struct RemoteFlag(AtomicBool);

impl RemoteFlag {
    pub fn new() -> Self {
        RemoteFlag(AtomicBool::new(false))
    }
    /// By the waking thread: true where it must push the slot. Releases what it wrote before.
    fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
    /// By the owner, before the poll: acquires what every waking thread wrote before its wake.
    pub fn clear(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}

impl Inbox {
    pub fn new() -> Self {
        Inbox { news: AtomicBool::new(false), state: Mutex::new(State { slots: Vec::new(), notify: None }) }
    }

    /// From another thread: hands over `slot` once, and notifies where the inbox was empty.
    pub fn wake(&self, slot: u32, flag: &RemoteFlag) {
        if !flag.raise() {
            return;
        }
        let notify = {
            let mut state = self.state.lock().expect("nothing panics under this lock");
            state.slots.push(slot);
            self.news.store(true, Ordering::Release);
            if state.slots.len() == 1 { state.notify.clone() } else { None }
        };
        if let Some(notify) = notify {
            notify();
        }
    }

    /// By the owner: what was woken. The caller clears each slot's flag, then queues it.
    pub fn take(&self) -> Vec<u32> {
        if !self.has_news() {
            return Vec::new();
        }
        let mut state = self.state.lock().expect("nothing panics under this lock");
        self.news.store(false, Ordering::Relaxed);
        std::mem::take(&mut state.slots)
    }

    /// Whether the next [`Inbox::take`] may find something.
    pub fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    /// Replaces the notification; calls it at once where news already waits.
    pub fn set_notify(&self, notify: Notify) {
        let waiting = {
            let mut state = self.state.lock().expect("nothing panics under this lock");
            state.notify = Some(notify.clone());
            !state.slots.is_empty()
        };
        if waiting {
            notify();
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Condvar;
    use loom::sync::atomic::AtomicUsize;

    /// The reactor's sticky notification: sleeping returns at once if one came before.
    struct Bell {
        rung: loom::sync::Mutex<bool>,
        changed: Condvar,
    }

    impl Bell {
        fn new() -> Self {
            Bell { rung: loom::sync::Mutex::new(false), changed: Condvar::new() }
        }
        fn ring(&self) {
            *self.rung.lock().expect("not poisoned") = true;
            self.changed.notify_one();
        }
        fn sleep(&self) {
            let mut rung = self.rung.lock().expect("not poisoned");
            while !*rung {
                rung = self.changed.wait(rung).expect("not poisoned");
            }
            *rung = false;
        }
    }

    struct Shared {
        inbox: Inbox,
        flags: Vec<RemoteFlag>,
        /// What the tasks wait for; Relaxed, so that only the protocol orders it.
        data: Vec<AtomicUsize>,
        bell: Arc<Bell>,
    }

    /// Runs the owner's loop until each task has seen its value: a lost wake-up is a deadlock,
    /// which loom reports.
    fn own(shared: &Shared, wanted: &[usize]) {
        let mut seen = vec![0; wanted.len()];
        while seen != wanted {
            let woken = shared.inbox.take();
            if woken.is_empty() {
                shared.bell.sleep();
            }
            for slot in woken {
                let slot = usize::try_from(slot).expect("fits");
                shared.flags[slot].clear();
                seen[slot] = shared.data[slot].load(Ordering::Relaxed);
            }
        }
    }

    fn shared(tasks: usize) -> loom::sync::Arc<Shared> {
        let bell = Arc::new(Bell::new());
        let shared = Shared {
            inbox: Inbox::new(),
            flags: (0..tasks).map(|_| RemoteFlag::new()).collect(),
            data: (0..tasks).map(|_| AtomicUsize::new(0)).collect(),
            bell: bell.clone(),
        };
        shared.inbox.set_notify(Arc::new(move || bell.ring()));
        loom::sync::Arc::new(shared)
    }

    #[test]
    fn loom_two_threads_wake_two_tasks() {
        loom::model(|| {
            let shared = shared(2);
            let threads: Vec<_> = (0..2u32)
                .map(|slot| {
                    let shared = shared.clone();
                    loom::thread::spawn(move || {
                        let at = usize::try_from(slot).expect("fits");
                        shared.data[at].store(1, Ordering::Relaxed);
                        shared.inbox.wake(slot, &shared.flags[at]);
                    })
                })
                .collect();
            own(&shared, &[1, 1]);
            for thread in threads {
                thread.join().expect("does not panic");
            }
        });
    }

    #[test]
    fn loom_a_second_wake_of_one_task_is_seen() {
        loom::model(|| {
            let shared = shared(1);
            let waking = shared.clone();
            let thread = loom::thread::spawn(move || {
                for value in 1..=2 {
                    waking.data[0].store(value, Ordering::Relaxed);
                    waking.inbox.wake(0, &waking.flags[0]);
                }
            });
            own(&shared, &[2]);
            thread.join().expect("does not panic");
        });
    }
}
