//! The kernel's pages of a file: which may be filled with what was read, and which must be forgotten.

use super::{Held, Inodes};
use crate::link::Origin;
use cfs_seam::Instant;
use cfs_types::InodeId;

/// A lease that is being given up: until the server hears that it is, nobody changes anything.
pub(super) struct Ending {
    pub held: Held,
    /// When the revocation came.
    pub tick: u64,
    /// Pages filled after that tick, by offset and bytes: the kernel may have looked there already.
    pub filled: Vec<(u64, u64)>,
}

impl Inodes {
    /// The era of the lease that speaks for what an answer said of the inode's data.
    pub fn era_behind(&self, ino: InodeId, origin: &Origin) -> Option<u64> {
        self.find(ino, |inode| inode.speaks_for(ino, origin).then_some(inode.era))?
    }

    /// Whether the pages at `offset` that an operation fills, which began at tick `begun`, are forgotten before
    /// what it found under `era` is old. Either the lease is there, or it is being given up: then the kernel,
    /// which was told to forget them when the operation had its hands on them, waits for its end; and what
    /// began later is noted, to be forgotten once more.
    pub fn covers_pages(&self, ino: InodeId, era: u64, begun: u64, pages: (u64, u64), now: Instant) -> bool {
        let covered = self.find(ino, |inode| {
            if inode.era != era || inode.lease.is_some() {
                return inode.era == era && inode.lease.is_some_and(|held| held.end > now);
            }
            let Some(ending) = inode.ending.as_mut().filter(|ending| ending.held.end > now) else { return false };
            if begun >= ending.tick {
                ending.filled.push(pages);
            }
            true
        });
        covered == Some(true)
    }

    /// Whether the kernel may show pages that it was told to forget.
    pub fn is_forgetting(&self, ino: InodeId) -> bool {
        self.find(ino, |inode| inode.forgetting > 0) == Some(true)
    }

    /// Whether a lease is being given up.
    pub fn is_ending(&self, ino: InodeId) -> bool {
        self.find(ino, |inode| inode.ending.is_some()) == Some(true)
    }

    /// The server is about to hear that a lease was given up; gives the pages that have to be forgotten once
    /// more.
    pub fn given_up(&self, ino: InodeId) -> Vec<(u64, u64)> {
        let ending = self.find(ino, |inode| inode.ending.take()).flatten();
        self.changed.notify();
        ending.map(|ending| ending.filled).unwrap_or_default()
    }
}
