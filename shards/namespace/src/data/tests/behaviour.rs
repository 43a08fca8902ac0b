//! Single behaviours, each named after itself.

use super::history::{Run, short, size};
use super::rules;
use super::world::{RANGE, World, checksums};
use crate::data::extent::Extent;
use crate::data::keys;
use crate::data::record::{BackRef, ChunkRecord, RangeRecord, Summary};
use crate::data::{self, ChunkSlice, DataCommand, Found, Move, NewChunk, Source, WriteAt, WriteData};
use crate::{Command, CommandBody};
use cfs_types::{ChunkId, FsError, InodeId, LogIndex, RangeIndex, RequestNumber, SessionId, ShardId};
use cfs_wire::{FallocateMode, Reply};

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
    assert_eq!(data::log_ref_from(run.world.view(home), LogIndex::new(0)), Ok(None));
    assert_eq!(rules::extents(run.world.view(home)).len(), 1, "the moved extents are joined");
    assert_eq!(run.world.inode(ino), before, "packing changes no file");
    let found = data::chunk_extents(run.world.view(home), first, None, 100).expect("in memory").0;
    let second = pack_all(&mut run, home, &found);
    assert_eq!(rules::chunk(run.world.view(home), first), None);
    assert_eq!(rules::chunk(run.world.view(home), second).map(|c| c.live), Some(1000));
    assert_eq!(run.world.chunks.len(), 1);
    run.compare(2);
}

fn pack_all(run: &mut Run, shard: ShardId, found: &[Found]) -> ChunkId {
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

fn sliced(id: ChunkId, len: u32) -> WriteData {
    WriteData::Chunks(vec![ChunkSlice { id, chunk_len: len, offset: 0, len }])
}

#[test]
fn chunks_that_were_not_granted_or_are_named_already_are_refused() {
    let mut run = Run::new(4, 1);
    let (ino, home) = (run.files[0].0, run.files[0].0.shard());
    let at = WriteAt::Offset(0);
    let write = |data| DataCommand::Write { ino, at, data, kill_privileges: false };
    let never = ChunkId::new(99, home).expect("valid");
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
fn a_retried_append_appends_once_and_its_outcome_shows_that_it_wrote_nothing() {
    let mut run = Run::new(13, 1);
    let (ino, home) = (run.files[0].0, run.files[0].0.shard());
    let append = |area: u32| {
        let data = WriteData::Inline { data_offset: area, len: 1, checksums: checksums(&[9]) };
        let body = DataCommand::Write { ino, at: WriteAt::Append, data, kill_privileges: false };
        Command {
            session: SessionId::new(5),
            number: RequestNumber::new(1),
            ..Command::internal(CommandBody::Data(body))
        }
    };
    let mut memory = run.world.view(home).clone();
    let ctx = World::context(home, LogIndex::new(50));
    let first = crate::execute(&memory, &ctx, &append(0)).expect("in memory");
    memory.apply(first.writes);
    let ctx = World::context(home, LogIndex::new(51));
    let again = crate::execute(&memory, &ctx, &append(7)).expect("in memory");
    assert_eq!(again.result, first.result);
    assert!(again.writes.is_empty() && again.effects.is_empty());
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
    for (offset, len) in [(max - 1, 2), (max, 1), (u64::MAX, 9), (3, u64::MAX)] {
        let mode = FallocateMode::Allocate;
        let (keep_size, kill_privileges) = (false, false);
        let asked = DataCommand::Fallocate { ino, offset, len, mode, keep_size, kill_privileges };
        assert_eq!(run.world.command(home, vec![], asked), Err(FsError::FileTooLarge));
    }
    let view = run.world.view(home);
    assert_eq!(data::plan_read(view, World::layout(), ino, u64::MAX, u64::MAX), Ok(vec![]));
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
    let ctx = World::context(ino.shard(), LogIndex::new(1000));
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

/// Decodes as everything; what is accepted encodes to the same bytes.
fn decode_all(end: u64, bytes: &[u8]) {
    let kept = [
        Extent::decode(end, bytes).map(|record| record.encode()),
        ChunkRecord::decode(bytes).map(|record| record.encode()),
        BackRef::decode(bytes).map(|record| record.encode()),
        RangeRecord::decode(bytes).map(|record| record.encode()),
        Summary::decode(bytes).map(|record| record.encode()),
    ];
    kept.iter().flatten().for_each(|again| assert_eq!(&**again, bytes));
    if let Some(extent) = Extent::decode(end, bytes) {
        let half = extent.start + u64::from(extent.len) / 2;
        let parts = [extent.clipped(0, half), extent.clipped(half, u64::MAX)];
        let sum: u32 = parts.iter().flatten().map(|part| part.len).sum();
        assert_eq!(sum, extent.len);
    }
    let _ = (keys::back_ref_source(bytes), keys::trimming_range(bytes));
    let _ = (keys::extent_end(bytes), keys::summary_range(bytes), keys::chunk_id(bytes));
}

#[test]
fn records_with_any_byte_changed_are_refused_or_mean_what_they_say() {
    let mut run = Run::new(12, 1);
    run.inline(0, WriteAt::Offset(5), &[1; 9000]);
    run.inline(0, WriteAt::Offset(RANGE - 7), &[1; 5000]);
    run.chunked(0, WriteAt::Offset(100), &[1; 50]);
    run.fallocate(0, FallocateMode::Allocate, (0, 5), false);
    run.settle();
    let rows = run.world.shards.values().flat_map(|memory| memory.rows());
    let rows: Vec<_> = rows.filter(|(key, _)| (0x20..0x30).contains(&key[0])).collect();
    assert!(rows.len() > 8);
    for (key, value) in rows {
        for position in 0..value.len() {
            for byte in 0..=u8::MAX {
                let mut changed = value.to_vec();
                changed[position] = byte;
                decode_all(20_000, &changed);
            }
        }
        (0..key.len()).for_each(|cut| decode_all(9, &key[..cut]));
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes: Vec<u8>, end: u64, kind in 0_u8..4) {
        let mut shaped = bytes.clone();
        shaped.iter_mut().zip([1, kind, 0, 0]).for_each(|(byte, value)| *byte = value);
        decode_all(end, &bytes);
        decode_all(end, &shaped);
    }
}
