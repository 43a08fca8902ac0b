//! Reads and writes of file data at the shards that own them.
//!
//! Small writes ride in the log entry. Longer ones become chunks of the ranges they fall into,
//! durable before the command that names them is proposed.
//!
//! Invariants: bytes that fail a checksum are never returned; a chunk that no command names in
//! the end is given back; a full store refuses new data before anything is proposed.

use crate::admission::{admit_inline, reserve, units_promised};
use crate::cells::{self, Found, Place};
use crate::core::Core;
use crate::machine::GroupAnswer;
use crate::messages::{CoreReply, CoreRequest};
use crate::overwrite::{self, Attempt};
use crate::replica::LocalWrite;
use crate::shard::Shard;
use crate::steps::{command, conclude};
use bytes::Bytes;
use cfs_device::crc32c;
use cfs_kv::Pins;
use cfs_namespace::data::{
    Admission, ChunkSlice, DataCommand, Layout, LogRef, Piece, WriteAt, WriteData, admit, plan_read, range_sequence,
    range_shard,
};
use cfs_namespace::{Answer, Command, CommandBody, NeedMore, Stop};
use cfs_seam::IoBuf;
use cfs_segment::{CellOwner, Lifetime, Purpose, SpaceError};
use cfs_types::{CHUNK_BYTES_MAX, ChunkId, FsError, INLINE_WRITE_BYTES_MAX, InodeId, RangeIndex, ShardId, UNIT_BYTES};
use cfs_wire::{HeldBack, Op, Reply, RequestContext};
use std::rc::Rc;

/// Chunk sequences granted to a term at once.
const CHUNK_GRANT: u32 = 4096;
/// Plans of one read: each finds what was moved since the last one.
const READ_TRIES_MAX: u32 = 16;
/// Longest read whose bytes are looked for in memory and kept there, bytes.
const CACHED_READ_BYTES_MAX: u32 = 64 << 10;
/// Longest read answered at once, bytes.
pub const READ_BYTES_MAX: u32 = 2 << 20;

/// A write as a client asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteRequest {
    /// The file.
    pub ino: InodeId,
    /// Where, unless `append`.
    pub offset: u64,
    /// At the end, wherever that is.
    pub append: bool,
    /// Clear setuid and setgid.
    pub kill_privileges: bool,
    /// Where the bytes were held back.
    pub held: Option<HeldBack>,
}

impl WriteRequest {
    /// Where it goes, if it begins at `start`.
    pub fn place(&self, start: u64) -> WriteAt {
        match self.held {
            _ if self.append => WriteAt::Append,
            Some(held) => WriteAt::HeldBack { offset: start, held },
            None => WriteAt::Offset(start),
        }
    }

    fn body(&self, at: WriteAt, data: WriteData) -> DataCommand {
        DataCommand::Write { ino: self.ino, at, data, kill_privileges: self.kill_privileges }
    }
}

/// Turns a step of the state machine into what [`Shard::read`] wants.
pub fn settle<T>(step: Result<T, Stop>) -> Result<Result<T, FsError>, NeedMore> {
    match step {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Need(need)) => Err(need),
        Err(Stop::Fail(error)) => Ok(Err(error)),
        Err(Stop::Blocked(_)) => Ok(Err(FsError::Blocked)),
    }
}

/// CRC32C of each 4 KiB block of a small write.
pub fn block_checksums(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(UNIT_BYTES as usize).map(crc32c).collect()
}

/// Writes `data`. All attempts of an overwrite take turns until the last one's answer is settled.
pub async fn write(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    context: &RequestContext,
    request: WriteRequest,
    data: IoBuf,
) -> Result<Reply, FsError> {
    core.metrics.written_bytes.add(data.len() as u64);
    let (data, _turn) = match overwrite::attempt(core, shard, context, request, data).await? {
        Attempt::Done(reply) => return Ok(reply),
        Attempt::Left(data, turn) => (data, turn),
    };
    match store_and_execute(core, shard, context, request, data).await {
        Err(error @ FsError::NoSpace) => conclude(core, shard, context, error).await?.ok_or(error),
        done => done,
    }
}

