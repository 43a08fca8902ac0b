//! Records of the replicated state, byte for byte (docs/formats/namespace.md).
//!
//! Hot records (inode, dentry) are hand-coded little-endian with a version byte; cold ones are a
//! version byte and postcard. Decoding never panics: damage is `FsError::Corrupt`.

mod dentry;
mod inode;

pub use dentry::Dentry;
pub use inode::{INODE_BYTES, Inode, SYMLINK_BYTES_MAX};

use crate::view::Value;
use cfs_types::{FsError, RequestNumber};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of every cold record.
const VERSION: u8 = 1;

/// Encodes a cold record.
pub fn encode<T: Serialize>(record: &T) -> Value {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(VERSION);
    let bytes = postcard::to_extend(record, bytes).expect("records always encode");
    bytes.into()
}

/// Decodes a cold record.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FsError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((record, [])) => Ok(record),
            _ => Err(FsError::Corrupt),
        },
        _ => Err(FsError::Corrupt),
    }
}

/// Counters of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Inode records.
    pub inodes: u64,
    /// Of these, directories.
    pub directories: u64,
    /// Sequence of the inode number given out last.
    pub last_sequence: u64,
}

/// What a shard knows of a client session.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Session {
    /// Requests below it are answered and refused if they come again.
    pub oldest: RequestNumber,
    /// Results below it are gone from the store.
    pub trimmed: RequestNumber,
    /// Highest number executed here.
    pub highest: RequestNumber,
    /// The session is over: its requests are refused for good.
    pub expired: bool,
}
