//! Writing back what is held: one flight of extents a file at a time, several extents at once.

use crate::core::Core;
use crate::write::Sending;
use cfs_seam::{Class, gather};
use cfs_types::{FsError, InodeId};
use cfs_wire::HeldBack;
use std::rc::Rc;

/// Extents of one file sent at a time.
const EXTENTS_IN_FLIGHT_MAX: usize = 8;
/// A file with so much waiting is written again as soon as a flight has landed.
const FULL_FLIGHT_BYTES: usize = 1 << 20;

type Extent = (u64, Rc<Vec<u8>>);

impl Core {
    /// Begins to write back unless that is under way.
    pub fn begin_write_back(self: &Rc<Self>, ino: InodeId) {
        let begin = self.inodes.find(ino, |inode| {
            let begin = inode.dirty.has_waiting() && !inode.flushing;
            inode.flushing |= begin;
            begin
        });
        if begin == Some(true) {
            let volume = self.clone();
            self.spawn(Class::Foreground, async move { volume.fly(ino).await });
        }
    }

    /// Waits until everything held back now has been written or has failed.
    pub async fn write_back(self: &Rc<Self>, ino: InodeId) {
        let target = self.inodes.find(ino, |inode| {
            if inode.dirty.has_waiting() {
                inode.wanted = inode.launched + 1;
                Some(inode.wanted)
            } else {
                inode.dirty.is_flying().then_some(inode.launched)
            }
        });
        let Some(Some(target)) = target else { return };
        loop {
            self.begin_write_back(ino);
            let over = self.inodes.find(ino, |inode| inode.landed >= target || inode.dirty.is_empty());
            if over != Some(false) || self.check().is_err() {
                return;
            }
            self.inodes.changed.changed().await;
        }
    }

    /// Writes back and says whether something was lost meanwhile.
    pub async fn settle(self: &Rc<Self>, ino: InodeId) -> Result<(), FsError> {
        let errors = |volume: &Core| volume.inodes.find(ino, |inode| (inode.errors, inode.error));
        let before = errors(self).map_or(0, |(count, _)| count);
        self.write_back(ino).await;
        self.check()?;
        match errors(self) {
            Some((after, Some(error))) if after > before => Err(error),
            _ => Ok(()),
        }
    }

    async fn fly(self: Rc<Self>, ino: InodeId) {
        loop {
            let flight = self.inodes.with(ino, |inode| {
                if !inode.dirty.has_waiting() {
                    inode.flushing = false;
                    return None;
                }
                inode.launched += 1;
                inode.dirty_since = None;
                let held = inode.held_epoch.map(|epoch| HeldBack { epoch, time: inode.written_at });
                Some((inode.dirty.launch(), held))
            });
            let Some((flight, held)) = flight else { break };
            let result = match held {
                Some(held) => self.send_all(ino, &flight, held).await,
                None => Err(FsError::Stale),
            };
            let (freed, more) = self.inodes.with(ino, |inode| {
                if let Err(error) = result {
                    inode.fail(error);
                    self.write_back_failed(error);
                }
                inode.landed = inode.launched;
                let freed = inode.dirty.land();
                if inode.dirty.is_empty() {
                    inode.held_epoch = None;
                }
                let more = inode.wanted > inode.launched || inode.dirty.waiting_bytes() >= FULL_FLIGHT_BYTES;
                inode.flushing = more;
                (freed, more)
            });
            self.less_dirty(freed);
            self.inodes.changed.notify();
            if !more {
                break;
            }
        }
    }

    async fn send_all(self: &Rc<Self>, ino: InodeId, flight: &[Extent], held: HeldBack) -> Result<(), FsError> {
        let sends = flight.iter().map(|(offset, bytes)| self.send_write(ino, *offset, bytes, Sending::HeldBack(held)));
        let sent = gather(sends, EXTENTS_IN_FLIGHT_MAX).await;
        sent.into_iter().try_for_each(|sent| sent.map(|_| ()))
    }
}
