//! One core's device fails, or does not answer any more: nobody else waits for it for ever.

use crate::history::{ME, name};
use crate::stage::{LIMIT, SESSION_LIFE, Setup, Stage, formatted};
use cfs_seam::{Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime, Promise, World, io};
use cfs_sim::NodeId;
use cfs_types::{FsError, InodeId, RANGE_BYTES, RangeIndex};
use cfs_volume::{Creation, Handle, OpenFlags, Volume, WriteFlags};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const DIRECT: OpenFlags = OpenFlags { write: true, append: false, direct: true, sync: true };
/// Linux' number.
const EIO: i32 = 5;
/// The superblocks lie there.
const SUPERBLOCKS_BYTES: u64 = 1 << 20;
/// Writes that have memtables flushed to tables.
const ROUNDS: u64 = 60;

/// What is wrong with the device as the second core sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Every read fails.
    Reads,
    /// No write ends.
    Writes,
    /// No write to the superblock ends, and every other fails.
    Refusals,
}

struct Faulty {
    disk: Rc<dyn Disk>,
    fault: Rc<Cell<Fault>>,
    stalled: RefCell<Vec<Promise<IoDone>>>,
}

impl Disk for Faulty {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        if self.fault.get() == Fault::Reads {
            return Io::ready(IoDone { result: Err(DiskError::Device(EIO)), buf });
        }
        self.disk.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        let at_superblock = offset < SUPERBLOCKS_BYTES;
        if self.fault.get() == Fault::Refusals && !at_superblock {
            return Io::ready(IoDone { result: Err(DiskError::Device(EIO)), buf });
        }
        if matches!(self.fault.get(), Fault::Writes | Fault::Refusals) {
            let (promise, never) = io();
            self.stalled.borrow_mut().push(promise);
            return never;
        }
        self.disk.write(offset, buf, durability, lifetime)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.disk.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.disk.discard(offset, bytes)
    }
}

/// A file of the first core whose second range is the second core's.
#[derive(Clone, Copy)]
struct Place {
    dir: InodeId,
    number: u32,
}

fn is_of_core(shard: cfs_types::ShardId, core: u16) -> bool {
    u16::from(shard.get()) % 2 == core
}

async fn open(volume: &Volume, place: Place) -> (InodeId, Handle) {
    let how = Creation { mode: 0o644, exclusive: false, truncate: false, flags: DIRECT };
    let file = name(&format!("f{}", place.number));
    let (entry, handle) = volume.create(&ME, place.dir, &file, &how).await.expect("opened");
    (entry.attr.ino, handle)
}

async fn write(volume: &Volume, handle: Handle, at: u64) -> Result<usize, FsError> {
    volume.write(handle, RANGE_BYTES + at * 4096, &[7; 4096], WriteFlags::default()).await
}

/// Makes the file, and so many rows of its second range that they are in tables.
async fn prepare(volume: Rc<Volume>) -> Place {
    let mut dir = InodeId::ROOT;
    for number in 0.. {
        dir = volume.mkdir(&ME, InodeId::ROOT, &name(&format!("d{number}")), 0o755).await.expect("made").attr.ino;
        if is_of_core(dir.shard(), 0) {
            break;
        }
    }
    for number in 0.. {
        let place = Place { dir, number };
        let (ino, handle) = open(&volume, place).await;
        if is_of_core(RangeIndex::new(1).shard(ino), 1) {
            for at in 0..ROUNDS {
                assert_eq!(write(&volume, handle, at).await, Ok(4096));
            }
            volume.shutdown().await.expect("a clean end");
            return place;
        }
    }
    unreachable!("ranges are spread over the cores")
}

/// Two cores serve, nothing is cached, and the second core's device can be made faulty.
fn begin() -> (Stage, Place, Rc<Cell<Fault>>) {
    let mut setup = Setup::tight();
    setup.memory.block_cache = 1;
    setup.memory.memtables = 16 << 10;
    let (fault, cores) = (Rc::new(Cell::new(Fault::Nothing)), Cell::new(0));
    let set = fault.clone();
    let stage = Stage::new(1, setup, &formatted(&setup)).with_disks(move |disk| {
        let core = cores.replace(cores.get() + 1) % 2;
        let fault = if core == 1 { set.clone() } else { Rc::new(Cell::new(Fault::Nothing)) };
        Rc::new(Faulty { disk, fault, stalled: RefCell::default() })
    });
    stage.start(2);
    let place = stage.client(|_, volume| prepare(volume));
    stage.stop();
    stage.start(2);
    (stage, place, fault)
}

