//! Space on the simulated device: cells are never shared, never lost, never misread.

use cfs_seam::{Class, IoBuf, World, sleep};
use cfs_segment::{
    CellOwner, CellRef, Floors, Lifetime, LocalRegions, Purpose, REGION_BYTES, RegionLayout, SEGMENT_UNITS,
    SEGMENTS_PER_REGION, Space, SpaceConfig, SpaceError, TableError, Written,
};
use cfs_sim::{DiskFaults, MemoryDisk, Stream};
use cfs_types::ChunkId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const FLOORS: Floors = Floors { data_segments: 6, metadata_segments: 3 };

fn device(regions: u32) -> MemoryDisk {
    cfs_sim::disk(u64::from(regions) * REGION_BYTES)
}

/// A space on all regions of the device that has claimed these cells.
fn open(world: &World, disk: &MemoryDisk, regions: u32, start: u32, claims: &BTreeMap<CellOwner, Written>) -> Space {
    let layout = RegionLayout::new(0, regions).expect("aligned");
    let grants = Rc::new(LocalRegions::new(regions, &Default::default()));
    let config = SpaceConfig { layout, floors: FLOORS, discard: true, start };
    let space = Space::new(disk.attach(world), grants.clone(), config);
    claims.iter().for_each(|(owner, written)| space.claim(*owner, written.cell).expect("claims are sound"));
    space.held_regions().into_iter().for_each(|region| grants.take(region));
    space.start();
    space
}

fn chunk(number: u64) -> CellOwner {
    CellOwner::Chunk(ChunkId::from_raw(number))
}

fn content(number: u64, len: usize) -> IoBuf {
    let stream = Stream::new(number);
    let mut buf = IoBuf::zeroed(len);
    buf.chunks_mut(97).for_each(|part| part.fill(stream.next().to_le_bytes()[0]));
    buf
}

async fn write(space: &Space, number: u64, class: Lifetime, len: usize) -> Result<Written, SpaceError> {
    space.write(chunk(number), class, content(number, len)).await
}

async fn read(space: &Space, owner: CellOwner, written: &Written) -> Result<IoBuf, SpaceError> {
    space.read(owner, written.cell, &written.checksums, 0, written.cell.units()).await
}

fn number(owner: CellOwner) -> u64 {
    match owner {
        CellOwner::Chunk(chunk) => chunk.get(),
        CellOwner::Table { .. } => panic!("only chunks are written here"),
    }
}

/// Live cells of a workload; panics where two share a unit.
#[derive(Default)]
struct Cells {
    live: BTreeMap<CellOwner, Written>,
    units: BTreeMap<u64, u64>,
    lengths: BTreeMap<CellOwner, usize>,
}

impl Cells {
    fn add(&mut self, owner: CellOwner, written: Written, len: usize) {
        let (from, end) = (written.cell.unit(), written.cell.unit() + u64::from(written.cell.units()));
        let before = self.units.range(..end).next_back().filter(|(_, e)| **e > from);
        assert!(before.is_none(), "{:?} shares units with {before:?}", written.cell);
        self.units.insert(from, end);
        self.lengths.insert(owner, len);
        self.live.insert(owner, written);
    }
    fn remove(&mut self, owner: CellOwner) -> CellRef {
        let cell = self.live.remove(&owner).expect("it lives").cell;
        self.units.remove(&cell.unit());
        self.lengths.remove(&owner);
        cell
    }
    fn total_units(&self) -> u64 {
        self.live.values().map(|w| u64::from(w.cell.units())).sum()
    }
    fn any(&self, rng: &Stream) -> Option<CellOwner> {
        (!self.live.is_empty()).then(|| *self.live.keys().nth(rng.index(self.live.len())).expect("in range"))
    }
}

fn assert_conserved(space: &Space, regions: u32, live_units: u64) {
    let usage = space.usage();
    assert_eq!(usage.total_units, u64::from(regions * SEGMENTS_PER_REGION * SEGMENT_UNITS));
    assert_eq!(usage.live_units, live_units);
    assert_eq!(usage.live_units_by_class.iter().sum::<u64>(), live_units);
    let dead = usage.garbage_units + usage.lost_units;
    assert_eq!(usage.free_units + usage.live_units + dead, usage.total_units, "{usage:?}");
}

