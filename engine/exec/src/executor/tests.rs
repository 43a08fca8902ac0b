//! The scheduler as its tasks see it.

use super::*;
use crate::channel::{SendError, bounded};
use crate::{Event, Gate, Semaphore};
use cfs_seam::{Io, io, sleep, spawn, timeout};
use std::time::Duration;

#[derive(Default)]
struct ManualTime(Cell<u64>);

impl TimeSource for ManualTime {
    fn now(&self) -> Instant {
        Instant::new(self.0.get())
    }
    fn wall(&self) -> Nanos {
        Nanos::new(0)
    }
}

struct Rig {
    time: Rc<ManualTime>,
    exec: Executor,
    trace: Rc<RefCell<Vec<u32>>>,
}

impl Rig {
    fn with(config: ExecConfig) -> Rig {
        let time = Rc::new(ManualTime::default());
        Rig { exec: Executor::new(time.clone(), config), time, trace: Rc::default() }
    }
    fn new() -> Rig {
        Rig::with(ExecConfig::default())
    }
    fn go(&self, class: Class, task: impl Future<Output = ()> + 'static) {
        spawn(&self.exec.tasks(), class, task).detach();
    }
    fn settle(&self) {
        while self.exec.run_turn().more_ready {}
    }
    fn note(&self) -> impl Fn(u32) + Clone + 'static {
        let trace = self.trace.clone();
        move |n| trace.borrow_mut().push(n)
    }
    fn traced(&self) -> Vec<u32> {
        self.trace.borrow().clone()
    }
}

/// Notes its number when dropped.
struct Dropped<F: Fn(u32)>(u32, F);
impl<F: Fn(u32)> Drop for Dropped<F> {
    fn drop(&mut self) {
        (self.1)(self.0);
    }
}

#[test]
fn a_task_woken_while_it_is_polled_runs_again() {
    let rig = Rig::new();
    let note = rig.note();
    let mut polls = 0;
    rig.go(
        Class::Foreground,
        std::future::poll_fn(move |cx| {
            polls += 1;
            note(polls);
            if polls == 3 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }),
    );
    rig.settle();
    assert_eq!(rig.traced(), [1, 2, 3]);
    assert_eq!(rig.exec.alive(), 0);
}

#[test]
fn a_turn_is_bounded_and_shared() {
    let rig = Rig::with(ExecConfig { polls_per_turn: 26, ..ExecConfig::default() });
    for (n, class) in [Class::Background, Class::Replication, Class::Foreground].into_iter().enumerate() {
        let n = u32::try_from(n).expect("small");
        let note = rig.note();
        rig.go(
            class,
            std::future::poll_fn(move |cx| {
                note(n);
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            }),
        );
    }
    let turn = rig.exec.run_turn();
    assert_eq!((turn.polled, turn.more_ready), (26, true));
    let polls = [0, 1, 2].map(|n| rig.traced().iter().filter(|m| **m == n).count());
    assert_eq!(polls, [2, 8, 16]);
}

#[test]
fn a_turn_ends_when_its_time_is_over() {
    let rig = Rig::with(ExecConfig { turn_time: Duration::from_nanos(30), ..ExecConfig::default() });
    for n in 0..7 {
        let (note, time) = (rig.note(), rig.time.clone());
        rig.go(Class::Foreground, async move {
            note(n);
            time.0.set(time.0.get() + 10);
        });
    }
    let turn = rig.exec.run_turn();
    assert_eq!((turn.polled, turn.more_ready, rig.traced()), (POLLS_A_LOOK, true, vec![0, 1, 2, 3]));
    assert_eq!(rig.exec.run_turn().polled, 3);
}

#[test]
fn a_class_that_slept_does_not_take_the_core_for_itself() {
    let rig = Rig::with(ExecConfig { polls_per_turn: 90, ..ExecConfig::default() });
    let spin = |n: u32| {
        let note = rig.note();
        std::future::poll_fn(move |cx| {
            note(n);
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        })
    };
    rig.go(Class::Foreground, spin(1));
    for _ in 0..100 {
        rig.exec.run_turn();
    }
    rig.trace.borrow_mut().clear();
    rig.go(Class::Background, spin(2));
    rig.exec.run_turn();
    assert_eq!(rig.traced().iter().filter(|n| **n == 2).count(), 10);
}

#[test]
fn who_yields_lets_all_others_run_first() {
    let rig = Rig::new();
    let (note, tasks) = (rig.note(), rig.exec.tasks());
    rig.go(Class::Foreground, async move {
        note(1);
        tasks.yield_now().await;
        note(3);
    });
    let note = rig.note();
    rig.go(Class::Background, async move { note(2) });
    assert!(rig.exec.run_turn().more_ready);
    assert_eq!(rig.traced(), [1, 2]);
    rig.settle();
    assert_eq!(rig.traced(), [1, 2, 3]);
}

