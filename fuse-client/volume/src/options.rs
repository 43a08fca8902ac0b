//! What a volume is told at the start, and why a start fails.

use cfs_rpc::RpcError;
use cfs_seam::Address;
use cfs_types::{FsError, SessionId};
use cfs_wire::Secret;
use std::time::Duration;

/// What a request does when the server does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Tries for ever.
    Hard,
    /// Fails with `FsError::TimedOut` after this time.
    Soft(Duration),
}

/// Settings of one volume.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// Where to begin; at least one. The server lists its cores' addresses in its welcome.
    pub addresses: Vec<Address>,
    /// The shared secret; None only for Unix sockets.
    pub secret: Option<Secret>,
    /// Session of this mount's crashed predecessor: ended first, so that nothing waits for what it held.
    pub predecessor: Option<SessionId>,
    /// Written bytes held back, at most, in all files together. 0 writes through.
    pub dirty_bytes_max: usize,
    /// Bytes of file data cached, read-ahead included.
    pub data_cache_bytes: usize,
    /// Bytes fetched ahead of a sequential reader; 0 for none.
    pub read_ahead_bytes: usize,
    /// Inodes whose attributes and entries are cached.
    pub inodes_max: usize,
    /// Names cached, present and absent ones.
    pub entries_max: usize,
    /// What happens while the server is away.
    pub patience: Patience,
}

impl VolumeOptions {
    /// Defaults for these addresses: hard, 64 MiB of write-behind, 64 MiB of data.
    pub fn new(addresses: Vec<Address>, secret: Option<Secret>) -> Self {
        VolumeOptions {
            addresses,
            secret,
            predecessor: None,
            dirty_bytes_max: 64 << 20,
            data_cache_bytes: 64 << 20,
            read_ahead_bytes: 4 << 20,
            inodes_max: 1 << 16,
            entries_max: 1 << 17,
            patience: Patience::Hard,
        }
    }
}

/// Why a volume could not be connected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VolumeError {
    /// The options name no address.
    #[error("no server address given")]
    NoAddress,
    /// The first connection failed; a retry is safe.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// The last address tried.
        address: Address,
        /// Why.
        error: RpcError,
    },
    /// The server's welcome makes no sense (a shard of a core that it does not list).
    #[error("the server at {0} sent an invalid shard map")]
    InvalidMap(Address),
    /// The root directory cannot be read.
    #[error("cannot read the root directory: {0}")]
    Root(FsError),
}
