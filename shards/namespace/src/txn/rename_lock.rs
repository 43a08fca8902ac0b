//! The volume's rename lock, in the root's shard: held while the ancestors of a directory that
//! moves to another parent are walked and until the decision.

use super::{TxId, TxnReply};
use crate::keys;
use crate::outcome::{Effect, Step, Stop};
use crate::record;
use crate::state::{State, find};

/// Takes the lock; `Blocked` where another transaction holds it.
pub fn take(state: &mut State<'_>, tx: TxId) -> Step<TxnReply> {
    let key = keys::rename_lock(state.ctx.volume);
    match find::<TxId>(state, &key)? {
        Some(holder) if holder != tx => Err(Stop::Blocked(holder)),
        Some(_) => Ok(TxnReply::Done),
        None => {
            state.put(key, record::encode(&tx));
            Ok(TxnReply::Done)
        }
    }
}

/// Gives the lock back; nothing where another transaction holds it.
pub fn release(state: &mut State<'_>, tx: TxId) -> Step<TxnReply> {
    let key = keys::rename_lock(state.ctx.volume);
    if find::<TxId>(state, &key)? == Some(tx) {
        state.delete(key);
        state.effects.push(Effect::Unlocked);
    }
    Ok(TxnReply::Done)
}