#[test]
fn a_dropped_handle_drops_the_future_in_the_next_turn() {
    let rig = Rig::new();
    let guard = Dropped(7, rig.note());
    let handle = spawn(&rig.exec.tasks(), Class::Foreground, async move {
        std::future::pending::<()>().await;
        drop(guard);
    });
    rig.settle();
    drop(handle);
    assert_eq!(rig.traced(), [] as [u32; 0]);
    assert!(!rig.exec.run_turn().more_ready);
    assert_eq!((rig.traced(), rig.exec.alive()), (vec![7], 0));
}

#[test]
fn a_task_that_drops_its_own_handle_ends_at_its_next_await() {
    let rig = Rig::new();
    let own: Rc<RefCell<Option<TaskHandle>>> = Rc::default();
    let (mine, note) = (own.clone(), rig.note());
    let handle = spawn(&rig.exec.tasks(), Class::Foreground, async move {
        let handle = mine.borrow_mut().take();
        drop(handle);
        note(1);
        std::future::pending::<()>().await;
        note(2);
    });
    *own.borrow_mut() = Some(handle);
    rig.settle();
    assert_eq!((rig.traced(), rig.exec.alive()), (vec![1], 0));
}

#[test]
fn a_stale_handle_does_not_cancel_the_slots_next_task() {
    let rig = Rig::new();
    let handle = spawn(&rig.exec.tasks(), Class::Foreground, async {});
    rig.settle();
    let note = rig.note();
    let tasks = rig.exec.tasks();
    rig.go(Class::Foreground, async move {
        tasks.yield_now().await;
        note(1);
    });
    drop(handle);
    rig.settle();
    assert_eq!(rig.traced(), [1]);
}

#[test]
fn dropping_the_executor_drops_tasks_that_hold_its_own_handles() {
    let rig = Rig::new();
    let (clock, tasks) = (rig.exec.clock(), rig.exec.tasks());
    let guard = Dropped(1, rig.note());
    rig.go(Class::Foreground, async move {
        // Spawned while the executor goes: refused, and dropped.
        let late = Dropped(2, guard.1.clone());
        let _spawns_on_drop = SpawnOnDrop(tasks, Some(Box::pin(async move { drop(late) })));
        sleep(&clock, Duration::from_secs(1)).await;
        drop(guard);
    });
    rig.settle();
    let core = Rc::downgrade(&rig.exec.0);
    let trace = rig.trace.clone();
    drop(rig);
    let mut dropped = trace.borrow().clone();
    dropped.sort_unstable();
    assert_eq!(dropped, [1, 2]);
    assert!(core.upgrade().is_none(), "a reference cycle survives");
}

struct SpawnOnDrop(Rc<dyn Spawn>, Option<Task>);
impl Drop for SpawnOnDrop {
    fn drop(&mut self) {
        let task = self.1.take().expect("dropped once");
        self.0.spawn_boxed(Class::Foreground, task).detach();
    }
}

#[test]
fn sleepers_wake_in_order_and_the_turn_names_the_next() {
    let rig = Rig::new();
    for seconds in [3, 1, 2] {
        let (clock, note) = (rig.exec.clock(), rig.note());
        rig.go(Class::Foreground, async move {
            sleep(&clock, Duration::from_nanos(u64::from(seconds))).await;
            note(seconds);
        });
    }
    for now in 1..=3 {
        let turn = rig.exec.run_turn();
        assert_eq!((turn.more_ready, turn.next_timer), (false, Some(Instant::new(now))));
        rig.time.0.set(now);
    }
    assert_eq!(rig.exec.run_turn().next_timer, None);
    assert_eq!(rig.traced(), [1, 2, 3]);
}

