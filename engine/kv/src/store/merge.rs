//! Many sorted runs become one.

use super::{Change, Inner, KvError};
use crate::block::{Block, BlockCursor, compare};
use crate::cache::Object;
use crate::table::{Meta, Table, TableBuilder};
use cfs_seam::IoBuf;
use cfs_segment::{Lifetime, UNIT_BYTES};
use cfs_types::Timestamp;
use std::cell::OnceCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Poll;

/// Entries handled between two chances for other tasks.
const ENTRIES_PER_TURN: u32 = 256;
/// Blocks put into the cache between two chances for other tasks.
const BLOCKS_PER_TURN: u32 = 16;

/// Lets other tasks of the core run.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Writes versions that come in order as tables of one level.
pub(super) struct Output {
    change: Change,
    level: usize,
    /// Whether what is written goes into the cache as well.
    warm: bool,
    builder: Option<(u64, TableBuilder)>,
    pushed: u32,
}

impl Output {
    pub fn new(change: Change, level: usize, warm: bool) -> Self {
        Output { change, level, warm, builder: None, pushed: 0 }
    }
    pub async fn push(&mut self, key: &[u8], inverted: u64, value: Option<&[u8]>) -> Result<(), KvError> {
        self.pushed += 1;
        if self.pushed.is_multiple_of(ENTRIES_PER_TURN) {
            yield_now().await;
        }
        let full = self.builder.as_ref().is_some_and(|(_, b)| !b.fits(key, value.map_or(0, <[u8]>::len)));
        if full {
            self.write_table().await?;
        }
        if self.builder.is_none() {
            let mut state = self.change.store.state.borrow_mut();
            let id = state.next_table_id;
            state.next_table_id += 1;
            drop(state);
            self.builder = Some((id, TableBuilder::new(self.change.store.group, id, self.change.store.config.stem)));
        }
        let (_, builder) = self.builder.as_mut().expect("made just now");
        builder.push(key, inverted, value);
        Ok(())
    }
    async fn write_table(&mut self) -> Result<(), KvError> {
        let Some((id, builder)) = self.builder.take() else { return Ok(()) };
        let Some((bytes, footer)) = builder.finish() else { return Ok(()) };
        let store = self.change.store.clone();
        let owner = cfs_segment::CellOwner::Table { group: store.group, table: id };
        let written = store.space.write(owner, Lifetime::Metadata, IoBuf::copy_of(&bytes)).await?;
        let table = Rc::new(Table { id, cell: written.cell, footer: OnceCell::from(footer) });
        self.change.added.push((self.level, table.clone()));
        warm(&store, &table, &bytes, self.warm).await;
        Ok(())
    }
    /// Writes the last table.
    pub async fn finish(mut self) -> Result<Change, KvError> {
        self.write_table().await?;
        Ok(self.change)
    }
}

/// Puts a new table's index, and its blocks where wanted, into the cache.
async fn warm(store: &Inner, table: &Table, bytes: &[u8], blocks: bool) {
    let (owner, cache) = (table.owner(store.group), &store.config.cache);
    let Some(meta_unit) = table.footer.get().map(|f| f.meta_unit) else { return };
    let meta_at = usize::try_from(meta_unit).expect("at most 512") * UNIT_BYTES;
    let meta = Meta::decode(&bytes[meta_at..bytes.len() - UNIT_BYTES], owner, meta_unit);
    let meta = Object::Meta(Rc::new(meta.expect("a table just built is sound")));
    cache.insert(store.cache_key(table, meta_unit), &meta);
    let (mut unit, mut count) = (0, 0);
    while blocks && unit < meta_unit {
        let at = usize::try_from(unit).expect("at most 512") * UNIT_BYTES;
        let block = Block::decode(owner, unit, &bytes[at..]).expect("a table just built is sound");
        let units = block.units();
        cache.insert(store.cache_key(table, unit), &Object::Block(Rc::new(block)));
        unit += units;
        count += 1;
        if u32::is_multiple_of(count, BLOCKS_PER_TURN) {
            yield_now().await;
        }
    }
}

/// Tables in key order, read as one, past the cache.
pub(super) struct Run {
    tables: VecDeque<Rc<Table>>,
    /// The table being read: its data, and the next unit of it.
    open: Option<(Rc<Table>, IoBuf, u32)>,
    cursor: Option<BlockCursor>,
}

impl Run {
    pub fn new(tables: impl Into<VecDeque<Rc<Table>>>) -> Self {
        Run { tables: tables.into(), open: None, cursor: None }
    }
    fn position(&self) -> Option<(&[u8], u64)> {
        self.cursor.as_ref().map(|c| (c.key(), c.inverted()))
    }
    /// Goes to the next version; at first to the first one.
    async fn advance(&mut self, store: &Inner) -> Result<(), KvError> {
        if let Some(cursor) = &mut self.cursor {
            cursor.advance();
            if cursor.is_valid() {
                return Ok(());
            }
        }
        self.cursor = None;
        loop {
            if let Some((table, data, unit)) = &mut self.open {
                let at = usize::try_from(*unit).expect("at most 512") * UNIT_BYTES;
                if at < data.len() {
                    let block = Block::decode(table.owner(store.group), *unit, &data[at..]);
                    let block = block.ok_or_else(|| store.damaged(table, *unit))?;
                    *unit += block.units();
                    self.cursor = Some(BlockCursor::first(Rc::new(block)));
                    return Ok(());
                }
            }
            let Some(table) = self.tables.pop_front() else { return Ok(()) };
            let units = table.footer.get().map_or(table.cell.units(), |f| f.meta_unit);
            let data = store.read(&table, 0, units).await?;
            self.open = Some((table, data, 0));
        }
    }
}

/// Merges runs, the most recent first, dropping versions that no read at or above `floor` sees,
/// and tombstones where nothing older lies below (`bottom`).
pub(super) async fn merge(
    store: &Inner,
    mut runs: Vec<Run>,
    floor: Timestamp,
    bottom: bool,
    mut output: Output,
) -> Result<Change, KvError> {
    for run in &mut runs {
        run.advance(store).await?;
    }
    let (mut key, mut settled, mut steps) = (Vec::new(), None::<Vec<u8>>, 0u32);
    loop {
        let by_order = |a: &(usize, (&[u8], u64)), b: &(usize, (&[u8], u64))| compare(a.1, b.1).then(a.0.cmp(&b.0));
        let positions = runs.iter().enumerate().filter_map(|(i, run)| run.position().map(|p| (i, p)));
        let Some((index, (least, inverted))) = positions.min_by(by_order) else { break };
        key.clear();
        key.extend_from_slice(least);
        // The first version at or below the floor is the last one that anybody sees.
        if settled.as_deref() != Some(&*key) {
            let value = runs[index].cursor.as_ref().and_then(BlockCursor::value);
            let last = Timestamp::new(!inverted) <= floor;
            if !(bottom && last && value.is_none()) {
                output.push(&key, inverted, value).await?;
            }
            if last {
                settled.get_or_insert_default().clone_from(&key);
            }
        }
        for run in &mut runs {
            if run.position() == Some((&key, inverted)) {
                run.advance(store).await?;
            }
        }
        steps = steps.wrapping_add(1);
        if steps.is_multiple_of(ENTRIES_PER_TURN) {
            yield_now().await;
        }
    }
    output.finish().await
}
