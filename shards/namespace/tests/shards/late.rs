//! Commands that arrive late or twice, after their transaction was decided elsewhere.

use crate::cluster::{Cluster, audit};
use cfs_namespace::txn::{Action, Coordinator, DecideReply, Event, Request, TxnCommand, TxnReply};
use cfs_namespace::{Answer, Command, CommandBody, Effect, Outcome};
use cfs_types::{FsError, InodeId, Name, RequestNumber, SessionId, ShardId};
use cfs_wire::{Identity, Op};
use std::collections::BTreeSet;

const HOME: ShardId = ShardId::new(9);

/// The coordinator of a mkdir in the root.
fn mkdir(cluster: &mut Cluster) -> Coordinator {
    let name = Name::new(b"d").expect("a name");
    let request = Request {
        session: SessionId::new(5),
        number: RequestNumber::new(1),
        oldest: RequestNumber::new(1),
        identity: Identity::default(),
        op: Op::Mkdir { dir: InodeId::ROOT, name, mode: 0o755 },
    };
    Coordinator::new(cluster.new_tx(InodeId::ROOT.shard()), request, HOME)
}

/// Drives a mkdir in the root and gives the commands it proposes; stops before the decision.
fn prepared(cluster: &mut Cluster) -> (Command, Command) {
    let (_, _, prepare, decision) = driven(cluster);
    (prepare, decision)
}

/// As [`prepared`], with the coordinator and the token that waits for the decision.
fn driven(cluster: &mut Cluster) -> (Coordinator, u32, Command, Command) {
    let (mut coordinator, mut prepare) = (mkdir(cluster), None);
    while let Some((token, action)) = coordinator.poll_action() {
        let event = match action {
            Action::Query { shard, op } => Event::Answer(cluster.ask(shard, &op)),
            Action::Propose { shard, command } => {
                if shard == InodeId::ROOT.shard() {
                    return (coordinator, token, prepare.expect("prepared first"), command);
                }
                let outcome = cluster.run(shard, &command);
                prepare = Some(command);
                Event::Executed { result: outcome.result, blocked_by: outcome.blocked_by }
            }
            Action::Revoke { .. } => Event::Revoked(Ok(())),
            other => panic!("{other:?}"),
        };
        coordinator.handle_event(token, event);
    }
    panic!("no decision");
}

fn decide(cluster: &mut Cluster, command: &Command) -> DecideReply {
    match cluster.run(InodeId::ROOT.shard(), command).result {
        Ok(Answer::Txn(TxnReply::Decided(reply))) => reply,
        other => panic!("{other:?}"),
    }
}

/// How a mkdir ends whose first revocation fails.
fn ended_after(revoked: FsError) -> Result<cfs_wire::Reply, FsError> {
    let mut cluster = Cluster::new();
    let (mut coordinator, mut revocations) = (mkdir(&mut cluster), 0);
    while let Some((token, action)) = coordinator.poll_action() {
        let event = match action {
            Action::Query { shard, op } => Event::Answer(cluster.ask(shard, &op)),
            Action::Propose { shard, command } => {
                let outcome = cluster.run(shard, &command);
                Event::Executed { result: outcome.result, blocked_by: outcome.blocked_by }
            }
            Action::Revoke { .. } => {
                revocations += 1;
                Event::Revoked(if revocations == 1 { Err(revoked) } else { Ok(()) })
            }
            Action::Wait { .. } => Event::Waited,
            Action::Finish { result, .. } => {
                cluster.settle();
                audit::sound(&cluster);
                return result;
            }
        };
        coordinator.handle_event(token, event);
    }
    panic!("no end");
}

#[test]
fn an_error_of_a_revocation_is_the_answer_unless_it_says_that_the_state_has_changed() {
    for error in [FsError::Corrupt, FsError::Device, FsError::WrongShard, FsError::TimedOut] {
        assert_eq!(ended_after(error), Err(error));
    }
    for error in [FsError::Conflict, FsError::NotFound] {
        assert!(ended_after(error).is_ok(), "it is tried again after {error:?}");
    }
}

