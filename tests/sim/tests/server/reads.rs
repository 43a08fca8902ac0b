//! Reads of tables that fail while commands are executed or questions answered.

use crate::history::new_file;
use crate::pressure::name;
use crate::stage::{Setup, Stage, formatted};
use cfs_seam::{Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime, World};
use cfs_types::{FsError, InodeId};
use cfs_volume::{OpenFlags, Volume, WriteFlags};
use cfs_wire::{AttrChange, Identity};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const ROOT: InodeId = InodeId::ROOT;
/// Linux' number.
const EIO: i32 = 5;
const FILES: u32 = 1000;

/// What becomes of the next reads behind the log.
#[derive(Default)]
struct Plan {
    refuse: Cell<u32>,
    garble: Cell<u32>,
    /// Reads that went wrong.
    wrong: Cell<u32>,
}

impl Plan {
    fn takes(&self, left: &Cell<u32>) -> bool {
        let takes = left.get() > 0;
        if takes {
            left.set(left.get() - 1);
            self.wrong.set(self.wrong.get() + 1);
        }
        takes
    }
}

struct BadReads {
    disk: Rc<dyn Disk>,
    from: u64,
    plan: Rc<Plan>,
}

impl Disk for BadReads {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        if offset >= self.from && self.plan.takes(&self.plan.refuse) {
            return Io::ready(IoDone { result: Err(DiskError::Device(EIO)), buf });
        }
        if offset >= self.from && self.plan.takes(&self.plan.garble) {
            let bytes = buf.len();
            return Io::ready(IoDone { result: Ok(()), buf: IoBuf::zeroed(bytes) });
        }
        self.disk.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        self.disk.write(offset, buf, durability, lifetime)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.disk.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.disk.discard(offset, bytes)
    }
}

/// A server whose tables hold many files of one shard, and whose memory holds few of their blocks.
fn with_tables() -> (Stage, Rc<Plan>, Vec<InodeId>) {
    let setup = Setup::tight();
    let device = formatted(&setup);
    let work = device.clone();
    let superblock = cfs_sim::run(1, |_| async move { cfs_device::open(&work).await.expect("formatted") });
    let (from, plan) = (superblock.layout.regions_at, Rc::new(Plan::default()));
    let shared = plan.clone();
    let stage =
        Stage::new(7, setup, &device).with_disks(move |disk| Rc::new(BadReads { disk, from, plan: shared.clone() }));
    stage.start(1);
    let files = stage.client(|_, volume| async move {
        let mut files = Vec::new();
        for number in 0..FILES {
            let name = name(&format!("a file with a name that is long enough to fill blocks {number}"));
            let (entry, handle) = volume.create(&Identity::default(), ROOT, &name, &new_file()).await.expect("created");
            volume.release(handle);
            files.push(entry.attr.ino);
        }
        volume.shutdown().await.expect("a clean end");
        files
    });
    stage.stop();
    stage.start(1);
    (stage, plan, files)
}

/// A change that reads for the first time when it is executed: how it ends, and how long that takes.
async fn change(world: &World, volume: &Volume, ino: InodeId) -> (Result<(), FsError>, Duration) {
    let began = world.clock.now();
    let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
    let done = volume.setattr(&Identity::default(), ino, change).await;
    (done.map(drop), world.clock.now().since(began))
}

/// Whether every group serves.
fn all_serve(stage: &Stage) -> bool {
    stage.status().iter().all(|core| core.failed_groups.is_empty())
}

/// A question that reads.
async fn ask(volume: &Volume, ino: InodeId) -> Result<(), FsError> {
    volume.getattr(ino).await.map(drop)
}

fn survives(refuse: u32, garble: u32, asking: bool) {
    let (stage, plan, files) = with_tables();
    let shared = plan.clone();
    stage.client(move |world, volume| async move {
        for ino in files {
            shared.refuse.set(refuse);
            shared.garble.set(garble);
            let done = if asking { ask(&volume, ino).await } else { change(&world, &volume, ino).await.0 };
            assert_eq!(done, Ok(()), "{ino:?}");
        }
        shared.refuse.set(0);
        shared.garble.set(0);
        volume.shutdown().await.expect("a clean end");
    });
    assert!(plan.wrong.get() > 10, "hardly a read goes wrong: {}", plan.wrong.get());
    assert!(all_serve(&stage), "a group has failed: {:?}", stage.status());
    stage.stop();
}

#[test]
fn a_read_that_fails_once_takes_no_shard_out_of_service() {
    survives(1, 0, false);
}

#[test]
fn reads_that_fail_for_a_while_take_no_shard_out_of_service() {
    survives(4, 0, false);
}

#[test]
fn a_read_that_is_garbled_once_takes_no_shard_out_of_service() {
    survives(0, 1, false);
}

#[test]
fn a_question_outlives_reads_that_fail_now_and_then() {
    survives(1, 0, true);
    survives(3, 0, true);
    survives(0, 1, true);
}

/// The longest that a change took until a group was given up, while all reads go wrong.
fn given_up_after(refuse: u32, garble: u32) -> Duration {
    let (stage, plan, files) = with_tables();
    let longest = stage.client(move |world, volume| async move {
        plan.refuse.set(refuse);
        plan.garble.set(garble);
        let mut longest = Duration::ZERO;
        for ino in files {
            let (answer, took) = change(&world, &volume, ino).await;
            longest = longest.max(took);
            if answer.is_err() {
                break;
            }
        }
        longest
    });
    assert!(!all_serve(&stage), "what cannot be read is not noticed");
    longest
}

