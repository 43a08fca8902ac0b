//! A store that a server left is sound: after an orderly stop, and after a power cut anywhere.

use crate::stage::{Stage, check, formatted};
use crate::workload::{self, Seen};
use std::time::Duration;

#[test]
fn a_formatted_device_is_clean() {
    let report = check(&formatted()).expect("a store");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_store_that_was_stopped_is_clean() {
    for (seed, cores) in [(1, 1), (2, 2), (3, 3)] {
        let stage = Stage::new(seed, cores, &formatted());
        stage.start().expect("it starts");
        stage.client(workload::write).expect("it serves");
        for _ in 0..2 {
            stage.stop();
            let report = check(&stage.device()).expect("a store");
            assert!(report.is_clean(), "seed {seed}: {report}");
            assert!(report.checked.inodes == 49 && report.checked.chunks > 0, "seed {seed}: {report}");
            stage.start().expect("it starts again");
            let seen = stage.client(workload::read).expect("it serves");
            assert!(seen.iter().all(|s| *s == Seen::Right), "seed {seed}: {seen:?}");
        }
    }
}

#[test]
fn a_store_after_a_power_cut_is_sound() {
    let cuts = std::env::var("CFS_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    for seed in 0..cuts {
        let stage = Stage::new(seed, 2, &formatted());
        stage.start().expect("it starts");
        let _client = stage.begin(workload::write);
        stage.run_for(Duration::from_millis(3 + seed * 17 % 230));
        stage.crash();
        let report = check(&stage.device()).expect("a store");
        assert!(report.is_sound(), "seed {seed}: {report}");
        stage.start().expect("it starts again");
        stage.run_for(Duration::from_millis(seed % 7));
        stage.crash();
        let report = check(&stage.device()).expect("a store");
        assert!(report.is_sound(), "seed {seed}, cut again: {report}");
        stage.start().expect("it starts a third time");
        stage.stop();
        let report = check(&stage.device()).expect("a store");
        assert!(report.is_sound(), "seed {seed}, after recovery: {report}");
    }
}
