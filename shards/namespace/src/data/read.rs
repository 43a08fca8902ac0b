//! What is where: plans of reads, data and holes, and what the packer and the driver look for.

use super::editor::overlapping;
use super::extent::Extent;
use super::file::{read_summary, summaries};
use super::layout::Layout;
use super::place::{LogRef, Place, Source};
use super::range::read_record;
use super::record::{BackRef, ChunkRecord};
use super::{EXTENTS_MAX, keys, record_of};
use crate::outcome::{Step, Stop};
use crate::record::Inode;
use crate::state::read_inode;
use crate::view::View;
use cfs_types::{ChunkId, FsError, InodeId, LogIndex, RangeIndex};
use cfs_wire::SeekWhence;

/// A piece of a read, in file order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// This many zeros.
    Zero(u64),
    /// Bytes of a log entry of this shard.
    Log {
        /// What to read and verify.
        slice: LogRef,
        /// Bytes of the piece, after `slice.skip`.
        len: u32,
    },
    /// Bytes of a chunk.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// First byte within it.
        offset: u32,
        /// Bytes.
        len: u32,
    },
}

impl Piece {
    /// Bytes of the piece.
    pub fn len(&self) -> u64 {
        match self {
            Piece::Zero(len) => *len,
            Piece::Log { len, .. } | Piece::Chunk { len, .. } => u64::from(*len),
        }
    }

    /// Never true: plans have no empty pieces.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Plans a read of `offset..offset + len`, which must lie within one range that this shard
/// holds. In range 0 it ends at the end of the file; elsewhere the caller, who knows the size,
/// clips. A plan of very many pieces covers a prefix only: ask again for the rest.
pub fn plan_read(view: &dyn View, layout: Layout, ino: InodeId, offset: u64, len: u64) -> Step<Vec<Piece>> {
    let range = layout.range_of(offset);
    let mut to = offset.saturating_add(len).min(layout.end_of(range));
    let trim_from = if range.get() == 0 {
        let inode = read_inode(view, ino)?;
        to = to.min(inode.size);
        inode.trim_from
    } else {
        read_record(view, ino, range)?.shape.trim_from
    };
    let live_to = trim_from.map_or(to, |from| from.min(to));
    let extents = overlapping(view, layout, ino, (offset, live_to), EXTENTS_MAX)?;
    let cut_short = extents.len() == EXTENTS_MAX;
    let mut pieces = Vec::with_capacity(extents.len() + 1);
    let mut at = offset;
    for extent in extents {
        let Some(part) = extent.clipped(offset, live_to) else { continue };
        push_zeros(&mut pieces, record_of(part.start.checked_sub(at))?);
        at = part.end();
        match part.place {
            Place::Log(slice) => pieces.push(Piece::Log { slice, len: part.len }),
            Place::Chunk { id, offset } => pieces.push(Piece::Chunk { id, offset, len: part.len }),
            Place::Unwritten => push_zeros(&mut pieces, u64::from(part.len)),
        }
    }
    if !cut_short {
        push_zeros(&mut pieces, to.saturating_sub(at));
    }
    Ok(pieces)
}

fn push_zeros(pieces: &mut Vec<Piece>, more: u64) {
    match pieces.last_mut() {
        Some(Piece::Zero(len)) => *len += more,
        _ if more > 0 => pieces.push(Piece::Zero(more)),
        _ => {}
    }
}

/// Whether a range's shard may serve a read that knows (epoch, sequence) from the inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It may.
    Ready,
    /// The client's attributes are of before a truncation: it asks the inode first (`Conflict`).
    Stale,
    /// Messages may be on their way: the driver asks the inode's shard for
    /// [`range_sequence`] and waits until the range has reached it.
    Behind {
        /// What the range has reached.
        sequence: u64,
    },
}

/// Compares a range with what a client knows of the inode.
pub fn admit(view: &dyn View, ino: InodeId, range: RangeIndex, epoch: u64, sequence: u64) -> Step<Admission> {
    let record = read_record(view, ino, range)?;
    Ok(if epoch < record.epoch {
        Admission::Stale
    } else if sequence > record.sequence {
        Admission::Behind { sequence: record.sequence }
    } else {
        Admission::Ready
    })
}

