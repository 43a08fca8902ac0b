//! Overwrites that commit in their range: what is refused there, what is done once.

use super::rules;
use super::steps::{A, B, Home};
use super::world::{RANGE, World, checksums};
use crate::CommandBody;
use crate::data::{self, DataCommand, RangeRecord, Route, Span, Verdict, WriteAt, WriteData, keys};
use crate::view::View;
use cfs_types::{FsError, LogIndex, Nanos, RangeIndex, RequestNumber, SessionId, ShardId};
use cfs_wire::{FallocateMode, HeldBack, Reply};

/// Where most of it happens.
const AT: u64 = RANGE + 100;
const NEXT: u64 = 2 * RANGE;

impl Home {
    fn there(&self) -> ShardId {
        data::range_shard(self.ino, RangeIndex::new(1))
    }

    /// A's file: these bytes lie in range 1, 20 of them from AT on, and it ends with the range.
    fn with_range() -> Home {
        let mut home = Home::new();
        for n in 0..20 {
            home.write(A, n + 1, WriteAt::Offset(AT + n)).expect("written");
        }
        home.resize(A, 30, NEXT).expect("longer");
        home.run.world.deliver_all();
        home
    }

    fn route_of(&mut self, asked: (SessionId, u64), at: WriteAt, (offset, len): (u64, u64)) -> Route {
        let ctx = World::context(self.ino.shard(), LogIndex::new(0));
        let span = Span { ino: self.ino, offset, len };
        let asked = (asked.0, RequestNumber::new(asked.1));
        let view = self.run.world.view(self.ino.shard());
        data::route(view, &ctx, asked, at, (span, false)).expect("in memory")
    }

    fn known(&mut self, number: u64, offset: u64, len: u64) -> (u64, u64) {
        match self.route_of((A, number), WriteAt::Offset(offset), (offset, len)) {
            Route::Range { epoch, sequence } => (epoch, sequence),
            other => panic!("{other:?}"),
        }
    }

    fn overwrite(&mut self, number: u64, offset: u64, bytes: &[u8], known: (u64, u64)) -> Result<Reply, FsError> {
        let len = u32::try_from(bytes.len()).expect("short");
        let data = WriteData::Inline { data_offset: 0, len, checksums: checksums(bytes) };
        let (ino, (epoch, sequence)) = (self.ino, known);
        let body = DataCommand::Overwrite { ino, offset, epoch, sequence, data };
        self.commit_in(self.there(), bytes.to_vec(), (A, number), CommandBody::Data(body))
    }

    fn modified(&mut self, number: u64, at: WriteAt) -> Result<Reply, FsError> {
        let (ino, kill_privileges) = (self.ino, false);
        self.commit(A, number, CommandBody::Data(DataCommand::Modified { ino, at, kill_privileges }))
    }

    fn verdict(&mut self, number: u64, known: Option<(u64, u64)>) -> Verdict {
        let (span, there) = (Span { ino: self.ino, offset: AT, len: 5 }, self.there());
        let view = self.run.world.view(there);
        data::verdict(view, World::layout(), (A, RequestNumber::new(number)), span, known).expect("in memory")
    }

    fn punch(&mut self, number: u64, mode: FallocateMode, (offset, len): (u64, u64)) {
        let (ino, keep_size, kill_privileges) = (self.ino, true, false);
        let body = DataCommand::Fallocate { ino, offset, len, mode, keep_size, kill_privileges };
        self.commit(A, number, CommandBody::Data(body)).expect("punched");
    }

    fn bytes(&mut self) -> Vec<u8> {
        let bytes = self.run.world.read(self.ino);
        bytes[usize::try_from(AT).expect("small")..][..20].to_vec()
    }

    fn record(&mut self) -> RangeRecord {
        let (ino, there) = (self.ino, self.there());
        let value = self.run.world.view(there).get(&keys::range(ino, RangeIndex::new(1))).expect("in memory");
        RangeRecord::decode(&value.expect("a record")).expect("sound")
    }
}

#[test]
fn an_overwrite_commits_in_its_range_and_the_inode_learns_the_time() {
    let mut home = Home::with_range();
    let (before, told) = (home.run.world.inode(home.ino), home.record());
    let known = home.known(40, AT, 5);
    assert_eq!(home.overwrite(40, AT, &[9; 5], known), Ok(Reply::Done));
    assert_eq!(home.record(), told, "as many bytes, no message");
    let Ok(Reply::Written { offset, attr, sequence }) = home.modified(40, WriteAt::Offset(AT)) else {
        panic!("not written")
    };
    assert_eq!((offset, attr.size, sequence), (AT, NEXT, before.sequence));
    assert!(attr.mtime > before.mtime && attr.change > before.change);
    assert!(home.run.world.pairs().is_empty(), "nothing is on its way");
    assert_eq!(home.bytes(), [&[9; 5][..], &[7; 15]].concat());
    let ino = home.ino;
    rules::check(&mut home.run.world, &[ino]);
}

