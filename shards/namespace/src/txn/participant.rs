//! The side of a transaction's participant: prepare, commit, abort.
//!
//! Invariants: Commit arrives only through the coordinator's outbox, exactly once; anyone who
//! knows the verdict may abort; what is prepared after its decision is forgotten can only be
//! aborted, and that leaves nothing behind.

use super::{Part, TxId, TxnReply, part};
use crate::keys;
use crate::outcome::{Step, Stop};
use crate::record;
use crate::state::{State, find};
use crate::view::View;
use cfs_types::{FsError, InodeId, Nanos, SessionId};
use serde::{Deserialize, Serialize};

/// Parts of one transaction in one shard at most: a rename has no more.
const PARTS_MAX: usize = 8;

/// A prepared transaction's record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Prepared {
    /// What is held.
    pub parts: Vec<Part>,
    /// The directory that was made.
    pub made: Option<InodeId>,
}

/// Checks and holds the parts of this shard. Again: the first answer.
pub fn prepare(state: &mut State<'_>, tx: TxId, parts: &[Part]) -> Step<TxnReply> {
    if let Some(prepared) = find::<Prepared>(state, &keys::prepared(tx))? {
        return reply(state, prepared.made);
    }
    if parts.len() > PARTS_MAX {
        return Err(Stop::Fail(FsError::Invalid));
    }
    let mut made = None;
    for part in parts {
        if part.shard().is_some_and(|shard| shard != state.ctx.shard) {
            return Err(Stop::Fail(FsError::WrongShard));
        }
        part::check(state, tx, part)?;
        made = part::hold(state, tx, part)?.or(made);
    }
    let prepared = Prepared { parts: parts.to_vec(), made };
    state.put(keys::prepared(tx), record::encode(&prepared));
    reply(state, made)
}

fn reply(state: &State<'_>, made: Option<InodeId>) -> Step<TxnReply> {
    Ok(TxnReply::Prepared(match made {
        Some(ino) => Some(state.inode(ino)?.attr(ino)),
        None => None,
    }))
}

/// Applies what was prepared.
pub fn commit(state: &mut State<'_>, tx: TxId, now: Nanos, pinned_by: &[SessionId]) -> Step<()> {
    let Some(prepared) = find::<Prepared>(state, &keys::prepared(tx))? else {
        return Ok(());
    };
    for part in &prepared.parts {
        part::commit(state, part, now, pinned_by)?;
    }
    state.delete(keys::prepared(tx));
    Ok(())
}

/// Undoes what was prepared. Again, or unprepared: nothing.
pub fn abort(state: &mut State<'_>, tx: TxId) -> Step<TxnReply> {
    if let Some(prepared) = find::<Prepared>(state, &keys::prepared(tx))? {
        for part in &prepared.parts {
            part::abort(state, part, prepared.made)?;
        }
        state.delete(keys::prepared(tx));
    }
    Ok(TxnReply::Done)
}

/// What a transaction holds here; nothing where it is not prepared.
pub fn held_parts(view: &dyn View, tx: TxId) -> Step<Vec<Part>> {
    let prepared: Option<Prepared> = find(view, &keys::prepared(tx))?;
    Ok(prepared.map(|prepared| prepared.parts).unwrap_or_default())
}

/// The directory that committing `tx` would remove here.
pub fn removes(view: &dyn View, tx: TxId) -> Step<Option<InodeId>> {
    Ok(removed_dir(&held_parts(view, tx)?))
}

/// The directory that the parts remove.
pub fn removed_dir(parts: &[Part]) -> Option<InodeId> {
    parts.iter().find_map(|part| match part {
        Part::RemoveDir { dir } => Some(*dir),
        _ => None,
    })
}
