//! Random work on one to three cores, killed at any point, opened again with another number of
//! cores, four times in a row: everything acknowledged is there, in order, and nothing else.

use crate::harness::{DEVICE_BYTES, SLOT_BYTES, formatted, record};
use crate::model::Model;
use cfs_device::{DeviceError, Superblock};
use cfs_log::{CoreLog, CorePart, Freed, GroupLog, LogError, OldStreams, Record, RecordKind, recover};
use cfs_seam::{Class, Disk, World, sleep, spawn};
use cfs_sim::{Crash, DiskFaults, NodeId, Sim, SimConfig, SimDiskId, Stream};
use cfs_types::{CoreId, GroupId, LogIndex};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const GROUPS: u16 = 7;
const LIVES: usize = 4;
const SLOTS: u64 = 48;

/// What is known of a group outside of the log.
#[derive(Default)]
struct Known {
    acked: Model,
    /// With the operation that was under way.
    maybe: Option<Model>,
    operations: u64,
}

/// What all cores of one life share.
struct Life {
    seed: u64,
    cores: u16,
    superblock: Superblock,
    random: Stream,
    known: Rc<RefCell<BTreeMap<u16, Known>>>,
    parts: RefCell<Vec<Option<CorePart>>>,
    old: RefCell<Option<OldStreams>>,
    logs: RefCell<Vec<CoreLog>>,
    gone: RefCell<Vec<GroupId>>,
    appended: Rc<RefCell<u64>>,
}

fn owner(group: u16, cores: u16) -> CoreId {
    CoreId::new(group % cores)
}

fn random_payload(random: &Stream, group: u16, operation: u64) -> Vec<u8> {
    let length = [0, 10, 300, 3000, 7000][random.index(5)];
    let mut payload = vec![u8::try_from(operation % 251).expect("small"); random.index(length + 1)];
    payload.extend(group.to_le_bytes());
    payload.extend(operation.to_le_bytes());
    payload
}

/// One operation: entries, sometimes over existing ones, local records, a state, or all of them. It
/// fits half a slot, so it is durable all or none.
fn random_operation(random: &Stream, group: u16, known: &mut Known) -> Vec<Record> {
    known.operations += 1;
    let operation = known.operations;
    let mut records = Vec::new();
    let mut index = known.acked.entry_last() + 1;
    if random.chance(150_000) {
        index = index.saturating_sub(random.below(3)).max(known.acked.entries_released + 1);
    }
    if random.chance(800_000) {
        for n in 0..random.below(4) {
            let payload = random_payload(random, group, operation);
            records.push(record(group, RecordKind::Entry, operation, index + n, payload));
        }
    }
    if random.chance(300_000) {
        let local = known.acked.local_last() + 1;
        let payload = random_payload(random, group, operation);
        records.push(record(group, RecordKind::Local, operation, local, payload));
    }
    if records.is_empty() || random.chance(300_000) {
        let payload = operation.to_le_bytes().to_vec();
        records.push(record(group, RecordKind::HardState, operation, 0, payload));
    }
    records
}

/// Finds out which of the two possible states the log has. Panics where it has neither.
fn settle(seed: u64, known: &mut BTreeMap<u16, Known>, groups: &BTreeMap<GroupId, GroupLog>) {
    let nothing = GroupLog::default();
    for (group, known) in known {
        let log = groups.get(&GroupId::new(*group)).unwrap_or(&nothing);
        match known.maybe.take() {
            Some(maybe) if maybe.matches(log) => known.acked = maybe,
            _ => assert!(known.acked.matches(log), "seed {seed} group {group}: {}", known.acked.differences(log)),
        }
    }
}

