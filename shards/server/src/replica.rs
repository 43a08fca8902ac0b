//! One replica of one group: proposals in, executed results out.
//!
//! Joins the Raft group, the core log and the ordered store. What arrives while the log is busy
//! goes out as one entry in the next write; committed entries are executed while the next batch
//! is on its way to the device.
//!
//! Invariants: a result leaves only after its entry is durable, committed and executed; local
//! records (where chunks lie) are durable before or with the entry that names them; entries are
//! executed in order, exactly as any other replica executes them; every proposal is answered, also
//! where the log fails; an entry is never longer than the log takes; a leader proposes only once it
//! has executed the first entry of its term, so that timestamps rise with the log; it answers
//! reads only while a majority has promised not to elect another.
//!
//! `turn` is the loop, `execution` what is committed, `tables` the flushes, `restore` the start;
//! the rest is for groups of several voters: `peers` messages, time and lease, `transfer` the
//! state beside the log, `serve` and `install` its two ends.

mod digest;
mod execution;
mod install;
mod peers;
mod records;
mod restore;
mod serve;
mod tables;
mod transfer;
mod turn;

pub use peers::{PeerLink, PeerParts};
pub use records::{adopt_record, decode_local, decode_vote, encode_local};
pub use restore::{Opened, Opener};
pub use transfer::{Cursor, GroupMessage, LOST_AREA, Page, Want, area_key};

use crate::entry::{self, DATA_BYTES_MAX};
use crate::hybrid_clock::HybridClock;
use crate::inline_cache::InlineCache;
use crate::machine::{GroupAnswer, GroupCommand, Machine};
use crate::thin::Thin;
use crate::unpacked::Unpacked;
use bytes::Bytes;
use cfs_consensus::{Group, Role, VoteState};
use cfs_device::Anchors;
use cfs_exec::{Event, Gate, Semaphore};
use cfs_kv::Store;
use cfs_log::CoreLog;
use cfs_namespace::{Effect, TxId};
use cfs_seam::{Instant, Io, Promise, Spawn, io, timeout};
use cfs_types::{FsError, GroupId, LogIndex, MoveEpoch, Term, Timestamp};
use peers::Peers;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Bytes of proposals a group queues; beyond it callers wait.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;

/// Bytes of an entry beside its commands and their data, and of a proposal beside its own.
const OVERHEAD_BYTES: usize = 64;

/// Longest between two tries of what a transaction blocks, should nobody tell of its end.
const BLOCKED_WAIT: Duration = Duration::from_millis(100);

/// A key and value of this node alone (where a chunk lies), None deletes.
pub type LocalWrite = (Box<[u8]>, Option<Rc<[u8]>>);

/// The result of an executed command.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The answer.
    pub result: Result<GroupAnswer, FsError>,
    /// Who holds what a blocked command needs.
    pub blocked_by: Option<TxId>,
    /// What the server must do besides.
    pub effects: Vec<Effect>,
}

/// Answers a proposal; None where it was of local records only.
type Answered = Promise<Result<Option<Executed>, FsError>>;

/// A command on its way into the log.
struct Proposal {
    command: Option<GroupCommand>,
    data: Bytes,
    locals: Vec<LocalWrite>,
    /// Of the command and its data in the entry.
    entry_bytes: usize,
    promise: Answered,
}

impl Proposal {
    /// Bytes that it counts for while it is queued.
    fn queued_bytes(&self) -> usize {
        let locals = self.locals.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, |v| v.len()));
        self.entry_bytes + locals.sum::<usize>() + OVERHEAD_BYTES
    }
}

/// What a flush of the store covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// Index and term of the last executed entry.
    pub applied: (u64, u64),
    /// Sequence of the last local record.
    pub locals: u64,
}

/// One replica.
pub struct Replica {
    id: GroupId,
    machine: Machine,
    log: CoreLog,
    store: Store,
    clock: Rc<HybridClock>,
    tasks: Rc<dyn Spawn>,
    group: RefCell<Group>,
    queue: RefCell<VecDeque<Proposal>>,
    queued_bytes: Cell<usize>,
    waiting: RefCell<BTreeMap<LogIndex, Vec<Answered>>>,
    work: Event,
    executed: Event,
    unlocked: Event,
    effects: RefCell<Vec<Effect>>,
    effected: Event,
    data: DataNotes,
    mark: Cell<Mark>,
    /// Commit timestamp of the last executed entry, or one above it.
    executed_at: Cell<Timestamp>,
    /// The same before the first entry of the newest term.
    taken_over_at: Cell<Timestamp>,
    /// The term in which this replica was found to lead at the beginning of the turn.
    leading: Cell<Option<Term>>,
    failed: Cell<Option<FsError>>,
    /// The first damage that was met, in words.
    damage: RefCell<Option<String>>,
    /// Reads of tables and entries whose bytes failed their checksum, since the start.
    damaged_reads: Cell<u64>,
    /// Reads of small writes in the log that the device refused; those of cells are counted by the space.
    refused_reads: Cell<u64>,
    epoch: Cell<MoveEpoch>,
    anchors: Rc<Anchors>,
    /// One change of the store's tables at a time.
    maintenance: Semaphore,
    /// Closed when the core stops: the tables stay as they are.
    table_gate: Gate,
    /// What the durable manifest covers, and the clock then.
    flushed: Cell<(Mark, Timestamp)>,
    /// The same for a memtable that is frozen and not flushed yet.
    frozen: Cell<Option<(Mark, Timestamp)>>,
    /// Data areas of small writes in entries through this index are in durable tables, as far as known.
    areas_through: Cell<u64>,
    /// The store may hold data areas.
    has_areas: Cell<bool>,
    /// An entry that cannot be read, and since when.
    unreadable: Cell<Option<(LogIndex, Instant)>>,
    /// Entries that were given up since the start.
    lost: Cell<u64>,
    peers: Option<Peers>,
}

