//! The simulation: nodes of cores, and the loop that decides who acts next.

use crate::disk::MemoryDisk;
use crate::faults::DiskFaults;
use crate::mesh::NodeMesh;
use crate::net::{Fabric, NetConfig, ip_of};
use crate::rng::{Purpose, Stream};
use crate::timeline::{Kind, Life, NodeTime, Timeline};
use cfs_exec::{ExecConfig, Executor};
use cfs_seam::{Address, Class, Disk, World, spawn};
use cfs_types::CoreId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// Latest origin of a node's monotonic clock: it has run for that long already.
const ORIGIN_NS_MAX: u64 = 1 << 50;

/// A simulated machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(u16);

impl NodeId {
    pub(crate) fn new(number: u16) -> NodeId {
        NodeId(number)
    }
    pub(crate) fn get(self) -> u16 {
        self.0
    }
}

/// A simulated device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SimDiskId(usize);

/// How a node goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process dies: completed writes stay visible, those in flight arrive or do not.
    Process,
    /// The power goes: of what is not flushed, each sector is old or new.
    Power,
}

/// How the simulation behaves.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// Sockets and partitions.
    pub net: NetConfig,
    /// Tasks polled before others may act: small, so that executors and I/O interleave finely.
    pub polls_per_turn: usize,
    /// Longest time that a turn takes of virtual time, nanoseconds.
    pub turn_ns_max: u64,
    /// How far wall clocks of nodes are off, either way, nanoseconds.
    pub wall_error_ns_max: u32,
}

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig { net: NetConfig::default(), polls_per_turn: 3, turn_ns_max: 3_000, wall_error_ns_max: 200_000_000 }
    }
}

struct Core {
    /// For the trace.
    number: u64,
    exec: Executor,
    world: World,
    time: Rc<NodeTime>,
    /// On the timeline, nanoseconds.
    next_timer: Cell<Option<u64>>,
}

struct Node {
    cores: Vec<Option<Rc<Core>>>,
    /// Of the incarnation that runs; over while the node is down.
    life: Life,
    time: Rc<NodeTime>,
    mesh: Rc<NodeMesh>,
    disks: BTreeSet<SimDiskId>,
    incarnation: u64,
}

/// Who may act next.
enum Choice {
    Turn(Rc<Core>),
    Event,
}

/// One seeded simulation in one thread.
pub struct Sim {
    seed: u64,
    config: SimConfig,
    timeline: Rc<Timeline>,
    schedule: Stream,
    workload: Stream,
    fabric: Rc<Fabric>,
    nodes: RefCell<Vec<Node>>,
    disks: RefCell<Vec<MemoryDisk>>,
}

impl Sim {
    /// A world without machines.
    pub fn new(seed: u64, config: SimConfig) -> Sim {
        let timeline = Timeline::new(seed);
        let net = Stream::split(seed, Purpose::Net, 0);
        Sim {
            seed,
            config,
            fabric: Fabric::new(timeline.clone(), net, config.net),
            timeline,
            schedule: Stream::split(seed, Purpose::Schedule, 0),
            workload: Stream::split(seed, Purpose::Workload, 0),
            nodes: RefCell::default(),
            disks: RefCell::default(),
        }
    }

    /// A machine with `cores` cores, none of them started.
    pub fn node(&self, cores: u16) -> NodeId {
        let mut nodes = self.nodes.borrow_mut();
        let id = NodeId(u16::try_from(nodes.len()).expect("fewer than 2^16 nodes"));
        let life = Life::begin();
        let mesh = self.mesh(id, cores, 0, &life);
        let idle = (0..cores).map(|_| None).collect();
        let time = self.time(id, 0);
        nodes.push(Node { cores: idle, life, time, mesh, disks: BTreeSet::new(), incarnation: 0 });
        id
    }

    fn mesh(&self, node: NodeId, cores: u16, incarnation: u64, life: &Life) -> Rc<NodeMesh> {
        let rng = Stream::split(self.seed, Purpose::Schedule, 1 << 40 | incarnation << 16 | u64::from(node.0));
        NodeMesh::new(cores, life.clone(), self.timeline.clone(), rng)
    }

    fn time(&self, node: NodeId, incarnation: u64) -> Rc<NodeTime> {
        let rng = Stream::split(self.seed, Purpose::Clock, incarnation << 16 | u64::from(node.0));
        let error = i64::from(self.config.wall_error_ns_max);
        let off = rng.below(2 * u64::from(self.config.wall_error_ns_max) + 1);
        let off = i64::try_from(off).expect("33 bits") - error;
        NodeTime::new(self.timeline.clone(), rng.below(ORIGIN_NS_MAX), off)
    }

