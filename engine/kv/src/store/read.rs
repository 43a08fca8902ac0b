//! Reads from memory: an answer, or what is missing for one.

use super::fetch::Fetch;
use super::version::Version;
use super::{Inner, Store};
use crate::Value;
use crate::block::{Block, BlockCursor, compare};
use crate::cache::Object;
use crate::memtable::KeyRange;
use crate::table::{Meta, Table};
use crate::{filter, stem};
use cfs_types::Timestamp;
use std::rc::Rc;

/// Blocks that a scan's fetch reads at once.
const READ_AHEAD_BLOCKS: usize = 8;

/// Answer of [`Store::get`].
pub enum Lookup {
    /// The value.
    Found(Rc<[u8]>),
    /// There is none at that time.
    Absent,
    /// Not in memory: [`Store::fetch`] it and ask again.
    Miss(Fetch),
}

/// Keys and values in order.
pub type Rows = Vec<(Box<[u8]>, Rc<[u8]>)>;

/// Answer of [`Store::scan`].
pub enum Scan {
    /// What is there.
    Rows {
        /// In key order, at most as many as asked for.
        rows: Rows,
        /// False where the range holds nothing beyond these rows; true where it may.
        more: bool,
    },
    /// Not in memory: [`Store::fetch`] it and ask again.
    Miss(Fetch),
}

/// A row with the time of the version that the scan saw.
pub type DatedRow = (Box<[u8]>, Timestamp, Rc<[u8]>);

/// Answer of [`Store::scan_dated`].
pub enum DatedScan {
    /// In key order, at most as many as asked for, and whether there may be more.
    Rows(Vec<DatedRow>, bool),
    /// Not in memory: [`Store::fetch`] it and ask again.
    Miss(Fetch),
}

/// What a read lacks.
pub(super) enum Need {
    Footers(Rc<Version>),
    Meta(Rc<Table>),
    /// So many blocks from this one on.
    Blocks(Rc<Table>, Rc<Meta>, usize, usize),
}

impl Store {
    /// The newest value at or before `at`. Never blocks.
    pub fn get(&self, key: &[u8], at: Timestamp) -> Lookup {
        match self.inner.lookup(key, at) {
            Ok(Some(value)) => Lookup::Found(value),
            Ok(None) => Lookup::Absent,
            Err(_) => Lookup::Miss(Fetch::get(key, at)),
        }
    }

    /// Up to `limit` keys from `from` (inclusive) to `to` (exclusive) with their newest values at
    /// or before `at`. Never blocks.
    pub fn scan(&self, from: &[u8], to: &[u8], at: Timestamp, limit: usize) -> Scan {
        match self.inner.rows(from, to, at, limit, |key, _, value| (key, value)) {
            Ok((rows, more)) => Scan::Rows { rows, more },
            Err(_) => Scan::Miss(Fetch::scan(from, to, at, limit)),
        }
    }

    /// What `read` looks up counts as nobody's use: whoever reads everything once keeps nothing in the cache.
    pub fn unnoticed<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        let before = self.inner.touched.replace(Some(Vec::new()));
        let answer = read(self);
        *self.inner.touched.borrow_mut() = before;
        answer
    }

    /// As [`Store::scan`], with the time of each version.
    pub fn scan_dated(&self, from: &[u8], to: &[u8], at: Timestamp, limit: usize) -> DatedScan {
        match self.inner.rows(from, to, at, limit, |key, inverted, value| (key, Timestamp::new(!inverted), value)) {
            Ok((rows, more)) => DatedScan::Rows(rows, more),
            Err(_) => DatedScan::Miss(Fetch::scan(from, to, at, limit)),
        }
    }
}

/// What the filters of tables are asked for a key.
struct Probe<'a> {
    key: &'a [u8],
    stem_hash: u64,
}

impl<'a> Probe<'a> {
    fn new(key: &'a [u8], stem: &[u8]) -> Self {
        Probe { key, stem_hash: filter::hash(stem) }
    }
    fn of(&self, table: &Table) -> u64 {
        if table.has_stems() { self.stem_hash } else { filter::hash(self.key) }
    }
}

impl Inner {
    pub(super) fn lookup(&self, key: &[u8], at: Timestamp) -> Result<Value, Need> {
        let state = self.state.borrow();
        let frozen = state.frozen.as_ref();
        if let Some(value) = state.mem.get(key, at).or_else(|| frozen.and_then(|f| f.get(key, at))) {
            return Ok(value.clone());
        }
        let version = &state.version;
        if !version.ready.get() {
            return Err(Need::Footers(version.clone()));
        }
        let (probe, inverted) = (Probe::new(key, (self.config.stem)(key).unwrap_or(key)), !at.get());
        // A flush may have spread the versions of a key over two tables: compare their times.
        let mut newest: Option<(u64, Value)> = None;
        for table in version.levels[0].iter().filter(|t| t.overlaps(key, key)) {
            if let Some(found) = self.find(table, &probe, inverted)? {
                newest = newest.filter(|n| n.0 <= found.0).or(Some(found));
            }
        }
        if let Some((_, value)) = newest {
            return Ok(value);
        }
        for level in &version.levels[1..] {
            let index = level.partition_point(|t| {
                t.footer.get().is_some_and(|f| compare((&f.last.key, f.last.inverted), (key, inverted)).is_lt())
            });
            let Some(table) = level.get(index).filter(|t| t.overlaps(key, key)) else { continue };
            if let Some((_, value)) = self.find(table, &probe, inverted)? {
                return Ok(value);
            }
        }
        Ok(None)
    }