/// In the inode's shard: the last sequence sent to a range, which it must reach to be current, and
/// the last one sent to any range of the inode. `Stale` where the file is gone.
pub fn range_sequence(view: &dyn View, ino: InodeId, range: RangeIndex) -> Step<(u64, u64)> {
    let inode = read_inode(view, ino)?;
    Ok((read_summary(view, ino, range)?.sequence, inode.sequence))
}

/// lseek in the inode's shard. Exact in range 0; in the others everything between the first and
/// the last byte that may have been written counts as data, which POSIX allows.
pub fn seek(view: &dyn View, layout: Layout, ino: InodeId, offset: u64, whence: SeekWhence) -> Step<u64> {
    let inode = read_inode(view, ino)?;
    super::file::File::check_kind(&inode)?;
    if offset >= inode.size {
        return Err(Stop::Fail(FsError::NoExtent));
    }
    let spans = Spans { view, layout, ino, inode: &inode };
    match whence {
        SeekWhence::Data => match spans.first_after(offset)? {
            Some((from, _)) if from.max(offset) < inode.size => Ok(from.max(offset)),
            _ => Err(Stop::Fail(FsError::NoExtent)),
        },
        SeekWhence::Hole => {
            let mut at = offset;
            while let Some((from, to)) = spans.first_after(at)? {
                if from > at {
                    break;
                }
                at = to;
            }
            Ok(at.min(inode.size))
        }
    }
}

/// Spans of data of a file.
struct Spans<'a> {
    view: &'a dyn View,
    layout: Layout,
    ino: InodeId,
    inode: &'a Inode,
}

impl Spans<'_> {
    /// The first span of data that ends after `at`.
    fn first_after(&self, at: u64) -> Step<Option<(u64, u64)>> {
        let first_end = self.layout.end_of(RangeIndex::new(0));
        if at < first_end
            && let Some(span) = self.first_in_range_zero(at, first_end)?
        {
            return Ok(Some(span));
        }
        if self.inode.sequence == 0 {
            return Ok(None);
        }
        let mut next = self.layout.range_of(at).get().max(1);
        loop {
            let told = summaries(self.view, self.ino, (RangeIndex::new(next), None), SUMMARIES)?;
            let found = told.iter().find(|(_, s)| s.from < s.through && s.through > at);
            if let Some((_, summary)) = found {
                return Ok(Some((summary.from, summary.through)));
            }
            let full = told.last().filter(|_| told.len() == SUMMARIES);
            match full.and_then(|(last, _)| last.get().checked_add(1)) {
                Some(after) => next = after,
                None => return Ok(None),
            }
        }
    }

    /// The run of written extents that ends after `at`: adjacent ones of one batch joined.
    fn first_in_range_zero(&self, at: u64, end: u64) -> Step<Option<(u64, u64)>> {
        let end = self.inode.trim_from.map_or(end, |from| from.min(end));
        let mut at = at;
        while at < end {
            let batch = overlapping(self.view, self.layout, self.ino, (at, end), BATCH)?;
            let mut written = batch.iter().filter(|e| e.place != Place::Unwritten);
            if let Some(first) = written.next() {
                let joined = written.fold(first.end(), |to, e| if e.start == to { e.end() } else { to });
                return Ok(Some((first.start, joined)));
            }
            match batch.last() {
                Some(last) if batch.len() == BATCH => at = last.end(),
                _ => break,
            }
        }
        Ok(None)
    }
}

/// Summaries read at a time.
const SUMMARIES: usize = 64;
/// Extents read at a time.
const BATCH: usize = 128;

/// Whether an extent names the chunk. At the start of a term the driver disowns the cells of
/// chunks below [`super::next_chunk_sequence`] for which this is false.
pub fn chunk_exists(view: &dyn View, id: ChunkId) -> Step<bool> {
    Ok(view.get(&keys::chunk(id))?.is_some())
}

