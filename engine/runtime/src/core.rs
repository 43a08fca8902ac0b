//! One core put together: thread, ring, scheduler, mesh, and the loop that joins them.
//!
//! Invariants: nothing is ready when the core sleeps, and whoever makes something ready after the
//! last look wakes it (`wake.rs`). Tasks end before operations, operations before buffers.

use crate::clock::KernelTime;
use crate::idle::Idle;
use crate::mesh::{CoreMesh, MeshSeat, mesh};
use crate::net::RingNet;
use crate::reactor::{Reactor, Wait};
use crate::rng::CoreRng;
use crate::wake::WakeCell;
use crate::{CoreConfig, RuntimeError};
use cfs_exec::{ExecConfig, Executor};
use cfs_seam::{Class, Clock, Instant, World, spawn};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// A core that runs on a thread of its own.
pub struct CoreThread<T> {
    thread: JoinHandle<Result<T, RuntimeError>>,
}

impl<T> CoreThread<T> {
    /// Waits for the core's main future and returns its output.
    pub fn join(self) -> Result<T, RuntimeError> {
        self.thread.join().unwrap_or(Err(RuntimeError::Panicked))
    }
    /// Whether the core has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts a core on a thread of its own, pinned as `config` says, and returns once its ring is
/// up. The core runs `main` and stops when it ends: other tasks are dropped, operations in flight
/// are cancelled and waited for.
pub fn start_core<T, F>(
    config: CoreConfig,
    seat: MeshSeat,
    main: impl FnOnce(World, Rc<Reactor>) -> F + Send + 'static,
) -> Result<CoreThread<T>, RuntimeError>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    config.check()?;
    if seat.core() != config.core {
        return Err(RuntimeError::Config { what: "the mesh seat is another core's" });
    }
    let (started, start) = sync_channel(1);
    let name = format!("cfs-core-{}", config.core);
    let body = move || {
        let core = match pin(config.pin_cpu).and_then(|()| Core::new(&config, seat)) {
            Ok(core) => core,
            Err(error) => {
                drop(started.send(Some(error)));
                return Err(RuntimeError::Config { what: "the core did not start" });
            }
        };
        drop(started.send(None));
        core.run(main)
    };
    let thread =
        std::thread::Builder::new().name(name).spawn(body).map_err(RuntimeError::system("starting a thread"))?;
    match start.recv() {
        Ok(None) => Ok(CoreThread { thread }),
        Ok(Some(error)) => Err(error),
        Err(_) => Err(RuntimeError::Panicked),
    }
}

/// Runs `main` on the calling thread, pinned if `config` says so, with a mesh of one seat: for
/// tools and single clients.
pub fn run<T, F>(config: CoreConfig, main: impl FnOnce(World, Rc<Reactor>) -> F) -> Result<T, RuntimeError>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    config.check()?;
    pin(config.pin_cpu)?;
    let seat = mesh(1)?.pop().ok_or(RuntimeError::Config { what: "a mesh has a seat" })?;
    Core::new(&config, seat)?.run(main)
}

/// The CPUs this process may run on, rising.
pub fn available_cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

fn pin(cpu: Option<usize>) -> Result<(), RuntimeError> {
    let Some(cpu) = cpu else { return Ok(()) };
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let pinned = allowed.into_iter().find(|core| core.id == cpu).is_some_and(core_affinity::set_for_current);
    if pinned { Ok(()) } else { Err(RuntimeError::Pin { cpu }) }
}

struct Core {
    executor: Executor,
    reactor: Rc<Reactor>,
    mesh: Rc<CoreMesh>,
    cell: Arc<WakeCell>,
    world: World,
    clock: Rc<dyn Clock>,
    idle: Idle,
    /// Set when the main future has ended.
    ended: Rc<Cell<bool>>,
}

impl Core {
    fn new(config: &CoreConfig, seat: MeshSeat) -> Result<Self, RuntimeError> {
        let cell = seat.cell();
        let reactor = Reactor::new(config)?;
        reactor.publish(&cell)?;
        reactor.watch(cell.clone());
        let executor = Executor::new(Rc::new(KernelTime), ExecConfig::default());
        let notify = cell.clone();
        executor.set_remote_notify(Arc::new(move || notify.notify()));
        let mesh = Rc::new(CoreMesh::new(seat, reactor.clone()));
        let clock = executor.clock();
        let world = World {
            clock: clock.clone(),
            rng: Rc::new(CoreRng::seeded()?),
            net: Rc::new(RingNet::new(reactor.clone(), executor.tasks())),
            mesh: mesh.clone(),
            tasks: executor.tasks(),
        };
        let (idle, ended) = (Idle::new(config.park), Rc::default());
        Ok(Core { executor, reactor, mesh, cell, world, clock, idle, ended })
    }

    fn run<T, F>(mut self, main: impl FnOnce(World, Rc<Reactor>) -> F) -> Result<T, RuntimeError>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let _buffers = self.reactor.install_buffers();
        let output = Rc::new(Cell::new(None));
        let (work, result) = (main(self.world.clone(), self.reactor.clone()), output.clone());
        let ended = self.ended.clone();
        let main = spawn(&self.world.tasks, Class::Foreground, async move {
            result.set(Some(work.await));
            ended.set(true);
        });
        let ran = loop {
            if let Err(source) = self.turn() {
                break Err(RuntimeError::System { operation: "io_uring_enter", source });
            }
            if let Some(output) = output.take() {
                break Ok(output);
            }
        };
        drop(main);
        let Core { executor, reactor, mesh, world, clock, .. } = self;
        drop(executor);
        drop((mesh, world, clock));
        let stopped = reactor.stop().map_err(RuntimeError::system("stopping the ring"));
        ran.and_then(|output| stopped.map(|()| output))
    }

    /// One turn: completions, messages, tasks, submissions; then sleep if nothing is left.
    fn turn(&mut self) -> std::io::Result<()> {
        let reaped = self.reactor.reap();
        self.cell.take_notified();
        let delivered = self.mesh.deliver();
        let turn = self.executor.run_turn_until(|| self.reactor.is_urgent());
        if self.idle.looks() && (turn.polled > 0 || reaped > 0 || delivered) {
            self.idle.end(self.clock.now());
        }
        if self.ended.get() || turn.more_ready {
            return self.reactor.submit(Wait::No);
        }
        if self.idle.looks() {
            self.reactor.submit(Wait::No)?;
            if self.look_for_work(turn.next_timer) {
                return Ok(());
            }
        }
        self.sleep(turn.next_timer)
    }

    /// Looks for work without sleeping; true where there is some.
    fn look_for_work(&mut self, next_timer: Option<Instant>) -> bool {
        let start = self.clock.now();
        let until = start.after(self.idle.begin(start));
        loop {
            if self.reactor.has_completions() {
                return self.reactor.submit(Wait::No).is_ok();
            }
            if self.cell.take_notified() || self.mesh.deliver() {
                return true;
            }
            let now = self.clock.now();
            if next_timer.is_some_and(|due| due <= now) {
                return true;
            }
            if now >= until {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Submits what is queued and sleeps until a completion, a message or the next timer.
    fn sleep(&mut self, next_timer: Option<Instant>) -> std::io::Result<()> {
        self.cell.fall_asleep();
        let wait = if self.cell.take_notified() || self.mesh.deliver() || self.reactor.has_completions() {
            Wait::No
        } else {
            match next_timer {
                None => Wait::Forever,
                Some(due) => Wait::For(due.since(self.clock.now())),
            }
        };
        let slept = self.reactor.submit(wait);
        self.cell.awake();
        slept
    }
}
