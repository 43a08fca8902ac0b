//! What a coordinator is given, says, and is told.

use super::TxId;
use crate::command::Command;
use crate::outcome::Answer;
use cfs_types::{FsError, RequestNumber, SessionId, ShardId};
use cfs_wire::{Identity, Op, Reply};

/// A client's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Its session.
    pub session: SessionId,
    /// Its number.
    pub number: RequestNumber,
    /// Oldest the session waits for.
    pub oldest: RequestNumber,
    /// Who asks.
    pub identity: Identity,
    /// What.
    pub op: Op,
}

/// What the driver is to do. Each answer goes to `handle` with the action's token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Answer a read from the executed state of a shard's leader.
    Query {
        /// Where.
        shard: ShardId,
        /// What.
        op: Op,
    },
    /// Propose a command; where `last_link` names an inode, fill in who holds it open first.
    Propose {
        /// Where.
        shard: ShardId,
        /// What.
        command: Command,
    },
    /// Have others give way on what the command will change there. It is not executed; nobody is
    /// granted a lease on it again before the end, where the driver can see to that.
    Revoke {
        /// Where.
        shard: ShardId,
        /// What will be proposed.
        command: Command,
    },
    /// Wait a little, longer with each round.
    Wait {
        /// Counts from 0.
        round: u32,
    },
    /// The end. The client is answered when the messages in `after` are acknowledged.
    Finish {
        /// For the client.
        result: Result<Reply, FsError>,
        /// Messages of the coordinator's shard: peer and sequence.
        after: Vec<(ShardId, u64)>,
    },
}

/// What came of an action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Of a query.
    Answer(Result<Reply, FsError>),
    /// Of a proposal.
    Executed {
        /// The outcome's result.
        result: Result<Answer, FsError>,
        /// The outcome's holder.
        blocked_by: Option<TxId>,
    },
    /// Of a revocation: nobody else holds leases, or why that could not be had.
    Revoked(Result<(), FsError>),
    /// Of a wait.
    Waited,
    /// It cannot be known: the shard's leader is gone or silent.
    Lost,
}