#[test]
fn an_overwrite_of_very_many_extents_is_not_taken() {
    let (mut home, many) = (Home::with_range(), 1100);
    for n in 20..many {
        home.write(A, n + 100, WriteAt::Offset(AT + n)).expect("written");
    }
    home.run.world.deliver_all();
    for (number, len, wanted) in [(5000, 1000, Ok(Reply::Done)), (5001, many, Err(FsError::Conflict))] {
        let known = home.known(number, AT, len);
        let bytes = vec![9; usize::try_from(len).expect("small")];
        assert_eq!(home.overwrite(number, AT, &bytes, known), wanted, "{len} bytes");
        for n in 0..len {
            home.write(A, number + 10 + n, WriteAt::Offset(AT + n)).expect("written");
        }
        home.run.world.deliver_all();
    }
}

#[test]
fn an_overwrite_from_before_a_truncation_is_refused_after_it() {
    let mut home = Home::with_range();
    let known = home.known(40, AT, 5);
    home.resize(A, 41, AT).expect("shorter");
    home.resize(A, 42, NEXT).expect("longer");
    home.punch(43, FallocateMode::Allocate, (AT, 50));
    home.run.world.deliver_all();
    assert_eq!(home.overwrite(40, AT, &[9; 5], known), Err(FsError::Conflict), "all of it is there, of a later epoch");
    assert_eq!(home.bytes(), [0; 20]);
}

#[test]
fn an_overwrite_of_a_later_epoch_shuts_out_those_of_earlier_ones() {
    let mut home = Home::with_range();
    let known = home.known(40, AT, 5);
    let ino = home.ino;
    home.commit(SessionId::new(0), 0, CommandBody::Take { ino }).expect("taken");
    home.write(A, 41, WriteAt::Offset(0)).expect("A has it again");
    let later = home.known(42, AT, 5);
    assert!(later.0 > known.0);
    assert_eq!(home.overwrite(42, AT, &[9; 5], later), Ok(Reply::Done));
    assert_eq!(home.overwrite(40, AT, &[8; 5], known), Err(FsError::Conflict));
    assert_eq!(home.bytes()[..5], [9; 5]);
}

#[test]
fn an_overwrite_asked_for_after_a_message_was_sent_is_refused_until_it_has_arrived() {
    let mut home = Home::with_range();
    home.punch(40, FallocateMode::ZeroRange, (AT, 5));
    let known = home.known(41, AT, 5);
    assert_eq!(home.overwrite(41, AT, &[9; 5], known), Err(FsError::Conflict), "it would be zeros after all");
    home.run.world.deliver_all();
    assert_eq!(home.overwrite(41, AT, &[9; 5], known), Ok(Reply::Done), "a refusal is not kept");
    assert_eq!(home.bytes()[..5], [9; 5]);
}

#[test]
fn what_is_not_wholly_there_goes_through_the_inode() {
    let mut home = Home::with_range();
    let known = home.known(40, AT, 5);
    home.punch(41, FallocateMode::PunchHole, (AT + 2, 1));
    home.run.world.deliver_all();
    assert_eq!(home.overwrite(40, AT, &[9; 5], known), Err(FsError::Conflict), "a hole inside");
    for (offset, len) in [(AT - 1, 5), (AT + 18, 5)] {
        assert_eq!(home.route_of((A, 40), WriteAt::Offset(offset), (offset, len)), Route::Inode, "beyond the hull");
        let bytes = vec![9; usize::try_from(len).expect("small")];
        assert_eq!(home.overwrite(40, offset, &bytes, known), Err(FsError::Conflict));
    }
}

#[test]
fn what_trimming_will_delete_is_not_there() {
    let mut home = Home::with_range();
    home.resize(A, 40, AT + 4).expect("shorter");
    home.resize(A, 41, NEXT).expect("longer");
    home.run.world.deliver_all();
    assert_eq!(home.record().shape.trim_from, Some(AT + 4), "more is left than one step takes");
    let known = home.known(42, AT, 4);
    assert_eq!(home.overwrite(42, AT + 10, &[9; 2], known), Err(FsError::Conflict));
    assert_eq!(home.overwrite(43, AT, &[9; 4], known), Ok(Reply::Done));
    assert_eq!(home.bytes(), [&[9; 4][..], &[0; 16]].concat());
}

