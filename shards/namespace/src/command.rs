//! What a log entry carries: batches of commands, executed in order.

use crate::data::{DataCommand, DataMessage, Layout};
use crate::txn::{TxId, TxnCommand};
use cfs_types::{FsError, InodeId, LogIndex, Nanos, RequestNumber, SessionId, ShardId, Term, Timestamp, VolumeId};
use cfs_wire::{Identity, Op};
use serde::{Deserialize, Serialize};

/// Where and when a command executes; the same on every replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryContext {
    /// The shard.
    pub shard: ShardId,
    /// Term of the entry: the leader that proposed it. Queries pass the current term.
    pub term: Term,
    /// Index of the entry.
    pub index: LogIndex,
    /// Commit timestamp.
    pub timestamp: Timestamp,
    /// Wall time of the proposal: what files get as times.
    pub now: Nanos,
    /// The cluster's key of dentry hashes.
    pub name_key: [u8; 32],
    /// The volume.
    pub volume: VolumeId,
    /// How files are cut into ranges.
    pub layout: Layout,
}

/// One deterministic change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command {
    /// The client's session; 0 for the server's own commands.
    pub session: SessionId,
    /// The session's number of the request; 0 needs no exactly-once.
    pub number: RequestNumber,
    /// Oldest request the session still waits for.
    pub oldest: RequestNumber,
    /// Who asks.
    pub identity: Identity,
    /// What to do.
    pub body: CommandBody,
}

impl Command {
    /// A command of the server itself, without session and exactly-once.
    pub fn internal(body: CommandBody) -> Self {
        Command {
            session: SessionId::new(0),
            number: RequestNumber::new(0),
            oldest: RequestNumber::new(0),
            identity: Identity::default(),
            body,
        }
    }
}

/// Kinds of commands. Part of the log's format: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CommandBody {
    /// A client's metadata operation that the directory's or inode's shard executes alone: all
    /// but those that `txn::Coordinator::handles`.
    Op {
        /// The operation.
        op: Op,
        /// Of an unlink: the inode whose leases were revoked and whose holders were asked. Where the name
        /// leads to another one by now, the answer is `Conflict`. None: it was not looked at.
        asked: Option<InodeId>,
        /// Sessions that hold that inode open.
        pinned_by: Vec<SessionId>,
    },
    /// Extents, chunks, ranges.
    Data(DataCommand),
    /// A step of a transaction between shards.
    Txn(TxnCommand),
    /// The next message of a peer's outbox.
    Deliver {
        /// The peer.
        from: ShardId,
        /// Its sequence: executed once, in order.
        sequence: u64,
        /// What it says.
        message: Message,
        /// Sessions that hold the inode open which the message may unlink.
        pinned_by: Vec<SessionId>,
    },
    /// The peer has executed our messages up to `through`.
    Acknowledge {
        /// The peer.
        to: ShardId,
        /// Last sequence executed there.
        through: u64,
    },
    /// Makes the root directory, once, in its shard.
    MakeRoot {
        /// Mode bits.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A session no longer holds an unlinked inode open.
    ReleaseOrphan {
        /// The inode.
        ino: InodeId,
        /// The session.
        session: SessionId,
    },
    /// Frees some more of an unlinked inode's content.
    Reap {
        /// The inode.
        ino: InodeId,
    },
    /// Refuses a session's requests from now on and forgets its results. Earlier versions wrote it, and left the
    /// session's record for ever.
    ExpireSession {
        /// The session.
        session: SessionId,
    },
    /// Records that a coordinated request failed before its commit point.
    Conclude {
        /// The failure.
        error: FsError,
    },
    /// A session that may hold written bytes of the file back did not give way in time: they are
    /// refused from now on.
    Take {
        /// The file.
        ino: InodeId,
    },
    /// Forgets sessions that are over: their results, then their records. The server has fenced them before.
    ForgetSessions {
        /// Which: what one command cannot forget is its effect.
        sessions: Vec<SessionId>,
    },
}

/// A message between shards, delivered exactly once and in order by outbox and inbox.
/// Executing one never waits and never fails.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// The transaction is committed: apply what was prepared.
    Commit {
        /// The transaction.
        tx: TxId,
        /// Time of the decision.
        now: Nanos,
    },
    /// A name that led to the inode is gone.
    Unlink {
        /// The inode.
        ino: InodeId,
        /// When.
        now: Nanos,
    },
    /// A name of the inode was moved: its ctime changes.
    Touch {
        /// The inode.
        ino: InodeId,
        /// When.
        now: Nanos,
    },
    /// For the data module.
    Data(DataMessage),
}
