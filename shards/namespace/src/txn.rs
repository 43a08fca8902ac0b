//! Transactions between shards: prepared parts, decisions, exactly-once messages, and the
//! coordinator as a state machine (docs/decisions/0003-cross-shard.md).

mod command;
mod id;

pub use command::{DecideReply, Part, TxnCommand, TxnReply, Verdict};
pub use id::TxId;
