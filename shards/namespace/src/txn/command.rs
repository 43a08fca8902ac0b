//! Commands and answers of transactions.

use super::TxId;
use crate::command::Message;
use crate::record::Dentry;
use cfs_types::{FsError, InodeId, Name, SessionId, ShardId};
use cfs_wire::{Attr, Reply};
use serde::{Deserialize, Serialize};

/// One shard's share of a transaction. Part of the log's format: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Part {
    /// Make a directory inode. Abort removes it.
    MakeDir {
        /// Its parent.
        parent: InodeId,
        /// Mode bits.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Add a link to an inode that is no directory. Abort takes it back.
    AddLink {
        /// The inode.
        ino: InodeId,
    },
    /// Remove an empty directory. It takes no entries until the decision.
    RemoveDir {
        /// The directory.
        dir: InodeId,
    },
    /// Change where a name leads: from `expect` to `put`. The name is locked until the decision.
    Rebind {
        /// The directory.
        dir: InodeId,
        /// The name.
        name: Name,
        /// Where it must lead now.
        expect: Option<Dentry>,
        /// Where it shall lead.
        put: Option<Dentry>,
        /// For a new directory: (setgid, gid) of `dir` that its attributes were derived from.
        inherit: Option<(bool, u32)>,
    },
    /// Give a directory another parent. The pointer is locked until the decision.
    Reparent {
        /// The directory.
        dir: InodeId,
        /// Its new parent.
        parent: InodeId,
    },
}

impl Part {
    /// The shard it executes in; None for a directory to be made, which may be born anywhere.
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Part::MakeDir { .. } => None,
            Part::AddLink { ino } => Some(ino.shard()),
            Part::RemoveDir { dir } | Part::Rebind { dir, .. } | Part::Reparent { dir, .. } => Some(dir.shard()),
        }
    }
}

/// Steps of a transaction. All are idempotent. Part of the log's format: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TxnCommand {
    /// In a participant's shard: check the parts and hold what they need.
    Prepare {
        /// The transaction.
        tx: TxId,
        /// This shard's parts.
        parts: Vec<Part>,
    },
    /// In the coordinator's shard: the commit point. Executes the local parts, records the
    /// decision and the request's result, and sends Commit and `after` to the others.
    Decide {
        /// The transaction.
        tx: TxId,
        /// Shards that prepared.
        participants: Vec<ShardId>,
        /// Parts in this shard.
        parts: Vec<Part>,
        /// What follows from the commit, here or elsewhere, by shard.
        after: Vec<Message>,
        /// The client's reply; an entry of an inode of this shard gets its attributes here.
        reply: Reply,
        /// Sessions that hold the inode open which this may unlink here (`last_link`).
        pinned_by: Vec<SessionId>,
    },
    /// In the coordinator's shard: what was decided? `force` aborts the undecided.
    Resolve {
        /// The transaction.
        tx: TxId,
        /// Abort it where nothing is decided.
        force: bool,
    },
    /// In a participant's shard: undo what was prepared. Only after `Resolve` or the coordinator
    /// said Aborted.
    Abort {
        /// The transaction.
        tx: TxId,
    },
    /// Forget forced aborts of earlier terms: those transactions can no longer commit.
    Forget {
        /// The transactions.
        transactions: Vec<TxId>,
    },
    /// In the root's shard: take the volume's rename lock.
    TakeRenameLock {
        /// The transaction.
        tx: TxId,
    },
    /// In the root's shard: give it back.
    ReleaseRenameLock {
        /// The transaction.
        tx: TxId,
    },
}

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// Its Commit messages are on the way.
    Committed,
    /// It never commits.
    Aborted,
    /// Its coordinator may still decide.
    Pending,
}

/// Answers to transaction commands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TxnReply {
    /// Prepared; attributes of the directory that was made.
    Prepared(Option<Attr>),
    /// What `Decide` came to.
    Decided(DecideReply),
    /// What became of it.
    Verdict(Verdict),
    /// Done.
    Done,
}

/// What `Decide` came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DecideReply {
    /// Committed: the reply, and the messages sent; most requests are answered when these are
    /// acknowledged.
    Committed {
        /// For the client.
        reply: Reply,
        /// Messages sent.
        sent: Vec<(ShardId, u64)>,
    },
    /// The request was executed before, in another attempt: its first result. This transaction is
    /// aborted.
    Duplicate(Result<Reply, FsError>),
    /// A resolver aborted it, or the id is of another term than the entry.
    Aborted,
}
