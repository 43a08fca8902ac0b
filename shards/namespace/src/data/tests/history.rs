//! Random histories.

use super::rules;
use super::world::{RANGE, World, checksums};
use crate::data::{self, Asked, ChunkSlice, DataCommand, Found, Move, NewChunk, Place, Route, WriteAt, WriteData};
use cfs_types::{FsError, InodeId, LogIndex, ShardId};
use cfs_wire::{FallocateMode, Reply, SeekWhence};
use std::collections::BTreeMap;

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0] | 1).collect()
    }
}

pub fn size(n: u64) -> usize {
    usize::try_from(n).expect("small")
}
pub fn short(n: usize) -> u32 {
    u32::try_from(n).expect("small")
}
fn long(n: usize) -> u64 {
    u64::try_from(n).expect("small")
}

/// Copied bytes that have yet to be packed.
struct Copied {
    shard: ShardId,
    chunks: Vec<NewChunk>,
    moves: Vec<Move>,
}

pub struct Run {
    pub world: World,
    rng: Rng,
    pub files: Vec<(InodeId, Vec<u8>)>,
    copied: Vec<Copied>,
    planned: Vec<Planned>,
    /// Changes of each file that commit at its inode.
    changes: BTreeMap<usize, u64>,
    /// Overwrites that were executed, and that were refused.
    overwritten: [u64; 2],
}

/// An overwrite on its way to its range.
struct Planned {
    nth: usize,
    offset: u64,
    bytes: Vec<u8>,
    known: (u64, u64),
    changes: u64,
}

impl Run {
    pub fn new(seed: u64, files: u64) -> Self {
        let mut world = World::default();
        let inodes = (1..=files).map(|n| {
            let shard = ShardId::new(n.to_le_bytes()[0] % 2 + 7);
            InodeId::new(n, shard).expect("valid")
        });
        let files: Vec<_> = inodes.map(|ino| (ino, Vec::new())).collect();
        files.iter().for_each(|(ino, _)| world.make_file(*ino));
        let (rng, changes, overwritten) = (Rng(seed), BTreeMap::new(), [0; 2]);
        Run { world, rng, files, copied: Vec::new(), planned: Vec::new(), changes, overwritten }
    }

    pub fn inline(&mut self, nth: usize, at: WriteAt, bytes: &[u8]) {
        let ino = self.files[nth].0;
        let skip = size(self.rng.below(100));
        let area = [&vec![0xEE; skip][..], bytes].concat();
        let (data_offset, len) = (short(skip), short(bytes.len()));
        let data = WriteData::Inline { data_offset, len, checksums: checksums(bytes) };
        let write = DataCommand::Write { ino, at, data, kill_privileges: false };
        let reply = self.world.command(ino.shard(), area, write).expect("a write");
        self.wrote(nth, at, bytes, &reply);
    }

