//! Names: lookup, listings, and every change of a directory.

use crate::call::{Answer, Failure};
use crate::core::Core;
use crate::files::{Handle, OpenFlags};
use crate::inodes::Known;
use crate::link::Origin;
use crate::volume::{Entry, Listed, Listing, Lookup, RenameMode, Volume};
use cfs_seam::gather;
use cfs_types::{FsError, InodeId, Name};
use cfs_wire::{AttrChange, DirEntry, EntryReply, FileKind, Identity, Op, Reply};
use std::rc::Rc;
use std::time::Duration;

/// A name that leads to an inode which is gone is looked up again so many times.
pub(crate) const LOOKUPS_MAX: u32 = 16;
/// Attributes asked for at a time for one listing.
const ATTRS_IN_FLIGHT_MAX: usize = 16;

impl Core {
    fn keep_name(&self, dir: InodeId, name: &Name, known: Known, origin: &Origin) -> Duration {
        self.remaining(self.inodes.keep_name(dir, name, known, origin, self.now()))
    }

    pub async fn lookup(self: &Rc<Self>, who: &Identity, dir: InodeId, name: &Name) -> Result<Lookup, FsError> {
        for _ in 0..LOOKUPS_MAX {
            let cached = self.inodes.name(dir, name, self.now());
            let ino = match cached {
                Some((Known::Absent, end)) => return Ok(Lookup::Missing { ttl: self.remaining(Some(end)) }),
                Some((Known::Present(ino, _), _)) => ino,
                None => match self.ask_name(who, dir, name).await? {
                    Asked::Missing(ttl) => return Ok(Lookup::Missing { ttl }),
                    Asked::Whole(entry) => return Ok(Lookup::Found(entry)),
                    Asked::Elsewhere(ino) => ino,
                },
            };
            match self.attr(ino).await {
                Ok((attr, _)) => return Ok(Lookup::Found(self.entry_now(dir, name, attr))),
                // Removed between the two questions.
                Err(FsError::NotFound | FsError::Stale) => self.inodes.changed_names(dir, &[name]),
                Err(error) => return Err(error),
            }
        }
        Ok(Lookup::Missing { ttl: Duration::ZERO })
    }

    async fn ask_name(self: &Rc<Self>, who: &Identity, dir: InodeId, name: &Name) -> Result<Asked, FsError> {
        let op = Op::Lookup { dir, name: name.clone() };
        match self.call(dir.shard(), who, &op, None).await {
            Ok(Answer { reply: Reply::Entry(found), origin, .. }) => {
                let ttl = self.keep_name(dir, name, Known::Present(found.ino, found.kind), &origin);
                Ok(match found.attr {
                    Some(attr) => Asked::Whole(self.entry(&attr, &origin, ttl)),
                    None => Asked::Elsewhere(found.ino),
                })
            }
            Ok(_) => Err(FsError::Malformed),
            Err(Failure { error: FsError::NotFound, origin: Some(origin) }) => {
                Ok(Asked::Missing(self.keep_name(dir, name, Known::Absent, &origin)))
            }
            Err(failure) => Err(failure.error),
        }
    }

    /// Executes what makes or finds a name, and keeps the answer.
    async fn make(self: &Rc<Self>, who: &Identity, dir: InodeId, name: &Name, op: &Op) -> Result<Entry, FsError> {
        let answer = self.call(dir.shard(), who, op, None).await;
        let made = match answer {
            Ok(Answer { reply: Reply::Entry(made), origin, .. }) => Ok((made, origin)),
            Ok(_) => Err(FsError::Malformed),
            Err(failure) => Err(failure.error),
        };
        match made {
            Ok((EntryReply { ino, kind, attr }, origin)) => {
                let known = Known::Present(ino, kind);
                let end = self.inodes.made_name(dir, name, known, attr.as_ref(), &origin, self.now());
                match attr {
                    Some(attr) => Ok(self.entry(&attr, &origin, self.remaining(end))),
                    None => {
                        let (attr, _) = self.attr(ino).await?;
                        Ok(self.entry_now(dir, name, attr))
                    }
                }
            }
            Err(error) => {
                self.inodes.changed_names(dir, &[name]);
                Err(error)
            }
        }
    }

    /// A name is about to lose its inode: what is known of that inode changes too.
    fn target(&self, dir: InodeId, name: &Name) -> Option<InodeId> {
        match self.inodes.name(dir, name, self.now()) {
            Some((Known::Present(ino, _), _)) => Some(ino),
            _ => None,
        }
    }

