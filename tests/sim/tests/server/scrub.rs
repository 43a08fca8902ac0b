//! Everything is read and verified over and over while clients write, the cleaner moves cells, and the server
//! comes back with another number of cores: no finding of what is sound, and rot is found and named.

use crate::history::{Announce, ME, name};
use crate::seeds::{run_all, seeds};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_observe::ScrubStatus;
use cfs_seam::{World, sleep};
use cfs_server::ScrubConfig;
use cfs_sim::{Crash, Stream};
use cfs_types::{FsError, InodeId};
use cfs_volume::{Creation, Lookup, OpenFlags, RenameMode, Volume, VolumeOptions, WriteFlags};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Histories that CI runs.
const SEEDS: u64 = 6;
/// Directories, each of another shard, so of all cores.
const DIRS: usize = 4;
const FILE_BYTES: usize = 1 << 20;
/// Files that are written or deleted again in a history.
const CHANGES: u64 = 160;
/// Of the blocks of files.
const MARK: u8 = 7;

fn setup() -> Setup {
    let scrub = ScrubConfig { period: Some(Duration::from_millis(400)), bytes_per_second: 1 << 40 };
    let setup = Setup { device_bytes: 384 << 20, log_bytes: 32 << 20, ..Setup::tight() };
    Setup { scrub: Some(scrub), cores_max: 2, ..setup }
}

fn options(stage: &Stage) -> VolumeOptions {
    VolumeOptions { data_cache_bytes: 0, read_ahead_bytes: 0, ..stage.options() }
}

/// What the scrubs of all cores came to.
fn scrub(stage: &Stage) -> ScrubStatus {
    let mut all = ScrubStatus::default();
    for status in stage.status() {
        all.groups += status.scrub.groups;
        all.due_groups += status.scrub.due_groups;
        all.scrubbed_bytes += status.scrub.scrubbed_bytes;
        all.more_findings += status.scrub.more_findings;
        all.findings.extend(status.scrub.findings);
    }
    all
}

fn sum(stage: &Stage, name: &str) -> u64 {
    let status = stage.status();
    let numbers = status.iter().flat_map(|status| &status.numbers).filter(|number| number.name == name);
    numbers.map(|number| number.value).sum()
}

/// Writes a file whole, or some blocks of it; false where the store is full.
async fn write(volume: &Volume, (dir, text): (InodeId, &str), offset: u64, bytes: usize) -> bool {
    let flags = OpenFlags { write: true, direct: true, ..OpenFlags::default() };
    let how = Creation { mode: 0o644, exclusive: false, truncate: false, flags };
    let handle = match volume.create(&ME, dir, &name(text), &how).await {
        Ok((_, handle)) => handle,
        Err(error) => {
            assert_eq!(error, FsError::NoSpace);
            return false;
        }
    };
    let written = volume.write(handle, offset, &vec![MARK; bytes], WriteFlags::default()).await;
    volume.release(handle);
    assert!(matches!(written, Ok(_) | Err(FsError::NoSpace)), "{written:?}");
    written.is_ok()
}

async fn unlink(volume: &Volume, dir: InodeId, text: &str) {
    let gone = volume.unlink(&ME, dir, &name(text)).await;
    assert!(matches!(gone, Ok(()) | Err(FsError::NotFound)), "{gone:?}");
}

async fn dirs(volume: &Volume) -> Vec<InodeId> {
    let mut dirs = Vec::new();
    for number in 0..DIRS {
        let made = volume.mkdir(&ME, InodeId::ROOT, &name(&format!("dir-{number}")), 0o755).await;
        dirs.push(made.expect("made").attr.ino);
    }
    dirs
}

