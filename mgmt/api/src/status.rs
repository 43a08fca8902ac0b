//! What /v1/status says, as types that a client can read it with.

use crate::health::{Health, health};
use cfs_observe::{CorePicture, Snapshot};
use serde::{Deserialize, Serialize};

/// What does not change while the server lives.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct About {
    /// Version of the binary.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Data directory or device.
    pub target: String,
    /// RPC address of core 0.
    pub listen: String,
}

/// Space, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// On the device.
    pub total_bytes: u64,
    /// In use.
    pub used_bytes: u64,
    /// What file data may still take.
    pub available_bytes: u64,
    /// Share in use.
    pub full_percent: u64,
}

/// One core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CoreSummary {
    /// Which.
    pub core: u16,
    /// Whether it answered.
    pub answering: bool,
    /// Raft groups.
    pub groups: u64,
    /// Requests answered since start.
    pub requests_total: u64,
    /// Sessions connected.
    pub sessions: u64,
}

/// A server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    /// What does not change.
    #[serde(flatten)]
    pub about: About,
    /// How well it is.
    pub health: Health,
    /// Since the process started.
    pub uptime_seconds: f64,
    /// Space of all cores that answered.
    pub space: SpaceStatus,
    /// Inodes in use.
    pub inodes: u64,
    /// Client sessions: the most that one core is connected to, as a session connects to several.
    pub sessions: u64,
    /// Requests answered since start.
    pub requests_total: u64,
    /// CPU time of the process.
    pub cpu_seconds: f64,
    /// Memory of the process.
    pub resident_bytes: u64,
    /// Each core.
    pub cores: Vec<CoreSummary>,
}

impl ServerStatus {
    /// A snapshot in brief.
    pub fn of(about: &About, snapshot: &Snapshot) -> Self {
        let cores: Vec<CoreSummary> = snapshot.cores.iter().map(summary).collect();
        let space = snapshot.space();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        ServerStatus {
            about: about.clone(),
            health: health(snapshot),
            uptime_seconds: (now.as_secs_f64() - snapshot.process.start_time_seconds).max(0.0),
            space: SpaceStatus {
                total_bytes: space.total_bytes,
                used_bytes: space.used_bytes,
                available_bytes: space.available_bytes,
                full_percent: space.full_percent(),
            },
            inodes: snapshot.answered().map(|s| s.inodes).sum(),
            sessions: snapshot.answered().map(|s| s.sessions).max().unwrap_or_default(),
            requests_total: snapshot.answered().map(|s| s.requests_total()).sum(),
            cpu_seconds: snapshot.process.cpu_seconds,
            resident_bytes: snapshot.process.resident_bytes,
            cores,
        }
    }
}

fn summary(picture: &CorePicture) -> CoreSummary {
    match picture {
        CorePicture::Answered(s) => CoreSummary {
            core: s.core,
            answering: true,
            groups: s.groups,
            requests_total: s.requests_total(),
            sessions: s.sessions,
        },
        CorePicture::Silent(core) => {
            CoreSummary { core: *core, answering: false, groups: 0, requests_total: 0, sessions: 0 }
        }
    }
}
