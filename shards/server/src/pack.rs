//! Packing: small writes leave the log for chunks, and what is alive of sparse chunks is packed into fuller ones.
//!
//! The bytes are copied, the copy is made durable, and a `Pack` command swaps only what is still
//! the same. So a write that comes between wins, and nothing is lost where a step fails.

use crate::core::Core;
use crate::file_data::{free_chunk, read_chunk, read_logged, settle, store_chunk};
use crate::shard::Shard;
use bytes::Bytes;
use cfs_namespace::data::{DataCommand, Found, LogRef, Move, NewChunk, Place, Source, chunk_extents, log_extents};
use cfs_namespace::{Command, CommandBody};
use cfs_seam::IoBuf;
use cfs_segment::{Lifetime, Purpose};
use cfs_types::{CHUNK_BYTES_MAX, ChunkId, FsError, UNIT_BYTES};
use std::rc::Rc;

/// Extents looked at in one step.
const EXTENTS_AT_ONCE: usize = 1024;
/// Pieces are read together where at least one of so many bytes between them is alive.
const RUN_SHARE: u32 = 8;
/// A shorter end of a segment is not worth a chunk of its own.
const TAIL_BYTES_MIN: usize = 64 << 10;
/// Longest run that is read at once: a longer one would keep readers waiting.
const RUN_BYTES_MAX: u32 = 512 << 10;
/// A chunk is filled up to here.
const PACKED_BYTES: usize = CHUNK_BYTES_MAX as usize / 4;
/// Pieces of at least this size begin at a 4 KiB boundary of the chunk.
const ALIGNED_FROM: usize = UNIT_BYTES as usize;

/// A chunk being filled.
struct Filling {
    class: Lifetime,
    /// Bytes that it may have.
    room: usize,
    bytes: Vec<u8>,
    moves: Vec<Move>,
}

impl Filling {
    /// As long as what an open segment has left, so that no end of a segment stays unused.
    fn new(core: &Core, class: Lifetime) -> Self {
        let tail = core.space.tail(class) as usize * ALIGNED_FROM;
        let room = if tail < TAIL_BYTES_MIN { PACKED_BYTES } else { tail.min(PACKED_BYTES) };
        Filling { class, room, bytes: Vec::new(), moves: Vec::new() }
    }

    fn fits(&self, len: usize) -> bool {
        let begin = if len < ALIGNED_FROM { self.bytes.len() } else { self.bytes.len().next_multiple_of(ALIGNED_FROM) };
        self.bytes.is_empty() || begin + len <= self.room
    }

    fn add(&mut self, found: &Found, bytes: &[u8]) {
        if bytes.len() >= ALIGNED_FROM {
            self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNED_FROM), 0);
        }
        let chunk_offset = u32::try_from(self.bytes.len()).expect("at most 2 MiB");
        self.moves.push(Move {
            ino: found.ino,
            offset: found.extent.start,
            len: found.extent.len,
            from: found.source,
            chunk: 0,
            chunk_offset,
        });
        self.bytes.extend_from_slice(bytes);
    }
}

