//! Whether a server is well: a judgement on one snapshot, with reasons.

use cfs_observe::Snapshot;
use serde::{Deserialize, Serialize};

/// Space in use from which a server is degraded, percent.
const FULL_DEGRADED_PERCENT: u64 = 80;
/// Space in use from which it is critical, percent: deletes still work, writes soon will not.
const FULL_CRITICAL_PERCENT: u64 = 95;

/// How well a server is; later ones are worse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Healthy,
    /// Everything is served, but somebody should look.
    Degraded,
    /// Something is not served, or soon will not be.
    Critical,
}

impl Level {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Level::Healthy => "healthy",
            Level::Degraded => "degraded",
            Level::Critical => "critical",
        }
    }
}

/// Why a server is not well.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// How bad.
    pub level: Level,
    /// In words.
    pub what: String,
}

/// Whether a server is well.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// The worst of the reasons.
    pub status: Level,
    /// All of them.
    pub reasons: Vec<Reason>,
}

/// Judges a snapshot.
pub fn health(snapshot: &Snapshot) -> Health {
    let mut reasons = Vec::new();
    let mut say = |level, what: String| reasons.push(Reason { level, what });
    for core in snapshot.silent() {
        say(Level::Critical, format!("core {core} does not answer"));
    }
    for status in snapshot.answered() {
        let core = status.core;
        if let Some(failure) = &status.log_failure {
            say(Level::Critical, format!("the log of core {core} has failed: {failure}"));
        }
        if !status.failed_groups.is_empty() {
            let groups: Vec<String> = status.failed_groups.iter().map(u16::to_string).collect();
            say(
                Level::Critical,
                format!(
                    "groups of core {core} stopped serving because of damage or reads that the device refused: {}; the \
                     next start tries again",
                    groups.join(", ")
                ),
            );
        }
        if status.damaged_reads > 0 {
            let what = format!(
                "core {core} has read damaged data {} times: cfs scrub --start finds out whose it is",
                status.damaged_reads
            );
            say(Level::Degraded, what);
        }
        if let Some(first) = status.scrub.findings.first() {
            let what = format!(
                "the scrub of core {core} knows {} damaged places; cfs scrub lists them: restore these files from a copy, \
                 or delete them. One is {first}",
                status.scrub.open_findings()
            );
            say(Level::Degraded, what);
        }
        if status.refused_reads > 0 {
            let what = format!(
                "the device has refused core {core} {} reads: see the kernel's log, and replace the device if it goes on",
                status.refused_reads
            );
            say(Level::Degraded, what);
        }
    }
    if snapshot.store_gone {
        let what = "the store's file was removed, moved or replaced: what is served has no name, or another one, and may \
                    end with this process; see its standard error";
        say(Level::Critical, what.into());
    }
    let full = snapshot.space().full_percent();
    if full > FULL_DEGRADED_PERCENT {
        let level = if full > FULL_CRITICAL_PERCENT { Level::Critical } else { Level::Degraded };
        say(level, format!("{full} % of the space is in use"));
    }
    let status = reasons.iter().map(|r| r.level).max().unwrap_or(Level::Healthy);
    Health { status, reasons }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_observe::{CorePicture, CoreStatus, Finding, ScrubStatus};

    fn judged(status: CoreStatus) -> (Level, usize) {
        let cores = vec![CorePicture::Answered(Box::new(status))];
        let health = health(&Snapshot { cores, ..Snapshot::default() });
        (health.status, health.reasons.len())
    }
    fn used(live: u64) -> CoreStatus {
        CoreStatus { space_units: [100, live, 0, 100 - live], ..CoreStatus::default() }
    }

    #[test]
    fn a_server_without_trouble_is_healthy() {
        assert_eq!(judged(used(80)), (Level::Healthy, 0));
    }

    #[test]
    fn a_server_that_fills_up_is_degraded_then_critical() {
        assert_eq!((judged(used(81)), judged(used(95))), ((Level::Degraded, 1), (Level::Degraded, 1)));
        assert_eq!(judged(used(96)), (Level::Critical, 1));
    }

    #[test]
    fn damage_that_was_read_degrades_and_what_is_not_served_is_critical() {
        assert_eq!(judged(CoreStatus { damaged_reads: 1, ..used(0) }), (Level::Degraded, 1));
        assert_eq!(judged(CoreStatus { refused_reads: 1, ..used(0) }), (Level::Degraded, 1));
        let what = "fails its checksum".to_string();
        let finding = Finding { what, device_offset: Some(4096), files: Vec::new(), more_files: 0 };
        let scrub = ScrubStatus { findings: vec![finding], ..ScrubStatus::default() };
        assert_eq!(judged(CoreStatus { scrub, ..used(0) }), (Level::Degraded, 1));
        let failed = CoreStatus { failed_groups: vec![3, 9], damaged_reads: 2, ..used(0) };
        assert_eq!(judged(failed), (Level::Critical, 2));
        assert_eq!(judged(CoreStatus { log_failure: Some("write".into()), ..used(0) }), (Level::Critical, 1));
    }

    #[test]
    fn a_core_that_does_not_answer_is_named() {
        let snapshot = Snapshot { cores: vec![CorePicture::Silent(4)], ..Snapshot::default() };
        let health = health(&snapshot);
        assert_eq!(health.status, Level::Critical);
        assert!(health.reasons[0].what.contains("core 4"));
    }
}
