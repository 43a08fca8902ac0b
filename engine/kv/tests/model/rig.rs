//! A store on a device that loses what was not flushed, and the map that says what it must answer.

use crate::operation::{Case, Operation, Row, To, When, key, stem, value};
use cfs_kv::{
    BlockCache, Change, DatedScan, Fetch, KEY_BYTES_MAX, KvError, Lookup, Manifest, Pins, Root, Scan, Store,
    StoreConfig, Value, verify_list, verify_table,
};
use cfs_seam::{Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime};
use cfs_segment::{Floors, LocalRegions, REGION_BYTES, RegionLayout, Space, SpaceConfig, SpaceError};
use cfs_sim::MemoryDisk;
use cfs_types::{GroupId, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

const GROUP: GroupId = GroupId::new(7);
const REGIONS: u32 = 3;
/// A future that waits for nothing but its turn has ended by then.
const POLLS_MAX: u32 = 100_000;

type Outcome = Result<(), TestCaseError>;
/// Every version of every key, by time.
type Model = BTreeMap<Box<[u8]>, BTreeMap<u64, Value>>;

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub operations: u64,
    pub cuts: u64,
    /// Cuts inside of an operation.
    pub cuts_inside: u64,
    pub flushes: u64,
    pub compactions: u64,
    pub relocations: u64,
    pub replacements: u64,
    /// Manifests with lists that became durable.
    pub lists: u64,
    pub given_up: u64,
    pub past_reads: u64,
    pub level_max: u8,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.operations += other.operations;
        self.cuts += other.cuts;
        self.cuts_inside += other.cuts_inside;
        self.flushes += other.flushes;
        self.compactions += other.compactions;
        self.relocations += other.relocations;
        self.replacements += other.replacements;
        self.lists += other.lists;
        self.given_up += other.given_up;
        self.past_reads += other.past_reads;
        self.level_max = self.level_max.max(other.level_max);
    }
}

/// A device that keeps what a power cut leaves of it, and goes on.
struct Cutting {
    disk: MemoryDisk,
    /// Operations before the cut, and what is lost then.
    cut: RefCell<Option<(u8, u64)>>,
    left: RefCell<Option<MemoryDisk>>,
}

impl Cutting {
    fn tick(&self) {
        let mut cut = self.cut.borrow_mut();
        *cut = match *cut {
            Some((0, lost)) => {
                *self.left.borrow_mut() = Some(self.disk.crash(lost));
                None
            }
            Some((after, lost)) => Some((after - 1, lost)),
            None => None,
        };
    }
}

impl Disk for Cutting {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        self.disk.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        self.tick();
        self.disk.write(offset, buf, durability, lifetime)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.tick();
        self.disk.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.tick();
        self.disk.discard(offset, bytes)
    }
}

/// What a future comes to that waits for nothing but its turn.
fn finish<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    for _ in 0..POLLS_MAX {
        if let Poll::Ready(value) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
    panic!("it waits for something");
}

enum Stage {
    Written,
    Proposed(Manifest),
    Durable,
}

struct UnderWay {
    change: Change,
    stage: Stage,
    flush: bool,
}

/// The store, the model, and what a crash now would have to find.
pub struct Rig {
    config: StoreConfig,
    cache_bytes: usize,
    huge: bool,
    disk: Rc<Cutting>,
    space: Space,
    store: Store,
    model: Model,
    frozen: Option<Model>,
    durable: (Manifest, Model),
    under_way: Vec<UnderWay>,
    now: u64,
    floor: Option<u64>,
    /// Reads of earlier times may miss what was dropped.
    oldest: u64,
    /// Cells that stay taken until the next start.
    leaks: bool,
    /// The device of a case with huge values is full.
    full: bool,
    pub counts: Counts,
}

fn open(disk: &Rc<Cutting>, manifest: &Manifest, config: &StoreConfig) -> (Space, Store) {
    let layout = RegionLayout::new(0, REGIONS).expect("aligned");
    let grants = Rc::new(LocalRegions::new(REGIONS, &Default::default()));
    let floors = Floors { data_segments: 8, metadata_segments: 4 };
    let space_config = SpaceConfig { layout, floors, discard: true, start: config.start };
    let space = Space::new(disk.clone(), grants.clone(), space_config);
    for (owner, cell) in manifest.claims(GROUP) {
        space.claim(owner, cell).expect("a durable manifest is sound");
    }
    space.held_regions().into_iter().for_each(|region| grants.take(region));
    space.start();
    let store = Store::open(GROUP, Some(manifest.clone()), space.clone(), config.clone());
    (space, store)
}