    fn unlinked(&self, dir: InodeId, name: &Name, target: Option<InodeId>) {
        self.inodes.changed_names(dir, &[name]);
        match target {
            Some(ino) => self.inodes.changed_attr(ino),
            None => self.inodes.changed_all_attrs(),
        }
    }

    /// Lines of a listing with their attributes: those of other shards are asked for, several
    /// at a time.
    async fn complete(self: &Rc<Self>, dir: InodeId, entries: Vec<DirEntry>, origin: &Origin) -> Vec<Listed> {
        let mut lines: Vec<Listed> = Vec::with_capacity(entries.len());
        let mut missing = Vec::new();
        for line in entries {
            let DirEntry { cookie, name, ino, kind, attr } = line;
            let ttl = self.keep_name(dir, &name, Known::Present(ino, kind), origin);
            let entry = attr.map(|attr| self.entry(&attr, origin, ttl));
            if entry.is_none() {
                missing.push(lines.len());
            }
            lines.push(Listed { cookie, name, ino, kind, entry });
        }
        let asked = missing.iter().map(|at| self.attr(lines[*at].ino));
        let answers = gather(asked, ATTRS_IN_FLIGHT_MAX).await;
        for (at, answer) in missing.iter().zip(answers) {
            let entry = |(attr, attr_ttl)| Entry { attr, attr_ttl, entry_ttl: Duration::ZERO };
            lines[*at].entry = answer.ok().map(entry);
        }
        if !missing.is_empty() {
            for line in &mut lines {
                line.entry = line.entry.take().map(|entry| self.entry_now(dir, &line.name, entry.attr));
            }
        }
        lines
    }
}

enum Asked {
    Missing(Duration),
    Whole(Entry),
    Elsewhere(InodeId),
}

impl Volume {
    /// Looks a name up.
    pub async fn lookup(&self, who: &Identity, dir: InodeId, name: &Name) -> Result<Lookup, FsError> {
        self.core.lookup(who, dir, name).await
    }

    /// Creates a file, or opens the one that is there unless `exclusive`; `truncate` as O_TRUNC.
    pub async fn create(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        how: &Creation,
    ) -> Result<(Entry, Handle), FsError> {
        let core = &self.core;
        let Creation { mode, exclusive, truncate, flags } = *how;
        // The server does not truncate: what is held back of the file, which only the answer
        // names, has to be written first.
        let op = Op::Create { dir, name: name.clone(), mode, exclusive, truncate: false };
        let mut tries = 0;
        let (entry, handle) = loop {
            tries += 1;
            match self.try_create(who, dir, name, &op, flags).await {
                // What the name led to has lost its last name since.
                Err(FsError::Stale) if !exclusive && tries < LOOKUPS_MAX => {}
                made => break made?,
            }
        };
        let mut attr = entry.attr;
        if truncate && attr.size > 0 {
            let change = AttrChange { size: Some(0), ..AttrChange::default() };
            match self.setattr(who, attr.ino, change).await {
                Ok((changed, _)) => attr = changed,
                Err(error) => {
                    self.release(handle);
                    return Err(error);
                }
            }
        }
        Ok((core.entry_now(dir, name, attr), handle))
    }

    async fn try_create(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        op: &Op,
        flags: OpenFlags,
    ) -> Result<(Entry, Handle), FsError> {
        let core = &self.core;
        let entry = core.make(who, dir, name, op).await?;
        let ino = entry.attr.ino;
        // The server has pinned it where it lies in the shard that was asked.
        let handle = match ino.shard() == dir.shard() {
            true => core.opened_by_create(ino, flags).await?,
            false => core.open(who, ino, flags).await?,
        };
        Ok((entry, handle))
    }

    /// Makes a fifo, socket, device node or regular file.
    pub async fn mknod(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        kind: FileKind,
        mode: u16,
        rdev: u32,
    ) -> Result<Entry, FsError> {
        let op = Op::Mknod { dir, name: name.clone(), kind, mode, rdev };
        self.core.make(who, dir, name, &op).await
    }

    /// Makes a directory.
    pub async fn mkdir(&self, who: &Identity, dir: InodeId, name: &Name, mode: u16) -> Result<Entry, FsError> {
        self.core.make(who, dir, name, &Op::Mkdir { dir, name: name.clone(), mode }).await
    }

    /// Makes a symbolic link.
    pub async fn symlink(&self, who: &Identity, dir: InodeId, name: &Name, target: &[u8]) -> Result<Entry, FsError> {
        let op = Op::Symlink { dir, name: name.clone(), target: target.to_vec() };
        self.core.make(who, dir, name, &op).await
    }

