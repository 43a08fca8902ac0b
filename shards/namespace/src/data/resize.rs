//! Truncation, preallocation, holes, and the freeing of files that are gone.

use super::RANGES_MAX;
use super::file::{File, summaries};
use super::layout::Layout;
use super::message::Change;
use crate::outcome::{Begun, Step, Stop};
use crate::record::Inode;
use crate::state::State;
use crate::xattr;
use cfs_types::{FsError, InodeId, RangeIndex, SessionId};
use cfs_wire::{FallocateMode, FileKind, Reply};

/// Sets a file's size, or shortens it by a bounded part: then tells from where on nothing is left,
/// which is where the next step goes on. The caller writes the inode. A shorter file's epoch rises.
pub fn truncate(state: &mut State<'_>, ino: InodeId, inode: &mut Inode, size: u64, begun: Begun) -> Step<Begun> {
    File::check_kind(inode)?;
    if size > state.ctx.layout.file_bytes_max() {
        return Err(Stop::Fail(FsError::FileTooLarge));
    }
    let now = state.ctx.now;
    let mut left = None;
    if size < inode.size {
        inode.epoch += 1;
    }
    if size <= inode.size && inode.allocated > 0 {
        // Somebody may have written beyond what was cut already.
        let begun = begun.filter(|at| inode.size <= *at);
        left = cut(&mut File { state, ino, inode }, size, begun)?;
    }
    inode.size = left.map_or(size, |at| inode.size.min(at));
    inode.modify(now);
    Ok(left)
}

/// Cuts what lies beyond `size` and below `end` in the last ranges of the file.
fn cut(file: &mut File<'_, '_>, size: u64, end: Begun) -> Step<Begun> {
    let layout = file.state.ctx.layout;
    let first = layout.range_of(size);
    if file.inode.sequence > 0 {
        let lowest = RangeIndex::new(first.get().max(1));
        let end = end.map(|at| layout.range_of(at));
        let from = last_told(file, lowest, end)?;
        for (range, summary) in summaries(file.state, file.ino, (from, end), limit())? {
            let at = size.max(layout.start_of(range));
            if summary.through > at {
                file.change(range, Change::Cut { from: at })?;
            }
        }
        if from > lowest {
            return Ok(Some(layout.start_of(from)));
        }
    }
    if first.get() == 0 {
        file.change(first, Change::Cut { from: size })?;
    }
    Ok(None)
}

/// The lowest range from `lowest` on behind which no more than [`RANGES_MAX`] were ever told anything.
fn last_told(file: &File<'_, '_>, lowest: RangeIndex, end: Option<RangeIndex>) -> Step<RangeIndex> {
    let fits = |from: u32| -> Step<bool> {
        let told = summaries(file.state, file.ino, (RangeIndex::new(from), end), limit() + 1)?;
        Ok(told.len() <= limit())
    };
    if fits(lowest.get())? {
        return Ok(lowest);
    }
    let (mut too_low, mut fitting) = (lowest.get(), end.map_or(u32::MAX, RangeIndex::get));
    while fitting - too_low > 1 {
        let middle = too_low + (fitting - too_low) / 2;
        if fits(middle)? {
            fitting = middle;
        } else {
            too_low = middle;
        }
    }
    Ok(RangeIndex::new(fitting))
}

fn limit() -> usize {
    usize::try_from(RANGES_MAX).expect("small")
}

/// Where a step of fallocate that begins at `from` ends.
fn step_end(layout: Layout, from: u64, end: u64) -> u64 {
    let last = layout.range_of(from).get().saturating_add(RANGES_MAX - 1);
    end.min(layout.end_of(RangeIndex::new(last)))
}

/// fallocate as asked for.
#[derive(Clone, Copy, Debug)]
pub struct Fallocate {
    /// The file.
    pub ino: InodeId,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What.
    pub mode: FallocateMode,
    /// Leave the size alone.
    pub keep_size: bool,
    /// Clear setuid and setgid.
    pub kill_privileges: bool,
}