fn device(disk: MemoryDisk) -> Rc<Cutting> {
    Rc::new(Cutting { disk, cut: RefCell::default(), left: RefCell::default() })
}

fn seen(versions: &BTreeMap<u64, Value>, at: u64) -> Option<(u64, &Rc<[u8]>)> {
    let (time, value) = versions.range(..=at).next_back()?;
    Some((*time, value.as_ref()?))
}

impl Rig {
    pub fn new(case: &Case) -> Self {
        let config = StoreConfig::new(32 << 10, BlockCache::new(case.cache_bytes), 1, stem);
        let (level1_units, root_tables) = (case.level1_units, case.root_tables);
        let config = StoreConfig { level1_units, root_tables, list_tables: 2, ..config };
        let disk = device(cfs_sim::disk(u64::from(REGIONS) * REGION_BYTES));
        let (space, store) = open(&disk, &Manifest::default(), &config);
        Rig {
            config,
            cache_bytes: case.cache_bytes,
            huge: case.huge,
            disk,
            space,
            store,
            model: Model::new(),
            frozen: None,
            durable: Default::default(),
            under_way: Vec::new(),
            now: 1,
            floor: None,
            oldest: 1,
            leaks: false,
            full: false,
            counts: Counts::default(),
        }
    }

    /// Does one thing and checks what it shows.
    pub fn step(&mut self, operation: &Operation) -> Outcome {
        if self.full {
            return Ok(());
        }
        self.counts.operations += 1;
        match operation {
            Operation::Apply(rows, later) => self.apply(rows, *later),
            Operation::Get(number, when) => {
                self.counts.past_reads += u64::from(matches!(when, When::Past(_)));
                self.get(&key(*number), self.time(*when))?;
            }
            Operation::Scan(from, to, when, limit) => self.scan(*from, *to, *when, *limit)?,
            Operation::SetFloor(share) => {
                self.floor = share.map(|share| self.time_of(share));
                self.store.set_floor(self.floor.map(Timestamp::new));
            }
            Operation::Freeze => {
                if self.store.freeze() {
                    prop_assert!(self.frozen.replace(self.model.clone()).is_none());
                }
            }
            Operation::Flush => self.begin(|store| finish(store.flush()), true)?,
            Operation::Compact => self.begin(|store| finish(store.compact_step()), false)?,
            Operation::Relocate(number) => {
                let cells: Vec<_> = self.store.manifest().claims(GROUP).map(|(_, cell)| cell).collect();
                if !cells.is_empty() {
                    let cell = cells[usize::from(*number) % cells.len()];
                    self.begin(|store| finish(store.relocate(cell)), false)?;
                    self.counts.relocations += 1;
                }
            }
            Operation::Proceed(number) => self.proceed(usize::from(*number))?,
            Operation::GiveUp(number) => self.give_up(usize::from(*number)),
            Operation::Replace(rows) => self.replace(rows)?,
            Operation::Cut(0, lost) => self.restart(self.disk.disk.crash(u64::from(*lost)))?,
            Operation::Cut(after, lost) => *self.disk.cut.borrow_mut() = Some((after - 1, u64::from(*lost))),
            Operation::Restart => self.restart(self.disk.disk.clone())?,
            Operation::Verify => self.verify()?,
        }
        // What is not seen from here on may go at any time.
        self.oldest = self.oldest.max(self.floor.unwrap_or(self.now));
        self.restart_if_cut()
    }

    /// Everything is read, and once more after a power cut.
    pub fn end(&mut self) -> Outcome {
        self.verify()?;
        self.restart(self.disk.disk.crash(1))?;
        self.verify()
    }

    fn time_of(&self, share: u8) -> u64 {
        self.oldest + (self.now - self.oldest) * u64::from(share) / 255
    }
    fn time(&self, when: When) -> Timestamp {
        match when {
            When::Now => Timestamp::MAX,
            When::Past(share) => Timestamp::new(self.time_of(share)),
        }
    }

    fn apply(&mut self, rows: &[Row], later: u8) {
        self.now += u64::from(later);
        let mut writes = BTreeMap::new();
        for row in rows {
            writes.insert(key(row.0), value(*row, self.huge));
        }
        for (key, value) in &writes {
            self.model.entry(key.clone()).or_default().insert(self.now, value.clone());
        }
        self.store.apply(writes.into_iter().collect(), Timestamp::new(self.now));
    }