    /// The version a table has, with its inverted time.
    fn find(&self, table: &Rc<Table>, probe: &Probe<'_>, inverted: u64) -> Result<Option<(u64, Value)>, Need> {
        let (meta, key) = (self.meta(table)?, probe.key);
        if !meta.may_contain(probe.of(table)) {
            return Ok(None);
        }
        let Some(block) = self.block(table, &meta, meta.seek(key, inverted), 1)? else { return Ok(None) };
        let cursor = BlockCursor::seek(block, key, inverted);
        let found = cursor.is_valid() && cursor.key() == key;
        Ok(found.then(|| (cursor.inverted(), cursor.value().map(Rc::from))))
    }

    fn meta(&self, table: &Rc<Table>) -> Result<Rc<Meta>, Need> {
        let unit = table.footer.get().map(|f| f.meta_unit);
        match unit.and_then(|unit| self.cached(table, unit)) {
            Some(Object::Meta(meta)) => Ok(meta),
            _ => Err(Need::Meta(table.clone())),
        }
    }
    /// What is cached; noted where a fetch is looking.
    fn cached(&self, table: &Table, unit: u32) -> Option<Object> {
        let key = self.cache_key(table, unit);
        match &mut *self.touched.borrow_mut() {
            Some(touched) => {
                let object = self.config.cache.peek(key)?;
                touched.push(object.clone());
                Some(object)
            }
            None => self.config.cache.get(key),
        }
    }
    /// A block of a table, None behind its last one.
    fn block(&self, table: &Rc<Table>, meta: &Rc<Meta>, index: usize, ahead: usize) -> Result<Option<Rc<Block>>, Need> {
        let Some(place) = meta.block(index) else { return Ok(None) };
        match self.cached(table, place.first_unit) {
            Some(Object::Block(block)) => Ok(Some(block)),
            _ => Err(Need::Blocks(table.clone(), meta.clone(), index, ahead)),
        }
    }

    pub(super) fn rows<T>(
        &self,
        from: &[u8],
        to: &[u8],
        at: Timestamp,
        limit: usize,
        row: impl Fn(Box<[u8]>, u64, Rc<[u8]>) -> T,
    ) -> Result<(Vec<T>, bool), Need> {
        let mut rows = Vec::new();
        if from >= to || limit == 0 {
            return Ok((rows, from < to));
        }
        let state = self.state.borrow();
        let version = &state.version;
        if !version.ready.get() {
            return Err(Need::Footers(version.clone()));
        }
        // Those that have nothing in the range, often all, are not asked again.
        let mut sources: Vec<Source<'_>> = Vec::new();
        let memory = [Some(&state.mem), state.frozen.as_deref()].into_iter().flatten();
        sources.extend(memory.map(|m| Source::memory(m.range(from, to), at)).filter(Source::has_more));
        let stem_hash = stem::of_range(self.config.stem, from, to).map(filter::hash);
        let span = Span { from, to, inverted: !at.get(), stem_hash };
        let level0 = version.levels[0].iter().map(std::slice::from_ref);
        for tables in level0.chain(version.levels[1..].iter().map(Vec::as_slice)).filter(|tables| !tables.is_empty()) {
            let source = Source::Tables(RunSource::seek(self, tables, span)?);
            sources.extend(Some(source).filter(Source::has_more));
        }
        while let Some(index) = least(&sources) {
            let source = &sources[index];
            let position = source.position().map(|(key, inverted)| (key.into(), inverted));
            let (key, inverted): (Box<[u8]>, u64) = position.expect("the least has a key");
            let value = source.value();
            if value.is_some() && rows.len() + 1 == limit {
                rows.extend(value.map(|value| row(key, inverted, value)));
                return Ok((rows, true));
            }
            for source in sources.iter_mut().filter(|s| s.position().is_some_and(|(k, _)| *k == *key)) {
                source.skip(&key)?;
            }
            rows.extend(value.map(|value| row(key, inverted, value)));
        }
        Ok((rows, false))
    }
}

