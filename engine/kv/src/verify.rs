//! Sorted tables and lists of them read from end to end, for checkers.

use crate::block::{Block, BlockCursor, compare};
use crate::filter;
use crate::list::List;
use crate::table::{Footer, Meta, Position};
use crate::{Stem, TableRef};
use cfs_segment::{CellOwner, Space, SpaceError, UNIT_BYTES};
use cfs_types::GroupId;
use std::rc::Rc;

/// What a table turned out to be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableCheck {
    /// Intact data blocks.
    pub blocks: u64,
    /// Versions in them.
    pub entries: u64,
    /// Device offsets of what is damaged, and what it is.
    pub damage: Vec<(u64, &'static str)>,
}

/// Blocks verified before others get their turn: some tens of microseconds.
const BLOCKS_AT_ONCE: usize = 16;

/// Reads a whole list of tables of `group`; true where it is what `list` says. As [`verify_table`] otherwise.
pub async fn verify_list(space: &Space, group: GroupId, list: &List) -> Result<bool, SpaceError> {
    let owner = List::owner(group, list.id);
    let bytes = space.read_unverified(owner, list.cell, 0, list.cell.units()).await?;
    let at = TableRef { id: list.id, cell: list.cell, level: list.level };
    Ok(List::decode(&bytes, group, &at).as_ref() == Some(list))
}

/// Reads a whole table of `group` and verifies every byte of it. Writes nothing; the cell need
/// not be claimed, and is pinned from the first poll to the end of the read. `stem` is that of the store; `pause` is
/// awaited between blocks. Errors are the device's.
pub async fn verify_table(
    space: &Space,
    group: GroupId,
    table: &TableRef,
    stem: Stem,
    pause: impl AsyncFn(),
) -> Result<TableCheck, SpaceError> {
    let owner = CellOwner::Table { group, table: table.id };
    let units = table.cell.units();
    let bytes = space.read_unverified(owner, table.cell, 0, units).await?;
    let mut check = TableCheck::default();
    let offset = |unit: u32| table.cell.offset() + u64::from(unit) * UNIT_BYTES as u64;
    let at = |unit: u32| usize::try_from(unit).expect("at most 512") * UNIT_BYTES;
    let footer = Footer::decode(&bytes[at(units - 1)..], group, table.id, units);
    let Some(footer) = footer else {
        check.damage.push((offset(units - 1), "the footer"));
        return Ok(check);
    };
    let meta = Meta::decode(&bytes[at(footer.meta_unit)..at(units - 1)], owner, footer.meta_unit);
    let Some(meta) = meta else {
        check.damage.push((offset(footer.meta_unit), "the index"));
        return Ok(check);
    };
    let hash = |key: &[u8]| filter::hash(if footer.stems { stem(key).unwrap_or(key) } else { key });
    let mut ends: Option<(Position, Position)> = None;
    for index in 0.. {
        let Some(place) = meta.block(index) else { break };
        if index % BLOCKS_AT_ONCE == BLOCKS_AT_ONCE - 1 {
            pause().await;
        }
        let block = Block::decode(owner, place.first_unit, &bytes[at(place.first_unit)..]);
        let Some(block) = block.filter(|b| b.units() == place.units) else {
            check.damage.push((offset(place.first_unit), "a block"));
            continue;
        };
        let (entries, first, last, known) = walk(Rc::new(block), &meta, hash);
        let sorted = ends.as_ref().is_none_or(|(_, before)| is_before(before, &first));
        if !known || !sorted || meta.seek(&last.key, last.inverted) != index {
            check.damage.push((offset(place.first_unit), "a block contradicts the index"));
        }
        check.blocks += 1;
        check.entries += entries;
        ends = Some((ends.map_or(first, |(first, _)| first), last));
    }
    let whole = ends.is_some_and(|(first, last)| first == footer.first && last == footer.last);
    if check.damage.is_empty() && (!whole || check.entries != footer.entries) {
        check.damage.push((offset(units - 1), "the footer contradicts the blocks"));
    }
    Ok(check)
}

fn is_before(a: &Position, b: &Position) -> bool {
    compare((&a.key, a.inverted), (&b.key, b.inverted)).is_lt()
}

/// Entries of a block, its first and last one, and whether the filter knows all its keys.
fn walk(block: Rc<Block>, meta: &Meta, hash: impl Fn(&[u8]) -> u64) -> (u64, Position, Position, bool) {
    let mut cursor = BlockCursor::first(block);
    let position = |c: &BlockCursor| Position { key: c.key().into(), inverted: c.inverted() };
    let first = position(&cursor);
    let (mut entries, mut last, mut known) = (0, first.clone(), true);
    while cursor.is_valid() {
        entries += 1;
        known &= meta.may_contain(hash(cursor.key()));
        last = position(&cursor);
        cursor.advance();
    }
    (entries, first, last, known)
}
