//! Clients that work in the same directories and on the same files, while the server goes down and
//! comes back, clients die, and clients are cut off for longer than their leases last: whatever they
//! saw must fit one order.

use crate::history::{ME, name, whole};
use crate::linear::{Event, Seen, explain};
use crate::seeds::{seeds, sum_up};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use crate::summary::Summary;
use cfs_seam::{World, sleep};
use cfs_sim::{Crash, MemoryDisk, NodeId, Stream};
use cfs_types::{FsError, InodeId, Name, RANGE_BYTES};
use cfs_volume::{Creation, Handle, Lookup, OpenFlags, RenameMode, Volume, WriteFlags};
use cfs_wire::{AttrChange, FileKind, Op, OpenMode};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Histories that CI runs.
const SEEDS: u64 = 400;
const CLIENTS: usize = 3;
const STEPS: usize = 22;
const NAMES: [&str; 3] = ["x", "y", "z"];
const LEASE_TERM: Duration = Duration::from_secs(2);
/// Bytes of an overwrite: all of one make, so that halves of two show.
const OVERWRITE_BYTES: usize = 3000;
/// Longest read.
const READ_BYTES: u32 = 64 << 10;

/// What happened so far.
#[derive(Default)]
struct Log {
    moment: Cell<u64>,
    events: RefCell<Vec<Event>>,
}

impl Log {
    fn tick(&self) -> u64 {
        self.moment.set(self.moment.get() + 1);
        self.moment.get()
    }

    fn begin(&self, client: usize, op: Op, payload: &[u8]) -> usize {
        let begun = self.tick();
        let payload = payload.to_vec();
        self.events.borrow_mut().push(Event { client, begun, ended: None, op, payload, seen: Ok(Seen::Done) });
        self.events.borrow().len() - 1
    }

    /// An error that leaves open what happened is no end.
    fn end(&self, event: usize, seen: Result<Seen, FsError>) {
        let sure = match &seen {
            Ok(_) => true,
            Err(error) => matches!(
                error,
                FsError::NotFound
                    | FsError::Stale
                    | FsError::Exists
                    | FsError::NotEmpty
                    | FsError::IsDirectory
                    | FsError::NotDirectory
                    | FsError::NotPermitted
                    | FsError::Invalid
            ),
        };
        if sure {
            let at = self.tick();
            let event = &mut self.events.borrow_mut()[event];
            (event.ended, event.seen) = (Some(at), seen);
        }
    }
}

/// One client.
struct Worker {
    volume: Rc<Volume>,
    log: Rc<Log>,
    rng: Stream,
    me: usize,
    dirs: Vec<InodeId>,
    files: Vec<InodeId>,
    records: u32,
    /// Where overwrites go and reads begin.
    base: u64,
}

impl Worker {
    fn new(volume: Rc<Volume>, log: Rc<Log>, (me, seed): (usize, u64), (dirs, base): (Vec<InodeId>, u64)) -> Self {
        Worker { volume, log, rng: Stream::new(seed), me, dirs, files: Vec::new(), records: 0, base }
    }

    fn any<T: Clone>(&self, of: &[T]) -> T {
        of[self.rng.index(of.len())].clone()
    }

    /// The latest of what it knows are the likeliest.
    fn any_dir(&self) -> InodeId {
        self.any(&self.dirs)
    }

    fn any_file(&self) -> Option<InodeId> {
        let recent = &self.files[self.files.len().saturating_sub(3)..];
        (!recent.is_empty()).then(|| self.any(recent))
    }

    async fn step(&mut self) {
        match self.rng.below(20) {
            0..4 => self.create().await,
            4 => self.mkdir().await,
            5..7 => self.remove().await,
            7..10 => self.rename().await,
            10 => self.link().await,
            11..13 => self.look().await,
            13..15 => self.list().await,
            15..18 => self.write().await,
            18 if self.base > 0 => self.truncate().await,
            _ => self.read().await,
        }
    }

    fn note(&mut self, ino: InodeId, is_dir: bool) {
        let known = if is_dir { &mut self.dirs } else { &mut self.files };
        known.retain(|one| *one != ino);
        known.push(ino);
    }

