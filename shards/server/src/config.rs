//! Settings of a server.

use cfs_rpc::Admission;
use cfs_seam::Address;
use cfs_types::{CoreId, GroupId, MapEpoch, ShardId};
use std::time::Duration;

/// Memory of one core, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryLimits {
    /// Written but unflushed metadata of all the core's shards.
    pub memtables: usize,
    /// Blocks of sorted tables.
    pub block_cache: usize,
    /// Bytes of recent small writes.
    pub inline_cache: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        MemoryLimits { memtables: 48 << 20, block_cache: 64 << 20, inline_cache: 32 << 20 }
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
