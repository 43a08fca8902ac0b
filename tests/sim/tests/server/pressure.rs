//! Load that fills the log, its entries and the count of small writes.

use crate::history::new_file;
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_device::{AnchorId, Anchors, DeviceError, Superblock};
use cfs_seam::{Class, Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime, World, io, spawn};
use cfs_sim::{Crash, DiskFaults};
use cfs_types::{GroupId, InodeId, Name, RANGE_BYTES, ShardId};
use cfs_volume::{Lookup, OpenFlags, Volume, WriteFlags};
use cfs_wire::Identity;
use std::cell::Cell;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;

const ROOT: InodeId = InodeId::ROOT;
/// Linux' number.
const EIO: i32 = 5;
const SMALL_WRITE: usize = 64 << 10;

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

pub async fn open_new(volume: &Volume, text: &str) -> cfs_volume::Handle {
    volume.create(&Identity::default(), ROOT, &name(text), &new_file()).await.expect("created").1
}

async fn write_durably(volume: &Volume, handle: cfs_volume::Handle, at: u64, bytes: &[u8]) {
    assert_eq!(volume.write(handle, at, bytes, WriteFlags::default()).await, Ok(bytes.len()));
    volume.fsync(handle).await.expect("durable");
}

/// The first 2 MiB of a file of the root directory.
async fn read_named(volume: &Volume, text: &str) -> Vec<u8> {
    let found = volume.lookup(&Identity::default(), ROOT, &name(text)).await;
    let Ok(Lookup::Found(entry)) = found else { panic!("{text}: {found:?}") };
    let handle = volume.open(&Identity::default(), entry.attr.ino, OpenFlags::default()).await.expect("opened");
    let bytes = volume.read(handle, 0, 2 << 20).await.expect("read");
    volume.release(handle);
    bytes.to_vec()
}

/// `count` of them at the same time; ends the session when all have.
async fn all_at_once<F: Future<Output = ()> + 'static>(
    (world, volume): (World, Rc<Volume>),
    count: u8,
    work: impl Fn(u8, Rc<Volume>) -> F,
) {
    let mut all = Vec::new();
    for i in 0..count {
        let (done, ended) = io();
        let work = work(i, volume.clone());
        let work = async move {
            work.await;
            done.complete(());
        };
        spawn(&world.tasks, Class::Foreground, work).detach();
        all.push(ended);
    }
    for ended in all {
        ended.await;
    }
    volume.shutdown().await.expect("a clean end");
}

/// Many files of one directory, so of one shard, written at the same time.
async fn write_together(world: World, volume: Rc<Volume>, bytes: usize, rounds: u64) {
    let work = move |i, volume: Rc<Volume>| async move {
        let handle = open_new(&volume, &format!("f{i}")).await;
        for at in 0..rounds {
            write_durably(&volume, handle, at * bytes as u64, &vec![i; bytes]).await;
        }
        volume.release(handle);
    };
    all_at_once((world, volume), 40, work).await;
}

#[test]
fn writes_that_wait_together_fit_into_the_log() {
    let setup = Setup { log_slot_bytes: 256 << 10, ..Setup::default() };
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(1);
    stage.client(|world, volume| write_together(world, volume, SMALL_WRITE, 4));
    stage.stop();
}

#[test]
fn writers_faster_than_the_upkeep_wait_for_the_log() {
    let setup = Setup { log_slot_bytes: 256 << 10, log_bytes: 6 << 20, ..Setup::default() };
    let stage = Stage::new(3, setup, &formatted(&setup));
    stage.start(1);
    stage.client(|world, volume| write_together(world, volume, 32 << 10, 60));
    stage.stop();
    stage.start(1);
    stage.client(check_together);
    stage.stop();
}

/// Small writes to the second range of many files: they ride in two cores' logs.
async fn write_across(world: World, volume: Rc<Volume>) {
    let work = |i, volume: Rc<Volume>| async move {
        let handle = open_new(&volume, &format!("f{i}")).await;
        for round in 0..20 {
            let at = RANGE_BYTES + round * SMALL_WRITE as u64;
            let flags = WriteFlags { sync: true, ..WriteFlags::default() };
            assert_eq!(volume.write(handle, at, &vec![i; SMALL_WRITE], flags).await, Ok(SMALL_WRITE));
        }
        volume.release(handle);
    };
    all_at_once((world, volume), 64, work).await;
}

#[test]
fn what_changes_have_other_cores_do_leaves_room_in_their_logs() {
    let setup = Setup { log_slot_bytes: 256 << 10, log_bytes: 5 << 20, ..Setup::default() };
    let stage = Stage::new(5, setup, &formatted(&setup));
    stage.start(2);
    stage.client(write_across);
    stage.stop();
}

/// Files of a few bytes, made by many at once: the log is full of small writes whose packing takes a
/// good part of the room that they take.
async fn make_tiny(world: World, volume: Rc<Volume>, rounds: u32) {
    let work = move |maker, volume: Rc<Volume>| async move {
        for round in 0..rounds {
            let handle = open_new(&volume, &format!("{maker}-{round}")).await;
            write_durably(&volume, handle, 0, &round.to_le_bytes()).await;
            volume.release(handle);
        }
    };
    all_at_once((world, volume), 64, work).await;
}

