//! What prepared transactions hold: names in directories, and inodes.
//!
//! The inode record counts the locks on it and on its names, so that operations pay for a look
//! into the lock space only where there is one.

use crate::keys;
use crate::outcome::{Step, Stop};
use crate::record::{self, Inode};
use crate::state::{State, find};
use crate::txn::TxId;
use crate::view::View;
use cfs_types::{FsError, InodeId};

/// Locks of one inode that one transaction may hold itself (its two names), and one more.
const LOCKS_SCANNED: usize = 3;

/// Stops where a transaction other than `me` holds the name; the empty name is the inode itself.
pub fn check(view: &dyn View, ino: InodeId, inode: &Inode, name: &[u8], me: Option<TxId>) -> Step<()> {
    if inode.locks == 0 {
        return Ok(());
    }
    match find::<TxId>(view, &keys::lock(ino, name))? {
        Some(holder) if Some(holder) != me => Err(Stop::Blocked(holder)),
        _ => Ok(()),
    }
}

/// Stops where a transaction other than `me` holds the inode or any name in it.
pub fn check_all(view: &dyn View, ino: InodeId, inode: &Inode, me: Option<TxId>) -> Step<()> {
    if inode.locks == 0 {
        return Ok(());
    }
    let prefix = keys::lock_prefix(ino);
    for (_, holder) in view.scan(&prefix, &keys::after_prefix(&prefix), LOCKS_SCANNED)? {
        let holder: TxId = record::decode(&holder)?;
        if Some(holder) != me {
            return Err(Stop::Blocked(holder));
        }
    }
    Ok(())
}

/// Takes a lock that is free; the caller writes the inode.
pub fn take(state: &mut State<'_>, ino: InodeId, inode: &mut Inode, name: &[u8], tx: TxId) -> Step<()> {
    inode.locks = inode.locks.checked_add(1).ok_or(Stop::Fail(FsError::Busy))?;
    state.put(keys::lock(ino, name), record::encode(&tx));
    Ok(())
}

/// Gives a lock back; the caller writes the inode.
pub fn release(state: &mut State<'_>, ino: InodeId, inode: &mut Inode, name: &[u8]) {
    inode.locks = inode.locks.saturating_sub(1);
    state.delete(keys::lock(ino, name));
}
