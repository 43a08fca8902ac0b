//! A retry gets the first answer; what the session no longer asks for is forgotten.

use crate::cluster::Cluster;
use cfs_namespace::keys::space;
use cfs_namespace::{Answer, Command, CommandBody, Effect};
use cfs_types::{FsError, InodeId, Name, RequestNumber, SessionId};
use cfs_wire::{Identity, Op, Reply};

fn numbered(session: u64, number: u64, oldest: u64, body: CommandBody) -> Command {
    Command {
        session: SessionId::new(session),
        number: RequestNumber::new(number),
        oldest: RequestNumber::new(oldest),
        identity: Identity::default(),
        body,
    }
}

fn create(name: &str) -> CommandBody {
    let name = Name::new(name.as_bytes()).expect("a name");
    let (dir, mode) = (InodeId::ROOT, 0o644);
    let op = Op::Create { dir, name, mode, exclusive: true, truncate: false };
    CommandBody::Op { op, asked: None, pinned_by: Vec::new() }
}

fn unlink(name: &str) -> CommandBody {
    let name = Name::new(name.as_bytes()).expect("a name");
    CommandBody::Op { op: Op::Unlink { dir: InodeId::ROOT, name }, asked: None, pinned_by: Vec::new() }
}

/// The results and session records of a shard.
fn known(cluster: &Cluster) -> usize {
    let rows = cluster.shards[&InodeId::ROOT.shard()].memory.rows();
    rows.filter(|(key, _)| matches!(key[0], space::RESULT | space::SESSION)).count()
}

fn run(cluster: &mut Cluster, command: &Command) -> Result<Answer, FsError> {
    cluster.run(InodeId::ROOT.shard(), command).result
}

fn results(cluster: &Cluster) -> usize {
    let rows = cluster.shards[&InodeId::ROOT.shard()].memory.rows();
    rows.filter(|(key, _)| key[0] == space::RESULT).count()
}

#[test]
fn a_retry_gets_the_first_answer_whatever_happened_since() {
    let mut cluster = Cluster::new();
    let first = run(&mut cluster, &numbered(5, 1, 1, create("a")));
    assert!(first.is_ok());
    assert_eq!(run(&mut cluster, &numbered(6, 1, 1, unlink("a"))), Ok(Answer::Wire(Reply::Done)));
    assert_eq!(run(&mut cluster, &numbered(5, 1, 1, create("a"))), first);
    assert_eq!(run(&mut cluster, &numbered(6, 2, 1, unlink("a"))), Err(FsError::NotFound));
}

#[test]
fn a_failure_is_the_answer_of_its_retry_too() {
    let mut cluster = Cluster::new();
    assert_eq!(run(&mut cluster, &numbered(5, 1, 1, unlink("a"))), Err(FsError::NotFound));
    assert!(run(&mut cluster, &numbered(6, 1, 1, create("a"))).is_ok());
    assert_eq!(run(&mut cluster, &numbered(5, 1, 1, unlink("a"))), Err(FsError::NotFound));
    let late = CommandBody::Conclude { error: FsError::NotEmpty };
    assert_eq!(run(&mut cluster, &numbered(5, 1, 1, late)), Err(FsError::NotFound));
}

#[test]
fn results_below_the_oldest_are_forgotten_and_their_requests_refused() {
    let mut cluster = Cluster::new();
    for number in 1..=100 {
        let body = if number % 2 == 1 { create("a") } else { unlink("a") };
        let oldest = number.max(40) - 39;
        assert!(run(&mut cluster, &numbered(5, number, oldest, body)).is_ok());
        // They are forgotten with every eighth request.
        assert!(results(&cluster) <= 41 + 8, "{} results at {number}", results(&cluster));
    }
    assert_eq!(run(&mut cluster, &numbered(5, 60, 60, unlink("a"))), Err(FsError::Stale));
    assert_eq!(run(&mut cluster, &numbered(5, 61, 60, create("b"))).map(|_| ()), Ok(()));
}

#[test]
fn an_expired_session_is_fenced_and_leaves_no_results() {
    let mut cluster = Cluster::new();
    for number in 1..=600 {
        let body = if number % 2 == 1 { create("a") } else { unlink("a") };
        assert!(run(&mut cluster, &numbered(5, number, 1, body)).is_ok());
    }
    let expire = CommandBody::ExpireSession { session: SessionId::new(5) };
    for _ in 0..3 {
        assert!(run(&mut cluster, &Command::internal(expire.clone())).is_ok());
    }
    assert_eq!(results(&cluster), 0);
    let late = numbered(5, 601, 1, create("a"));
    assert_eq!(run(&mut cluster, &late), Err(FsError::SessionExpired));
    assert_eq!(results(&cluster), 0);
}

#[test]
fn of_sessions_that_are_over_nothing_is_left_whatever_an_earlier_version_kept_and_each_command_does_a_part() {
    let mut cluster = Cluster::new();
    for session in 1..=300 {
        assert!(run(&mut cluster, &numbered(session, 1, 1, create("a"))).is_ok() || session > 1);
    }
    for number in (2..=600).chain([u64::MAX]) {
        assert!(run(&mut cluster, &numbered(7, number, number.min(2), unlink("b"))).is_err());
    }
    let expire = CommandBody::ExpireSession { session: SessionId::new(9) };
    assert!(run(&mut cluster, &Command::internal(expire)).is_ok());
    let mut left: Vec<SessionId> = (1..=299).map(SessionId::new).collect();
    let mut commands = 0;
    while !left.is_empty() {
        let before = known(&cluster);
        let forget = Command::internal(CommandBody::ForgetSessions { sessions: std::mem::take(&mut left) });
        let outcome = cluster.run(InodeId::ROOT.shard(), &forget);
        assert!(outcome.result.is_ok());
        assert!(before - known(&cluster) <= 256, "{} rows at once", before - known(&cluster));
        for effect in outcome.effects {
            let Effect::ForgetPending(rest) = effect else { panic!("{effect:?}") };
            left = rest;
        }
        commands += 1;
        assert!(commands < 24, "it does not end: {} rows", known(&cluster));
    }
    assert_eq!(known(&cluster), 2, "the one that is not over");
    let nobody = CommandBody::ForgetSessions { sessions: vec![SessionId::new(5000)] };
    assert!(run(&mut cluster, &Command::internal(nobody)).is_ok());
    assert_eq!(known(&cluster), 2, "of one that was never here there is nothing to keep");
}