#[test]
fn damage_is_named_at_once_and_a_device_that_fails_all_reads_after_a_bounded_time() {
    let garbled = given_up_after(0, u32::MAX);
    assert!(garbled < Duration::from_millis(500), "{garbled:?}");
    let refused = given_up_after(u32::MAX, 0);
    assert!(refused > Duration::from_secs(2) && refused < Duration::from_secs(5), "{refused:?}");
}

#[test]
fn a_question_to_a_device_that_fails_all_reads_is_refused_soon_and_answered_once_it_reads_again() {
    let (stage, plan, files) = with_tables();
    let shared = plan.clone();
    stage.client(move |world, volume| async move {
        for ino in files {
            shared.refuse.set(u32::MAX);
            let began = world.clock.now();
            let refused = ask(&volume, ino).await;
            let took = world.clock.now().since(began);
            shared.refuse.set(0);
            assert!(matches!(refused, Ok(()) | Err(FsError::Device)), "{refused:?}");
            assert!(took < Duration::from_millis(500), "{took:?}");
            assert_eq!(ask(&volume, ino).await, Ok(()), "{ino:?}");
        }
        volume.shutdown().await.expect("a clean end");
    });
    assert!(plan.wrong.get() > 10, "hardly a read goes wrong: {}", plan.wrong.get());
    assert!(all_serve(&stage), "a group has failed: {:?}", stage.status());
    stage.stop();
}

/// Reads that were refused, and those of wrong bytes, on all cores.
fn counts(stage: &Stage) -> (u64, u64) {
    let status = stage.status();
    (status.iter().map(|core| core.refused_reads).sum(), status.iter().map(|core| core.damaged_reads).sum())
}

#[test]
fn a_read_that_the_device_refuses_is_counted_as_that_and_one_of_wrong_bytes_as_damage() {
    let counted = |refuse, garble| {
        let (stage, plan, _) = with_tables();
        let ino = stage.client(move |_, volume| async move {
            let who = Identity::default();
            let (entry, handle) = volume.create(&who, ROOT, &name("long"), &new_file()).await.expect("created");
            volume.write(handle, 0, &vec![7; 1 << 20], WriteFlags::default()).await.expect("held");
            volume.fsync(handle).await.expect("durable");
            volume.release(handle);
            volume.shutdown().await.expect("a clean end");
            entry.attr.ino
        });
        let told = stage.client(move |_, volume| async move {
            let flags = OpenFlags::default();
            let handle = volume.open(&Identity::default(), ino, flags).await.expect("opened");
            plan.refuse.set(refuse);
            plan.garble.set(garble);
            let read = volume.read(handle, 0, 4096).await.map(drop);
            plan.refuse.set(0);
            plan.garble.set(0);
            volume.release(handle);
            read
        });
        let (refused, damaged) = counts(&stage);
        (told, refused > 0, damaged > 0)
    };
    assert_eq!(counted(u32::MAX, 0), (Err(FsError::Device), true, false));
    assert_eq!(counted(0, u32::MAX), (Err(FsError::Corrupt), false, true));
}

#[test]
fn so_is_a_read_of_tables() {
    let counted = |refuse, garble| {
        let (stage, plan, files) = with_tables();
        let told = stage.client(move |_, volume| async move {
            plan.refuse.set(refuse);
            plan.garble.set(garble);
            let mut told = Ok(());
            for ino in files {
                told = told.and(ask(&volume, ino).await);
            }
            told
        });
        let (refused, damaged) = counts(&stage);
        (told, refused > 0, damaged > 0)
    };
    assert_eq!(counted(u32::MAX, 0), (Err(FsError::Device), true, false));
    assert_eq!(counted(0, u32::MAX), (Err(FsError::Corrupt), false, true));
}

#[test]
fn what_a_client_has_read_lately_another_reads_without_the_device() {
    let (stage, plan, _) = with_tables();
    let ino = stage.client(|_, volume| async move {
        let (entry, handle) =
            volume.create(&Identity::default(), ROOT, &name("long"), &new_file()).await.expect("created");
        let bytes: Vec<u8> = (0..=255).flat_map(|block| [block; 4096]).collect();
        volume.write(handle, 0, &bytes, WriteFlags::default()).await.expect("held");
        volume.fsync(handle).await.expect("durable");
        volume.release(handle);
        volume.shutdown().await.expect("a clean end");
        entry.attr.ino
    });
    let read = |offset: u64, refuse: u32| {
        let plan = plan.clone();
        stage.client(move |_, volume| async move {
            let direct = OpenFlags { direct: true, ..OpenFlags::default() };
            let handle = volume.open(&Identity::default(), ino, direct).await.expect("opened");
            plan.refuse.set(refuse);
            let read = volume.read(handle, offset, 4096).await.map(|bytes| bytes.to_vec());
            plan.refuse.set(0);
            volume.release(handle);
            read
        })
    };
    assert_eq!(read(9 * 4096, 0), Ok(vec![9; 4096]));
    assert_eq!(read(9 * 4096, u32::MAX), Ok(vec![9; 4096]), "from memory");
    assert_eq!(read(10 * 4096, u32::MAX), Err(FsError::Device), "nobody has read this one");
    assert_eq!(stage.number(0, "data_cache"), 1);
    stage.stop();
}