    /// Steps the wall clock of a node until its next restart.
    pub fn step_wall(&self, node: NodeId, nanos: i64) {
        self.nodes.borrow()[usize::from(node.0)].time.step_wall(nanos);
    }

    /// The address of a node's network interface.
    pub fn ip(&self, node: NodeId) -> IpAddr {
        ip_of(node)
    }

    /// A TCP address of a node.
    pub fn address(&self, node: NodeId, port: u16) -> Address {
        Address::Tcp(SocketAddr::new(ip_of(node), port))
    }

    /// Runs `main` as the first task of a core, which must not run yet. Starting a core of a
    /// node that is down restarts the node.
    pub fn start_core<F>(&self, node: NodeId, core: u16, main: impl FnOnce(World) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let world = self.boot(node, core);
        spawn(&world.tasks.clone(), Class::Foreground, main(world)).detach();
    }

    /// A node that is down begins its next life.
    fn revive(&self, id: NodeId) {
        let mut nodes = self.nodes.borrow_mut();
        let node = &mut nodes[usize::from(id.0)];
        if node.life.is_over() {
            node.life = Life::begin();
            node.incarnation += 1;
            let cores = u16::try_from(node.cores.len()).expect("made from a u16");
            node.mesh = self.mesh(id, cores, node.incarnation, &node.life);
            node.time = self.time(id, node.incarnation);
        }
    }

    fn boot(&self, id: NodeId, core: u16) -> World {
        self.revive(id);
        let mut nodes = self.nodes.borrow_mut();
        let node = &mut nodes[usize::from(id.0)];
        let number = u64::from(id.0) << 16 | u64::from(core);
        let config = ExecConfig { polls_per_turn: self.config.polls_per_turn, ..ExecConfig::default() };
        let exec = Executor::new(node.time.clone(), config);
        let world = World {
            clock: exec.clock(),
            rng: Rc::new(Stream::split(self.seed, Purpose::Core, node.incarnation << 32 | number)),
            net: self.fabric.of_node(id, node.life.clone()),
            mesh: node.mesh.core(CoreId::new(core)),
            tasks: exec.tasks(),
        };
        let (time, next_timer) = (node.time.clone(), Cell::new(None));
        let started = Rc::new(Core { number, exec, world: world.clone(), time, next_timer });
        let slot = &mut node.cores[usize::from(core)];
        assert!(slot.is_none(), "core {core} of node {} runs already", id.0);
        *slot = Some(started);
        world
    }

    /// What a running core sees; None where it does not run. For more tasks on that core.
    pub fn world(&self, node: NodeId, core: u16) -> Option<World> {
        let nodes = self.nodes.borrow();
        nodes[usize::from(node.0)].cores[usize::from(core)].as_ref().map(|core| core.world.clone())
    }

