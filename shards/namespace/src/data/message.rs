//! What an inode's shard tells the shards of its ranges, by outbox.
//!
//! Bytes of small writes are not in the message: it names where they are in the log of the
//! sending shard. The driver that delivers it takes them from there, puts them into the data area
//! of the delivering entry, and tells with [`DataMessage::carried_at`] where: from then on
//! they are bytes of an entry of the receiving shard, like those of any other small write.

use super::place::{LogRef, Place};
use cfs_types::{InodeId, LogIndex, RangeIndex};
use serde::{Deserialize, Serialize};

/// A change to the extents of one range.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// These bytes are what was written at `offset`.
    Write {
        /// From the beginning of the file.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Where they are.
        place: Place,
        /// Bytes the chunk was written with; 0 where they are in a log entry.
        chunk_len: u32,
    },
    /// The file ends here: what lies beyond is gone.
    Cut {
        /// From the beginning of the file.
        from: u64,
    },
    /// The span is a hole.
    Hole {
        /// First byte.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// The span reads as zeros and is allocated.
    Zero {
        /// First byte.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// The holes of the span are allocated.
    Allocate {
        /// First byte.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// The file is gone.
    Forget,
}

/// A message to the shard of a range. Part of the log's format: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DataMessage {
    /// The file.
    pub ino: InodeId,
    /// The range.
    pub range: RangeIndex,
    /// The file's epoch.
    pub epoch: u64,
    /// Rises with every message about the file.
    pub sequence: u64,
    /// What happens to the range.
    pub change: Change,
}

impl DataMessage {
    /// The bytes that the driver has to put into the delivering entry: a slice of the *sending*
    /// shard's log.
    pub fn carries(&self) -> Option<&LogRef> {
        match &self.change {
            Change::Write { place: Place::Log(slice), .. } => Some(slice),
            _ => None,
        }
    }

    /// Records where in the delivering entry's data area the driver has put these bytes.
    pub fn carried_at(&mut self, data_offset: u32) {
        if let Change::Write { place: Place::Log(slice), .. } = &mut self.change {
            slice.data_offset = data_offset;
        }
    }
}

impl Change {
    /// The same change with its inline bytes in entry `index`.
    pub(super) fn delivered_in(&self, index: LogIndex) -> Change {
        let mut change = self.clone();
        if let Change::Write { place: Place::Log(slice), .. } = &mut change {
            slice.index = index;
        }
        change
    }
}