/// Fills the store, then deletes and writes here and there, whole files and blocks of them.
async fn churn(volume: Rc<Volume>, seed: u64, changed: Rc<Cell<u64>>) {
    let (chance, dirs) = (Stream::new(seed), dirs(&volume).await);
    let mut files = 0;
    while write(&volume, (dirs[files % DIRS], &format!("{files}")), 0, FILE_BYTES).await {
        files += 1;
    }
    assert!(files > 100, "{files} files");
    for change in 0..CHANGES {
        let file = chance.index(files);
        let (dir, text) = (dirs[file % DIRS], format!("{file}"));
        match chance.below(4) {
            0 | 1 => unlink(&volume, dir, &text).await,
            2 => {
                write(&volume, (dir, &text), 0, FILE_BYTES).await;
            }
            _ => {
                let block = chance.below(FILE_BYTES as u64 / 4096);
                write(&volume, (dir, &text), block * 4096, 4096 << chance.below(5)).await;
            }
        }
        changed.set(change + 1);
    }
    volume.shutdown().await.expect("a clean end");
}

/// Bytes scrubbed and cleaned.
fn run(seed: u64) -> (u64, u64) {
    let _announce = Announce(seed);
    let (setup, chance) = (setup(), Stream::new(seed ^ 0x0073_6372_7562));
    let stage = Stage::new(seed, setup, &formatted(&setup));
    let mut cores = 1 + u16::try_from(chance.below(2)).expect("small");
    stage.start(cores);
    let changed = Rc::new(Cell::new(0));
    let work = changed.clone();
    let done = stage.begin_client(options(&stage), move |_, volume| churn(volume, seed, work));
    let (mut scrubbed, mut cleaned) = (0, 0);
    for part in 1..=4 {
        assert!(stage.sim.run_until(LIMIT, || changed.get() >= CHANGES * part / 4), "it gets nowhere");
        let now = scrub(&stage);
        assert!(now.findings.is_empty() && now.more_findings == 0, "a false finding: {now:?}");
        if part < 4 && chance.below(2) == 0 {
            scrubbed += now.scrubbed_bytes;
            cleaned += sum(&stage, "cleaned");
            stage.crash(if chance.below(2) == 0 { Crash::Process } else { Crash::Power });
            cores = 3 - cores;
            stage.start(cores);
        }
    }
    assert!(stage.sim.run_until(LIMIT, || done.borrow().is_some()), "the client does not end");
    stage.sim.run_until(Duration::from_secs(3), || false);
    let now = scrub(&stage);
    assert!(now.findings.is_empty() && now.more_findings == 0, "a false finding: {now:?}");
    assert_eq!(*stage.said.lock().expect("not poisoned"), Vec::<String>::new());
    scrubbed += now.scrubbed_bytes;
    cleaned += sum(&stage, "cleaned");
    stage.stop();
    let report = stage.check();
    assert!(report.is_sound(), "{report}");
    (scrubbed, cleaned)
}

#[test]
fn what_is_sound_is_never_a_finding_whatever_the_cleaner_moves() {
    let (results, failed) = run_all(seeds(SEEDS), 3, || (), |seed, ()| run(seed));
    println!("scrubbed and cleaned: {results:?}");
    assert!(failed.is_empty(), "wrong histories of seeds {failed:?}: CFS_SIM_SEEDS=from..to runs them again");
    assert!(results.iter().all(|(scrubbed, _)| *scrubbed > 500 << 20), "hardly anything was verified: {results:?}");
    assert!(results.iter().any(|(_, cleaned)| *cleaned > 0), "nothing was moved meanwhile: {results:?}");
}

async fn fill_little(_: World, volume: Rc<Volume>) -> Vec<InodeId> {
    let dirs = dirs(&volume).await;
    for file in 0..16 {
        assert!(write(&volume, (dirs[file % DIRS], &format!("{file}")), 0, FILE_BYTES).await);
    }
    // Its name is in another shard than the file.
    let moved = volume.rename(&ME, (dirs[0], &name("0")), (dirs[1], &name("moved")), RenameMode::Replace).await;
    moved.expect("renamed");
    volume.shutdown().await.expect("a clean end");
    dirs
}