/// What a core notes of file data as entries are executed.
pub struct DataNotes {
    /// The core's cache of small writes.
    inline: Rc<InlineCache>,
    /// What of the group's small writes only the log holds.
    unpacked: Unpacked,
    /// The core's chunks that became thinner.
    thin: Rc<Thin>,
}

impl DataNotes {
    /// One group's: the core's cache of small writes, its count of those that only the log holds, bytes, and its
    /// notes for the cleaner.
    pub fn new(inline: Rc<InlineCache>, unpacked: &Rc<Cell<u64>>, thin: Rc<Thin>) -> Self {
        DataNotes { inline, unpacked: Unpacked::new(unpacked), thin }
    }
}

/// What a replica is made of.
pub struct Parts {
    /// Which group.
    pub id: GroupId,
    /// What it executes.
    pub machine: Machine,
    /// The core's log.
    pub log: CoreLog,
    /// The group's store.
    pub store: Store,
    /// The core's hybrid clock.
    pub clock: Rc<HybridClock>,
    /// The core's tasks.
    pub tasks: Rc<dyn Spawn>,
    /// What is noted of file data.
    pub data: DataNotes,
    /// The Raft group as restored.
    pub group: Group,
    /// What the store held when it was opened, local records of the log included.
    pub mark: Mark,
    /// Ownership epoch of the group on this core.
    pub epoch: MoveEpoch,
    /// What the durable manifest covers, and the clock then.
    pub flushed: (Mark, Timestamp),
    /// Manifests on the device.
    pub anchors: Rc<Anchors>,
    /// For a group of several voters.
    pub peers: Option<PeerParts>,
}