/// A client with the file open, which writes to it when it is told where.
struct Writer {
    node: NodeId,
    is_open: Rc<Cell<bool>>,
    at: Rc<Cell<Option<u64>>>,
    written: Rc<RefCell<Option<Result<usize, FsError>>>>,
}

/// `is_last`: it has written to the file, which makes its overwrites go to the range at once.
fn begin_writer(stage: &Stage, place: Place, is_last: bool) -> Writer {
    let node = stage.sim.node(1);
    let (is_open, at) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
    let (opened, told) = (is_open.clone(), at.clone());
    let written = stage.begin_client_on(node, stage.options(), move |world: World, volume| async move {
        let (_, handle) = open(&volume, place).await;
        if is_last {
            assert_eq!(write(&volume, handle, 0).await, Ok(4096));
        }
        opened.set(true);
        loop {
            if let Some(at) = told.get() {
                return write(&volume, handle, at).await;
            }
            cfs_seam::sleep(&world.clock, Duration::from_millis(1)).await;
        }
    });
    assert!(stage.sim.run_until(LIMIT, || is_open.get()));
    Writer { node, is_open, at, written }
}

/// Inodes that sessions hold open at the first core.
fn opens(stage: &Stage) -> u64 {
    let status = stage.status();
    let first = status.iter().find(|status| status.core == 0).expect("it serves");
    first.queues.iter().find(|queue| queue.name == "opens").expect("a gauge").used
}

fn end_of(stage: &Stage, writer: &Writer) {
    assert!(writer.is_open.get());
    stage.cut_off(writer.node);
    stage.sim.run_for(3 * SESSION_LIFE);
}

#[test]
fn a_message_to_a_damaged_shard_ends_in_an_error_and_its_session_ends() {
    let (stage, place, fault) = begin();
    let writer = begin_writer(&stage, place, false);
    fault.set(Fault::Reads);
    // Longer than the file: through the inode's shard, which tells the range of it.
    writer.at.set(Some(ROUNDS + 5));
    assert!(stage.sim.run_until(LIMIT, || writer.written.borrow().is_some()), "it waits for ever");
    let written = writer.written.take().expect("just seen");
    assert!(matches!(written, Err(FsError::Corrupt | FsError::Device)), "{written:?}");
    assert_eq!(opens(&stage), 1);
    end_of(&stage, &writer);
    assert_eq!(opens(&stage), 0, "the session is over");
}

#[test]
fn sessions_end_while_one_waits_for_a_core_that_does_not_answer() {
    let (stage, place, fault) = begin();
    let writer = begin_writer(&stage, place, true);
    let other = begin_writer(&stage, Place { number: 1_000_000, ..place }, false);
    assert_eq!(opens(&stage), 2);
    fault.set(Fault::Writes);
    writer.at.set(Some(0));
    stage.sim.run_for(Duration::from_secs(1));
    stage.cut_off(writer.node);
    end_of(&stage, &other);
    assert!(writer.written.borrow().is_none(), "nothing was stuck: this shows nothing");
    assert_eq!(opens(&stage), 1, "only the one that is stuck goes on");
}

#[test]
fn nobody_is_told_of_a_core_that_has_failed() {
    let (stage, _, fault) = begin();
    let (answered, errors) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
    for client in 0..4 {
        let (answers, says) = (answered.clone(), errors.clone());
        stage.begin_client(stage.options(), move |_, volume| async move {
            for number in 0.. {
                match volume.mkdir(&ME, InodeId::ROOT, &name(&format!("{client}-{number}")), 0o755).await {
                    Ok(_) => answers.set(answers.get() + 1),
                    Err(error) => says.borrow_mut().push(error),
                }
            }
        });
    }
    assert!(stage.sim.run_until(LIMIT, || answered.get() > 100));
    fault.set(Fault::Refusals);
    assert!(stage.sim.run_until(LIMIT, || stage.ended.borrow().len() == 2), "{:?}", stage.ended.borrow());
    assert_eq!(errors.take(), [], "for clients it is a stop as any other");
    let ended = stage.ended.take();
    let says = |(core, result): &(u16, Result<(), String>)| {
        *core == 1 && result.as_ref().is_err_and(|error| error.starts_with("core 1 has failed"))
    };
    assert!(ended.iter().any(says), "{ended:?}");
}