/// The source with the least key: of several the one with the newest version, then the newest one.
fn least(sources: &[Source<'_>]) -> Option<usize> {
    let positions = sources.iter().enumerate().filter_map(|(index, s)| s.position().map(|p| (index, p)));
    positions.min_by(|a, b| compare(a.1, b.1).then(a.0.cmp(&b.0))).map(|(index, _)| index)
}

type MemoryRow<'a> = (&'a [u8], &'a (Timestamp, Value));

/// The next key that has a version at `at`, with that version.
fn next_at<'a>(rows: &mut KeyRange<'a>, at: Timestamp) -> Option<MemoryRow<'a>> {
    rows.find_map(|(key, versions)| Some((&**key, versions.at(at)?)))
}

/// Keys of one source with the version that a read sees.
enum Source<'a> {
    Memory { rows: KeyRange<'a>, at: Timestamp, current: Option<MemoryRow<'a>> },
    Tables(RunSource<'a>),
}

impl<'a> Source<'a> {
    fn memory(mut rows: KeyRange<'a>, at: Timestamp) -> Self {
        let current = next_at(&mut rows, at);
        Source::Memory { rows, at, current }
    }
    fn position(&self) -> Option<(&[u8], u64)> {
        match self {
            Source::Memory { current, .. } => current.map(|(key, (time, _))| (key, !time.get())),
            Source::Tables(run) => run.cursor.as_ref().map(|c| (c.key(), c.inverted())),
        }
    }
    fn has_more(&self) -> bool {
        self.position().is_some()
    }
    fn value(&self) -> Value {
        match self {
            Source::Memory { current, .. } => current.and_then(|(_, (_, value))| value.clone()),
            Source::Tables(run) => run.cursor.as_ref().and_then(BlockCursor::value).map(Rc::from),
        }
    }
    /// Goes behind all versions of `key`, at which it is.
    fn skip(&mut self, key: &[u8]) -> Result<(), Need> {
        match self {
            Source::Memory { rows, at, current } => {
                *current = next_at(rows, *at);
                Ok(())
            }
            Source::Tables(run) => run.skip(|cursor| cursor.key() == key),
        }
    }
}

/// What a scan reads.
#[derive(Clone, Copy)]
struct Span<'a> {
    from: &'a [u8],
    to: &'a [u8],
    inverted: u64,
    /// Of the stem that all its keys have: a table whose filter does not know it has none of them.
    stem_hash: Option<u64>,
}

/// Tables in key order without overlap, read as one.
struct RunSource<'a> {
    store: &'a Inner,
    tables: std::slice::Iter<'a, Rc<Table>>,
    table: Option<(&'a Rc<Table>, Rc<Meta>)>,
    next_block: usize,
    /// At a version that the read sees; None at the end.
    cursor: Option<BlockCursor>,
    span: Span<'a>,
}

impl<'a> RunSource<'a> {
    fn seek(store: &'a Inner, tables: &'a [Rc<Table>], span: Span<'a>) -> Result<Self, Need> {
        let from = span.from;
        let skipped = tables.partition_point(|t| t.footer.get().is_some_and(|f| &*f.last.key < from));
        let tables = tables[skipped..].iter();
        let mut run = RunSource { store, tables, table: None, next_block: 0, cursor: None, span };
        if run.next_table()? {
            let index = run.table.as_ref().map_or(0, |(_, meta)| meta.seek(from, 0));
            run.next_block = index;
        }
        if let Some(block) = run.next_block()? {
            run.cursor = Some(BlockCursor::seek(block, from, 0));
        }
        run.skip(|_| false)?;
        Ok(run)
    }
    fn next_table(&mut self) -> Result<bool, Need> {
        (self.table, self.next_block) = (None, 0);
        for table in self.tables.by_ref() {
            if table.footer.get().is_none_or(|f| &*f.first.key >= self.span.to) {
                break;
            }
            let meta = self.store.meta(table)?;
            if self.span.stem_hash.is_none_or(|hash| !table.has_stems() || meta.may_contain(hash)) {
                self.table = Some((table, meta));
                break;
            }
        }
        Ok(self.table.is_some())
    }
    fn next_block(&mut self) -> Result<Option<Rc<Block>>, Need> {
        while let Some((table, meta)) = &self.table {
            if let Some(block) = self.store.block(table, meta, self.next_block, READ_AHEAD_BLOCKS)? {
                self.next_block += 1;
                return Ok(Some(block));
            }
            self.next_table()?;
        }
        Ok(None)
    }
    /// Skips versions the read does not see and those that `unwanted` says.
    fn skip(&mut self, unwanted: impl Fn(&BlockCursor) -> bool) -> Result<(), Need> {
        while let Some(cursor) = &mut self.cursor {
            if !cursor.is_valid() {
                self.cursor = self.next_block()?.map(BlockCursor::first);
            } else if cursor.key() >= self.span.to {
                self.cursor = None;
            } else if cursor.inverted() < self.span.inverted || unwanted(cursor) {
                cursor.advance();
            } else {
                return Ok(());
            }
        }
        Ok(())
    }
}
