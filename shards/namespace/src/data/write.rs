//! Writes: where the bytes are, and the command's execution in the inode's shard.

use super::file::File;
use super::message::Change;
use super::place::{LogRef, Place};
use super::{keys, next_chunk_sequence, range_shard};
use crate::outcome::{Step, Stop};
use crate::record::Inode;
use crate::state::State;
use crate::view::View;
use crate::xattr;
use cfs_types::{CHUNK_BYTES_MAX, ChunkId, FsError, InodeId, SessionId};
use cfs_wire::{HeldBack, Reply};
use serde::{Deserialize, Serialize};

/// Where a write goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WriteAt {
    /// At this offset.
    Offset(u64),
    /// At the end of the file, whatever it is when the command executes.
    Append,
    /// At this offset, unless somebody else has had the file since.
    HeldBack {
        /// From the beginning of the file.
        offset: u64,
        /// Since when, and when they were written.
        held: HeldBack,
    },
}

/// A slice of a chunk that was made durable before the command is proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkSlice {
    /// The chunk, of the shard of the range it is written to; named by no other command.
    pub id: ChunkId,
    /// Bytes it was written with.
    pub chunk_len: u32,
    /// First byte of the slice.
    pub offset: u32,
    /// Bytes of the slice.
    pub len: u32,
}

/// What is written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WriteData {
    /// Bytes in the data area of the entry that carries the command, at most 64 KiB.
    Inline {
        /// Where in the data area.
        data_offset: u32,
        /// How many.
        len: u32,
        /// CRC32C of each 4 KiB block of them; the last may be short.
        checksums: Vec<u32>,
    },
    /// Slices of chunks, one after another in the file; none crosses the border of a range.
    Chunks(Vec<ChunkSlice>),
}

impl WriteData {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        match self {
            WriteData::Inline { len, .. } => u64::from(*len),
            WriteData::Chunks(slices) => slices.iter().map(|s| u64::from(s.len)).sum(),
        }
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A write as asked for.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The file.
    pub ino: InodeId,
    /// Where.
    pub at: WriteAt,
    /// What.
    pub data: &'a WriteData,
    /// Clear setuid and setgid.
    pub kill_privileges: bool,
}

/// Executes a write of `session`. `Stale`: the bytes were held back too long. `Conflict`: a chunk is not of the shard that the offset leads to (an append
/// went elsewhere than the driver thought): nothing is changed, and the chunks stay the driver's.
pub fn execute(state: &mut State<'_>, session: SessionId, write: Write<'_>) -> Step<Reply> {
    let mut inode = File::writable(state, write.ino)?;
    let start = match write.at {
        WriteAt::Offset(offset) => offset,
        WriteAt::Append => inode.size,
        WriteAt::HeldBack { held, .. } if !inode.admits(session, held.epoch) => return Err(Stop::Fail(FsError::Stale)),
        WriteAt::HeldBack { offset, .. } => offset,
    };
    let end = start.checked_add(write.data.len());
    let end = end.filter(|end| *end <= state.ctx.layout.file_bytes_max());
    let end = end.ok_or(Stop::Fail(FsError::FileTooLarge))?;
    if start < end {
        let changes = match write.data {
            WriteData::Inline { data_offset, len, checksums } => inline(state, start, (*data_offset, *len), checksums)?,
            WriteData::Chunks(slices) => chunks(state, write.ino, start, slices)?,
        };
        inode.written_by(session);
        let mut file = File { state, ino: write.ino, inode: &mut inode };
        for (range, change) in changes {
            file.change(range, change)?;
        }
        inode.size = inode.size.max(end);
        note_modified(state, write.ino, &mut inode, write.at, write.kill_privileges)?;
        state.put_inode(write.ino, &inode);
    }
    let (attr, sequence) = (inode.attr(write.ino), inode.sequence);
    Ok(Reply::Written { offset: start, attr, sequence })
}

/// A write changed the content: times, change counter, privileges. The caller writes the inode.
pub fn note_modified(
    state: &mut State<'_>,
    ino: InodeId,
    inode: &mut Inode,
    at: WriteAt,
    kill_privileges: bool,
) -> Step<()> {
    match at {
        WriteAt::HeldBack { held, .. } => inode.modify_at(held.time, state.ctx.now),
        WriteAt::Offset(_) | WriteAt::Append => inode.modify(state.ctx.now),
    }
    if kill_privileges {
        inode.kill_privileges();
    }
    xattr::drop_capability(state, ino, inode)
}

/// Changes to ranges, in file order.
pub type Changes = Vec<(cfs_types::RangeIndex, Change)>;

/// The changes of a small write whose bytes lie at (offset, length) of this entry's data area.
pub fn inline(state: &State<'_>, start: u64, (data_offset, len): (u32, u32), checksums: &[u32]) -> Step<Changes> {
    let (index, skip, checksums) = (state.ctx.index, 0, checksums.to_vec());
    let slice = LogRef { index, data_offset, data_len: len, skip, checksums };
    if !slice.holds(len) {
        return Err(Stop::Fail(FsError::Invalid));
    }
    let place = Place::Log(slice);
    let part = |(range, from, to): (_, u64, u64)| {
        let within = |n: u64| u32::try_from(n).expect("no longer than the write");
        let (distance, len) = (within(from - start), within(to - from));
        let place = place.narrowed(distance, len);
        (range, Change::Write { offset: from, len, place, chunk_len: 0 })
    };
    Ok(state.ctx.layout.cut(start, start + u64::from(len)).map(part).collect())
}

/// The changes of a write whose bytes are in chunks.
pub fn chunks(state: &State<'_>, ino: InodeId, start: u64, slices: &[ChunkSlice]) -> Step<Changes> {
    let layout = state.ctx.layout;
    let mut at = start;
    let mut changes: Changes = Vec::new();
    for (nth, slice) in slices.iter().enumerate() {
        let end = at + u64::from(slice.len);
        let sound = slice.len > 0
            && slice.chunk_len <= CHUNK_BYTES_MAX
            && slice.offset.checked_add(slice.len).is_some_and(|end| end <= slice.chunk_len)
            && !slices[..nth].iter().any(|other| other.id == slice.id);
        if !sound {
            return Err(Stop::Fail(FsError::Invalid));
        }
        let range = layout.range_of(at);
        if end > layout.end_of(range) || range_shard(ino, range) != slice.id.shard() {
            return Err(Stop::Fail(FsError::Conflict));
        }
        if range.get() == 0 {
            check_unnamed(state, slice.id)?;
        }
        let place = Place::Chunk { id: slice.id, offset: slice.offset };
        let (len, chunk_len) = (slice.len, slice.chunk_len);
        changes.push((range, Change::Write { offset: at, len, place, chunk_len }));
        at = end;
    }
    Ok(changes)
}

/// A chunk is named once, out of a granted block: a second naming would revive what was freed.
pub fn check_unnamed(state: &State<'_>, id: ChunkId) -> Step<()> {
    let granted = id.shard() == state.ctx.shard && id.sequence() < next_chunk_sequence(state)?;
    let named = state.get(&keys::chunk(id))?.is_some();
    if granted && !named { Ok(()) } else { Err(Stop::Fail(FsError::Invalid)) }
}
