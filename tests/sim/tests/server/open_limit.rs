//! Clients that hold open all that they may.

use crate::history::{ME, name};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_seam::World;
use cfs_sim::Crash;
use cfs_types::{FsError, InodeId};
use cfs_volume::{Creation, Handle, Lookup, OpenFlags, Volume, WriteFlags};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const ROOT: InodeId = InodeId::ROOT;
const WRITER: OpenFlags = OpenFlags { write: true, append: false, direct: false, sync: false };
const FULL: FsError = FsError::TooManyOpen;

/// Room for four open inodes a core, three of them of one session.
fn narrow() -> Setup {
    let mut setup = Setup::default();
    setup.memory.opens = 4 * 128;
    setup
}

fn stage(seed: u64, cores: u16) -> Stage {
    let setup = narrow();
    let stage = Stage::new(seed, setup, &formatted(&setup));
    stage.start(cores);
    stage
}

async fn create(volume: &Volume, dir: InodeId, text: &str) -> Result<(InodeId, Handle), FsError> {
    let how = Creation { mode: 0o644, exclusive: false, truncate: false, flags: WRITER };
    let made = volume.create(&ME, dir, &name(text), &how).await;
    made.map(|(entry, handle)| (entry.attr.ino, handle))
}

async fn until_room<T, F: Future<Output = Result<T, FsError>>>(world: &World, mut open: impl FnMut() -> F) -> T {
    loop {
        match open().await {
            Ok(opened) => return opened,
            Err(error) => assert_eq!(error, FULL),
        }
        cfs_seam::sleep(&world.clock, Duration::from_millis(1)).await;
    }
}

/// What the first core says of its open inodes: how many, and most.
fn opens(stage: &Stage) -> (u64, u64) {
    let status = stage.status();
    let gauge = status[0].queues.iter().find(|queue| queue.name == "opens").expect("a gauge");
    (gauge.used, gauge.limit)
}

#[test]
fn what_would_open_too_much_is_refused_and_makes_nothing() {
    let stage = stage(1, 1);
    let [full, over, going] = [(); 3].map(|()| Rc::new(Cell::new(false)));
    let (is_full, done, is_going) = (full.clone(), over.clone(), going.clone());
    let first = stage.begin_client(stage.options(), move |world, volume| async move {
        let mut handles = Vec::new();
        for text in ["a", "b", "c"] {
            handles.push(create(&volume, ROOT, text).await.expect("there is room"));
        }
        assert_eq!(create(&volume, ROOT, "d").await.err(), Some(FULL));
        assert!(matches!(volume.lookup(&ME, ROOT, &name("d")).await, Ok(Lookup::Missing { .. })), "it was made");
        let ino = handles[0].0;
        assert!(volume.open(&ME, ino, OpenFlags::default()).await.is_ok(), "it is open already");
        is_full.set(true);
        while !done.get() {
            cfs_seam::sleep(&world.clock, Duration::from_millis(1)).await;
        }
        volume.release(handles.remove(1).1);
        until_room(&world, || create(&volume, ROOT, "d")).await;
        is_going.set(true);
        volume.shutdown().await.expect("a clean end");
    });
    assert!(stage.sim.run_until(LIMIT, || full.get()));
    assert_eq!(opens(&stage), (3, 4));
    stage.client(move |world, volume| async move {
        let (_, handle) = create(&volume, ROOT, "e").await.expect("the last place");
        for text in ["a", "f"] {
            assert_eq!(create(&volume, ROOT, text).await.err(), Some(FULL), "{text}");
        }
        let Ok(Lookup::Found(found)) = volume.lookup(&ME, ROOT, &name("a")).await else { panic!("it is there") };
        assert_eq!(volume.open(&ME, found.attr.ino, OpenFlags::default()).await.err(), Some(FULL));
        over.set(true);
        while !going.get() {
            cfs_seam::sleep(&world.clock, Duration::from_millis(1)).await;
        }
        for text in ["f", "g"] {
            until_room(&world, || create(&volume, ROOT, text)).await;
        }
        volume.release(handle);
        volume.shutdown().await.expect("a clean end");
    });
    assert!(stage.sim.run_until(LIMIT, || first.borrow().is_some()));
    assert_eq!(opens(&stage), (0, 4), "ended sessions hold nothing open");
}

/// A file of this core, held open.
async fn file_on(volume: &Volume, core: u16, cores: u16, text: &str) -> (InodeId, Handle) {
    for round in 0.. {
        let dir = volume.mkdir(&ME, ROOT, &name(&format!("{text}{round}")), 0o755).await.expect("made").attr.ino;
        if u16::from(dir.shard().get()) % cores == core {
            let (ino, handle) = create(volume, dir, "f").await.expect("there is room");
            assert_eq!(volume.write(handle, 0, text.as_bytes(), WriteFlags::default()).await, Ok(text.len()));
            volume.fsync(handle).await.expect("durable");
            volume.unlink(&ME, dir, &name("f")).await.expect("unlinked");
            return (ino, handle);
        }
    }
    unreachable!("directories are spread over the cores")
}

/// A client holds unlinked files open on every core, and the server comes back with a single one.
fn narrower(each: usize) -> (u64, u64) {
    let stage = stage(2, 2);
    let (opened, back) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let (is_open, is_back) = (opened.clone(), back.clone());
    let client = stage.begin_client(stage.options(), move |world, volume| async move {
        let mut held = Vec::new();
        for n in 0..each * 2 {
            let (text, core) = (format!("file{n}-"), u16::try_from(n % 2).expect("small"));
            held.push((file_on(&volume, core, 2, &text).await.1, text));
        }
        is_open.set(true);
        while !is_back.get() {
            cfs_seam::sleep(&world.clock, Duration::from_millis(1)).await;
        }
        for (handle, text) in &held {
            let found = volume.read(*handle, 0, 100).await.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found.to_vec(), text.as_bytes());
        }
        volume
    });
    assert!(stage.sim.run_until(LIMIT, || opened.get()));
    stage.crash(Crash::Process);
    stage.start(1);
    stage.sim.run_for(Duration::from_secs(5));
    let seen = opens(&stage);
    back.set(true);
    assert!(stage.sim.run_until(LIMIT, || client.borrow().is_some()));
    seen
}

#[test]
fn what_was_open_before_a_restart_is_not_refused_for_its_sessions_limit() {
    assert_eq!(narrower(2), (4, 4));
}

#[test]
fn what_there_is_no_room_for_after_a_restart_is_kept_all_the_same() {
    assert_eq!(narrower(3), (4, 4));
}
