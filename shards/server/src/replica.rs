//! One replica of one group: proposals in, executed results out.
//!
//! Joins the Raft group, the core log and the ordered store. What arrives while the log is busy
//! goes out as one entry in the next write; committed entries are executed while the next batch
//! is on its way to the device.
//!
//! Invariants: a result leaves only after its entry is durable, committed and executed; local
//! records (where chunks lie) are durable before or with the entry that names them; entries are
//! executed in order, exactly as any other replica executes them; every proposal is answered, also
//! where the log fails; an entry is never longer than the log takes.

use crate::entry::{self, Batch, COMMANDS_MAX, DATA_BYTES_MAX, DATA_OFFSET, ENTRY_BYTES_MAX};
use crate::hybrid_clock::HybridClock;
use crate::inline_cache::InlineCache;
use crate::machine::{GroupAnswer, GroupCommand, Machine};
use crate::unpacked::Unpacked;
use crate::view::StoreView;
use cfs_consensus::{Committed, Group, Role, VoteState, Work};
use cfs_exec::Event;
use cfs_kv::{Pins, Store};
use cfs_log::{CoreLog, LogError, Record, RecordKind};
use cfs_namespace::{Effect, NeedMore, TxId};
use cfs_seam::{Io, Promise, io, timeout};
use cfs_types::{FsError, GroupId, LogIndex, MoveEpoch, Term, Timestamp};
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
    data: Vec<u8>,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    inline: Rc<InlineCache>,
    group: RefCell<Group>,
    queue: RefCell<VecDeque<Proposal>>,
    queued_bytes: Cell<usize>,
    waiting: RefCell<BTreeMap<LogIndex, Vec<Answered>>>,
    work: Event,
    executed: Event,
    unlocked: Event,
    effects: RefCell<Vec<Effect>>,
    effected: Event,
    unpacked: Unpacked,
    mark: Cell<Mark>,
    failed: Cell<Option<FsError>>,
    epoch: MoveEpoch,
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
    /// The core's cache of small writes.
    pub inline: Rc<InlineCache>,
    /// What of the core's small writes only the log holds.
    pub unpacked: Unpacked,
    /// The Raft group as restored.
    pub group: Group,
    /// What the store held when it was opened, local records of the log included.
    pub mark: Mark,
    /// Ownership epoch of the group on this core.
    pub epoch: MoveEpoch,
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
            inline: parts.inline,
            group: RefCell::new(parts.group),
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            waiting: RefCell::default(),
            work: Event::new(),
            executed: Event::new(),
            unlocked: Event::new(),
            unpacked: parts.unpacked,
            effects: RefCell::default(),
            effected: Event::new(),
            mark: Cell::new(parts.mark),
            failed: Cell::new(None),
            epoch: parts.epoch,
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

    /// Current term, for transaction ids.
    pub fn term(&self) -> Term {
        self.group.borrow().term()
    }

    /// The vote state as it is now.
    pub fn vote(&self) -> VoteState {
        self.group.borrow().vote()
    }

    /// Ownership epoch of the group on this core.
    pub fn epoch(&self) -> MoveEpoch {
        self.epoch
    }

    /// Why this group no longer serves, if so.
    pub fn failure(&self) -> Option<FsError> {
        self.failed.get()
    }

    /// What of this group's small writes only the log holds.
    pub fn unpacked(&self) -> &Unpacked {
        &self.unpacked
    }

    /// The core's hybrid clock.
    pub fn clock(&self) -> &HybridClock {
        &self.clock
    }

    /// Resolves once this replica leads and has executed the first entry of its term: from then
    /// on what it has executed is the newest there is.
    pub async fn ready(&self) -> Result<(), FsError> {
        loop {
            if let Some(error) = self.failed.get() {
                return Err(error);
            }
            let term = {
                let group = self.group.borrow();
                (group.role() == Role::Leader).then(|| group.term())
            };
            if term.is_some_and(|t| t.get() == self.mark.get().applied.1) {
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
    pub async fn propose(&self, command: GroupCommand, data: Vec<u8>, locals: Vec<LocalWrite>) -> Result<Executed, FsError> {
        assert!(data.len() <= DATA_BYTES_MAX, "longer writes become chunks");
        let executed = self.enqueue(Some(command), data, locals).await?;
        Ok(executed.expect("commands are answered with their execution"))
    }

    /// Makes local records durable and visible.
    pub async fn write_locals(&self, locals: Vec<LocalWrite>) -> Result<(), FsError> {
        self.enqueue(None, Vec::new(), locals).await.map(|_| ())
    }

    async fn enqueue(&self, command: Option<GroupCommand>, data: Vec<u8>, locals: Vec<LocalWrite>) -> Result<Option<Executed>, FsError> {
        let entry_bytes = match &command {
            Some(command) => entry::command_bytes(command) + data.len(),
            None => 0,
        };
        if entry_bytes + OVERHEAD_BYTES > self.log.record_bytes_max() {
            return Err(FsError::TooLarge);
        }
        while self.queued_bytes.get() > QUEUE_BYTES_MAX && self.failed.get().is_none() {
            self.executed.wait().await;
        }
        if let Some(error) = self.failed.get() {
            return Err(error);
        }
        let (promise, result): (_, Io<Result<Option<Executed>, FsError>>) = io();
        let proposal = Proposal { command, data, locals, entry_bytes, promise };
        self.queued_bytes.set(self.queued_bytes.get() + proposal.queued_bytes());
        self.queue.borrow_mut().push_back(proposal);
        self.work.notify_all();
        result.await
    }

    /// What executed commands ask the driver to do; waits until there is something.
    pub async fn take_effects(&self) -> Vec<Effect> {
        while self.effects.borrow().is_empty() {
            self.effected.wait().await;
        }
        std::mem::take(&mut *self.effects.borrow_mut())
    }

    /// Runs the group until its log fails or the task is cancelled.
    pub async fn run(self: Rc<Self>) {
        let error = loop {
            if let Err(error) = self.turn().await {
                break error;
            }
        };
        self.fail(error);
    }

    /// One turn: propose what waits, start the append, execute what is committed meanwhile.
    async fn turn(&self) -> Result<(), FsError> {
        if self.group.borrow().role() != Role::Leader && self.group.borrow().is_alone() {
            self.group.borrow_mut().campaign();
        }
        let mut taken = self.take_batch();
        let polled = self.group.borrow_mut().poll();
        let mut work = match polled {
            Some(work) => work,
            None if taken.records.is_empty() => {
                self.work.wait().await;
                return Ok(());
            }
            None => Work::default(),
        };
        let committed = std::mem::take(&mut work.committed);
        self.add_records(&work, &mut taken.records);
        let done = self.append_and_execute(taken.records, committed).await;
        if done.is_ok() {
            self.apply_locals(taken.locals);
        }
        for promise in taken.local_promises {
            promise.complete(done.map(|()| None));
        }
        done?;
        if work.number > 0 {
            self.group.borrow_mut().persisted(work.number);
        }
        Ok(())
    }

    /// Makes records durable and executes entries meanwhile. Where the log has no room, entries
    /// are executed first: room may depend on them.
    async fn append_and_execute(&self, records: Vec<Record>, committed: Vec<Committed>) -> Result<(), FsError> {
        let (mut later, mut appended) = (Some(records).filter(|r| !r.is_empty()), None);
        if self.log.has_room() {
            appended = later.take().map(|records| self.log.append(records));
        }
        for entry in committed {
            self.execute(entry).await?;
        }
        if let Some(records) = later {
            while !self.log.has_room() {
                self.log.wait_room().await;
            }
            appended = Some(self.log.append(records));
        }
        match appended {
            Some(appended) => appended.await.map_err(|_| FsError::Device),
            None => Ok(()),
        }
    }

    /// Takes waiting proposals, proposes them as one entry, and returns the local records.
    fn take_batch(&self) -> Taken {
        let mut taken = Taken::default();
        let mut batch =
            Batch { timestamp: Timestamp::default(), now: self.clock.now(), commands: Vec::new() };
        let (mut data, mut promises) = (Vec::new(), Vec::new());
        let mut bytes = OVERHEAD_BYTES;
        while let Some(mut proposal) = self.next_fitting(batch.commands.len(), bytes) {
            self.queued_bytes.set(self.queued_bytes.get() - proposal.queued_bytes());
            bytes += proposal.entry_bytes;
            for write in std::mem::take(&mut proposal.locals) {
                taken.records.push(self.local_record(&write, taken.locals.len()));
                taken.locals.push(write);
            }
            match proposal.command {
                Some(mut command) => {
                    let offset = u32::try_from(data.len()).expect("bounded by DATA_BYTES_MAX");
                    command.set_data_offset(offset);
                    data.append(&mut proposal.data);
                    batch.commands.push(command);
                    promises.push(proposal.promise);
                }
                None => taken.local_promises.push(proposal.promise),
            }
        }
        if !batch.commands.is_empty() {
            batch.timestamp = self.clock.tick();
            let bytes = entry::encode(&batch, &data);
            let proposed = self.group.borrow_mut().propose(bytes);
            match proposed {
                Ok((_, index)) => drop(self.waiting.borrow_mut().insert(index, promises)),
                Err(_) => promises.into_iter().for_each(|p| p.complete(Err(FsError::Conflict))),
            }
        }
        taken
    }

    fn next_fitting(&self, commands: usize, bytes: usize) -> Option<Proposal> {
        let bytes_max = self.log.record_bytes_max().min(ENTRY_BYTES_MAX);
        let mut queue = self.queue.borrow_mut();
        let first = commands == 0;
        let fits = queue.front().is_some_and(|p| {
            first || (commands < COMMANDS_MAX && bytes + p.entry_bytes <= bytes_max)
        });
        if fits { queue.pop_front() } else { None }
    }

    fn local_record(&self, write: &LocalWrite, position: usize) -> Record {
        let sequence = self.mark.get().locals + 1 + position as u64;
        Record {
            group: self.id,
            kind: RecordKind::Local,
            epoch: self.epoch,
            term: Term::new(0),
            index: LogIndex::new(sequence),
            payload: encode_local(write),
        }
    }

    fn apply_locals(&self, locals: Vec<LocalWrite>) {
        if locals.is_empty() {
            return;
        }
        let mut mark = self.mark.get();
        mark.locals += locals.len() as u64;
        self.mark.set(mark);
        self.store.apply(locals, self.clock.tick());
        self.executed.notify_all();
    }

    fn add_records(&self, work: &Work, records: &mut Vec<Record>) {
        let record = |kind, term, index, payload| Record {
            group: self.id, kind, epoch: self.epoch, term, index, payload,
        };
        if let Some(vote) = work.vote.filter(|_| work.must_sync) {
            let mut payload = Vec::with_capacity(24);
            payload.extend_from_slice(&vote.term.to_le_bytes());
            payload.extend_from_slice(&vote.vote.to_le_bytes());
            payload.extend_from_slice(&vote.commit.to_le_bytes());
            records.push(record(RecordKind::HardState, Term::new(vote.term), LogIndex::new(0), payload));
        }
        for entry in &work.entries {
            records.push(record(RecordKind::Entry, entry.term, entry.index, entry.data.clone()));
        }
    }

    /// Executes one committed entry and answers those who wait for it.
    async fn execute(&self, committed: Committed) -> Result<(), FsError> {
        let log_entry = committed.entry;
        let (index, term) = (log_entry.index, log_entry.term);
        if !log_entry.data.is_empty() {
            let (batch, data) = entry::decode(&log_entry.data).map_err(|_| FsError::Corrupt)?;
            self.clock.restore(batch.timestamp);
            let context = self.machine.context(term, index, &batch);
            self.inline.put(self.id, index, Rc::from(data));
            let executed = self.machine.execute_batch(&self.store, &context, &batch).await.map_err(|_| FsError::Corrupt)?;
            self.unpacked.add(data.len() as u64);
            self.note_effects(&executed);
            let promises = self.waiting.borrow_mut().remove(&index).unwrap_or_default();
            for (promise, executed) in promises.into_iter().zip(executed) {
                promise.complete(Ok(Some(executed)));
            }
        }
        let mut mark = self.mark.get();
        mark.applied = (index.get(), term.get());
        self.mark.set(mark);
        self.group.borrow_mut().executed(index, term);
        self.executed.notify_all();
        Ok(())
    }

    fn note_effects(&self, executed: &[Executed]) {
        let effects = || executed.iter().flat_map(|e| &e.effects);
        if effects().any(|effect| *effect == Effect::Unlocked) {
            self.unlocked.notify_all();
        }
        self.effects.borrow_mut().extend(effects().filter(|e| **e != Effect::Unlocked).cloned());
        self.effected.notify_all();
    }

    /// Loads what the state machine missed; it stays in memory while the pins live.
    pub async fn load(&self, need: NeedMore) -> Result<Pins, FsError> {
        StoreView::new(&self.store).load(need).await.map_err(|_| FsError::Corrupt)
    }

    /// Reads `bytes` bytes at `offset` of an entry's data area. `Stale`: the log has it no more.
    pub async fn read_data(&self, index: LogIndex, offset: u32, bytes: u32) -> Result<Vec<u8>, FsError> {
        let (from, len) = (offset as usize, bytes as usize);
        if let Some(area) = self.inline.get(self.id, index) {
            return area.get(from..from + len).map(<[u8]>::to_vec).ok_or(FsError::Corrupt);
        }
        let range = DATA_OFFSET + from..DATA_OFFSET + from + len;
        match self.log.read_payload_range(self.id, index, range).await {
            Ok(bytes) => Ok(bytes),
            // It was packed and released meanwhile, or never existed.
            Err(LogError::NotFound { .. }) => Err(FsError::Stale),
            Err(_) => Err(FsError::Corrupt),
        }
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

#[derive(Default)]
struct Taken {
    records: Vec<Record>,
    locals: Vec<LocalWrite>,
    local_promises: Vec<Answered>,
}

/// A local record's payload: key length u16, key, presence u8, value.
fn encode_local((key, value): &LocalWrite) -> Vec<u8> {
    let length = u16::try_from(key.len()).expect("local keys are short");
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(key);
    bytes.push(u8::from(value.is_some()));
    bytes.extend_from_slice(value.as_deref().unwrap_or_default());
    bytes
}

/// The local write of a recovered record; None where it does not decode.
pub fn decode_local(bytes: &[u8]) -> Option<LocalWrite> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (present, value) = rest.split_first()?;
    match present {
        0 if value.is_empty() => Some((key.into(), None)),
        1 => Some((key.into(), Some(value.into()))),
        _ => None,
    }
}

/// The vote state of a recovered record; None where it does not decode.
pub fn decode_vote(bytes: &[u8]) -> Option<VoteState> {
    let words: &[[u8; 8]; 3] = bytes.as_chunks::<8>().0.try_into().ok()?;
    let [term, vote, commit] = words.map(u64::from_le_bytes);
    (bytes.len() == 24).then_some(VoteState { term, vote, commit })
}

/// The record with which a core takes a group over; entries of earlier owners above `last` are void.
pub fn adopt_record(group: GroupId, epoch: MoveEpoch, last: LogIndex) -> Record {
    let (term, index) = (Term::new(0), last);
    Record { group, kind: RecordKind::Adopt, epoch, term, index, payload: Vec::new() }
}
