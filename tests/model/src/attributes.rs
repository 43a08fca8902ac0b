//! Attributes, extended attributes and statfs.

use crate::Model;
use crate::node::NodeBody;
use cfs_types::{FILE_BYTES_MAX, FsError, InodeId, Nanos};
use cfs_wire::{AttrChange, Identity, Op, Reply, TimeChange, Volume, XattrMode};

const XATTR_NAME_MAX: usize = 255;
const XATTR_BYTES_MAX: usize = 64 << 10;

impl Model {
    pub(crate) fn set_attributes(
        &mut self,
        who: &Identity,
        ino: InodeId,
        change: &AttrChange,
        now: Nanos,
    ) -> Result<Reply, FsError> {
        let node = self.node_mut(ino)?;
        if *change == AttrChange::default() {
            return self.attr(ino);
        }
        if who.uid != 0 {
            let (owner, new) = (node.uid, change.uid.unwrap_or(node.uid));
            let times = [change.atime, change.mtime].iter().any(|time| matches!(time, Some(TimeChange::At(_))));
            let of_owner = times || change.mode.is_some() || change.gid.is_some() || change.uid.is_some();
            if new != owner || of_owner && who.uid != owner {
                return Err(FsError::NotPermitted);
            }
        }
        if let Some(size) = change.size {
            let content = node.file_mut()?;
            if size > FILE_BYTES_MAX {
                return Err(FsError::FileTooLarge);
            }
            content.resize(size);
            node.modified(now);
        }
        if change.kill_privileges || change.uid.is_some() || change.gid.is_some() {
            node.kill_privileges();
        }
        if change.kill_privileges || change.uid.is_some() || change.gid.is_some() || change.size.is_some() {
            node.drop_capability();
        }
        if let Some(uid) = change.uid {
            node.uid = uid;
        }
        if let Some(gid) = change.gid {
            node.gid = gid;
        }
        if let Some(mode) = change.mode {
            node.mode = mode & 0o7777;
        }
        let time = |change: TimeChange| match change {
            TimeChange::Now => now,
            TimeChange::At(time) => time,
        };
        if let Some(atime) = change.atime {
            node.atime = time(atime);
        }
        if let Some(mtime) = change.mtime {
            node.mtime = time(mtime);
        }
        node.ctime = change.ctime.map_or(now, time);
        self.attr(ino)
    }

    /// Extended attributes, readlink and statfs.
    pub(crate) fn attribute(&mut self, op: &Op, now: Nanos) -> Result<Reply, FsError> {
        match op {
            Op::Readlink { ino } => match &self.node(*ino)?.body {
                NodeBody::Symlink(target) => Ok(Reply::Bytes(target.clone())),
                _ => Err(FsError::Invalid),
            },
            Op::GetXattr { ino, name } => {
                if name.starts_with(b"system.posix_acl_") {
                    return Err(FsError::NoAttribute);
                }
                check_xattr_name(name)?;
                let value = self.node(*ino)?.xattrs.get(name).ok_or(FsError::NoAttribute)?;
                Ok(Reply::Bytes(value.clone()))
            }
            Op::ListXattr { ino } => {
                let names = self.node(*ino)?.xattrs.keys();
                Ok(Reply::Bytes(names.flat_map(|name| [name, &[0][..]].concat()).collect()))
            }
            Op::SetXattr { ino, name, value, mode } => self.set_xattr(*ino, name, value, *mode, now),
            Op::RemoveXattr { ino, name } => {
                check_xattr_name(name)?;
                let node = self.node_mut(*ino)?;
                node.xattrs.remove(name).ok_or(FsError::NoAttribute)?;
                node.changed(now);
                Ok(Reply::Done)
            }
            Op::Statfs => {
                let inodes = u64::try_from(self.nodes.len()).expect("64 bits");
                Ok(Reply::Statfs(Volume { inodes, ..Volume::default() }))
            }
            _ => Err(FsError::NotSupported),
        }
    }

    fn set_xattr(
        &mut self,
        ino: InodeId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        now: Nanos,
    ) -> Result<Reply, FsError> {
        check_xattr_name(name)?;
        if value.len() > XATTR_BYTES_MAX {
            return Err(FsError::TooLarge);
        }
        let node = self.node_mut(ino)?;
        let there = node.xattrs.contains_key(name);
        match mode {
            XattrMode::Create if there => return Err(FsError::Exists),
            XattrMode::Replace if !there => return Err(FsError::NoAttribute),
            _ => {}
        }
        let listed: usize = node.xattrs.keys().map(|name| name.len() + 1).sum();
        if !there && listed + name.len() + 1 > XATTR_BYTES_MAX {
            return Err(FsError::NoSpace);
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        node.changed(now);
        Ok(Reply::Done)
    }
}

fn check_xattr_name(name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(FsError::Range);
    }
    if name.contains(&0) {
        return Err(FsError::Invalid);
    }
    match [&b"user."[..], b"trusted.", b"security."].iter().find_map(|space| name.strip_prefix(*space)) {
        None => Err(FsError::NotSupported),
        Some(b"") => Err(FsError::Invalid),
        Some(_) => Ok(()),
    }
}
