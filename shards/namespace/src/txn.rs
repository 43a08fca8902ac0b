//! Transactions between shards: prepared parts, decisions, the rename lock, and the coordinator
//! as a state machine without I/O (docs/decisions/0003-cross-shard.md).

mod action;
mod command;
mod coordinator;
pub(crate) mod decision;
mod execute;
mod id;
mod part;
pub(crate) mod participant;
mod plan;
mod rename_lock;

pub use action::{Action, Event, Request};
pub use command::{DecideReply, Part, TxnCommand, TxnReply, Verdict};
pub use coordinator::Coordinator;
pub(crate) use execute::{execute, unlinks};
pub use id::TxId;
