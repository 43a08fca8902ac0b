//! From memtable to tables, and tables to other cells.

use super::merge::Output;
use super::{Change, KvError, Store};
use crate::memtable::Memtable;
use crate::table::Table;
use cfs_segment::{CellRef, Lifetime};
use std::collections::BTreeSet;
use std::rc::Rc;

impl Store {
    /// Freezes the memtable: later writes go to a new one, reads see both. The flush that follows
    /// holds exactly what was applied before this call, so note the applied index with it.
    /// False where there is nothing to freeze or the last frozen memtable is not installed yet.
    pub fn freeze(&self) -> bool {
        let mut state = self.inner.state.borrow_mut();
        if state.mem.is_empty() || state.frozen.is_some() {
            return false;
        }
        let fresh = Memtable::counted(&self.inner.config.memory);
        state.frozen = Some(Rc::new(std::mem::replace(&mut state.mem, fresh)));
        true
    }

    /// Writes the frozen memtable as tables of level 0 and makes them durable. None where nothing
    /// is frozen. After an error or a dropped future the memtable is still frozen: try again.
    pub async fn flush(&self) -> Result<Option<Change>, KvError> {
        let frozen = {
            let state = self.inner.state.borrow();
            if state.flushing {
                return Err(KvError::Busy);
            }
            state.frozen.clone()
        };
        let Some(frozen) = frozen else { return Ok(None) };
        let change = Change::begin(&self.inner, BTreeSet::new(), true);
        let mut output = Output::new(change, 0, true);
        for (key, versions) in frozen.iter() {
            for (time, value) in versions.iter() {
                output.push(key, !time.get(), value.as_deref()).await?;
            }
        }
        let change = output.finish().await?;
        self.inner.space.sync().await?;
        Ok(Some(change))
    }

    /// For the cleaner: copies the table or list that lies in `cell` elsewhere. None where none lies
    /// there (any more); Busy while a change that replaces it is under way.
    pub async fn relocate(&self, cell: CellRef) -> Result<Option<Change>, KvError> {
        let version = self.inner.state.borrow().version.clone();
        if let Some(list) = version.lists.iter().find(|list| list.cell == cell) {
            // Not among those that can stay, it is written anew with the proposal.
            return Ok(Some(Change::begin(&self.inner, BTreeSet::from([list.id]), false)));
        }
        let found = (0..)
            .zip(&version.levels)
            .find_map(|(level, tables)| tables.iter().find(|t| t.cell == cell).map(|t| (level, t.clone())));
        let Some((level, table)) = found else { return Ok(None) };
        if self.inner.state.borrow().locked.contains(&table.id) {
            return Err(KvError::Busy);
        }
        let mut change = Change::begin(&self.inner, BTreeSet::from([table.id]), false);
        let buf = self.inner.read(&table, 0, cell.units()).await?;
        let owner = table.owner(self.inner.group);
        let written = self.inner.space.write(owner, Lifetime::Relocated, buf).await?;
        let moved = Table { id: table.id, cell: written.cell, footer: table.footer.clone() };
        change.added.push((level, Rc::new(moved)));
        self.inner.space.sync().await?;
        Ok(Some(change))
    }
}
