//! One core's executor: tasks, timers and the turn that runs them.

use crate::remote::Notify;
use crate::shares::index_of;
use crate::tasks::{Next, Task, Tasks};
use crate::timers::Timers;
use crate::waker::Shared;
use cfs_seam::{Class, Clock, Instant, Spawn, TaskHandle, TimerId};
use cfs_types::Nanos;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Where the time comes from: the kernel, or the simulator.
pub trait TimeSource {
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Wall time; may step.
    fn wall(&self) -> Nanos;
}

/// Polls between two looks at the clock, which costs as much as a short poll.
const POLLS_A_LOOK: usize = 4;
/// Ready tasks for which a turn is cut short.
const FEW_READY: usize = 32;

/// Settings of an executor.
#[derive(Clone, Copy, Debug)]
pub struct ExecConfig {
    /// Most polls in one turn, so that the reactor is served in between.
    pub polls_per_turn: usize,
    /// No poll begins in a turn that has taken so long: what was submitted waits for its end, and so
    /// do completions.
    pub turn_time: Duration,
}

impl Default for ExecConfig {
    /// 64 polls: some tens of microseconds of the short tasks we write. A poll that executes an entry
    /// takes longer; 400 microseconds are a few times what a device takes. Shorter turns answer sooner,
    /// and make smaller batches for log and sockets.
    fn default() -> Self {
        ExecConfig { polls_per_turn: 64, turn_time: Duration::from_micros(400) }
    }
}

/// What a turn left behind. The reactor may sleep until `next_timer` unless `more_ready`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Tasks are ready for another turn.
    pub more_ready: bool,
    /// When the earliest timer is due.
    pub next_timer: Option<Instant>,
    /// Tasks polled in this turn.
    pub polled: usize,
}

struct Core {
    time: Rc<dyn TimeSource>,
    config: ExecConfig,
    tasks: RefCell<Tasks>,
    timers: RefCell<Timers>,
    shared: Arc<Shared>,
    /// The slot that is being polled, for `yield_now`.
    polling: Cell<Option<u32>>,
    this: Weak<Core>,
}

/// The scheduler of one core. Dropping it drops every task; clocks and spawners taken from it may
/// outlive it and then do nothing.
pub struct Executor(Rc<Core>);

impl Executor {
    /// An executor without tasks, owned by the calling thread. Panics where the configuration
    /// allows no polls.
    pub fn new(time: Rc<dyn TimeSource>, config: ExecConfig) -> Executor {
        assert!(config.polls_per_turn > 0, "a turn polls at least one task");
        Executor(Rc::new_cyclic(|this| Core {
            time,
            config,
            tasks: RefCell::default(),
            timers: RefCell::default(),
            shared: Arc::new(Shared::new()),
            polling: Cell::new(None),
            this: this.clone(),
        }))
    }

    /// The clock whose timers this executor fires.
    pub fn clock(&self) -> Rc<dyn Clock> {
        self.0.clone()
    }

    /// Starts tasks on this executor.
    pub fn tasks(&self) -> Rc<dyn Spawn> {
        self.0.clone()
    }

    /// Tasks that have neither ended nor been dropped.
    pub fn alive(&self) -> usize {
        self.0.tasks.borrow().len()
    }

    /// Called on another thread when that thread wakes a task of this executor and nothing is
    /// known to be waiting for this one yet. It must be sticky: sleep that begins after the call
    /// ends at once.
    pub fn set_remote_notify(&self, notify: Arc<dyn Fn() + Send + Sync>) {
        let notify: Notify = notify;
        self.0.shared.inbox.set_notify(notify);
    }

    /// Whether a turn would find tasks to poll, timers aside.
    pub fn has_ready(&self) -> bool {
        let shared = &self.0.shared;
        shared.inbox.has_news() || shared.with_ready(|ready| !ready.is_empty())
    }

    /// Fires due timers, then polls ready tasks, sharing between classes, at most as many as the
    /// configuration says.
    pub fn run_turn(&self) -> Turn {
        self.run_turn_until(|| false)
    }