async fn run_core(world: World, disk: Rc<dyn Disk>, life: Rc<Life>, core: u16) {
    if core == 0 {
        let recovered = recover(&disk, &life.superblock).await.unwrap_or_else(|e| panic!("seed {}: {e}", life.seed));
        let groups = recovered.groups().map(|(group, log)| (group, log.clone())).collect();
        settle(life.seed, &mut life.known.borrow_mut(), &groups);
        let split = recovered.split(life.cores, |group| owner(group.get(), life.cores));
        let (old, parts) = split.unwrap_or_else(|e| panic!("seed {}: {e}", life.seed));
        *life.old.borrow_mut() = Some(old);
        *life.parts.borrow_mut() = parts.into_iter().map(Some).collect();
    }
    let part = loop {
        let part = life.parts.borrow_mut().get_mut(usize::from(core)).and_then(Option::take);
        match part {
            Some(part) => break part,
            None => sleep(&world.clock, Duration::from_micros(50)).await,
        }
    };
    let opened = CoreLog::open(&world, disk, &life.superblock, part).await;
    let (log, _) = opened.unwrap_or_else(|e| panic!("seed {} core {core}: {e}", life.seed));
    verify(&life, &log, core).await;
    life.logs.borrow_mut().push(log.clone());
    for group in (0..GROUPS).filter(|group| owner(*group, life.cores) == CoreId::new(core)) {
        let (life, log) = (life.clone(), log.clone());
        spawn(&world.tasks, Class::Foreground, work(life, log, group)).detach();
    }
    let flusher = flush_laggards(world.clone(), life.clone(), log);
    spawn(&world.tasks, Class::Background, flusher).detach();
    if core == 0 {
        free_old_streams(&world, &life).await;
    }
}

/// Every acknowledged payload can be read.
async fn verify(life: &Life, log: &CoreLog, core: u16) {
    for group in (0..GROUPS).filter(|group| owner(*group, life.cores) == CoreId::new(core)) {
        let entries = life.known.borrow().get(&group).map(|k| k.acked.entries.clone()).unwrap_or_default();
        for (index, (_, payload)) in entries {
            let read = log.read_payload(GroupId::new(group), LogIndex::new(index)).await;
            assert_eq!(read, Ok(payload), "seed {} group {group} index {index}", life.seed);
        }
    }
}

async fn work(life: Rc<Life>, log: CoreLog, group: u16) {
    loop {
        let records = {
            let mut known = life.known.borrow_mut();
            let known = known.entry(group).or_default();
            let records = random_operation(&life.random, group, known);
            let mut maybe = known.acked.clone();
            maybe.apply(&records);
            known.maybe = Some(maybe);
            records
        };
        match log.append(records).await {
            Ok(()) => {}
            Err(LogError::QueueFull) => {
                life.known.borrow_mut().get_mut(&group).expect("just made").maybe = None;
                log.wait_room().await;
                continue;
            }
            Err(error) => panic!("seed {}: {error}", life.seed),
        }
        let release = {
            let mut known = life.known.borrow_mut();
            let known = known.get_mut(&group).expect("just made");
            let mut acked = known.maybe.take().expect("just made");
            // A laggard may have been flushed meanwhile.
            acked.release(known.acked.entries_released, known.acked.locals_released);
            known.acked = acked;
            *life.appended.borrow_mut() += 1;
            life.random.chance(30_000)
        };
        if release {
            flush_group(&life, &log, GroupId::new(group));
        } else {
            read_one(&life, &log, group).await;
        }
    }
}

async fn read_one(life: &Life, log: &CoreLog, group: u16) {
    let chosen = {
        let known = life.known.borrow();
        let entries = &known[&group].acked.entries;
        let nth = life.random.index(entries.len().max(1));
        entries.iter().nth(nth).map(|(index, entry)| (*index, entry.1.clone()))
    };
    let Some((index, payload)) = chosen else { return };
    match log.read_payload(GroupId::new(group), LogIndex::new(index)).await {
        Ok(read) => assert_eq!(read, payload, "seed {}", life.seed),
        Err(LogError::NotFound { .. }) => {
            let released = life.known.borrow()[&group].acked.entries_released;
            assert!(released >= index, "seed {} group {group} index {index}", life.seed);
        }
        Err(error) => panic!("seed {}: {error}", life.seed),
    }
}