    async fn create(&mut self) {
        let (dir, at, exclusive) = (self.any_dir(), name(self.any(&NAMES)), self.rng.below(2) == 0);
        let op = Op::Create { dir, name: at.clone(), mode: 0o644, exclusive, truncate: false };
        let event = self.log.begin(self.me, op, &[]);
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        let how = Creation { mode: 0o644, exclusive, truncate: false, flags };
        let made = self.volume.create(&ME, dir, &at, &how).await;
        self.log.end(event, made.as_ref().map(|(e, _)| Seen::Inode(e.attr.ino, e.attr.kind)).map_err(|e| *e));
        if let Ok((entry, handle)) = made {
            self.note(entry.attr.ino, false);
            self.volume.release(handle);
        }
    }

    async fn mkdir(&mut self) {
        let (dir, at) = (self.any_dir(), name(self.any(&NAMES)));
        let event = self.log.begin(self.me, Op::Mkdir { dir, name: at.clone(), mode: 0o755 }, &[]);
        let made = self.volume.mkdir(&ME, dir, &at, 0o755).await;
        self.log.end(event, made.as_ref().map(|e| Seen::Inode(e.attr.ino, e.attr.kind)).map_err(|e| *e));
        if let Ok(entry) = made {
            self.note(entry.attr.ino, true);
        }
    }

    async fn remove(&mut self) {
        let (dir, at) = (self.any_dir(), name(self.any(&NAMES)));
        let rmdir = self.rng.below(3) == 0;
        let op = if rmdir { Op::Rmdir { dir, name: at.clone() } } else { Op::Unlink { dir, name: at.clone() } };
        let event = self.log.begin(self.me, op, &[]);
        let removed = match rmdir {
            true => self.volume.rmdir(&ME, dir, &at).await,
            false => self.volume.unlink(&ME, dir, &at).await,
        };
        self.log.end(event, removed.map(|()| Seen::Done));
    }

    async fn rename(&mut self) {
        let (from_dir, from, to_dir, to) =
            (self.any_dir(), name(self.any(&NAMES)), self.any_dir(), name(self.any(&NAMES)));
        let mode = self.any(&[RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]);
        let (no_replace, exchange) = (mode == RenameMode::NoReplace, mode == RenameMode::Exchange);
        let op = Op::Rename { from_dir, from: from.clone(), to_dir, to: to.clone(), no_replace, exchange };
        let event = self.log.begin(self.me, op, &[]);
        let renamed = self.volume.rename(&ME, (from_dir, &from), (to_dir, &to), mode).await;
        self.log.end(event, renamed.map(|()| Seen::Done));
    }

    async fn link(&mut self) {
        let Some(ino) = self.any_file() else { return };
        let (dir, at) = (self.any_dir(), name(self.any(&NAMES)));
        let event = self.log.begin(self.me, Op::Link { ino, dir, name: at.clone() }, &[]);
        let linked = self.volume.link(&ME, ino, dir, &at).await;
        self.log.end(event, linked.map(|e| Seen::Inode(e.attr.ino, e.attr.kind)));
    }

    async fn look(&mut self) {
        let (dir, at) = (self.any_dir(), name(self.any(&NAMES)));
        self.look_at(dir, at).await;
    }

    async fn look_at(&mut self, dir: InodeId, at: Name) {
        let event = self.log.begin(self.me, Op::Lookup { dir, name: at.clone() }, &[]);
        let found = match self.volume.lookup(&ME, dir, &at).await {
            Ok(Lookup::Found(entry)) => {
                self.note(entry.attr.ino, entry.attr.kind == FileKind::Directory);
                Ok(Seen::Inode(entry.attr.ino, entry.attr.kind))
            }
            Ok(Lookup::Missing { .. }) => Err(FsError::NotFound),
            Err(error) => Err(error),
        };
        self.log.end(event, found);
    }

    async fn list(&mut self) {
        let dir = self.any_dir();
        let _names = self.list_of(dir).await;
    }

    async fn list_of(&mut self, dir: InodeId) -> Vec<Name> {
        let op = Op::Readdir { dir, cookie: 0, bytes_max: 4096, plus: false };
        let event = self.log.begin(self.me, op, &[]);
        let listed = whole(&self.volume, dir, 4096, false).await;
        let names = listed.iter().flatten().map(|line| line.name.clone()).collect();
        self.log.end(event, listed.map(|lines| Seen::Names(lines.into_iter().map(|l| (l.name, l.ino)).collect())));
        names
    }

