//! Settings of a server.

use crate::leases::{OBJECT_BYTES, PIN_BYTES, PinLimits};
use cfs_rpc::Admission;
use cfs_seam::Address;
use cfs_types::{CoreId, GroupId, MapEpoch, ShardId, UNIT_BYTES};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Memory of one core, bytes. What is not counted here does not grow with the number of files; see
/// docs/OPERATIONS.md.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryLimits {
    /// Written but unflushed metadata of all the core's shards.
    pub memtables: usize,
    /// Blocks of sorted tables, and units of file data.
    pub block_cache: usize,
    /// Bytes of recent small writes.
    pub inline_cache: usize,
    /// Who may cache what.
    pub leases: usize,
    /// What sessions hold open.
    pub opens: usize,
    /// Changes under way: their payload, and a unit for each.
    pub changes: usize,
    /// Payload of requests, from before it is received until the answer has left.
    pub requests: usize,
    /// Payload of answers, until it has left.
    pub answers: usize,
}

impl MemoryLimits {
    /// Memory of a core unless it is told otherwise.
    pub const CORE_BYTES: u64 = 256 << 20;
    /// Least memory of a core: every pool has room for the largest request.
    pub const CORE_BYTES_MIN: u64 = 32 << 20;

    /// The usual division of a core's memory: a sixteenth is left to the log's queue and to what
    /// is held for a moment.
    pub fn of_core(bytes: u64) -> Self {
        let part = usize::try_from(bytes / 16).unwrap_or(usize::MAX / 16);
        MemoryLimits {
            memtables: part * 3,
            block_cache: part * 4,
            inline_cache: part * 2,
            leases: part,
            opens: part,
            changes: part * 2,
            requests: part,
            answers: part,
        }
    }

    /// Objects that leases may be held on.
    pub fn lease_objects(&self) -> usize {
        self.leases / OBJECT_BYTES
    }

    /// Inodes that sessions may hold open, with so many cores. One session leaves a quarter to others.
    pub fn pins(&self, cores: u16) -> PinLimits {
        let core = (self.opens / PIN_BYTES).max(1);
        PinLimits { core, session: core.div_ceil(4) * 3, server: core * usize::from(cores) }
    }

    /// Units of 4 KiB that changes under way may take.
    pub fn change_units(&self) -> u64 {
        (self.changes as u64 / u64::from(UNIT_BYTES)).max(1)
    }

    /// Bytes of small writes in the log from which they are packed: while they are still in memory.
    pub fn unpacked(&self) -> u64 {
        self.inline_cache as u64 / 4 * 3
    }
}

impl Default for MemoryLimits {
    fn default() -> Self {
        MemoryLimits::of_core(Self::CORE_BYTES)
    }
}

/// How everything that is stored is read and verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubConfig {
    /// Everything once in so long; None: only where it is asked for.
    pub period: Option<Duration>,
    /// Most bytes that a core reads a second.
    pub bytes_per_second: u64,
}

/// Takes lines for whoever runs the server. Called on cores, so it must not block.
#[derive(Clone)]
pub struct Notices(Arc<dyn Fn(String) + Send + Sync>);

impl Notices {
    /// Lines go to `take`.
    pub fn new(take: impl Fn(String) + Send + Sync + 'static) -> Self {
        Notices(Arc::new(take))
    }

    /// Nobody is told.
    pub fn none() -> Self {
        Notices::new(drop)
    }

    /// Says a line.
    pub fn say(&self, line: String) {
        (self.0)(line);
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notices")
    }
}

/// One server process.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Cores of the process.
    pub cores: u16,
    /// Identity of the cluster, from the superblock.
    pub cluster: [u8; 16],
    /// Differs from start to start.
    pub incarnation: u64,
    /// Where each core listens.
    pub listen: Vec<Vec<Address>>,
    /// Where clients reach each core.
    pub advertised: Vec<String>,
    /// Who may come in.
    pub admission: Admission,
    /// How long a silent client's leases stand in others' way.
    pub lease_term: Duration,
    /// How long a silent session lives.
    pub session_life: Duration,
    /// Longest a request is worked on.
    pub deadline: Duration,
    /// Whether freed segments are discarded on the device.
    pub discard: bool,
    /// Memory of each core.
    pub memory: MemoryLimits,
    /// Version of the shard map.
    pub map_epoch: MapEpoch,
    /// Whether and how everything that is stored is read and verified.
    pub scrub: Option<ScrubConfig>,
    /// Takes what the server has to say to whoever runs it.
    pub notices: Notices,
}

impl ServerConfig {
    /// The core that owns a group.
    pub fn owner(&self, group: GroupId) -> CoreId {
        match group.shard() {
            Some(shard) => CoreId::new(u16::from(shard.get()) % self.cores),
            None => CoreId::new(0),
        }
    }

    /// The owning core of each shard, in order.
    pub fn shard_core(&self) -> Vec<u16> {
        ShardId::all().map(|s| self.owner(s.into()).get()).collect()
    }

    /// The cluster's key of dentry hashes: derived from its identity.
    pub fn name_key(&self) -> [u8; 32] {
        name_key(&self.cluster)
    }
}

/// The key of dentry hashes of a cluster.
pub fn name_key(cluster: &[u8; 16]) -> [u8; 32] {
    blake3::derive_key("CoreFS 2026 dentry cookies", cluster)
}