/// As if the group's own durable state covered all that was acknowledged.
fn flush_group(life: &Life, log: &CoreLog, group: GroupId) {
    let (entries, locals) = {
        let mut known = life.known.borrow_mut();
        let known = known.entry(group.get()).or_default();
        let through = (known.acked.entry_last(), known.acked.local_last());
        let through = match &known.maybe {
            // Never beyond what the operation under way may overwrite.
            Some(maybe) => {
                let changed = known.acked.entries.iter().find(|(i, e)| maybe.entries.get(i) != Some(e));
                (changed.map_or(through.0, |(i, _)| i - 1), through.1)
            }
            None => through,
        };
        known.acked.release(through.0, through.1);
        if let Some(maybe) = &mut known.maybe {
            maybe.release(through.0, through.1);
        }
        through
    };
    if log.release(group, LogIndex::new(entries), locals) {
        life.gone.borrow_mut().push(group);
    }
}

async fn flush_laggards(world: World, life: Rc<Life>, log: CoreLog) {
    loop {
        sleep(&world.clock, Duration::from_millis(3)).await;
        if log.usage().slots_free < 3 || life.random.chance(100_000) {
            for group in log.laggards() {
                flush_group(&life, &log, group);
            }
        }
    }
}

async fn free_old_streams(world: &World, life: &Life) {
    while life.logs.borrow().len() < usize::from(life.cores) {
        sleep(&world.clock, Duration::from_micros(100)).await;
    }
    let mut old = life.old.borrow_mut().take().expect("made by core 0");
    tell(life, old.settle().await);
    loop {
        let gone = std::mem::take(&mut *life.gone.borrow_mut());
        for group in gone {
            tell(life, old.release(group).await);
        }
        sleep(&world.clock, Duration::from_millis(1)).await;
    }
}

fn tell(life: &Life, freed: Result<Freed, DeviceError>) {
    let freed = freed.unwrap_or_else(|e| panic!("seed {}: {e}", life.seed));
    for log in life.logs.borrow().iter() {
        log.take_freed(&freed);
    }
}

fn start(sim: &Sim, node: NodeId, disk: SimDiskId, life: &Rc<Life>) {
    for core in 0..life.cores {
        let handle = sim.open_disk(node, disk);
        let life = life.clone();
        sim.start_core(node, core, |world| run_core(world, handle, life, core));
    }
}

/// One seed; returns how many operations were acknowledged.
fn history(seed: u64, faults: DiskFaults, steps_max: u64) -> u64 {
    let sim = Sim::new(seed, SimConfig::default());
    let disk = sim.disk(DEVICE_BYTES, faults);
    let superblock = formatted(&sim.media(disk), SLOTS);
    let known: Rc<RefCell<BTreeMap<u16, Known>>> = Rc::default();
    let appended = Rc::new(RefCell::new(0));
    let node = sim.node(3);
    for _ in 0..LIVES {
        let cores = u16::try_from(1 + sim.random().index(3)).expect("small");
        let life = Rc::new(Life {
            seed,
            cores,
            superblock,
            random: Stream::new(sim.random().next()),
            known: known.clone(),
            parts: RefCell::default(),
            old: RefCell::default(),
            logs: RefCell::default(),
            gone: RefCell::default(),
            appended: appended.clone(),
        });
        start(&sim, node, disk, &life);
        sim.run_steps(sim.random().below(steps_max));
        let crash = if sim.random().chance(700_000) { Crash::Power } else { Crash::Process };
        sim.crash(node, crash);
    }
    drop(sim);
    appended.take()
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_power_goes() {
    let total: u64 = (0..120).map(|seed| history(seed, DiskFaults::default(), 12_000)).sum();
    assert!(total > 10_000, "{total} operations prove little");
}

#[test]
fn nothing_is_lost_where_writes_go_through_the_cache_or_there_is_none() {
    for (seed, volatile_cache) in (1000..1030).zip([true, false].into_iter().cycle()) {
        history(seed, DiskFaults { fua: true, volatile_cache, ..DiskFaults::default() }, 12_000);
    }
}

#[test]
fn slots_wrap_around_many_times() {
    for seed in 2000..2004 {
        let operations = history(seed, DiskFaults::default(), 300_000);
        let area = SLOTS * SLOT_BYTES;
        assert!(operations * 2000 > 2 * area, "{operations} operations do not fill the area twice");
    }
}
