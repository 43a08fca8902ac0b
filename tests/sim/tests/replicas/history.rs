//! A history: nodes that come and go, clients that work, and what must hold in the end.

use crate::client::{Client, Common};
use crate::member::{self, Seat};
use crate::wire::Wire;
use cfs_device::{FormatOptions, Uuid};
use cfs_seam::{Class, World, spawn};
use cfs_sim::{Crash, DiskFaults, MemoryDisk, NodeId, Sim, SimConfig, SimDiskId};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

const DEVICE_BYTES: u64 = 256 << 20;
const CLIENTS: u64 = 3;
/// Longest that a sound group takes for anything, virtual time.
const LIMIT: Duration = Duration::from_secs(120);

/// How a history goes.
#[derive(Clone, Copy)]
pub struct Plan {
    pub voters: u64,
    /// Longest write.
    pub bytes_max: u64,
    /// Longest between two checkpoints.
    pub checkpoint_ms: u64,
    /// Letters lost, percent.
    pub loss: u64,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    pub trace: u64,
    pub operations: u64,
    pub reads: u64,
    pub crashes: u64,
    pub terms: u64,
    pub pages: u64,
    pub small_writes: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Outcome) {
        self.trace ^= other.trace;
        self.operations += other.operations;
        self.reads += other.reads;
        self.crashes += other.crashes;
        self.terms += other.terms;
        self.pages += other.pages;
        self.small_writes += other.small_writes;
    }
}

fn formatted() -> MemoryDisk {
    let disk = MemoryDisk::new(DEVICE_BYTES, DiskFaults::default(), 1);
    let mut options = FormatOptions::new(Uuid::new([1; 16]), Uuid::new([2; 16]), Uuid::new([3; 16]));
    options.log_slot_bytes = Some(1 << 20);
    options.log_bytes = Some(32 << 20);
    let work = disk.clone();
    cfs_sim::run(1, |_| async move {
        cfs_device::format(&work, &options, &mut |_, _| {}).await.expect("a sound device");
    });
    disk
}

thread_local! {
    static FORMATTED: MemoryDisk = formatted();
}

struct Node {
    id: NodeId,
    disk: SimDiskId,
    is_up: Cell<bool>,
}

/// Nodes, clients and the network between them.
pub struct History {
    pub sim: Sim,
    pub wire: Rc<Wire>,
    plan: Plan,
    nodes: Vec<Node>,
    desk: NodeId,
    common: Rc<Common>,
    clients: Vec<Rc<RefCell<Option<Client>>>>,
    crashes: Cell<u64>,
}

impl History {
    pub fn new(seed: u64, plan: Plan) -> Self {
        let sim = Sim::new(seed, SimConfig::default());
        let wire = Rc::new(Wire::default());
        wire.loss.set(plan.loss);
        let node =
            |_| Node { id: sim.node(1), disk: FORMATTED.with(|disk| sim.copy_disk(disk)), is_up: Cell::new(false) };
        let nodes = (0..plan.voters).map(node).collect();
        let desk = sim.node(1);
        let carrier = wire.clone();
        sim.start_core(sim.node(1), 0, |world| carrier.run(world));
        sim.start_core(desk, 0, |_| async {});
        let common: Rc<Common> = Rc::default();
        let world = sim.world(desk, 0).expect("just started");
        let client = |me| Client::new(world.clone(), wire.clone(), plan.voters, me, plan.bytes_max, common.clone());
        let clients = (1..=CLIENTS).map(|me| Rc::new(RefCell::new(Some(client(me))))).collect();
        History { sim, wire, plan, nodes, desk, common, clients, crashes: Cell::new(0) }
    }

    fn node(&self, me: u64) -> &Node {
        &self.nodes[usize::try_from(me - 1).expect("few nodes")]
    }

    pub fn start(&self, me: u64) {
        let node = self.node(me);
        if node.is_up.replace(true) {
            return;
        }
        let disk = self.sim.open_disk(node.id, node.disk);
        let voters = (1..=self.plan.voters).collect();
        let seat = Seat { me, voters, wire: self.wire.clone(), checkpoint_ms: self.plan.checkpoint_ms };
        self.sim.start_core(node.id, 0, |world| member::run(world, disk, seat));
    }

