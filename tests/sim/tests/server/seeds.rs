//! Many small histories, one a seed.

use crate::history::{Plan, run};
use crate::stage::{Setup, formatted};
use cfs_sim::MemoryDisk;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Wrong histories after which the rest is not run.
const FAILURES_MAX: usize = 8;

const SMALL: Plan = Plan { volumes: 2, tasks: 2, steps: 40, crashes: 3, pause_us: 150_000 };

/// The seeds to run: `CFS_SIM_SEEDS=from..to`, or the first `count`.
fn seeds(count: u64) -> Range<u64> {
    let Ok(range) = std::env::var("CFS_SIM_SEEDS") else { return 0..count };
    let parse = |text: &str| text.parse().expect("CFS_SIM_SEEDS is from..to");
    let (from, to) = range.split_once("..").expect("CFS_SIM_SEEDS is from..to");
    parse(from)..parse(to)
}

/// Runs every seed, on two threads, and names those whose history went wrong.
fn run_all(seeds: Range<u64>, setup: Setup, history: impl Fn(u64, &MemoryDisk) + Sync) {
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let work = || {
        let device = formatted(&setup);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.lock().expect("not poisoned").len() >= FAILURES_MAX {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| history(seed, &device))).is_err() {
                failed.lock().expect("not poisoned").push(seed);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failed = failed.into_inner().expect("not poisoned");
    assert!(failed.is_empty(), "wrong histories of seeds {failed:?}: CFS_SIM_SEEDS=from..to runs them again");
}

#[test]
fn every_history_agrees_with_the_reference() {
    let setup = Setup::default();
    run_all(seeds(300), setup, |seed, device| {
        run(seed, SMALL, setup, device);
    });
}
