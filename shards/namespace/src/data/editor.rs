//! Changes to the extents of files, with the accounting that goes with them.
//!
//! Invariants, at [`Editor::settle`]: a chunk's live bytes are the bytes of the extents that name
//! it; a chunk without any is gone and reported as freed; every extent with bytes has exactly one
//! back reference; extents of a file do not overlap.

use super::extent::Extent;
use super::keys;
use super::layout::Layout;
use super::place::{Place, Source};
use super::record::{BackRef, ChunkRecord};
use super::{DataEffect, record_of};
use crate::outcome::{Effect, Step};
use crate::state::State;
use crate::view::{Rows, View};
use cfs_types::{ChunkId, InodeId};
use std::collections::BTreeMap;

/// Rows of the first scan: most operations touch one or two extents.
const FIRST_ROWS: usize = 2;
/// Rows of the scans after it.
const NEXT_ROWS: usize = 128;

/// Extents of `ino` that overlap `from..to`, in file order, at most `limit`. The span lies within
/// one range.
pub fn overlapping(
    view: &dyn View,
    layout: Layout,
    ino: InodeId,
    (from, to): (u64, u64),
    limit: usize,
) -> Step<Vec<Extent>> {
    let mut found = Vec::new();
    if from >= to {
        return Ok(found);
    }
    let bound = keys::extent(ino, layout.end_of(layout.range_of(from)) + 1);
    let (mut at, mut rows_max) = (from, FIRST_ROWS);
    while found.len() < limit {
        let wanted = rows_max.min(limit - found.len());
        let rows: Rows = view.scan(&keys::extent(ino, at + 1), &bound, wanted)?;
        let last = rows.len() < wanted;
        for (key, value) in rows {
            let end = record_of(keys::extent_end(&key))?;
            let extent = record_of(Extent::decode(end, &value))?;
            if extent.start >= to {
                return Ok(found);
            }
            at = end;
            found.push(extent);
        }
        if last || at >= to {
            break;
        }
        rows_max = NEXT_ROWS;
    }
    Ok(found)
}

/// As [`overlapping`], for a span that is to change. A block written again as it was: one look
/// instead of a scan of all tables.
pub fn touched(
    view: &dyn View,
    layout: Layout,
    ino: InodeId,
    (from, to): (u64, u64),
    limit: usize,
) -> Step<Vec<Extent>> {
    if from < to
        && limit > 0
        && let Some(whole) = ending_at(view, ino, to)?.filter(|extent| extent.start <= from)
    {
        return Ok(vec![whole]);
    }
    overlapping(view, layout, ino, (from, to), limit)
}

fn ending_at(view: &dyn View, ino: InodeId, end: u64) -> Step<Option<Extent>> {
    match view.get(&keys::extent(ino, end))? {
        Some(value) => Ok(Some(record_of(Extent::decode(end, &value))?)),
        None => Ok(None),
    }
}

/// Result of a settled edit.
#[derive(Debug, Default)]
pub struct Settled {
    /// Bytes that extents gained or lost.
    pub allocated: i64,
    /// Chunks of which part is dead now, or all.
    changed: Vec<(ChunkId, ChunkRecord)>,
}

impl Settled {
    /// What follows for the chunks.
    pub fn effects(&self) -> impl Iterator<Item = Effect> {
        self.changed.iter().map(|&(id, record)| {
            Effect::Data(match record.live {
                0 => DataEffect::FreeChunk(id),
                _ => DataEffect::Thinned(id, record),
            })
        })
    }
}

/// An edit of extents in progress.
pub struct Editor<'t, 'v> {
    state: &'t mut State<'v>,
    layout: Layout,
    live: BTreeMap<ChunkId, i64>,
    declared: BTreeMap<ChunkId, u32>,
    allocated: i64,
}

impl<'t, 'v> Editor<'t, 'v> {
    /// Begins an edit.
    pub fn new(state: &'t mut State<'v>) -> Self {
        let layout = state.ctx.layout;
        Editor { state, layout, live: BTreeMap::new(), declared: BTreeMap::new(), allocated: 0 }
    }

    /// Extents that overlap `from..to`, within one range.
    pub fn overlapping(&self, ino: InodeId, from: u64, to: u64, limit: usize) -> Step<Vec<Extent>> {
        touched(self.state, self.layout, ino, (from, to), limit)
    }

    /// A chunk that this command names for the first time, `len` bytes long. It is freed at once
    /// if in the end no extent names it.
    pub fn declare(&mut self, id: ChunkId, len: u32) {
        self.declared.insert(id, len);
        self.live.entry(id).or_insert(0);
    }

    fn account(&mut self, place: &Place, bytes: i64) {
        self.allocated += bytes;
        if let Place::Chunk { id, .. } = place {
            *self.live.entry(*id).or_insert(0) += bytes;
        }
    }

