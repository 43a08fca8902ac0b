//! Long histories: one store through part after part of mixed load, in some of which the device refuses reads, writes
//! and flushes, while the server goes down over and over. What earlier parts left must still be there; most of it
//! is removed after a while, under crashes too, and in the end all of it: the space comes back.
//!
//! The device loses, tears and reorders what was not flushed, and refuses; it does no damage, after which there would
//! be no long history (`faulty.rs`).

use crate::faulty;
use crate::history::{self, Announce, ME, whole};
use crate::images::Images;
use crate::reference::Reference;
use crate::seeds::{run_all, seeds};
use crate::stage::{LIMIT, SESSION_LIFE, Stage};
use crate::summary::Summary;
use cfs_server::Severity;
use cfs_sim::{DiskFaults, Stream};
use cfs_types::{InodeId, Name};
use cfs_volume::Volume;
use cfs_wire::FileKind;
use std::rc::Rc;
use std::time::Duration;

/// Histories that CI runs.
const SEEDS: u64 = 8;
/// Operations of each.
const OPERATIONS: u64 = 16_000;
/// Operations of a task in one part, at most.
const STEPS_MAX: u64 = 4_000;
/// Times the server goes down in one part, at most.
const DOWNS: u64 = 6;
/// Longest between two of them, microseconds.
const PAUSE_US: u64 = 1_500_000;
/// References of earlier parts that are still there, at most: those of a part or two.
const KEPT_MAX: usize = 9;
/// How often the device refuses, of a million operations.
const REFUSALS: [u32; 3] = [3_000, 20_000, 100_000];
/// What fills a crowded device from the beginning.
const BALLAST: &str = "ballast";
/// What tables may take when everything is removed: each of the 256 shards may keep three that are not merged yet and one
/// that was, of 12 KiB and more each.
const TABLES_BYTES_MAX: u64 = 20 << 20;

/// Operations of a history: `CFS_SIM_OPERATIONS`, or what CI runs.
fn operations() -> u64 {
    std::env::var("CFS_SIM_OPERATIONS").map_or(OPERATIONS, |text| text.parse().expect("a number"))
}

fn refusals(chance: &Stream) -> DiskFaults {
    let rate = REFUSALS[chance.index(REFUSALS.len())];
    let sound = DiskFaults::default();
    match chance.below(4) {
        0 => DiskFaults { read_error_per_million: rate, ..sound },
        1 => DiskFaults { write_error_per_million: rate / 20, ..sound },
        2 => DiskFaults { flush_error_per_million: rate / 20, ..sound },
        _ => DiskFaults {
            read_error_per_million: rate / 4,
            write_error_per_million: rate / 80,
            flush_error_per_million: rate / 80,
            ..sound
        },
    }
}

/// Removes what is below the root, but for what a name says that is kept.
async fn remove(volume: &Volume, is_kept: impl Fn(&Name) -> bool) {
    let (mut todo, mut found) = (vec![InodeId::ROOT], Vec::new());
    while let Some(dir) = todo.pop() {
        for line in whole(volume, dir, 4096, false).await.expect("a directory lists") {
            if dir == InodeId::ROOT && is_kept(&line.name) {
                continue;
            }
            if line.kind == FileKind::Directory {
                todo.push(line.ino);
            }
            found.push((dir, line.name, line.kind));
        }
    }
    // What is below a directory was found after it.
    for (dir, name, kind) in found.iter().rev() {
        let gone = match kind {
            FileKind::Directory => volume.rmdir(&ME, *dir, name).await,
            _ => volume.unlink(&ME, *dir, name).await,
        };
        assert_eq!(gone, Ok(()), "{name:?} in {dir:?}");
    }
}

struct Long<'a> {
    stage: &'a Stage,
    chance: Stream,
    /// What parts left that are not removed.
    kept: Vec<Reference>,
    /// How the names begin that stay below the root.
    labels: Vec<String>,
    summary: Summary,
}

