//! Reading: the server's bytes, or those read ahead, under what is held back.

use crate::core::Core;
use crate::data_cache::{BLOCK_BYTES, BlockKey, Cached};
use crate::files::Handle;
use crate::link::Origin;
use crate::parts::Parts;
use crate::volume::Volume;
use crate::wait::Backoff;
use cfs_seam::{Class, Instant, IoBuf, gather, timeout};
use cfs_types::{CHUNK_BYTES_MAX, FILE_BYTES_MAX, FsError, InodeId, RANGE_BYTES, RangeIndex};
use cfs_wire::{Identity, Op, Reply, SeekWhence};
use std::rc::Rc;
use std::time::Duration;

/// Longest single read, bytes.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Longest read asked of a server at once, bytes.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// Reads in a row that make a reader sequential.
const SEQUENTIAL_RUN: u32 = 2;
/// Tries to read at an epoch that the file has left again by the time the request arrives.
const EPOCHS_MAX: u32 = 64;

const _: () = assert!(PIECE_BYTES_MAX <= CHUNK_BYTES_MAX as u64 && RANGE_BYTES.is_multiple_of(BLOCK_BYTES));

/// Tries to read what is to stay in the kernel's pages under a lease. While others change the file nobody is
/// given one; who changes it all the time, or a server that has no room for leases, must not stop the reader.
const LEASED_TRIES_MAX: u32 = 9;
/// The second try follows at once, the third after this time, each other after twice the time before.
const LEASED_PAUSE: Duration = Duration::from_micros(500);
/// Where all of them were in vain, other reads do not try for so long.
const UNLEASED_FOR: Duration = Duration::from_secs(1);

/// Bytes, and the era of the lease that speaks for all of them.
type Found = (Parts, Option<u64>);

/// A part of a read.
enum Piece {
    Ask { offset: u64, bytes: u64 },
    Await { key: BlockKey, offset: u64, bytes: u64 },
}

impl Core {
    /// Reads what the kernel fills pages with: under a lease, so that it hears when they are old.
    async fn read_pages(self: &Rc<Self>, ino: InodeId, offset: u64, bytes: u64) -> Result<Parts, FsError> {
        let (begun, mut pause) = (self.inodes.tick(), LEASED_PAUSE);
        let range = u32::try_from(offset / RANGE_BYTES).map_err(|_| FsError::FileTooLarge)?;
        let elsewhere = RangeIndex::new(range).shard(ino) != ino.shard();
        let mut attempt = 1;
        loop {
            if elsewhere && self.inodes.data_era(ino, self.now()).is_none() {
                // What the shard of a range answers brings no lease.
                self.attr(ino).await?;
            }
            let (read, era) = self.read_at(ino, offset, bytes).await?;
            if self.covers_pages(ino, era, begun, (offset, bytes)) {
                return Ok(read);
            }
            while self.inodes.is_ending(ino) {
                self.check()?;
                self.inodes.changed.changed().await;
            }
            let in_vain = attempt == LEASED_TRIES_MAX;
            if in_vain {
                self.unleased_until.set(self.now().after(UNLEASED_FOR));
            }
            if in_vain || self.now() < self.unleased_until.get() {
                self.keep_pages_out(ino);
                return Ok(read);
            }
            if attempt > 1 {
                self.await_lease(ino, self.now().after(pause)).await;
                pause *= 2;
            }
            attempt += 1;
        }
    }

    /// Until `end`, or until another operation has brought a lease: pages that wait here for a lease make whoever
    /// revokes that one wait.
    async fn await_lease(&self, ino: InodeId, end: Instant) {
        while self.inodes.data_era(ino, self.now()).is_none() {
            let changed = self.inodes.changed.changed();
            if timeout(&self.world.clock, end, changed).await.is_none() {
                break;
            }
        }
    }

    async fn read_at(self: &Rc<Self>, ino: InodeId, offset: u64, bytes: u64) -> Result<Found, FsError> {
        let held = self.inodes.find(ino, |inode| {
            if inode.dirty.is_empty() {
                return (None, Vec::new(), false);
            }
            let mut out = IoBuf::zeroed(index(bytes));
            if inode.dirty.overlay(offset, &mut out) {
                return (Some((out.into(), Some(inode.era))), Vec::new(), true);
            }
            (None, inode.dirty.snapshot(offset, bytes), true)
        });
        let (whole, snapshot, dirty) = held.unwrap_or_default();
        if let Some(whole) = whole {
            return Ok(whole);
        }
        let size = self.size_for_read(ino, offset, bytes, dirty).await?;
        let bytes = size.map_or(bytes, |(size, _)| bytes.min(size.saturating_sub(offset)));
        let pieces = self.plan(ino, offset, bytes);
        let fetched = gather(pieces.iter().map(|piece| self.fetch(ino, piece)), usize::MAX).await;
        let mut out = Parts::default();
        let mut eras: Vec<Option<u64>> = size.iter().map(|(_, era)| *era).collect();
        for (piece, base) in pieces.iter().zip(fetched) {
            let (base, era) = base?;
            eras.push(era);
            let (Piece::Ask { offset: at, .. } | Piece::Await { offset: at, .. }) = piece;
            // The one before may have been shorter than the file is.
            out.extend_to(index(at - offset));
            out.append(base);
        }
        if size.is_some() {
            out.extend_to(index(bytes));
        }
        let era = eras.first().copied().flatten().filter(|era| eras.iter().all(|other| *other == Some(*era)));
        Ok((self.under_held(ino, offset, out, &snapshot), era))
    }

