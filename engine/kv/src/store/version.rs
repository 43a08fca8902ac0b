//! The tables of a store at one moment; immutable, replaced as a whole.

use crate::block::compare;
use crate::list::List;
use crate::manifest::{LEVELS, Manifest, TableRef};
use crate::table::Table;
use std::cell::{Cell, OnceCell};
use std::rc::Rc;

pub(super) struct Version {
    /// Level 0 newest first, the others in key order without overlap.
    pub levels: [Vec<Rc<Table>>; LEVELS],
    /// The durable lists of those levels that the anchor does not name table by table.
    pub lists: Vec<Rc<List>>,
    /// Every footer is loaded and the levels are in order.
    pub ready: Cell<bool>,
}

impl Version {
    pub fn of_manifest(manifest: &Manifest) -> Self {
        let mut levels: [Vec<Rc<Table>>; LEVELS] = Default::default();
        for table in &manifest.tables {
            let entry = Table { id: table.id, cell: table.cell, footer: OnceCell::new() };
            levels[usize::from(table.level)].push(Rc::new(entry));
        }
        let ready = Cell::new(manifest.tables.is_empty());
        let lists = manifest.lists.iter().cloned().map(Rc::new).collect();
        Version { levels, lists, ready }
    }
    pub fn manifest(&self, next_table_id: u64) -> Manifest {
        let tables = (0..)
            .zip(&self.levels)
            .flat_map(|(level, tables)| tables.iter().map(move |t| TableRef { id: t.id, cell: t.cell, level }));
        let lists = self.lists.iter().map(|list| List::clone(list)).collect();
        Manifest { next_table_id, tables: tables.collect(), lists }
    }
    pub fn tables(&self) -> impl Iterator<Item = &Rc<Table>> {
        self.levels.iter().flatten()
    }
    pub fn units(level: &[Rc<Table>]) -> u64 {
        level.iter().map(|t| u64::from(t.cell.units())).sum()
    }
    /// A table that is out of order in its level, which no store writes.
    pub fn misplaced(&self) -> Option<&Rc<Table>> {
        let sorted = |pair: &[Rc<Table>]| match (pair[0].footer.get(), pair[1].footer.get()) {
            (Some(a), Some(b)) => compare((&a.last.key, a.last.inverted), (&b.first.key, b.first.inverted)).is_lt(),
            _ => true,
        };
        let wrong = self.levels[1..].iter().flat_map(|level| level.windows(2)).find(|pair| !sorted(pair));
        wrong.map(|pair| &pair[1])
    }
}
