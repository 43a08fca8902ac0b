//! Cores, their mesh, timers, and wake-ups.

use cfs_runtime::{CoreConfig, OUTSIDE, ParkPolicy, RuntimeError, TaskRun, mesh, run, start_core};
use cfs_seam::{Class, MeshMessage, World, sleep, spawn, timeout};
use cfs_types::CoreId;
use std::cell::Cell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

const ROUNDS: u32 = 10_000;

fn config(core: u16) -> CoreConfig {
    CoreConfig::new(CoreId::new(core))
}

async fn send(world: &World, to: CoreId, message: impl std::any::Any + Send) {
    let mut message: MeshMessage = Box::new(message);
    while let Err(full) = world.mesh.send(to, message) {
        message = full.0;
        world.tasks.yield_now().await;
    }
}

async fn recv<T: 'static>(world: &World) -> (CoreId, T) {
    let (from, message) = world.mesh.recv().await;
    (from, *message.downcast().expect("the type this test sends"))
}

fn ping_pong(configs: [CoreConfig; 2]) {
    let mut seats = mesh(2).expect("a mesh").into_iter();
    let [one, two] = configs;
    let first = start_core(one, seats.next().expect("a seat"), |world, _| async move {
        for round in 0..ROUNDS {
            send(&world, CoreId::new(1), round).await;
            assert_eq!(recv::<u32>(&world).await, (CoreId::new(1), round));
        }
    });
    let second = start_core(two, seats.next().expect("a seat"), |world, _| async move {
        for _ in 0..ROUNDS {
            let (from, round) = recv::<u32>(&world).await;
            send(&world, from, round).await;
        }
    });
    let (first, second) = (first.expect("starts"), second.expect("starts"));
    first.join().expect("runs");
    second.join().expect("runs");
}

#[test]
fn sleeping_cores_lose_no_wake_up() {
    ping_pong([config(0), config(1)]);
    let deferred = |core| CoreConfig { task_run: TaskRun::Deferred, ..config(core) };
    ping_pong([deferred(0), deferred(1)]);
}

#[test]
fn busy_cores_lose_no_message() {
    let spin = |core| CoreConfig { park: ParkPolicy::Spin { limit: Duration::from_micros(100) }, ..config(core) };
    ping_pong([spin(0), spin(1)]);
    // One that is always awake, one that always sleeps.
    ping_pong([spin(0), config(1)]);
}

#[test]
fn a_flood_arrives_whole_and_in_order() {
    let mut seats = mesh(2).expect("a mesh").into_iter();
    let sender = start_core(config(0), seats.next().expect("a seat"), |world, _| async move {
        for number in 0..ROUNDS {
            send(&world, CoreId::new(1), number).await;
        }
        recv::<()>(&world).await;
    });
    let receiver = start_core(config(1), seats.next().expect("a seat"), |world, _| async move {
        for number in 0..ROUNDS {
            assert_eq!(recv::<u32>(&world).await.1, number);
        }
        send(&world, CoreId::new(0), ()).await;
        // The message leaves with the end of the turn.
        world.tasks.yield_now().await;
    });
    let (sender, receiver) = (sender.expect("starts"), receiver.expect("starts"));
    sender.join().expect("runs");
    receiver.join().expect("runs");
}

#[test]
fn other_threads_ask_a_sleeping_core_and_get_answers() {
    let seat = mesh(1).expect("a mesh").pop().expect("a seat");
    let remote = seat.remote();
    let core = start_core(config(0), seat, |world, _| async move {
        for _ in 0..1000 {
            let (from, answer) = recv::<SyncSender<CoreId>>(&world).await;
            assert_eq!(from, OUTSIDE);
            answer.send(world.mesh.me()).expect("somebody waits");
        }
    })
    .expect("starts");
    for _ in 0..1000 {
        let (answer, question) = sync_channel::<CoreId>(1);
        assert!(remote.send(CoreId::new(0), Box::new(answer)).is_ok());
        assert_eq!(question.recv().expect("an answer"), CoreId::new(0));
    }
    core.join().expect("runs");
    assert!(remote.send(CoreId::new(0), Box::new(())).is_err(), "the core has ended");
    assert!(remote.send(CoreId::new(7), Box::new(())).is_err(), "no such core");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the thread is what wakes")]
fn a_waker_used_by_another_thread_wakes_a_sleeping_core() {
    run(config(0), |_, _| async {
        for _ in 0..200 {
            let (sender, mut receiver) = across_threads();
            let thread = std::thread::spawn(sender);
            std::future::poll_fn(|cx| receiver(cx)).await;
            thread.join().expect("ends");
        }
    })
    .expect("runs");
}

/// A one-shot across threads: what sets it and what polls it.
fn across_threads() -> (impl FnOnce() + Send, impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<()>) {
    use std::sync::Mutex;
    use std::task::{Poll, Waker};
    let state: Arc<Mutex<(bool, Option<Waker>)>> = Arc::default();
    let other = state.clone();
    let set = move || {
        let mut state = other.lock().expect("no panic");
        state.0 = true;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    };
    let poll = move |cx: &mut std::task::Context<'_>| {
        let mut state = state.lock().expect("no panic");
        state.1 = Some(cx.waker().clone());
        if state.0 { Poll::Ready(()) } else { Poll::Pending }
    };
    (set, poll)
}

