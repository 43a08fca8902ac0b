//! Many small histories, one a seed.

use crate::history::{Plan, run};
use crate::images::Images;
use crate::summary::Summary;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Wrong histories after which the rest is not run.
const FAILURES_MAX: usize = 8;

/// Histories that CI runs.
const SEEDS: u64 = 1200;
/// Of so many histories one is run twice.
const TWICE_EACH: u64 = 16;

/// Runs every seed, some twice, and sums up what the histories came to; all must be right.
pub fn sum_up<P>(
    seeds: Range<u64>,
    prepare: impl Fn() -> P + Sync,
    history: impl Fn(u64, &P) -> Summary + Sync,
) -> Summary {
    let (results, failed) = run_all(seeds, FAILURES_MAX, prepare, |seed, prepared| {
        let summary = history(seed, prepared);
        if seed.is_multiple_of(TWICE_EACH) {
            assert_eq!(history(seed, prepared), summary, "one seed is one history");
        }
        summary
    });
    let mut total = Summary::default();
    results.iter().for_each(|summary| total.add(summary));
    println!("{total:?}");
    assert!(failed.is_empty(), "wrong histories of seeds {failed:?}: CFS_SIM_SEEDS=from..to runs them again");
    total
}

/// The plan of a history.
pub fn plan(seed: u64) -> Plan {
    let few = |shift: u32| usize::try_from(1 + (seed >> shift) % 3).expect("small");
    Plan { volumes: few(3), tasks: few(5), steps: 40, crashes: 4, pause_us: 150_000 }
}

/// The seeds to run: `CFS_SIM_SEEDS=from..to`, or the first `count`.
pub fn seeds(count: u64) -> Range<u64> {
    let Ok(range) = std::env::var("CFS_SIM_SEEDS") else { return 0..count };
    let parse = |text: &str| text.parse().expect("CFS_SIM_SEEDS is from..to");
    let (from, to) = range.split_once("..").expect("CFS_SIM_SEEDS is from..to");
    parse(from)..parse(to)
}

/// Runs every seed, on two threads, with what `prepare` makes on each; returns the results of those
/// that went well, in no order, and the seeds of those that did not. Begins no more after `failures_max` of those.
pub fn run_all<P, T: Send>(
    seeds: Range<u64>,
    failures_max: usize,
    prepare: impl Fn() -> P + Sync,
    history: impl Fn(u64, &P) -> T + Sync,
) -> (Vec<T>, Vec<u64>) {
    let (next, done, failed) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let work = || {
        let prepared = prepare();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.lock().expect("not poisoned").len() >= failures_max {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| history(seed, &prepared))) {
                Ok(result) => done.lock().expect("not poisoned").push(result),
                Err(_) => failed.lock().expect("not poisoned").push(seed),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let mut failed = failed.into_inner().expect("not poisoned");
    failed.sort_unstable();
    (done.into_inner().expect("not poisoned"), failed)
}

#[test]
fn every_history_agrees_with_the_reference() {
    let seeds = seeds(SEEDS);
    let total = sum_up(seeds.clone(), Images::new, |seed, images| run(seed, plan(seed), &images.stage(seed)));
    if seeds.end - seeds.start >= SEEDS {
        assert!(total.torn > SEEDS / 50, "tails of the log are torn: {total:?}");
        assert!(total.crashes + total.stops > 2 * total.histories, "much goes wrong: {total:?}");
        assert!(total.stops > total.histories / 5, "it also stops under clients that work: {total:?}");
        let upkeep = [
            total.checkpoints,
            total.compactions,
            total.packed_bytes,
            total.cleaned_bytes,
            total.messages,
            total.overwrites,
        ];
        assert!(upkeep.iter().all(|count| *count > 0), "and upkeep is in the way: {total:?}");
    }
}
