//! Exactly-once messages between shards: outbox here, inbox cursor there.
//!
//! Invariants: a peer's messages execute in the order of their sequences, each once; a message
//! stays in the outbox until the peer has executed it; executing one never blocks or fails.

use crate::command::Message;
use crate::data;
use crate::keys;
use crate::outcome::{Effect, Step, Stop};
use crate::reap;
use crate::record;
use crate::state::{State, find, find_inode};
use crate::txn;
use crate::view::View;
use cfs_types::{FsError, Nanos, SessionId, ShardId};
use std::collections::BTreeMap;

/// Messages removed by one acknowledgement; more are removed by the next.
const ACKNOWLEDGE_MAX: usize = 256;
/// Messages looked at in one scan.
const ANNOUNCE_PAGE: usize = 256;

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

/// Tells the driver of every message on its way: a retry must not be answered before those of its first
/// attempt have arrived, and they are not told apart.
pub fn announce(state: &mut State<'_>) -> Step<()> {
    let mut from = vec![keys::space::OUTBOX];
    let mut last = BTreeMap::new();
    loop {
        let rows = state.scan(&from, &[keys::space::OUTBOX + 1], ANNOUNCE_PAGE)?;
        for (key, _) in &rows {
            let (to, sequence) = keys::parse_outbox(key).ok_or(FsError::Corrupt)?;
            last.insert(to, sequence);
        }
        match rows.last() {
            Some((key, _)) if rows.len() == ANNOUNCE_PAGE => from = [&key[..], &[0]].concat(),
            _ => break,
        }
    }
    state.effects.extend(last.into_iter().map(|(to, sequence)| Effect::Sent { to, sequence }));
    Ok(())
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
