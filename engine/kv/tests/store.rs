//! The store against a model, with crashes at any moment, on the simulated device.

use cfs_kv::{
    BlockCache, Change, Fetch, KvError, Lookup, Manifest, ROOT_ENTRIES_MAX, Root, Scan, Store, StoreConfig, Value,
};
use cfs_seam::{Class, World};
use cfs_segment::{Floors, LocalRegions, REGION_BYTES, RegionLayout, Space, SpaceConfig};
use cfs_sim::{MemoryDisk, Stream};
use cfs_types::{GroupId, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

type Model = BTreeMap<Box<[u8]>, Rc<[u8]>>;
const GROUP: GroupId = GroupId::new(7);
const REGIONS: u32 = 3;

/// Small levels, and few tables in the root: deep levels are named by lists.
fn config(cache: BlockCache, start: u32) -> StoreConfig {
    let config = StoreConfig::new(32 << 10, cache, start, stem);
    StoreConfig { level1_units: 24, root_tables: 5, list_tables: 2, ..config }
}

/// About ten rows belong together.
fn stem(key: &[u8]) -> Option<&[u8]> {
    match key.first()? {
        b'k' => key.get(..3),
        b'r' => key.get(..8),
        _ => None,
    }
}

/// A store that was opened from a manifest, on a space that has claimed what it names.
fn open(world: &World, disk: &MemoryDisk, manifest: &Manifest, start: u32, cache_bytes: usize) -> (Space, Store) {
    let cache = BlockCache::new(cache_bytes);
    open_with(world, disk, manifest, config(cache, start))
}
fn open_with(world: &World, disk: &MemoryDisk, manifest: &Manifest, store: StoreConfig) -> (Space, Store) {
    let layout = RegionLayout::new(0, REGIONS).expect("aligned");
    let grants = Rc::new(LocalRegions::new(REGIONS, &Default::default()));
    let floors = Floors { data_segments: 8, metadata_segments: 4 };
    let config = SpaceConfig { layout, floors, discard: true, start: store.start };
    let space = Space::new(disk.attach(world), grants.clone(), config);
    for (owner, cell) in manifest.claims(GROUP) {
        space.claim(owner, cell).expect("a durable manifest is sound");
    }
    space.held_regions().into_iter().for_each(|region| grants.take(region));
    space.start();
    let store = Store::open(GROUP, Some(manifest.clone()), space.clone(), store);
    (space, store)
}

fn units(manifest: &Manifest) -> u64 {
    manifest.claims(GROUP).map(|(_, cell)| u64::from(cell.units())).sum()
}

fn device() -> MemoryDisk {
    cfs_sim::disk(u64::from(REGIONS) * REGION_BYTES)
}

async fn get(store: &Store, key: &[u8], at: Timestamp) -> Result<Value, KvError> {
    let mut pins = cfs_kv::Pins::default();
    loop {
        match store.get(key, at) {
            Lookup::Found(value) => return Ok(Some(value)),
            Lookup::Absent => return Ok(None),
            Lookup::Miss(fetch) => pins.merge(store.fetch(&fetch).await?),
        }
    }
}

async fn all(store: &Store, at: Timestamp, limit: usize) -> Result<Model, KvError> {
    let (mut model, mut from, mut pins) = (Model::new(), Box::<[u8]>::default(), None);
    loop {
        match store.scan(&from, &[0xff], at, limit) {
            Scan::Miss(fetch) => pins = Some(store.fetch(&fetch).await?),
            Scan::Rows { rows, more } => {
                drop(pins.take());
                if let Some((last, _)) = rows.last() {
                    from = [last, &[0][..]].concat().into();
                }
                model.extend(rows);
                if !more {
                    return Ok(model);
                }
            }
        }
    }
}

fn key(rng: &Stream) -> Box<[u8]> {
    // Some keys are prefixes of others.
    let mut key = format!("k{:03}", rng.below(400)).into_bytes();
    key.resize(key.len() + rng.index(3), 0);
    key.into()
}

fn value(rng: &Stream) -> Value {
    let length = if rng.chance(5_000) { 20_000 } else { rng.index(200) };
    let byte = rng.next().to_le_bytes()[0];
    (!rng.chance(250_000)).then(|| vec![byte; length].into())
}

/// A running store, its model, and what a crash now would have to find.
struct Rig {
    world: World,
    space: Space,
    store: Store,
    rng: Rc<Stream>,
    model: RefCell<Model>,
    time: Cell<u64>,
    durable: RefCell<(Manifest, Model)>,
    committing: Cell<bool>,
    leaks: Cell<bool>,
    ended: Cell<u32>,
}

impl Rig {
    async fn nap(&self, nanos: u64) {
        cfs_seam::sleep(&self.world.clock, Duration::from_nanos(self.rng.below(nanos))).await;
    }
    fn write(&self) {
        self.time.set(self.time.get() + 1);
        let mut writes: BTreeMap<_, _> = BTreeMap::new();
        for _ in 0..=self.rng.index(4) {
            writes.insert(key(&self.rng), value(&self.rng));
        }
        for (key, value) in &writes {
            match value {
                Some(value) => self.model.borrow_mut().insert(key.clone(), value.clone()),
                None => self.model.borrow_mut().remove(key),
            };
        }
        self.store.apply(writes.into_iter().collect(), Timestamp::new(self.time.get()));
    }
    /// Awaits a change, or loses patience at a random moment and drops it half done.
    async fn patiently(&self, work: impl Future<Output = Result<Option<Change>, KvError>>) -> Option<Change> {
        let patience = if self.rng.chance(200_000) { self.rng.below(5_000_000) } else { u64::MAX };
        let at = self.world.clock.now().after(Duration::from_nanos(patience));
        match cfs_seam::timeout(&self.world.clock, at, work).await {
            Some(Ok(change)) => change,
            Some(Err(KvError::Busy)) | None => None,
            Some(Err(error)) => panic!("{error}"),
        }
    }
    /// Commits a change as a server does, or gives up at any point. True when installed.
    async fn commit(&self, mut change: Change, frozen: Option<&Model>) -> bool {
        if self.rng.chance(100_000) {
            return false;
        }
        while self.committing.replace(true) {
            self.committing.set(true);
            self.nap(50_000).await;
        }
        let root = self.store.propose(&mut change).await.expect("few tables");
        let root = Root::decode(&root.encode()).expect("what is encoded decodes");
        self.nap(300_000).await;
        if self.rng.chance(50_000) {
            // The anchor failed before anything was written: the cells stay taken.
            self.leaks.set(true);
            self.committing.set(false);
            return false;
        }
        let manifest = root.load(&self.space, GROUP).await.expect("its lists are durable");
        {
            let mut durable = self.durable.borrow_mut();
            durable.0 = manifest;
            if let Some(frozen) = frozen {
                durable.1 = frozen.clone();
            }
        }
        self.nap(300_000).await;
        self.store.install(change).expect("the cells were live");
        self.committing.set(false);
        true
    }
    async fn writer(self: Rc<Self>, steps: u32) {
        let mut frozen = Model::new();
        for _ in 0..steps {
            self.write();
            if self.rng.chance(30_000) && self.store.freeze() {
                frozen = self.model.borrow().clone();
            }
            if self.rng.chance(30_000)
                && !self.store.is_stalled()
                && let Some(change) = self.patiently(self.store.flush()).await
            {
                self.commit(change, Some(&frozen)).await;
            }
            self.nap(30_000).await;
        }
        self.ended.set(self.ended.get() + 1);
    }
    async fn compactor(self: Rc<Self>) {
        while self.ended.get() == 0 {
            if let Some(change) = self.patiently(self.store.compact_step()).await {
                self.commit(change, None).await;
            }
            self.nap(1_000_000).await;
        }
        self.ended.set(self.ended.get() + 1);
    }
    async fn cleaner(self: Rc<Self>) {
        while self.ended.get() == 0 {
            let cells: Vec<_> = self.store.manifest().claims(GROUP).map(|(_, cell)| cell).collect();
            if !cells.is_empty() {
                let cell = cells[self.rng.index(cells.len())];
                if let Some(change) = self.patiently(self.store.relocate(cell)).await {
                    self.commit(change, None).await;
                }
            }
            self.nap(3_000_000).await;
        }
        self.ended.set(self.ended.get() + 1);
    }
    async fn reader(self: Rc<Self>) {
        while self.ended.get() == 0 {
            let key = key(&self.rng);
            let found = get(&self.store, &key, Timestamp::MAX).await.expect("no damage");
            assert_eq!(found.as_ref(), self.model.borrow().get(&key), "{}", key.escape_ascii());
            if self.rng.chance(50_000) {
                self.scan().await;
            }
            self.nap(60_000).await;
        }
        self.ended.set(self.ended.get() + 1);
    }
    async fn scan(&self) {
        let (from, mut to, limit) = (key(&self.rng), key(&self.rng), 1 + self.rng.index(60));
        if self.rng.chance(500_000) {
            // To the end of a stem.
            to = from[..3].into();
            to[2] += 1;
        }
        let mut pins = cfs_kv::Pins::default();
        loop {
            match self.store.scan(&from, &to, Timestamp::MAX, limit) {
                Scan::Miss(fetch) => pins.merge(self.store.fetch(&fetch).await.expect("no damage")),
                Scan::Rows { rows, more } => {
                    let model = self.model.borrow();
                    let expected = model.iter().skip_while(|(k, _)| **k < from).take_while(|(k, _)| **k < to);
                    let expected: Vec<_> = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
                    assert!(rows == expected[..limit.min(expected.len())]);
                    assert!(more || rows.len() == expected.len());
                    return;
                }
            }
        }
    }
}

/// Runs writers, compaction, cleaning and reads side by side; returns devices as power cuts at
/// random moments leave them, with what was durable then.
fn history(seed: u64, steps: u32) -> Vec<(MemoryDisk, Manifest, Model)> {
    cfs_sim::run(seed, move |world| async move {
        let disk = device();
        let (space, store) = open(&world, &disk, &Manifest::default(), 1, 64 << 10);
        let rig = Rc::new(Rig {
            world: world.clone(),
            space,
            store,
            rng: Rc::new(Stream::new(seed)),
            model: RefCell::default(),
            time: Cell::new(0),
            durable: RefCell::default(),
            committing: Cell::new(false),
            leaks: Cell::new(false),
            ended: Cell::new(0),
        });
        cfs_seam::spawn(&world.tasks, Class::Foreground, rig.clone().writer(steps)).detach();
        cfs_seam::spawn(&world.tasks, Class::Background, rig.clone().compactor()).detach();
        cfs_seam::spawn(&world.tasks, Class::Background, rig.clone().cleaner()).detach();
        cfs_seam::spawn(&world.tasks, Class::Foreground, rig.clone().reader()).detach();
        let mut cuts = Vec::new();
        while rig.ended.get() < 4 {
            let (manifest, model) = rig.durable.borrow().clone();
            cuts.push((disk.crash(rig.rng.next()), manifest, model));
            rig.nap(20_000_000).await;
        }
        let live = rig.model.borrow().clone();
        assert_eq!(all(&rig.store, Timestamp::MAX, 37).await.expect("no damage"), live);
        cfs_seam::sleep(&world.clock, Duration::from_millis(10)).await;
        rig.space.sync().await.expect("a sound device");
        let held = units(&rig.store.manifest());
        let usage = rig.space.usage();
        assert!(usage.live_units == held || (rig.leaks.get() && usage.live_units > held), "{usage:?}, {held} held");
        cuts
    })
}

#[test]
fn a_crash_at_any_moment_leaves_exactly_what_was_flushed() {
    let (mut deep, mut listed) = (0, 0);
    for seed in 0..40 {
        for (disk, manifest, model) in history(seed, 1500) {
            listed = listed.max(manifest.lists.len());
            deep = deep.max(manifest.tables.iter().map(|t| t.level).max().unwrap_or(0));
            let found = cfs_sim::run(seed, move |world| async move {
                let (space, store) = open(&world, &disk, &manifest, 2, 64 << 10);
                let found = all(&store, Timestamp::MAX, 1000).await.expect("no damage");
                for (key, value) in &model {
                    assert_eq!(get(&store, key, Timestamp::MAX).await.expect("no damage").as_ref(), Some(value));
                }
                assert_eq!(space.usage().live_units, units(&manifest));
                (found, model)
            });
            assert!(found.0 == found.1, "seed {seed}");
        }
    }
    assert!(deep >= 2, "compaction reached level {deep} only");
    assert!(listed >= 2, "never more than {listed} lists");
}

#[test]
fn readers_of_one_block_share_its_read_and_pins_keep_it() {
    cfs_sim::run(12, |world| async move {
        let disk = device();
        let (_, store, _) = filled(&world, &disk, 2_000).await;
        let cache = BlockCache::new(1);
        let config = StoreConfig::new(1 << 20, cache.clone(), 2, stem);
        let (_, store) = open_with(&world, &disk, &store.manifest(), config);
        drop(store.fetch(&Fetch::get(b"row000000", Timestamp::MAX)).await.expect("no damage"));
        let before = disk.operations();
        let ended = Rc::new(Cell::new(0));
        for _ in 0..20 {
            let (store, ended, clock) = (store.clone(), ended.clone(), world.clock.clone());
            let work = async move {
                let pins = store.fetch(&Fetch::get(b"row000777", Timestamp::MAX)).await.expect("no damage");
                assert!(!pins.is_empty());
                cfs_seam::sleep(&clock, Duration::from_millis(5)).await;
                // The cache has no room at all: only the pins keep it.
                assert!(matches!(store.get(b"row000777", Timestamp::MAX), Lookup::Found(_)));
                ended.set(ended.get() + 1);
            };
            cfs_seam::spawn(&world.tasks, Class::Foreground, work).detach();
        }
        while ended.get() < 20 {
            cfs_seam::sleep(&world.clock, Duration::from_millis(1)).await;
        }
        assert!(disk.operations() - before <= 6, "{} reads", disk.operations() - before);
    });
}

/// A store of some tables, all installed.
async fn filled(world: &World, disk: &MemoryDisk, rows: u32) -> (Space, Store, Model) {
    let (space, store) = open(world, disk, &Manifest::default(), 1, 1 << 20);
    let mut model = Model::new();
    for i in 0..rows {
        let key: Box<[u8]> = format!("row{:06}", i * 7919 % rows).into_bytes().into();
        let value: Rc<[u8]> = i.to_le_bytes().repeat(20).into();
        model.insert(key.clone(), value.clone());
        store.apply(vec![(key, Some(value))], Timestamp::new(u64::from(i) + 1));
        if (i + 1).is_multiple_of(rows / 5) {
            settle(&store).await;
        }
    }
    (space, store, model)
}

/// Flushes, and compacts while there is something to compact.
async fn settle(store: &Store) {
    store.freeze();
    let mut change = store.flush().await.expect("there is space");
    while let Some(done) = change {
        commit(store, done).await;
        change = store.compact_step().await.expect("there is space");
    }
}

#[test]
fn a_store_larger_than_the_cache_reads_and_keeps_to_its_budget() {
    cfs_sim::run(3, |world| async move {
        let disk = device();
        let (_, store, model) = filled(&world, &disk, 30_000).await;
        let cache = BlockCache::new(128 << 10);
        let config = StoreConfig::new(1 << 20, cache.clone(), 2, stem);
        let (_, store) = open_with(&world, &disk, &store.manifest(), config);
        assert!(all(&store, Timestamp::MAX, 100).await.expect("no damage") == model);
        for (key, value) in model.iter().step_by(17) {
            assert_eq!(get(&store, key, Timestamp::MAX).await.expect("no damage").as_ref(), Some(value));
        }
        assert!(cache.memory_bytes() <= 300 << 10, "{} bytes", cache.memory_bytes());
    });
}

/// Names that hash alike are searched for where there are none, and so are the extents of new files.
#[test]
fn a_search_for_a_stem_that_is_nowhere_reads_no_block() {
    cfs_sim::run(19, |world| async move {
        let disk = device();
        let (_, store) = open(&world, &disk, &Manifest::default(), 1, 1 << 20);
        let groups = |odd: u32| (0..2_000).map(move |group| group * 2 + odd);
        for group in groups(0) {
            let key: Box<[u8]> = format!("row{group:05}7").into_bytes().into();
            store.apply(vec![(key, Some(vec![1; 100].into()))], Timestamp::new(u64::from(group) + 1));
            if group % 1_000 == 0 {
                settle(&store).await;
            }
        }
        settle(&store).await;
        let config = StoreConfig::new(1 << 20, BlockCache::new(1 << 20), 2, stem);
        let (_, store) = open_with(&world, &disk, &store.manifest(), config);
        let mut pins = cfs_kv::Pins::default();
        let read = |odd: u32| {
            let mut blocks = Vec::new();
            for group in groups(odd).step_by(20) {
                let (from, to) = (format!("row{group:05}"), format!("row{:05}", group + 1));
                match store.scan(from.as_bytes(), to.as_bytes(), Timestamp::MAX, 16) {
                    Scan::Miss(fetch) => blocks.push(fetch),
                    Scan::Rows { rows, .. } => assert_eq!(rows.len(), usize::from(odd == 0), "group {group}"),
                }
            }
            blocks
        };
        // Footers and filters come first.
        for fetch in read(1) {
            pins.merge(store.fetch(&fetch).await.expect("no damage"));
        }
        let (there, nowhere) = (read(0).len(), read(1).len());
        assert!(
            there > 50 && nowhere < 5,
            "{there} of 100 searches want blocks where there is one, {nowhere} where not"
        );
    });
}

/// More tables than a root has entries: they are found again, and go one by one as before.
#[test]
fn a_store_of_more_tables_than_its_root_can_name_is_flushed_compacted_and_found_again() {
    cfs_sim::run(4, |world| async move {
        let disk = device();
        let cache = BlockCache::new(1 << 20);
        let config = StoreConfig::new(1 << 20, cache.clone(), 1, stem);
        let (space, store) = open_with(&world, &disk, &Manifest::default(), config.clone());
        let row = |n: u32, byte: u8| (Box::from(n.to_be_bytes()), Some(Rc::from([byte; 64])));
        let many = u32::try_from(ROOT_ENTRIES_MAX).expect("small") + 60;
        for n in 0..many {
            store.apply(vec![row(n, 1)], Timestamp::new(u64::from(n) + 1));
            assert!(store.freeze());
            commit(&store, store.flush().await.expect("there is space").expect("a row")).await;
        }
        let manifest = store.manifest();
        assert_eq!(manifest.tables.len(), usize::try_from(many).expect("small"));
        assert_eq!(units(&manifest), space.usage().live_units);
        let root = Root::decode(&manifest.root().encode()).expect("fits");
        assert_eq!(root.load(&space, GROUP).await.expect("no damage"), manifest);
        let (space, store) = open_with(&world, &disk, &manifest, StoreConfig { start: 2, ..config });
        assert_eq!(all(&store, Timestamp::MAX, 100).await.expect("no damage").len(), many as usize);
        while let Some(change) = store.compact_step().await.expect("there is space") {
            commit(&store, change).await;
        }
        let manifest = store.manifest();
        assert!(manifest.tables.len() < 10 && manifest.lists.is_empty(), "{manifest:?}");
        assert_eq!(units(&manifest), space.usage().live_units);
        assert_eq!(all(&store, Timestamp::MAX, 100).await.expect("no damage").len(), many as usize);
    });
}

async fn commit(store: &Store, mut change: Change) {
    store.propose(&mut change).await.expect("room in the root");
    store.install(change).expect("the cells were live");
}

#[test]
fn a_flipped_bit_gives_an_error_or_the_right_answer() {
    let (disk, manifest, model) = cfs_sim::run(5, |world| async move {
        let disk = device();
        let (_, store, model) = filled(&world, &disk, 2_000).await;
        (disk, store.manifest(), model)
    });
    let rng = Stream::new(99);
    let mut noticed = 0;
    for round in 0..400u32 {
        let table = manifest.tables[rng.index(manifest.tables.len())];
        // The head of each unit is the densest place; the rest is drawn at random.
        let bytes = u64::from(table.cell.units()) * 4096;
        let within =
            if round.is_multiple_of(2) { rng.below(bytes) } else { rng.below(bytes) / 4096 * 4096 + rng.below(64) };
        let (offset, bit) = (table.cell.offset() + within, round.to_le_bytes()[0] % 8);
        disk.flip_bit(offset, bit);
        let (disk_now, manifest, model) = (disk.clone(), manifest.clone(), model.clone());
        noticed += cfs_sim::run(u64::from(round), move |world| async move {
            let (_, store) = open(&world, &disk_now, &manifest, 2, 1 << 20);
            let mut errors = 0;
            for (key, value) in model.iter().step_by(11) {
                match get(&store, key, Timestamp::MAX).await {
                    Ok(found) => assert_eq!(found.as_ref(), Some(value)),
                    Err(KvError::Damaged { offset: at, .. }) => {
                        assert!(at <= offset && offset - at < 2 << 20, "{at} named for {offset}");
                        errors += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            match all(&store, Timestamp::MAX, 50).await {
                Ok(found) => assert!(found == model),
                Err(KvError::Damaged { .. }) => errors += 1,
                Err(error) => panic!("{error}"),
            }
            u32::from(errors > 0)
        });
        disk.flip_bit(offset, bit);
    }
    assert!(noticed > 300, "only {noticed} of 400 flips were noticed");
}

#[test]
fn reads_at_a_floor_survive_flush_and_compaction() {
    cfs_sim::run(8, |world| async move {
        let disk = device();
        let config = StoreConfig::new(32 << 10, BlockCache::new(256 << 10), 1, stem);
        let (_, store) = open_with(&world, &disk, &Manifest::default(), config);
        let rng = Stream::new(8);
        let (mut model, mut kept) = (Model::new(), None);
        for time in 1..=3000u64 {
            let (key, value) = (key(&rng), value(&rng));
            match &value {
                Some(value) => model.insert(key.clone(), value.clone()),
                None => model.remove(&key),
            };
            store.apply(vec![(key, value)], Timestamp::new(time));
            if time == 1000 {
                store.set_floor(Some(Timestamp::new(time)));
                kept = Some(model.clone());
            }
            if time.is_multiple_of(150) {
                settle(&store).await;
            }
        }
        assert!(Some(all(&store, Timestamp::new(1000), 64).await.expect("no damage")) == kept);
        assert!(all(&store, Timestamp::MAX, 64).await.expect("no damage") == model);
        store.set_floor(None);
        let before: u64 = store.stats().level_units.iter().sum();
        for time in 3001..=3600u64 {
            store.apply(vec![(key(&rng), None)], Timestamp::new(time));
            if time.is_multiple_of(100) {
                settle(&store).await;
            }
        }
        let after: u64 = store.stats().level_units.iter().sum();
        assert!(after < before, "old versions are still there: {before} units, then {after}");
    });
}

#[test]
fn a_full_device_refuses_the_flush_and_nothing_is_lost() {
    cfs_sim::run(9, |world| async move {
        let disk = device();
        let (space, store) = open(&world, &disk, &Manifest::default(), 1, 256 << 10);
        store.apply(vec![(b"a".as_slice().into(), Some(b"1".as_slice().into()))], Timestamp::new(1));
        let mut fill = Vec::new();
        let chunk = |n| cfs_segment::CellOwner::Chunk(cfs_types::ChunkId::from_raw(n));
        for n in 0.. {
            let buf = cfs_seam::IoBuf::zeroed(2 << 20);
            match space.write(chunk(n), cfs_segment::Lifetime::Relocated, buf).await {
                Ok(written) => fill.push((chunk(n), written.cell)),
                Err(error) => {
                    assert_eq!(error, cfs_segment::SpaceError::NoSpace);
                    break;
                }
            }
        }
        assert!(store.freeze());
        for _ in 0..3 {
            let refused = store.flush().await;
            assert!(matches!(refused, Err(KvError::Space(cfs_segment::SpaceError::NoSpace))));
            assert_eq!(get(&store, b"a", Timestamp::MAX).await.expect("in memory").as_deref(), Some(&b"1"[..]));
        }
        for (owner, cell) in fill.drain(..10) {
            space.retire(owner, cell).expect("live");
        }
        settle(&store).await;
        assert!(store.is_clean());
        assert_eq!(get(&store, b"a", Timestamp::MAX).await.expect("no damage").as_deref(), Some(&b"1"[..]));
    });
}
