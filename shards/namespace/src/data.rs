//! File data: extents, chunks, ranges (docs/decisions/0004-file-data.md, docs/formats/file-data.md).
//!
//! Purpose: what of a file is where, and the accounting that frees what nothing names. The inode's
//! shard executes every change but overwrites; what concerns ranges 1 and up goes on to their shards by
//! outbox.
//!
//! Invariants: extents of a file do not overlap and lie within one range; a chunk's live bytes are
//! the bytes of the extents that name it and a chunk without any is gone; every extent with bytes
//! has one back reference; nothing at or beyond the end of a file is ever read back.

mod audit;
mod codec;
mod editor;
mod extent;
mod file;
pub(crate) mod keys;
mod layout;
mod message;
mod overwrite;
mod pack;
mod place;
mod range;
mod read;
mod record;
mod resize;
#[cfg(test)]
mod tests;
mod write;

pub use audit::DataRow;
pub(crate) use audit::decode as decode_row;
pub use extent::Extent;
pub use layout::{Layout, range_shard};
pub use message::{Change, DataMessage};
pub use overwrite::{Asked, Route, Span, Verdict, route, verdict};
pub use pack::{MOVES_MAX, Move, NewChunk};
pub use place::{LogRef, Place, Source};
pub use range::acknowledged;
pub use read::{
    Admission, Found, Piece, admit, chunk_exists, chunk_extents, chunk_record, chunks, log_extents, log_ref_from,
    pending_trims, plan_read, range_sequence, seek,
};
pub use record::{BackRef, ChunkRecord, RangeRecord, Shape, Summary};
pub use resize::{reap_step, truncate};
pub use write::{ChunkSlice, WriteAt, WriteData};

use crate::command::{Command, EntryContext};
use crate::outcome::{Begun, Step, Stop};
use crate::record as records;
use crate::state::{State, find, find_inode};
use crate::view::View;
use cfs_types::{ChunkId, FsError, InodeId, RangeIndex, ShardId};
use cfs_wire::{FallocateMode, Op, Reply};
use file::File;
use serde::{Deserialize, Serialize};

/// Extents that one step of trimming deletes and one plan of a read lists: about a millisecond.
/// Few under test, so that short histories need several steps.
pub const EXTENTS_MAX: usize = if cfg!(test) { 4 } else { 512 };
/// Ranges that one command tells: a step of fallocate, of a truncation or of reaping.
pub const RANGES_MAX: u32 = if cfg!(test) { 3 } else { 64 };

/// Commands on file data. Part of the log's format: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DataCommand {
    /// Inode's shard. Reply: Written. `Conflict`: see [`write::execute`].
    Write {
        /// The file.
        ino: InodeId,
        /// Where.
        at: WriteAt,
        /// What.
        data: WriteData,
        /// Clear setuid and setgid.
        kill_privileges: bool,
    },
    /// Inode's shard. Reply: Attr; `Offset` where more is left: propose it again.
    Fallocate {
        /// The file.
        ino: InodeId,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// What.
        mode: FallocateMode,
        /// Leave the size alone.
        keep_size: bool,
        /// Clear setuid and setgid.
        kill_privileges: bool,
    },
    /// Any range's shard: bytes were copied to new chunks. Reply: Offset, the bytes replaced.
    Pack {
        /// The chunks.
        chunks: Vec<NewChunk>,
        /// What was copied: at most [`MOVES_MAX`].
        moves: Vec<Move>,
    },
    /// A range's shard: delete some more of what lies beyond a cut. Reply: Done; more is left
    /// where [`DataEffect::TrimPending`] follows.
    Trim {
        /// The file.
        ino: InodeId,
        /// The range.
        range: RangeIndex,
    },
    /// Grants chunk sequences to the term of the entry, never to be granted again. Reply: Offset,
    /// the first of them.
    GrantChunks {
        /// How many.
        count: u32,
    },
    /// A range's shard: bytes that are there are written over. Reply: Done. `Conflict`: see
    /// [`overwrite::execute`].
    Overwrite {
        /// The file.
        ino: InodeId,
        /// From the beginning of the file.
        offset: u64,
        /// The file's epoch: the range refuses one lower than its own.
        epoch: u64,
        /// The last message to the range: it must have arrived.
        sequence: u64,
        /// What, within one range.
        data: WriteData,
    },
    /// Inode's shard: its content was written over in a range. Reply: Written.
    Modified {
        /// The file.
        ino: InodeId,
        /// Where, and when where it was held back.
        at: WriteAt,
        /// Clear setuid and setgid.
        kill_privileges: bool,
    },
}

