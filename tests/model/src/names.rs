//! Operations on names: create, mkdir, link, unlink, rmdir, rename.

use crate::node::{Node, NodeBody};
use crate::{Call, Model};
use cfs_types::{FsError, InodeId, Name, Nanos};
use cfs_wire::{FileKind, Reply};

type Place<'a> = (InodeId, &'a Name);

impl Model {
    /// A directory that can take names: `NotFound` where it is removed and only held open.
    fn living(&self, dir: InodeId) -> Result<&Node, FsError> {
        let node = self.node(dir)?;
        node.directory()?;
        if node.nlink == 0 { Err(FsError::NotFound) } else { Ok(node) }
    }

    /// Puts or removes a name; the count of subdirectories follows.
    fn bind(&mut self, (dir, name): Place<'_>, ino: Option<InodeId>, now: Nanos) {
        let is_dir = |model: &Model, ino: &InodeId| model.nodes.get(ino).is_some_and(Node::is_dir);
        let gained = ino.is_some_and(|ino| is_dir(self, &ino));
        let Some(NodeBody::Directory { entries, .. }) = self.nodes.get_mut(&dir).map(|node| &mut node.body) else {
            return;
        };
        let old = match ino {
            Some(ino) => entries.insert(name.clone(), ino),
            None => entries.remove(name),
        };
        let lost = old.is_some_and(|old| is_dir(self, &old));
        if let Some(node) = self.nodes.get_mut(&dir) {
            node.nlink = node.nlink + u32::from(gained) - u32::from(lost);
            node.modified(now);
        }
    }

