//! A store of several devices: histories on one, and devices that are added while clients write, with the power cut
//! at each step of that.

use crate::history::{Announce, ME, name, run};
use crate::images::fill;
use crate::seeds::{plan, run_all, seeds, sum_up};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_device::{DeviceError, Joining, Roles, SUPERBLOCK_COPIES_AT, Uuid, admit_member, prepare_member, read_list};
use cfs_seam::{Disk, DiskError, DiskUsage, Durability, Geometry, Io, IoBuf, IoDone, Lifetime, World, io, sleep};
use cfs_sim::{Crash, DiskFaults, MemoryDisk, SimDiskId, Stream};
use cfs_types::{FsError, InodeId};
use cfs_volume::{Creation, Lookup, OpenFlags, Volume, WriteFlags};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Histories that CI runs, of the first kind and of the second.
const SEEDS: u64 = 32;
const ADD_SEEDS: u64 = 48;
/// Of so many of the second kind one fills both devices.
const FULL_EACH: u64 = 6;
/// Bytes of the further device: three regions.
pub const OTHER_BYTES: u64 = 256 << 20;
/// Where its first region begins.
const OTHER_REGIONS_AT: u64 = 64 << 20;
/// Files of 256 KiB that leave little room on two small devices.
const BALLAST_FILES: u32 = 1150;
/// Operations of a device that joins, about: most of them look whether it is blank.
const JOIN_OPERATIONS: u64 = 80;
/// Decisions from there to the cut, at most.
const STEPS_MAX: u64 = 400;
pub const FILE_BYTES: usize = 256 << 10;
const FILE_BYTES_U32: u32 = 256 << 10;

pub fn setup() -> Setup {
    Setup { cores_max: 2, ..Setup::small_device() }
}

/// A device, and one that has joined it.
pub fn two(setup: &Setup) -> (MemoryDisk, MemoryDisk) {
    let (first, other) = (formatted(setup), MemoryDisk::new(OTHER_BYTES, setup.faults, 2));
    let (one, two): (Rc<dyn Disk>, MemoryDisk) = (Rc::new(first.clone()), other.clone());
    cfs_sim::run(1, |_| async move {
        let superblock = cfs_device::open(&*one).await.expect("a store");
        let list = read_list(&one, &superblock).await.expect("a sound device");
        let joining =
            Joining { device: Uuid::new([9; 16]), roles: Roles::ALL_BUT_LOG, force: false, seen_at: Vec::new() };
        let joined = prepare_member(&superblock, &list, &two, &joining).await.expect("a sound device");
        admit_member(&one, &superblock, &joined).await.expect("a sound device");
    });
    (first, other)
}

pub fn stage_of(seed: u64, setup: Setup, (first, other): &(MemoryDisk, MemoryDisk)) -> Stage {
    let stage = Stage::new(seed, setup, first);
    let other = stage.sim.copy_disk(other);
    stage.others.borrow_mut().push(other);
    stage
}

/// Both so full, half of it with what is no longer needed, that the cleaner has to work.
pub fn crowded() -> (MemoryDisk, MemoryDisk) {
    let stage = stage_of(1, setup(), &two(&setup()));
    stage.start(1);
    stage.client(|_, volume| async move {
        fill(&volume, BALLAST_FILES).await;
        volume.shutdown().await.expect("a clean end");
    });
    stage.stop();
    let other = stage.sim.media(stage.others.borrow()[0]);
    let header = other.peek(OTHER_REGIONS_AT, 4096);
    assert!(header.iter().any(|byte| *byte != 0), "the further device is written to");
    (stage.device(), other)
}

#[test]
fn histories_on_two_devices_agree_with_the_reference() {
    let total = sum_up(seeds(SEEDS), crowded, |seed, image| {
        let stage = stage_of(seed, setup(), image);
        run(seed, plan(seed), &stage)
    });
    assert!(total.cleaned_bytes > 0, "the cleaner works: {total:?}");
}

/// Files that were written and said to be durable.
pub type Written = Rc<RefCell<Vec<u32>>>;

pub fn bytes_of(file: u32) -> Vec<u8> {
    vec![file.to_le_bytes()[0] | 1; FILE_BYTES]
}

/// Writes files, each durable, until the store is full.
pub async fn write_files(volume: Rc<Volume>, files: Range<u32>, written: Written) -> Result<(), FsError> {
    let flags = OpenFlags { write: true, direct: true, ..OpenFlags::default() };
    let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags };
    for file in files {
        let (_, handle) = volume.create(&ME, InodeId::ROOT, &name(&format!("{file}")), &how).await?;
        let done = volume.write(handle, 0, &bytes_of(file), WriteFlags::default()).await;
        let synced = volume.fsync(handle).await;
        volume.release(handle);
        done?;
        synced?;
        written.borrow_mut().push(file);
    }
    Ok(())
}

