//! Lists of tables that lie in cells of their own, where a group's anchor has no room for them
//! (docs/formats/kv-table.md).

use crate::manifest::TableRef;
use crate::table::{is_sound, number, seal};
use cfs_segment::{CELL_UNITS_MAX, CellOwner, CellRef, UNIT_BYTES};
use cfs_types::GroupId;

const MAGIC: [u8; 8] = *b"CFSLIST1";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
/// Tables that one list can hold.
pub(crate) const LIST_TABLES_MAX: usize = (CELL_UNITS_MAX as usize * UNIT_BYTES - HEAD_BYTES) / ENTRY_BYTES;

/// A part of a level's tables, in their order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// From the numbers of the group's tables.
    pub id: u64,
    /// Where it lies.
    pub cell: CellRef,
    /// The level of its tables.
    pub level: u8,
    /// Number and place of each table.
    pub tables: Vec<(u64, CellRef)>,
}

impl List {
    /// Who has its cell.
    pub(crate) fn owner(group: GroupId, id: u64) -> CellOwner {
        CellOwner::Table { group, table: id }
    }

    /// The cell of a list of at most [`LIST_TABLES_MAX`] tables.
    pub(crate) fn encode(group: GroupId, id: u64, level: u8, tables: &[(u64, CellRef)]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&group.get().to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&[level, 0, 0, 0]);
        bytes.extend_from_slice(&u32::try_from(tables.len()).expect("bounded by the cell").to_le_bytes());
        for (table, cell) in tables {
            bytes.extend_from_slice(&table.to_le_bytes());
            bytes.extend_from_slice(&cell.to_raw().to_le_bytes());
        }
        seal(&mut bytes, 0, List::owner(group, id));
        bytes
    }

    /// Verifies the whole cell. None where anything is wrong.
    pub(crate) fn decode(bytes: &[u8], group: GroupId, at: &TableRef) -> Option<Self> {
        is_sound(bytes, List::owner(group, at.id), 0).then_some(())?;
        let same = bytes.get(4..12)? == MAGIC
            && u16::from_le_bytes(number(bytes, 12)?) == VERSION
            && u16::from_le_bytes(number(bytes, 14)?) == group.get()
            && u64::from_le_bytes(number(bytes, 16)?) == at.id
            && bytes.get(24..28)? == [at.level, 0, 0, 0];
        same.then_some(())?;
        let count = usize::try_from(u32::from_le_bytes(number(bytes, 28)?)).ok()?;
        let (entries, padding) = bytes.get(HEAD_BYTES..)?.split_at_checked(count.checked_mul(ENTRY_BYTES)?)?;
        (padding.len() < UNIT_BYTES && padding.iter().all(|byte| *byte == 0)).then_some(())?;
        let half = |entry: &[u8], at| number(entry, at).map(u64::from_le_bytes);
        let tables = entries.chunks_exact(ENTRY_BYTES);
        let tables = tables.map(|entry| Some((half(entry, 0)?, CellRef::from_raw(half(entry, 8)?))));
        Some(List { id: at.id, cell: at.cell, level: at.level, tables: tables.collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId::new(7);

    fn sample() -> (TableRef, Vec<(u64, CellRef)>, Vec<u8>) {
        let cell = |unit| CellRef::new(unit, 3).expect("in range");
        let tables = vec![(5, cell(50)), (3, cell(90))];
        let bytes = List::encode(GROUP, 9, 4, &tables);
        (TableRef { id: 9, cell: CellRef::new(700, 1).expect("in range"), level: 4 }, tables, bytes)
    }

    #[test]
    fn a_list_is_these_bytes() {
        let (at, tables, bytes) = sample();
        assert_eq!(bytes.len(), UNIT_BYTES);
        let hex: String = bytes[..64].iter().map(|b| format!("{b:02x}")).collect();
        let golden = include_str!("../tests/golden/list.hex");
        assert_eq!(hex, golden.split_whitespace().collect::<String>());
        let list = List::decode(&bytes, GROUP, &at).expect("sound");
        assert_eq!((list.id, list.cell, list.level, list.tables), (9, at.cell, 4, tables));
    }

    #[test]
    fn no_changed_byte_and_no_other_place_passes() {
        let (at, _, bytes) = sample();
        for place in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1;
            assert_eq!(List::decode(&bytes, GROUP, &at), None, "byte {place}");
        }
        for cut in [0, 3, 12, 32, 64, 4095] {
            assert_eq!(List::decode(&bytes[..cut], GROUP, &at), None, "cut at {cut}");
        }
        assert_eq!(List::decode(&bytes, GroupId::new(8), &at), None);
        assert_eq!(List::decode(&bytes, GROUP, &TableRef { id: 8, ..at }), None);
        assert_eq!(List::decode(&bytes, GROUP, &TableRef { level: 3, ..at }), None);
    }

    #[test]
    fn the_longest_list_fits_a_cell() {
        let tables = vec![(1, CellRef::from_raw(0)); LIST_TABLES_MAX];
        assert_eq!(List::encode(GROUP, 9, 4, &tables).len(), CELL_UNITS_MAX as usize * UNIT_BYTES);
    }
}
