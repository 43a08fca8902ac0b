//! What /v1/scrub says and takes.

use cfs_observe::{CorePicture, ScrubStatus, Snapshot};
use serde::{Deserialize, Serialize};

/// How reading and verifying everything goes, and what it has found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Nothing is left to be verified, as far as the cores that answered know.
    pub is_idle: bool,
    /// Places known to be damaged.
    pub open_findings: u64,
    /// Each core that answered.
    pub cores: Vec<CoreScrub>,
    /// Those that did not.
    pub silent_cores: Vec<u16>,
}

/// One core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CoreScrub {
    /// Which.
    pub core: u16,
    /// Its scrub.
    #[serde(flatten)]
    pub scrub: ScrubStatus,
}

impl ScrubReport {
    /// Of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let cores = snapshot.cores.iter().filter_map(|picture| match picture {
            CorePicture::Answered(status) => Some(CoreScrub { core: status.core, scrub: status.scrub.clone() }),
            CorePicture::Silent(_) => None,
        });
        let cores: Vec<CoreScrub> = cores.collect();
        ScrubReport {
            is_idle: cores.iter().all(|core| core.scrub.due_groups == 0),
            open_findings: cores.iter().map(|core| core.scrub.open_findings()).sum(),
            cores,
            silent_cores: snapshot.silent().collect(),
        }
    }

    /// Groups that are to be verified yet, and all of them.
    pub fn groups(&self) -> (u64, u64) {
        let sum = |of: fn(&ScrubStatus) -> u64| self.cores.iter().map(|core| of(&core.scrub)).sum();
        (sum(|s| s.due_groups), sum(|s| s.groups))
    }
}

/// What starts a scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScrubStart {
    /// Without the limit of rate.
    pub unpaced: bool,
}