    fn get(&self, key: &[u8], at: Timestamp) -> Outcome {
        let mut pins = None;
        let found = loop {
            match self.store.get(key, at) {
                Lookup::Found(value) => break Some(value),
                Lookup::Absent => break None,
                Lookup::Miss(fetch) => {
                    prop_assert!(pins.is_none(), "fetched, and still not there");
                    pins = Some(self.fetch(&fetch)?);
                }
            }
        };
        let want = self.model.get(key).and_then(|versions| seen(versions, at.get())).map(|(_, value)| value);
        prop_assert!(found.as_ref() == want, "{} at {at:?} is not what was written", key.escape_ascii());
        Ok(())
    }

    fn fetch(&self, fetch: &Fetch) -> Result<Pins, TestCaseError> {
        finish(self.store.fetch(fetch)).map_err(|error| TestCaseError::fail(error.to_string()))
    }

    fn scan(&self, from: u16, to: To, when: When, limit: u8) -> Outcome {
        let from = key(from);
        let to = match to {
            To::Key(number) => key(number),
            To::Stem => match stem(&from) {
                Some([first @ .., last]) => [first, &[*last + 1]].concat().into(),
                _ => [&from, &[0xff][..]].concat().into(),
            },
            To::End => vec![0xff; KEY_BYTES_MAX + 1].into(),
        };
        self.rows(&from, &to, self.time(when), usize::from(limit))
    }

    fn rows(&self, from: &[u8], to: &[u8], at: Timestamp, limit: usize) -> Outcome {
        let mut pins = None;
        let (rows, more) = loop {
            match self.store.scan_dated(from, to, at, limit) {
                DatedScan::Rows(rows, more) => break (rows, more),
                DatedScan::Miss(fetch) => {
                    prop_assert!(pins.is_none(), "fetched, and still not there");
                    pins = Some(self.fetch(&fetch)?);
                }
            }
        };
        let Scan::Rows { rows: undated, more: still_more } = self.store.scan(from, to, at, limit) else {
            return Err(TestCaseError::fail("the same scan again misses something"));
        };
        prop_assert!(more == still_more && undated.len() == rows.len());
        prop_assert!(undated.iter().zip(&rows).all(|(a, b)| a.0 == b.0 && a.1 == b.2));
        let inside = self.model.iter().filter(|(key, _)| from <= &***key && &***key < to);
        let mut want = inside.filter_map(|(key, versions)| seen(versions, at.get()).map(|found| (key, found)));
        for (key, time, value) in &rows {
            let next = want.next();
            let right = next.is_some_and(|(k, (t, v))| k == key && Timestamp::new(t) == *time && v == value);
            prop_assert!(right, "row {} at {at:?} should be {:?}", key.escape_ascii(), next.map(|(k, (t, _))| (k, t)));
        }
        let left = want.next();
        prop_assert!(rows.len() <= limit && (more || left.is_none()), "{left:?} is missing");
        prop_assert!(rows.len() == limit || left.is_none(), "{left:?} is missing, {limit} were asked for");
        Ok(())
    }

    /// Begins a change; Busy is right only where another one is under way.
    fn begin(&mut self, work: impl FnOnce(&Store) -> Result<Option<Change>, KvError>, flush: bool) -> Outcome {
        match work(&self.store) {
            Ok(Some(change)) => {
                prop_assert!(!flush || self.frozen.is_some(), "nothing was frozen");
                self.under_way.push(UnderWay { change, stage: Stage::Written, flush });
                Ok(())
            }
            Ok(None) => {
                prop_assert!(!flush || self.frozen.is_none(), "what was frozen is not flushed");
                Ok(())
            }
            Err(error) => self.excuse(error),
        }
    }

    fn excuse(&mut self, error: KvError) -> Outcome {
        match error {
            KvError::Busy => prop_assert!(!self.under_way.is_empty(), "busy, and nothing is under way"),
            KvError::Space(SpaceError::NoSpace) if self.huge => self.full = true,
            error => return Err(TestCaseError::fail(error.to_string())),
        }
        Ok(())
    }

    fn proceed(&mut self, number: usize) -> Outcome {
        if self.under_way.is_empty() {
            return Ok(());
        }
        let at = number % self.under_way.len();
        let mut item = self.under_way.swap_remove(at);
        match item.stage {
            Stage::Written => match finish(self.store.propose(&mut item.change)) {
                Ok(root) => {
                    prop_assert_eq!(&Root::decode(&root.encode()).expect("what is encoded decodes"), &root);
                    let manifest = finish(root.load(&self.space, GROUP)).expect("its lists are written");
                    item.stage = Stage::Proposed(manifest);
                }
                Err(KvError::Busy) => {
                    let committing = self.under_way.iter().any(|other| !matches!(other.stage, Stage::Written));
                    prop_assert!(committing, "busy, and nothing is proposed");
                }
                Err(error) => {
                    self.under_way.push(item);
                    return self.excuse(error);
                }
            },
            Stage::Proposed(manifest) => {
                self.counts.lists += u64::from(!manifest.lists.is_empty());
                self.durable.0 = manifest;
                if item.flush {
                    self.durable.1 = self.frozen.clone().expect("it was frozen");
                }
                item.stage = Stage::Durable;
            }
            Stage::Durable => {
                self.store.install(item.change).expect("the cells were live");
                if item.flush {
                    self.frozen = None;
                    self.counts.flushes += 1;
                } else {
                    self.counts.compactions += 1;
                }
                return Ok(());
            }
        }
        self.under_way.push(item);
        Ok(())
    }

