//! What executing a command gives.

use crate::data::DataEffect;
use crate::txn::{TxId, TxnReply};
use crate::view::{NeedMore, Writes};
use cfs_types::{FsError, InodeId, SessionId, ShardId};
use cfs_wire::Reply;
use serde::{Deserialize, Serialize};

/// A successful answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// For the client.
    Wire(Reply),
    /// For the coordinator of a transaction.
    Txn(TxnReply),
}

impl Answer {
    /// The client's reply; `Done` where the answer is a coordinator's.
    pub fn into_wire(self) -> Reply {
        match self {
            Answer::Wire(reply) => reply,
            Answer::Txn(_) => Reply::Done,
        }
    }
}

/// What a command did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The answer. `Blocked` and `Conflict` are never recorded: the command may be proposed again.
    pub result: Result<Answer, FsError>,
    /// With `Blocked`: who holds what the command needs.
    pub blocked_by: Option<TxId>,
    /// What to write at the entry's timestamp, in key order.
    pub writes: Writes,
    /// What the driver does after the writes are applied.
    pub effects: Vec<Effect>,
}

/// Work for the driver that follows from a command. Effects are hints: a driver which starts anew finds again in the
/// state (`pending`, and chunks that nothing names) what comes of those that were lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A message waits in the outbox: deliver it; replies that follow from it wait until it is
    /// acknowledged.
    Sent {
        /// The peer.
        to: ShardId,
        /// Its sequence.
        sequence: u64,
    },
    /// Locks were released: commands that were blocked may run.
    Unlocked,
    /// An unlinked inode is left with content: propose `Reap` until it answers without this.
    ReapPending(InodeId),
    /// Something is left of sessions that are over: propose `ForgetSessions` of them.
    ForgetPending(Vec<SessionId>),
    /// The inode is gone: leases and caches of it may be dropped.
    Gone(InodeId),
    /// For the driver of data.
    Data(DataEffect),
}

/// Why an execution stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The view lacks something.
    Need(NeedMore),
    /// The operation fails.
    Fail(FsError),
    /// A prepared transaction holds what the operation needs.
    Blocked(TxId),
}

impl From<NeedMore> for Stop {
    fn from(need: NeedMore) -> Self {
        Stop::Need(need)
    }
}

impl From<FsError> for Stop {
    fn from(error: FsError) -> Self {
        Stop::Fail(error)
    }
}

/// Where an operation of several commands goes on: what the last one answered in `Reply::Offset`.
pub type Begun = Option<u64>;

/// Result of one step of an execution.
pub type Step<T> = Result<T, Stop>;
