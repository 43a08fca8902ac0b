//! Clients that fall silent with written bytes held back, while others take the file.

use crate::history::{ME, name};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_sim::Crash;
use cfs_types::{FsError, InodeId, RANGE_BYTES};
use cfs_volume::{Creation, Handle, Lookup, OpenFlags, Volume, WriteFlags};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const ROOT: InodeId = InodeId::ROOT;
const WRITER: OpenFlags = OpenFlags { write: true, append: false, direct: false, sync: false };
/// Where a file is written: its first range, and one that another shard holds.
const PLACES: [u64; 2] = [0, RANGE_BYTES + 100];
/// Longer than the lease's term of a stage.
const OVER: Duration = Duration::from_secs(25);

async fn open(volume: &Volume) -> (InodeId, Handle) {
    let how = Creation { mode: 0o644, exclusive: false, truncate: false, flags: WRITER };
    let (entry, handle) = volume.create(&ME, ROOT, &name("f"), &how).await.expect("opened");
    (entry.attr.ino, handle)
}

async fn write(volume: &Volume, handle: Handle, at: u64, data: &[u8]) {
    assert_eq!(volume.write(handle, at, data, WriteFlags::default()).await, Ok(data.len()));
}

async fn content(volume: &Volume, at: u64) -> Vec<u8> {
    let found = volume.lookup(&ME, ROOT, &name("f")).await;
    let Ok(Lookup::Found(entry)) = found else { panic!("{found:?}") };
    let handle = volume.open(&ME, entry.attr.ino, OpenFlags::default()).await.expect("opened");
    let bytes = volume.read(handle, at, 100).await.expect("read").to_vec();
    volume.release(handle);
    bytes
}

/// What the silent client has done so far, and what it may go on with.
#[derive(Default)]
pub struct Silent {
    pub held: Cell<Option<InodeId>>,
    go_on: Cell<bool>,
    synced: Cell<Option<Result<(), FsError>>>,
}

/// A client that holds `old` back, falls silent, and syncs when it is told to go on.
pub fn begin_silent(stage: &Stage, at: u64) -> (Rc<Silent>, cfs_sim::NodeId) {
    let state = Rc::new(Silent::default());
    let silent = state.clone();
    let node = stage.sim.node(1);
    stage.begin_client_on(node, stage.options(), move |world, volume| async move {
        let (ino, handle) = open(&volume).await;
        write(&volume, handle, at, b"first").await;
        volume.fsync(handle).await.expect("durable");
        write(&volume, handle, at, b"old").await;
        silent.held.set(Some(ino));
        while !silent.go_on.get() {
            cfs_seam::sleep(&world.clock, Duration::from_millis(10)).await;
        }
        silent.synced.set(Some(volume.fsync(handle).await));
    });
    assert!(stage.sim.run_until(LIMIT, || state.held.get().is_some()));
    stage.cut_off(node);
    (state, node)
}

fn come_back(stage: &Stage, state: &Silent) -> Result<(), FsError> {
    stage.sim.heal_all();
    state.go_on.set(true);
    assert!(stage.sim.run_until(LIMIT, || state.synced.get().is_some()));
    state.synced.get().expect("just seen")
}

/// Two cores serve.
pub fn stage(seed: u64) -> Stage {
    let setup = Setup::default();
    let stage = Stage::new(seed, setup, &formatted(&setup));
    stage.start(2);
    stage
}

#[test]
fn bytes_of_a_silent_client_do_not_land_over_newer_ones() {
    for at in PLACES {
        let stage = stage(1);
        let (state, _) = begin_silent(&stage, at);
        stage.client(move |_, volume| async move {
            let (_, handle) = open(&volume).await;
            write(&volume, handle, at, b"newer").await;
            volume.fsync(handle).await.expect("durable");
            volume.release(handle);
            volume.shutdown().await.expect("a clean end");
        });
        assert_eq!(come_back(&stage, &state), Err(FsError::Stale), "what is lost is said");
        assert_eq!(stage.client(move |_, volume| async move { content(&volume, at).await }), b"newer");
    }
}

#[test]
fn bytes_of_a_silent_client_do_not_appear_once_others_have_read() {
    for at in PLACES {
        let stage = stage(2);
        let (state, _) = begin_silent(&stage, at);
        assert_eq!(stage.client(move |_, volume| async move { content(&volume, at).await }), b"first");
        assert_eq!(come_back(&stage, &state), Err(FsError::Stale), "what is lost is said");
        assert_eq!(stage.client(move |_, volume| async move { content(&volume, at).await }), b"first");
    }
}

#[test]
fn what_nobody_took_is_written_however_late() {
    for at in PLACES {
        let stage = stage(3);
        let (state, _) = begin_silent(&stage, at);
        stage.sim.run_for(OVER);
        assert_eq!(come_back(&stage, &state), Ok(()));
        assert_eq!(stage.client(move |_, volume| async move { content(&volume, at).await }), b"oldst");
    }
}

#[test]
fn a_restart_does_not_forget_who_had_the_file() {
    for seed in 4..8 {
        let at = PLACES[usize::from(seed > 5)];
        let stage = stage(seed);
        let (state, _) = begin_silent(&stage, at);
        stage.crash(Crash::Power);
        stage.start(1 + u16::try_from(seed % 3).expect("small"));
        stage.client(move |_, volume| async move {
            let (_, handle) = open(&volume).await;
            write(&volume, handle, at, b"newer").await;
            volume.fsync(handle).await.expect("durable");
        });
        if seed % 2 == 0 {
            stage.crash(Crash::Power);
            stage.start(2);
        }
        assert_eq!(come_back(&stage, &state), Err(FsError::Stale), "what is lost is said");
        assert_eq!(stage.client(move |_, volume| async move { content(&volume, at).await }), b"newer");
    }
}

#[test]
fn a_restart_alone_loses_nothing() {
    for at in PLACES {
        let stage = stage(9);
        let (state, _) = begin_silent(&stage, at);
        stage.crash(Crash::Power);
        stage.start(3);
        stage.sim.run_for(OVER);
        assert_eq!(come_back(&stage, &state), Ok(()));
        assert_eq!(stage.client(move |_, volume| async move { content(&volume, at).await }), b"oldst");
    }
}