/// Lets abandoned writes end, then the discards of what they had kept.
async fn quiet(world: &World, space: &Space) {
    for _ in 0..2 {
        sleep(&world.clock, Duration::from_millis(10)).await;
        space.sync().await.expect("a sound device");
    }
}

async fn clean(space: &Space, cells: &RefCell<Cells>) -> bool {
    let Some(victim) = space.victim(0) else { return false };
    for (owner, old) in &victim.live {
        if cells.borrow().live.get(owner).is_none_or(|w| w.cell != *old) {
            continue;
        }
        let written = cells.borrow().live[owner].clone();
        let buf = read(space, *owner, &written).await.expect("no damage");
        let moved = space.write(*owner, Lifetime::Relocated, buf).await.expect("the cleaner's reserve");
        space.sync().await.expect("a sound device");
        let len = cells.borrow().lengths.get(owner).copied();
        match len {
            Some(len) => {
                cells.borrow_mut().remove(*owner);
                cells.borrow_mut().add(*owner, moved, len);
                space.retire(*owner, *old).expect("live");
            }
            None => space.retire(*owner, moved.cell).expect("live"),
        }
    }
    true
}

struct Load {
    world: World,
    space: Space,
    cells: RefCell<Cells>,
    rng: Stream,
    next: Cell<u64>,
    ended: Cell<u32>,
}

impl Load {
    async fn step(&self) {
        let dice = self.rng.below(100);
        let victim = self.cells.borrow().any(&self.rng);
        match victim {
            Some(owner) if dice < 35 => {
                let cell = self.cells.borrow_mut().remove(owner);
                self.space.retire(owner, cell).expect("live");
            }
            Some(owner) if dice < 60 => {
                let (written, len) = {
                    let cells = self.cells.borrow();
                    (cells.live[&owner].clone(), cells.lengths[&owner])
                };
                let buf = read(&self.space, owner, &written).await.expect("no damage");
                assert!(buf[..len] == content(number(owner), len)[..], "{owner} has other bytes");
                assert!(buf[len..].iter().all(|b| *b == 0));
            }
            _ => self.write().await,
        }
    }
    async fn write(&self) {
        let number = self.next.get();
        self.next.set(number + 1);
        let len = 1 + self.rng.index(if self.rng.chance(100_000) { 2 << 20 } else { 60_000 });
        let class = Lifetime::ALL[self.rng.index(5)];
        let writing = write(&self.space, number, class, len);
        let at = self.world.clock.now().after(Duration::from_nanos(self.rng.below(2_000_000)));
        // Some writers lose their patience.
        let done = match self.rng.chance(200_000) {
            true => cfs_seam::timeout(&self.world.clock, at, writing).await,
            false => Some(writing.await),
        };
        match done {
            Some(Ok(written)) => self.cells.borrow_mut().add(chunk(number), written, len),
            Some(Err(error)) => assert_eq!(error, SpaceError::NoSpace),
            None => {}
        }
    }
}

#[test]
fn cells_never_share_a_unit_and_no_unit_is_lost() {
    const REGIONS: u32 = 2;
    for seed in 0..8 {
        cfs_sim::run(seed, move |world| async move {
            let disk = device(REGIONS);
            let mut start = 1;
            let mut claims = BTreeMap::new();
            let mut lengths = BTreeMap::new();
            while start <= 3 {
                let space = open(&world, &disk, REGIONS, start, &claims);
                let mut cells = Cells::default();
                std::mem::take(&mut claims).into_iter().for_each(|(o, w)| cells.add(o, w, lengths[&o]));
                let load = Rc::new(Load {
                    world: world.clone(),
                    space: space.clone(),
                    cells: RefCell::new(cells),
                    rng: Stream::new(seed * 10 + u64::from(start)),
                    next: Cell::new(u64::from(start) << 32),
                    ended: Cell::new(0),
                });
                for _ in 0..4 {
                    let load = load.clone();
                    let work = async move {
                        for _ in 0..150 {
                            load.step().await;
                        }
                        load.ended.set(load.ended.get() + 1);
                    };
                    cfs_seam::spawn(&world.tasks, Class::Foreground, work).detach();
                }
                while load.ended.get() < 4 {
                    clean(&space, &load.cells).await;
                    space.seal_idle().await.expect("a sound device");
                    sleep(&world.clock, Duration::from_millis(1)).await;
                }
                quiet(&world, &space).await;
                assert_conserved(&space, REGIONS, load.cells.borrow().total_units());
                let cells = load.cells.take();
                (claims, lengths) = (cells.live, cells.lengths);
                start += 1;
            }
        });
    }
}