impl Replica {
    /// Takes the parts; [`Replica::run`] must be running for anything to happen.
    pub fn new(parts: Parts) -> Rc<Self> {
        Rc::new(Replica {
            id: parts.id,
            machine: parts.machine,
            log: parts.log,
            store: parts.store,
            clock: parts.clock,
            tasks: parts.tasks,
            group: RefCell::new(parts.group),
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            waiting: RefCell::default(),
            work: Event::new(),
            executed: Event::new(),
            unlocked: Event::new(),
            data: parts.data,
            effects: RefCell::default(),
            effected: Event::new(),
            mark: Cell::new(parts.mark),
            executed_at: Cell::new(parts.flushed.1),
            taken_over_at: Cell::new(parts.flushed.1),
            leading: Cell::new(None),
            failed: Cell::new(None),
            damage: RefCell::default(),
            damaged_reads: Cell::default(),
            refused_reads: Cell::default(),
            epoch: Cell::new(parts.epoch),
            anchors: parts.anchors,
            maintenance: Semaphore::new(1),
            table_gate: Gate::new(),
            flushed: Cell::new(parts.flushed),
            frozen: Cell::new(None),
            areas_through: Cell::new(0),
            has_areas: Cell::new(true),
            unreadable: Cell::new(None),
            lost: Cell::new(0),
            peers: parts.peers.map(Peers::new),
        })
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The group's store, for queries.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is executed and applied now; a flush that freezes the memtable in the same turn covers it.
    pub fn mark(&self) -> Mark {
        self.mark.get()
    }

    /// Commit timestamp of the last entry executed: what a read shows now.
    pub fn executed_at(&self) -> Timestamp {
        self.executed_at.get()
    }

    /// The same when this replica began to lead, before the first entry of its term: whatever a leader before
    /// it has shown is no newer.
    pub fn taken_over_at(&self) -> Timestamp {
        self.taken_over_at.get()
    }

    /// Current term, for transaction ids.
    pub fn term(&self) -> Term {
        self.group.borrow().term()
    }

    /// The vote state as it is now.
    pub fn vote(&self) -> VoteState {
        self.group.borrow().vote()
    }

    /// Why this group no longer serves, if so.
    pub fn failure(&self) -> Option<FsError> {
        self.failed.get()
    }

    /// What of this group's small writes only the log holds.
    pub fn unpacked(&self) -> &Unpacked {
        &self.data.unpacked
    }

    /// Entries whose small writes were lost to damage since the start.
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Reads of tables and entries whose bytes failed their checksum, since the start.
    pub fn damaged_reads(&self) -> u64 {
        self.damaged_reads.get()
    }

    /// Reads of small writes in the log that the device refused, since the start.
    pub fn refused_reads(&self) -> u64 {
        self.refused_reads.get()
    }

    /// The core's hybrid clock.
    pub fn clock(&self) -> &HybridClock {
        &self.clock
    }

    /// Whether this replica leads and has executed the first entry of its term.
    fn leads(&self) -> bool {
        let group = self.group.borrow();
        group.role() == Role::Leader && group.term().get() == self.mark.get().applied.1
    }

    /// Whether what is executed now is the newest that anybody was told of: this replica leads,
    /// and nobody else can lead yet. Ask after reading, before answering.
    pub fn is_current(&self) -> bool {
        self.leads() && self.peers.as_ref().is_none_or(|peers| peers.holds_lease(&self.group.borrow()))
    }

    /// Who leads the group, as far as this replica knows.
    pub fn leader(&self) -> Option<u64> {
        let group = self.group.borrow();
        match group.role() {
            Role::Leader => Some(group.me()),
            Role::Follower(leader) => leader,
            Role::Candidate => None,
        }
    }

    /// Resolves once [`Replica::is_current`].
    pub async fn ready(&self) -> Result<(), FsError> {
        loop {
            if let Some(error) = self.failed.get() {
                return Err(error);
            }
            if self.is_current() {
                return Ok(());
            }
            self.executed.wait().await;
        }
    }

    /// Resolves after the next entry has been executed.
    pub async fn next_execution(&self) {
        self.executed.wait().await;
    }

    /// Waits until a transaction has let go of something here, or for a short time.
    pub async fn next_unlock(&self) {
        let clock = self.clock.source();
        timeout(clock, clock.now().after(BLOCKED_WAIT), self.unlocked.wait()).await;
    }

    /// Proposes a command with the bytes of its small write and the local records it needs.
    /// Waits while the queue is full. Dropping the future does not withdraw the command. `TooLarge`:
    /// no entry can hold it. `Device` and `Corrupt`: the group has failed, the outcome is unknown.
    /// `Conflict`: this replica does not lead, or led no longer before it knew what became of the
    /// command; a retry with the same number finds out at the leader.
    pub async fn propose(
        &self,
        command: GroupCommand,
        data: Bytes,
        locals: Vec<LocalWrite>,
    ) -> Result<Executed, FsError> {
        assert!(data.len() <= DATA_BYTES_MAX, "longer writes become chunks");
        let executed = self.enqueue(Some(command), data, locals).await?;
        Ok(executed.expect("commands are answered with their execution"))
    }

    /// Makes local records durable and visible.
    pub async fn write_locals(&self, locals: Vec<LocalWrite>) -> Result<(), FsError> {
        if locals.is_empty() {
            return Ok(());
        }
        self.enqueue(None, Bytes::new(), locals).await.map(|_| ())
    }

    async fn enqueue(
        &self,
        command: Option<GroupCommand>,
        data: Bytes,
        locals: Vec<LocalWrite>,
    ) -> Result<Option<Executed>, FsError> {
        let entry_bytes = match &command {
            Some(command) => entry::command_bytes(command) + data.len(),
            None => 0,
        };
        if entry_bytes + OVERHEAD_BYTES > self.log.record_bytes_max() {
            return Err(FsError::TooLarge);
        }
        self.room().await?;
        let (promise, result): (_, Io<Result<Option<Executed>, FsError>>) = io();
        let proposal = Proposal { command, data, locals, entry_bytes, promise };
        self.queued_bytes.set(self.queued_bytes.get() + proposal.queued_bytes());
        self.queue.borrow_mut().push_back(proposal);
        self.work.notify_all();
        result.await
    }

    /// Waits while the queue is full. What is proposed right afterwards is queued at once.
    pub async fn room(&self) -> Result<(), FsError> {
        while self.queued_bytes.get() > QUEUE_BYTES_MAX && self.failed.get().is_none() {
            self.executed.wait().await;
        }
        self.failed.get().map_or(Ok(()), Err)
    }

    /// Whether nothing that was proposed waits to be executed.
    pub fn is_quiet(&self) -> bool {
        self.queue.borrow().is_empty() && self.waiting.borrow().is_empty()
    }

    /// What executed commands ask the driver to do; waits until there is something.
    pub async fn take_effects(&self) -> Vec<Effect> {
        while self.effects.borrow().is_empty() {
            self.effected.wait().await;
        }
        std::mem::take(&mut *self.effects.borrow_mut())
    }

    fn fail(&self, error: FsError) {
        self.failed.set(Some(error));
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        queue.into_iter().for_each(|p| p.promise.complete(Err(error)));
        waiting.into_values().flatten().for_each(|p| p.complete(Err(error)));
        self.executed.notify_all();
        self.unlocked.notify_all();
        self.effected.notify_all();
    }
}
