//! Keys of the replicated state: a key-space byte, then big-endian fields, so that order has
//! meaning (docs/formats/namespace.md).

use crate::data::keys as data;
use crate::txn::TxId;
use crate::view::Key;
use cfs_types::{InodeId, Name, RequestNumber, SessionId, ShardId, Term, VolumeId};

/// Key spaces: the first byte of a key. 0x20 to 0x3f belong to `data`.
pub mod space {
    /// Inode records.
    pub const INODE: u8 = 0x01;
    /// Directory entries.
    pub const DENTRY: u8 = 0x02;
    /// Extended attributes.
    pub const XATTR: u8 = 0x03;
    /// Counters of the shard.
    pub const COUNTERS: u8 = 0x04;
    /// Client sessions.
    pub const SESSION: u8 = 0x05;
    /// Results kept for exactly once.
    pub const RESULT: u8 = 0x06;
    /// Messages not yet acknowledged.
    pub const OUTBOX: u8 = 0x07;
    /// Last sequence sent to a peer.
    pub const OUTBOX_CURSOR: u8 = 0x08;
    /// Last sequence executed of a peer.
    pub const INBOX_CURSOR: u8 = 0x09;
    /// Prepared parts of transactions.
    pub const PREPARED: u8 = 0x0a;
    /// Locks of prepared transactions.
    pub const LOCK: u8 = 0x0b;
    /// Decisions of transactions this shard coordinates.
    pub const DECISION: u8 = 0x0c;
    /// Open and unlinked inodes.
    pub const ORPHAN: u8 = 0x0d;
    /// Inodes whose content is still being freed.
    pub const REAP: u8 = 0x0e;
    /// The volume's rename lock, in the root's shard.
    pub const RENAME_LOCK: u8 = 0x0f;
}

/// A key under construction.
pub struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    /// Starts a key of a key space.
    pub fn new(space: u8) -> Self {
        let mut bytes = Vec::with_capacity(32);
        bytes.push(space);
        KeyBuilder(bytes)
    }
    /// Appends raw bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    /// Appends a number, big-endian.
    #[must_use]
    pub fn number(self, number: u64) -> Self {
        self.bytes(&number.to_be_bytes())
    }
    /// The key.
    pub fn build(self) -> Key {
        self.0.into_boxed_slice()
    }
}

/// The first key after all keys that begin with `prefix`, which is not all 0xff.
pub fn after_prefix(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into_boxed_slice()
}

/// What a key shares with those it is looked for together with: the names of a directory that hash alike (all but
/// the last byte of their cookie), the attributes of an inode, the extents and the ranges of a file. None for
/// keys that are looked for alone. Part of the format of tables.
pub fn stem(key: &[u8]) -> Option<&[u8]> {
    let bytes = match *key.first()? {
        space::DENTRY => 20,
        space::XATTR | data::EXTENT | data::SUMMARY => 9,
        _ => return None,
    };
    key.get(..bytes)
}

/// An inode's record.
pub fn inode(ino: InodeId) -> Key {
    KeyBuilder::new(space::INODE).number(ino.get()).build()
}

/// All entries of a directory begin with this.
pub fn dentry_prefix(volume: VolumeId, dir: InodeId) -> Key {
    KeyBuilder::new(space::DENTRY).bytes(&volume.get().to_be_bytes()).number(dir.get()).build()
}

/// An entry of a directory.
pub fn dentry(volume: VolumeId, dir: InodeId, cookie: u64, name: &[u8]) -> Key {
    KeyBuilder(dentry_prefix(volume, dir).into_vec()).number(cookie).bytes(name).build()
}

/// The cookie and name of a dentry's key; None where it is not one.
pub fn parse_dentry(key: &[u8]) -> Option<(u64, Name)> {
    let (cookie, name) = key.get(13..)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*cookie), Name::new(name)?))
}

/// All extended attributes of an inode begin with this.
pub fn xattr_prefix(ino: InodeId) -> Key {
    KeyBuilder::new(space::XATTR).number(ino.get()).build()
}