    /// Lays over what was read what is held back: what was when the read began, and what a writer has brought
    /// meanwhile.
    fn under_held(&self, ino: InodeId, offset: u64, read: Parts, before: &[(u64, Rc<Vec<u8>>)]) -> Parts {
        let bytes = u64::try_from(read.len()).expect("64-bit");
        let now = self.inodes.find(ino, |inode| !inode.dirty.snapshot(offset, bytes).is_empty()) == Some(true);
        if before.is_empty() && !now {
            return read;
        }
        let mut out = read.into_buf();
        for (start, held) in before {
            crate::dirty::lay(*start, held, offset, &mut out);
        }
        self.inodes.find(ino, |inode| inode.dirty.overlay(offset, &mut out));
        out.into()
    }

    /// The size that ends a read, and the era that it is of. None where the inode's own shard, which knows
    /// it, is the only one asked.
    async fn size_for_read(
        self: &Rc<Self>,
        ino: InodeId,
        offset: u64,
        bytes: u64,
        dirty: bool,
    ) -> Result<Option<(u64, Option<u64>)>, FsError> {
        let now = self.now();
        let cached = self.inodes.find(ino, |inode| inode.cached_attr(now).map(|(attr, _)| (attr.size, inode.era)));
        match cached.flatten() {
            Some((size, era)) => Ok(Some((size, Some(era)))),
            // A block read ahead may be shorter than the file is by now.
            None if !dirty && self.is_asked_at_once(ino, offset, bytes) => Ok(None),
            None => {
                let (attr, _) = self.attr(ino).await?;
                let now = self.now();
                let kept = self.inodes.find(ino, |inode| inode.cached_attr(now).map(|_| inode.era));
                Ok(Some((attr.size, kept.flatten())))
            }
        }
    }

    /// Whether one answer of the inode's own shard gives all of it.
    fn is_asked_at_once(&self, ino: InodeId, offset: u64, bytes: u64) -> bool {
        offset + bytes <= RANGE_BYTES && matches!(self.plan(ino, offset, bytes)[..], [Piece::Ask { .. }])
    }

    fn plan(&self, ino: InodeId, offset: u64, bytes: u64) -> Vec<Piece> {
        let era = self.inodes.data_era(ino, self.now());
        let (mut pieces, mut at, end) = (Vec::new(), offset, offset + bytes);
        while at < end {
            let block = at / BLOCK_BYTES;
            let stop = ((block + 1) * BLOCK_BYTES).min(end);
            let key = era.map(|era| (ino, era, block));
            match key.filter(|key| !matches!(self.data.look(*key), Cached::Missing)) {
                Some(key) => pieces.push(Piece::Await { key, offset: at, bytes: stop - at }),
                None => match pieces.last_mut() {
                    Some(Piece::Ask { offset, bytes })
                        if *offset + *bytes == at
                            && stop - *offset <= PIECE_BYTES_MAX
                            && !at.is_multiple_of(RANGE_BYTES) =>
                    {
                        *bytes += stop - at;
                    }
                    _ => pieces.push(Piece::Ask { offset: at, bytes: stop - at }),
                },
            }
            at = stop;
        }
        pieces
    }

    async fn fetch(self: &Rc<Self>, ino: InodeId, piece: &Piece) -> Result<Found, FsError> {
        let (key, offset, bytes) = match *piece {
            Piece::Ask { offset, bytes } => return self.ask_under(ino, offset, bytes).await,
            Piece::Await { key, offset, bytes } => (key, offset, bytes),
        };
        loop {
            self.check()?;
            match self.data.look(key) {
                Cached::Loading => self.data.changed.changed().await,
                Cached::Missing => return self.ask_under(ino, offset, bytes).await,
                Cached::Ready(block) => {
                    let (from, (_, era, _)) = (index(offset % BLOCK_BYTES), key);
                    let mut part = Parts::default();
                    part.push(block, from..from + index(bytes));
                    return Ok((part, Some(era)));
                }
            }
        }
    }

    async fn ask_under(self: &Rc<Self>, ino: InodeId, offset: u64, bytes: u64) -> Result<Found, FsError> {
        let (read, origin) = self.ask(ino, offset, bytes).await?;
        Ok((read.into(), origin.and_then(|origin| self.inodes.era_behind(ino, &origin))))
    }