#[test]
fn a_device_fills_up_and_recovers_many_times() {
    const REGIONS: u32 = 1;
    cfs_sim::run(4, |world| async move {
        let disk = device(REGIONS);
        let space = open(&world, &disk, REGIONS, 1, &BTreeMap::new());
        let (cells, rng, mut next) = (RefCell::new(Cells::default()), Stream::new(4), 0);
        for round in 0..12 {
            let mut written_units = 0;
            loop {
                next += 1;
                let len = 300_000 + rng.index(200_000);
                match write(&space, next, Lifetime::Hot, len).await {
                    Ok(written) => cells.borrow_mut().add(chunk(next), written, len),
                    Err(error) => {
                        assert_eq!(error, SpaceError::NoSpace);
                        break;
                    }
                }
                written_units += len / 4096;
            }
            assert!(written_units > 3000, "round {round}: only {written_units} units were written");
            assert!(space.reserve(Purpose::Data, 1).is_none());
            // Tables are still accepted, then only the cleaner is.
            next += 1;
            let small = write(&space, next, Lifetime::Metadata, 4096).await.expect("the reserve of tables");
            cells.borrow_mut().add(chunk(next), small, 4096);
            // Deleting every other cell leaves holes that only cleaning turns into free segments.
            let doomed: Vec<_> = cells.borrow().live.keys().copied().filter(|_| rng.chance(600_000)).collect();
            for owner in doomed {
                let cell = cells.borrow_mut().remove(owner);
                space.retire(owner, cell).expect("live");
            }
            space.seal_all().await.expect("a sound device");
            for _ in 0..60 {
                clean(&space, &cells).await;
            }
            quiet(&world, &space).await;
            assert_conserved(&space, REGIONS, cells.borrow().total_units());
        }
    });
}

#[test]
fn a_reader_keeps_its_segment_while_it_is_retired_and_wanted_again() {
    for seed in 0..6 {
        cfs_sim::run(seed, |world| async move {
            let disk = device(1);
            let space = open(&world, &disk, 1, 1, &BTreeMap::new());
            let full = write(&space, 1, Lifetime::Cold, 2 << 20).await.expect("space");
            space.seal_all().await.expect("a sound device");
            let reading = space.read(chunk(1), full.cell, &full.checksums, 0, SEGMENT_UNITS);
            space.retire(chunk(1), full.cell).expect("live");
            for number in 2..20 {
                let other = write(&space, number, Lifetime::Cold, 2 << 20).await.expect("space");
                assert_ne!(other.cell, full.cell, "handed out while it is read");
            }
            assert!(reading.await.expect("the bytes are still there")[..] == content(1, 2 << 20)[..]);
            quiet(&world, &space).await;
            assert_eq!(
                space.retire(chunk(1), full.cell),
                Err(SpaceError::NotLive { owner: chunk(1), cell: full.cell })
            );
            assert_conserved(&space, 1, 18 * u64::from(SEGMENT_UNITS));
        });
    }
}

#[test]
fn synced_cells_survive_a_power_cut() {
    for seed in 0..40 {
        cfs_sim::run(seed, move |world| async move {
            let disk = device(1);
            let space = open(&world, &disk, 1, 1, &BTreeMap::new());
            let rng = Stream::new(seed);
            let mut written = BTreeMap::new();
            for number in 0..rng.below(30) + 1 {
                let cell = write(&space, number, Lifetime::Hot, 1 + rng.index(100_000)).await.expect("space");
                written.insert(chunk(number), cell);
            }
            space.sync().await.expect("a sound device");
            let after = disk.crash(seed);
            let space = open(&world, &after, 1, 2, &written);
            for (owner, cell) in &written {
                read(&space, *owner, cell).await.expect("it was durable");
            }
        });
    }
}