pub async fn read_files(world: World, volume: Rc<Volume>, files: Vec<u32>) {
    let flags = OpenFlags { direct: true, ..OpenFlags::default() };
    for file in files {
        let Ok(Lookup::Found(found)) = volume.lookup(&ME, InodeId::ROOT, &name(&format!("{file}"))).await else {
            panic!("file {file} is gone");
        };
        let handle = volume.open(&ME, found.attr.ino, flags).await.expect("opened");
        let read = volume.read(handle, 0, FILE_BYTES_U32).await.expect("read");
        assert!(read[..] == bytes_of(file)[..], "file {file}");
        volume.release(handle);
    }
    sleep(&world.clock, Duration::from_millis(1)).await;
    volume.shutdown().await.expect("a clean end");
}

/// What the first device says of the other one.
fn is_listed(stage: &Stage) -> (bool, bool) {
    let device: Rc<dyn Disk> = Rc::new(stage.device());
    cfs_sim::run(1, |_| async move {
        let superblock = cfs_device::recover(&*device).await.expect("a sound device").0;
        let list = read_list(&device, &superblock).await.expect("a sound device");
        (superblock.place.is_some(), list.members.len() > 1)
    })
}

/// Writes some more files, or as many as there is room for.
fn write_more(stage: &Stage, until_full: bool, written: &Written) {
    let (files, names) = (written.clone(), 100_000..if until_full { u32::MAX } else { 100_040 });
    let end = stage.client(move |_, volume| async move {
        let end = write_files(volume.clone(), names, files).await;
        let _refused = volume.shutdown().await;
        end
    });
    assert_eq!(end, if until_full { Err(FsError::NoSpace) } else { Ok(()) });
}

/// Adds a device under a client that writes, cuts the power at some point of it, and adds it again where it was not
/// in the list by then. Whether the first device knew of a pool, and whether of the other device.
fn add_and_cut(seed: u64, image: &MemoryDisk) -> (bool, bool) {
    let (_announce, chance) = (Announce(seed), Stream::new(seed ^ 0x706f_6f6c));
    let stage = Stage::new(seed, setup(), image);
    stage.start(1 + u16::try_from(chance.below(2)).expect("small"));
    let written = Written::default();
    let (files, other): (_, SimDiskId) = (written.clone(), stage.sim.disk(OTHER_BYTES, DiskFaults::default()));
    let _client = stage.begin_client(stage.options(), move |_, volume| write_files(volume, 0..100_000, files));
    stage.sim.run_until(LIMIT, || written.borrow().len() > 4);
    let added = stage.begin_add(other, false);
    let wanted = match chance.below(3) {
        0 => chance.below(JOIN_OPERATIONS),
        _ => JOIN_OPERATIONS - 6 + chance.below(12),
    };
    let media = stage.sim.media(other);
    let there = || media.operations() >= wanted || added.lock().expect("not poisoned").is_some();
    assert!(stage.sim.run_until(LIMIT, there), "it does not join");
    stage.sim.run_steps(chance.below(STEPS_MAX));
    let answered = added.lock().expect("not poisoned").is_some();
    stage.say(&format!("cut after {} operations of the other device; answered: {answered}", media.operations()));
    stage.crash(if chance.below(4) == 0 { Crash::Process } else { Crash::Power });
    stage.others.borrow_mut().push(other);
    let (is_pool, is_listed) = is_listed(&stage);
    assert!(is_listed || !answered, "what was answered is there");
    assert!(is_pool || !is_listed);
    let report = stage.check();
    assert!(report.is_sound(), "{report}");

    stage.start(1 + u16::try_from(chance.below(2)).expect("small"));
    if !is_listed {
        let again = stage.begin_add(other, true);
        assert!(stage.sim.run_until(LIMIT, || again.lock().expect("not poisoned").is_some()));
        let result = again.lock().expect("not poisoned").take();
        assert!(matches!(result, Some(Ok(_))), "{result:?}");
    }
    let until_full = seed.is_multiple_of(FULL_EACH);
    write_more(&stage, until_full, &written);
    let bytes = written.borrow().len() * FILE_BYTES;
    assert!(!until_full || bytes > 190 << 20, "{} MiB fit on both, 162 on one", bytes >> 20);
    let files = written.borrow().clone();
    stage.client(move |world, volume| read_files(world, volume, files));
    stage.stop();
    let report = stage.check();
    assert!(report.is_sound(), "{report}");
    (is_pool, is_listed)
}