    /// Asks the server for bytes within one range.
    async fn ask(self: &Rc<Self>, ino: InodeId, offset: u64, bytes: u64) -> Result<(IoBuf, Option<Origin>), FsError> {
        let range = u32::try_from(offset / RANGE_BYTES).map_err(|_| FsError::FileTooLarge)?;
        if bytes == 0 {
            return Ok((IoBuf::zeroed(0), None));
        }
        let len = u32::try_from(bytes).map_err(|_| FsError::TooLarge)?;
        let shard = RangeIndex::new(range).shard(ino);
        let mut backoff = Backoff::new();
        let mut learned = None;
        for _ in 0..EPOCHS_MAX {
            let known = self.inodes.find(ino, |inode| inode.position).flatten();
            let (epoch, sequence) = known.max(learned).unwrap_or_default();
            let op = Op::Read { ino, offset, len, epoch, sequence };
            let answer = match self.call(shard, &Identity::default(), &op, None).await {
                Err(failure) if failure.error == FsError::Conflict => {
                    self.inodes.changed_attr(ino);
                    let (attr, _) = self.attr(ino).await?;
                    learned = Some((attr.epoch, attr.sequence));
                    backoff.wait(&self.world).await;
                    continue;
                }
                answer => answer?,
            };
            let payload = answer.payload.unwrap_or_else(|| IoBuf::zeroed(0));
            let right = answer.reply == Reply::Data { len: u32::try_from(payload.len()).unwrap_or(u32::MAX) };
            if !right || payload.len() > index(bytes) {
                return Err(FsError::Malformed);
            }
            return Ok((payload, Some(answer.origin)));
        }
        Err(FsError::Busy)
    }

    /// Fetches the blocks behind `end` that are not there yet.
    fn read_ahead(self: &Rc<Self>, ino: InodeId, end: u64) {
        let now = self.now();
        let attr = self.inodes.find(ino, |inode| inode.cached_attr(now)).flatten();
        let (Some(era), Some((attr, _))) = (self.inodes.data_era(ino, now), attr) else { return };
        let limit = (end + u64::try_from(self.options.read_ahead_bytes).expect("64-bit")).min(attr.size);
        for block in end.div_ceil(BLOCK_BYTES)..limit.div_ceil(BLOCK_BYTES) {
            let key = (ino, era, block);
            if self.data.begin(key) {
                let volume = self.clone();
                let bytes = BLOCK_BYTES.min(attr.size - block * BLOCK_BYTES);
                self.spawn(Class::Foreground, async move {
                    let block = volume.ask(ino, block * BLOCK_BYTES, bytes).await;
                    let kept = block.ok().and_then(|(bytes, origin)| {
                        let keep = volume.inodes.may_keep_data(ino, era, origin?.sent.tick, volume.now());
                        keep.then_some(bytes)
                    });
                    volume.data.end(key, kept);
                });
            }
        }
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("bounded by the longest read")
}

impl Volume {
    /// Reads up to `len` bytes, fewer only at the end of the file; at most 4 MiB.
    pub async fn read(&self, handle: Handle, offset: u64, len: u32) -> Result<IoBuf, FsError> {
        self.read_parts(handle, offset, len).await.map(Parts::into_buf)
    }

    /// The same, uncopied.
    pub async fn read_parts(&self, handle: Handle, offset: u64, len: u32) -> Result<Parts, FsError> {
        let core = &self.core;
        let file = core.files.get(handle)?;
        let bytes = u64::from(len).min(READ_BYTES_MAX).min(FILE_BYTES_MAX.saturating_sub(offset));
        if bytes == 0 {
            return Ok(Parts::default());
        }
        let run = if file.read_next == offset { file.read_run + 1 } else { 0 };
        core.files.change(handle, |file| {
            file.read_next = offset + bytes;
            file.read_run = run.min(SEQUENTIAL_RUN);
        });
        if run >= SEQUENTIAL_RUN && !file.flags.direct {
            core.read_ahead(file.ino, offset + bytes);
        }
        if !file.flags.direct {
            return core.read_pages(file.ino, offset, bytes).await;
        }
        let begun = core.inodes.tick();
        let (read, era) = core.read_at(file.ino, offset, bytes).await?;
        // A descriptor can be made a plain one later, and is a direct one here still.
        core.keep_uncovered_pages_out(file.ino, era, begun, (offset, bytes));
        Ok(read)
    }

    /// SEEK_DATA and SEEK_HOLE.
    pub async fn seek(&self, handle: Handle, offset: u64, whence: SeekWhence) -> Result<u64, FsError> {
        let core = &self.core;
        let ino = core.files.get(handle)?.ino;
        core.write_back(ino).await;
        let op = Op::Seek { ino, offset, whence };
        match core.call(ino.shard(), &Identity::default(), &op, None).await?.reply {
            Reply::Offset(offset) => Ok(offset),
            _ => Err(FsError::Malformed),
        }
    }
}
