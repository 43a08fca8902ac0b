//! Every row of a shard's replicated state as what it is, for checkers.
//!
//! Invariant: a row is decoded only where encoding it again gives the same key, so that what is
//! stored under a wrong key is never taken for sound.

use crate::command::Message;
use crate::data::{self, DataRow};
use crate::keys::{self, space};
use crate::record::{self, Counters, Dentry, Inode, Session};
use crate::txn::TxId;
use crate::txn::decision::Decision;
use crate::txn::participant::Prepared;
use crate::view::Key;
use cfs_types::{InodeId, Name, RequestNumber, SessionId, ShardId, VolumeId};
use cfs_wire::Reply;

/// A row of a shard's state.
#[derive(Clone, PartialEq, Debug)]
pub enum Row {
    /// An inode.
    Inode(InodeId, Box<Inode>),
    /// A name in a directory.
    Dentry {
        /// The volume.
        volume: VolumeId,
        /// The directory.
        dir: InodeId,
        /// Hash and rank of the name.
        cookie: u64,
        /// The name.
        name: Name,
        /// Where it leads.
        dentry: Dentry,
    },
    /// An extended attribute, and the bytes of its name with the NUL.
    Xattr(InodeId, u64),
    /// The shard's counters.
    Counters(Counters),
    /// A client's session.
    Session(SessionId, Session),
    /// A kept result.
    Result(SessionId, RequestNumber),
    /// A message to a peer.
    Outbox(ShardId, u64, Message),
    /// Last sequence sent to a peer.
    OutboxCursor(ShardId, u64),
    /// Last sequence of a peer that was executed.
    InboxCursor(ShardId, u64),
    /// A transaction prepared here.
    Prepared(TxId),
    /// What a prepared transaction holds.
    Lock(InodeId, TxId),
    /// What became of a transaction; whether it was committed.
    Decision(TxId, bool),
    /// A session that holds an unlinked inode open.
    Orphan(InodeId, SessionId),
    /// An inode whose content is being freed.
    Reap(InodeId),
    /// The holder of the rename lock.
    RenameLock(VolumeId, TxId),
    /// File data.
    Data(DataRow),
}

/// Decodes a row; None where it is not one.
pub fn decode(key: &[u8], value: &[u8]) -> Option<Row> {
    let (row, expected) = match key.first()? {
        0x20..=0x3f => {
            let row = data::decode_row(key, value)?;
            let expected = row.key();
            (Row::Data(row), expected)
        }
        0x01..=0x05 => named(key, value)?,
        _ => pending(key, value)?,
    };
    (*expected == *key).then_some(row)
}

/// What clients see, and the sessions.
fn named(key: &[u8], value: &[u8]) -> Option<(Row, Key)> {
    Some(match *key.first()? {
        space::INODE => {
            let ino = keys::parse_inode(key)?;
            (Row::Inode(ino, Box::new(Inode::decode(value).ok()?)), keys::inode(ino))
        }
        space::DENTRY => {
            let (volume, rest) = key.get(1..)?.split_first_chunk::<4>()?;
            let (dir, _) = rest.split_first_chunk::<8>()?;
            let volume = VolumeId::new(u32::from_be_bytes(*volume));
            let dir = InodeId::from_raw(u64::from_be_bytes(*dir))?;
            let (cookie, name) = keys::parse_dentry(key)?;
            let expected = keys::dentry(volume, dir, cookie, name.as_bytes());
            (Row::Dentry { volume, dir, cookie, name, dentry: Dentry::decode(value).ok()? }, expected)
        }
        space::XATTR => {
            let (ino, name) = (keys::parse_inode(key)?, key.get(9..)?);
            let bytes = u64::try_from(name.len()).ok()? + 1;
            (!name.is_empty()).then(|| (Row::Xattr(ino, bytes), keys::xattr(ino, name)))?
        }
        space::COUNTERS => (Row::Counters(record::decode(value).ok()?), keys::counters()),
        space::SESSION => {
            let session = SessionId::new(u64::from_be_bytes(key.get(1..)?.try_into().ok()?));
            (Row::Session(session, record::decode(value).ok()?), keys::session(session))
        }
        _ => return None,
    })
}