    fn give_up(&mut self, number: usize) {
        let of_those: Vec<usize> = (0..self.under_way.len()).filter(|at| !self.is_durable(*at)).collect();
        if !of_those.is_empty() {
            let item = self.under_way.swap_remove(of_those[number % of_those.len()]);
            self.leaks |= matches!(item.stage, Stage::Proposed(_));
            self.counts.given_up += 1;
        }
    }
    fn is_durable(&self, at: usize) -> bool {
        matches!(self.under_way[at].stage, Stage::Durable)
    }

    fn replace(&mut self, rows: &[Row]) -> Outcome {
        let rows: BTreeMap<_, _> = rows.iter().filter_map(|row| Some((key(row.0), value(*row, self.huge)?))).collect();
        let time = Timestamp::new(self.now);
        let mut fresh = self.store.replacement();
        let (pushed, more): (Vec<_>, Vec<_>) = rows.iter().partition(|(key, _)| key.len() % 2 == 0);
        for (key, value) in pushed {
            finish(fresh.push(key, time, value)).expect("there is space");
        }
        let more: Vec<_> = more.into_iter().map(|(key, value)| (key.clone(), time, value.clone())).collect();
        let mut change = match finish(fresh.finish(&more)) {
            Ok(change) => change,
            Err(error) => return self.excuse(error),
        };
        prop_assert!(self.under_way.is_empty(), "replaced in the middle of another change");
        let root = finish(self.store.propose(&mut change)).expect("few tables");
        let manifest = finish(root.load(&self.space, GROUP)).expect("its lists are written");
        if self.disk.left.borrow().is_some() {
            return Ok(());
        }
        self.model = rows.into_iter().map(|(key, value)| (key, [(self.now, Some(value))].into())).collect();
        (self.durable, self.frozen) = ((manifest, self.model.clone()), None);
        self.store.install(change).expect("the cells were live");
        self.counts.replacements += 1;
        Ok(())
    }

    fn restart_if_cut(&mut self) -> Outcome {
        let left = self.disk.left.take();
        self.counts.cuts_inside += u64::from(left.is_some());
        left.map_or(Ok(()), |left| self.restart(left))
    }

    /// A new process on this device, which finds what was durable.
    fn restart(&mut self, disk: MemoryDisk) -> Outcome {
        self.counts.cuts += 1;
        self.under_way.clear();
        self.disk = device(disk);
        self.config.start += 1;
        self.config.cache = BlockCache::new(self.cache_bytes);
        self.model = self.durable.1.clone();
        (self.frozen, self.leaks) = (None, false);
        (self.space, self.store) = open(&self.disk, &self.durable.0, &self.config);
        self.store.set_floor(self.floor.map(Timestamp::new));
        self.verify()
    }

    /// Reads everything, now and at an earlier time, and every byte of every table.
    fn verify(&mut self) -> Outcome {
        let keys: Vec<_> = self.model.keys().cloned().collect();
        for at in [Timestamp::MAX, Timestamp::new(self.oldest), Timestamp::new(self.time_of(100))] {
            self.rows(&[], &[0xff; KEY_BYTES_MAX + 1], at, usize::MAX)?;
            for key in &keys {
                self.get(key, at)?;
            }
        }
        let manifest = self.store.manifest();
        for table in &manifest.tables {
            let check = finish(verify_table(&self.space, GROUP, table, stem, async || ()));
            let check = check.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(check.damage.is_empty() && check.entries > 0, "{table:?}: {check:?}");
            self.counts.level_max = self.counts.level_max.max(table.level);
        }
        for list in &manifest.lists {
            prop_assert_eq!(finish(verify_list(&self.space, GROUP, list)), Ok(true));
        }
        if self.under_way.is_empty() {
            let held: u64 = manifest.claims(GROUP).map(|(_, cell)| u64::from(cell.units())).sum();
            let live = self.space.usage().live_units;
            prop_assert!(live == held || (self.leaks && live > held), "{live} units are live, {held} named");
        }
        Ok(())
    }
}
