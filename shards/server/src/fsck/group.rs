//! One group opened in memory as a start would open it: tables, local records, and the log's tail
//! executed. Nothing is written to the device.

use super::READS_AT_ONCE;
use super::finding::{Findings, Severity, Site};
use crate::entry::{self, Batch, DATA_OFFSET};
use crate::machine::{GroupCommand, Machine};
use crate::manifest::GroupManifest;
use crate::replica::{Executed, LOST_AREA, Mark, area_key, decode_local, decode_vote};
use cfs_kv::{KvError, Lookup, Manifest, Pins, Scan, Store, StoreConfig};
use cfs_log::{EntryAt, GroupLog};
use cfs_namespace::data::DataEffect;
use cfs_namespace::{Command, Effect};
use cfs_seam::{Disk, gather};
use cfs_segment::Space;
use cfs_types::{ChunkId, FsError, GroupId, LogIndex, Nanos, Term, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Rows read at once.
const PAGE: usize = 512;

/// A group under check.
pub struct Group {
    /// Which.
    pub id: GroupId,
    /// Its rows: tables, and in memory what only the log holds.
    pub store: Store,
    /// Everything could be read and executed; otherwise only its bytes are checked.
    pub is_whole: bool,
    /// Chunks that were freed by what was executed in memory: the next start frees their cells.
    pub freed: BTreeSet<ChunkId>,
    machine: Machine,
    disk: Rc<dyn Disk>,
    entries: BTreeMap<LogIndex, EntryAt>,
    /// Data areas of entries that only this check executed.
    imagined: RefCell<BTreeMap<LogIndex, Vec<u8>>>,
    index: Cell<u64>,
    term: u64,
}

/// What groups are opened with.
pub struct Opener {
    /// The device.
    pub disk: Rc<dyn Disk>,
    /// For reading tables.
    pub space: Space,
    /// Settings of the stores.
    pub config: StoreConfig,
    /// The cluster's key of dentry hashes.
    pub name_key: [u8; 32],
    /// The newest commit timestamp seen.
    pub time: Cell<Timestamp>,
}

impl Opener {
    /// A timestamp above all that were seen.
    pub fn tick(&self) -> Timestamp {
        self.time.set(self.time.get().tick(0));
        self.time.get()
    }

    fn observe(&self, time: Timestamp) {
        self.time.set(self.time.get().max(time));
    }

    /// Opens a group; what is wrong with its records is reported and leaves it not whole.
    pub async fn open(
        &self,
        id: GroupId,
        found: Option<(GroupManifest, Manifest)>,
        log: &GroupLog,
        findings: &mut Findings,
    ) -> Group {
        let machine = match id.shard() {
            Some(shard) => Machine::Shard { shard, name_key: self.name_key },
            None => Machine::Control,
        };
        let (manifest, tables) = found.unzip();
        let mark = manifest.as_ref().map_or(Mark { applied: (0, 0), locals: 0 }, |m| m.mark);
        let vote = manifest.as_ref().map(|m| m.vote).unwrap_or_default();
        self.observe(manifest.as_ref().map(|m| m.timestamp).unwrap_or_default());
        let vote = match log.hard_state.as_ref().map(|record| decode_vote(&record.payload)) {
            Some(None) => {
                findings.group(id, "the vote in the log does not decode");
                vote
            }
            Some(Some(logged)) => logged,
            None => vote,
        };
        let store = Store::open(id, tables, self.space.clone(), self.config.clone());
        let mut group = Group {
            id,
            store,
            is_whole: true,
            freed: BTreeSet::new(),
            machine,
            disk: self.disk.clone(),
            entries: log.entries.iter().map(|e| (e.index, *e)).collect(),
            imagined: RefCell::default(),
            index: Cell::new(mark.applied.0),
            term: vote.term.max(mark.applied.1),
        };
        if let Err(what) = self.replay_locals(&group, log, mark.locals) {
            findings.group(id, what);
            group.is_whole = false;
        } else if let Err(what) = self.replay_entries(&mut group, log).await {
            findings.group(id, what);
            group.is_whole = false;
        }
        group
    }

    fn replay_locals(&self, group: &Group, log: &GroupLog, through: u64) -> Result<(), &'static str> {
        let new = log.locals.iter().filter(|r| r.index.get() > through);
        for (expected, record) in (through + 1..).zip(new) {
            let write = decode_local(&record.payload).ok_or("a local record in the log does not decode")?;
            if record.index.get() != expected {
                return Err("local records are missing in the log");
            }
            group.store.apply(vec![write], self.tick());
        }
        Ok(())
    }

    /// A sole voter's log counts as committed as a whole.
    async fn replay_entries(&self, group: &mut Group, log: &GroupLog) -> Result<(), String> {
        let (applied, id) = (group.index.get(), group.id);
        let newer: Vec<&EntryAt> = log.entries.iter().filter(|e| e.index.get() > applied).collect();
        for some in newer.chunks(READS_AT_ONCE) {
            let reads = some.iter().map(|at| cfs_log::read_entry(&*self.disk, id, at));
            for (at, bytes) in some.iter().zip(gather(reads, READS_AT_ONCE).await) {
                if at.index.get() != group.index.get() + 1 {
                    return Err(format!("entry {} is missing in the log", group.index.get() + 1));
                }
                self.replay_entry(group, at, &bytes.map_err(|e| e.to_string())?).await?;
            }
        }
        // What the check itself executes stands in the term of the next start.
        group.term += 1;
        Ok(())
    }
}