/// Work on data for the driver, to be done once the writes are applied and durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataEffect {
    /// Nothing names the chunk any more: retire its cell. May be lost: [`chunk_exists`] tells.
    FreeChunk(ChunkId),
    /// Not all of the chunk is alive. May be lost: [`chunk_record`] tells.
    Thinned(ChunkId, ChunkRecord),
    /// Propose [`DataCommand::Trim`]. May be lost: [`pending_trims`] tells.
    TrimPending {
        /// The file.
        ino: InodeId,
        /// The range.
        range: RangeIndex,
    },
}

/// Executes a command on data.
pub fn execute(state: &mut State<'_>, command: &Command, begun: Begun, body: &DataCommand) -> Step<Reply> {
    let session = command.session;
    match *body {
        DataCommand::Write { ino, at, ref data, kill_privileges } => {
            write::execute(state, session, write::Write { ino, at, data, kill_privileges })
        }
        DataCommand::Fallocate { ino, offset, len, mode, keep_size, kill_privileges } => {
            let asked = resize::Fallocate { ino, offset, len, mode, keep_size, kill_privileges };
            resize::fallocate(state, session, asked, begun)
        }
        DataCommand::Pack { ref chunks, ref moves } => pack::execute(state, chunks, moves),
        DataCommand::Trim { ino, range } => trim(state, ino, range),
        DataCommand::GrantChunks { count } => grant(state, count),
        DataCommand::Overwrite { ino, offset, epoch, sequence, ref data } => {
            overwrite::execute(state, overwrite::Overwrite { ino, offset, known: (epoch, sequence), data })
        }
        DataCommand::Modified { ino, at, kill_privileges } => overwrite::modified(state, ino, at, kill_privileges),
    }
}

fn trim(state: &mut State<'_>, ino: InodeId, range: RangeIndex) -> Step<Reply> {
    if range.get() > 0 {
        range::trim_range(state, ino, range)?;
    } else if let Some(mut inode) = find_inode(state, ino)? {
        File { state, ino, inode: &mut inode }.trim_first()?;
        state.put_inode(ino, &inode);
    }
    Ok(Reply::Done)
}

fn grant(state: &mut State<'_>, count: u32) -> Step<Reply> {
    let first = next_chunk_sequence(state)?;
    let next = first + u64::from(count);
    if next > ChunkId::SEQUENCE_MAX {
        return Err(Stop::Fail(FsError::NoSpace));
    }
    state.put(keys::grant(), records::encode(&next));
    Ok(Reply::Offset(first))
}

/// The first chunk sequence that no term was ever granted.
pub fn next_chunk_sequence(view: &dyn View) -> Step<u64> {
    Ok(find(view, &keys::grant())?.unwrap_or(1))
}

/// Executes a message of another shard.
pub fn deliver(state: &mut State<'_>, _from: ShardId, message: &DataMessage) -> Step<()> {
    range::deliver(state, message)
}

/// Answers a read-only operation on data. `Read` is not among them: the driver plans it with
/// [`plan_read`].
pub fn query(view: &dyn View, ctx: &EntryContext, op: &Op) -> Step<Reply> {
    match *op {
        Op::Seek { ino, offset, whence } => seek(view, ctx.layout, ino, offset, whence).map(Reply::Offset),
        _ => Err(Stop::Fail(FsError::NotSupported)),
    }
}

/// What a decoder gave; `Corrupt` where the record is damaged or contradicts others.
fn record_of<T>(decoded: Option<T>) -> Step<T> {
    decoded.ok_or(Stop::Fail(FsError::Corrupt))
}
