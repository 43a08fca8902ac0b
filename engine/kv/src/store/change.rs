//! Changes of the set of tables, and their commit.

use super::version::Version;
use super::{Inner, KvError, Store};
use crate::list::List;
use crate::manifest::{ROOT_ENTRIES_MAX, Root};
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
    /// The lists of the version that it makes, from its proposal on.
    pub(super) lists: Vec<Rc<List>>,
    /// Inputs, locked until the change is over: tables, or a list.
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
        let (added, lists) = (Vec::new(), Vec::new());
        Change { store, id, added, lists, removed, takes_frozen, replaces_all: false, proposed, installed }
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
        Version { levels, lists: self.lists.clone(), ready: Cell::new(ready) }
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
            retired.expect("a table that no root names is live once");
        }
        for list in self.lists.iter().filter(|list| !version.lists.iter().any(|l| l.cell == list.cell)) {
            let retired = self.store.space.retire(List::owner(self.store.group, list.id), list.cell);
            retired.expect("a list that no root names is live once");
        }
    }
}

impl Store {
    /// The root with `change` in it, to be made durable; lists that it names are when this returns.
    /// Busy while another change is between here and [`Store::install`].
    pub async fn propose(&self, change: &mut Change) -> Result<Root, KvError> {
        assert!(Rc::ptr_eq(&self.inner, &change.store), "a change belongs to its store");
        assert!(change.lists.is_empty() && !change.proposed, "a change is proposed once");
        let mut version = {
            let mut state = self.inner.state.borrow_mut();
            if state.committing.is_some_and(|id| id != change.id) {
                return Err(KvError::Busy);
            }
            // From here on no other change is installed.
            state.committing = Some(change.id);
            change.applied_to(&state.version)
        };
        self.inner.write_lists(&version, change).await?;
        version.lists.clone_from(&change.lists);
        let next_table_id = self.inner.state.borrow().next_table_id;
        let root = version.manifest(next_table_id).root();
        if root.entries() > ROOT_ENTRIES_MAX {
            return Err(KvError::TooManyTables);
        }
        change.proposed = true;
        Ok(root)
    }

    /// The root that [`Store::propose`] gave is durable: the change is part of the store, and
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
            (state.mem, state.frozen) = (Memtable::counted(&self.inner.config.memory), None);
        }
        change.installed = true;
        drop(state);
        let kept: BTreeSet<_> = version.tables().map(|t| (t.id, t.cell)).collect();
        drop(change);
        for table in old.tables().filter(|t| !kept.contains(&(t.id, t.cell))) {
            self.inner.space.retire(table.owner(self.inner.group), table.cell)?;
        }
        for list in old.lists.iter().filter(|list| !version.lists.iter().any(|l| l.id == list.id)) {
            self.inner.space.retire(List::owner(self.inner.group, list.id), list.cell)?;
        }
        Ok(())
    }
}