impl Long<'_> {
    /// Clients on a device that answers well.
    fn well(&mut self, seed: u64, label: &str) {
        let few = || 1 + self.chance.index(3);
        let (volumes, tasks, steps) = (few(), few(), 1 + self.chance.below(STEPS_MAX));
        let steps = usize::try_from(steps).expect("small");
        let plan = history::Plan { volumes, tasks, steps, crashes: DOWNS, pause_us: PAUSE_US };
        let part = history::part(seed, plan, self.stage, label, &mut self.kept);
        self.labels.push(format!("{label}-"));
        self.summary.add(&part);
        self.summary.events += u64::try_from(volumes * tasks * steps).expect("small");
    }

    /// Clients on one that refuses.
    fn faulty(&mut self, seed: u64, label: &str) {
        let chance = Stream::new(seed);
        let faults = refusals(&chance);
        let acts = usize::try_from(1 + self.chance.below(STEPS_MAX)).expect("small");
        let plan = faulty::Plan { acts, downs: DOWNS, pause_us: PAUSE_US };
        self.summary.add(&faulty::part(plan, self.stage, label, (chance, faults)));
    }

    fn any_cores(&self) -> u16 {
        u16::try_from(1 + self.chance.below(u64::from(self.stage.setup.cores_max))).expect("few")
    }

    /// Removes old parts, or all, while the server goes down; the sessions of clients that left without a word end.
    fn tidy(&mut self, all: bool) {
        let stage = self.stage;
        stage.start(self.any_cores());
        if all || self.kept.len() > KEPT_MAX {
            self.kept.clear();
            self.labels = vec![BALLAST.into()];
        }
        let labels = self.labels.clone();
        let removed = stage.begin_client(stage.options(), move |_, volume| async move {
            remove(&volume, |name| labels.iter().any(|label| name.as_bytes().starts_with(label.as_bytes()))).await;
            volume.shutdown().await.is_ok()
        });
        for _ in 0..self.chance.below(4) {
            stage.sim.run_for(Duration::from_micros(self.chance.below(PAUSE_US)));
            self.summary.take_down(stage, &self.chance);
            self.summary.check(stage);
            self.summary.start(stage, self.any_cores());
        }
        assert!(stage.sim.run_until(LIMIT, || removed.borrow().is_some()), "removing does not end");
        stage.sim.run_for(2 * SESSION_LIFE);
        self.summary.note_status(&stage.status());
        stage.stop();
        self.summary.check(stage);
    }

    /// What is in use, inodes and bytes free, with a server that was started for this and is stopped.
    fn used(&self) -> (u64, u64) {
        let stage = self.stage;
        stage.start(1);
        let store = stage.client(|world, volume: Rc<Volume>| async move {
            cfs_seam::sleep(&world.clock, 2 * SESSION_LIFE).await;
            let store = volume.statfs().await.expect("answered");
            volume.shutdown().await.expect("a clean end");
            store
        });
        stage.stop();
        (store.inodes, store.bytes_free)
    }
}

/// Runs the history of a seed.
fn run(seed: u64, operations: u64, stage: &Stage) -> Summary {
    let _announce = Announce(seed);
    let chance = Stream::new(seed ^ 0x6c6f_6e67);
    let mut long = Long { stage, chance, kept: Vec::new(), labels: vec![BALLAST.into()], summary: Summary::default() };
    let first = long.used();
    for part in 0.. {
        if long.summary.events >= operations {
            break;
        }
        let (label, seed) = (format!("part-{part}"), long.chance.next());
        stage.say(&label);
        if part % 3 == 1 {
            long.faulty(seed, &label);
        } else {
            long.well(seed, &label);
        }
        long.tidy(false);
    }
    long.tidy(true);
    let last = long.used();
    assert_eq!(last.0, first.0, "inodes that nobody can reach are left");
    let lost = first.1.saturating_sub(last.1);
    assert!(lost <= TABLES_BYTES_MAX, "{lost} of {} bytes that were free did not come back", first.1);
    let report = stage.check();
    let leaks: Vec<_> = report.findings.iter().filter(|finding| finding.severity == Severity::Leak).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
    Summary { histories: 1, trace: stage.sim.trace(), injected: stage.device().injected(), ..long.summary }
}

#[test]
fn long_histories_with_crashes_and_refusals_agree_with_the_reference() {
    let (seeds, operations) = (seeds(SEEDS), operations());
    let history = |seed, images: &Images| {
        let summary = run(seed, operations, &images.stage(seed));
        println!("seed {seed}: {} operations, {} crashes, {} stops", summary.events, summary.crashes, summary.stops);
        summary
    };
    let (results, failed) = run_all(seeds.clone(), 2, Images::new, history);
    let mut total = Summary::default();
    results.iter().for_each(|summary| total.add(summary));
    println!("{total:?}");
    assert!(failed.is_empty(), "wrong histories of seeds {failed:?}: CFS_SIM_SEEDS=from..to runs them again");
    if seeds.end - seeds.start >= SEEDS {
        let all = total.injected;
        let happened = [all.read_errors, all.write_errors, all.flush_errors, total.failures, total.device_ends];
        assert!(happened.iter().all(|count| *count > 0), "the device refuses, and that is noticed: {total:?}");
        assert!(total.crashes > 4 * total.histories, "much goes wrong: {total:?}");
    }
}
