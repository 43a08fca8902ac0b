//! What is written over in a range of another shard than its file's: committed there, once, in its
//! place among truncations and what others do.

use crate::history::{ME, name};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use crate::summary::Summary;
use cfs_sim::Crash;
use cfs_types::{FsError, InodeId, RANGE_BYTES};
use cfs_volume::{Creation, Handle, Lookup, OpenFlags, Volume, WriteFlags};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const ROOT: InodeId = InodeId::ROOT;
/// Each write reaches the server before it returns.
const DIRECT: OpenFlags = OpenFlags { write: true, append: false, direct: true, sync: true };
const AT: u64 = RANGE_BYTES + 5000;
const SHORT_TERM: Duration = Duration::from_secs(2);

async fn open(volume: &Volume) -> Handle {
    let how = Creation { mode: 0o644, exclusive: false, truncate: false, flags: DIRECT };
    volume.create(&ME, ROOT, &name("f"), &how).await.expect("opened").1
}

async fn write(volume: &Volume, handle: Handle, data: &[u8]) -> Result<usize, FsError> {
    volume.write(handle, AT, data, WriteFlags::default()).await
}

async fn content(volume: &Volume) -> Vec<u8> {
    let found = volume.lookup(&ME, ROOT, &name("f")).await;
    let Ok(Lookup::Found(entry)) = found else { panic!("{found:?}") };
    let handle = volume.open(&ME, entry.attr.ino, OpenFlags::default()).await.expect("opened");
    let bytes = volume.read(handle, AT, 1 << 20).await.expect("read").to_vec();
    volume.release(handle);
    bytes
}

fn overwrites(stage: &Stage) -> u64 {
    let mut summary = Summary::default();
    summary.note_status(&stage.status());
    summary.overwrites
}

fn stage(seed: u64) -> Stage {
    let setup = Setup { lease_term: SHORT_TERM, ..Setup::default() };
    let stage = Stage::new(seed, setup, &formatted(&setup));
    stage.start(2);
    stage
}

#[test]
fn overwrites_small_and_long_commit_in_the_range_and_survive() {
    let stage = stage(1);
    let wanted = stage.client(|_, volume| async move {
        let handle = open(&volume).await;
        let mut wanted = vec![1; 300_000];
        write(&volume, handle, &wanted).await.expect("written");
        let before = volume.getattr(volume_ino(&volume).await).await.expect("there");
        for (byte, len) in [(2, 200_000), (3, 5000), (4, 100)] {
            wanted[..len].fill(byte);
            write(&volume, handle, &vec![byte; len]).await.expect("written");
        }
        let after = volume.getattr(volume_ino(&volume).await).await.expect("there");
        assert!(after.0.mtime > before.0.mtime && after.0.change > before.0.change);
        assert_eq!((after.0.size, after.0.blocks), (before.0.size, before.0.blocks));
        assert_eq!(content(&volume).await, wanted);
        wanted
    });
    assert_eq!(overwrites(&stage), 3, "the first one extends the file");
    stage.crash(Crash::Power);
    assert!(stage.check().is_sound());
    stage.start(3);
    assert_eq!(stage.client(|_, volume| async move { content(&volume).await }), wanted);
}

async fn volume_ino(volume: &Volume) -> InodeId {
    match volume.lookup(&ME, ROOT, &name("f")).await {
        Ok(Lookup::Found(entry)) => entry.attr.ino,
        other => panic!("{other:?}"),
    }
}

/// The server loses power so long after A began to write over what it wrote first; before A can ask
/// again, B reads and writes. Tells whether B saw what A wrote, and whether A had been answered.
fn interrupted(seed: u64, after: Duration) -> (bool, bool) {
    let stage = stage(seed);
    let (begun, ended) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
    let (begins, ends) = (begun.clone(), ended.clone());
    let node = stage.sim.node(1);
    stage.begin_client_on(node, stage.options(), move |_, volume| async move {
        let handle = open(&volume).await;
        write(&volume, handle, b"first").await.expect("written");
        begins.set(true);
        *ends.borrow_mut() = Some(write(&volume, handle, b"again").await);
    });
    assert!(stage.sim.run_until(LIMIT, || begun.get()));
    stage.sim.run_for(after);
    let answered = ended.borrow().is_some();
    stage.crash(Crash::Power);
    stage.cut_off(node);
    stage.start(2);
    let seen = stage.client(|_, volume| async move {
        let seen = content(&volume).await;
        let handle = open(&volume).await;
        write(&volume, handle, b"newer").await.expect("written");
        volume.shutdown().await.expect("a clean end");
        seen
    });
    stage.sim.heal_all();
    assert!(stage.sim.run_until(LIMIT, || ended.borrow().is_some()));
    assert_eq!(ended.take(), Some(Ok(5)), "the session goes on");
    let left = stage.client(|_, volume| async move { content(&volume).await });
    match &seen[..] {
        b"again" => assert_eq!(left, b"newer", "done twice: power lost after {after:?}"),
        b"first" => assert!(!answered && (left == b"newer" || left == b"again"), "{left:?} after {after:?}"),
        other => panic!("{other:?} after {after:?}"),
    }
    stage.stop();
    assert!(stage.check().is_sound());
    (seen == b"again", answered)
}

#[test]
fn an_overwrite_that_a_crash_left_unanswered_does_not_come_over_newer_bytes() {
    let runs: Vec<(bool, bool)> = (0..60).map(|nth| interrupted(nth, Duration::from_micros(30 * nth))).collect();
    let count = |wanted| runs.iter().filter(|run| **run == wanted).count();
    let counts = [count((false, false)), count((true, false)), count((true, true))];
    println!("not there, there, answered: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "the crashes come at all times: {counts:?}");
}