    /// Whether any core of the node runs.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.nodes.borrow()[usize::from(node.0)].cores.iter().any(Option::is_some)
    }

    /// A device. Its contents outlive every crash.
    pub fn disk(&self, bytes: u64, faults: DiskFaults) -> SimDiskId {
        self.add_disk(|seed| MemoryDisk::new(bytes, faults, seed))
    }

    /// A device with the contents of another one, after a power cut; its faults and what the cut
    /// leaves are drawn from this simulation's seed.
    pub fn copy_disk(&self, of: &MemoryDisk) -> SimDiskId {
        self.add_disk(|seed| of.crash(seed))
    }

    fn add_disk(&self, make: impl FnOnce(u64) -> MemoryDisk) -> SimDiskId {
        let mut disks = self.disks.borrow_mut();
        let id = SimDiskId(disks.len());
        let user = u64::try_from(disks.len()).expect("a length fits 64 bits");
        disks.push(make(Stream::split(self.seed, Purpose::Disk, user).next()));
        id
    }

    /// The device for the cores of a node, also before they are started; the handle is dead after
    /// the node's next crash. A power cut of the node is one of the device.
    pub fn open_disk(&self, node: NodeId, disk: SimDiskId) -> Rc<dyn Disk> {
        self.revive(node);
        let life = {
            let mut nodes = self.nodes.borrow_mut();
            let node = &mut nodes[usize::from(node.0)];
            node.disks.insert(disk);
            node.life.clone()
        };
        let (timeline, user) = (self.timeline.clone(), life.clone());
        let defer = move |delay, complete| timeline.schedule(timeline.nanos() + delay, &user, Kind::Disk, complete);
        let media = self.media(disk);
        let pace = Stream::new(media.draw());
        media.deferred(life, pace, Rc::new(defer))
    }

    /// The device itself: to look at, to damage, to make it fail.
    pub fn media(&self, disk: SimDiskId) -> MemoryDisk {
        self.disks.borrow()[disk.0].clone()
    }

    /// Takes a node down wherever its tasks wait: they are dropped, its sockets die, its devices
    /// keep what `crash` leaves them.
    pub fn crash(&self, id: NodeId, crash: Crash) {
        let (cores, disks, mesh) = {
            let mut nodes = self.nodes.borrow_mut();
            let node = &mut nodes[usize::from(id.0)];
            node.life.end();
            let cores: Vec<Rc<Core>> = node.cores.iter_mut().filter_map(Option::take).collect();
            (cores, std::mem::take(&mut node.disks), node.mesh.clone())
        };
        self.timeline.note(Kind::Crash, u64::from(id.0));
        if crash == Crash::Power {
            disks.iter().for_each(|disk| self.media(*disk).cut_power());
        }
        self.fabric.node_died(id);
        drop(cores);
        mesh.clear();
        self.timeline.bury();
    }

    /// Cuts the network between two nodes; connections sit it out for a while.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.fabric.set_cut(a, b, true);
    }

    /// Mends the network between two nodes.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.fabric.set_cut(a, b, false);
    }

    /// Mends the whole network.
    pub fn heal_all(&self) {
        self.fabric.heal_all();
    }

    /// Breaks the connections between two nodes (or inside one).
    pub fn reset_connections(&self, a: NodeId, b: NodeId) {
        self.fabric.reset_between(a, b);
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.timeline.nanos())
    }

    /// Randomness for the test's own decisions.
    pub fn random(&self) -> &Stream {
        &self.workload
    }

    /// Digest of every decision, completion and message so far: one seed, one trace.
    pub fn trace(&self) -> u64 {
        self.timeline.hash()
    }

    /// Runs until `done` says so (true), or nothing can happen any more or virtual time has
    /// passed `limit` since the call (what `done` says then).
    pub fn run_until(&self, limit: Duration, mut done: impl FnMut() -> bool) -> bool {
        let deadline = self.now() + limit;
        while !done() {
            if self.now() > deadline || !self.step() {
                return done();
            }
        }
        true
    }

    /// Runs for a span of virtual time, or until nothing can happen any more.
    pub fn run_for(&self, span: Duration) {
        self.run_until(span, || false);
    }

    /// Makes at most `steps` decisions; false where nothing can happen any more.
    pub fn run_steps(&self, steps: u64) -> bool {
        (0..steps).all(|_| self.step())
    }

    /// One decision: a turn of one executor, one event, or a jump to the next thing that happens.
    /// False where nothing ever will.
    pub fn step(&self) -> bool {
        let mut choices = self.ready_cores();
        if self.timeline.next_at().is_some_and(|at| at <= self.timeline.nanos()) {
            choices.push(Choice::Event);
        }
        if choices.is_empty() {
            return self.jump();
        }
        match choices.swap_remove(self.schedule.index(choices.len())) {
            Choice::Event => self.timeline.run_next(),
            Choice::Turn(core) => {
                let turn = core.exec.run_turn();
                core.next_timer.set(turn.next_timer.map(|at| core.time.on_timeline(at)));
                let polled = u64::try_from(turn.polled).expect("a count fits 64 bits");
                self.timeline.note(Kind::Turn, core.number << 16 | polled);
                let spent = self.schedule.below(self.config.turn_ns_max);
                self.timeline.advance_to(self.timeline.nanos() + spent);
                true
            }
        }
    }

    fn ready_cores(&self) -> Vec<Choice> {
        let now = self.timeline.nanos();
        let nodes = self.nodes.borrow();
        let cores = nodes.iter().flat_map(|node| node.cores.iter().flatten());
        cores
            .filter(|core| core.exec.has_ready() || core.next_timer.get().is_some_and(|at| at <= now))
            .map(|core| Choice::Turn(core.clone()))
            .collect()
    }

    /// Moves time to the next event or timer.
    fn jump(&self) -> bool {
        let timer = {
            let nodes = self.nodes.borrow();
            let cores = nodes.iter().flat_map(|node| node.cores.iter().flatten());
            cores.filter_map(|core| core.next_timer.get()).min()
        };
        let Some(at) = self.timeline.next_at().into_iter().chain(timer).min() else { return false };
        self.timeline.advance_to(at);
        true
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let nodes = self.nodes.borrow().len();
        for node in 0..nodes {
            self.crash(NodeId(u16::try_from(node).expect("made from a u16")), Crash::Process);
        }
    }
}

#[cfg(test)]
mod tests;
