//! What a driver that starts anew, or looks after stragglers, finds to do in a shard's state.
//! Lists come in pages: `after` is the last one of the page before.

use crate::command::Message;
use crate::keys::{self, space};
use crate::outcome::{Step, Stop};
use crate::record;
use crate::state::find;
use crate::txn::decision::Decision;
use crate::txn::{Part, TxId, participant};
use crate::view::{Key, NeedMore, Rows, View};
use cfs_types::{FsError, InodeId, SessionId, ShardId, VolumeId};

/// A listing, or what the view lacks for it; `Corrupt` where a record does not decode.
pub type Listing<T> = Result<Result<Vec<T>, FsError>, NeedMore>;

fn listing<T>(step: Step<Vec<T>>) -> Listing<T> {
    match step {
        Ok(items) => Ok(Ok(items)),
        Err(Stop::Need(need)) => Err(need),
        Err(Stop::Fail(error)) => Ok(Err(error)),
        Err(Stop::Blocked(_)) => Ok(Err(FsError::Blocked)),
    }
}

fn page(view: &dyn View, space: u8, after: Option<Key>, limit: usize) -> Step<Rows> {
    let from = match after {
        // The first key after it: the same with a zero byte appended.
        Some(key) => [&key[..], &[0]].concat(),
        None => vec![space],
    };
    Ok(view.scan(&from, &[space + 1], limit)?)
}

/// Messages to deliver, by peer and sequence.
pub fn outbox(view: &dyn View, after: Option<(ShardId, u64)>, limit: usize) -> Listing<(ShardId, u64, Message)> {
    let after = after.map(|(to, sequence)| keys::outbox(to, sequence));
    listing(page(view, space::OUTBOX, after, limit).and_then(|rows| {
        let decode = |(key, value): (Key, _)| {
            let (to, sequence) = keys::parse_outbox(&key).ok_or(FsError::Corrupt)?;
            let value: crate::view::Value = value;
            Ok((to, sequence, record::decode(&value)?))
        };
        rows.into_iter().map(decode).collect()
    }))
}

/// Transactions prepared here: resolve each at its own shard, abort the aborted.
pub fn prepared(view: &dyn View, after: Option<TxId>, limit: usize) -> Listing<TxId> {
    let rows = page(view, space::PREPARED, after.map(keys::prepared), limit);
    listing(rows.and_then(|rows| rows.iter().map(|(k, _)| Ok(keys::parse_tx(k).ok_or(FsError::Corrupt)?)).collect()))
}

/// What a prepared transaction holds here: leases on it are revoked before its commit is delivered.
pub fn held_parts(view: &dyn View, tx: TxId) -> Listing<Part> {
    listing(participant::held_parts(view, tx))
}

/// Forced aborts recorded here: forget those of earlier terms.
pub fn aborted(view: &dyn View, after: Option<TxId>, limit: usize) -> Listing<TxId> {
    let rows = page(view, space::DECISION, after.map(keys::decision), limit);
    listing(rows.and_then(|rows| {
        let mut transactions = Vec::new();
        for (key, value) in rows {
            if record::decode::<Decision>(&value)? == Decision::Aborted {
                transactions.push(keys::parse_tx(&key).ok_or(FsError::Corrupt)?);
            }
        }
        Ok(transactions)
    }))
}

/// Inodes to `Reap`.
pub fn reaps(view: &dyn View, after: Option<InodeId>, limit: usize) -> Listing<InodeId> {
    let rows = page(view, space::REAP, after.map(keys::reap), limit);
    listing(rows.and_then(|rows| rows.iter().map(|(k, _)| Ok(keys::parse_inode(k).ok_or(FsError::Corrupt)?)).collect()))
}

/// Unlinked inodes that sessions hold open: `ReleaseOrphan` those whose session is over.
pub fn orphans(view: &dyn View, after: Option<(InodeId, SessionId)>, limit: usize) -> Listing<(InodeId, SessionId)> {
    let after = after.map(|(ino, session)| keys::orphan(ino, session));
    listing(
        page(view, space::ORPHAN, after, limit)
            .and_then(|rows| rows.iter().map(|(k, _)| Ok(keys::parse_orphan(k).ok_or(FsError::Corrupt)?)).collect()),
    )
}

/// Sessions that the shard knows: `ForgetSessions` those that are over.
pub fn sessions(view: &dyn View, after: Option<SessionId>, limit: usize) -> Listing<SessionId> {
    let rows = page(view, space::SESSION, after.map(keys::session), limit);
    listing(
        rows.and_then(|rows| rows.iter().map(|(k, _)| Ok(keys::parse_session(k).ok_or(FsError::Corrupt)?)).collect()),
    )
}

/// Who holds the volume's rename lock (in the root's shard).
pub fn rename_lock(view: &dyn View, volume: VolumeId) -> Listing<TxId> {
    let holder = find::<TxId>(view, &keys::rename_lock(volume));
    listing(holder.map(|holder| holder.into_iter().collect()))
}

/// Whether a session may open an unlinked inode again: it is one of those that hold it.
pub fn holds_orphan(view: &dyn View, ino: InodeId, session: SessionId) -> Result<bool, NeedMore> {
    Ok(view.get(&keys::orphan(ino, session))?.is_some())
}

/// Whether the shard knows a session: there is something to forget.
pub fn knows_session(view: &dyn View, session: SessionId) -> Result<bool, NeedMore> {
    Ok(view.get(&keys::session(session))?.is_some())
}

/// Inodes in use.
pub fn inode_count(view: &dyn View) -> Result<u64, NeedMore> {
    let value = view.get(&keys::counters())?;
    let counters = value.and_then(|v| record::decode::<record::Counters>(&v).ok());
    Ok(counters.map_or(0, |c| c.inodes))
}