/// Refuses what there is no space for before anything is proposed.
async fn store_and_execute(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    context: &RequestContext,
    request: WriteRequest,
    data: IoBuf,
) -> Result<Reply, FsError> {
    if data.len() <= inline_max(core) {
        let _admitted = admit_inline(core, data.len()).await?;
        let at = request.place(request.offset);
        let command = write_command(context, request.body(at, inline(&data)));
        return execute_write(core, shard, command, Bytes::from_owner(data), Vec::new()).await;
    }
    let mut data = Some(data);
    loop {
        let start = if request.append { size_of(shard, request.ino).await? } else { request.offset };
        let at = request.place(start);
        let bytes = data.take().expect("given back for each attempt");
        let (kept, slices, locals) = store_slices(core, shard, request.ino, start, bytes, request.append).await?;
        let command = write_command(context, request.body(at, WriteData::Chunks(slices.clone())));
        let done = execute_write(core, shard, command, Bytes::new(), locals).await;
        // A group that failed may still have made the command durable: then the next start tells
        // whether anything names them.
        if !done.as_ref().is_err_and(|error| error.is_failure()) {
            drop_chunks(core, &slices).await;
        }
        match (done, kept) {
            (Err(FsError::Conflict), Some(kept)) => data = Some(kept),
            (done, _) => return done,
        }
    }
}

async fn size_of(shard: &Rc<Shard>, ino: InodeId) -> Result<u64, FsError> {
    match shard.query(&Op::Getattr { ino }).await? {
        Reply::Attr(attr) => Ok(attr.size),
        _ => Err(FsError::Corrupt),
    }
}

/// Longest write whose bytes ride in the log entry. Several fit into one, also where the log's slots are small.
pub fn inline_max(core: &Core) -> usize {
    (INLINE_WRITE_BYTES_MAX as usize).min(core.log.record_bytes_max() / 2)
}

/// What a command says of a small write's bytes; their place in the entry is filled in when it is proposed.
pub fn inline(bytes: &[u8]) -> WriteData {
    let len = u32::try_from(bytes.len()).expect("at most 64 KiB");
    WriteData::Inline { data_offset: 0, len, checksums: block_checksums(bytes) }
}

/// A command of a write that a client asked for.
pub fn write_command(context: &RequestContext, body: DataCommand) -> Command {
    command(context, CommandBody::Data(body))
}

/// Executes a command of a write; what it has sent has arrived when this returns.
pub async fn execute_write(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    command: Command,
    data: Bytes,
    locals: Vec<LocalWrite>,
) -> Result<Reply, FsError> {
    let executed = shard.execute(command, data, locals).await?;
    let answer = executed.result?;
    core.await_delivery(shard, &executed.effects).await?;
    match answer {
        GroupAnswer::Shard(Answer::Wire(reply)) => Ok(reply),
        _ => Err(FsError::Invalid),
    }
}

/// The end of a span, unless no file is so long.
fn within_file(layout: Layout, offset: u64, len: u64) -> Result<u64, FsError> {
    let end = offset.checked_add(len).filter(|end| *end <= layout.file_bytes_max());
    end.ok_or(FsError::FileTooLarge)
}

type Stored = (Option<IoBuf>, Vec<ChunkSlice>, Vec<LocalWrite>);

/// Stores a long write as chunks, cut where ranges and chunks end. With `keep` the bytes come
/// back, for another attempt.
async fn store_slices(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    ino: InodeId,
    start: u64,
    data: IoBuf,
    keep: bool,
) -> Result<Stored, FsError> {
    let layout = Layout::default();
    let end = within_file(layout, start, data.len() as u64)?;
    let cuts: Vec<_> = layout.cut(start, end).collect();
    let (mut slices, mut locals) = (Vec::new(), Vec::new());
    let whole = cuts.len() == 1 && data.len() <= CHUNK_BYTES_MAX as usize && !keep;
    let mut data = Some(data);
    for (range, from, to) in cuts {
        let mut at = from;
        while at < to {
            let len = (to - at).min(u64::from(CHUNK_BYTES_MAX));
            let piece = if whole {
                data.take().expect("taken once")
            } else {
                let first = usize::try_from(at - start).expect("within the write");
                let last = first + usize::try_from(len).expect("at most 2 MiB");
                IoBuf::copy_of(&data.as_deref().expect("kept")[first..last])
            };
            let owner = range_shard(ino, range);
            let stored = if owner == shard.id() {
                store_chunk(core, shard, Purpose::Data, Lifetime::Hot, piece).await
            } else {
                store_elsewhere(core, owner, piece).await.map(|id| (id, Vec::new()))
            };
            match stored {
                Ok((id, mut records)) => {
                    let len = u32::try_from(len).expect("at most 2 MiB");
                    slices.push(ChunkSlice { id, chunk_len: len, offset: 0, len });
                    locals.append(&mut records);
                }
                Err(error) => {
                    shard.replica.write_locals(locals).await?;
                    drop_chunks(core, &slices).await;
                    return Err(error);
                }
            }
            at += len;
        }
    }
    Ok((data.filter(|_| keep), slices, locals))
}

