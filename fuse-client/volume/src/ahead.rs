//! Opening ahead: for somebody whose open came too late, because another file had taken the name since
//! it was looked up, and who looks it up again (the kernel does so once).
//!
//! Invariant: what is held open here, at most [`AHEAD_MAX`] files, is released [`AHEAD`] after the last
//! lookup, whether somebody has opened it meanwhile or not.

use crate::core::Core;
use crate::files::OpenFlags;
use crate::names::LOOKUPS_MAX;
use crate::volume::{Lookup, Volume};
use cfs_seam::{Class, sleep};
use cfs_types::{FsError, InodeId, Name};
use cfs_wire::{FileKind, Identity};
use std::rc::Rc;
use std::time::Duration;

/// Far longer than the kernel takes from a name to its open.
const AHEAD: Duration = Duration::from_secs(1);
/// Files held open so.
const AHEAD_MAX: usize = 1024;

impl Volume {
    /// As [`Volume::lookup`], but a file that it finds stays open for a moment: an open that follows
    /// does not find it gone, whatever becomes of the name.
    pub async fn lookup_to_open(&self, who: &Identity, dir: InodeId, name: &Name) -> Result<Lookup, FsError> {
        let core = &self.core;
        let mut found = core.lookup(who, dir, name).await?;
        for _ in 0..LOOKUPS_MAX {
            let Lookup::Found(entry) = &found else { break };
            if entry.attr.kind != FileKind::File {
                break;
            }
            match core.open_ahead(who, entry.attr.ino).await {
                Err(FsError::NotFound | FsError::Stale) => core.inodes.changed_names(dir, &[name]),
                // Of other errors the open itself will tell.
                Ok(()) | Err(_) => break,
            }
            found = core.lookup(who, dir, name).await?;
        }
        if let Lookup::Found(entry) = found {
            found = Lookup::Found(core.entry_now(dir, name, entry.attr));
        }
        Ok(found)
    }
}

impl Core {
    async fn open_ahead(self: &Rc<Self>, who: &Identity, ino: InodeId) -> Result<(), FsError> {
        if self.prolong(ino) {
            return Ok(());
        }
        let handle = self.open(who, ino, OpenFlags::default()).await?;
        if self.prolong(ino) || self.ahead.borrow().len() >= AHEAD_MAX {
            self.release(handle);
            return Ok(());
        }
        self.ahead.borrow_mut().insert(ino, self.now().after(AHEAD));
        let core = self.clone();
        self.spawn(Class::Foreground, async move {
            loop {
                let (now, end) = (core.now(), core.ahead.borrow().get(&ino).copied());
                let Some(end) = end.filter(|end| *end > now) else { break };
                sleep(&core.world.clock, end.since(now)).await;
            }
            core.ahead.borrow_mut().remove(&ino);
            core.release(handle);
        });
        Ok(())
    }

    /// Whether the file is held open already: then it stays so for longer.
    fn prolong(&self, ino: InodeId) -> bool {
        let mut ahead = self.ahead.borrow_mut();
        let Some(end) = ahead.get_mut(&ino) else { return false };
        *end = self.now().after(AHEAD);
        true
    }
}