    pub fn start_all(&self) {
        (1..=self.plan.voters).for_each(|me| self.start(me));
    }

    pub fn crash(&self, me: u64, how: Crash) {
        if self.node(me).is_up.replace(false) {
            self.wire.leave(me);
            self.sim.crash(self.node(me).id, how);
            self.crashes.set(self.crashes.get() + 1);
        }
    }

    fn desk(&self) -> World {
        self.sim.world(self.desk, 0).expect("the desk never stops")
    }

    /// Lets a client do something; its return is awaited elsewhere.
    fn with_client<F>(&self, at: usize, work: impl FnOnce(Client) -> F)
    where
        F: Future<Output = Client> + 'static,
    {
        let slot = self.clients[at].clone();
        let client = slot.borrow_mut().take().expect("it is idle");
        let done = work(client);
        let task = async move {
            let client = done.await;
            *slot.borrow_mut() = Some(client);
        };
        spawn(&self.desk().tasks, Class::Foreground, task).detach();
    }

    fn await_clients(&self) {
        let idle = || self.clients.iter().all(|client| client.borrow().is_some());
        assert!(self.sim.run_until(LIMIT, idle), "the group serves no more: {}", self.describe());
    }

    fn describe(&self) -> String {
        let one = |me: u64| match self.wire.member(me) {
            Some(shard) => {
                let replica = &shard.replica;
                format!(
                    "{me}: leader {:?}, term {}, {:?}, {:?}",
                    replica.leader(),
                    replica.term(),
                    replica.mark(),
                    replica.failure()
                )
            }
            None => format!("{me}: down"),
        };
        (1..=self.plan.voters).map(one).collect::<Vec<_>>().join("; ")
    }

    pub fn set_up(&self) {
        self.with_client(0, |mut client| async move {
            client.set_up().await;
            client
        });
        self.await_clients();
    }

    pub fn begin_work(&self) {
        self.common.stop.set(false);
        for at in 0..self.clients.len() {
            self.with_client(at, |mut client| async move {
                client.work().await;
                client
            });
        }
    }

    pub fn end_work(&self) {
        self.common.stop.set(true);
        self.await_clients();
    }

    /// Lets time pass. At no moment may two replicas answer reads.
    pub fn run_for(&self, span: Duration) {
        let end = self.sim.now() + span;
        while self.sim.now() < end {
            self.sim.run_for(Duration::from_millis(10).min(end - self.sim.now()));
            let current = |me: &u64| self.wire.member(*me).is_some_and(|m| m.replica.is_current());
            let count = (1..=self.plan.voters).filter(current).count();
            assert!(count <= 1, "{count} replicas answer reads: {}", self.describe());
        }
    }

    pub fn work_for(&self, ms: u64) {
        self.begin_work();
        self.run_for(Duration::from_millis(ms));
        self.end_work();
    }

    /// Who leads; waits for it.
    pub fn leader(&self) -> u64 {
        let current =
            || (1..=self.plan.voters).find(|me| self.wire.member(*me).is_some_and(|m| m.replica.is_current()));
        assert!(self.sim.run_until(LIMIT, || current().is_some()), "nobody leads: {}", self.describe());
        current().expect("just found")
    }

    /// Cuts whoever else leads off until `wanted` leads.
    pub fn run_until_leader(&self, wanted: u64) {
        for _ in 0..100 {
            let leader = self.leader();
            if leader == wanted {
                return;
            }
            self.wire.heal();
            self.wire.isolate(leader);
            self.run_for(Duration::from_secs(4));
        }
        panic!("replica {wanted} never leads: {}", self.describe());
    }

    /// Mends everything, ends the work and checks it. Returns the small writes that are left.
    pub fn finish(&self) -> u64 {
        self.wire.heal();
        self.wire.loss.set(0);
        self.start_all();
        if !self.common.stop.get() {
            self.end_work();
        }
        self.check()
    }