/// Results, messages, transactions, and what waits to be freed.
fn pending(key: &[u8], value: &[u8]) -> Option<(Row, Key)> {
    let peer = || key.get(1).copied().map(ShardId::new);
    let empty = || value.is_empty().then_some(());
    Some(match *key.first()? {
        space::RESULT => {
            let (session, _) = key.get(1..)?.split_first_chunk::<8>()?;
            let session = SessionId::new(u64::from_be_bytes(*session));
            let number = keys::parse_result(key)?;
            let _kept: Result<Reply, cfs_types::FsError> = record::decode(value).ok()?;
            (Row::Result(session, number), keys::result(session, number))
        }
        space::OUTBOX => {
            let (to, sequence) = keys::parse_outbox(key)?;
            (Row::Outbox(to, sequence, record::decode(value).ok()?), keys::outbox(to, sequence))
        }
        space::OUTBOX_CURSOR => (Row::OutboxCursor(peer()?, record::decode(value).ok()?), keys::outbox_cursor(peer()?)),
        space::INBOX_CURSOR => (Row::InboxCursor(peer()?, record::decode(value).ok()?), keys::inbox_cursor(peer()?)),
        space::PREPARED => {
            let tx = keys::parse_tx(key)?;
            let _parts: Prepared = record::decode(value).ok()?;
            (Row::Prepared(tx), keys::prepared(tx))
        }
        space::LOCK => {
            let (ino, name) = (keys::parse_inode(key)?, key.get(9..)?);
            (Row::Lock(ino, record::decode(value).ok()?), keys::lock(ino, name))
        }
        space::DECISION => {
            let tx = keys::parse_tx(key)?;
            let decision: Decision = record::decode(value).ok()?;
            (Row::Decision(tx, decision != Decision::Aborted), keys::decision(tx))
        }
        space::ORPHAN => {
            empty()?;
            let (ino, session) = keys::parse_orphan(key)?;
            (Row::Orphan(ino, session), keys::orphan(ino, session))
        }
        space::REAP => {
            empty()?;
            let ino = keys::parse_inode(key)?;
            (Row::Reap(ino), keys::reap(ino))
        }
        space::RENAME_LOCK => {
            let volume = VolumeId::new(u32::from_be_bytes(key.get(1..)?.try_into().ok()?));
            (Row::RenameLock(volume, record::decode(value).ok()?), keys::rename_lock(volume))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_types::Nanos;
    use cfs_wire::FileKind;

    #[test]
    fn rows_decode_under_their_own_key_only() {
        let inode = Inode::new(FileKind::File, 0o644, 1, 2, Nanos::new(3));
        let key = keys::inode(InodeId::ROOT);
        let row = decode(&key, &inode.encode());
        assert_eq!(row, Some(Row::Inode(InodeId::ROOT, Box::new(inode.clone()))));
        let longer = [&key[..], &[0]].concat();
        assert_eq!(decode(&longer, &inode.encode()), None);
        assert_eq!(decode(&key[..8], &inode.encode()), None);
        assert_eq!(decode(&keys::reap(InodeId::ROOT), &[]), Some(Row::Reap(InodeId::ROOT)));
        assert_eq!(decode(&keys::reap(InodeId::ROOT), &[1]), None);
    }

    #[test]
    fn names_and_pending_work_decode() {
        let name = Name::new(b"x").expect("a name");
        let dentry = Dentry { ino: InodeId::ROOT, kind: FileKind::Directory };
        let volume = VolumeId::new(0);
        let key = keys::dentry(volume, InodeId::ROOT, 32, b"x");
        let row = Row::Dentry { volume, dir: InodeId::ROOT, cookie: 32, name, dentry };
        assert_eq!(decode(&key, &dentry.encode()), Some(row));
        let message = Message::Unlink { ino: InodeId::ROOT, now: Nanos::new(1) };
        let (to, sequence) = (ShardId::new(7), 9);
        let row = decode(&keys::outbox(to, sequence), &record::encode(&message));
        assert_eq!(row, Some(Row::Outbox(to, sequence, message)));
        assert_eq!(decode(&keys::xattr(InodeId::ROOT, b"user.a"), b"v"), Some(Row::Xattr(InodeId::ROOT, 7)));
        assert_eq!(decode(&[0x10], &[]), None);
        assert_eq!(decode(&[], &[]), None);
    }
}
