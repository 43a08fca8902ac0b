//! Exactly-once messages between shards: outbox here, inbox cursor there.
//!
//! Invariants: a peer's messages execute in the order of their sequences, each once; a message
//! stays in the outbox until the peer has executed it; executing one never blocks or fails.

use crate::command::Message;
use crate::data;
use crate::keys;
use crate::outcome::{Step, Stop};
use crate::reap;
use crate::record;
use crate::state::{State, find, find_inode};
use crate::txn;
use crate::view::View;
use cfs_types::{FsError, Nanos, SessionId, ShardId};

/// Messages removed by one acknowledgement; more are removed by the next.
const ACKNOWLEDGE_MAX: usize = 256;

impl Message {
    /// The shard of the inode the message is about; None where it goes to a participant.
    pub fn target(&self) -> Option<ShardId> {
        match self {
            Message::Unlink { ino, .. } | Message::Touch { ino, .. } => Some(ino.shard()),
            Message::Commit { .. } | Message::Data(_) => None,
        }
    }

    /// The message with the time of the decision.
    pub(crate) fn at(&self, now: Nanos) -> Message {
        match self.clone() {
            Message::Commit { tx, .. } => Message::Commit { tx, now },
            Message::Unlink { ino, .. } => Message::Unlink { ino, now },
            Message::Touch { ino, .. } => Message::Touch { ino, now },
            Message::Data(message) => Message::Data(message),
        }
    }
}

/// Executes a peer's message if it is the next one. Again: nothing. Too early: `Conflict`.
pub fn deliver(
    state: &mut State<'_>,
    from: ShardId,
    sequence: u64,
    message: &Message,
    pinned_by: &[SessionId],
) -> Step<()> {
    let key = keys::inbox_cursor(from);
    let last: u64 = find(state, &key)?.unwrap_or_default();
    if sequence <= last {
        return Ok(());
    }
    if sequence != last + 1 {
        return Err(Stop::Fail(FsError::Conflict));
    }
    state.put(key, record::encode(&sequence));
    perform(state, from, message, pinned_by)
}

/// Does what a message says.
pub fn perform(state: &mut State<'_>, from: ShardId, message: &Message, pinned_by: &[SessionId]) -> Step<()> {
    match message {
        Message::Commit { tx, now } => txn::participant::commit(state, *tx, *now, pinned_by),
        Message::Unlink { ino, now } => match find_inode(state, *ino)? {
            Some(inode) if !inode.is_dir() => reap::drop_link(state, *ino, inode, *now, pinned_by),
            _ => Ok(()),
        },
        Message::Touch { ino, now } => {
            if let Some(mut inode) = find_inode(state, *ino)? {
                inode.touch(*now);
                state.put_inode(*ino, &inode);
            }
            Ok(())
        }
        Message::Data(message) => data::deliver(state, from, message),
    }
}

/// Removes messages that the peer has executed.
pub fn acknowledge(state: &mut State<'_>, to: ShardId, through: u64) -> Step<()> {
    let end = keys::outbox(to, through.saturating_add(1));
    let rows = state.scan(&keys::outbox(to, 0), &end, ACKNOWLEDGE_MAX)?;
    for (key, value) in rows {
        match record::decode(&value)? {
            Message::Commit { tx, .. } => txn::decision::acknowledged(state, tx, to, through)?,
            Message::Data(message) => data::acknowledged(state, &message),
            Message::Unlink { .. } | Message::Touch { .. } => {}
        }
        state.delete(key);
    }
    Ok(())
}