/// Executes fallocate, or the next step of it. `Invalid` where the span is empty.
pub fn fallocate(state: &mut State<'_>, session: SessionId, asked: Fallocate, begun: Begun) -> Step<Reply> {
    let Fallocate { ino, offset, len, mode, .. } = asked;
    let mut inode = File::writable(state, ino)?;
    let layout = state.ctx.layout;
    let end = offset.checked_add(len).filter(|end| *end <= layout.file_bytes_max());
    let end = end.ok_or(Stop::Fail(FsError::FileTooLarge))?;
    let from = begun.unwrap_or(offset);
    if !(offset..end).contains(&from) {
        return Err(Stop::Fail(FsError::Invalid));
    }
    inode.written_by(session);
    let mut file = File { state, ino, inode: &mut inode };
    let (hole, zero) = (|from, to| Change::Hole { from, to }, |from, to| Change::Zero { from, to });
    let stop = match mode {
        FallocateMode::Allocate => fill(&mut file, from, end, |from, to| Change::Allocate { from, to })?,
        FallocateMode::ZeroRange if asked.keep_size => clear(&mut file, from, end, zero)?,
        FallocateMode::ZeroRange => fill(&mut file, from, end, zero)?,
        FallocateMode::PunchHole => clear(&mut file, from, end, hole)?,
    };
    let now = state.ctx.now;
    let grows = mode != FallocateMode::PunchHole && !asked.keep_size && stop > inode.size;
    if grows {
        inode.size = stop;
    }
    if grows || mode != FallocateMode::Allocate {
        inode.modify(now);
    } else {
        inode.touch(now);
    }
    if asked.kill_privileges {
        inode.kill_privileges();
    }
    xattr::drop_capability(state, ino, &mut inode)?;
    state.put_inode(ino, &inode);
    Ok(if stop < end { Reply::Offset(stop) } else { Reply::Attr(inode.attr(ino)) })
}

/// Changes every range from `from` on; tells where this step of it ends.
fn fill(file: &mut File<'_, '_>, from: u64, end: u64, change: impl Fn(u64, u64) -> Change) -> Step<u64> {
    let layout = file.state.ctx.layout;
    let stop = step_end(layout, from, end);
    for (range, from, to) in layout.cut(from, stop) {
        file.change(range, change(from, to))?;
    }
    Ok(stop)
}

/// Changes ranges from `from` on that hold anything, so that they read as zeros as all others do; tells
/// where this step of it ends.
fn clear(file: &mut File<'_, '_>, from: u64, end: u64, change: impl Fn(u64, u64) -> Change) -> Step<u64> {
    let layout = file.state.ctx.layout;
    let first = layout.range_of(from);
    if first.get() == 0 {
        file.change(first, change(from, end.min(layout.end_of(first))))?;
    }
    let told = summaries(file.state, file.ino, (RangeIndex::new(first.get().max(1)), None), limit())?;
    let last = told.last().map(|(range, _)| *range).filter(|_| told.len() == limit());
    for (range, summary) in told {
        let (from, to) = (from.max(layout.start_of(range)), end.min(layout.end_of(range)));
        if from < to && summary.from < to && summary.through > from {
            file.change(range, change(from, to))?;
        }
    }
    Ok(last.map_or(end, |last| end.min(layout.end_of(last))))
}

/// Frees a bounded part of an unlinked file's content; true when nothing is left here and every
/// range elsewhere has been told.
pub fn reap_step(state: &mut State<'_>, ino: InodeId, inode: &mut Inode) -> Step<bool> {
    let untouched = inode.allocated == 0 && inode.sequence == 0 && inode.trim_from.is_none();
    if inode.kind != FileKind::File || untouched {
        return Ok(true);
    }
    let mut file = File { state, ino, inode };
    file.change(RangeIndex::new(0), Change::Cut { from: 0 })?;
    let told = summaries(file.state, ino, (RangeIndex::new(1), None), limit())?;
    for (range, _) in &told {
        file.change(*range, Change::Forget)?;
    }
    Ok(file.inode.trim_from.is_none() && told.len() < limit())
}
