//! The list of tables of a store: small enough for a group's anchor.

use cfs_segment::{CellOwner, CellRef};
use cfs_types::GroupId;

/// Most tables of a store; their list must leave room in a 16 KiB anchor.
pub const TABLES_MAX: usize = 640;
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 12;
const ENTRY_BYTES: usize = 18;
/// Levels of a store.
pub(crate) const LEVELS: usize = 6;
const _: () = assert!(HEAD_BYTES + TABLES_MAX * ENTRY_BYTES <= 12 << 10);

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

/// What a store consists of. Durable in the group's anchor, replaced as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// The next table's number is this or higher.
    pub next_table_id: u64,
    /// Level by level; level 0 newest first, the others in key order.
    pub tables: Vec<TableRef>,
}

/// The bytes are no manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a table list: {0}")]
pub struct ManifestError(&'static str);

impl Manifest {
    /// docs/formats/kv-table.md: version u8, zero u8, tables u16, next table u64; then per table
    /// id u64, cell u64, level u8, zero u8.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, 0];
        bytes.extend_from_slice(&u16::try_from(self.tables.len()).expect("bounded by TABLES_MAX").to_le_bytes());
        bytes.extend_from_slice(&self.next_table_id.to_le_bytes());
        for table in &self.tables {
            bytes.extend_from_slice(&table.id.to_le_bytes());
            bytes.extend_from_slice(&table.cell.to_raw().to_le_bytes());
            bytes.extend_from_slice(&[table.level, 0]);
        }
        bytes
    }
    /// Decodes the whole of `bytes`, whose integrity the anchor has proved.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(ManifestError("too short"))?;
        if head[..2] != [VERSION, 0] {
            return Err(ManifestError("unknown version"));
        }
        let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if count > TABLES_MAX || rest.len() != count * ENTRY_BYTES {
            return Err(ManifestError("wrong length"));
        }
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let next_table_id = number(&head[4..]);
        let mut manifest = Manifest { next_table_id, tables: Vec::with_capacity(count) };
        for entry in rest.chunks_exact(ENTRY_BYTES) {
            let cell = CellRef::from_raw(number(&entry[8..]));
            let table = TableRef { id: number(entry), cell, level: entry[16] };
            let previous = manifest.tables.last().map_or(0, |t: &TableRef| t.level);
            let known = manifest.tables.iter().any(|t| t.id == table.id);
            if known || table.id >= next_table_id || entry[17] != 0 {
                return Err(ManifestError("impossible table"));
            }
            if table.level < previous || usize::from(table.level) >= LEVELS {
                return Err(ManifestError("impossible level"));
            }
            manifest.tables.push(table);
        }
        Ok(manifest)
    }
    /// The cells it names, to be claimed at start.
    pub fn claims(&self, group: GroupId) -> impl Iterator<Item = (CellOwner, CellRef)> {
        self.tables.iter().map(move |t| (CellOwner::Table { group, table: t.id }, t.cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let cell = |unit| CellRef::new(unit, 3).expect("in range");
        let table = |id, level| TableRef { id, cell: cell(id * 10), level };
        Manifest { next_table_id: 9, tables: vec![table(8, 0), table(5, 0), table(7, 1)] }
    }

    #[test]
    fn a_manifest_is_these_bytes() {
        let hex: String = sample().encode().iter().map(|b| format!("{b:02x}")).collect();
        let golden = include_str!("../tests/golden/manifest.hex");
        assert_eq!(hex, golden.split_whitespace().collect::<String>());
        assert_eq!(Manifest::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn impossible_manifests_are_refused() {
        let good = sample().encode();
        for length in 0..good.len() {
            assert!(Manifest::decode(&good[..length]).is_err());
        }
        let with = |change: fn(&mut Manifest)| {
            let mut manifest = sample();
            change(&mut manifest);
            Manifest::decode(&manifest.encode())
        };
        assert!(with(|m| m.tables[1].id = 8).is_err());
        assert!(with(|m| m.next_table_id = 8).is_err());
        assert!(with(|m| m.tables[0].level = 1).is_err());
        assert!(with(|m| m.tables[2].level = 6).is_err());
    }

    #[test]
    fn the_largest_manifest_leaves_room_in_an_anchor() {
        let table = |id| TableRef { id, cell: CellRef::from_raw(id), level: 0 };
        let tables = (0..u64::try_from(TABLES_MAX).expect("small")).map(table).collect();
        assert!(Manifest { next_table_id: 10_000, tables }.encode().len() <= 12 << 10);
    }
}