/// Flips a bit in every block of files that the device has, where `pick` wants it.
fn damage(stage: &Stage, pick: impl Fn(usize) -> bool) -> usize {
    let device = stage.device();
    let bytes = device.peek(0, usize::try_from(stage.setup.device_bytes).expect("small"));
    let blocks = bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().all(|byte| *byte == MARK));
    let chosen: Vec<usize> = blocks.map(|(at, _)| at).enumerate().filter(|(n, _)| pick(*n)).map(|(_, at)| at).collect();
    chosen.iter().for_each(|at| device.flip_bit(*at as u64 * 4096 + 100, 1));
    chosen.len()
}

#[test]
fn rot_is_found_and_named_also_where_the_name_is_in_another_shard_and_is_known_again_after_a_restart() {
    let setup = setup();
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(2);
    stage.client(fill_little);
    // One block of each MiB.
    assert_eq!(damage(&stage, |n| n % 256 == 77), 16);
    for cores in [2, 1] {
        stage.sim.run_until(Duration::from_secs(3), || false);
        let now = scrub(&stage);
        let pieces: Vec<_> = now.findings.iter().flat_map(|finding| &finding.files).collect();
        let mut paths: Vec<String> = pieces.iter().filter_map(|piece| piece.path.clone()).collect();
        paths.sort_unstable();
        let mut expected: Vec<String> = (1..16).map(|file| format!("/dir-{}/{file}", file % DIRS)).collect();
        expected.push("/dir-1/moved".into());
        expected.sort_unstable();
        assert_eq!(paths, expected, "{cores} cores: {now:?}");
        assert!(pieces.iter().all(|piece| piece.to - piece.from == 4096 && piece.from % 4096 == 0), "{now:?}");
        assert_eq!(
            stage.said.lock().expect("not poisoned").len(),
            if cores == 2 { 16 } else { 32 },
            "each is said once"
        );
        stage.crash(Crash::Process);
        stage.start(1);
    }
    stage.client(|world, volume| async move {
        let Ok(Lookup::Found(found)) = volume.lookup(&ME, InodeId::ROOT, &name("dir-1")).await else {
            panic!("it is there");
        };
        let dir = found.attr.ino;
        unlink(&volume, dir, "moved").await;
        volume.shutdown().await.expect("a clean end");
        sleep(&world.clock, Duration::from_secs(5)).await;
    });
    let now = scrub(&stage);
    assert_eq!(now.findings.len(), 15, "{now:?}");
    assert!(now.findings.iter().flat_map(|f| &f.files).all(|f| f.path.as_deref() != Some("/dir-1/moved")), "{now:?}");
    stage.crash(Crash::Process);
}

#[test]
fn after_a_restart_only_the_group_with_a_finding_is_verified_again_before_its_period_is_over() {
    let period = Duration::from_secs(3600);
    let setup = Setup { scrub: Some(ScrubConfig { period: Some(period), bytes_per_second: 1 << 40 }), ..setup() };
    let stage = Stage::new(2, setup, &formatted(&setup));
    stage.start(2);
    stage.client(fill_little);
    // A quarter of the period: the first reads come after an eighth.
    stage.sim.run_until(period / 4, || false);
    let sound = scrub(&stage);
    assert_eq!((sound.findings.len(), sound.due_groups), (0, 0), "{sound:?}");
    assert_eq!(damage(&stage, |n| n == 77), 1);
    stage.sim.run_until(period, || false);
    assert_eq!(scrub(&stage).findings.len(), 1, "{:?}", scrub(&stage));
    stage.crash(Crash::Process);
    stage.start(1);
    stage.sim.run_until(period / 4, || false);
    let again = scrub(&stage);
    assert_eq!((again.findings.len(), again.due_groups), (1, 0), "{again:?}");
    assert!(again.scrubbed_bytes < sound.scrubbed_bytes / 2, "{again:?} after {sound:?}");
    stage.crash(Crash::Process);
}