async fn store_elsewhere(core: &Rc<Core>, owner: ShardId, piece: IoBuf) -> Result<ChunkId, FsError> {
    let to = core.config.owner(owner.into());
    match core.peers.call(to, CoreRequest::StoreChunk(owner, piece)).await {
        CoreReply::Stored(stored) => stored,
        _ => Err(FsError::WrongShard),
    }
}

/// Writes a chunk of this core's shard, durably; its records are durable with the proposal that
/// names it.
pub async fn store_chunk(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    purpose: Purpose,
    class: Lifetime,
    data: IoBuf,
) -> Result<(ChunkId, Vec<LocalWrite>), FsError> {
    let chunk = next_chunk(shard).await?;
    let len = u32::try_from(data.len()).map_err(|_| FsError::TooLarge)?;
    // New data leaves alone what small writes were promised; packing them takes it.
    let promised = || if purpose == Purpose::Data { units_promised(core) } else { 0 };
    let reserved = reserve(core, purpose, || u64::from(len.div_ceil(UNIT_BYTES)) + promised()).await?;
    let written = core.space.write_for(purpose, CellOwner::Chunk(chunk), class, data).await.map_err(space_error)?;
    core.space.sync().await.map_err(space_error)?;
    drop(reserved);
    let place = Place { cell: written.cell, len };
    Ok((chunk, cells::record(chunk, place, &written.checksums).into()))
}

/// The errno-like answer to a failure of the space.
pub fn space_error(error: SpaceError) -> FsError {
    match error {
        SpaceError::NoSpace => FsError::NoSpace,
        SpaceError::Damaged { .. } => FsError::Corrupt,
        _ => FsError::Device,
    }
}

async fn next_chunk(shard: &Rc<Shard>) -> Result<ChunkId, FsError> {
    loop {
        let (next, end) = shard.chunk_ids.get();
        if next < end {
            shard.chunk_ids.set((next + 1, end));
            return ChunkId::new(next, shard.id()).ok_or(FsError::NoSpace);
        }
        let grant = Command::internal(CommandBody::Data(DataCommand::GrantChunks { count: CHUNK_GRANT }));
        let (answer, _) = shard.command(grant).await?;
        if let Answer::Wire(Reply::Offset(first)) = answer {
            let earliest = shard.granted_from.get().map_or(first, |known| known.min(first));
            shard.granted_from.set(Some(earliest));
            shard.chunk_ids.set((first, first + u64::from(CHUNK_GRANT)));
        }
    }
}

/// Gives back chunks that no command names: it was refused, or executed in an earlier attempt.
async fn drop_chunks(core: &Rc<Core>, slices: &[ChunkSlice]) {
    for slice in slices {
        let owner = core.config.owner(slice.id.shard().into());
        core.peers.call(owner, CoreRequest::DropChunk(slice.id)).await;
    }
}

