//! Changes to one range, in the shard that holds it.
//!
//! Extents beyond a cut are deleted in steps of [`EXTENTS_MAX`]: until then `trim_from` hides
//! them. What a later change writes beyond it is preceded by the rest of the trimming.

use super::editor::{Editor, Settled};
use super::extent::Extent;
use super::message::{Change, DataMessage};
use super::place::Place;
use super::record::{BackRef, RangeRecord};
use super::{DataEffect, EXTENTS_MAX, keys, record_of};
use crate::outcome::{Effect, Step};
use crate::state::State;
use crate::view::View;
use cfs_types::{InodeId, RangeIndex, ShardId};
use std::rc::Rc;

/// Reads a range's record; that of a range nothing was ever sent to is empty.
pub fn read_record(view: &dyn View, ino: InodeId, range: RangeIndex) -> Step<RangeRecord> {
    match view.get(&keys::range(ino, range))? {
        Some(value) => record_of(RangeRecord::decode(&value)),
        None => Ok(RangeRecord::default()),
    }
}

/// Makes a change; gives how many bytes its extents gained or lost.
pub fn change(
    state: &mut State<'_>,
    ino: InodeId,
    range: RangeIndex,
    trim_from: &mut Option<u64>,
    change: &Change,
) -> Step<i64> {
    let layout = state.ctx.layout;
    let end = layout.end_of(range);
    let was_trimming = trim_from.is_some();
    let mut editor = Editor::new(state);
    match change {
        Change::Write { offset, len, place, chunk_len } => {
            let extent = Extent { start: *offset, len: *len, place: place.clone() };
            trim_below(&mut editor, ino, end, trim_from, extent.end())?;
            if let Place::Chunk { id, .. } = place {
                editor.declare(*id, *chunk_len);
            }
            editor.clear(ino, extent.start, extent.end(), usize::MAX)?;
            editor.insert(ino, &extent);
        }
        Change::Cut { from } => cut(&mut editor, ino, end, trim_from, *from)?,
        Change::Hole { from, to } => {
            editor.clear(ino, *from, *to, usize::MAX)?;
        }
        Change::Zero { from, to } => {
            trim_below(&mut editor, ino, end, trim_from, *to)?;
            editor.clear(ino, *from, *to, usize::MAX)?;
            editor.allocate(ino, *from, *to)?;
        }
        Change::Allocate { from, to } => {
            trim_below(&mut editor, ino, end, trim_from, *to)?;
            editor.allocate(ino, *from, *to)?;
        }
        Change::Forget => cut(&mut editor, ino, end, trim_from, layout.start_of(range))?,
    }
    let settled = editor.settle()?;
    if trim_from.is_some() {
        state.put(keys::trimming(ino, range), Rc::from([]));
        state.effects.push(Effect::Data(DataEffect::TrimPending { ino, range }));
    } else if was_trimming {
        state.delete(keys::trimming(ino, range));
    }
    Ok(report(state, settled))
}

/// One step of deleting what lies beyond the last cut.
pub fn trim(state: &mut State<'_>, ino: InodeId, range: RangeIndex, trim_from: &mut Option<u64>) -> Step<i64> {
    match *trim_from {
        Some(from) => change(state, ino, range, trim_from, &Change::Cut { from }),
        None => Ok(0),
    }
}

fn report(state: &mut State<'_>, settled: Settled) -> i64 {
    state.effects.extend(settled.effects());
    settled.allocated
}

fn cut(editor: &mut Editor<'_, '_>, ino: InodeId, end: u64, trim_from: &mut Option<u64>, from: u64) -> Step<()> {
    let from = trim_from.map_or(from, |earlier| earlier.min(from));
    let touched = editor.clear(ino, from, end, EXTENTS_MAX)?;
    *trim_from = (touched == EXTENTS_MAX).then_some(from);
    Ok(())
}

/// Finishes trimming where `to` lies beyond its floor.
fn trim_below(editor: &mut Editor<'_, '_>, ino: InodeId, end: u64, trim_from: &mut Option<u64>, to: u64) -> Step<()> {
    if let Some(from) = trim_from.take_if(|from| *from < to) {
        editor.clear(ino, from, end, usize::MAX)?;
    }
    Ok(())
}

/// Executes a message of the inode's shard.
pub fn deliver(state: &mut State<'_>, message: &DataMessage) -> Step<()> {
    let DataMessage { ino, range, .. } = *message;
    let mut record = read_record(state, ino, range)?;
    record.epoch = record.epoch.max(message.epoch);
    record.sequence = record.sequence.max(message.sequence);
    record.dying |= message.change == Change::Forget;
    let made = message.change.delivered_in(state.ctx.index);
    let gained = change(state, ino, range, &mut record.shape.trim_from, &made)?;
    write_record(state, ino, range, record, gained)
}

/// One step of trimming a range that has a record: ranges 1 and up.
pub fn trim_range(state: &mut State<'_>, ino: InodeId, range: RangeIndex) -> Step<()> {
    let mut record = read_record(state, ino, range)?;
    if record.shape.trim_from.is_none() {
        return Ok(());
    }
    let gained = trim(state, ino, range, &mut record.shape.trim_from)?;
    write_record(state, ino, range, record, gained)
}

/// Writes a range's record after a change; that of a range that is gone goes with its last extent.
pub fn write_record(
    state: &mut State<'_>,
    ino: InodeId,
    range: RangeIndex,
    mut record: RangeRecord,
    gained: i64,
) -> Step<()> {
    record.shape.allocated = record_of(record.shape.allocated.checked_add_signed(gained))?;
    if record.dying && record.shape.trim_from.is_none() {
        state.delete(keys::range(ino, range));
    } else {
        state.put(keys::range(ino, range), record.encode());
    }
    Ok(())
}

/// Keeps the log entry that holds a message's bytes until the message has arrived.
pub fn hold_bytes(state: &mut State<'_>, to: ShardId, message: &DataMessage) {
    let held = message.carries().map(|slice| Place::Log(slice.clone()));
    if let Some(source) = held.and_then(|place| place.source()) {
        let back = BackRef::Message { to, ino: message.ino, sequence: message.sequence };
        state.put(keys::back_ref(source), back.encode());
    }
}

/// A message has arrived: its bytes are in the other shard's log.
pub fn acknowledged(state: &mut State<'_>, message: &DataMessage) {
    let held = message.carries().map(|slice| Place::Log(slice.clone()));
    if let Some(source) = held.and_then(|place| place.source()) {
        state.delete(keys::back_ref(source));
    }
}
