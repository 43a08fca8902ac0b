//! Truncation, preallocation, holes, and the freeing of files that are gone.

use super::RANGES_MAX;
use super::file::{File, summaries};
use super::layout::Layout;
use super::message::Change;
use crate::outcome::{Step, Stop};
use crate::record::Inode;
use crate::state::State;
use crate::xattr;
use cfs_types::{FsError, InodeId, Nanos, RangeIndex};
use cfs_wire::{FallocateMode, FileKind, Reply};

/// Sets a file's size; the caller writes the inode. A shorter file's epoch rises.
pub fn truncate(state: &mut State<'_>, ino: InodeId, inode: &mut Inode, size: u64, now: Nanos) -> Step<()> {
    File::check_kind(inode)?;
    if size > state.ctx.layout.file_bytes_max() {
        return Err(Stop::Fail(FsError::FileTooLarge));
    }
    if size < inode.size {
        inode.epoch += 1;
    }
    if size <= inode.size && inode.allocated > 0 {
        cut(&mut File { state, ino, inode }, size)?;
    }
    inode.size = size;
    inode.modify(now);
    Ok(())
}

fn cut(file: &mut File<'_, '_>, size: u64) -> Step<()> {
    let layout = file.state.ctx.layout;
    let first = layout.range_of(size);
    if first.get() == 0 {
        file.change(first, Change::Cut { from: size })?;
    }
    if file.inode.sequence == 0 {
        return Ok(());
    }
    let first = RangeIndex::new(first.get().max(1));
    for (range, summary) in summaries(file.state, file.ino, first, usize::MAX)? {
        let from = size.max(layout.start_of(range));
        if summary.through > from {
            file.change(range, Change::Cut { from })?;
        }
    }
    Ok(())
}

/// How much of `offset..offset + len` one `Fallocate` command takes: the driver proposes the rest
/// as further commands. All of it where it begins beyond the longest file: the command says so.
pub fn fallocate_slice(layout: Layout, offset: u64, len: u64) -> u64 {
    let last = layout.range_of(offset).get().saturating_add(RANGES_MAX - 1);
    let room = layout.end_of(RangeIndex::new(last)).saturating_sub(offset);
    if room > 0 { len.min(room) } else { len }
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

/// Executes fallocate. `Invalid` where the span is empty or longer than [`fallocate_slice`] says.
pub fn fallocate(state: &mut State<'_>, asked: Fallocate) -> Step<Reply> {
    let Fallocate { ino, offset, len, mode, .. } = asked;
    let mut inode = File::writable(state, ino)?;
    let layout = state.ctx.layout;
    let end = offset.checked_add(len).filter(|end| *end <= layout.file_bytes_max());
    let end = end.ok_or(Stop::Fail(FsError::FileTooLarge))?;
    if len == 0 || fallocate_slice(layout, offset, len) < len {
        return Err(Stop::Fail(FsError::Invalid));
    }
    let mut file = File { state, ino, inode: &mut inode };
    for (range, from, to) in layout.cut(offset, end) {
        match mode {
            FallocateMode::Allocate => file.change(range, Change::Allocate { from, to })?,
            FallocateMode::ZeroRange => file.change(range, Change::Zero { from, to })?,
            FallocateMode::PunchHole => punch(&mut file, range, from, to)?,
        }
    }
    let now = state.ctx.now;
    let grows = mode != FallocateMode::PunchHole && !asked.keep_size && end > inode.size;
    if grows {
        inode.size = end;
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
    Ok(Reply::Attr(inode.attr(ino)))
}

fn punch(file: &mut File<'_, '_>, range: RangeIndex, from: u64, to: u64) -> Step<()> {
    if range.get() > 0 {
        let summary = super::file::read_summary(file.state, file.ino, range)?;
        if summary.through <= from || summary.from >= to {
            return Ok(());
        }
    }
    file.change(range, Change::Hole { from, to })
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
    let limit = usize::try_from(RANGES_MAX).expect("small");
    let told = summaries(file.state, ino, RangeIndex::new(1), limit)?;
    for (range, _) in &told {
        file.change(*range, Change::Forget)?;
    }
    Ok(file.inode.trim_from.is_none() && told.len() < limit)
}
