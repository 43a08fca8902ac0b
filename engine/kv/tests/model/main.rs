//! The store against an ordered map of all versions: any operations in any order, power cuts in the middle of
//! them. A failure is shrunk to few operations.
//!
//! One thing after the other on a device that answers at once, so that millions of operations are cheap; what
//! happens side by side is for `store.rs`. A change is written, proposed, made durable and installed by separate
//! operations, so that anything comes between.
//!
//!     PROPTEST_CASES=10000 cargo test --release -p cfs-kv --test model -- --nocapture   # ten million operations
//!
//! `PROPTEST_RNG_SEED` chooses other ones.

mod operation;
mod rig;

use operation::{Case, cases};
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use rig::{Counts, Rig};
use std::cell::RefCell;

/// Cases of an ordinary run.
const CASES: u32 = 200;
/// What `cargo test` runs, the same every time.
const SEED: u64 = 7;
/// Runs of a case that failed, to make it smaller.
const SHRINK_RUNS_MAX: u32 = 20_000;

fn config() -> Config {
    let mut config = Config { failure_persistence: None, max_shrink_iters: SHRINK_RUNS_MAX, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    if matches!(config.rng_seed, RngSeed::Random) {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    config
}

#[test]
fn any_operations_and_power_cuts_leave_what_an_ordered_map_says() {
    let (config, total) = (config(), RefCell::new(Counts::default()));
    let (wanted, seed) = (config.cases, config.rng_seed);
    let result = TestRunner::new(config).run(&cases(), |case: Case| {
        let mut rig = Rig::new(&case);
        let played = case.operations.iter().try_for_each(|operation| rig.step(operation));
        let ended = played.and_then(|()| rig.end());
        total.borrow_mut().add(&rig.counts);
        ended
    });
    if let Err(TestError::Fail(reason, case)) = &result {
        panic!("{reason}\nseed {seed}, the smallest case found, {} operations: {case:#?}", case.operations.len());
    }
    assert!(result.is_ok(), "{result:?}");
    let total = total.into_inner();
    println!("{total:?}");
    if wanted >= CASES {
        let happened = [
            total.cuts_inside,
            total.flushes,
            total.compactions,
            total.relocations,
            total.replacements,
            total.lists,
            total.given_up,
            total.past_reads,
        ];
        assert!(happened.iter().all(|count| *count >= u64::from(wanted) / 20), "everything happens: {total:?}");
        assert!(total.level_max >= 3, "compaction goes deep: {total:?}");
    }
}