    /// Gives an inode another name.
    pub async fn link(&self, who: &Identity, ino: InodeId, dir: InodeId, name: &Name) -> Result<Entry, FsError> {
        let core = &self.core;
        core.write_back(ino).await;
        let result = core.make(who, dir, name, &Op::Link { ino, dir, name: name.clone() }).await;
        if result.is_err() {
            core.inodes.changed_attr(ino);
        }
        result
    }

    /// Removes a name of anything but a directory.
    pub async fn unlink(&self, who: &Identity, dir: InodeId, name: &Name) -> Result<(), FsError> {
        self.remove(who, dir, name, &Op::Unlink { dir, name: name.clone() }).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, who: &Identity, dir: InodeId, name: &Name) -> Result<(), FsError> {
        self.remove(who, dir, name, &Op::Rmdir { dir, name: name.clone() }).await
    }

    async fn remove(&self, who: &Identity, dir: InodeId, name: &Name, op: &Op) -> Result<(), FsError> {
        let core = &self.core;
        let target = core.target(dir, name);
        let result = core.call(dir.shard(), who, op, None).await;
        core.unlinked(dir, name, target);
        result?;
        Ok(())
    }

    /// Whether a name is known, without asking, to lead to a directory.
    pub fn is_directory(&self, dir: InodeId, name: &Name) -> bool {
        let known = self.core.inodes.name(dir, name, self.core.now());
        matches!(known, Some((Known::Present(_, FileKind::Directory), _)))
    }

    /// Renames.
    pub async fn rename(
        &self,
        who: &Identity,
        from: (InodeId, &Name),
        to: (InodeId, &Name),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let core = &self.core;
        let targets = [core.target(from.0, from.1), core.target(to.0, to.1)];
        let replaces = core.inodes.name(to.0, to.1, core.now()).map(|(known, _)| known) != Some(Known::Absent);
        let op = Op::Rename {
            from_dir: from.0,
            from: from.1.clone(),
            to_dir: to.0,
            to: to.1.clone(),
            no_replace: mode == RenameMode::NoReplace,
            exchange: mode == RenameMode::Exchange,
        };
        let result = core.call(from.0.shard(), who, &op, None).await;
        core.unlinked(from.0, from.1, targets[0]);
        if replaces || targets[1].is_some() {
            core.unlinked(to.0, to.1, targets[1]);
        } else {
            core.inodes.changed_names(to.0, &[to.1]);
        }
        result?;
        // The kernel moves its entry, and goes on believing it as long as it would have believed the old name. No
        // revocation would name it: what is recorded here of either name is gone. It waits with this one for
        // the directories, which the rename has locked, and so comes behind the move.
        core.forget_in_kernel(|kernel| {
            kernel.forget_entry(to.0, to.1);
            if mode == RenameMode::Exchange {
                kernel.forget_entry(from.0, from.1);
            }
        });
        Ok(())
    }

    /// The directory above (`..`).
    pub async fn parent(&self, dir: InodeId) -> Result<InodeId, FsError> {
        match self.core.call(dir.shard(), &Identity::default(), &Op::Parent { dir }, None).await?.reply {
            Reply::Entry(parent) => Ok(parent.ino),
            _ => Err(FsError::Malformed),
        }
    }

    /// Entries after `cookie` (0 is the start), at most about `bytes_max` of them; with `plus`
    /// what a lookup of each would say.
    pub async fn readdir(
        &self,
        who: &Identity,
        dir: InodeId,
        cookie: u64,
        bytes_max: u32,
        plus: bool,
    ) -> Result<Listing, FsError> {
        let core = &self.core;
        let op = Op::Readdir { dir, cookie, bytes_max, plus };
        let answer = core.call(dir.shard(), who, &op, None).await?;
        let Reply::Listing { parent, entries, end } = answer.reply else { return Err(FsError::Malformed) };
        let entries = if plus {
            core.complete(dir, entries, &answer.origin).await
        } else {
            let bare = |line: DirEntry| Listed {
                cookie: line.cookie,
                name: line.name,
                ino: line.ino,
                kind: line.kind,
                entry: None,
            };
            entries.into_iter().map(bare).collect()
        };
        Ok(Listing { parent, entries, end })
    }
}

/// How [`Volume::create`] creates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Creation {
    /// Permission bits after the umask.
    pub mode: u16,
    /// O_EXCL.
    pub exclusive: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// How it is opened.
    pub flags: OpenFlags,
}
