//! What histories came to: whether they reached what they are meant to reach.

use crate::stage::Stage;
use cfs_observe::{CoreStatus, Unit};
use cfs_server::Severity;
use cfs_sim::{Injected, Stream};

/// Counts of one history or many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Histories.
    pub histories: u64,
    /// The digest of every decision in them.
    pub trace: u64,
    /// Times the server went down without being told.
    pub crashes: u64,
    /// Times it was told to stop while clients worked.
    pub stops: u64,
    /// Starts and offline checks that found the tail of a log stream torn by a crash.
    pub torn: u64,
    /// Cells that nothing names, found offline.
    pub leaks: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Steps of compaction.
    pub compactions: u64,
    /// Bytes of small writes that were packed.
    pub packed_bytes: u64,
    /// Bytes that the cleaner moved.
    pub cleaned_bytes: u64,
    /// Messages from core to core.
    pub messages: u64,
    /// Overwrites committed in a range of another shard.
    pub overwrites: u64,
    /// Leases revoked.
    pub revocations: u64,
    /// Clients that died.
    pub lost_clients: u64,
    /// Operations whose order was sought.
    pub events: u64,
    /// Of these, without a known result.
    pub unanswered: u64,
    /// Of these, that ended in an input/output error.
    pub failures: u64,
    /// What the device did wrong.
    pub injected: Injected,
    /// Times the server stopped because of it.
    pub device_ends: u64,
    /// Times it refused to start because of it.
    pub refused: u64,
    /// Looks in the end, on a device that answered well, that ended in an input/output error.
    pub unreadable: u64,
}

impl Summary {
    /// Adds the counts of another one.
    pub fn add(&mut self, other: &Summary) {
        self.histories += other.histories;
        self.trace ^= other.trace;
        self.crashes += other.crashes;
        self.stops += other.stops;
        self.torn += other.torn;
        self.leaks += other.leaks;
        self.checkpoints += other.checkpoints;
        self.compactions += other.compactions;
        self.packed_bytes += other.packed_bytes;
        self.cleaned_bytes += other.cleaned_bytes;
        self.messages += other.messages;
        self.overwrites += other.overwrites;
        self.revocations += other.revocations;
        self.lost_clients += other.lost_clients;
        self.events += other.events;
        self.unanswered += other.unanswered;
        self.failures += other.failures;
        self.injected.add(&other.injected);
        self.device_ends += other.device_ends;
        self.refused += other.refused;
        self.unreadable += other.unreadable;
    }

    /// Adds what the cores did since they started.
    pub fn note_status(&mut self, cores: &[CoreStatus]) {
        for number in cores.iter().flat_map(|core| &core.numbers) {
            let count = match (number.name, number.unit) {
                ("store", Unit::Of("flushes")) => &mut self.checkpoints,
                ("store", Unit::Of("compactions")) => &mut self.compactions,
                ("packed", _) => &mut self.packed_bytes,
                ("cleaned", _) => &mut self.cleaned_bytes,
                ("ranges", _) => &mut self.overwrites,
                ("lease", _) => &mut self.revocations,
                ("mesh_sent", _) => &mut self.messages,
                _ => continue,
            };
            *count += number.value;
        }
    }

    /// Takes the server down under the clients that work: most times it crashes, else it is told to stop,
    /// which for them is a wait, too.
    pub fn take_down(&mut self, stage: &Stage, chance: &Stream) {
        if chance.below(4) == 0 {
            stage.stop();
            self.stops += 1;
        } else {
            stage.crash_by_chance(chance);
            self.crashes += 1;
        }
    }

    /// Starts a server that was down, and adds what it found.
    pub fn start(&mut self, stage: &Stage, cores: u16) {
        stage.start(cores);
        self.torn += u64::from(stage.number(0, "log_torn") > 0);
    }

    /// Checks the store offline, which must be sound, and adds what was found.
    pub fn check(&mut self, stage: &Stage) {
        let report = stage.check();
        assert!(report.is_sound(), "{report}");
        self.torn += u64::from(report.findings.iter().any(|finding| finding.what.contains("torn")));
        let leaks = report.findings.iter().filter(|finding| finding.severity == Severity::Leak);
        self.leaks += u64::try_from(leaks.count()).expect("few");
    }
}