    pub fn chunked(&mut self, nth: usize, at: WriteAt, bytes: &[u8]) {
        let (ino, model) = &self.files[nth];
        let (ino, len) = (*ino, long(model.len()));
        let start = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::Append => len,
            WriteAt::HeldBack { offset, .. } => offset,
        };
        let mut slices = Vec::new();
        for (range, from, to) in World::layout().cut(start, start + long(bytes.len())) {
            let part = &bytes[size(from - start)..size(to - start)];
            let skip = size(self.rng.below(50));
            let stored = [&vec![0xEE; skip][..], part, &[0xEE; 9]].concat();
            let (chunk_len, len) = (short(stored.len()), short(part.len()));
            let id = self.world.write_chunk(data::range_shard(ino, range), stored);
            slices.push(ChunkSlice { id, chunk_len, offset: short(skip), len });
        }
        let data = WriteData::Chunks(slices);
        let write = DataCommand::Write { ino, at, data, kill_privileges: false };
        let reply = self.world.command(ino.shard(), vec![], write).expect("a write");
        self.wrote(nth, at, bytes, &reply);
    }

    fn wrote(&mut self, nth: usize, at: WriteAt, bytes: &[u8], reply: &Reply) {
        *self.changes.entry(nth).or_default() += 1;
        let model = &mut self.files[nth].1;
        let start = match at {
            WriteAt::Offset(offset) => size(offset),
            WriteAt::Append => model.len(),
            WriteAt::HeldBack { offset, .. } => size(offset),
        };
        let Reply::Written { offset, attr, .. } = reply else { panic!("{reply:?}") };
        if !bytes.is_empty() {
            model.resize(model.len().max(start + bytes.len()), 0);
            model[start..start + bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!((*offset, attr.size), (long(start), long(model.len())));
    }

    pub fn truncate(&mut self, nth: usize, to: u64) {
        *self.changes.entry(nth).or_default() += 1;
        let (ino, model) = &mut self.files[nth];
        model.resize(size(to), 0);
        self.world.truncate(*ino, to).expect("a truncation");
    }

    pub fn fallocate(&mut self, nth: usize, mode: FallocateMode, (offset, len): (u64, u64), keep: bool) {
        *self.changes.entry(nth).or_default() += 1;
        let (ino, model) = &mut self.files[nth];
        let ino = *ino;
        let end = size(offset + len);
        if mode != FallocateMode::PunchHole && !keep {
            model.resize(model.len().max(end), 0);
        }
        if mode != FallocateMode::Allocate {
            let end = end.min(model.len());
            model[size(offset).min(end)..end].fill(0);
        }
        let asked = DataCommand::Fallocate { ino, offset, len, mode, keep_size: keep, kill_privileges: false };
        let mut begun = None;
        while let Reply::Offset(at) = self.world.step(ino.shard(), vec![], begun, asked.clone()).expect("fallocate") {
            assert!(begun.unwrap_or(offset) < at && at < offset + len, "it gets on");
            begun = Some(at);
        }
    }

    fn changes(&self, nth: usize) -> u64 {
        self.changes.get(&nth).copied().unwrap_or_default()
    }

    /// Asks the inode's shard about an overwrite; it comes to its range later.
    fn plan_overwrite(&mut self, nth: usize) {
        let (ino, len) = (self.files[nth].0, long(self.files[nth].1.len()));
        if len <= RANGE {
            return;
        }
        let offset = RANGE + self.rng.below(len - RANGE);
        let within = World::layout().end_of(World::layout().range_of(offset)).min(len);
        let bytes = self.rng.below((within - offset).min(300)) + 1;
        let bytes = self.rng.bytes(bytes);
        let span = data::Span { ino, offset, len: long(bytes.len()) };
        let (ctx, at) = (World::context(ino.shard(), LogIndex::new(0)), WriteAt::Offset(offset));
        let route = data::route(self.world.view(ino.shard()), &ctx, Asked::default(), at, (span, false));
        if let Route::Range { epoch, sequence } = route.expect("in memory") {
            let changes = self.changes(nth);
            self.planned.push(Planned { nth, offset, bytes, known: (epoch, sequence), changes });
        }
    }

    /// An overwrite comes to its range. If the file was changed since, it comes after all that.
    fn overwrite_one(&mut self) {
        let Some(Planned { nth, offset, bytes, known, changes }) = self.planned.pop() else { return };
        let ino = self.files[nth].0;
        let shard = data::range_shard(ino, World::layout().range_of(offset));
        while changes != self.changes(nth) && self.world.pairs().contains(&(ino.shard(), shard)) {
            self.world.deliver(ino.shard(), shard);
        }
        let (len, (epoch, sequence)) = (short(bytes.len()), known);
        let chunk = (self.rng.below(2) == 0).then(|| self.world.write_chunk(shard, bytes.clone()));
        let data = match chunk {
            Some(id) => WriteData::Chunks(vec![ChunkSlice { id, chunk_len: len, offset: 0, len }]),
            None => WriteData::Inline { data_offset: 0, len, checksums: checksums(&bytes) },
        };
        let overwrite = DataCommand::Overwrite { ino, offset, epoch, sequence, data };
        match self.world.command(shard, bytes.clone(), overwrite) {
            Ok(reply) => {
                assert_eq!(reply, Reply::Done);
                self.overwritten[0] += 1;
                self.files[nth].1[size(offset)..][..bytes.len()].copy_from_slice(&bytes);
                let modified = DataCommand::Modified { ino, at: WriteAt::Offset(offset), kill_privileges: false };
                self.world.command(ino.shard(), vec![], modified).expect("the file exists");
            }
            Err(error) => {
                assert_eq!(error, FsError::Conflict);
                self.overwritten[1] += 1;
                chunk.map(|id| self.world.chunks.remove(&id));
            }
        }
    }

    /// Copies some extents of a shard into a chunk; the pack comes later.
    fn copy(&mut self, shard: ShardId, found: Vec<Found>) {
        let mut bytes = vec![0xEE; size(self.rng.below(20))];
        let mut moves = Vec::new();
        for Found { ino, extent, source } in found {
            if self.rng.below(4) == 0 {
                continue;
            }
            let chunk_offset = short(bytes.len());
            match &extent.place {
                Place::Log(slice) => {
                    let from = size(u64::from(slice.data_offset + slice.skip));
                    let area = &self.world.log[&(shard, slice.index)];
                    bytes.extend_from_slice(&area[from..][..size(u64::from(extent.len))]);
                }
                Place::Chunk { id, offset } => {
                    let from = size(u64::from(*offset));
                    let chunk = &self.world.chunks[id];
                    bytes.extend_from_slice(&chunk[from..][..size(u64::from(extent.len))]);
                }
                Place::Unwritten => panic!("has no back reference"),
            }
            let (offset, len) = (extent.start, extent.len);
            moves.push(Move { ino, offset, len, from: source, chunk: 0, chunk_offset });
        }
        let len = short(bytes.len());
        let id = self.world.write_chunk(shard, bytes);
        self.copied.push(Copied { shard, chunks: vec![NewChunk { id, len }], moves });
    }

    fn copy_something(&mut self) {
        let shards: Vec<ShardId> = self.world.shards.keys().copied().collect();
        let shard = shards[size(self.rng.below(long(shards.len())))];
        let sparse = data::chunks(self.world.view(shard), None, 100).expect("in memory");
        let pick = self.rng.below(2) == 0 && !sparse.is_empty();
        let found = if pick {
            let (id, _) = sparse[size(self.rng.below(long(sparse.len())))];
            data::chunk_extents(self.world.view(shard), id, None, 5)
        } else {
            data::log_extents(self.world.view(shard), None, 5)
        };
        self.copy(shard, found.expect("in memory").0);
    }

    fn pack_one(&mut self) {
        if let Some(Copied { shard, chunks, moves }) = self.copied.pop() {
            let pack = DataCommand::Pack { chunks, moves };
            self.world.command(shard, vec![], pack).expect("a pack");
        }
    }

    fn step(&mut self) {
        let nth = size(self.rng.below(long(self.files.len())));
        let at = self.rng.below(6 * RANGE);
        let span = match self.rng.below(3) {
            0 => self.rng.below(20),
            1 => self.rng.below(5000),
            _ => self.rng.below(2 * RANGE),
        };
        let place = if self.rng.below(4) == 0 { WriteAt::Append } else { WriteAt::Offset(at) };
        let bytes = self.rng.bytes(span);
        let keep = at.is_multiple_of(2);
        match self.rng.below(20) {
            0..=3 => self.inline(nth, place, &bytes),
            4 | 5 => self.chunked(nth, place, &bytes),
            6 => self.truncate(nth, at),
            7 => self.truncate(nth, long(self.files[nth].1.len()) / 2),
            8 => self.fallocate(nth, FallocateMode::PunchHole, (at, span + 1), true),
            9 => self.fallocate(nth, FallocateMode::ZeroRange, (at, span + 1), keep),
            10 => self.fallocate(nth, FallocateMode::Allocate, (at, span + 1), keep),
            11 | 12 => self.copy_something(),
            13 => self.pack_one(),
            14 => drop(self.world.trim_one()),
            15 | 16 => self.plan_overwrite(nth),
            17 | 18 => self.overwrite_one(),
            _ => {
                let pairs = self.world.pairs();
                if !pairs.is_empty() {
                    let (from, to) = pairs[size(self.rng.below(long(pairs.len())))];
                    self.world.deliver(from, to);
                }
            }
        }
    }

    pub fn check(&mut self) {
        let files: Vec<InodeId> = self.files.iter().map(|(ino, _)| *ino).collect();
        let waiting: Vec<_> = self.copied.iter().flat_map(|c| c.chunks.iter()).copied().collect();
        let aside: Vec<_> = waiting.iter().map(|c| (c.id, self.world.chunks.remove(&c.id).expect("kept"))).collect();
        rules::check(&mut self.world, &files);
        self.world.chunks.extend(aside);
    }

    pub fn compare(&mut self, seed: u64) {
        for (ino, model) in &self.files {
            let got = self.world.read(*ino);
            let differs = got.iter().zip(model).position(|(a, b)| a != b);
            assert_eq!((got.len(), differs), (model.len(), None), "seed {seed}, {ino:?}");
            check_seek(&mut self.world, *ino, model);
        }
    }

    pub fn settle(&mut self) {
        self.world.deliver_all();
        while self.world.trim_one() {}
    }
}

/// SEEK_DATA never skips a byte that is not zero; SEEK_HOLE finds only zeros or the end.
fn check_seek(world: &mut World, ino: InodeId, model: &[u8]) {
    let view = world.view(ino.shard());
    let end = long(model.len());
    let mut at = 0;
    while at < end {
        let data = match data::seek(view, World::layout(), ino, at, SeekWhence::Data) {
            Ok(data) => data,
            Err(stop) => {
                assert_eq!(stop, crate::Stop::Fail(FsError::NoExtent));
                end
            }
        };
        assert!(data >= at && model[size(at)..size(data)].iter().all(|b| *b == 0));
        if data == end {
            break;
        }
        let hole = data::seek(view, World::layout(), ino, data, SeekWhence::Hole);
        at = hole.expect("a hole at the end at the latest");
        assert!(at > data && at <= end);
    }
    let beyond = data::seek(view, World::layout(), ino, end, SeekWhence::Hole);
    assert_eq!(beyond, Err(crate::Stop::Fail(FsError::NoExtent)));
}

#[test]
fn random_histories_read_back_like_plain_bytes_and_account_for_every_byte() {
    let (mut freed, mut overwritten, mut refused) = (0, 0, 0);
    for seed in 0..48 {
        let mut run = Run::new(seed, 3);
        for step in 0..120 {
            run.step();
            run.check();
            if step % 8 == 0 {
                run.compare(seed);
            }
        }
        run.settle();
        run.check();
        run.compare(seed);
        while !run.copied.is_empty() {
            run.pack_one();
        }
        run.compare(seed);
        for (ino, _) in std::mem::take(&mut run.files) {
            while !run.world.reap(ino) {
                run.check();
            }
        }
        run.settle();
        rules::check_empty(&run.world);
        freed += run.world.freed;
        overwritten += run.overwritten[0];
        refused += run.overwritten[1];
    }
    assert!(overwritten > 100 && refused > 50, "histories overwrite: {overwritten}, refused {refused}");
    assert!(freed > 1000, "histories free chunks: {freed}");
}

#[test]
fn the_same_history_twice_gives_the_same_states() {
    let states = |seed| {
        let mut run = Run::new(seed, 2);
        (0..200).for_each(|_| run.step());
        run.world.shards
    };
    assert_eq!(states(7), states(7));
    assert_ne!(states(7), states(8));
}