    fn remove(&mut self, ino: InodeId, extent: &Extent) {
        self.state.delete(keys::extent(ino, extent.end()));
        if let Some(source) = extent.place.source() {
            self.state.delete(keys::back_ref(source));
        }
        self.account(&extent.place, -i64::from(extent.len));
    }

    /// Puts an extent where there is none.
    pub fn insert(&mut self, ino: InodeId, extent: &Extent) {
        let end = extent.end();
        if let Some(source) = extent.place.source() {
            let back = BackRef::Extent { ino, end };
            self.state.put(keys::back_ref(source), back.encode());
        }
        self.state.put(keys::extent(ino, end), extent.encode());
        self.account(&extent.place, i64::from(extent.len));
    }

    /// As [`Editor::insert`]; joins the extent with the one before it where one continues the other.
    pub fn insert_joined(&mut self, ino: InodeId, extent: Extent) -> Step<()> {
        let same_range = self.layout.start_of(self.layout.range_of(extent.start)) < extent.start;
        let before = if same_range { ending_at(self.state, ino, extent.start)? } else { None };
        match before {
            Some(before) if before.place.continues(before.len, &extent.place) => {
                self.remove(ino, &before);
                let len = before.len + extent.len;
                self.insert(ino, &Extent { start: before.start, len, place: before.place });
            }
            _ => self.insert(ino, &extent),
        }
        Ok(())
    }

    /// Takes `extent` out but for what lies outside `from..to`.
    pub fn cut(&mut self, ino: InodeId, extent: &Extent, from: u64, to: u64) {
        self.remove(ino, extent);
        for rest in [extent.clipped(0, from), extent.clipped(to, u64::MAX)].into_iter().flatten() {
            self.insert(ino, &rest);
        }
    }

    /// Makes `from..to`, within one range, a hole, touching at most `limit` extents. Tells how
    /// many it touched: fewer than `limit` means that it is done.
    pub fn clear(&mut self, ino: InodeId, from: u64, to: u64, limit: usize) -> Step<usize> {
        let extents = self.overlapping(ino, from, to, limit)?;
        for extent in &extents {
            self.cut(ino, extent, from, to);
        }
        Ok(extents.len())
    }

    /// Fills the holes of `from..to`, within one range, with unwritten extents.
    pub fn allocate(&mut self, ino: InodeId, from: u64, to: u64) -> Step<()> {
        let mut at = from;
        let mut gaps = Vec::new();
        for extent in self.overlapping(ino, from, to, usize::MAX)? {
            gaps.push((at, extent.start));
            at = extent.end();
        }
        gaps.push((at, to));
        for (start, end) in gaps {
            let Some(gap) = end.checked_sub(start).filter(|gap| *gap > 0) else { continue };
            let len = u32::try_from(gap).expect("a range is shorter than 4 GiB");
            self.insert_joined(ino, Extent { start, len, place: Place::Unwritten })?;
        }
        Ok(())
    }

    /// Replaces those parts of `from..from + len` that still are the bytes that begin at `old` by
    /// the same bytes of the chunk `new`, beginning at `new_offset`. Tells how many it replaced.
    pub fn relocate(
        &mut self,
        ino: InodeId,
        (from, len): (u64, u32),
        old: Source,
        (new, new_offset): (ChunkId, u32),
    ) -> Step<u64> {
        let to = from + u64::from(len);
        let mut replaced = 0;
        for extent in self.overlapping(ino, from, to, usize::MAX)? {
            let Some(part) = extent.clipped(from, to) else { continue };
            let distance = u32::try_from(part.start - from).expect("within the move");
            if part.place.source() != old.advanced(distance) {
                continue;
            }
            self.cut(ino, &extent, from, to);
            let place = Place::Chunk { id: new, offset: new_offset + distance };
            replaced += u64::from(part.len);
            self.insert_joined(ino, Extent { place, ..part })?;
        }
        Ok(replaced)
    }

    /// Brings the chunks' records up to date.
    pub fn settle(self) -> Step<Settled> {
        let mut changed = Vec::new();
        for (id, change) in self.live {
            let stored = match self.state.get(&keys::chunk(id))? {
                Some(value) => Some(record_of(ChunkRecord::decode(&value))?),
                None => None,
            };
            let declared = self.declared.get(&id).map(|len| ChunkRecord { len: *len, live: 0 });
            let record = record_of(stored.or(declared))?;
            let live = record_of(u32::try_from(i64::from(record.live) + change).ok())?;
            record_of((live <= record.len).then_some(()))?;
            let now = ChunkRecord { live, ..record };
            if live == 0 {
                self.state.delete(keys::chunk(id));
                changed.push((id, now));
            } else if live != record.live {
                self.state.put(keys::chunk(id), now.encode());
                changed.extend((live < now.len).then_some((id, now)));
            }
        }
        Ok(Settled { allocated: self.allocated, changed })
    }
}
