//! What reading and verifying everything has found, as the management plane sees it.

use cfs_types::PlaceName;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A piece of a file whose bytes are damaged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FilePiece {
    /// Number of its inode, as `stat` shows it.
    pub inode: u64,
    /// The shard that owns the inode.
    pub shard: u8,
    /// Its path when the damage was found, bytes that are not printable escaped; None where no name was found.
    pub path: Option<String>,
    /// First byte.
    pub from: u64,
    /// One past the last byte.
    pub to: u64,
}

impl fmt::Display for FilePiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{path}")?,
            None => write!(f, "inode {} of shard {}, no name", self.inode, self.shard)?,
        }
        write!(f, ", bytes {}..{}", self.from, self.to)
    }
}

/// Something stored that is not what was written, or that the device refuses to read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong.
    pub what: String,
    /// Where, as far as known: bytes from the start of the device; its number is in the upper 7 bits.
    pub device_offset: Option<u64>,
    /// The files that it takes from: the first few pieces.
    pub files: Vec<FilePiece>,
    /// How many more pieces there are.
    pub more_files: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.files {
            write!(f, "{piece}; ")?;
        }
        if self.more_files > 0 {
            write!(f, "and {} more pieces of files; ", self.more_files)?;
        }
        f.write_str(&self.what)?;
        self.device_offset.map_or(Ok(()), |offset| write!(f, " ({})", PlaceName(offset)))
    }
}

/// How far the scrub of a core is, and what it knows of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Groups that it goes through.
    pub groups: u64,
    /// Those that are to be verified now.
    pub due_groups: u64,
    /// Everything was verified since then, seconds since 1970; 0 where some of it never was, as far as known.
    pub verified_since_seconds: u64,
    /// Bytes read and verified since the start.
    pub scrubbed_bytes: u64,
    /// What is known to be damaged: the first of it.
    pub findings: Vec<Finding>,
    /// How much more there is.
    pub more_findings: u64,
}

impl ScrubStatus {
    /// Everything that is known to be damaged.
    pub fn open_findings(&self) -> u64 {
        self.findings.len() as u64 + self.more_findings
    }
}