/// Reads at most `len` bytes at `offset`, fewer at the end of the file or of the range.
pub async fn read(core: &Rc<Core>, shard: &Rc<Shard>, op: &Op) -> Result<IoBuf, FsError> {
    let Op::Read { ino, offset, len, epoch, sequence } = *op else { return Err(FsError::Invalid) };
    let layout = Layout::default();
    let range = layout.range_of(offset);
    if len > READ_BYTES_MAX || range_shard(ino, range) != shard.id() {
        return Err(FsError::Invalid);
    }
    if range.get() > 0 {
        await_range(core, shard, ino, range, (epoch, sequence)).await?;
    }
    let end = offset.saturating_add(u64::from(len)).min(layout.end_of(range));
    let mut tries = 0;
    'again: loop {
        tries += 1;
        if tries > READ_TRIES_MAX {
            // Something names a chunk or an entry that is not there.
            core.metrics.damage.bump();
            return Err(FsError::Corrupt);
        }
        let mut buf: Option<IoBuf> = None;
        let mut at = offset;
        while at < end {
            let plan = shard.read(|view, _| settle(plan_read(view, layout, ino, at, end - at))).await??;
            let bytes: u64 = plan.iter().map(Piece::len).sum();
            if bytes == 0 {
                break;
            }
            if let ([Piece::Chunk { id, offset: from, len: n }], true) =
                (plan.as_slice(), at == offset && bytes == end - at)
                && from % UNIT_BYTES == 0
            {
                match read_units(core, shard, *id, *from, *n).await? {
                    Some(whole) => {
                        core.metrics.read_bytes.add(whole.len() as u64);
                        return Ok(whole);
                    }
                    None => continue 'again,
                }
            }
            let target =
                buf.get_or_insert_with(|| IoBuf::zeroed(usize::try_from(end - offset).expect("at most 2 MiB")));
            let mut to = usize::try_from(at - offset).expect("within the read");
            for piece in plan {
                let n = usize::try_from(piece.len()).expect("within the read");
                if !fill(core, shard, &piece, &mut target[to..to + n]).await? {
                    continue 'again;
                }
                to += n;
            }
            at += bytes;
        }
        let mut buf = buf.unwrap_or_else(|| IoBuf::zeroed(0));
        buf.set_len(usize::try_from(at - offset).expect("within the read"));
        core.metrics.read_bytes.add(buf.len() as u64);
        return Ok(buf);
    }
}

/// Fills one piece. False where the bytes have moved on meanwhile: plan again.
async fn fill(core: &Rc<Core>, shard: &Rc<Shard>, piece: &Piece, into: &mut [u8]) -> Result<bool, FsError> {
    match piece {
        Piece::Zero(_) => into.fill(0),
        Piece::Log { slice, len } => {
            let bytes = match read_logged(core, shard, slice).await {
                Ok(bytes) => bytes,
                Err(FsError::Stale) => return Ok(false),
                Err(error) => return Err(error),
            };
            let skip = slice.skip as usize;
            let slice = bytes.get(skip..skip + *len as usize).ok_or(FsError::Corrupt)?;
            into.copy_from_slice(slice);
        }
        Piece::Chunk { id, offset, len } => {
            let skip = (offset % UNIT_BYTES) as usize;
            match read_units(core, shard, *id, offset - offset % UNIT_BYTES, len + offset % UNIT_BYTES).await? {
                Some(bytes) => into.copy_from_slice(&bytes[skip..]),
                None => return Ok(false),
            }
        }
    }
    Ok(true)
}

/// The bytes of a small write that the log holds, verified. `Stale`: it holds them no more.
pub async fn read_logged(core: &Rc<Core>, shard: &Rc<Shard>, slice: &LogRef) -> Result<Vec<u8>, FsError> {
    let bytes = shard.replica.read_data(slice.index, slice.data_offset, slice.data_len).await?;
    if block_checksums(&bytes) != slice.checksums {
        core.metrics.damage.bump();
        return Err(FsError::Corrupt);
    }
    Ok(bytes)
}

/// Reads a chunk for a client as [`read_chunk`] does, or from memory. Long reads pass the cache by: most read once
/// what they read.
async fn read_units(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    id: ChunkId,
    from: u32,
    len: u32,
) -> Result<Option<IoBuf>, FsError> {
    if len > CACHED_READ_BYTES_MAX {
        return read_chunk(core, shard, id, from, len).await;
    }
    let (first, whole) = (from / UNIT_BYTES, len.next_multiple_of(UNIT_BYTES));
    if let Some(bytes) = core.units.read(id.get(), first, len as usize) {
        return Ok(Some(bytes));
    }
    let Some(mut bytes) = read_chunk(core, shard, id, from, whole).await? else { return Ok(None) };
    core.units.insert(id.get(), first, &bytes);
    bytes.set_len(len as usize);
    Ok(Some(bytes))
}

