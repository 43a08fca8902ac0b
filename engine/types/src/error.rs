//! What a file system operation can answer instead of a result.

use serde::{Deserialize, Serialize};

/// Failure of an operation, as state machines, server and client see it.
///
/// The numbers of errno appear only in `fuse-client/fuse`. "Final" means: the same request gets
/// the same answer while the namespace is unchanged. The order is part of the wire format:
/// append only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum FsError {
    /// Final.
    #[error("no such file or directory")]
    NotFound,
    /// Final.
    #[error("file exists")]
    Exists,
    /// Final.
    #[error("not a directory")]
    NotDirectory,
    /// Final.
    #[error("is a directory")]
    IsDirectory,
    /// Final.
    #[error("directory not empty")]
    NotEmpty,
    /// Final.
    #[error("invalid argument")]
    Invalid,
    /// Final.
    #[error("operation not permitted")]
    NotPermitted,
    /// Final.
    #[error("permission denied")]
    AccessDenied,
    /// Final until space is freed.
    #[error("no space left on device")]
    NoSpace,
    /// Final.
    #[error("file too large")]
    FileTooLarge,
    /// Final.
    #[error("name too long")]
    NameTooLong,
    /// Final.
    #[error("too many links")]
    TooManyLinks,
    /// Final: a directory would become its own ancestor, or a symlink loop.
    #[error("would create a loop")]
    Loop,
    /// Final: no such extended attribute, or no data or hole after the offset is `NoExtent`.
    #[error("no such attribute")]
    NoAttribute,
    /// Final: SEEK_DATA or SEEK_HOLE at or beyond the end.
    #[error("no such extent")]
    NoExtent,
    /// Final: the caller's buffer is too small.
    #[error("result does not fit the buffer")]
    Range,
    /// Final: value longer than the limit.
    #[error("argument too large")]
    TooLarge,
    /// Final.
    #[error("operation not supported")]
    NotSupported,
    /// Data or metadata failed its checksum; an event names the place. Final until repaired.
    #[error("stored data is damaged")]
    Corrupt,
    /// The device refused I/O; an event names it.
    #[error("device error")]
    Device,
    /// The inode number is of a file that is gone.
    #[error("stale file handle")]
    Stale,
    /// Retry with back-off: a queue or a limit is full.
    #[error("busy, retry later")]
    Busy,
    /// Retry now: the state the request assumed has changed (expected child, epoch, term).
    #[error("state changed, retry")]
    Conflict,
    /// Retry at another core: this one does not own the shard; the reply carries the map epoch.
    #[error("shard is served elsewhere")]
    WrongShard,
    /// Not retryable in this session: it was fenced or never existed.
    #[error("session expired")]
    SessionExpired,
    /// The deadline passed; the outcome of a mutation is unknown until retried with its number.
    #[error("deadline passed")]
    TimedOut,
    /// No secret, or the wrong one.
    #[error("not authorised")]
    Unauthorised,
    /// The peer's bytes do not decode.
    #[error("malformed message")]
    Malformed,
    /// The opcode is not known to this version.
    #[error("unknown operation")]
    UnknownOperation,
    /// A signal ended the wait.
    #[error("interrupted")]
    Interrupted,
    /// The mount or the store takes no changes.
    #[error("mount is read-only")]
    ReadOnly,
    /// A read depends on the outcome of an undecided transaction: wait for it, then retry.
    #[error("blocked by a transaction")]
    Blocked,
    /// Final until something is closed: the server holds open all that it may.
    #[error("too many open files")]
    TooManyOpen,
}

impl FsError {
    /// Whether the device, or what it holds, is to blame: a shard that says so of a command may have made it
    /// durable all the same.
    pub fn is_failure(self) -> bool {
        matches!(self, FsError::Device | FsError::Corrupt)
    }
}
