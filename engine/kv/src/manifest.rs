//! What a store consists of: its tables, and what of that a group's anchor holds.

use crate::KvError;
use crate::list::List;
use cfs_segment::{CellOwner, CellRef, Space};
use cfs_types::GroupId;
use std::collections::BTreeSet;

/// Most entries of a root; they must leave room in a 16 KiB anchor.
pub const ROOT_ENTRIES_MAX: usize = 640;
const VERSION: u8 = 2;
/// Had no lists.
const VERSION_WITHOUT_LISTS: u8 = 1;
const HEAD_BYTES: usize = 12;
const ENTRY_BYTES: usize = 18;
/// Levels of a store.
pub(crate) const LEVELS: usize = 6;
const _: () = assert!(HEAD_BYTES + ROOT_ENTRIES_MAX * ENTRY_BYTES <= 12 << 10);

/// A sorted table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableRef {
    /// Never reused in its group.
    pub id: u64,
    /// Where it lies.
    pub cell: CellRef,
    /// 0 for flushed memtables; each deeper level holds older versions.
    pub level: u8,
}

/// What the anchor of a group says of its tables. Durable there, replaced as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Root {
    next_table_id: u64,
    /// Level by level. A level's tables, or its lists.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Table(TableRef),
    /// A cell with a [`List`] of the level.
    List(TableRef),
}

impl Entry {
    fn named(&self) -> (&TableRef, u8) {
        match self {
            Entry::Table(at) => (at, 0),
            Entry::List(at) => (at, 1),
        }
    }
}

/// All tables of a store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// The next number of a table or list is this or higher.
    pub next_table_id: u64,
    /// Level by level; level 0 newest first, the others in key order.
    pub tables: Vec<TableRef>,
    /// The cells that list the tables of some levels.
    pub lists: Vec<List>,
}

/// The bytes are no root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a table list: {0}")]
pub struct RootError(&'static str);

impl Root {
    /// docs/formats/kv-table.md: version u8, zero u8, entries u16, next number u64; then per entry
    /// number u64, cell u64, level u8, kind u8.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, 0];
        let count = u16::try_from(self.entries.len()).expect("bounded by ROOT_ENTRIES_MAX");
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&self.next_table_id.to_le_bytes());
        for entry in &self.entries {
            let (at, kind) = entry.named();
            bytes.extend_from_slice(&at.id.to_le_bytes());
            bytes.extend_from_slice(&at.cell.to_raw().to_le_bytes());
            bytes.extend_from_slice(&[at.level, kind]);
        }
        bytes
    }
    /// Decodes the whole of `bytes`, whose integrity the anchor has proved.
    pub fn decode(bytes: &[u8]) -> Result<Self, RootError> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(RootError("too short"))?;
        if ![VERSION, VERSION_WITHOUT_LISTS].contains(&head[0]) || head[1] != 0 {
            return Err(RootError("unknown version"));
        }
        let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if count > ROOT_ENTRIES_MAX || rest.len() != count * ENTRY_BYTES {
            return Err(RootError("wrong length"));
        }
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let mut root = Root { next_table_id: number(&head[4..]), entries: Vec::with_capacity(count) };
        for entry in rest.chunks_exact(ENTRY_BYTES) {
            let at = TableRef { id: number(entry), cell: CellRef::from_raw(number(&entry[8..])), level: entry[16] };
            let previous = root.entries.last().map_or(0, |e| e.named().0.level);
            if at.level < previous || usize::from(at.level) >= LEVELS {
                return Err(RootError("impossible level"));
            }
            root.entries.push(match (entry[17], head[0]) {
                (0, _) => Entry::Table(at),
                (1, VERSION) => Entry::List(at),
                _ => return Err(RootError("impossible entry")),
            });
        }
        let ids: BTreeSet<u64> = root.entries.iter().map(|e| e.named().0.id).collect();
        if ids.len() < count || ids.last().is_some_and(|last| *last >= root.next_table_id) {
            return Err(RootError("impossible number"));
        }
        Ok(root)
    }

    /// Entries, of tables and lists.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Reads the lists. Their cells need not be claimed yet.
    pub async fn load(&self, space: &Space, group: GroupId) -> Result<Manifest, KvError> {
        let mut manifest = Manifest { next_table_id: self.next_table_id, ..Manifest::default() };
        for entry in &self.entries {
            let at = match entry {
                Entry::Table(table) => {
                    manifest.tables.push(*table);
                    continue;
                }
                Entry::List(at) => at,
            };
            let bytes = space.read_unverified(List::owner(group, at.id), at.cell, 0, at.cell.units()).await?;
            let damaged = KvError::Damaged { group, table: at.id, offset: at.cell.offset() };
            let list = List::decode(&bytes, group, at).ok_or(damaged)?;
            let tables = list.tables.iter().map(|(id, cell)| TableRef { id: *id, cell: *cell, level: at.level });
            manifest.tables.extend(tables);
            manifest.lists.push(list);
            if !manifest.is_possible() {
                return Err(damaged);
            }
        }
        Ok(manifest)
    }
}