async fn check_tiny(_world: World, volume: Rc<Volume>, rounds: u32) {
    for maker in 0..64 {
        for round in 0..rounds {
            assert_eq!(read_named(&volume, &format!("{maker}-{round}")).await, round.to_le_bytes());
        }
    }
    volume.shutdown().await.expect("a clean end");
}

#[test]
fn a_log_full_of_tiny_writes_comes_free_without_room_for_packing() {
    let setup = Setup { log_slot_bytes: 64 << 10, log_bytes: 8 * (64 << 10), ..Setup::default() };
    let stage = Stage::new(6, setup, &formatted(&setup));
    stage.start(1);
    stage.client(|world, volume| make_tiny(world, volume, 20));
    assert!(stage.number(0, "evacuated") > 0, "packing always had room: this shows nothing");
    stage.client(|world, volume| check_tiny(world, volume, 20));
    stage.crash(Crash::Power);
    stage.start(1);
    stage.client(|world, volume| check_tiny(world, volume, 20));
    stage.stop();
    let report = stage.check();
    assert!(report.is_clean(), "{report}");
}

async fn check_together(_world: World, volume: Rc<Volume>) {
    for i in 0..40_u8 {
        let bytes = read_named(&volume, &format!("f{i}")).await;
        assert_eq!((bytes.len(), bytes.iter().all(|b| *b == i)), (60 * (32 << 10), true));
    }
    volume.shutdown().await.expect("a clean end");
}

#[test]
fn a_device_that_refuses_writes_ends_the_service() {
    let setup = Setup::default();
    let stage = Stage::new(4, setup, &formatted(&setup));
    stage.start(2);
    stage.client(|_, volume| async move {
        open_new(&volume, "one").await;
        volume.shutdown().await.expect("a clean end");
    });
    stage.sim.media(stage.disk).set_faults(DiskFaults { write_error_per_million: 1_000_000, ..DiskFaults::default() });
    let answer = stage.begin_client(stage.options(), |_, volume| async move {
        volume.create(&Identity::default(), ROOT, &name("two"), &new_file()).await.map(drop)
    });
    ends_in_failure(&stage);
    assert_eq!(answer.take(), None, "for clients it is a stop as any other");
}

/// The service ends by itself, and says of which core and why.
fn ends_in_failure(stage: &Stage) {
    let over = stage.sim.run_until(LIMIT, || stage.ended.borrow().len() == 2);
    assert!(over, "it goes on: {:?}", stage.ended.borrow());
    let says = |(core, result): &(u16, Result<(), String>)| {
        result.as_ref().is_err_and(|error| error.starts_with(&format!("core {core} has failed: ")))
    };
    assert!(stage.ended.borrow().iter().any(says), "nobody says why: {:?}", stage.ended.borrow());
}

/// A device that refuses every write at one place, or every flush that comes after one, while its log is well.
struct BadPlace {
    disk: Rc<dyn Disk>,
    place: Range<u64>,
    refuses_writes: bool,
    written: Cell<bool>,
    is_bad: Rc<Cell<bool>>,
}

impl Disk for BadPlace {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        self.disk.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        let here = self.is_bad.get() && self.place.contains(&offset);
        if here && self.refuses_writes {
            return Io::ready(IoDone { result: Err(DiskError::Device(EIO)), buf });
        }
        self.written.set(self.written.get() || here);
        self.disk.write(offset, buf, durability, lifetime)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        if self.written.replace(false) {
            return Io::ready(Err(DiskError::Device(EIO)));
        }
        self.disk.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.disk.discard(offset, bytes)
    }
}

/// Two cores serve from a device with a place that can be made bad.
fn with_bad_place(
    setup: Setup,
    place: impl Fn(&Superblock) -> Range<u64>,
    refuses_writes: bool,
) -> (Stage, Rc<Cell<bool>>) {
    let device = formatted(&setup);
    let work = device.clone();
    let superblock = cfs_sim::run(1, |_| async move { cfs_device::open(&work).await.expect("formatted") });
    let is_bad = Rc::new(Cell::new(false));
    let (place, bad) = (place(&superblock), is_bad.clone());
    let stage = Stage::new(6, setup, &device).with_disks(move |disk| {
        let (place, written, is_bad) = (place.clone(), Cell::new(false), bad.clone());
        Rc::new(BadPlace { disk, place, refuses_writes, written, is_bad })
    });
    stage.start(2);
    stage.client(keep_something);
    (stage, is_bad)
}

fn regions(superblock: &Superblock) -> Range<u64> {
    superblock.layout.regions_at..u64::MAX
}

/// Where groups have their manifests.
fn manifests(superblock: &Superblock) -> Range<u64> {
    let (disk, groups) = (Rc::new(cfs_sim::disk(1 << 20)), 256);
    let anchors = Anchors::new(disk, superblock);
    let offsets = |group| anchors.offsets(AnchorId::group(GroupId::from(ShardId::new(group))));
    let from = (0..=u8::MAX).flat_map(offsets).min().expect("there are groups");
    from..from + groups * 2 * (16 << 10)
}