/// Reads `len` bytes of a chunk from `from`, a multiple of 4 KiB: one aligned device read,
/// verified. None where this node no longer has the chunk.
pub async fn read_chunk(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    id: ChunkId,
    from: u32,
    len: u32,
) -> Result<Option<IoBuf>, FsError> {
    let (first, units) = (from / UNIT_BYTES, len.div_ceil(UNIT_BYTES));
    let mut pins = Pins::default();
    loop {
        let reading = match cells::find(shard.replica.store(), id) {
            Found::Place(place, sums) => {
                let sums = cells::checksums(&sums, first, units);
                Ok(core.space.read(CellOwner::Chunk(id), place.cell, &sums, first, units))
            }
            Found::Absent => return Ok(None),
            Found::Damaged => {
                core.metrics.damage.bump();
                return Err(FsError::Corrupt);
            }
            Found::Miss(fetch) => Err(fetch),
        };
        match reading {
            Ok(reading) => {
                let mut bytes = reading.await.map_err(|error| {
                    // What the device refuses says nothing of the bytes; the space counts it.
                    if !matches!(error, SpaceError::Read { .. }) {
                        core.metrics.damage.bump();
                    }
                    space_error(error)
                })?;
                bytes.set_len(len as usize);
                return Ok(Some(bytes));
            }
            Err(fetch) => {
                pins.merge(shard.replica.fetch(&fetch).await?);
            }
        }
    }
}

/// Waits until a range has executed what its inode's shard had sent it when the client last
/// looked at the inode.
async fn await_range(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    ino: InodeId,
    range: RangeIndex,
    known: (u64, u64),
) -> Result<(), FsError> {
    // What the range had reached when the inode's shard had sent this much, it has reached for good.
    let reached = shard.reached.borrow().get(&(ino, range)).is_some_and(|all| known.1 <= *all);
    let mut target = if reached { 0 } else { known.1 };
    let mut asked = None;
    loop {
        let step = shard.read(|view, _| settle(admit(view, ino, range, known.0, target))).await??;
        match step {
            Admission::Ready => {
                if let Some(all) = asked {
                    shard.note_reached(ino, range, all);
                }
                return Ok(());
            }
            Admission::Stale => return Err(FsError::Conflict),
            Admission::Behind { .. } if asked.is_none() => {
                let owner = core.config.owner(ino.shard().into());
                let (sent, all) = match core.peers.call(owner, CoreRequest::RangeSequence(ino, range)).await {
                    CoreReply::Sequence(sequence) => sequence?,
                    _ => return Err(FsError::WrongShard),
                };
                (target, asked) = (sent, Some(all));
            }
            Admission::Behind { .. } => shard.replica.next_execution().await,
        }
    }
}

/// The last message sent to a range and to the inode's ranges together, for another core.
pub async fn sequence_of(shard: &Rc<Shard>, ino: InodeId, range: RangeIndex) -> Result<(u64, u64), FsError> {
    shard.read(|view, _| settle(range_sequence(view, ino, range))).await?
}

/// A chunk that nothing names is forgotten, and its cell given back once that is durable.
pub async fn free_chunk(core: &Rc<Core>, shard: &Rc<Shard>, id: ChunkId) -> Result<(), FsError> {
    let _turn = loop {
        match shard.chunk_turn(id) {
            Some(turn) => break turn,
            None => shard.chunk_turns_moved.wait().await,
        }
    };
    forget_chunk(core, shard, id).await
}

async fn forget_chunk(core: &Rc<Core>, shard: &Rc<Shard>, id: ChunkId) -> Result<(), FsError> {
    let named = shard.read(|view, _| settle(cfs_namespace::data::chunk_exists(view, id))).await??;
    if named {
        return Ok(());
    }
    let mut pins = Pins::default();
    let place = loop {
        match cells::find(shard.replica.store(), id) {
            Found::Place(place, _) => break place,
            Found::Absent | Found::Damaged => return Ok(()),
            Found::Miss(fetch) => {
                pins.merge(shard.replica.fetch(&fetch).await?);
            }
        }
    };
    shard.replica.write_locals(cells::forget(id).into()).await?;
    if core.space.retire(CellOwner::Chunk(id), place.cell).is_err() {
        core.metrics.damage.bump();
    }
    Ok(())
}