/// A chunk's record, if an extent names it.
pub fn chunk_record(view: &dyn View, id: ChunkId) -> Step<Option<ChunkRecord>> {
    view.get(&keys::chunk(id))?.map(|value| record_of(ChunkRecord::decode(&value))).transpose()
}

/// Chunks after `after` with their records, in order of id, at most `limit`: what the cleaner
/// looks for sparse ones in.
pub fn chunks(view: &dyn View, after: Option<ChunkId>, limit: usize) -> Step<Vec<(ChunkId, ChunkRecord)>> {
    let from = after.map_or_else(keys::chunks_begin, keys::chunk_after);
    let rows = view.scan(&from, &keys::chunks_end(), limit)?;
    let decoded =
        rows.iter().map(|(key, value)| Ok((record_of(keys::chunk_id(key))?, record_of(ChunkRecord::decode(value))?)));
    decoded.collect()
}

/// Ranges of this shard with extents left to delete, at most `limit`: what a driver that starts
/// anew goes on with.
pub fn pending_trims(view: &dyn View, limit: usize) -> Step<Vec<(InodeId, RangeIndex)>> {
    let (from, to) = keys::all_trimming();
    let rows = view.scan(&from, &to, limit)?;
    rows.iter().map(|(key, _)| record_of(keys::trimming_range(key))).collect()
}

/// The first log entry at or above `index` whose data area is still needed: by an extent, or by a
/// message on its way.
pub fn log_ref_from(view: &dyn View, index: LogIndex) -> Step<Option<LogIndex>> {
    let first = Source::Log { index, offset: 0 };
    let rows = view.scan(&keys::back_ref(first), &keys::log_refs_end(), 1)?;
    match rows.first() {
        Some((key, _)) => match record_of(keys::back_ref_source(key))? {
            Source::Log { index, .. } => Ok(Some(index)),
            Source::Chunk { .. } => Err(Stop::Fail(FsError::Corrupt)),
        },
        None => Ok(None),
    }
}

/// An extent as the packer finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The file.
    pub ino: InodeId,
    /// The extent.
    pub extent: Extent,
    /// Its first byte.
    pub source: Source,
}

/// Extents whose bytes are in the log after `after`, oldest entry first, at most `limit` back
/// references looked at: `(extents, where to go on, if there may be more)`.
pub fn log_extents(view: &dyn View, after: Option<Source>, limit: usize) -> Step<(Vec<Found>, Option<Source>)> {
    let first = Source::Log { index: LogIndex::new(0), offset: 0 };
    let from = after.map_or_else(|| keys::back_ref(first), keys::back_ref_after);
    referenced(view, &from, &keys::log_refs_end(), limit)
}

/// Extents that name a chunk, in the chunk's order: as [`log_extents`].
pub fn chunk_extents(
    view: &dyn View,
    id: ChunkId,
    after: Option<Source>,
    limit: usize,
) -> Step<(Vec<Found>, Option<Source>)> {
    let first = Source::Chunk { id, offset: 0 };
    let from = after.map_or_else(|| keys::back_ref(first), keys::back_ref_after);
    referenced(view, &from, &keys::back_refs_end(id), limit)
}

fn referenced(view: &dyn View, from: &[u8], to: &[u8], limit: usize) -> Step<(Vec<Found>, Option<Source>)> {
    let rows = view.scan(from, to, limit)?;
    let mut found = Vec::with_capacity(rows.len());
    let mut last = None;
    for (key, value) in &rows {
        let source = record_of(keys::back_ref_source(key))?;
        last = Some(source);
        let BackRef::Extent { ino, end } = record_of(BackRef::decode(value))? else { continue };
        let stored = record_of(view.get(&keys::extent(ino, end))?)?;
        let extent = record_of(Extent::decode(end, &stored))?;
        record_of((extent.place.source() == Some(source)).then_some(()))?;
        found.push(Found { ino, extent, source });
    }
    Ok((found, last.filter(|_| rows.len() == limit)))
}