#[test]
fn many_waiters_share_few_flushes() {
    cfs_sim::run(6, |world| async move {
        let disk = device(1);
        let space = open(&world, &disk, 1, 1, &BTreeMap::new());
        let ended = Rc::new(Cell::new(0u64));
        for number in 0..100 {
            let (space, ended) = (space.clone(), ended.clone());
            let work = async move {
                write(&space, number, Lifetime::Hot, 4096).await.expect("space");
                space.sync().await.expect("a sound device");
                ended.set(ended.get() + 1);
            };
            let task = cfs_seam::spawn(&world.tasks, Class::Foreground, work);
            // Some waiters go away; the others must not wait for them.
            if number % 10 == 3 {
                let clock = world.clock.clone();
                let drop_it = async move {
                    sleep(&clock, Duration::from_micros(400 + number)).await;
                    drop(task);
                };
                cfs_seam::spawn(&world.tasks, Class::Foreground, drop_it).detach();
            } else {
                task.detach();
            }
        }
        while ended.get() < 90 {
            sleep(&world.clock, Duration::from_millis(1)).await;
        }
        // 100 writes, one region header, and the flushes.
        assert!(disk.operations() < 130, "{} operations", disk.operations());
    });
}

#[test]
fn a_waiter_that_goes_away_does_not_strand_the_others() {
    cfs_sim::run(12, |world| async move {
        let disk = device(1);
        let space = open(&world, &disk, 1, 1, &BTreeMap::new());
        write(&space, 1, Lifetime::Hot, 4096).await.expect("space");
        disk.set_faults(DiskFaults { latency_ns: (50_000_000, 50_000_000), ..DiskFaults::default() });
        let ended = Rc::new(Cell::new(false));
        let sync = |ended: Rc<Cell<bool>>| {
            let space = space.clone();
            let work = async move {
                space.sync().await.expect("a sound device");
                ended.set(true);
            };
            cfs_seam::spawn(&world.tasks, Class::Foreground, work)
        };
        sync(ended.clone()).detach();
        sleep(&world.clock, Duration::from_millis(1)).await;
        let last = sync(Rc::default());
        sleep(&world.clock, Duration::from_millis(1)).await;
        drop(last);
        sleep(&world.clock, Duration::from_millis(100)).await;
        assert!(ended.get(), "the flush was over, but nobody was woken");
    });
}

#[test]
fn after_a_failed_flush_nothing_more_is_written() {
    cfs_sim::run(7, |world| async move {
        let disk = device(1);
        let space = open(&world, &disk, 1, 1, &BTreeMap::new());
        let before = write(&space, 1, Lifetime::Hot, 4096).await.expect("space");
        space.sync().await.expect("a sound device");
        write(&space, 2, Lifetime::Hot, 4096).await.expect("space");
        disk.fail_flushes(1);
        assert!(matches!(space.sync().await, Err(SpaceError::Failed(_))));
        assert!(matches!(space.sync().await, Err(SpaceError::Failed(_))));
        assert!(matches!(write(&space, 3, Lifetime::Hot, 4096).await, Err(SpaceError::Failed(_))));
        read(&space, chunk(1), &before).await.expect("what was durable can be read");
    });
}

#[test]
fn damage_and_misplaced_bytes_are_named() {
    cfs_sim::run(8, |world| async move {
        let disk = device(1);
        let space = open(&world, &disk, 1, 1, &BTreeMap::new());
        let a = write(&space, 1, Lifetime::Hot, 20_000).await.expect("space");
        let b = write(&space, 2, Lifetime::Hot, 20_000).await.expect("space");
        let (sum, at) = (a.checksums[2..3].to_vec(), a.cell.offset() + 2 * 4096);
        disk.flip_bit(at + 77, 3);
        let one = space.read(chunk(1), a.cell, &sum, 2, 1).await;
        assert_eq!(one.map(|_| ()), Err(SpaceError::Damaged { owner: chunk(1), offset: at }));
        space.read(chunk(1), a.cell, &a.checksums[3..], 3, 2).await.expect("the other units are sound");
        // Another owner's block in the right place has a good checksum, but not this one.
        disk.poke(b.cell.offset(), &disk.peek(a.cell.offset(), 4096));
        let other = read(&space, chunk(2), &b).await.map(|_| ());
        assert_eq!(other, Err(SpaceError::Damaged { owner: chunk(2), offset: b.cell.offset() }));
        let beyond = space.read(chunk(1), a.cell, &sum, 5, 1).await.map(|_| ());
        assert_eq!(beyond, Err(SpaceError::OutOfBounds { owner: chunk(1), cell: a.cell }));
    });
}

