//! The state while a command executes: reads fall through to the view, writes collect.

use crate::command::{EntryContext, Message};
use crate::keys;
use crate::outcome::{Effect, Step, Stop};
use crate::record::{self, Counters, Dentry, Inode};
use crate::view::{Key, NeedMore, Overlay, Rows, Value, View, Writes};
use cfs_types::{FsError, InodeId, Name, ShardId};
use cfs_wire::FileKind;
use serde::de::DeserializeOwned;

/// Reads an inode that must exist: `Stale` where it does not.
pub fn read_inode(view: &dyn View, ino: InodeId) -> Step<Inode> {
    find_inode(view, ino)?.ok_or(Stop::Fail(FsError::Stale))
}

/// Reads an inode that may be gone.
pub fn find_inode(view: &dyn View, ino: InodeId) -> Step<Option<Inode>> {
    Ok(match view.get(&keys::inode(ino))? {
        Some(bytes) => Some(Inode::decode(&bytes)?),
        None => None,
    })
}

/// Reads a cold record that may be absent.
pub fn find<T: DeserializeOwned>(view: &dyn View, key: &[u8]) -> Step<Option<T>> {
    Ok(match view.get(key)? {
        Some(bytes) => Some(record::decode(&bytes)?),
        None => None,
    })
}

/// A name found in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Cookie with rank.
    pub cookie: u64,
    /// Where it leads.
    pub dentry: Dentry,
}

/// Finds a name.
pub fn find_dentry(view: &dyn View, ctx: &EntryContext, dir: InodeId, name: &Name) -> Step<Option<Found>> {
    Ok(found_or_place(view, ctx, dir, name)?.ok())
}

/// Finds a name: rank 0 by its key, then, as names may collide, the other ranks.
fn found_or_place(view: &dyn View, ctx: &EntryContext, dir: InodeId, name: &Name) -> Step<Result<Found, Place>> {
    let first = keys::cookie(&ctx.name_key, name);
    if let Some(bytes) = view.get(&keys::dentry(ctx.volume, dir, first, name.as_bytes()))? {
        return Ok(Ok(Found { cookie: first, dentry: Dentry::decode(&bytes)? }));
    }
    let ranks = usize::try_from(keys::RANKS).expect("16 fits");
    let from = keys::dentry(ctx.volume, dir, first, b"");
    let to = keys::after_prefix(&keys::dentry(ctx.volume, dir, first + keys::RANKS - 1, b""));
    // Entries whose names hash to the same value; in the order of their cookies.
    let mut free = first;
    for (key, value) in view.scan(&from, &to, ranks)? {
        let (cookie, found) = keys::parse_dentry(&key).ok_or(FsError::Corrupt)?;
        if found == *name {
            return Ok(Ok(Found { cookie, dentry: Dentry::decode(&value)? }));
        }
        free += u64::from(cookie == free);
    }
    Ok(Err(Place(Some(free).filter(|free| *free < first + keys::RANKS))))
}

/// Where a missing name would go: its cookie with rank, None where all ranks are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(Option<u64>);

/// State under execution.
pub struct State<'a> {
    overlay: Overlay<'a>,
    /// Where and when.
    pub ctx: &'a EntryContext,
    /// What the driver is to do.
    pub effects: Vec<Effect>,
}

impl View for State<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, NeedMore> {
        self.overlay.get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, NeedMore> {
        self.overlay.scan(from, to, limit)
    }
}

impl<'a> State<'a> {
    /// No writes yet.
    pub fn new(view: &'a dyn View, ctx: &'a EntryContext) -> Self {
        State { overlay: Overlay::new(view), ctx, effects: Vec::new() }
    }

    /// Forgets writes and effects: the command fails.
    pub fn clear(&mut self) {
        self.overlay.clear();
        self.effects.clear();
    }

    /// Writes and effects.
    pub fn finish(self) -> (Writes, Vec<Effect>) {
        (self.overlay.into_writes(), self.effects)
    }

    /// Writes a value.
    pub fn put(&mut self, key: Key, value: Value) {
        self.overlay.write(key, Some(value));
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: Key) {
        self.overlay.write(key, None);
    }

    /// Reads an inode that must exist: `Stale` where it does not.
    pub fn inode(&self, ino: InodeId) -> Step<Inode> {
        read_inode(self, ino)
    }