#[test]
fn a_message_to_oneself_arrives() {
    run(config(0), |world, _| async move {
        let me = world.mesh.me();
        assert_eq!(world.mesh.cores(), 1);
        let (tasks, other) = (world.tasks.clone(), world.clone());
        let _sender = spawn(&tasks, Class::Foreground, async move { send(&other, me, 5u8).await });
        assert_eq!(recv::<u8>(&world).await, (me, 5));
        assert!(world.mesh.send(CoreId::new(1), Box::new(())).is_err());
    })
    .expect("runs");
}

#[test]
fn timers_fire_in_order_and_not_early() {
    for park in [ParkPolicy::Sleep, ParkPolicy::Spin { limit: Duration::from_micros(100) }] {
        run(CoreConfig { park, ..config(0) }, |world, _| async move {
            let fired: Rc<Cell<u32>> = Rc::default();
            let mut handles = Vec::new();
            let start = world.clock.now();
            for (order, wait) in [(2, 6), (0, 1), (1, 3)] {
                let (clock, fired) = (world.clock.clone(), fired.clone());
                handles.push(spawn(&world.tasks, Class::Foreground, async move {
                    let wait = Duration::from_millis(wait);
                    sleep(&clock, wait).await;
                    assert!(clock.now().since(start) >= wait);
                    assert_eq!(fired.replace(fired.get() + 1), order);
                }));
            }
            sleep(&world.clock, Duration::from_millis(10)).await;
            assert_eq!(fired.get(), 3);
            let never = std::future::pending::<()>();
            assert!(timeout(&world.clock, world.clock.now().after(Duration::from_millis(2)), never).await.is_none());
        })
        .expect("runs");
    }
}

#[test]
fn readable_resolves_when_a_descriptor_has_something_to_read() {
    run(config(0), |world, reactor| async move {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let reader = Arc::new(OwnedFd::from(reader));
        for exclusive in [false, true] {
            let mut waiting = std::pin::pin!(reactor.readable(&reader, exclusive));
            let early = timeout(&world.clock, world.clock.now().after(Duration::from_millis(1)), &mut waiting).await;
            assert!(early.is_none());
            writer.write_all(b"x").expect("writes");
            waiting.await.expect("readable");
            let mut byte = [0];
            let mut pipe = std::fs::File::from(reader.try_clone().expect("duplicates"));
            std::io::Read::read_exact(&mut pipe, &mut byte).expect("reads");
        }
    })
    .expect("runs");
}

#[test]
fn a_core_stops_with_operations_in_flight_and_tasks_alive() {
    struct Last(SyncSender<()>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.send(()).expect("somebody waits");
        }
    }
    let (ended, end) = sync_channel(1);
    let output = run(config(0), |world, reactor| async move {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let waiting = reactor.readable(&Arc::new(OwnedFd::from(reader)), true);
        let last = Last(ended);
        let task = async move {
            let _last = (last, writer);
            drop(waiting.await);
        };
        spawn(&world.tasks, Class::Background, task).detach();
        world.tasks.yield_now().await;
        17
    });
    assert_eq!(output.expect("runs"), 17);
    end.try_recv().expect("the task was dropped before the core ended");
}

#[test]
fn impossible_settings_are_refused() {
    let bad = CoreConfig { ring_entries: 3, ..config(0) };
    assert!(matches!(run(bad, |_, _| async {}), Err(RuntimeError::Config { .. })));
    let nowhere = CoreConfig { pin_cpu: Some(100_000), ..config(0) };
    let seat = mesh(1).expect("a mesh").pop().expect("a seat");
    assert!(matches!(start_core(nowhere, seat, |_, _| async {}), Err(RuntimeError::Pin { cpu: 100_000 })));
    let seat = mesh(1).expect("a mesh").pop().expect("a seat");
    assert!(start_core(config(3), seat, |_, _| async {}).is_err(), "another core's seat");
}

#[test]
fn a_core_pins_its_thread() {
    let cpu = core_affinity::get_core_ids().expect("CPUs")[0].id;
    let seat = mesh(1).expect("a mesh").pop().expect("a seat");
    let pinned = CoreConfig { pin_cpu: Some(cpu), ..config(0) };
    let core = start_core(pinned, seat, |_, _| async { core_affinity::get_core_ids().expect("CPUs") });
    let allowed = core.expect("starts").join().expect("runs");
    assert_eq!(allowed.iter().map(|core| core.id).collect::<Vec<_>>(), [cpu]);
}
