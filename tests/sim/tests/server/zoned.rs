//! Histories on a device of zones (docs/decisions/0017-zones.md).

use crate::history::run;
use crate::images::crowded;
use crate::seeds::{plan, seeds, sum_up};
use crate::stage::{Setup, Stage, formatted};

/// Histories that CI runs.
const SEEDS: u64 = 60;

/// Files that leave a small device of zones short of empty ones.
const BALLAST_FILES: u32 = 2400;

#[test]
fn every_history_agrees_with_the_reference_on_zones() {
    let prepare = || {
        let one = Setup::zoned(1, 108);
        let three = Setup { cores_max: 2, ..Setup::zoned(3, 48) };
        let small = Setup { cores_max: 1, ..Setup::zoned(1, 40) };
        [(one, formatted(&one)), (three, formatted(&three)), (small, crowded(small, BALLAST_FILES))]
    };
    let total = sum_up(seeds(SEEDS), prepare, |seed, devices| {
        let (setup, device) = &devices[usize::try_from(seed % 3).expect("small")];
        run(seed, plan(seed), &Stage::new(seed, *setup, device))
    });
    assert!(total.crashes > 0 && total.checkpoints > 0 && total.packed_bytes > 0, "{total:?}");
}
