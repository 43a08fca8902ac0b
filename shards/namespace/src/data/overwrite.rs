//! Overwrites: what is there already in a range of another shard is written over in that shard.
//!
//! The driver asks the inode's shard with [`route`] first, executes [`execute`] in the range's shard, and
//! then [`modified`] in the inode's shard, before it replies. What the range refuses goes through the
//! inode's shard like any other write.
//!
//! Invariants: an overwrite neither adds nor removes bytes of a range, so that what the inode's shard
//! knows of the range stays true; one that knows a lower epoch than the range, or that was planned behind
//! a message which has not arrived, changes nothing; a request is executed in one of the two shards
//! only, and once.

use super::editor::touched;
use super::file::{File, read_summary};
use super::layout::Layout;
use super::range::{self, read_record, write_record};
use super::range_shard;
use super::read::{Admission, admit};
use super::write::{self, WriteAt, WriteData, check_unnamed};
use crate::command::EntryContext;
use crate::outcome::{Step, Stop};
use crate::session;
use crate::state::State;
use crate::view::View;
use crate::xattr;
use cfs_types::{FsError, InodeId, RangeIndex, RequestNumber, SessionId};
use cfs_wire::Reply;

/// Most extents that an overwrite replaces, so that looking at them takes about a millisecond: the longest one of
/// whole blocks has half as many. What replaces more goes through the inode's shard.
const REPLACED_MAX: usize = 1024;

/// A request of a session.
pub type Asked = (SessionId, RequestNumber);

/// Where a write is to be executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// In the inode's shard, which has executed or refused it before: it says so again.
    Known,
    /// In the inode's shard, unless the range's shard has executed it before.
    Inode,
    /// In the range's shard, which must have come this far.
    Range {
        /// The file's epoch.
        epoch: u64,
        /// Sequence of the last message sent to the range.
        sequence: u64,
    },
}

/// What the range's shard says of an overwrite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was executed before.
    Done,
    /// It may be executed.
    Ready,
    /// It is not for this shard: not all of it is there, or the range has not come as far, or further.
    Refused,
}

/// Bytes to be written over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The file.
    pub ino: InodeId,
    /// From the beginning of the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Span {
    /// The range that an overwrite of these bytes would be executed in: the only one they are in, where
    /// another shard than the inode's holds it.
    pub fn elsewhere(&self, layout: Layout) -> Option<RangeIndex> {
        let end = self.offset.checked_add(self.len).filter(|end| *end <= layout.file_bytes_max())?;
        let range = layout.range_of(self.offset);
        let fits = self.len > 0 && range.get() > 0 && end <= layout.end_of(range);
        (fits && range_shard(self.ino, range) != self.ino.shard()).then_some(range)
    }

    fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// In the inode's shard: where a write goes that has a place in the file and could be an overwrite.
/// Only the last writer's go to the range: another session takes the file first.
pub fn route(
    view: &dyn View,
    ctx: &EntryContext,
    (session, number): Asked,
    at: WriteAt,
    (span, kill_privileges): (Span, bool),
) -> Step<Route> {
    match session::recall(view, session, number) {
        Ok(None) => {}
        Ok(Some(_)) | Err(Stop::Fail(_)) => return Ok(Route::Known),
        Err(stop) => return Err(stop),
    }
    let inode = match File::writable(view, span.ino) {
        Ok(inode) => inode,
        Err(Stop::Fail(_)) => return Ok(Route::Inode),
        Err(stop) => return Err(stop),
    };
    let Some(range) = span.elsewhere(ctx.layout) else { return Ok(Route::Inode) };
    let admitted = match at {
        WriteAt::Offset(_) => true,
        WriteAt::HeldBack { held, .. } => inode.admits(session, held.epoch),
        WriteAt::Append => false,
    };
    let loses_privileges = kill_privileges && inode.has_privileges() || xattr::has_capability(view, span.ino, &inode)?;
    if !admitted || inode.writer != session || span.end() > inode.size || loses_privileges {
        return Ok(Route::Inode);
    }
    let summary = read_summary(view, span.ino, range)?;
    let within = summary.from <= span.offset && span.end() <= summary.through;
    Ok(if within { Route::Range { epoch: inode.epoch, sequence: summary.sequence } } else { Route::Inode })
}