impl Opener {
    async fn replay_entry(&self, group: &mut Group, at: &EntryAt, bytes: &[u8]) -> Result<(), String> {
        group.index.set(at.index.get());
        group.term = group.term.max(at.term.get());
        if bytes.is_empty() {
            return Ok(());
        }
        let (batch, _) = entry::decode(bytes).map_err(|e| format!("entry {}: {e}", at.index))?;
        self.observe(batch.timestamp);
        let executed = group.run(at.term, at.index, &batch).await;
        group.note_freed(&executed.map_err(|e| format!("executing entry {}: {e}", at.index))?);
        Ok(())
    }
}

impl Group {
    async fn run(&self, term: Term, index: LogIndex, batch: &Batch) -> Result<Vec<Executed>, KvError> {
        let context = self.machine.context(term, index, batch);
        self.machine.execute_batch(&self.store, &context, batch).await
    }

    fn note_freed(&mut self, executed: &[Executed]) {
        for effect in executed.iter().flat_map(|e| &e.effects) {
            if let Effect::Data(DataEffect::FreeChunk(id)) = effect {
                self.freed.insert(*id);
            }
        }
    }

    /// Executes one command in memory, with the bytes of its small write.
    pub async fn execute(
        &mut self,
        opener: &Opener,
        now: Nanos,
        command: Command,
        data: Vec<u8>,
    ) -> Result<Executed, KvError> {
        let index = LogIndex::new(self.index.get() + 1);
        self.index.set(index.get());
        let batch = Batch { timestamp: opener.tick(), now, commands: vec![GroupCommand::Shard(Box::new(command))] };
        if !data.is_empty() {
            self.imagined.borrow_mut().insert(index, data);
        }
        let mut executed = self.run(Term::new(self.term), index, &batch).await?;
        self.note_freed(&executed);
        Ok(executed.pop().expect("one result a command"))
    }

    /// Reads `len` bytes at `offset` of an entry's data area; what is wrong otherwise.
    pub async fn read_data(&self, index: LogIndex, offset: u32, len: u32) -> Result<Vec<u8>, String> {
        let cut = |area: &[u8], from: usize| {
            let from = from + offset as usize;
            area.get(from..from + len as usize).map(<[u8]>::to_vec)
        };
        let short = || format!("entry {index} of the log has no bytes {offset}+{len}");
        if let Some(area) = self.imagined.borrow().get(&index) {
            return cut(area, 0).ok_or_else(short);
        }
        let Some(at) = self.entries.get(&index) else {
            let kept = self.kept_area(index).await.map_err(|e| e.to_string())?;
            let area = kept.ok_or_else(|| format!("entry {index} is not in the log"))?;
            if *area == *LOST_AREA {
                return Err(format!("lost: entry {index} could not be read when the log let go of it"));
            }
            return cut(&area, 0).ok_or_else(short);
        };
        let payload = cfs_log::read_entry(&*self.disk, self.id, at).await.map_err(|e| e.to_string())?;
        cut(&payload, DATA_OFFSET).ok_or_else(short)
    }

    /// The data area of an entry that left the log for the tables.
    async fn kept_area(&self, index: LogIndex) -> Result<Option<Rc<[u8]>>, KvError> {
        let mut pins = Pins::default();
        loop {
            match self.store.get(&area_key(index.get()), Timestamp::MAX) {
                Lookup::Found(area) => return Ok(Some(area)),
                Lookup::Absent => return Ok(None),
                Lookup::Miss(fetch) => pins.merge(self.store.fetch(&fetch).await?),
            }
        }
    }

    /// Shows every row of `from..to` in order.
    pub async fn rows(&self, from: &[u8], to: &[u8], mut show: impl FnMut(&[u8], &[u8])) -> Result<u64, KvError> {
        let mut from = from.to_vec();
        let (mut pins, mut count) = (Pins::default(), 0);
        loop {
            match self.store.scan(&from, to, Timestamp::MAX, PAGE) {
                Scan::Rows { rows, more } => {
                    pins = Pins::default();
                    rows.iter().for_each(|(key, value)| show(key, value));
                    count += rows.len() as u64;
                    let Some((last, _)) = rows.last().filter(|_| more) else { return Ok(count) };
                    from = [last, &[0][..]].concat();
                }
                Scan::Miss(fetch) => pins.merge(self.store.fetch(&fetch).await?),
            }
        }
    }
}

/// Reports what kept a group's rows from being read.
pub fn report_unreadable(group: GroupId, error: &KvError, findings: &mut Findings) {
    match error {
        KvError::Damaged { offset, table, .. } => {
            let what = format!("table {table} of group {group} cannot be read");
            findings.add(Severity::Damage, Site::Device(*offset), what);
        }
        other => findings.group(group, other.to_string()),
    }
}

/// Whether an execution in memory did what the server's would do.
pub fn outcome(executed: Result<Executed, KvError>) -> Result<(), String> {
    match executed {
        Ok(executed) => executed.result.map(|_| ()).map_err(|e: FsError| e.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
