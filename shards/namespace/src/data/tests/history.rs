//! Random histories, and single behaviours.

use super::rules;
use super::world::{RANGE, World, checksums};
use crate::data::{
    self, ChunkSlice, DataCommand, Found, Move, NewChunk, Place, Source, WriteAt, WriteData,
};
use cfs_types::{FsError, InodeId, RangeIndex, ShardId};
use cfs_wire::{FallocateMode, Reply, SeekWhence};

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

fn size(n: u64) -> usize {
    usize::try_from(n).expect("small")
}
fn short(n: usize) -> u32 {
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

struct Run {
    world: World,
    rng: Rng,
    files: Vec<(InodeId, Vec<u8>)>,
    copied: Vec<Copied>,
}

impl Run {
    fn new(seed: u64, files: u64) -> Self {
        let mut world = World::default();
        let inodes = (1..=files).map(|n| {
            let shard = ShardId::new(n.to_le_bytes()[0] % 2 + 7);
            InodeId::new(n, shard).expect("valid")
        });
        let files: Vec<_> = inodes.map(|ino| (ino, Vec::new())).collect();
        files.iter().for_each(|(ino, _)| world.make_file(*ino));
        Run { world, rng: Rng(seed), files, copied: Vec::new() }
    }

    fn inline(&mut self, nth: usize, at: WriteAt, bytes: &[u8]) {
        let ino = self.files[nth].0;
        let skip = size(self.rng.below(100));
        let area = [&vec![0xEE; skip][..], bytes].concat();
        let (data_offset, len) = (short(skip), short(bytes.len()));
        let data = WriteData::Inline { data_offset, len, checksums: checksums(bytes) };
        let write = DataCommand::Write { ino, at, data, kill_privileges: false };
        let reply = self.world.command(ino.shard(), area, write).expect("a write");
        self.wrote(nth, at, bytes, &reply);
    }

    fn chunked(&mut self, nth: usize, at: WriteAt, bytes: &[u8]) {
        let (ino, model) = &self.files[nth];
        let (ino, len) = (*ino, long(model.len()));
        let start = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::Append => len,
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
        let model = &mut self.files[nth].1;
        let start = match at {
            WriteAt::Offset(offset) => size(offset),
            WriteAt::Append => model.len(),
        };
        let Reply::Written { offset, attr, .. } = reply else { panic!("{reply:?}") };
        if !bytes.is_empty() {
            model.resize(model.len().max(start + bytes.len()), 0);
            model[start..start + bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!((*offset, attr.size), (long(start), long(model.len())));
    }

    fn truncate(&mut self, nth: usize, to: u64) {
        let (ino, model) = &mut self.files[nth];
        model.resize(size(to), 0);
        self.world.truncate(*ino, to).expect("a truncation");
    }

    fn fallocate(&mut self, nth: usize, mode: FallocateMode, (offset, len): (u64, u64), keep: bool) {
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
        let (mut at, mut left) = (offset, len);
        while left > 0 {
            let len = data::fallocate_slice(World::layout(), at, left);
            let asked = DataCommand::Fallocate {
                ino,
                offset: at,
                len,
                mode,
                keep_size: keep,
                kill_privileges: false,
            };
            self.world.command(ino.shard(), vec![], asked).expect("fallocate");
            (at, left) = (at + len, left - len);
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
        match self.rng.below(16) {
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
            _ => {
                let pairs = self.world.pairs();
                if !pairs.is_empty() {
                    let (from, to) = pairs[size(self.rng.below(long(pairs.len())))];
                    self.world.deliver(from, to);
                }
            }
        }
    }

    fn check(&mut self) {
        let files: Vec<InodeId> = self.files.iter().map(|(ino, _)| *ino).collect();
        let waiting: Vec<_> = self.copied.iter().flat_map(|c| c.chunks.iter()).copied().collect();
        let aside: Vec<_> =
            waiting.iter().map(|c| (c.id, self.world.chunks.remove(&c.id).expect("kept"))).collect();
        rules::check(&mut self.world, &files);
        self.world.chunks.extend(aside);
    }

    fn compare(&mut self, seed: u64) {
        for (ino, model) in &self.files {
            let got = self.world.read(*ino);
            let differs = got.iter().zip(model).position(|(a, b)| a != b);
            assert_eq!((got.len(), differs), (model.len(), None), "seed {seed}, {ino:?}");
            check_seek(&mut self.world, *ino, model);
        }
    }

    fn settle(&mut self) {
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
    let mut freed = 0;
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
    }
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

#[test]
fn what_a_truncation_cut_off_stays_zero_while_trimming_is_unfinished() {
    let mut run = Run::new(1, 1);
    for n in 0..40 {
        run.inline(0, WriteAt::Offset(n * 10), &[7; 5]);
    }
    run.truncate(0, 12);
    assert!(run.world.inode(run.files[0].0).trim_from.is_some(), "more is left than one step takes");
    run.truncate(0, 500);
    run.compare(1);
    run.inline(0, WriteAt::Offset(450), &[9; 3]);
    run.compare(1);
    run.settle();
    run.check();
    run.compare(1);
}

#[test]
fn a_second_cut_below_an_unfinished_one_hides_both_tails() {
    let mut run = Run::new(1, 1);
    for n in 0..40 {
        run.inline(0, WriteAt::Offset(n * 10), &[7; 5]);
    }
    run.truncate(0, 305);
    assert_eq!(run.world.inode(run.files[0].0).trim_from, Some(305));
    run.truncate(0, 100);
    run.truncate(0, 400);
    run.compare(1);
    run.truncate(0, 350);
    run.settle();
    run.truncate(0, 400);
    run.compare(1);
    run.check();
}

#[test]
fn space_allocated_beyond_an_unfinished_cut_is_kept() {
    for mode in [FallocateMode::Allocate, FallocateMode::ZeroRange] {
        let mut run = Run::new(1, 1);
        for n in 0..40 {
            run.inline(0, WriteAt::Offset(n * 10), &[7; 10]);
        }
        run.truncate(0, 100);
        assert_eq!(run.world.inode(run.files[0].0).trim_from, Some(100));
        run.fallocate(0, mode, (50, 350), false);
        run.settle();
        assert_eq!(run.world.inode(run.files[0].0).allocated, 400);
        run.compare(1);
        run.check();
    }
}

#[test]
fn a_truncation_to_the_present_size_frees_what_was_allocated_beyond_it() {
    let mut run = Run::new(1, 1);
    run.inline(0, WriteAt::Offset(0), &[7; 10]);
    run.fallocate(0, FallocateMode::Allocate, (0, 2 * RANGE), true);
    run.truncate(0, 10);
    run.settle();
    let inode = run.world.inode(run.files[0].0);
    assert_eq!((inode.size, inode.allocated, inode.epoch), (10, 10, 0));
    run.check();
}

#[test]
fn a_single_byte_at_the_start_of_a_range_is_cut_off() {
    let mut run = Run::new(1, 1);
    run.inline(0, WriteAt::Offset(RANGE), &[7]);
    run.truncate(0, RANGE);
    run.truncate(0, RANGE + 10);
    run.compare(1);
}

#[test]
fn extents_are_not_joined_across_ranges_that_one_shard_holds() {
    let mut run = Run::new(1, 0);
    let inodes = (1..).filter_map(|n| InodeId::new(n, ShardId::new(7)));
    let mut both = inodes.filter(|i| data::range_shard(*i, RangeIndex::new(1)) == i.shard());
    let ino = both.next().expect("one in 256");
    run.world.make_file(ino);
    run.files.push((ino, Vec::new()));
    run.fallocate(0, FallocateMode::Allocate, (0, 2 * RANGE), false);
    run.settle();
    run.check();
    assert_eq!(rules::extents(run.world.view(ino.shard())).len(), 2);
    run.compare(1);
}

#[test]
fn small_writes_move_from_log_to_chunk_to_chunk_and_the_log_is_free() {
    let mut run = Run::new(2, 1);
    let (ino, home) = (run.files[0].0, run.files[0].0.shard());
    for n in 0..10 {
        run.inline(0, WriteAt::Offset(n * 100), &[n.to_le_bytes()[0] + 1; 100]);
    }
    let before = run.world.inode(ino);
    let found = data::log_extents(run.world.view(home), None, 100).expect("in memory").0;
    let first = pack_all(&mut run, home, &found);
    assert_eq!(data::oldest_log_ref(run.world.view(home)), Ok(None));
    assert_eq!(rules::extents(run.world.view(home)).len(), 1, "the moved extents are joined");
    assert_eq!(run.world.inode(ino), before, "packing changes no file");
    let found = data::chunk_extents(run.world.view(home), first, None, 100).expect("in memory").0;
    let second = pack_all(&mut run, home, &found);
    assert_eq!(rules::chunk(run.world.view(home), first), None);
    assert_eq!(rules::chunk(run.world.view(home), second).map(|c| c.live), Some(1000));
    assert_eq!(run.world.chunks.len(), 1);
    run.compare(2);
}

fn pack_all(run: &mut Run, shard: ShardId, found: &[Found]) -> cfs_types::ChunkId {
    let mut bytes = Vec::new();
    let mut moves = Vec::new();
    for Found { ino, extent, source } in found {
        let chunk_offset = short(bytes.len());
        let (from, to) = (size(extent.start), size(extent.end()));
        bytes.extend_from_slice(&run.files[0].1[from..to]);
        let (ino, offset, len) = (*ino, extent.start, extent.len);
        moves.push(Move { ino, offset, len, from: *source, chunk: 0, chunk_offset });
    }
    let len = short(bytes.len());
    let id = run.world.write_chunk(shard, bytes);
    let pack = DataCommand::Pack { chunks: vec![NewChunk { id, len }], moves };
    let reply = run.world.command(shard, vec![], pack).expect("a pack");
    assert_eq!(reply, Reply::Offset(u64::from(len)));
    id
}

#[test]
fn a_pack_of_bytes_that_were_overwritten_meanwhile_replaces_nothing_and_frees_its_chunk() {
    let mut run = Run::new(3, 1);
    let home = run.files[0].0.shard();
    run.inline(0, WriteAt::Offset(0), &[1; 50]);
    let found = data::log_extents(run.world.view(home), None, 100).expect("in memory").0;
    run.inline(0, WriteAt::Offset(0), &[2; 50]);
    let [Found { ino, ref extent, source }] = found[..] else { panic!("one extent") };
    let id = run.world.write_chunk(home, vec![1; 50]);
    let (offset, len) = (extent.start, extent.len);
    let moves = vec![Move { ino, offset, len, from: source, chunk: 0, chunk_offset: 0 }];
    let pack = DataCommand::Pack { chunks: vec![NewChunk { id, len: 50 }], moves };
    assert_eq!(run.world.command(home, vec![], pack.clone()), Ok(Reply::Offset(0)));
    assert!(run.world.chunks.is_empty());
    run.compare(3);
}

fn sliced(id: cfs_types::ChunkId, len: u32) -> WriteData {
    WriteData::Chunks(vec![ChunkSlice { id, chunk_len: len, offset: 0, len }])
}

#[test]
fn chunks_that_were_not_granted_or_are_named_already_are_refused() {
    let mut run = Run::new(4, 1);
    let (ino, home) = (run.files[0].0, run.files[0].0.shard());
    let at = WriteAt::Offset(0);
    let write = |data| DataCommand::Write { ino, at, data, kill_privileges: false };
    let never = cfs_types::ChunkId::new(99, home).expect("valid");
    let refused = run.world.command(home, vec![], write(sliced(never, 5)));
    assert_eq!(refused, Err(FsError::Invalid));
    let id = run.world.write_chunk(home, vec![1; 5]);
    assert!(run.world.command(home, vec![], write(sliced(id, 5))).is_ok());
    assert_eq!(run.world.command(home, vec![], write(sliced(id, 5))), Err(FsError::Invalid));
}

#[test]
fn an_append_whose_chunk_was_written_for_another_range_is_a_conflict_and_changes_nothing() {
    let mut run = Run::new(5, 1);
    let (ino, home) = (run.files[0].0, run.files[0].0.shard());
    let id = run.world.write_chunk(home, vec![1; 20]);
    run.truncate(0, RANGE - 10);
    let before = run.world.shards.clone();
    let data = sliced(id, 20);
    let write = DataCommand::Write { ino, at: WriteAt::Append, data, kill_privileges: false };
    assert_eq!(run.world.command(home, vec![], write), Err(FsError::Conflict));
    assert_eq!(run.world.shards, before);
}

#[test]
fn writes_beyond_the_longest_file_and_to_other_kinds_are_refused() {
    let mut run = Run::new(6, 1);
    let (ino, home) = (run.files[0].0, run.files[0].0.shard());
    let max = World::layout().file_bytes_max();
    let data = WriteData::Inline { data_offset: 0, len: 2, checksums: vec![0] };
    for offset in [max - 1, u64::MAX] {
        let at = WriteAt::Offset(offset);
        let write = DataCommand::Write { ino, at, data: data.clone(), kill_privileges: false };
        assert_eq!(run.world.command(home, vec![], write), Err(FsError::FileTooLarge));
    }
    assert_eq!(run.world.truncate(ino, max + 1), Err(FsError::FileTooLarge));
    let bad = WriteData::Inline { data_offset: 0, len: 2, checksums: vec![] };
    let at = WriteAt::Offset(0);
    let write = DataCommand::Write { ino, at, data: bad, kill_privileges: false };
    assert_eq!(run.world.command(home, vec![], write), Err(FsError::Invalid));
}

#[test]
fn a_file_that_is_being_freed_takes_no_data() {
    let mut run = Run::new(11, 1);
    let ino = run.files[0].0;
    for n in 0..20 {
        run.inline(0, WriteAt::Offset(n * 10), &[7; 5]);
    }
    let unlink = |state: &mut crate::state::State<'_>| {
        let inode = state.inode(ino)?;
        let now = state.ctx.now;
        crate::reap::drop_link(state, ino, inode, now, &[])
    };
    let mut memory = run.world.view(ino.shard()).clone();
    let ctx = World::context(ino.shard(), cfs_types::LogIndex::new(1000));
    let mut state = crate::state::State::new(&memory, &ctx);
    unlink(&mut state).expect("in memory");
    memory.apply(state.finish().0);
    *run.world.shards.get_mut(&ino.shard()).expect("exists") = memory;
    let data = WriteData::Inline { data_offset: 0, len: 1, checksums: checksums(&[1]) };
    let at = WriteAt::Offset(0);
    let write = DataCommand::Write { ino, at, data, kill_privileges: false };
    assert_eq!(run.world.command(ino.shard(), vec![1], write), Err(FsError::Stale));
    run.settle();
    let proceed = |state: &mut crate::state::State<'_>| crate::reap::proceed(state, ino);
    while crate::state::find_inode(run.world.view(ino.shard()), ino) != Ok(None) {
        run.world.run(ino.shard(), vec![], proceed).expect("never fails");
    }
    rules::check_empty(&run.world);
}

#[test]
fn a_write_clears_the_set_id_bits_where_asked_and_moves_the_times() {
    let mut run = Run::new(7, 1);
    let (ino, home) = (run.files[0].0, run.files[0].0.shard());
    let before = run.world.inode(ino);
    let data = WriteData::Inline { data_offset: 0, len: 1, checksums: checksums(&[1]) };
    let at = WriteAt::Append;
    let write = DataCommand::Write { ino, at, data, kill_privileges: true };
    run.world.command(home, vec![1], write).expect("a write");
    let after = run.world.inode(ino);
    assert_eq!((before.mode, after.mode), (0o6755, 0o755));
    assert!(after.mtime > before.mtime && after.change > before.change);
}

#[test]
fn a_read_with_attributes_from_before_a_truncation_is_stale() {
    let mut run = Run::new(8, 1);
    let ino = run.files[0].0;
    run.inline(0, WriteAt::Offset(RANGE + 5), &[1; 50]);
    let old = run.world.inode(ino);
    let range = RangeIndex::new(1);
    let shard = data::range_shard(ino, range);
    let ask = |run: &mut Run, epoch, sequence| {
        data::admit(run.world.view(shard), ino, range, epoch, sequence).expect("in memory")
    };
    let behind = data::Admission::Behind { sequence: 0 };
    assert_eq!(ask(&mut run, old.epoch, old.sequence), behind);
    run.settle();
    assert_eq!(ask(&mut run, old.epoch, old.sequence), data::Admission::Ready);
    run.truncate(0, RANGE + 10);
    run.settle();
    assert_eq!(ask(&mut run, old.epoch, old.sequence), data::Admission::Stale);
}

#[test]
fn a_file_written_without_holes_has_exactly_its_blocks() {
    let mut run = Run::new(9, 1);
    for _ in 0..30 {
        run.inline(0, WriteAt::Append, &[1; 1024]);
    }
    run.inline(0, WriteAt::Offset(12_000), &[2; 5000]);
    let inode = run.world.inode(run.files[0].0);
    assert_eq!((inode.allocated, inode.attr(run.files[0].0).blocks), (30 * 1024, 60));
    run.truncate(0, 0);
    run.settle();
    assert_eq!(run.world.inode(run.files[0].0).allocated, 0);
}

#[test]
fn a_move_that_would_read_or_write_outside_its_chunk_is_refused() {
    let mut run = Run::new(10, 1);
    let (ino, home) = (run.files[0].0, run.files[0].0.shard());
    run.inline(0, WriteAt::Offset(0), &[1; 50]);
    let found = data::log_extents(run.world.view(home), None, 100).expect("in memory").0;
    let id = run.world.write_chunk(home, vec![1; 50]);
    let good = Move { ino, offset: 0, len: 50, from: found[0].source, chunk: 0, chunk_offset: 0 };
    let into_itself = Source::Chunk { id, offset: 0 };
    let bad = [
        vec![Move { chunk_offset: 1, ..good }],
        vec![Move { chunk: 1, ..good }],
        vec![Move { len: 0, ..good }],
        vec![Move { offset: RANGE - 1, ..good }],
        vec![Move { offset: u64::MAX, ..good }],
        vec![Move { from: into_itself, ..good }],
        vec![good, Move { offset: 100, ..good }],
    ];
    for moves in bad {
        let pack = DataCommand::Pack { chunks: vec![NewChunk { id, len: 50 }], moves };
        assert_eq!(run.world.command(home, vec![], pack), Err(FsError::Invalid));
    }
}