/// In the range's shard: what becomes of an overwrite that knows (epoch, sequence) from the inode; None
/// where the inode's shard has not sent it, and only asks whether it was executed.
pub fn verdict(
    view: &dyn View,
    layout: Layout,
    (session, number): Asked,
    span: Span,
    known: Option<(u64, u64)>,
) -> Step<Verdict> {
    if let Some(result) = session::recall(view, session, number)? {
        return result.map(|_| Verdict::Done).map_err(Stop::Fail);
    }
    let takes = match known {
        Some(known) => takes(view, layout, span, known)?,
        None => false,
    };
    Ok(if takes { Verdict::Ready } else { Verdict::Refused })
}

/// Whether the range has come exactly this far, and holds all of the span already, in extents that are few
/// enough to be changed at once.
fn takes(view: &dyn View, layout: Layout, span: Span, (epoch, sequence): (u64, u64)) -> Step<bool> {
    let Some(range) = span.elsewhere(layout) else { return Ok(false) };
    let record = read_record(view, span.ino, range)?;
    let is_live = !record.dying && record.shape.trim_from.is_none_or(|floor| span.end() <= floor);
    if !is_live || admit(view, span.ino, range, epoch, sequence)? != Admission::Ready {
        return Ok(false);
    }
    let mut at = span.offset;
    for extent in touched(view, layout, span.ino, (span.offset, span.end()), REPLACED_MAX)? {
        if extent.start > at {
            return Ok(false);
        }
        at = extent.end();
    }
    Ok(at >= span.end())
}

/// An overwrite, with what is known of the inode.
pub struct Overwrite<'a> {
    /// The file.
    pub ino: InodeId,
    /// From the beginning of the file.
    pub offset: u64,
    /// The file's epoch, and the sequence of the last message to the range.
    pub known: (u64, u64),
    /// What.
    pub data: &'a WriteData,
}

/// Executes an overwrite in the range's shard. `Conflict`: the range does not take it; nothing is
/// changed, and the request may be executed in the inode's shard.
pub fn execute(state: &mut State<'_>, asked: Overwrite<'_>) -> Step<Reply> {
    let Overwrite { ino, offset, known, data } = asked;
    let layout = state.ctx.layout;
    if !takes(state, layout, Span { ino, offset, len: data.len() }, known)? {
        return Err(Stop::Fail(FsError::Conflict));
    }
    let changes = match data {
        WriteData::Inline { data_offset, len, checksums } => {
            write::inline(state, offset, (*data_offset, *len), checksums)?
        }
        WriteData::Chunks(slices) => {
            slices.iter().try_for_each(|slice| check_unnamed(state, slice.id))?;
            write::chunks(state, ino, offset, slices)?
        }
    };
    let range = layout.range_of(offset);
    let mut record = read_record(state, ino, range)?;
    record.epoch = record.epoch.max(known.0);
    let mut gained = 0;
    for (_, change) in &changes {
        gained += range::change(state, ino, range, &mut record.shape.trim_from, change)?;
    }
    write_record(state, ino, range, record, gained)?;
    Ok(Reply::Done)
}

/// Executes in the inode's shard what follows from an overwrite: times, change counter, privileges. The
/// epoch may have risen since, as by a truncation: then the overwrite came before it.
pub fn modified(state: &mut State<'_>, ino: InodeId, at: WriteAt, kill_privileges: bool) -> Step<Reply> {
    let mut inode = state.inode(ino)?;
    write::note_modified(state, ino, &mut inode, at, kill_privileges)?;
    state.put_inode(ino, &inode);
    let offset = match at {
        WriteAt::Offset(offset) | WriteAt::HeldBack { offset, .. } => offset,
        WriteAt::Append => return Err(Stop::Fail(FsError::Invalid)),
    };
    Ok(Reply::Written { offset, attr: inode.attr(ino), sequence: inode.sequence })
}
