//! The POSIX state machine of one shard: pure and deterministic.
//!
//! Purpose: `execute` turns a committed command and a view of the shard's state into an answer,
//! writes and effects; `query` answers reads. Neither waits, reads a clock nor draws randomness:
//! what the view does not hold in memory is asked for with `NeedMore`, and the driver calls again.
//!
//! Invariants: execution is total (it never fails for want of space); a failed command writes
//! nothing but its recorded result; a retried request gets its first answer; link counts and
//! entry counts are exact; what a prepared transaction holds is neither read nor changed.

mod attributes;
pub mod audit;
pub mod command;
pub mod data;
mod entry;
mod execute;
pub mod keys;
mod lock;
pub mod memory;
mod outbox;
pub mod outcome;
pub mod pending;
mod query;
mod reap;
pub mod record;
mod session;
pub mod state;
pub mod txn;
#[cfg(test)]
mod types_page;
pub mod view;
mod xattr;

pub use command::{Command, CommandBody, EntryContext, Message};
pub use entry::LINKS_MAX;
pub use execute::{execute, last_link, named_inode, query};
pub use outcome::{Answer, Effect, Outcome, Step, Stop};
pub use txn::TxId;
pub use view::{Key, NeedMore, Overlay, Rows, Value, View, Writes};
pub use xattr::{LIST_BYTES_MAX as XATTR_LIST_BYTES_MAX, VALUE_BYTES_MAX as XATTR_VALUE_BYTES_MAX};