    /// Reads a directory that takes changes: `NotFound` where it is gone or dying.
    pub fn directory(&self, ino: InodeId) -> Step<Inode> {
        let dir = self.inode(ino)?;
        if !dir.is_dir() {
            return Err(Stop::Fail(FsError::NotDirectory));
        }
        if dir.dying {
            return Err(self.inode_holder(ino)?.map_or(Stop::Fail(FsError::NotFound), Stop::Blocked));
        }
        if dir.nlink == 0 {
            return Err(Stop::Fail(FsError::NotFound));
        }
        Ok(dir)
    }

    /// Who holds the lock of the inode itself.
    fn inode_holder(&self, ino: InodeId) -> Step<Option<crate::txn::TxId>> {
        find(self, &keys::lock(ino, b""))
    }

    /// Writes an inode.
    pub fn put_inode(&mut self, ino: InodeId, inode: &Inode) {
        self.put(keys::inode(ino), inode.encode());
    }

    /// Finds a name in a directory.
    pub fn dentry(&self, dir: InodeId, name: &Name) -> Step<Option<Found>> {
        find_dentry(self, self.ctx, dir, name)
    }

    /// Finds a name in a directory, or the cookie that it would get there.
    pub fn dentry_or_place(&self, dir: InodeId, name: &Name) -> Step<Result<Found, Place>> {
        found_or_place(self, self.ctx, dir, name)
    }

    /// Adds a name that is not there: `NoSpace` where 16 names collide in all 59 bits.
    pub fn add_dentry(&mut self, dir: InodeId, name: &Name, place: Place, dentry: Dentry) -> Step<()> {
        let cookie = place.0.ok_or(Stop::Fail(FsError::NoSpace))?;
        self.put_dentry(dir, name, cookie, dentry);
        Ok(())
    }

    /// Writes where an existing name leads.
    pub fn put_dentry(&mut self, dir: InodeId, name: &Name, cookie: u64, dentry: Dentry) {
        let key = keys::dentry(self.ctx.volume, dir, cookie, name.as_bytes());
        self.put(key, dentry.encode());
    }

    /// Removes a name.
    pub fn remove_dentry(&mut self, dir: InodeId, name: &Name, cookie: u64) {
        self.delete(keys::dentry(self.ctx.volume, dir, cookie, name.as_bytes()));
    }

    /// Gives out the next inode number and counts the inode.
    pub fn allocate(&mut self, kind: FileKind) -> Step<InodeId> {
        let sequence = self.count_in(kind, true)?.last_sequence;
        InodeId::new(sequence, self.ctx.shard).ok_or(Stop::Fail(FsError::NoSpace))
    }

    /// Counts an inode record in.
    pub fn count(&mut self, kind: FileKind) -> Step<()> {
        self.count_in(kind, false).map(|_| ())
    }

    fn count_in(&mut self, kind: FileKind, numbered: bool) -> Step<Counters> {
        let mut counters: Counters = find(self, &keys::counters())?.unwrap_or_default();
        counters.last_sequence += u64::from(numbered);
        counters.inodes += 1;
        counters.directories += u64::from(kind == FileKind::Directory);
        self.put(keys::counters(), record::encode(&counters));
        Ok(counters)
    }

    /// An inode record is gone: counts it out.
    pub fn uncount(&mut self, kind: FileKind) -> Step<()> {
        let mut counters: Counters = find(self, &keys::counters())?.unwrap_or_default();
        counters.inodes = counters.inodes.saturating_sub(1);
        let directory = u64::from(kind == FileKind::Directory);
        counters.directories = counters.directories.saturating_sub(directory);
        self.put(keys::counters(), record::encode(&counters));
        Ok(())
    }

    /// Puts a message into the outbox of a peer; gives its sequence.
    pub fn send(&mut self, to: ShardId, message: &Message) -> Step<u64> {
        let last: u64 = find(self, &keys::outbox_cursor(to))?.unwrap_or_default();
        let sequence = last + 1;
        self.put(keys::outbox_cursor(to), record::encode(&sequence));
        self.put(keys::outbox(to, sequence), record::encode(message));
        self.effects.push(Effect::Sent { to, sequence });
        Ok(sequence)
    }
}