    /// As [`Executor::run_turn`]; the turn is over after the poll that makes `is_over` true, while few tasks are
    /// ready. Where many are, the core is what all wait for, and fewer and larger batches cost it less.
    pub fn run_turn_until(&self, is_over: impl Fn() -> bool) -> Turn {
        let core = &self.0;
        core.take_remote_wakes();
        core.fire_timers();
        core.shared.with_ready(|ready| ready.begin_turn());
        let end = core.time.now().after(core.config.turn_time);
        let mut polled = 0;
        while polled < core.config.polls_per_turn {
            let Some(slot) = core.shared.with_ready(|ready| ready.pop()) else { break };
            polled += core.run_slot(slot);
            let over = is_over() && core.shared.with_ready(|ready| ready.len()) <= FEW_READY;
            if over || polled.is_multiple_of(POLLS_A_LOOK) && core.time.now() >= end {
                break;
            }
        }
        Turn { more_ready: self.has_ready(), next_timer: core.timers.borrow_mut().next(), polled }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let tasks = self.0.tasks.borrow_mut().close();
        drop(tasks);
        let wakers = self.0.timers.borrow_mut().clear();
        drop(wakers);
    }
}

impl Core {
    fn take_remote_wakes(&self) {
        for slot in self.shared.inbox.take() {
            self.tasks.borrow().clear_remote(slot);
            self.shared.with_ready(|ready| ready.wake(slot));
        }
    }

    fn fire_timers(&self) {
        let now = self.time.now();
        loop {
            let due = self.timers.borrow_mut().pop_due(now);
            match due {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }

    /// Polls or drops the task of a slot; the number of polls made.
    fn run_slot(&self, slot: u32) -> usize {
        let next = self.tasks.borrow_mut().take(slot);
        match next {
            Next::Nothing => 0,
            Next::Drop(task) => {
                drop(task);
                0
            }
            Next::Poll(task, waker) => {
                self.poll(slot, task, waker);
                1
            }
        }
    }

    fn poll(&self, slot: u32, mut task: Task, waker: Waker) {
        self.polling.set(Some(slot));
        let poll = task.as_mut().poll(&mut Context::from_waker(&waker));
        self.polling.set(None);
        if poll.is_ready() {
            self.tasks.borrow_mut().finish(slot, waker);
            drop(task);
        } else {
            self.tasks.borrow_mut().put_back(slot, task, waker);
        }
    }

    fn cancel(&self, slot: u32, generation: u64) {
        let alive = self.tasks.borrow_mut().cancel(slot, generation);
        if alive {
            self.shared.with_ready(|ready| ready.wake(slot));
        }
    }
}

impl Spawn for Core {
    fn spawn_boxed(&self, class: Class, task: Task) -> TaskHandle {
        if self.tasks.borrow().closed {
            drop(task);
            return TaskHandle::new(Box::new(|| {}));
        }
        let (slot, generation) = self.tasks.borrow_mut().insert(&self.shared, task);
        self.shared.with_ready(|ready| {
            ready.assign(slot, index_of(class));
            ready.wake(slot);
        });
        let core = self.this.clone();
        TaskHandle::new(Box::new(move || {
            if let Some(core) = core.upgrade() {
                core.cancel(slot, generation);
            }
        }))
    }

    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(Yield { core: self.this.clone(), yielded: false })
    }
}

/// Pending once; the task goes to the end of the next turn's queue.
struct Yield {
    core: Weak<Core>,
    yielded: bool,
}

impl Future for Yield {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        let core = self.core.upgrade();
        match core.as_ref().and_then(|core| Some((core, core.polling.get()?))) {
            Some((core, slot)) => core.shared.with_ready(|ready| ready.wake_next_turn(slot)),
            None => cx.waker().wake_by_ref(),
        }
        Poll::Pending
    }
}

impl Clock for Core {
    fn now(&self) -> Instant {
        self.time.now()
    }
    fn wall(&self) -> Nanos {
        self.time.wall()
    }
    fn arm(&self, at: Instant, waker: Waker) -> TimerId {
        self.timers.borrow_mut().arm(at, waker)
    }
    fn disarm(&self, timer: TimerId) {
        let waker = self.timers.borrow_mut().disarm(timer);
        drop(waker);
    }
}

#[cfg(test)]
#[path = "executor/tests.rs"]
mod tests;
