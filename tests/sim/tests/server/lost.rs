//! Entries that rot in the log of a running server.

use crate::history::{ME, name};
use crate::pressure::open_new;
use crate::stage::{Setup, Stage, formatted};
use cfs_server::MemoryLimits;
use cfs_sim::Crash;
use cfs_types::{FsError, InodeId};
use cfs_volume::{Lookup, OpenFlags, Volume, WriteFlags};
use std::rc::Rc;

const PIECE: u32 = 8 << 10;
const SMALL_WRITE: usize = 32 << 10;
/// Written over and over: several times what the log holds.
const ROUNDS: u64 = 600;

async fn write(volume: &Volume, handle: cfs_volume::Handle, at: u64, byte: u8, len: usize) {
    assert_eq!(volume.write(handle, at, &vec![byte; len], WriteFlags::default()).await, Ok(len));
    volume.fsync(handle).await.expect("durable");
}

/// Three pieces of one file, each in an entry of its own, and more than the cache of small writes holds.
async fn write_pieces(volume: Rc<Volume>) {
    let (victim, other) = (open_new(&volume, "victim").await, open_new(&volume, "other").await);
    for (n, byte) in (0..).zip(*b"abc") {
        write(&volume, victim, n * u64::from(PIECE), byte, PIECE as usize).await;
    }
    for n in 0..4 {
        write(&volume, other, n * u64::from(PIECE), b'o', PIECE as usize).await;
    }
    volume.shutdown().await.expect("a clean end");
}

async fn wrap_log(volume: Rc<Volume>) {
    let handle = open_new(&volume, "filler").await;
    for n in 0..ROUNDS {
        write(&volume, handle, n % 64 * SMALL_WRITE as u64, b'f', SMALL_WRITE).await;
    }
    volume.shutdown().await.expect("a clean end");
}

async fn check(volume: Rc<Volume>) {
    let Ok(Lookup::Found(entry)) = volume.lookup(&ME, InodeId::ROOT, &name("victim")).await else { panic!("gone") };
    let handle = volume.open(&ME, entry.attr.ino, OpenFlags { direct: true, ..OpenFlags::default() }).await;
    let handle = handle.expect("opened");
    for (n, expected) in (0_u64..).zip([Ok(b'a'), Err(FsError::Corrupt), Ok(b'c')]) {
        let found = volume.read(handle, n * u64::from(PIECE), PIECE).await;
        let found =
            found.map(|bytes| (bytes.len(), bytes.first().copied(), bytes.iter().all(|byte| *byte == bytes[0])));
        assert_eq!(found, expected.map(|byte| (PIECE as usize, Some(byte), true)), "piece {n}");
    }
    volume.release(handle);
    volume.shutdown().await.expect("a clean end");
}

/// Flips a bit of the entry with the second piece.
fn rot(stage: &Stage) {
    let (device, setup) = (stage.device(), stage.setup);
    let log = device.peek(17 << 20, usize::try_from(setup.log_bytes).expect("small"));
    let found =
        log.windows(PIECE as usize).position(|bytes| bytes.iter().all(|byte| *byte == b'b')).expect("it is in the log");
    device.flip_bit((17 << 20) + found as u64 + 100, 1);
}

#[test]
fn an_entry_that_rots_costs_what_it_wrote_and_nothing_else() {
    let mut setup = Setup { memory: MemoryLimits::default(), ..Setup::short_log() };
    setup.memory.inline_cache = 2 * PIECE as usize;
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(1);
    stage.client(|_, volume| write_pieces(volume));
    rot(&stage);
    stage.client(|_, volume| check(volume));
    stage.client(|_, volume| wrap_log(volume));
    assert_eq!(stage.number(0, "log_lost"), 1);
    stage.client(|_, volume| check(volume));
    stage.crash(Crash::Power);
    stage.start(1);
    stage.client(|_, volume| check(volume));
    stage.stop();

    let report = stage.check();
    let told: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.damage == 1 && told.iter().any(|f| f.contains("victim") && f.contains("8192")), "{report}");
    stage.start(1);
    stage.client(|_, volume| async move {
        volume.unlink(&ME, InodeId::ROOT, &name("victim")).await.expect("deleting works");
        volume.shutdown().await.expect("a clean end");
    });
    stage.client(|_, volume| async move { volume.shutdown().await.expect("a clean end") });
    stage.stop();
    let report = stage.check();
    assert!(report.is_sound(), "{report}");
}