#[test]
fn a_sealed_segment_has_a_table_of_all_its_cells() {
    cfs_sim::run(9, |world| async move {
        let disk = device(1);
        let space = open(&world, &disk, 1, 5, &BTreeMap::new());
        let written: Vec<_> = [write(&space, 1, Lifetime::Cold, 5000).await, write(&space, 2, Lifetime::Cold, 1).await]
            .into_iter()
            .map(|w| w.expect("space"))
            .collect();
        let (segment, _) = space.layout().locate(written[0].cell).expect("inside");
        assert_eq!(space.read_table(segment).await.expect("readable"), Err(TableError::Absent));
        space.seal_idle().await.expect("a sound device");
        assert_eq!(space.read_table(segment).await.expect("readable"), Err(TableError::Absent), "it was in use");
        space.seal_idle().await.expect("a sound device");
        let table = space.read_table(segment).await.expect("readable").expect("sealed");
        let entries: Vec<_> = table.entries.iter().map(|e| (e.owner, e.at, e.checksums.clone())).collect();
        let expected = [(chunk(1), 0, written[0].checksums.clone()), (chunk(2), 2, written[1].checksums.clone())];
        assert_eq!(entries, expected);
        assert_eq!((table.class, table.generation >> 32), (Lifetime::Cold, 5));
        let header = space.read_region_header(segment.region()).await.expect("readable");
        assert_eq!(header.map(|h| h.region), Ok(segment.region()));
    });
}

#[test]
fn claims_that_overlap_or_lie_outside_are_refused() {
    cfs_sim::run(10, |world| async move {
        let layout = RegionLayout::new(0, 1).expect("aligned");
        let grants = Rc::new(LocalRegions::new(1, &Default::default()));
        let config = SpaceConfig { layout, floors: FLOORS, discard: false, start: 1 };
        let space = Space::new(device(1).attach(&world), grants, config);
        let cell = |unit, units| CellRef::new(unit, units).expect("in range");
        space.claim(chunk(1), cell(20, 4)).expect("free");
        space.claim(chunk(2), cell(24, 4)).expect("free");
        for overlap in [cell(20, 4), cell(18, 3), cell(22, 1), cell(27, 2), cell(16, 40)] {
            assert!(matches!(space.claim(chunk(3), overlap), Err(SpaceError::Overlap { .. })), "{overlap:?}");
        }
        for outside in [cell(0, 1), cell(526, 4), cell(1 << 40, 1)] {
            assert!(matches!(space.claim(chunk(3), outside), Err(SpaceError::OutOfBounds { .. })), "{outside:?}");
        }
        assert_eq!(space.usage().live_units, 8);
    });
}

#[test]
fn a_victim_that_could_not_be_cleaned_lets_others_go_first() {
    cfs_sim::run(14, |world| async move {
        let space = open(&world, &device(1), 1, 1, &BTreeMap::new());
        for number in 0..4 {
            let kept = write(&space, 2 * number, Lifetime::Cold, 1 << 20).await.expect("space");
            let gone = write(&space, 2 * number + 1, Lifetime::Cold, 1 << 20).await.expect("space");
            space.seal_all().await.expect("a sound device");
            space.retire(chunk(2 * number + 1), gone.cell).expect("live");
            assert_eq!(space.layout().locate(kept.cell).map(|l| l.0), space.layout().locate(gone.cell).map(|l| l.0));
        }
        let first = space.victim(0).expect("half of it is garbage").segment;
        let second = space.victim(0).expect("half of it is garbage");
        assert_ne!(second.segment, first);
        assert_eq!(second.live.len(), 1);
        let both = (space.victim(0), space.victim(0));
        assert!(both.0.is_some_and(|v| v.segment != second.segment) && both.1.is_some());
    });
}

#[test]
fn what_is_left_over_behind_long_cells_is_no_gain() {
    cfs_sim::run(15, |world| async move {
        let space = open(&world, &device(1), 1, 1, &BTreeMap::new());
        for number in 0..4 {
            write(&space, number, Lifetime::Relocated, 1900 << 10).await.expect("space");
        }
        space.seal_all().await.expect("a sound device");
        assert_conserved(&space, 1, 4 * 475);
        let usage = space.usage();
        assert_eq!((usage.garbage_units, usage.lost_units), (0, 4 * 37));
        assert!(space.victim(0).is_none(), "moved, they would leave as much over");
        let short = write(&space, 9, Lifetime::Cold, 100 << 10).await.expect("space");
        space.seal_all().await.expect("a sound device");
        let victim = space.victim(0).expect("others fit behind it").segment;
        assert_eq!(space.layout().locate(short.cell).map(|l| l.0), Some(victim));
    });
}