/// An extended attribute.
pub fn xattr(ino: InodeId, name: &[u8]) -> Key {
    KeyBuilder::new(space::XATTR).number(ino.get()).bytes(name).build()
}

/// The shard's counters.
pub fn counters() -> Key {
    KeyBuilder::new(space::COUNTERS).build()
}

/// A client session.
pub fn session(session: SessionId) -> Key {
    KeyBuilder::new(space::SESSION).number(session.get()).build()
}

/// The session of a session's key; None where it is not one.
pub fn parse_session(key: &[u8]) -> Option<SessionId> {
    let number: [u8; 8] = key.get(1..)?.try_into().ok()?;
    Some(SessionId::new(u64::from_be_bytes(number)))
}

/// The kept result of a request.
pub fn result(session: SessionId, number: RequestNumber) -> Key {
    KeyBuilder::new(space::RESULT).number(session.get()).number(number.get()).build()
}

/// After all results of a session.
pub fn results_end(session: SessionId) -> Key {
    after_prefix(&KeyBuilder::new(space::RESULT).number(session.get()).build())
}

/// The request number of a result's key; None where it is not one.
pub fn parse_result(key: &[u8]) -> Option<RequestNumber> {
    let number: [u8; 8] = key.get(9..)?.try_into().ok()?;
    Some(RequestNumber::new(u64::from_be_bytes(number)))
}

/// A message to a peer.
pub fn outbox(to: ShardId, sequence: u64) -> Key {
    KeyBuilder::new(space::OUTBOX).bytes(&[to.get()]).number(sequence).build()
}

/// The peer and sequence of an outbox key; None where it is not one.
pub fn parse_outbox(key: &[u8]) -> Option<(ShardId, u64)> {
    let (space, rest) = key.split_first()?;
    let (peer, sequence) = rest.split_first()?;
    let sequence = u64::from_be_bytes(sequence.try_into().ok()?);
    (*space == space::OUTBOX).then_some((ShardId::new(*peer), sequence))
}

/// The last sequence sent to a peer.
pub fn outbox_cursor(to: ShardId) -> Key {
    KeyBuilder::new(space::OUTBOX_CURSOR).bytes(&[to.get()]).build()
}

/// The last sequence executed of a peer.
pub fn inbox_cursor(from: ShardId) -> Key {
    KeyBuilder::new(space::INBOX_CURSOR).bytes(&[from.get()]).build()
}

fn tx_key(space: u8, tx: TxId) -> Key {
    KeyBuilder::new(space)
        .bytes(&[tx.shard.get()])
        .number(tx.term.get())
        .number(tx.sequence)
        .bytes(&tx.attempt.to_be_bytes())
        .build()
}