/// Something that was acknowledged before the device failed.
async fn keep_something(_world: World, volume: Rc<Volume>) {
    let handle = open_new(&volume, "kept").await;
    write_durably(&volume, handle, 0, &[7; SMALL_WRITE]).await;
    volume.release(handle);
    volume.shutdown().await.expect("a clean end");
}

async fn find_it(_world: World, volume: Rc<Volume>) {
    assert_eq!(read_named(&volume, "kept").await, [7; SMALL_WRITE]);
    volume.shutdown().await.expect("a clean end");
}

/// The device is not trusted again, until its whole content was found sound: then all that was acknowledged is there.
fn is_out_of_service(stage: &Stage, is_bad: &Cell<bool>) {
    is_bad.set(false);
    stage.crash(Crash::Process);
    let device = stage.device();
    let found = cfs_sim::run(1, |_| async move { cfs_device::open(&device).await });
    assert_eq!(found, Err(DeviceError::OutOfService));
    let report = stage.check();
    assert!(report.is_sound() && report.out_of_service, "{report}");
    let device = stage.device();
    cfs_sim::run(1, |_| async move { cfs_device::return_to_service(&device).await }).expect("a sound device");
    stage.start(2);
    stage.client(find_it);
    stage.stop();
    assert!(stage.check().is_clean());
}

fn regions_that_fail_end_the_service(refuses_writes: bool) {
    let (stage, is_bad) = with_bad_place(Setup::default(), regions, refuses_writes);
    is_bad.set(true);
    let answer = stage.begin_client(stage.options(), |_, volume| async move {
        let handle = open_new(&volume, "large").await;
        let written = volume.write(handle, 0, &vec![1; 1 << 20], WriteFlags::default()).await;
        written.map(drop).and(volume.fsync(handle).await)
    });
    ends_in_failure(&stage);
    assert_eq!(answer.take(), None, "for clients it is a stop as any other");
    is_out_of_service(&stage, &is_bad);
}

#[test]
fn a_manifest_that_cannot_be_written_ends_the_service_for_good() {
    let (stage, is_bad) = with_bad_place(Setup::short_log(), manifests, true);
    is_bad.set(true);
    stage.begin_client(stage.options(), |world, volume| write_together(world, volume, SMALL_WRITE, 40));
    ends_in_failure(&stage);
    is_out_of_service(&stage, &is_bad);
}

/// Where the streams of the log have their anchors.
fn streams(superblock: &Superblock) -> Range<u64> {
    let anchors = Anchors::new(Rc::new(cfs_sim::disk(1 << 20)), superblock);
    let from = anchors.offsets(AnchorId::stream(0).expect("the first"))[0];
    from..superblock.layout.log_at
}

#[test]
fn an_old_stream_that_cannot_be_freed_ends_the_service_for_good() {
    let (stage, is_bad) = with_bad_place(Setup::default(), streams, true);
    // More than is written again at a start.
    let setup = stage.setup;
    let rounds = setup.log_slot_bytes / (40 * SMALL_WRITE as u64) + 1;
    stage.client(move |world, volume| write_together(world, volume, SMALL_WRITE, rounds));
    stage.crash(Crash::Process);
    stage.start(2);
    is_bad.set(true);
    ends_in_failure(&stage);
    is_out_of_service(&stage, &is_bad);
}

#[test]
fn a_stop_that_cannot_note_where_the_log_ended_says_so() {
    let (stage, is_bad) = with_bad_place(Setup::default(), streams, true);
    is_bad.set(true);
    stage.tell_to_stop();
    ends_in_failure(&stage);
    is_out_of_service(&stage, &is_bad);
}

#[test]
fn a_stop_that_cannot_write_all_says_so() {
    let (stage, is_bad) = with_bad_place(Setup::default(), regions, true);
    stage.client(|_, volume| async move {
        let handle = open_new(&volume, "large").await;
        write_durably(&volume, handle, 0, &vec![1; 1 << 20]).await;
        volume.shutdown().await.expect("a clean end");
    });
    is_bad.set(true);
    stage.tell_to_stop();
    ends_in_failure(&stage);
    is_out_of_service(&stage, &is_bad);
}

#[test]
fn a_write_of_file_data_that_fails_ends_the_service_for_good() {
    regions_that_fail_end_the_service(true);
}

#[test]
fn a_flush_of_file_data_that_fails_ends_the_service_for_good() {
    regions_that_fail_end_the_service(false);
}

/// More bytes than the device has, all to the same place.
async fn overwrite(_world: World, volume: Rc<Volume>) {
    let handle = open_new(&volume, "again").await;
    for round in 0..9_000_u32 {
        write_durably(&volume, handle, 0, &[round.to_le_bytes()[0]; SMALL_WRITE]).await;
    }
    volume.shutdown().await.expect("a clean end");
}

#[test]
fn what_was_overwritten_does_not_fill_the_store() {
    let setup = Setup::default();
    let stage = Stage::new(2, setup, &formatted(&setup));
    stage.start(1);
    stage.client(overwrite);
    stage.stop();
}