#[test]
fn a_retried_overwrite_does_not_come_over_newer_bytes() {
    let mut home = Home::with_range();
    let known = home.known(40, AT, 1);
    assert_eq!(home.overwrite(40, AT, &[9], known), Ok(Reply::Done));
    // A crash: its time is not there. Somebody else writes before A asks again.
    home.write(B, 1, WriteAt::Offset(AT)).expect("newer");
    home.run.world.deliver_all();
    assert_eq!(home.route_of((A, 40), WriteAt::Offset(AT), (AT, 1)), Route::Inode, "B has the file");
    assert_eq!(home.verdict(40, None), Verdict::Done, "but the range knows it");
    assert_eq!(home.overwrite(40, AT, &[9], known), Ok(Reply::Done), "as when it was asked first");
    assert_eq!(home.bytes()[0], 7, "B's");
    let first = home.modified(40, WriteAt::Offset(AT)).expect("counted");
    assert_eq!(home.modified(40, WriteAt::Offset(AT)), Ok(first), "once");
    assert_eq!(home.route_of((A, 40), WriteAt::Offset(AT), (AT, 1)), Route::Known);
}

#[test]
fn a_retry_where_the_bytes_are_not_there_any_more_is_known_too() {
    let mut home = Home::with_range();
    let known = home.known(40, AT, 5);
    home.overwrite(40, AT, &[9; 5], known).expect("done");
    home.resize(A, 41, 5).expect("shorter");
    home.run.world.deliver_all();
    assert_eq!(home.route_of((A, 40), WriteAt::Offset(AT), (AT, 5)), Route::Inode, "beyond the end");
    assert_eq!((home.verdict(40, None), home.verdict(44, None)), (Verdict::Done, Verdict::Refused));
    let Ok(Reply::Written { attr, .. }) = home.modified(40, WriteAt::Offset(AT)) else { panic!("not written") };
    assert_eq!(attr.size, 5, "it came before the cut");
}

#[test]
fn only_the_last_writer_overwrites_in_a_range_and_only_what_it_may() {
    let mut home = Home::with_range();
    let (epoch, sequence) = home.known(40, AT, 5);
    let place = WriteAt::Offset(AT);
    assert_eq!(home.route_of((B, 1), place, (AT, 5)), Route::Inode, "B takes the file first");
    let held = |epoch| WriteAt::HeldBack { offset: AT, held: HeldBack { epoch, time: Nanos::new(5) } };
    let admitted = Route::Range { epoch, sequence };
    assert_eq!(home.route_of((A, 40), held(epoch), (AT, 5)), admitted);
    home.write(B, 1, WriteAt::Offset(0)).expect("taken");
    home.write(A, 41, WriteAt::Offset(0)).expect("taken back");
    assert_eq!(home.route_of((A, 42), held(epoch), (AT, 5)), Route::Inode, "B had it since");
    assert!(matches!(home.route_of((A, 42), place, (AT, 5)), Route::Range { .. }));
    assert_eq!(home.route_of((A, 41), place, (AT, 5)), Route::Known);
    assert_eq!(home.route_of((A, 42), WriteAt::Offset(0), (0, 1)), Route::Inode, "range 0");
    home.resize(A, 43, AT + 4).expect("shorter");
    assert_eq!(home.route_of((A, 44), place, (AT, 5)), Route::Inode, "beyond the end");
    assert!(matches!(home.route_of((A, 44), place, (AT, 4)), Route::Range { .. }));
}

#[test]
fn what_costs_privileges_goes_through_the_inode() {
    let mut home = Home::with_range();
    let ctx = World::context(home.ino.shard(), LogIndex::new(0));
    let span = Span { ino: home.ino, offset: AT, len: 5 };
    let asked = (A, RequestNumber::new(40));
    let view = home.run.world.view(home.ino.shard());
    let route = |kill| data::route(view, &ctx, asked, WriteAt::Offset(AT), (span, kill)).expect("in memory");
    assert!(matches!(route(false), Route::Range { .. }));
    assert_eq!(route(true), Route::Inode, "the file has setuid");
}

#[test]
fn a_range_that_is_gone_takes_nothing() {
    let mut home = Home::with_range();
    let known = home.known(40, AT, 5);
    while !home.run.world.reap(home.ino) {}
    home.run.world.deliver_all();
    assert_eq!(home.overwrite(40, AT, &[9; 5], known), Err(FsError::Conflict));
    home.run.settle();
    assert_eq!(home.overwrite(40, AT, &[9; 5], known), Err(FsError::Conflict));
}
