//! Packing: small writes leave the log for chunks, and sparse chunks are packed into fuller ones.
//!
//! The bytes are copied, the copy is made durable, and a `Pack` command swaps only what is still
//! the same. So a write that comes between wins, and nothing is lost where a step fails.

use crate::core::Core;
use crate::file_data::{free_chunk, read_chunk, read_logged, settle, store_chunk};
use crate::shard::Shard;
use bytes::Bytes;
use cfs_namespace::data::{
    ChunkRecord, DataCommand, Found, LogRef, Move, NewChunk, Place, Source, chunk_extents, chunk_record, chunks,
    log_extents,
};
use cfs_namespace::{Command, CommandBody};
use cfs_seam::IoBuf;
use cfs_segment::{Lifetime, Purpose};
use cfs_types::{CHUNK_BYTES_MAX, ChunkId, FsError, ShardId, UNIT_BYTES};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Extents looked at in one step.
const EXTENTS_AT_ONCE: usize = 1024;
/// Sparse chunks packed together.
const TOGETHER: usize = 16;
/// A chunk is filled up to here: a quarter of a segment, so that the ends of segments are filled too.
const PACKED_BYTES: usize = CHUNK_BYTES_MAX as usize / 4;
/// Records of chunks looked at in one step.
const CHUNKS_AT_ONCE: usize = 256;
/// Chunks remembered as sparse.
const SPARSE_MAX: usize = 4096;
/// Share of live bytes, in thousandths, from which a chunk is not sparse.
const SHARE_MAX: u32 = 950;
/// Pieces of at least this size begin at a 4 KiB boundary of the chunk.
const ALIGNED_FROM: usize = UNIT_BYTES as usize;

/// A chunk being filled.
struct Filling {
    class: Lifetime,
    bytes: Vec<u8>,
    moves: Vec<Move>,
}

impl Filling {
    fn new(class: Lifetime) -> Self {
        Filling { class, bytes: Vec::new(), moves: Vec::new() }
    }

    fn fits(&self, len: usize) -> bool {
        self.bytes.is_empty() || self.bytes.len() + len + ALIGNED_FROM <= PACKED_BYTES
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
    let (mut filling, mut moved) = (Filling::new(class), Moved { any: false, all: true });
    for one in found {
        if !filling.fits(one.extent.len as usize) {
            seal(core, shard, std::mem::replace(&mut filling, Filling::new(class))).await?;
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

/// The sparsest chunks of a core, as they were when it looked: since then they can only have become sparser. Bounded.
#[derive(Default)]
pub struct Sparse {
    /// By share of live bytes, in thousandths; the sparsest first.
    chunks: BTreeSet<(u32, ChunkId)>,
}

impl Sparse {
    /// Looks at the records of all chunks.
    pub async fn look(core: &Rc<Core>) -> Result<Self, FsError> {
        let mut sparse = Sparse::default();
        for shard in core.groups.values().filter(|s| s.group().shard().is_some()) {
            let mut after: Option<ChunkId> = None;
            loop {
                let page = shard.read(|view, _| settle(chunks(view, after, CHUNKS_AT_ONCE))).await??;
                let Some((last, _)) = page.last() else { break };
                after = Some(*last);
                for (id, record) in page {
                    sparse.note(id, record);
                }
            }
        }
        Ok(sparse)
    }

    fn note(&mut self, id: ChunkId, record: ChunkRecord) {
        let share = thousandths(record);
        if share < SHARE_MAX {
            self.chunks.insert((share, id));
        }
        if self.chunks.len() > SPARSE_MAX {
            self.chunks.pop_last();
        }
    }

    /// Takes the sparsest chunk and the next ones of its shard, if less than `percent` of each was alive.
    pub fn take(&mut self, percent: u64) -> Option<(ShardId, Vec<ChunkId>)> {
        let share = u32::try_from(percent * 10).unwrap_or(u32::MAX);
        let shard = self.chunks.first().filter(|(first, _)| *first < share)?.1.shard();
        let of_shard = self.chunks.iter().filter(|(other, id)| *other < share && id.shard() == shard);
        let taken: Vec<_> = of_shard.take(TOGETHER).copied().collect();
        for one in &taken {
            self.chunks.remove(one);
        }
        Some((shard, taken.into_iter().map(|(_, id)| id).collect()))
    }
}

/// How much of a chunk is alive, in thousandths.
pub fn thousandths(record: ChunkRecord) -> u32 {
    let share = u64::from(record.live) * 1000 / u64::from(record.len.max(1));
    u32::try_from(share).unwrap_or(u32::MAX)
}

/// Packs chunks of one shard into fewer, together, for a copy of each alone would be as long as what it leaves over at
/// the end of a segment. False where that would give no space back.
pub async fn pack_some(core: &Rc<Core>, shard: &Rc<Shard>, some: &[ChunkId]) -> Result<bool, FsError> {
    let (mut before, mut live) = (0, 0);
    for id in some {
        if let Some(record) = shard.read(|view, _| settle(chunk_record(view, *id))).await?? {
            before += taken_by(u64::from(record.len));
            live += u64::from(record.live);
        }
    }
    let chunk = u64::from(CHUNK_BYTES_MAX);
    if live / chunk * chunk + taken_by(live % chunk) >= before {
        return Ok(false);
    }
    repack(core, shard, some).await
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

/// What a cell of so many bytes takes of a segment: two long ones do not fit into one.
fn taken_by(bytes: u64) -> u64 {
    let whole = u64::from(CHUNK_BYTES_MAX);
    if bytes * 2 > whole { whole } else { bytes }
}
