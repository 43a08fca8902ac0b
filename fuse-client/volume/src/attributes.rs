//! Attributes and extended attributes.

use crate::call::Answer;
use crate::core::Core;
use crate::inodes::Known;
use crate::link::Origin;
use crate::volume::{Entry, Volume};
use cfs_types::{FsError, InodeId, Name, check_attribute_asked};
use cfs_wire::{Attr, AttrChange, Identity, Op, Reply, XattrMode};
use std::rc::Rc;
use std::time::Duration;

impl Core {
    /// Attributes as a user sees them and how long they hold; asked for where no lease lets
    /// them be kept.
    pub async fn attr(self: &Rc<Self>, ino: InodeId) -> Result<(Attr, Duration), FsError> {
        let now = self.now();
        if let Some(Some((attr, end))) = self.inodes.find(ino, |inode| inode.cached_attr(now)) {
            return Ok((attr, self.attr_ttl(ino, Some(end))));
        }
        let answer = self.call(ino.shard(), &Identity::default(), &Op::Getattr { ino }, None).await?;
        match answer.reply {
            Reply::Attr(attr) if attr.ino == ino => Ok(self.keep(&attr, &answer.origin)),
            _ => Err(FsError::Malformed),
        }
    }

    /// Keeps what an answer said, if it may be kept.
    pub fn keep(&self, attr: &Attr, origin: &Origin) -> (Attr, Duration) {
        let (attr, end) = self.inodes.keep_attr(attr, origin, self.now());
        let ttl = self.attr_ttl(attr.ino, end);
        (attr, ttl)
    }

    /// An entry from an answer's attributes.
    pub fn entry(&self, attr: &Attr, origin: &Origin, entry_ttl: Duration) -> Entry {
        let (attr, attr_ttl) = self.keep(attr, origin);
        Entry { attr, entry_ttl, attr_ttl }
    }

    /// An entry that was found before something else was waited for, as it is told to the kernel: what was
    /// revoked meanwhile holds for no time, since the kernel was told to forget it before it hears of it.
    pub fn entry_now(&self, dir: InodeId, name: &Name, attr: Attr) -> Entry {
        let now = self.now();
        let named = match self.inodes.name(dir, name, now) {
            Some((Known::Present(ino, _), end)) if ino == attr.ino => Some(end),
            _ => None,
        };
        let known = self.inodes.find(attr.ino, |inode| inode.cached_attr(now)).flatten();
        let (attr, end) = known.map_or((attr, None), |(attr, end)| (attr, Some(end)));
        let attr_ttl = self.attr_ttl(attr.ino, end);
        Entry { attr, entry_ttl: self.remaining(named), attr_ttl }
    }

    async fn bytes(self: &Rc<Self>, ino: InodeId, op: &Op) -> Result<Vec<u8>, FsError> {
        match self.call(ino.shard(), &Identity::default(), op, None).await?.reply {
            Reply::Bytes(bytes) => Ok(bytes),
            _ => Err(FsError::Malformed),
        }
    }
}

impl Volume {
    /// Attributes, with what is held back, and how long they hold; once no page is shown that is older.
    pub async fn getattr(&self, ino: InodeId) -> Result<(Attr, Duration), FsError> {
        let found = self.core.attr(ino).await?;
        if self.core.pages_forgotten(ino).await {
            return self.core.attr(ino).await;
        }
        Ok(found)
    }

    /// Changes attributes. What is held back is written first, so that times and size set here
    /// stay.
    pub async fn setattr(&self, who: &Identity, ino: InodeId, change: AttrChange) -> Result<(Attr, Duration), FsError> {
        let core = &self.core;
        core.write_back(ino).await;
        let resized = change.size.is_some();
        let op = Op::Setattr { ino, change };
        let answer = core.call(ino.shard(), who, &op, None).await;
        if resized {
            core.inodes.changed_data(ino);
            core.data.forget(ino);
        }
        match answer? {
            Answer { reply: Reply::Attr(attr), origin, .. } if attr.ino == ino => Ok(core.keep(&attr, &origin)),
            _ => Err(FsError::Malformed),
        }
    }

    /// Target of a symbolic link.
    pub async fn readlink(&self, ino: InodeId) -> Result<Vec<u8>, FsError> {
        self.core.bytes(ino, &Op::Readlink { ino }).await
    }

    /// Value of an extended attribute.
    pub async fn getxattr(&self, ino: InodeId, name: &[u8]) -> Result<Vec<u8>, FsError> {
        check_attribute_asked(name)?;
        // The kernel asks for security.capability of each file that is written.
        if self.core.inodes.is_bare(ino, self.core.now()) {
            return Err(FsError::NoAttribute);
        }
        self.core.bytes(ino, &Op::GetXattr { ino, name: name.to_vec() }).await
    }

    /// Names of the extended attributes, each ended by NUL.
    pub async fn listxattr(&self, ino: InodeId) -> Result<Vec<u8>, FsError> {
        if self.core.inodes.is_bare(ino, self.core.now()) {
            return Ok(Vec::new());
        }
        self.core.bytes(ino, &Op::ListXattr { ino }).await
    }

    /// Sets an extended attribute.
    pub async fn setxattr(
        &self,
        who: &Identity,
        ino: InodeId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), FsError> {
        let op = Op::SetXattr { ino, name: name.to_vec(), value: value.to_vec(), mode };
        self.change_xattr(who, ino, &op).await
    }

    /// Removes an extended attribute.
    pub async fn removexattr(&self, who: &Identity, ino: InodeId, name: &[u8]) -> Result<(), FsError> {
        self.change_xattr(who, ino, &Op::RemoveXattr { ino, name: name.to_vec() }).await
    }

    async fn change_xattr(&self, who: &Identity, ino: InodeId, op: &Op) -> Result<(), FsError> {
        // Writing ends a capability (`security.capability`): what was written before must not do so later.
        self.core.write_back(ino).await;
        let result = self.core.call(ino.shard(), who, op, None).await;
        self.core.inodes.changed_attr(ino);
        result?;
        Ok(())
    }
}
