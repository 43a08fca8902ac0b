//! Why the log refused or failed.

use cfs_device::DeviceError;
use cfs_types::{GroupId, LogIndex};

/// Failure of a log operation.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogError {
    /// Final: a write or flush failed, now or earlier. What was not answered `Ok` may or may not
    /// be on the device. The process must stop.
    #[error("the log has failed: {0}")]
    Failed(DeviceError),
    /// Final: the log was closed; nothing was written.
    #[error("the log is closed")]
    Closed,
    /// Nothing was written; retry after [`crate::CoreLog::wait_room`].
    #[error("the queue of the log is full")]
    QueueFull,
    /// Final: nothing was written.
    #[error("a record of {bytes} bytes is longer than {limit}")]
    RecordTooLong {
        /// Bytes of the payload.
        bytes: usize,
        /// Longest payload.
        limit: usize,
    },
    /// Final: the entry was released, superseded, or never appended.
    #[error("group {group} has no entry {index} in the log")]
    NotFound {
        /// The group.
        group: GroupId,
        /// The index asked for.
        index: LogIndex,
    },
    /// Final: the payload on the device fails its checksum.
    #[error("entry {index} of group {group} is damaged at offset {offset} of the device")]
    EntryDamaged {
        /// The group.
        group: GroupId,
        /// Its index.
        index: LogIndex,
        /// Device offset of the payload.
        offset: u64,
    },
    /// Final: a batch that had been flushed is not readable any more.
    #[error(
        "the log is damaged: batch {sequence} of stream {boot}.{core} in slot {slot} at offset {offset} of the \
         device ({reason}); it had been flushed"
    )]
    Damaged {
        /// Boot number of the stream.
        boot: u64,
        /// Core number of the stream.
        core: u16,
        /// Slot.
        slot: u32,
        /// Device offset.
        offset: u64,
        /// The batch that is missing.
        sequence: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// Final: a batch of a stream is there, but the stream's anchor is gone.
    #[error(
        "the log is damaged: no anchor names stream {boot}.{core}, of which a batch lies in slot {slot} at offset \
         {offset} of the device"
    )]
    AnchorLost {
        /// Boot number of the stream.
        boot: u64,
        /// Core number of the stream.
        core: u16,
        /// Slot.
        slot: u32,
        /// Device offset of the batch.
        offset: u64,
    },
    /// Final: a group has a manifest, which a start without a log cannot have written.
    #[error(
        "the log is damaged: no anchor names a stream, but group {group} has a manifest at offset {offset} of the \
         device"
    )]
    NoStream {
        /// The group.
        group: GroupId,
        /// Device offset of the manifest's first copy.
        offset: u64,
    },
    /// Final: an anchor of a stream holds something that is none.
    #[error("the anchor of log stream {stream} holds no stream")]
    BadAnchor {
        /// Number of the stream's anchor, from 0.
        stream: u16,
    },
    /// Final for this number of cores: too few slots for each, or no anchor left.
    #[error("the log area is too small for {cores} cores: {reason}")]
    TooManyCores {
        /// Cores asked for.
        cores: u16,
        /// What is short.
        reason: &'static str,
    },
    /// The log is full and could not be ended cleanly; nothing acknowledged is lost.
    #[error("no free slot in the log")]
    Full,
    /// An operation on the device failed; see the inner error for whether a retry is safe.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
