//! The side of the coordinator's shard: the commit point, and what became of a transaction.
//!
//! Invariants: a decision is made at most once and never changes; it is refused in any term but
//! the coordinator's, so an undecided transaction of an earlier term is aborted for good; a
//! commit's record stays until every participant has executed its Commit message.

use super::{DecideReply, Part, TxId, TxnReply, Verdict, part};
use crate::command::Message;
use crate::keys;
use crate::outbox;
use crate::outcome::{Step, Stop};
use crate::record;
use crate::state::{State, find};
use cfs_types::{FsError, SessionId, ShardId};
use cfs_wire::Reply;
use serde::{Deserialize, Serialize};

/// A decision's record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Decision {
    /// A resolver aborted it before it was decided.
    Aborted,
    /// Committed; participants that have not yet acknowledged their Commit message.
    Committed {
        /// For the client.
        reply: Reply,
        /// Sequence of the Commit message to each.
        waiting: Vec<(ShardId, u64)>,
    },
}

/// A `Decide` command, borrowed.
pub struct Proposal<'a> {
    /// The transaction.
    pub tx: TxId,
    /// Shards that prepared.
    pub participants: &'a [ShardId],
    /// Parts here.
    pub parts: &'a [Part],
    /// What follows.
    pub after: &'a [Message],
    /// For the client.
    pub reply: &'a Reply,
    /// Who holds open what this may unlink here.
    pub pinned_by: &'a [SessionId],
}

/// What was decided of the transaction before, if anything.
pub fn recall(state: &State<'_>, tx: TxId) -> Step<Option<DecideReply>> {
    Ok(match find::<Decision>(state, &keys::decision(tx))? {
        Some(Decision::Committed { reply, waiting }) => Some(DecideReply::Committed { reply, sent: waiting }),
        Some(Decision::Aborted) => Some(DecideReply::Aborted),
        None if tx.term != state.ctx.term || tx.shard != state.ctx.shard => Some(DecideReply::Aborted),
        None => None,
    })
}

/// The commit point: all or nothing.
pub fn decide(state: &mut State<'_>, proposal: &Proposal<'_>) -> Step<DecideReply> {
    let (tx, now) = (proposal.tx, state.ctx.now);
    for part in proposal.parts {
        let here = part.shard() == Some(state.ctx.shard);
        if !here {
            return Err(Stop::Fail(FsError::WrongShard));
        }
        part::check(state, tx, part)?;
    }
    for part in proposal.parts {
        part::apply(state, part, now, proposal.pinned_by)?;
    }
    let mut sent = Vec::new();
    for shard in proposal.participants {
        sent.push((*shard, state.send(*shard, &Message::Commit { tx, now })?));
    }
    let waiting = sent.clone();
    for message in proposal.after {
        let message = message.at(now);
        match message.target() {
            Some(shard) if shard != state.ctx.shard => {
                sent.push((shard, state.send(shard, &message)?));
            }
            _ => outbox::perform(state, state.ctx.shard, &message, proposal.pinned_by)?,
        }
    }
    let reply = complete(state, proposal.reply)?;
    if !waiting.is_empty() {
        let record = Decision::Committed { reply: reply.clone(), waiting };
        state.put(keys::decision(tx), record::encode(&record));
    }
    Ok(DecideReply::Committed { reply, sent })
}

/// Fills in the attributes of an inode that is here.
fn complete(state: &State<'_>, reply: &Reply) -> Step<Reply> {
    let mut reply = reply.clone();
    if let Reply::Entry(entry) = &mut reply
        && entry.ino.shard() == state.ctx.shard
    {
        entry.attr = Some(state.inode(entry.ino)?.attr(entry.ino));
    }
    Ok(reply)
}

/// What became of a transaction; `force` aborts the undecided.
pub fn resolve(state: &mut State<'_>, tx: TxId, force: bool) -> Step<TxnReply> {
    if tx.shard != state.ctx.shard {
        return Err(Stop::Fail(FsError::WrongShard));
    }
    let verdict = match find::<Decision>(state, &keys::decision(tx))? {
        Some(Decision::Committed { .. }) => Verdict::Committed,
        Some(Decision::Aborted) => Verdict::Aborted,
        None if tx.term < state.ctx.term => Verdict::Aborted,
        None if force => {
            state.put(keys::decision(tx), record::encode(&Decision::Aborted));
            Verdict::Aborted
        }
        None => Verdict::Pending,
    };
    Ok(TxnReply::Verdict(verdict))
}

/// Forgets forced aborts of earlier terms.
pub fn forget(state: &mut State<'_>, transactions: &[TxId]) -> Step<TxnReply> {
    for tx in transactions.iter().filter(|tx| tx.term < state.ctx.term) {
        let key = keys::decision(*tx);
        if find::<Decision>(state, &key)? == Some(Decision::Aborted) {
            state.delete(key);
        }
    }
    Ok(TxnReply::Done)
}

/// A participant has executed our messages up to `through`.
pub fn acknowledged(state: &mut State<'_>, tx: TxId, by: ShardId, through: u64) -> Step<()> {
    let key = keys::decision(tx);
    if let Some(Decision::Committed { reply, mut waiting }) = find(state, &key)? {
        waiting.retain(|(shard, sequence)| *shard != by || *sequence > through);
        if waiting.is_empty() {
            state.delete(key);
        } else {
            state.put(key, record::encode(&Decision::Committed { reply, waiting }));
        }
    }
    Ok(())
}