impl Manifest {
    /// What the anchor holds of it: the lists of a level that has any, else its tables.
    pub fn root(&self) -> Root {
        let listed = |level: u8| self.lists.iter().any(|list| list.level == level);
        let mut entries = Vec::new();
        for level in 0..u8::try_from(LEVELS).expect("few levels") {
            let lists = self.lists.iter().filter(|list| list.level == level);
            entries.extend(lists.map(|list| Entry::List(TableRef { id: list.id, cell: list.cell, level })));
            let tables = self.tables.iter().filter(|table| table.level == level && !listed(level));
            entries.extend(tables.map(|table| Entry::Table(*table)));
        }
        Root { next_table_id: self.next_table_id, entries }
    }

    /// Whether every number is below the next one and names one thing.
    fn is_possible(&self) -> bool {
        let ids = self.tables.iter().map(|t| t.id).chain(self.lists.iter().map(|l| l.id));
        let known: BTreeSet<u64> = ids.filter(|id| *id < self.next_table_id).collect();
        known.len() == self.tables.len() + self.lists.len()
    }

    /// The cells it names, to be claimed at start.
    pub fn claims(&self, group: GroupId) -> impl Iterator<Item = (CellOwner, CellRef)> {
        let tables = self.tables.iter().map(move |t| (CellOwner::Table { group, table: t.id }, t.cell));
        tables.chain(self.lists.iter().map(move |list| (List::owner(group, list.id), list.cell)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::unhex;

    fn cell(unit: u64) -> CellRef {
        CellRef::new(unit, 3).expect("in range")
    }
    fn sample() -> Manifest {
        let table = |id, level| TableRef { id, cell: cell(id * 10), level };
        Manifest { next_table_id: 9, tables: vec![table(8, 0), table(5, 0), table(7, 1)], lists: Vec::new() }
    }
    fn listed() -> Manifest {
        let mut manifest = sample();
        manifest.lists.push(List { id: 6, cell: cell(60), level: 1, tables: vec![(7, cell(70))] });
        manifest
    }
    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
    fn joined(golden: &str) -> String {
        golden.split_whitespace().collect()
    }

    #[test]
    fn a_root_is_these_bytes() {
        assert_eq!(hex(&listed().root().encode()), joined(include_str!("../tests/golden/root.hex")));
        for manifest in [sample(), listed()] {
            assert_eq!(Root::decode(&manifest.root().encode()), Ok(manifest.root()));
        }
    }

    #[test]
    fn what_version_1_wrote_is_read() {
        let bytes = unhex(include_str!("../tests/golden/manifest.hex"));
        assert_eq!(Root::decode(&bytes), Ok(sample().root()));
        let mut with_kind = bytes;
        *with_kind.last_mut().expect("long") = 1;
        assert!(Root::decode(&with_kind).is_err(), "version 1 had no lists");
    }

    #[test]
    fn impossible_roots_are_refused() {
        let good = listed().root().encode();
        for length in 0..good.len() {
            assert!(Root::decode(&good[..length]).is_err());
        }
        let with = |change: fn(&mut Manifest)| {
            let mut manifest = listed();
            change(&mut manifest);
            Root::decode(&manifest.root().encode())
        };
        assert!(with(|_| ()).is_ok());
        assert!(with(|m| m.tables[1].id = 8).is_err());
        assert!(with(|m| m.lists[0].id = 8).is_err());
        assert!(with(|m| m.next_table_id = 8).is_err());
        let at = |place: usize, byte| {
            let mut bytes = good.clone();
            bytes[place] = byte;
            Root::decode(&bytes)
        };
        let last = good.len() - ENTRY_BYTES;
        assert!(at(last + 16, 6).is_err(), "no such level");
        assert!(at(HEAD_BYTES + 16, 1).is_err(), "levels rise");
        assert!(at(last + 17, 2).is_err(), "no such kind");
    }

    #[test]
    fn the_largest_root_leaves_room_in_an_anchor() {
        let table = |id| TableRef { id, cell: CellRef::from_raw(id), level: 0 };
        let tables = (0..u64::try_from(ROOT_ENTRIES_MAX).expect("small")).map(table).collect();
        let manifest = Manifest { next_table_id: 10_000, tables, lists: Vec::new() };
        assert!(manifest.root().encode().len() <= 12 << 10);
    }
}