#[test]
fn a_timeout_gives_up_and_leaves_no_timer_behind() {
    let rig = Rig::new();
    let (clock, note) = (rig.exec.clock(), rig.note());
    let (promise, done): (_, Io<u32>) = io();
    rig.go(Class::Foreground, async move {
        note(u32::from(timeout(&clock, Instant::new(5), std::future::pending::<()>()).await.is_none()));
        note(timeout(&clock, Instant::new(50), done).await.unwrap_or(0));
    });
    rig.settle();
    rig.time.0.set(5);
    rig.settle();
    promise.complete(9);
    assert_eq!(rig.exec.run_turn().next_timer, None);
    assert_eq!(rig.traced(), [1, 9]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the thread is what wakes")]
fn another_thread_wakes_a_task_and_rings() {
    let rig = Rig::new();
    let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
    let rung = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = rung.clone();
    rig.exec.set_remote_notify(Arc::new(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }));
    let note = rig.note();
    let mut polls = 0;
    rig.go(
        Class::Foreground,
        std::future::poll_fn(move |cx| {
            polls += 1;
            note(polls);
            sender.send(cx.waker().clone()).expect("the test holds the receiver");
            Poll::<()>::Pending
        }),
    );
    rig.settle();
    let waker = receiver.recv().expect("the task was polled");
    std::thread::spawn(move || {
        waker.wake_by_ref();
        waker.wake();
    })
    .join()
    .expect("does not panic");
    assert_eq!(rung.load(std::sync::atomic::Ordering::SeqCst), 1);
    rig.settle();
    assert_eq!(rig.traced(), [1, 2]);
}

#[test]
fn a_closed_gate_waits_for_everyone_inside() {
    let rig = Rig::new();
    let gate = Gate::new();
    let pass = gate.enter().expect("open");
    let (closing, note) = (gate.close(), rig.note());
    rig.go(Class::Foreground, async move {
        closing.await;
        note(1);
    });
    assert!(gate.enter().is_none());
    rig.settle();
    assert_eq!(rig.traced(), [] as [u32; 0]);
    drop(pass);
    rig.settle();
    assert_eq!(rig.traced(), [1]);
}

#[test]
fn a_large_acquire_is_not_starved_and_a_cancelled_one_does_not_block() {
    let rig = Rig::new();
    let semaphore = Semaphore::new(3);
    let held = semaphore.try_acquire(2).expect("free");
    let (s, note) = (semaphore.clone(), rig.note());
    let large = spawn(&rig.exec.tasks(), Class::Foreground, async move {
        note(u32::try_from(s.acquire(99).await.permits()).expect("small"));
    });
    let (s, note) = (semaphore.clone(), rig.note());
    rig.go(Class::Foreground, async move {
        let _permit = s.acquire(1).await;
        note(1);
    });
    rig.settle();
    assert!(semaphore.try_acquire(1).is_none(), "would overtake those who wait");
    assert_eq!(rig.traced(), [] as [u32; 0]);
    drop(large);
    rig.settle();
    assert_eq!((rig.traced(), semaphore.free()), (vec![1], 1));
    drop(held);
    assert_eq!((semaphore.free(), semaphore.waiting()), (3, 0));
}

#[test]
fn permits_granted_to_a_task_that_is_then_cancelled_come_back() {
    let rig = Rig::new();
    let semaphore = Semaphore::new(1);
    let held = semaphore.try_acquire(1).expect("free");
    let s = semaphore.clone();
    let waiting = spawn(&rig.exec.tasks(), Class::Foreground, async move {
        let _permit = s.acquire(1).await;
        std::future::pending::<()>().await;
    });
    rig.settle();
    drop(held);
    drop(waiting);
    rig.settle();
    assert_eq!(semaphore.free(), 1);
}

#[test]
fn a_channel_keeps_order_bounds_its_senders_and_ends() {
    let rig = Rig::new();
    let (sender, mut receiver) = bounded::<u32>(2);
    let sending = sender.clone();
    rig.go(Class::Foreground, async move {
        for n in 0..5 {
            sending.send(n).await.expect("the receiver lives");
        }
    });
    rig.settle();
    assert_eq!((receiver.len(), sender.try_send(9)), (2, Err(SendError::Full(9))));
    drop(sender);
    let note = rig.note();
    rig.go(Class::Foreground, async move {
        while let Some(n) = receiver.recv().await {
            note(n);
        }
        note(100);
    });
    rig.settle();
    assert_eq!(rig.traced(), [0, 1, 2, 3, 4, 100]);
}

#[test]
fn senders_that_wait_learn_that_the_receiver_is_gone() {
    let rig = Rig::new();
    let (sender, receiver) = bounded::<u32>(1);
    for n in 0..3 {
        let (sender, note) = (sender.clone(), rig.note());
        rig.go(Class::Foreground, async move {
            if sender.send(n).await == Err(SendError::Closed(n)) {
                note(n);
            }
        });
    }
    rig.settle();
    drop(receiver);
    rig.settle();
    assert_eq!(rig.traced(), [1, 2]);
    assert_eq!(sender.try_send(4), Err(SendError::Closed(4)));
}

#[test]
fn an_event_wakes_those_who_wait_and_not_those_who_come_later() {
    let rig = Rig::new();
    let event = Event::new();
    let before = event.wait();
    event.notify_all();
    let after = event.wait();
    for (n, wait) in [(1, before), (2, after)] {
        let note = rig.note();
        rig.go(Class::Foreground, async move {
            wait.await;
            note(n);
        });
    }
    rig.settle();
    assert_eq!(rig.traced(), [1]);
    event.notify_all();
    rig.settle();
    assert_eq!((rig.traced(), event.waiting()), (vec![1, 2], 0));
}

#[test]
fn a_turn_is_cut_short_while_few_tasks_are_ready() {
    for (tasks, polled) in [(FEW_READY + 1, 1), (FEW_READY + 9, 9)] {
        let rig = Rig::with(ExecConfig::default());
        for _ in 0..tasks {
            rig.go(Class::Foreground, async {});
        }
        assert_eq!(rig.exec.run_turn_until(|| true).polled, polled, "{tasks} tasks");
        assert_eq!(rig.exec.run_turn().polled, tasks - polled);
    }
}