    async fn open(&mut self, ino: InodeId, flags: OpenFlags) -> Option<Handle> {
        let event = self.log.begin(self.me, Op::Open { ino, mode: OpenMode::Write }, &[]);
        let opened = self.volume.open(&ME, ino, flags).await;
        self.log.end(event, opened.map(|_| Seen::Done));
        opened.ok()
    }

    /// An overwrite or an append, durable when it ends.
    async fn write(&mut self) {
        let (Some(ino), append) = (self.any_file(), self.rng.below(2) == 0) else { return };
        let flags = OpenFlags { write: true, append, direct: self.rng.below(4) == 0, sync: false };
        let Some(handle) = self.open(ino, flags).await else { return };
        self.records += 1;
        let mark = self.records.to_le_bytes()[0];
        let me = u8::try_from(self.me).expect("few clients");
        let bytes = if append { 16 } else { OVERWRITE_BYTES };
        let data: Vec<u8> = [me + 1, mark].into_iter().cycle().take(bytes).collect();
        let len = u32::try_from(bytes).expect("short");
        let offset = if append { 0 } else { self.base };
        let op = Op::Write { ino, offset, len, append, kill_privileges: false, held: None };
        let event = self.log.begin(self.me, op, &data);
        let written = self.volume.write(handle, offset, &data, WriteFlags::default()).await;
        let durable = match written {
            Ok(_) => self.volume.fsync(handle).await,
            Err(error) => Err(error),
        };
        // One that failed may have happened.
        if durable.is_ok() {
            self.log.end(event, Ok(Seen::Done));
        }
        self.volume.release(handle);
    }

    /// To a place in what is overwritten, or beyond.
    async fn truncate(&mut self) {
        let Some(ino) = self.any_file() else { return };
        let size = Some(self.base + self.any(&[0, 1000, 2 * OVERWRITE_BYTES as u64]));
        let change = AttrChange { size, ..AttrChange::default() };
        let event = self.log.begin(self.me, Op::Setattr { ino, change: change.clone() }, &[]);
        let set = self.volume.setattr(&ME, ino, change).await;
        self.log.end(event, set.map(|_| Seen::Done));
    }

    async fn read(&mut self) {
        if let Some(ino) = self.any_file() {
            self.read_of(ino).await;
        }
    }

    async fn read_of(&mut self, ino: InodeId) {
        let Some(handle) = self.open(ino, OpenFlags::default()).await else { return };
        let op = Op::Read { ino, offset: self.base, len: READ_BYTES, epoch: 0, sequence: 0 };
        let event = self.log.begin(self.me, op, &[]);
        let read = self.volume.read(handle, self.base, READ_BYTES).await;
        self.log.end(event, read.map(|bytes| Seen::Bytes(bytes.to_vec())));
        self.volume.release(handle);
    }

    /// Looks at everything that has a name.
    async fn look_everywhere(&mut self) {
        let mut todo = self.dirs.clone();
        while let Some(dir) = todo.pop() {
            for at in self.list_of(dir).await {
                self.dirs.clear();
                self.look_at(dir, at).await;
                todo.append(&mut self.dirs);
            }
        }
        for file in self.files.clone() {
            self.read_of(file).await;
        }
    }
}

struct Client {
    node: NodeId,
    ended: Rc<Cell<bool>>,
}

struct Shared<'a> {
    stage: &'a Stage,
    chance: Stream,
    log: Rc<Log>,
    tops: Vec<InodeId>,
    base: u64,
    clients: Vec<Client>,
    summary: Summary,
}