#[test]
fn a_device_that_joins_while_clients_write_is_in_or_out_wherever_the_power_is_cut() {
    let seeds = seeds(ADD_SEEDS);
    let (results, failed) = run_all(seeds.clone(), 4, || formatted(&setup()), add_and_cut);
    assert!(failed.is_empty(), "wrong histories of seeds {failed:?}");
    let count = |what| results.iter().filter(|result| **result == what).count();
    let counts = [count((false, false)), count((true, false)), count((true, true))];
    println!("left alone, known as a pool only, in the list: {counts:?}");
    if seeds.end - seeds.start >= ADD_SEEDS {
        assert!(counts.iter().all(|count| *count > 0), "cuts at each step: {counts:?}");
    }
}

#[test]
fn without_one_of_its_devices_a_store_does_not_start() {
    let stage = Stage::new(7, setup(), &two(&setup()).0);
    let ready = stage.launch(1);
    assert!(stage.await_end(LIMIT) && !ready.get());
    let ended = stage.ended.borrow().clone();
    assert!(matches!(&ended[..], [(0, Err(why))] if why.contains("device 1") && why.contains("missing")), "{ended:?}");
}

/// What two cores do to the superblock of one device: the second core fails as soon as the first one writes there, and
/// is done with its mark before that write goes on.
#[derive(Default)]
struct Crossing {
    opened: Cell<u32>,
    fails: Cell<bool>,
    is_marked: Cell<bool>,
    held: RefCell<Option<Box<dyn FnOnce()>>>,
}

struct Crossed {
    disk: Rc<dyn Disk>,
    is_second: bool,
    crossing: Rc<Crossing>,
}

impl Disk for Crossed {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        self.disk.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        let (crossing, is_mark) = (self.crossing.clone(), SUPERBLOCK_COPIES_AT.contains(&offset));
        if self.is_second && crossing.fails.get() && !is_mark {
            return Io::ready(IoDone { result: Err(DiskError::Device(5)), buf });
        }
        if self.is_second && offset == SUPERBLOCK_COPIES_AT[1] {
            return self.disk.write(offset, buf, durability, lifetime).on_done(move |_| {
                crossing.is_marked.set(true);
                crossing.held.take().into_iter().for_each(|write| write());
            });
        }
        if self.is_second || !is_mark || crossing.is_marked.get() {
            return self.disk.write(offset, buf, durability, lifetime);
        }
        crossing.fails.set(true);
        let (disk, (promise, done)) = (self.disk.clone(), io());
        *crossing.held.borrow_mut() = Some(Box::new(move || {
            // The hook outlives the future.
            drop(disk.write(offset, buf, durability, lifetime).on_done(move |_| {
                promise.complete(IoDone { result: Ok(()), buf: IoBuf::zeroed(0) });
            }));
        }));
        done
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.disk.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.disk.discard(offset, bytes)
    }
    fn usage(&self) -> DiskUsage {
        self.disk.usage()
    }
}

#[test]
fn a_core_that_fails_while_a_device_joins_leaves_the_store_out_of_service() {
    let crossing = Rc::new(Crossing::default());
    let shared = crossing.clone();
    let stage = Stage::new(3, setup(), &formatted(&setup())).with_disks(move |disk| {
        // The first two are the first device, as each core has it.
        let opened = shared.opened.replace(shared.opened.get() + 1);
        match opened {
            0 | 1 => Rc::new(Crossed { disk, is_second: opened == 1, crossing: shared.clone() }),
            _ => disk,
        }
    });
    stage.start(2);
    let written = Written::default();
    let files = written.clone();
    let _client = stage.begin_client(stage.options(), move |_, volume| write_files(volume, 0..100_000, files));
    stage.sim.run_until(LIMIT, || written.borrow().len() > 4);
    let other = stage.sim.disk(OTHER_BYTES, DiskFaults::default());
    let _added = stage.begin_add(other, false);
    assert!(stage.await_end(LIMIT), "it does not stop");
    assert!(crossing.is_marked.get() && crossing.held.borrow().is_none(), "the writes have crossed");
    stage.crash(Crash::Power);
    let device = stage.device();
    let found = cfs_sim::run(1, |_| async move { cfs_device::recover(&device).await.map(drop) });
    assert_eq!(found, Err(DeviceError::OutOfService));
}