/// The transaction of a key of `PREPARED` or `DECISION`; None where it is not one.
pub fn parse_tx(key: &[u8]) -> Option<TxId> {
    let (shard, rest) = key.get(1..)?.split_first()?;
    let (term, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    Some(TxId {
        shard: ShardId::new(*shard),
        term: Term::new(u64::from_be_bytes(*term)),
        sequence: u64::from_be_bytes(*sequence),
        attempt: u16::from_be_bytes(rest.try_into().ok()?),
    })
}

/// The parts of a transaction prepared here.
pub fn prepared(tx: TxId) -> Key {
    tx_key(space::PREPARED, tx)
}

/// The decision of a transaction coordinated here.
pub fn decision(tx: TxId) -> Key {
    tx_key(space::DECISION, tx)
}

/// Locks of a directory's names and of the inode itself begin with this.
pub fn lock_prefix(ino: InodeId) -> Key {
    KeyBuilder::new(space::LOCK).number(ino.get()).build()
}

/// The lock of a name in a directory; the empty name is the inode itself.
pub fn lock(ino: InodeId, name: &[u8]) -> Key {
    KeyBuilder::new(space::LOCK).number(ino.get()).bytes(name).build()
}

/// All orphan records of an inode begin with this.
pub fn orphan_prefix(ino: InodeId) -> Key {
    KeyBuilder::new(space::ORPHAN).number(ino.get()).build()
}

/// A session that holds an unlinked inode open.
pub fn orphan(ino: InodeId, session: SessionId) -> Key {
    KeyBuilder::new(space::ORPHAN).number(ino.get()).number(session.get()).build()
}

/// The inode and session of an orphan's key; None where it is not one.
pub fn parse_orphan(key: &[u8]) -> Option<(InodeId, SessionId)> {
    let session: [u8; 8] = key.get(9..)?.try_into().ok()?;
    Some((parse_inode(key)?, SessionId::new(u64::from_be_bytes(session))))
}

/// An inode whose content is still being freed.
pub fn reap(ino: InodeId) -> Key {
    KeyBuilder::new(space::REAP).number(ino.get()).build()
}

/// The volume's rename lock.
pub fn rename_lock(volume: VolumeId) -> Key {
    KeyBuilder::new(space::RENAME_LOCK).bytes(&volume.get().to_be_bytes()).build()
}

/// The inode number that follows the key-space byte; None where there is none.
pub fn parse_inode(key: &[u8]) -> Option<InodeId> {
    let (number, _) = key.get(1..)?.split_first_chunk::<8>()?;
    InodeId::from_raw(u64::from_be_bytes(*number))
}

/// First rank-0 cookie of a name: keyed 59-bit hash, shifted left by the 4 bits of the rank.
///
/// 0 to 15 are reserved for `.`, `..` and the start of a listing.
pub fn cookie(name_key: &[u8; 32], name: &Name) -> u64 {
    let hash = blake3::keyed_hash(name_key, name.as_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("a BLAKE3 hash has 32 bytes");
    let hash59 = u64::from_le_bytes(*first) >> 5;
    hash59.max(1) << 4
}

/// Ranks a hash value has: names that collide in all 59 bits.
pub const RANKS: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hash_alike_have_one_stem_and_are_searched_within_it() {
        let (volume, dir) = (VolumeId::new(0), InodeId::ROOT);
        for first in [0x10, 0x7ff0, 0x1_2345_67f0, i64::MAX as u64 & !0xf] {
            let from = dentry(volume, dir, first, b"");
            let whole = stem(&from).expect("dentries have one");
            let to = after_prefix(&dentry(volume, dir, first + RANKS - 1, b""));
            assert_eq!(stem(&dentry(volume, dir, first + RANKS - 1, &[0xff; 255])), Some(whole));
            assert!(to.starts_with(whole) || to == after_prefix(whole), "{first:x}");
        }
        assert_eq!(stem(&extent_of(1, 7)), stem(&extent_of(1, u64::MAX)));
        assert_ne!(stem(&extent_of(1, 7)), stem(&extent_of(2, 7)));
        assert_eq!(stem(&inode(dir)), None);
    }

    fn extent_of(ino: u64, end: u64) -> Key {
        data::extent(InodeId::new(ino, ShardId::new(3)).expect("in range"), end)
    }

    #[test]
    fn the_end_of_a_prefix_carries() {
        assert_eq!(&*after_prefix(&[1, 2]), [1, 3]);
        assert_eq!(&*after_prefix(&[1, 255, 255]), [2]);
    }

    #[test]
    fn cookies_are_positive_and_leave_the_reserved_ones_alone() {
        for i in 0..1000u32 {
            let name = Name::new(format!("n{i}").as_bytes()).expect("a name");
            let cookie = cookie(&[7; 32], &name);
            assert!(cookie >= 16 && cookie.is_multiple_of(16) && cookie >> 63 == 0);
            assert_ne!(cookie, super::cookie(&[8; 32], &name));
        }
    }

    #[test]
    fn dentry_and_outbox_keys_parse_back() {
        let name = Name::new(b"x").expect("a name");
        let key = dentry(VolumeId::new(3), InodeId::ROOT, 77, b"x");
        assert_eq!(parse_dentry(&key), Some((77, name)));
        assert_eq!(parse_dentry(&key[..20]), None);
        assert_eq!(parse_outbox(&outbox(ShardId::new(9), 4)), Some((ShardId::new(9), 4)));
        assert_eq!(parse_outbox(&key), None);
    }
}