impl Shared<'_> {
    fn begin(&self, me: usize) -> Client {
        let (log, tops, seed) = (self.log.clone(), (self.tops.clone(), self.base), self.chance.next());
        let (node, ended) = (self.stage.sim.node(1), Rc::new(Cell::new(false)));
        let over = ended.clone();
        self.stage.begin_client_on(node, self.stage.options(), move |world: World, volume| async move {
            let mut worker = Worker::new(volume.clone(), log, (me, seed), tops);
            for _ in 0..STEPS {
                sleep(&world.clock, Duration::from_micros(worker.rng.below(15_000))).await;
                worker.step().await;
            }
            // A server that is away for too long leaves the session behind.
            let _left_behind = volume.shutdown().await;
            over.set(true);
        });
        Client { node, ended }
    }

    fn any_cores(&self) -> u16 {
        u16::try_from(1 + self.chance.below(u64::from(self.stage.setup.cores_max))).expect("few")
    }

    /// Directories that nobody removes.
    fn make_tops(&mut self) {
        let log = self.log.clone();
        self.tops = self.stage.client(move |_, volume| async move {
            let mut tops = Vec::new();
            for text in ["one", "two"] {
                let op = Op::Mkdir { dir: InodeId::ROOT, name: name(text), mode: 0o755 };
                let event = log.begin(CLIENTS, op, &[]);
                let made = volume.mkdir(&ME, InodeId::ROOT, &name(text), 0o755).await.expect("made").attr;
                log.end(event, Ok(Seen::Inode(made.ino, made.kind)));
                tops.push(made.ino);
            }
            volume.shutdown().await.expect("a clean end");
            tops
        });
    }

    fn trouble(&mut self) {
        let (sim, chance) = (&self.stage.sim, &self.chance);
        sim.run_for(Duration::from_micros(chance.below(120_000)));
        let me = chance.index(CLIENTS);
        match chance.below(6) {
            0..3 => {
                self.summary.take_down(self.stage, chance);
                sim.run_for(Duration::from_micros(chance.below(100_000)));
                self.summary.start(self.stage, self.any_cores());
            }
            3 if !self.clients[me].ended.get() => {
                // It dies with what it has in hand; another one comes.
                sim.crash(self.clients[me].node, Crash::Process);
                self.summary.lost_clients += 1;
                self.clients[me] = self.begin(me);
            }
            _ => {
                let machines = self.stage.machines();
                machines.iter().for_each(|machine| sim.partition(self.clients[me].node, *machine));
                sim.run_for(Duration::from_millis(chance.below(8_000)));
                sim.heal_all();
            }
        }
    }

    /// The server restarts, the store is checked, and a new client looks at everything.
    fn conclude(&mut self) {
        let stage = self.stage;
        self.summary.note_status(&stage.status());
        stage.crash(Crash::Power);
        self.summary.check(stage);
        stage.start(self.any_cores());
        let (log, tops) = (self.log.clone(), (self.tops.clone(), self.base));
        stage.client(move |_, volume| async move {
            Worker::new(volume.clone(), log, (CLIENTS, 0), tops).look_everywhere().await;
            volume.shutdown().await.expect("a clean end");
        });
        stage.stop();
        self.summary.check(stage);
    }
}

/// Runs the history of a seed.
fn history(seed: u64, setup: Setup, device: &MemoryDisk) -> Summary {
    let stage = Stage::new(seed, setup, device);
    let (chance, log) = (Stream::new(seed ^ 0x7368_6172), Rc::default());
    let (tops, clients, summary) = (Vec::new(), Vec::new(), Summary::default());
    // Half of the histories are about what lies in a range of another shard than the file's.
    let base = if seed.is_multiple_of(2) { 0 } else { RANGE_BYTES + 5000 };
    let mut shared = Shared { stage: &stage, chance, log, tops, base, clients, summary };
    stage.start(shared.any_cores());
    shared.make_tops();
    shared.clients = (0..CLIENTS).map(|me| shared.begin(me)).collect();
    for _ in 0..shared.chance.below(5) {
        shared.trouble();
    }
    let over = stage.sim.run_until(LIMIT, || shared.clients.iter().all(|client| client.ended.get()));
    assert!(over, "the clients do not end; server: {:?}", stage.ended.borrow());
    shared.conclude();
    let events = shared.log.events.take();
    let count = |wanted: &dyn Fn(&&Event) -> bool| u64::try_from(events.iter().filter(wanted).count()).expect("few");
    let (all, unanswered) = (count(&|_| true), count(&|event| event.ended.is_none()));
    if let Err(what) = explain(&events) {
        panic!("seed {seed}: {what}");
    }
    Summary { histories: 1, trace: stage.sim.trace(), events: all, unanswered, ..shared.summary }
}

#[test]
fn whatever_clients_see_of_shared_directories_fits_one_order() {
    let setup = Setup { lease_term: LEASE_TERM, ..Setup::tight() };
    let seeds = seeds(SEEDS);
    let total = sum_up(seeds.clone(), || formatted(&setup), |seed, device| history(seed, setup, device));
    if seeds.end - seeds.start >= SEEDS {
        let much = total.crashes > SEEDS / 2
            && total.lost_clients > SEEDS / 10
            && total.revocations > SEEDS
            && total.overwrites > SEEDS / 8;
        assert!(much && total.unanswered < total.events / 10, "much happens and most is answered: {total:?}");
    }
}
