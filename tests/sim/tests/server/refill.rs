//! A small store of two cores, filled to the last byte from one directory, so by one core, and emptied, ten times: what
//! was acknowledged is there, what `statfs` promises can be written but for little, and it ends with the space it
//! began with, to the unit.

use crate::history::{ME, name};
use crate::stage::{Setup, Stage, formatted};
use cfs_sim::Crash;
use cfs_types::{FsError, InodeId};
use cfs_volume::{Creation, Lookup, OpenFlags, Volume, WriteFlags};
use std::rc::Rc;
use std::time::Duration;

const ROUNDS: u32 = 10;
/// Bytes of a file, by round: chunks of their own, of another length, and small writes that are packed.
const FILE_BYTES: [usize; 3] = [1 << 20, 300_000, 40_000];
/// Of what is promised at least so much can be written also where lengths leave room over at the ends of segments.
const FULL_TENTHS: u64 = 6;
/// What is promised beyond what one core can write of files that do not: less than a region stays with the other core, where it
/// cannot be told from what that core needs for its own work.
const TOLERANCE_BYTES: u64 = 64 << 20;
/// What tables may take when everything is deleted: each of the 256 shards may keep three that are not merged yet and one
/// that was, of 12 KiB and more each.
const TABLES_BYTES_MAX: u64 = 20 << 20;
/// Time for what is deleted to be given back, and for upkeep to end.
const SETTLE_TIME: Duration = Duration::from_secs(60);

fn content(round: u32, file: u32, bytes: usize) -> Vec<u8> {
    let mark = (round * 31 + file).to_le_bytes();
    (0..bytes).map(|at| mark[at / 4096 % 2].wrapping_add((at / 4096).to_le_bytes()[0]) | 1).collect()
}

/// Writes one file; false where the store is full, and then it is gone.
async fn write(volume: &Rc<Volume>, round: u32, file: u32, bytes: usize) -> bool {
    let (dir, at) = (InodeId::ROOT, name(&format!("{round}-{file}")));
    let flags = OpenFlags { write: true, direct: true, ..OpenFlags::default() };
    let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags };
    let handle = match volume.create(&ME, dir, &at, &how).await {
        Ok((_, handle)) => handle,
        Err(error) => {
            assert_eq!(error, FsError::NoSpace);
            return false;
        }
    };
    let written = volume.write(handle, 0, &content(round, file, bytes), WriteFlags::default()).await;
    volume.release(handle);
    if written != Ok(bytes) {
        assert_eq!(written, Err(FsError::NoSpace));
        volume.unlink(&ME, dir, &at).await.expect("deleting works");
    }
    written.is_ok()
}

async fn free(volume: &Volume) -> u64 {
    volume.statfs().await.expect("answered").bytes_free
}

/// Writes files until the store is full; how many.
fn fill(stage: &Stage, round: u32, bytes: usize) -> u32 {
    stage.client(move |_, volume| async move {
        let (promised, mut files) = (free(&volume).await, 0);
        while write(&volume, round, files, bytes).await {
            files += 1;
        }
        let written = u64::from(files) * u64::try_from(bytes).expect("small");
        println!("round {round}: {} MiB promised, {} MiB written in {files} files", promised >> 20, written >> 20);
        assert!(written <= promised && written > promised / 10 * FULL_TENTHS, "{written} of {promised} bytes");
        if bytes == FILE_BYTES[0] {
            assert!(promised - written <= TOLERANCE_BYTES, "{written} of {promised} bytes");
            assert!(free(&volume).await <= TOLERANCE_BYTES, "full, and yet there is room");
        }
        volume.shutdown().await.expect("a clean end");
        files
    })
}

/// Reads every file, and deletes it.
fn empty(stage: &Stage, round: u32, files: u32, bytes: usize) {
    stage.client(move |_, volume| async move {
        for file in 0..files {
            let at = name(&format!("{round}-{file}"));
            let found = volume.lookup(&ME, InodeId::ROOT, &at).await;
            let Ok(Lookup::Found(entry)) = found else { panic!("{at:?} is lost: {found:?}") };
            let handle = volume.open(&ME, entry.attr.ino, OpenFlags::default()).await.expect("it opens");
            let read = volume.read(handle, 0, u32::try_from(bytes + 1).expect("small")).await.expect("it reads");
            assert!(*read == *content(round, file, bytes), "{at:?} is not what was written");
            volume.release(handle);
        }
        for file in 0..files {
            let gone = volume.unlink(&ME, InodeId::ROOT, &name(&format!("{round}-{file}"))).await;
            gone.expect("deleting works");
        }
        volume.shutdown().await.expect("a clean end");
    });
}

/// Units of live cells, as the cores keep their books.
fn live_units(stage: &Stage) -> u64 {
    stage.status().iter().map(|core| core.space_units[1]).sum()
}

/// The cores have counted what is live as they went, the offline check counts what something names: both must know of
/// the same, or what is live and named by nothing would never be free again while the server runs.
fn assert_nothing_leaks(stage: &Stage, round: u32) {
    stage.sim.run_for(SETTLE_TIME);
    let live = live_units(stage);
    stage.crash(Crash::Process);
    let report = stage.check();
    assert!(report.is_clean(), "{report}");
    println!("round {round}: {live} units are live, {} named, {} chunks", report.checked.units, report.checked.chunks);
    assert_eq!((live, 0), (report.checked.units, report.checked.chunks), "units that are live, chunks that are left");
    stage.start(2);
}

#[test]
fn a_store_filled_and_emptied_ten_times_ends_as_it_began() {
    let setup = Setup { device_bytes: 512 << 20, log_bytes: 32 << 20, ..Setup::default() };
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(2);
    let free_now = || stage.client(|_, volume| async move { free(&volume).await });
    let first = free_now();
    for round in 0..ROUNDS {
        let bytes = FILE_BYTES[usize::try_from(round).expect("small") % FILE_BYTES.len()];
        let files = fill(&stage, round, bytes);
        if round % 2 == 1 {
            stage.crash(Crash::Power);
            stage.start(2);
        }
        empty(&stage, round, files, bytes);
        assert_nothing_leaks(&stage, round);
        let back = free_now();
        println!("round {round}: {back} of {first} bytes are free again");
        assert!(back >= first - TABLES_BYTES_MAX, "{back} of {first} bytes come back");
    }
    stage.stop();
    let report = stage.check();
    assert!(report.is_clean(), "{report}");
}