/// Packs every small write that is executed now. False where some of them cannot be read.
pub async fn pack_all(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<bool, FsError> {
    if shard.group().shard().is_none() {
        return Ok(true);
    }
    let (index, counted) = (shard.replica.mark().applied.0, shard.replica.unpacked().get());
    let all = pack_through(core, shard, index).await?;
    shard.replica.unpacked().packed(counted);
    Ok(all)
}

/// Packs every small write that lies in an entry up to `index`.
async fn pack_through(core: &Rc<Core>, shard: &Rc<Shard>, index: u64) -> Result<bool, FsError> {
    let (mut after, mut all): (Option<Source>, bool) = (None, true);
    loop {
        let (found, next) = shard.read(|view, _| settle(log_extents(view, after, EXTENTS_AT_ONCE))).await??;
        let wanted: Vec<Found> = found
            .into_iter()
            .filter(|f| matches!(f.source, Source::Log { index: at, .. } if at.get() <= index))
            .collect();
        if wanted.is_empty() {
            return Ok(all);
        }
        // Fresh data: what is overwritten often dies apart from what outlives a cleaning.
        all &= move_all(core, shard, Lifetime::Hot, &wanted).await?.all;
        match next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

/// What became of pieces that were to be packed.
struct Moved {
    /// At least one lies elsewhere now.
    any: bool,
    /// None is left that cannot be read.
    all: bool,
}

/// Copies the bytes of extents into new chunks and swaps them in.
async fn move_all(core: &Rc<Core>, shard: &Rc<Shard>, class: Lifetime, found: &[Found]) -> Result<Moved, FsError> {
    let (mut filling, mut moved) = (Filling::new(core, class), Moved { any: false, all: true });
    let mut run: Option<Run> = None;
    for (at, one) in found.iter().enumerate() {
        if !filling.fits(one.extent.len as usize) {
            seal(core, shard, filling).await?;
            filling = Filling::new(core, class);
        }
        if let Place::Chunk { id, offset } = one.extent.place
            && run.as_ref().is_none_or(|run| !run.is_about(id, offset))
        {
            run = Some(Run::read(core, shard, (id, offset), &found[at..]).await?);
        }
        if let Some(bytes) = run.as_ref().and_then(|run| run.bytes_of(one)) {
            filling.add(one, bytes);
            moved.any = true;
            continue;
        }
        match bytes_of(core, shard, one).await {
            Ok(Some(bytes)) => {
                filling.add(one, &bytes);
                moved.any = true;
            }
            Ok(None) => {}
            // It was packed meanwhile.
            Err(FsError::Stale) => {}
            // What is damaged, or refused by the device, stays where it is: reading it says so.
            Err(FsError::Corrupt | FsError::Device) => moved.all = false,
            Err(error) => return Err(error),
        }
    }
    seal(core, shard, filling).await?;
    Ok(moved)
}

/// Bytes of a chunk that hold many pieces, read at once; or none, and each piece is read by itself.
struct Run {
    id: ChunkId,
    /// Where it begins and ends in the chunk.
    span: (u32, u32),
    bytes: Option<IoBuf>,
}

impl Run {
    /// Reads from the first of these pieces, of the chunk `id` at `from`, to the last one of the same chunk that is
    /// near; not where most of that would be dead, or some of it is not there or damaged.
    async fn read(
        core: &Rc<Core>,
        shard: &Rc<Shard>,
        (id, from): (ChunkId, u32),
        found: &[Found],
    ) -> Result<Self, FsError> {
        let (mut to, mut alive) = (from, 0);
        for one in found {
            match one.extent.place {
                Place::Chunk { id: other, offset }
                    if other == id && offset + one.extent.len <= from.saturating_add(RUN_BYTES_MAX) =>
                {
                    (to, alive) = (to.max(offset + one.extent.len), alive + one.extent.len);
                }
                _ => break,
            }
        }
        let first = from - from % UNIT_BYTES;
        if alive == 0 || alive < (to - first) / RUN_SHARE {
            return Ok(Run { id, span: (first, to), bytes: None });
        }
        match read_chunk(core, shard, id, first, to - first).await {
            Ok(bytes) => Ok(Run { id, span: (first, to), bytes }),
            Err(FsError::Corrupt | FsError::Device) => Ok(Run { id, span: (first, to), bytes: None }),
            Err(error) => Err(error),
        }
    }

    fn is_about(&self, id: ChunkId, offset: u32) -> bool {
        self.id == id && self.span.0 <= offset && offset < self.span.1
    }

    fn bytes_of(&self, one: &Found) -> Option<&[u8]> {
        let Place::Chunk { id, offset } = one.extent.place else { return None };
        let from = offset.checked_sub(self.span.0).filter(|_| id == self.id)? as usize;
        self.bytes.as_ref()?.get(from..from + one.extent.len as usize)
    }
}

async fn bytes_of(core: &Rc<Core>, shard: &Rc<Shard>, found: &Found) -> Result<Option<Vec<u8>>, FsError> {
    match &found.extent.place {
        Place::Log(slice) if shard.replica.is_lost(slice.index).await? => Ok(None),
        Place::Log(slice) => log_bytes(core, shard, slice, found.extent.len).await.map(Some),
        Place::Chunk { id, offset } => {
            let skip = offset % UNIT_BYTES;
            let read = read_chunk(core, shard, *id, offset - skip, found.extent.len + skip).await?;
            Ok(read.map(|bytes| bytes[skip as usize..].to_vec()))
        }
        Place::Unwritten => Ok(None),
    }
}

async fn log_bytes(core: &Rc<Core>, shard: &Rc<Shard>, slice: &LogRef, len: u32) -> Result<Vec<u8>, FsError> {
    let bytes = read_logged(core, shard, slice).await?;
    let skip = slice.skip as usize;
    bytes.get(skip..skip + len as usize).map(<[u8]>::to_vec).ok_or(FsError::Corrupt)
}

/// Stores a filled chunk and swaps its pieces in.
async fn seal(core: &Rc<Core>, shard: &Rc<Shard>, filling: Filling) -> Result<(), FsError> {
    if filling.moves.is_empty() {
        return Ok(());
    }
    let len = u32::try_from(filling.bytes.len()).map_err(|_| FsError::TooLarge)?;
    let bytes = IoBuf::copy_of(&filling.bytes);
    let (id, locals) = store_chunk(core, shard, Purpose::Reclaim, filling.class, bytes).await?;
    let from_log = filling.moves.iter().filter(|m| matches!(m.from, Source::Log { .. }));
    let packed: u64 = from_log.map(|m| u64::from(m.len)).sum();
    let pack = DataCommand::Pack { chunks: vec![NewChunk { id, len }], moves: filling.moves };
    let command = Command::internal(CommandBody::Data(pack));
    let done = shard.execute(command, Bytes::new(), locals).await;
    free_chunk(core, shard, id).await?;
    done?.result?;
    core.metrics.packed_bytes.add(packed);
    Ok(())
}

/// Writes what is alive of some chunks of one shard into new ones; false where nothing of it could be moved.
pub async fn repack(core: &Rc<Core>, shard: &Rc<Shard>, some: &[ChunkId]) -> Result<bool, FsError> {
    let mut moving = Vec::new();
    for id in some {
        let (found, _) = shard.read(|view, _| settle(chunk_extents(view, *id, None, EXTENTS_AT_ONCE))).await??;
        moving.extend(found);
    }
    Ok(move_all(core, shard, Lifetime::Relocated, &moving).await?.any)
}