#[test]
fn a_decision_of_an_earlier_term_is_refused() {
    let mut cluster = Cluster::new();
    let (_, decision) = prepared(&mut cluster);
    cluster.crash(InodeId::ROOT.shard());
    cluster.resolve(HOME, &BTreeSet::new());
    assert_eq!(decide(&mut cluster, &decision), DecideReply::Aborted);
    cluster.settle();
    audit::sound(&cluster);
}

#[test]
fn a_decision_after_a_resolver_gave_up_on_it_is_refused() {
    let mut cluster = Cluster::new();
    let (_, decision) = prepared(&mut cluster);
    cluster.resolve(HOME, &BTreeSet::new());
    assert_eq!(decide(&mut cluster, &decision), DecideReply::Aborted);
    cluster.settle();
    audit::sound(&cluster);
}

#[test]
fn a_decision_whose_shard_failed_may_have_been_made() {
    let mut cluster = Cluster::new();
    let (mut coordinator, token, _, decision) = driven(&mut cluster);
    assert!(matches!(decide(&mut cluster, &decision), DecideReply::Committed { .. }));
    let failed = Event::Executed { result: Err(FsError::Corrupt), blocked_by: None };
    coordinator.handle_event(token, failed);
    let Some((_, Action::Finish { result, .. })) = coordinator.poll_action() else { panic!("it undoes something") };
    assert_eq!(result, Err(FsError::Corrupt));
    cluster.settle();
    audit::sound(&cluster);
}

#[test]
fn a_prepare_that_comes_again_after_the_commit_is_undone() {
    let mut cluster = Cluster::new();
    let (prepare, decision) = prepared(&mut cluster);
    let root = InodeId::ROOT.shard();
    assert!(matches!(decide(&mut cluster, &decision), DecideReply::Committed { .. }));
    // The Commit is executed, the coordinator has not heard of it: its record stands.
    cluster.pump(root, false, None);
    cluster.run(HOME, &prepare);
    cluster.resolve(HOME, &BTreeSet::new());
    cluster.pump(root, true, None);
    cluster.run(HOME, &prepare);
    cluster.settle();
    audit::sound(&cluster);
    let found = cluster.ask(root, &Op::Getattr { ino: InodeId::ROOT });
    assert!(matches!(found, Ok(cfs_wire::Reply::Attr(attr)) if attr.nlink == 3));
}

#[test]
fn commands_that_come_twice_change_nothing_the_second_time() {
    let mut cluster = Cluster::new();
    let (prepare, decision) = prepared(&mut cluster);
    let again = |cluster: &mut Cluster, at: ShardId, command: &Command| {
        let first = cluster.run(at, command);
        let second = cluster.run(at, command);
        assert_eq!(first.result, second.result);
        assert!(second.writes.is_empty(), "{:?}", command.body);
    };
    again(&mut cluster, HOME, &prepare);
    again(&mut cluster, InodeId::ROOT.shard(), &decision);
    let CommandBody::Txn(TxnCommand::Decide { tx, .. }) = decision.body else { panic!("decides") };
    cluster.pump(InodeId::ROOT.shard(), false, None);
    cluster.pump(InodeId::ROOT.shard(), true, None);
    let abort = Command::internal(CommandBody::Txn(TxnCommand::Abort { tx }));
    again(&mut cluster, HOME, &abort);
    cluster.settle();
    audit::sound(&cluster);
}

#[test]
fn a_retry_is_told_of_what_its_first_attempt_sent() {
    let mut cluster = Cluster::new();
    let (_, decision) = prepared(&mut cluster);
    assert!(matches!(decide(&mut cluster, &decision), DecideReply::Committed { .. }));
    let body = CommandBody::Conclude { error: FsError::Exists };
    let again = Command { body, ..decision.clone() };
    let sent = |outcome: &Outcome| outcome.effects.iter().any(|e| matches!(e, Effect::Sent { to: HOME, sequence: 1 }));
    let outcome = cluster.run(InodeId::ROOT.shard(), &again);
    assert!(outcome.result.is_ok() && sent(&outcome), "{outcome:?}");
    cluster.settle();
    let outcome = cluster.run(InodeId::ROOT.shard(), &again);
    assert!(outcome.result.is_ok() && !sent(&outcome), "{outcome:?}");
}
