//! Moving bytes to other places without changing the file: small writes from the log into
//! chunks, and the live bytes of sparse chunks into fuller ones.
//!
//! A move is a compare-and-swap: it replaces only what still is the very bytes that were copied.
//! Size, times and change counter stay as they are.

use super::editor::Editor;
use super::place::Source;
use super::range_shard;
use super::write::check_unnamed;
use crate::outcome::{Step, Stop};
use crate::state::State;
use cfs_types::{CHUNK_BYTES_MAX, ChunkId, FsError, InodeId};
use cfs_wire::Reply;
use serde::{Deserialize, Serialize};

/// Moves of one command.
pub const MOVES_MAX: usize = 4096;

/// A chunk that a `Pack` fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewChunk {
    /// The chunk, durable before the command is proposed, named by no other command.
    pub id: ChunkId,
    /// Bytes it was written with.
    pub len: u32,
}

/// A run of bytes that was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Move {
    /// The file.
    pub ino: InodeId,
    /// First byte, from the beginning of the file.
    pub offset: u64,
    /// Bytes; within one range.
    pub len: u32,
    /// The first byte it had been copied from.
    pub from: Source,
    /// Which of the command's chunks it was copied to.
    pub chunk: u32,
    /// First byte there. Moves do not overlap in a chunk.
    pub chunk_offset: u32,
}

/// Executes a pack. Reply: Offset, the number of bytes that were replaced.
pub fn execute(state: &mut State<'_>, chunks: &[NewChunk], moves: &[Move]) -> Step<Reply> {
    for chunk in chunks {
        check_unnamed(state, chunk.id)?;
    }
    let lengths = chunks.iter().all(|c| c.len <= CHUNK_BYTES_MAX) && moves.len() <= MOVES_MAX;
    if !lengths || !are_sound(state, chunks, moves) {
        return Err(Stop::Fail(FsError::Invalid));
    }
    let mut editor = Editor::new(state);
    for chunk in chunks {
        editor.declare(chunk.id, chunk.len);
    }
    let mut replaced = 0;
    for part in moves {
        let target = (chunk_of(chunks, part).ok_or(FsError::Invalid)?.id, part.chunk_offset);
        replaced += editor.relocate(part.ino, (part.offset, part.len), part.from, target)?;
    }
    let settled = editor.settle()?;
    state.effects.extend(settled.effects());
    Ok(Reply::Offset(replaced))
}

fn chunk_of<'a>(chunks: &'a [NewChunk], part: &Move) -> Option<&'a NewChunk> {
    chunks.get(usize::try_from(part.chunk).ok()?)
}

/// Every move lies in one range of this shard and in its chunk; no two overlap there; no chunk
/// is listed twice or moved out of.
fn are_sound(state: &State<'_>, chunks: &[NewChunk], moves: &[Move]) -> bool {
    let layout = state.ctx.layout;
    let mut targets = Vec::with_capacity(moves.len());
    for part in moves {
        let range = layout.range_of(part.offset);
        let end = part.offset.checked_add(u64::from(part.len));
        let Some(chunk) = chunk_of(chunks, part) else { return false };
        let Some(chunk_end) = part.chunk_offset.checked_add(part.len) else { return false };
        let from_new = matches!(part.from, Source::Chunk { id, .. }
            if chunks.iter().any(|c| c.id == id));
        let sound = part.len > 0
            && end.is_some_and(|end| end <= layout.end_of(range) && end <= layout.file_bytes_max())
            && range_shard(part.ino, range) == state.ctx.shard
            && chunk_end <= chunk.len
            && part.from.advanced(part.len).is_some()
            && !from_new;
        if !sound {
            return false;
        }
        targets.push((part.chunk, part.chunk_offset, chunk_end));
    }
    targets.sort_unstable();
    let mut ids: Vec<ChunkId> = chunks.iter().map(|c| c.id).collect();
    ids.sort_unstable();
    targets.windows(2).all(|w| w[0].0 != w[1].0 || w[0].2 <= w[1].1) && ids.windows(2).all(|w| w[0] != w[1])
}