    fn drop_link(&mut self, ino: InodeId, now: Nanos) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.nlink = if node.is_dir() { 0 } else { node.nlink - 1 };
            node.changed(now);
        }
        self.sweep(ino);
    }

    pub(crate) fn create(
        &mut self,
        call: &Call,
        place: Place<'_>,
        mode: u16,
        exclusive: bool,
        truncate: bool,
    ) -> Result<Reply, FsError> {
        self.living(place.0)?;
        let reply = match self.find(place.0, place.1) {
            Ok(_) if exclusive => return Err(FsError::Exists),
            Ok(ino) if self.node(ino)?.is_dir() => return Err(FsError::IsDirectory),
            Ok(ino) => {
                if truncate && self.node(ino)?.file().is_ok() {
                    let node = self.node_mut(ino)?;
                    node.file_mut()?.resize(0);
                    node.modified(call.now);
                }
                self.entry(ino)?
            }
            Err(FsError::NotFound) => self.make(call, place, FileKind::File, mode, 0, &[])?,
            Err(error) => return Err(error),
        };
        if let Reply::Entry(entry) = &reply {
            self.node_mut(entry.ino)?.open_by.insert(call.session);
        }
        Ok(reply)
    }

    pub(crate) fn make(
        &mut self,
        call: &Call,
        (dir, name): Place<'_>,
        kind: FileKind,
        mode: u16,
        rdev: u32,
        target: &[u8],
    ) -> Result<Reply, FsError> {
        let symlink = kind == FileKind::Symlink;
        if kind == FileKind::Directory || symlink == target.is_empty() {
            return Err(FsError::Invalid);
        }
        if target.len() > 4095 {
            return Err(FsError::NameTooLong);
        }
        let ino = self.bear(call, (dir, name), kind, mode)?;
        let node = self.node_mut(ino)?;
        match &mut node.body {
            NodeBody::Symlink(bytes) => *bytes = target.to_vec(),
            NodeBody::Special(FileKind::CharDevice | FileKind::BlockDevice, device) => {
                *device = rdev;
            }
            NodeBody::Special(..) | NodeBody::File(_) | NodeBody::Directory { .. } => {}
        }
        self.entry(ino)
    }

    fn bear(&mut self, call: &Call, (dir, name): Place<'_>, kind: FileKind, mode: u16) -> Result<InodeId, FsError> {
        let parent = self.living(dir)?;
        let setgid = parent.mode & 0o2000;
        let gid = if setgid != 0 { parent.gid } else { call.identity.gid };
        if self.find(dir, name).is_ok() {
            return Err(FsError::Exists);
        }
        let mode = if kind == FileKind::Directory { mode | setgid } else { mode };
        let ino = self.add(Node::new(kind, mode, call.identity.uid, gid, call.now));
        self.bind((dir, name), Some(ino), call.now);
        Ok(ino)
    }

    pub(crate) fn mkdir(&mut self, call: &Call, place: Place<'_>, mode: u16) -> Result<Reply, FsError> {
        let ino = self.bear(call, place, FileKind::Directory, mode)?;
        self.set_parent(ino, place.0);
        self.entry(ino)
    }

    fn set_parent(&mut self, ino: InodeId, dir: InodeId) {
        if let Some(NodeBody::Directory { parent, .. }) = self.nodes.get_mut(&ino).map(|node| &mut node.body) {
            *parent = dir;
        }
    }

    pub(crate) fn link(&mut self, ino: InodeId, place: Place<'_>, now: Nanos) -> Result<Reply, FsError> {
        self.node(place.0)?.directory()?;
        if self.find(place.0, place.1).is_ok() {
            return Err(FsError::Exists);
        }
        if self.nodes.get(&ino).ok_or(FsError::NotFound)?.is_dir() {
            return Err(FsError::NotPermitted);
        }
        self.living(place.0)?;
        let node = self.node_mut(ino)?;
        if node.nlink == 0 {
            return Err(FsError::NotFound);
        }
        node.nlink += 1;
        node.changed(now);
        self.bind(place, Some(ino), now);
        self.entry(ino)
    }

    pub(crate) fn unlink(&mut self, place: Place<'_>, now: Nanos) -> Result<Reply, FsError> {
        let ino = self.find(place.0, place.1)?;
        if self.node(ino)?.is_dir() {
            return Err(FsError::IsDirectory);
        }
        self.bind(place, None, now);
        self.drop_link(ino, now);
        Ok(Reply::Done)
    }

    pub(crate) fn rmdir(&mut self, place: Place<'_>, now: Nanos) -> Result<Reply, FsError> {
        let ino = self.find(place.0, place.1)?;
        let (entries, _) = self.node(ino)?.directory()?;
        if !entries.is_empty() {
            return Err(FsError::NotEmpty);
        }
        self.bind(place, None, now);
        self.drop_link(ino, now);
        Ok(Reply::Done)
    }

    /// Whether `below` is `above` or lies under it.
    fn is_within(&self, below: InodeId, above: InodeId) -> Result<bool, FsError> {
        let mut at = below;
        while at != above {
            if at == InodeId::ROOT {
                return Ok(false);
            }
            at = self.node(at)?.directory()?.1;
        }
        Ok(true)
    }

    pub(crate) fn rename(
        &mut self,
        from: Place<'_>,
        to: Place<'_>,
        (no_replace, exchange): (bool, bool),
        now: Nanos,
    ) -> Result<Reply, FsError> {
        self.node(from.0)?.directory()?;
        let source = self.find(from.0, from.1);
        self.node(to.0)?.directory()?;
        let source = source?;
        let target = self.find(to.0, to.1).ok();
        if no_replace && exchange {
            return Err(FsError::Invalid);
        }
        if no_replace && target.is_some() {
            return Err(FsError::Exists);
        }
        if exchange && target.is_none() {
            return Err(FsError::NotFound);
        }
        if target == Some(source) {
            return Ok(Reply::Done);
        }
        let source_is_dir = self.node(source)?.is_dir();
        let target_is_dir = match target {
            Some(target) => self.node(target)?.is_dir(),
            None => source_is_dir,
        };
        if !exchange && source_is_dir != target_is_dir {
            let error = if source_is_dir { FsError::NotDirectory } else { FsError::IsDirectory };
            return Err(error);
        }
        self.living(to.0)?;
        if source_is_dir && from.0 != to.0 && self.is_within(to.0, source)? {
            return Err(FsError::Invalid);
        }
        match target {
            Some(target) if exchange => {
                let moves = target_is_dir && from.0 != to.0;
                if moves && self.is_within(from.0, target)? {
                    return Err(FsError::Invalid);
                }
                self.bind(from, Some(target), now);
                self.moved(target, from.0, now);
            }
            Some(target) => {
                if let Ok((entries, _)) = self.node(target)?.directory()
                    && !entries.is_empty()
                {
                    return Err(FsError::NotEmpty);
                }
                self.bind(from, None, now);
                self.bind(to, None, now);
                self.drop_link(target, now);
            }
            None => self.bind(from, None, now),
        }
        self.bind(to, Some(source), now);
        self.moved(source, to.0, now);
        Ok(Reply::Done)
    }

    fn moved(&mut self, ino: InodeId, dir: InodeId, now: Nanos) {
        self.set_parent(ino, dir);
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.changed(now);
        }
    }
}
