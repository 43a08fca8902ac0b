//! Dispatch of transaction commands.

use super::decision::{self, Proposal};
use super::{DecideReply, TxnCommand, TxnReply, participant, rename_lock};
use crate::command::{Command, EntryContext, Message};
use crate::outbox;
use crate::outcome::Step;
use crate::session;
use crate::state::State;
use cfs_types::InodeId;

/// Executes a step of a transaction.
pub fn execute(state: &mut State<'_>, command: &Command, body: &TxnCommand) -> Step<TxnReply> {
    match body {
        TxnCommand::Prepare { tx, parts } => participant::prepare(state, *tx, parts),
        TxnCommand::Decide { tx, participants, parts, after, reply, pinned_by } => {
            if let Some(decided) = decision::recall(state, *tx)? {
                return Ok(TxnReply::Decided(decided));
            }
            if let Some(result) = session::recall(state, command.session, command.number)? {
                outbox::announce(state)?;
                return Ok(TxnReply::Decided(DecideReply::Duplicate(result)));
            }
            let proposal = Proposal { tx: *tx, participants, parts, after, reply, pinned_by };
            let decided = decision::decide(state, &proposal)?;
            if let DecideReply::Committed { reply, .. } = &decided {
                session::keep(state, command, &Ok(reply.clone()))?;
            }
            Ok(TxnReply::Decided(decided))
        }
        TxnCommand::Resolve { tx, force } => decision::resolve(state, *tx, *force),
        TxnCommand::Abort { tx } => participant::abort(state, *tx),
        TxnCommand::Forget { transactions } => decision::forget(state, transactions),
        TxnCommand::TakeRenameLock { tx } => rename_lock::take(state, *tx),
        TxnCommand::ReleaseRenameLock { tx } => rename_lock::release(state, *tx),
    }
}

/// The inode here that the command may remove, as far as transactions go.
pub fn unlinks(ctx: &EntryContext, body: &TxnCommand) -> Option<InodeId> {
    let TxnCommand::Decide { parts, after, .. } = body else {
        return None;
    };
    let unlinked = after.iter().find_map(|message| match message {
        Message::Unlink { ino, .. } if ino.shard() == ctx.shard => Some(*ino),
        _ => None,
    });
    unlinked.or_else(|| participant::removed_dir(parts))
}
