//! Long payloads beside short requests, with real cores.

use crate::history::{ME, name};
use crate::raw::Peer;
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_seam::{Class, World, sleep, spawn};
use cfs_types::{InodeId, ShardId};
use cfs_volume::{Creation, Handle, OpenFlags, Volume, WriteFlags};
use cfs_wire::Op;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const ROOT: InodeId = InodeId::ROOT;
const DIRECT: OpenFlags = OpenFlags { write: true, append: false, direct: true, sync: false };
/// Bytes of a long payload, and how many are on their way at once.
const LONG: usize = 1 << 20;
const STREAM: u8 = 8;
/// Payloads written while connections break.
const PIECES: u8 = 16;

async fn create(volume: &Volume, text: &str) -> Handle {
    let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags: DIRECT };
    volume.create(&ME, ROOT, &name(text), &how).await.expect("made").1
}

async fn write(volume: &Volume, handle: Handle, offset: u64, byte: u8, len: usize) {
    assert_eq!(volume.write(handle, offset, &vec![byte; len], WriteFlags::default()).await, Ok(len));
}

async fn check(volume: &Volume, handle: Handle, n: u8) {
    let read = volume.read(handle, u64::from(n) << 20, 1 << 20).await.expect("read");
    assert!(read.len() == LONG && read.iter().all(|byte| *byte == n), "{n}");
}

/// Writes or reads a stream while short requests go on; how much of the stream each of them saw done.
async fn stream(world: &World, volume: &Rc<Volume>, long: Handle, short: Handle, reads: bool) -> Vec<u8> {
    let done = Rc::new(Cell::new(0));
    for n in 0..STREAM {
        let (volume, done) = (volume.clone(), done.clone());
        let task = async move {
            match reads {
                true => check(&volume, long, n).await,
                false => write(&volume, long, u64::from(n) << 20, n, LONG).await,
            }
            done.set(done.get() + 1);
        };
        spawn(&world.tasks, Class::Foreground, task).detach();
    }
    sleep(&world.clock, Duration::from_micros(10)).await;
    let mut seen = Vec::new();
    for round in 0..3 {
        write(volume, short, 0, round, 100).await;
        assert_eq!(volume.read(short, 0, 1).await.expect("read").to_vec(), [round]);
        seen.push(done.get());
    }
    while done.get() < STREAM {
        sleep(&world.clock, Duration::from_millis(1)).await;
    }
    seen
}

#[test]
fn short_requests_are_answered_before_the_payload_that_was_sent_first() {
    for seed in 0..4 {
        let setup = Setup::default();
        let stage = Stage::new(seed, setup, &formatted(&setup));
        stage.start(1);
        let seen = stage.client(|world, volume| async move {
            let (long, short) = (create(&volume, "long").await, create(&volume, "short").await);
            write(&volume, long, 0, 0, LONG).await;
            sleep(&world.clock, Duration::from_millis(50)).await;
            let written = stream(&world, &volume, long, short, false).await;
            (written, stream(&world, &volume, long, short, true).await)
        });
        assert!(seen.0[0] < STREAM / 2 && seen.1[0] < STREAM / 2, "{seen:?} of {STREAM} came first, seed {seed}");
    }
}

#[test]
fn connections_that_break_under_a_stream_lose_nothing() {
    for seed in 0..2 {
        let setup = Setup::default();
        let stage = Stage::new(seed, setup, &formatted(&setup));
        stage.start(2);
        let client = stage.sim.node(1);
        let done = stage.begin_client_on(client, stage.options(), |world, volume| async move {
            let long = create(&volume, "long").await;
            let written = Rc::new(RefCell::new(0));
            for lane in 0..4_u8 {
                let (volume, written) = (volume.clone(), written.clone());
                let task = async move {
                    for n in (0..PIECES).filter(|n| n % 4 == lane) {
                        write(&volume, long, u64::from(n) << 20, n, LONG).await;
                        *written.borrow_mut() += 1;
                    }
                };
                spawn(&world.tasks, Class::Foreground, task).detach();
            }
            while *written.borrow() < PIECES {
                sleep(&world.clock, Duration::from_millis(1)).await;
            }
            for n in 0..PIECES {
                check(&volume, long, n).await;
            }
            volume.shutdown().await.expect("a clean end");
        });
        for _ in 0..200 {
            // Time for a few payloads, and the first connections' own start.
            if stage.sim.run_until(Duration::from_millis(150 + seed * 37), || done.borrow().is_some()) {
                break;
            }
            stage.sim.reset_connections(client, stage.machine(2));
        }
        assert!(stage.sim.run_until(LIMIT, || done.borrow().is_some()), "it does not go on");
        stage.sim.run_for(Duration::from_secs(5));
        let status = stage.status();
        let mut gauges =
            status.iter().flat_map(|core| &core.queues).filter(|queue| queue.name.ends_with("connections"));
        assert!(gauges.all(|queue| queue.used == 0), "a connection is left");
        stage.stop();
        let report = stage.check();
        assert!(report.is_sound(), "{report}");
    }
}

#[test]
fn a_bulk_connection_ends_with_its_session_and_for_a_newer_one() {
    let setup = Setup::default();
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(1);
    let options = stage.options();
    let over = stage.begin_client(stage.options(), move |world, _| async move {
        let peer = Peer::connect(&world, &options).await;
        let first = peer.connect_bulk(&world, &options).await;
        assert!(first.call(ShardId::new(0), Op::Echo, None).await.is_ok());
        let second = peer.connect_bulk(&world, &options).await;
        first.ended().await;
        assert!(second.call(ShardId::new(0), Op::Echo, None).await.is_ok());
        peer.call(ShardId::new(0), Op::CloseSession, None).await.expect("ended");
        second.ended().await;
    });
    assert!(stage.sim.run_until(LIMIT, || over.borrow().is_some()));
}
