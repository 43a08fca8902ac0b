//! Changes of the set of tables, and their commit.

use super::version::Version;
use super::{Inner, KvError, Store};
use crate::manifest::{Manifest, TABLES_MAX};
use crate::memtable::Memtable;
use crate::table::Table;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Tables that were written and synced and are not part of the store yet.
#[must_use = "propose it, make its manifest durable, install it"]
pub struct Change {
    pub(super) store: Rc<Inner>,
    id: u64,
    pub(super) added: Vec<(usize, Rc<Table>)>,
    /// Inputs, locked until the change is over.
    pub(super) removed: BTreeSet<u64>,
    pub(super) takes_frozen: bool,
    /// Nothing of what the store held stays, in memory neither.
    pub(super) replaces_all: bool,
    proposed: bool,
    installed: bool,
}

impl Change {
    /// Begins a change that replaces `removed`, which are locked.
    pub(super) fn begin(store: &Rc<Inner>, removed: BTreeSet<u64>, takes_frozen: bool) -> Self {
        let mut state = store.state.borrow_mut();
        let id = state.next_change;
        state.next_change += 1;
        state.locked.extend(&removed);
        state.flushing |= takes_frozen;
        drop(state);
        let store = store.clone();
        let (proposed, installed) = (false, false);
        Change { store, id, added: Vec::new(), removed, takes_frozen, replaces_all: false, proposed, installed }
    }
    /// Whether the new tables hold the frozen memtable.
    pub fn is_flush(&self) -> bool {
        self.takes_frozen
    }
    /// Tables it adds and removes.
    pub fn tables(&self) -> (usize, usize) {
        (self.added.len(), self.removed.len())
    }

    fn applied_to(&self, version: &Version) -> Version {
        let mut levels = version.levels.clone();
        for (index, level) in levels.iter_mut().enumerate() {
            let added: Vec<_> = self.added.iter().filter(|(l, _)| *l == index).map(|(_, t)| t).collect();
            // A table that only moved keeps its place: footers may not be loaded yet.
            for table in level.iter_mut() {
                if let Some(moved) = added.iter().find(|t| t.id == table.id) {
                    *table = Rc::clone(moved);
                }
            }
            level.retain(|t| !self.removed.contains(&t.id) || added.iter().any(|a| a.id == t.id));
            let fresh: Vec<_> = added.into_iter().filter(|t| !level.iter().any(|l| l.id == t.id)).cloned().collect();
            if fresh.is_empty() {
                continue;
            }
            level.extend(fresh);
            if index == 0 {
                level.sort_by_key(|t| std::cmp::Reverse(t.id));
            } else {
                level.sort_by_key(|t| t.footer.get().map(|f| (f.first.key.clone(), f.first.inverted)));
            }
        }
        let ready = version.ready.get() && levels.iter().flatten().all(|t| t.footer.get().is_some());
        Version { levels, ready: Cell::new(ready) }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let mut state = self.store.state.borrow_mut();
        state.locked.retain(|id| !self.removed.contains(id));
        state.flushing &= !self.takes_frozen;
        if state.committing == Some(self.id) {
            state.committing = None;
        }
        let version = state.version.clone();
        drop(state);
        if self.installed || self.proposed {
            return;
        }
        let is_named = |table: &Table| version.tables().any(|t| t.cell == table.cell);
        for (_, table) in self.added.iter().filter(|(_, table)| !is_named(table)) {
            let retired = self.store.space.retire(table.owner(self.store.group), table.cell);
            retired.expect("a table that no manifest names is live once");
        }
    }
}

impl Store {
    /// The manifest with `change` in it, to be made durable. Busy while another change is
    /// between here and [`Store::install`].
    pub fn propose(&self, change: &mut Change) -> Result<Manifest, KvError> {
        assert!(Rc::ptr_eq(&self.inner, &change.store), "a change belongs to its store");
        let mut state = self.inner.state.borrow_mut();
        if state.committing.is_some_and(|id| id != change.id) {
            return Err(KvError::Busy);
        }
        let version = change.applied_to(&state.version);
        if version.tables().count() > TABLES_MAX {
            return Err(KvError::TooManyTables);
        }
        state.committing = Some(change.id);
        change.proposed = true;
        Ok(version.manifest(state.next_table_id))
    }

    /// The manifest that [`Store::propose`] gave is durable: the change is part of the store, and
    /// cells it no longer names are retired. Panics where the change was not proposed.
    pub fn install(&self, mut change: Change) -> Result<(), KvError> {
        let mut state = self.inner.state.borrow_mut();
        assert!(change.proposed && state.committing == Some(change.id), "installed after its proposal");
        let version = Rc::new(change.applied_to(&state.version));
        let old = std::mem::replace(&mut state.version, version.clone());
        if change.takes_frozen {
            state.frozen = None;
        }
        if change.replaces_all {
            (state.mem, state.frozen) = (Memtable::default(), None);
        }
        change.installed = true;
        drop(state);
        let kept: BTreeSet<_> = version.tables().map(|t| (t.id, t.cell)).collect();
        drop(change);
        for table in old.tables().filter(|t| !kept.contains(&(t.id, t.cell))) {
            self.inner.space.retire(table.owner(self.inner.group), table.cell)?;
        }
        Ok(())
    }
}