    /// All replicas agree, can read every small write, and clients find what they were told.
    pub fn check(&self) -> u64 {
        self.await_agreement();
        for at in 0..self.clients.len() {
            self.with_client(at, |mut client| async move {
                client.check_all().await;
                client
            });
        }
        self.await_clients();
        let counts: Vec<u64> = (1..=self.plan.voters)
            .map(|me| {
                self.on_member(me, |shard| async move { member::check_small_writes(&shard.replica).await as u64 })
            })
            .collect();
        assert!(counts.windows(2).all(|w| w[0] == w[1]), "{counts:?}");
        counts[0]
    }

    fn await_agreement(&self) {
        let deadline = self.sim.now() + LIMIT;
        loop {
            self.sim.run_for(Duration::from_millis(500));
            let marks: Vec<_> =
                (1..=self.plan.voters).map(|me| self.wire.member(me).map(|m| m.replica.mark().applied)).collect();
            if marks.iter().all(|mark| mark.is_some() && *mark == marks[0]) {
                let digests: Vec<_> = (1..=self.plan.voters)
                    .map(|me| self.on_member(me, |shard| async move { shard.replica.digest().await.ok() }))
                    .collect();
                let through = |at: usize| digests[at].map(|d| d.0);
                if (0..digests.len()).all(|at| through(at).is_some() && through(at) == through(0)) {
                    assert!(digests.iter().all(|d| *d == digests[0]), "replicas differ: {}", self.describe());
                    return;
                }
            }
            assert!(self.sim.now() < deadline, "replicas do not catch up: {}", self.describe());
        }
    }

    /// Runs something on a member's own core.
    fn on_member<T: 'static, F>(&self, me: u64, work: impl FnOnce(Rc<cfs_server::group::Shard>) -> F) -> T
    where
        F: Future<Output = T> + 'static,
    {
        let shard = self.wire.member(me).expect("it runs");
        let world = self.sim.world(self.node(me).id, 0).expect("it runs");
        let result = Rc::new(RefCell::new(None));
        let (out, work) = (result.clone(), work(shard));
        let task = async move {
            let value = work.await;
            *out.borrow_mut() = Some(value);
        };
        spawn(&world.tasks, Class::Foreground, task).detach();
        assert!(self.sim.run_until(LIMIT, || result.borrow().is_some()), "member {me} does not answer");
        result.take().expect("just seen")
    }

    pub fn outcome(&self, small_writes: u64) -> Outcome {
        let leader = self.wire.member(self.leader()).expect("it leads");
        Outcome {
            trace: self.sim.trace(),
            operations: self.common.operations.get(),
            reads: self.common.reads.get(),
            crashes: self.crashes.get(),
            terms: leader.replica.term().get(),
            pages: self.wire.pages.get(),
            small_writes,
        }
    }
}

/// One seed: everything that can go wrong does.
pub fn troubled(seed: u64) -> Outcome {
    let voters = if seed.is_multiple_of(3) { 5 } else { 3 };
    let bytes_max = [200, 5_000, 40_000][usize::try_from(seed / 3 % 3).expect("small")];
    let history = History::new(seed, Plan { voters, bytes_max, checkpoint_ms: 1500, loss: seed % 7 });
    history.start_all();
    history.set_up();
    history.begin_work();
    let random = || history.sim.random().next();
    for _ in 0..18 {
        history.run_for(Duration::from_micros(1 + random() % 900_000));
        let leader = (1..=voters).find(|me| history.wire.member(*me).is_some_and(|m| m.replica.is_current()));
        let me = leader.filter(|_| random().is_multiple_of(2)).unwrap_or(1 + random() % voters);
        match random() % 12 {
            0..=2 => history.crash(me, Crash::Power),
            3 => history.crash(me, Crash::Process),
            4 => (1..=voters).for_each(|me| history.crash(me, Crash::Power)),
            5..=7 => history.wire.isolate(me),
            8 => history.wire.heal(),
            9 => {
                history.start(me);
            }
            _ => history.start_all(),
        }
    }
    let small_writes = history.finish();
    history.outcome(small_writes)
}
