//! What takes several commands, what is retried in the middle, and bytes that were held back.

use super::history::Run;
use super::world::{RANGE, World, checksums};
use crate::data::{DataCommand, RANGES_MAX, WriteAt, WriteData, range_shard};
use crate::{Answer, Command, CommandBody};
use cfs_types::{FsError, InodeId, LogIndex, Nanos, RangeIndex, RequestNumber, SessionId, ShardId};
use cfs_wire::{AttrChange, FallocateMode, HeldBack, Op, Reply, TimeChange};

pub const A: SessionId = SessionId::new(1);
pub const B: SessionId = SessionId::new(2);

/// Commits commands of sessions in the shard of one inode, as a server does.
pub struct Home {
    pub run: Run,
    pub ino: InodeId,
    index: u64,
}

impl Home {
    pub fn new() -> Self {
        let run = Run::new(21, 1);
        let ino = run.files[0].0;
        Home { run, ino, index: 100 }
    }

    pub fn commit(&mut self, session: SessionId, number: u64, body: CommandBody) -> Result<Reply, FsError> {
        self.commit_in(self.ino.shard(), vec![7], (session, number), body)
    }

    /// In any shard, with this data area.
    pub fn commit_in(
        &mut self,
        shard: ShardId,
        area: Vec<u8>,
        (session, number): (SessionId, u64),
        body: CommandBody,
    ) -> Result<Reply, FsError> {
        self.index += 1;
        let ctx = World::context(shard, LogIndex::new(self.index));
        self.run.world.log.insert((shard, ctx.index), area);
        let number = RequestNumber::new(number);
        let command = Command { session, number, oldest: RequestNumber::new(1), ..Command::internal(body) };
        let mut memory = self.run.world.view(shard).clone();
        let outcome = crate::execute(&memory, &ctx, &command).expect("in memory");
        memory.apply(outcome.writes);
        self.run.world.shards.insert(shard, memory);
        for effect in outcome.effects {
            if let crate::Effect::Sent { to, sequence } = effect {
                self.run.world.on_the_way.entry((shard, to)).or_default().push_back(sequence);
            }
        }
        match outcome.result {
            Ok(Answer::Wire(reply)) => Ok(reply),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    }

    pub fn write(&mut self, session: SessionId, number: u64, at: WriteAt) -> Result<Reply, FsError> {
        let data = WriteData::Inline { data_offset: 0, len: 1, checksums: checksums(&[7]) };
        let (ino, kill_privileges) = (self.ino, false);
        self.commit(session, number, CommandBody::Data(DataCommand::Write { ino, at, data, kill_privileges }))
    }

    fn held(&mut self, session: SessionId, number: u64, epoch: u64) -> Result<(), FsError> {
        self.write(session, number, WriteAt::HeldBack { offset: 3, held: HeldBack { epoch, time: Nanos::new(5) } })
            .map(|_| ())
    }

    pub fn resize(&mut self, session: SessionId, number: u64, size: u64) -> Result<Reply, FsError> {
        let change = AttrChange { size: Some(size), ..AttrChange::default() };
        let (ino, asked, pinned_by) = (self.ino, None, Vec::new());
        self.commit(session, number, CommandBody::Op { op: Op::Setattr { ino, change }, asked, pinned_by })
    }

    pub fn epoch(&mut self) -> u64 {
        self.run.world.inode(self.ino).epoch
    }

    fn size(&mut self) -> u64 {
        self.run.world.inode(self.ino).size
    }
}

#[test]
fn bytes_held_back_land_while_their_session_has_the_file_to_itself() {
    let mut home = Home::new();
    home.write(B, 1, WriteAt::Offset(0)).expect("written");
    let epoch = home.epoch();
    for number in 1..4 {
        assert_eq!(home.held(A, number, epoch), Ok(()), "several of one flight");
    }
    home.resize(A, 4, 1).expect("cut");
    assert_eq!(home.held(A, 5, epoch), Ok(()), "an own truncation takes the file from nobody");
}

#[test]
fn bytes_held_back_are_refused_once_another_session_wrote() {
    let mut home = Home::new();
    home.write(A, 1, WriteAt::Offset(0)).expect("written");
    let epoch = home.epoch();
    home.write(B, 1, WriteAt::Offset(0)).expect("written");
    assert_eq!(home.held(A, 2, epoch), Err(FsError::Stale));
    home.write(A, 3, WriteAt::Offset(0)).expect("what is not held back is not old");
    assert_eq!(home.held(A, 4, epoch), Err(FsError::Stale), "nor after its session wrote again");
    let epoch = home.epoch();
    assert_eq!(home.held(A, 5, epoch), Ok(()));
}

#[test]
fn bytes_held_back_are_refused_once_another_session_cut_or_punched() {
    let mut home = Home::new();
    home.write(A, 1, WriteAt::Offset(0)).expect("written");
    let epoch = home.epoch();
    home.resize(B, 1, 50).expect("longer");
    assert_eq!(home.held(A, 2, epoch), Err(FsError::Stale));
    let epoch = home.epoch();
    let (ino, mode) = (home.ino, FallocateMode::PunchHole);
    let (offset, len, keep_size, kill_privileges) = (0, 5, true, false);
    let punch = DataCommand::Fallocate { ino, offset, len, mode, keep_size, kill_privileges };
    home.commit(A, 3, CommandBody::Data(punch)).expect("punched");
    assert_eq!(home.held(B, 2, epoch), Err(FsError::Stale));
}

#[test]
fn bytes_held_back_are_refused_once_the_file_was_taken() {
    let mut home = Home::new();
    home.write(A, 1, WriteAt::Offset(0)).expect("written");
    let epoch = home.epoch();
    let ino = home.ino;
    home.commit(SessionId::new(0), 0, CommandBody::Take { ino }).expect("taken");
    assert_eq!(home.held(A, 2, epoch), Err(FsError::Stale));
}

#[test]
fn a_retried_fallocate_does_not_repeat_what_it_did() {
    let mut home = Home::new();
    let ranges = 3 * u64::from(RANGES_MAX);
    home.resize(A, 1, ranges * RANGE).expect("longer");
    let (ino, mode) = (home.ino, FallocateMode::ZeroRange);
    let (offset, len, keep_size, kill_privileges) = (0, ranges * RANGE, false, false);
    let zero = CommandBody::Data(DataCommand::Fallocate { ino, offset, len, mode, keep_size, kill_privileges });
    let first = home.commit(A, 2, zero.clone());
    assert_eq!(first, Ok(Reply::Offset(u64::from(RANGES_MAX) * RANGE)), "one step");
    home.write(B, 1, WriteAt::Offset(5)).expect("written");
    let mut replies = Vec::new();
    while !matches!(replies.last(), Some(Ok(Reply::Attr(_)))) {
        replies.push(home.commit(A, 2, zero.clone()));
        assert!(replies.len() < 10, "{replies:?}");
    }
    assert_eq!(replies.len(), 2, "{replies:?}");
    assert_eq!(home.commit(A, 2, zero), *replies.last().expect("some"), "a later retry does nothing");
    let view = home.run.world.view(ino.shard());
    let plan = crate::data::plan_read(view, World::layout(), ino, 5, 1).expect("in memory");
    assert!(matches!(plan.as_slice(), [crate::data::Piece::Log { .. }]), "what B wrote meanwhile is gone: {plan:?}");
}

/// A byte in each of these ranges.
fn sparse(home: &mut Home, ranges: impl Iterator<Item = u64>) -> u64 {
    let mut number = 1;
    for range in ranges {
        number += 1;
        home.write(A, number, WriteAt::Offset(range * RANGE)).expect("written");
    }
    number + 1
}

#[test]
fn a_truncation_tells_a_bounded_number_of_ranges_at_once_and_shortens_from_the_end() {
    let mut home = Home::new();
    let ranges = 5 * u64::from(RANGES_MAX);
    let number = sparse(&mut home, (1..=ranges).map(|range| range * range));
    home.run.world.deliver_all();
    let mut sizes = vec![home.size()];
    loop {
        let sent = |home: &Home| home.run.world.on_the_way.values().map(|queue| queue.len()).sum::<usize>();
        let before = sent(&home);
        let reply = home.resize(A, number, 10).expect("shorter");
        assert!(sent(&home) - before <= usize::try_from(RANGES_MAX).expect("small"));
        sizes.push(home.size());
        if matches!(reply, Reply::Attr(_)) {
            break;
        }
    }
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
    assert_eq!((sizes.len(), sizes.last()), (6, Some(&10)));
    home.run.world.deliver_all();
    for range in (1..=ranges).map(|range| range * range) {
        let range = RangeIndex::new(u32::try_from(range).expect("small"));
        let memory = home.run.world.view(range_shard(home.ino, range));
        let left =
            super::rules::extents(memory).into_iter().filter(|(_, e)| World::layout().range_of(e.start) == range);
        assert_eq!(left.count(), 0, "{range:?} keeps something");
    }
}

#[test]
fn what_is_written_behind_an_unfinished_truncation_is_cut_too() {
    let mut home = Home::new();
    let ranges = 3 * u64::from(RANGES_MAX);
    let number = sparse(&mut home, 1..=ranges);
    assert!(matches!(home.resize(A, number, 10), Ok(Reply::Offset(_))));
    home.write(B, 1, WriteAt::Offset(ranges * RANGE)).expect("written behind it");
    while !matches!(home.resize(A, number, 10), Ok(Reply::Attr(_))) {}
    home.run.world.deliver_all();
    let left: usize = home.run.world.shards.values().map(|memory| super::rules::extents(memory).len()).sum();
    assert_eq!(left, 0);
}

#[test]
fn a_write_that_was_held_back_has_the_time_at_which_it_was_written() {
    let mut home = Home::new();
    let mut write = |number, then: i64| {
        let epoch = home.run.world.inode(home.ino).epoch;
        let held = HeldBack { epoch, time: Nanos::new(then) };
        let before = home.run.world.inode(home.ino);
        home.write(A, number, WriteAt::HeldBack { offset: 3, held }).expect("written");
        let now = i64::try_from(home.index).expect("small");
        let after = home.run.world.inode(home.ino);
        assert!(after.ctime >= before.ctime && after.change > before.change);
        (after.mtime.get(), after.ctime.get(), now)
    };
    assert_eq!(write(1, 77), (77, 77, 101));
    assert_eq!(write(2, 90), (90, 90, 102));
    assert_eq!(write(3, 80), (90, 90, 103), "not below what the file had");
    assert_eq!(write(4, 5000), (104, 104, 104), "nor in the future");
    let change = AttrChange { mtime: Some(TimeChange::At(Nanos::new(9000))), ..AttrChange::default() };
    let (ino, asked, pinned_by) = (home.ino, None, Vec::new());
    home.commit(A, 5, CommandBody::Op { op: Op::Setattr { ino, change }, asked, pinned_by }).expect("set");
    let held = HeldBack { epoch: home.epoch(), time: Nanos::new(106) };
    home.write(A, 6, WriteAt::HeldBack { offset: 3, held }).expect("written");
    assert_eq!(home.run.world.inode(ino).mtime.get(), 106, "a write ends a time in the future that was set");
}

#[test]
fn what_allocates_nothing_looks_only_at_ranges_that_hold_something() {
    for mode in [FallocateMode::PunchHole, FallocateMode::ZeroRange] {
        let mut home = Home::new();
        let far = 1 << 20;
        let number = sparse(&mut home, [0, 1, 2, 3, 1000, far].into_iter());
        home.resize(A, number, far * RANGE + 9).expect("longer");
        home.run.world.deliver_all();
        let (ino, offset, len, keep_size, kill_privileges) = (home.ino, 0, u64::from(u32::MAX) * RANGE, true, false);
        let body = CommandBody::Data(DataCommand::Fallocate { ino, offset, len, mode, keep_size, kill_privileges });
        let mut steps = 1;
        while !matches!(home.commit(A, number + 1, body.clone()), Ok(Reply::Attr(_))) {
            steps += 1;
        }
        assert_eq!(steps, 2, "five ranges beside the first, {RANGES_MAX} a step");
        home.run.world.deliver_all();
        assert_eq!(home.size(), far * RANGE + 9);
        for range in [0, 1, 2, 3, 1000, far] {
            let index = RangeIndex::new(u32::try_from(range).expect("small"));
            let view = home.run.world.view(range_shard(ino, index));
            let plan = crate::data::plan_read(view, World::layout(), ino, range * RANGE, 1).expect("in memory");
            assert_eq!(plan, [crate::data::Piece::Zero(1)], "{mode:?}, range {range}");
        }
    }
}
