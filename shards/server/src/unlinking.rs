//! Inodes that commands on their way may remove, with the sessions that these commands name as
//! holders: whoever opens such an inode meanwhile is not among them and has to wait for the outcome.
//!
//! Invariant: a session that was told that it holds an inode open is named by every command that
//! removes the inode later.

use cfs_exec::Event;
use cfs_types::{InodeId, SessionId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Default)]
struct Inner {
    inodes: RefCell<BTreeMap<InodeId, u32>>,
    begun: Cell<u64>,
    ended: Event,
}

/// What is on its way.
#[derive(Clone, Default)]
pub struct Unlinking(Rc<Inner>);

/// One command on its way.
pub struct Asked {
    all: Unlinking,
    /// The inode.
    pub ino: InodeId,
    /// Who holds it open.
    pub holders: Vec<SessionId>,
}

impl Unlinking {
    /// A command that may remove the inode is about to be proposed.
    pub fn begin(&self, ino: InodeId, holders: Vec<SessionId>) -> Asked {
        self.0.begun.set(self.0.begun.get() + 1);
        *self.0.inodes.borrow_mut().entry(ino).or_default() += 1;
        Asked { all: self.clone(), ino, holders }
    }

    /// Names this moment for [`Unlinking::was_quiet`]; None where a command is on its way.
    pub fn quiet_at(&self) -> Option<u64> {
        self.0.inodes.borrow().is_empty().then_some(self.0.begun.get())
    }

    /// Whether no command was on its way at any time since that moment.
    pub fn was_quiet(&self, since: Option<u64>) -> bool {
        since == Some(self.0.begun.get())
    }

    /// Whether one is on its way to the inode.
    pub fn is_under_way(&self, ino: InodeId) -> bool {
        self.0.inodes.borrow().contains_key(&ino)
    }

    /// Waits until none is.
    pub async fn wait(&self, ino: InodeId) {
        while self.is_under_way(ino) {
            self.0.ended.wait().await;
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut inodes = self.all.0.inodes.borrow_mut();
        if let Some(count) = inodes.get_mut(&self.ino) {
            *count -= 1;
            if *count == 0 {
                inodes.remove(&self.ino);
            }
        }
        drop(inodes);
        self.all.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_under_way_until_the_last_command_is_over() {
        let all = Unlinking::default();
        let ino = InodeId::from_raw(77).expect("valid");
        let (one, two) = (all.begin(ino, Vec::new()), all.begin(ino, Vec::new()));
        drop(one);
        assert!(all.is_under_way(ino));
        assert_eq!(all.quiet_at(), None);
        drop(two);
        let quiet = all.quiet_at();
        assert!(!all.is_under_way(ino) && all.was_quiet(quiet) && !all.was_quiet(None));
        drop(all.begin(ino, Vec::new()));
        assert!(!all.was_quiet(quiet), "one has come and gone");
    }
}
