//! The dentry record, version 1: what a name in a directory leads to.

use super::inode::{kind_from_byte, kind_to_byte};
use crate::view::Value;
use cfs_types::{FsError, InodeId};
use cfs_wire::FileKind;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;

/// What a name leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dentry {
    /// The inode, in any shard.
    pub ino: InodeId,
    /// Its kind, which never changes.
    pub kind: FileKind,
}

impl Dentry {
    /// Whether it leads to a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// The record's bytes.
    pub fn encode(&self) -> Value {
        let mut out = [0; 10];
        out[0] = VERSION;
        out[1] = kind_to_byte(self.kind);
        out[2..].copy_from_slice(&self.ino.get().to_le_bytes());
        out.as_slice().into()
    }

    /// Reads a record; `Corrupt` where it is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, FsError> {
        let &[VERSION, kind, ref ino @ ..] = bytes else {
            return Err(FsError::Corrupt);
        };
        let ino: [u8; 8] = ino.try_into().map_err(|_| FsError::Corrupt)?;
        let ino = InodeId::from_raw(u64::from_le_bytes(ino)).ok_or(FsError::Corrupt)?;
        Ok(Dentry { ino, kind: kind_from_byte(kind).ok_or(FsError::Corrupt)? })
    }
}