#[test]
fn free_regions_are_given_back_and_granted_again() {
    const REGIONS: u32 = 4;
    cfs_sim::run(13, |world| async move {
        let disk = device(REGIONS);
        let space = open(&world, &disk, REGIONS, 1, &BTreeMap::new());
        for round in 0..2u64 {
            let mut cells = Vec::new();
            for number in 0..u64::from(REGIONS * SEGMENTS_PER_REGION - FLOORS.data_segments) {
                let owner = round * 1000 + number;
                cells.push((chunk(owner), write(&space, owner, Lifetime::Cold, 2 << 20).await.expect("space").cell));
            }
            assert_eq!(space.held_regions().len(), 4);
            space.seal_all().await.expect("a sound device");
            cells.into_iter().for_each(|(owner, cell)| space.retire(owner, cell).expect("live"));
            quiet(&world, &space).await;
            assert!(space.held_regions().len() <= 2, "{:?}", space.held_regions());
            assert_conserved(&space, REGIONS, 0);
        }
    });
}

#[test]
fn a_region_is_emptied_for_another_core_and_nothing_new_goes_there() {
    const REGIONS: u32 = 3;
    cfs_sim::run(17, |world| async move {
        let disk = device(REGIONS);
        let space = open(&world, &disk, REGIONS, 1, &BTreeMap::new());
        let mut cells = Vec::new();
        for number in 0..u64::from(REGIONS * SEGMENTS_PER_REGION - FLOORS.data_segments) {
            let owner = chunk(number);
            cells.push((owner, write(&space, number, Lifetime::Cold, 2 << 20).await.expect("space")));
        }
        assert!(space.vacate(0).await.expect("a sound device").is_none(), "there is no room for what lives");
        let (kept, doomed): (Vec<_>, Vec<_>) =
            cells.into_iter().partition(|(owner, _)| number(*owner).is_multiple_of(5));
        doomed.iter().for_each(|(owner, written)| space.retire(*owner, written.cell).expect("live"));
        quiet(&world, &space).await;
        let live_units = u64::try_from(kept.len()).expect("few") * u64::from(SEGMENT_UNITS);
        let promised = space.usage().free_units / 4 * 3;
        assert!(space.vacate(promised).await.expect("a sound device").is_none(), "so much could not be written then");
        // Dropped, it is in use again.
        drop(space.vacate(0).await.expect("a sound device").expect("most is free"));
        assert_conserved(&space, REGIONS, live_units);

        let leaving = space.vacate(0).await.expect("a sound device").expect("most is free");
        let live = leaving.live();
        let mut moved = Vec::new();
        for (owner, cell) in &live {
            let (_, written) = kept.iter().find(|(_, written)| written.cell == *cell).expect("a kept one");
            let buf = read(&space, *owner, written).await.expect("no damage");
            moved.push((*owner, space.write(*owner, Lifetime::Relocated, buf).await.expect("space")));
            space.retire(*owner, *cell).expect("live");
        }
        let left = leaving.left().await;
        assert!(!live.is_empty() && !space.held_regions().contains(&left));
        let in_it = |written: &Written| space.layout().locate(written.cell).is_some_and(|(s, _)| s.region() == left);
        for (owner, written) in moved.iter().chain(kept.iter().filter(|(owner, _)| live.iter().all(|l| l.0 != *owner)))
        {
            assert!(!in_it(written));
            read(&space, *owner, written).await.expect("no damage");
        }
        for number in 1000.. {
            let Ok(written) = write(&space, number, Lifetime::Hot, 1 << 20).await else { break };
            assert!(!in_it(&written), "{:?} is in a region that is no longer held", written.cell);
        }
    });
}

#[test]
fn reservations_hold_space_back_until_they_are_dropped() {
    cfs_sim::run(11, |world| async move {
        let space = open(&world, &device(1), 1, 1, &BTreeMap::new());
        let all = u64::from((SEGMENTS_PER_REGION - FLOORS.data_segments) * SEGMENT_UNITS);
        let held = space.reserve(Purpose::Data, all - 10).expect("it is free");
        assert!(space.reserve(Purpose::Data, 11).is_none());
        assert!(space.reserve(Purpose::Metadata, 11).is_some());
        assert_eq!((space.usage().reserved_units, held.units()), (all - 10, all - 10));
        drop(held);
        assert!(space.reserve(Purpose::Data, all).is_some());
    });
}
