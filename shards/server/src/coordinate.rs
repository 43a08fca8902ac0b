//! Operations between shards: the driver of the coordinator, and of transactions left behind.
//!
//! The coordinator decides nothing about I/O; here its queries and commands are carried to the
//! cores that own the shards. A coordinator whose client gave up runs on to its end.

use crate::core::{Core, Held};
use crate::leases::Intent;
use crate::log_room::Asker;
use crate::machine::GroupAnswer;
use crate::messages::{CoreReply, CoreRequest, Remote};
use crate::shard::Shard;
use crate::touched::touched;
use crate::unlinking::Asked;
use cfs_exec::channel;
use cfs_namespace::txn::{Action, Coordinator, DecideReply, Event, Request, TxnCommand, TxnReply, Verdict};
use cfs_namespace::{Answer, Command, CommandBody, TxId, pending};
use cfs_seam::{Class, io, sleep, spawn};
use cfs_types::{FsError, InodeId, SessionId, ShardId, Timestamp, VolumeId};
use cfs_wire::Reply;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Actions of one coordinator in flight.
const ACTIONS_MAX: usize = 256;
/// First wait of a coordinator that must let another go first; doubles up to 64 times this.
const WAIT: Duration = Duration::from_micros(200);
/// An undecided transaction older than this is taken for dead.
const DEAD_AFTER_MS: u64 = 20_000;
/// Transactions looked at in one step.
const PAGE: usize = 64;

/// Runs an operation between shards to its end.
pub async fn coordinate(core: &Rc<Core>, shard: &Rc<Shard>, request: Request) -> Result<Reply, FsError> {
    shard.replica.ready().await?;
    let tx = TxId { shard: shard.id(), term: shard.replica.term(), sequence: core.clock.tick().get(), attempt: 0 };
    let home = ShardId::new(core.world.rng.next_u64().to_le_bytes()[0]);
    let coordinator = Coordinator::new(tx, request, home);
    let (promise, result) = io();
    let (owner, shard) = (core.clone(), shard.clone());
    let task = async move { promise.complete(drive(&owner, &shard, coordinator).await) };
    spawn(&core.world.tasks, Class::Foreground, task).detach();
    result.await
}

async fn drive(core: &Rc<Core>, shard: &Rc<Shard>, mut coordinator: Coordinator) -> Result<Reply, FsError> {
    let (sender, mut events) = channel::bounded(ACTIONS_MAX);
    // What others gave way on at this core: until the end nobody is granted a lease on it.
    let mut clear = BTreeMap::new();
    loop {
        while let Some((token, action)) = coordinator.poll_action() {
            if let Action::Finish { result, after } = action {
                drop(clear);
                core.await_all(shard, after).await?;
                return result;
            }
            let (owner, sender) = (core.clone(), sender.clone());
            let task = async move {
                let (event, held) = perform(&owner, action).await;
                let _gone = sender.send((token, event, held)).await;
            };
            spawn(&core.world.tasks, Class::Foreground, task).detach();
        }
        let Some((token, event, held)) = events.recv().await else { return Err(FsError::Interrupted) };
        clear.extend(held);
        coordinator.handle_event(token, event);
    }
}

/// What came of an action, and what is held at this core after a revocation.
async fn perform(core: &Rc<Core>, action: Action) -> (Event, Option<(ShardId, Held)>) {
    let event = match action {
        Action::Revoke { shard, command } => return revoke(core, shard, command).await,
        Action::Query { shard, op } => {
            let to = core.config.owner(shard.into());
            match core.peers.call(to, CoreRequest::Query(shard, op)).await {
                CoreReply::Answered(answer) => Event::Answer(answer),
                _ => Event::Lost,
            }
        }
        Action::Propose { shard, command } => {
            let to = core.config.owner(shard.into());
            match core.peers.call(to, CoreRequest::Execute(shard, Box::new(command), Vec::new())).await {
                CoreReply::Executed(Remote { result, blocked_by }) => Event::Executed { result, blocked_by },
                _ => Event::Lost,
            }
        }
        Action::Wait { round } => {
            sleep(&core.world.clock, WAIT * 2u32.pow(round.min(6))).await;
            Event::Waited
        }
        Action::Finish { .. } => Event::Waited,
    };
    (event, None)
}

async fn revoke(core: &Rc<Core>, shard: ShardId, command: Command) -> (Event, Option<(ShardId, Held)>) {
    let to = core.config.owner(shard.into());
    if to == core.me() {
        return match hold_for(core, shard, &command).await {
            Ok(held) => (Event::Revoked(Ok(())), Some((shard, held))),
            Err(error) => (Event::Revoked(Err(error)), None),
        };
    }
    match core.peers.call(to, CoreRequest::Revoke(shard, Box::new(command))).await {
        CoreReply::Revoked(result) => (Event::Revoked(result), None),
        _ => (Event::Lost, None),
    }
}

/// Waits until others have given way on what a command changes in a shard of this core.
pub async fn hold_for(core: &Rc<Core>, shard: ShardId, command: &Command) -> Result<Held, FsError> {
    let inodes = touched(core.shard(shard)?, command).await?;
    core.hold(inodes, command.session, Intent::Change).await
}

/// Executes a command of a transaction or an outbox in a shard of this core: leases of others on
/// what it changes are revoked first.
pub async fn execute_here(core: &Rc<Core>, shard: ShardId, command: Command, data: Vec<u8>) -> Remote {
    match try_execute(core, shard, command, data).await {
        Ok(remote) => remote,
        Err(error) => Remote { result: Err(error), blocked_by: None },
    }
}

async fn try_execute(core: &Rc<Core>, shard: ShardId, mut command: Command, data: Vec<u8>) -> Result<Remote, FsError> {
    let _held = hold_for(core, shard, &command).await?;
    let shard = core.shard(shard)?.clone();
    let pinned = fill_pins(core, &shard, &mut command).await?;
    let concludes = matches!(command.body, CommandBody::Conclude { .. });
    let place = core.log_place(Asker::FollowUp, data.len()).await;
    let executed = shard.execute(command, data.into(), Vec::new()).await?;
    release_unpinned(core, &shard, pinned).await?;
    drop(place);
    // A retry is answered when what its first attempt sent has arrived.
    if concludes || is_duplicate(&executed.result) {
        core.await_delivery(&shard, &executed.effects).await?;
    }
    let result = executed.result.and_then(|answer| match answer {
        GroupAnswer::Shard(answer) => Ok(answer),
        GroupAnswer::Control(_) => Err(FsError::Invalid),
    });
    Ok(Remote { result, blocked_by: executed.blocked_by })
}

fn is_duplicate(result: &Result<GroupAnswer, FsError>) -> bool {
    matches!(result, Ok(GroupAnswer::Shard(Answer::Txn(TxnReply::Decided(DecideReply::Duplicate(_))))))
}

/// Names the sessions that hold the inode open of which the command removes a link. Whoever opens it
/// while the result lives waits.
pub async fn fill_pins(core: &Rc<Core>, shard: &Rc<Shard>, command: &mut Command) -> Result<Option<Asked>, FsError> {
    let last = shard.read(|view, context| cfs_namespace::last_link(view, context, command)).await?;
    let Some(ino) = last else { return Ok(None) };
    let pins = core.leases.borrow().pinned_by(ino);
    let asked = core.unlinking.begin(ino, pins.clone());
    match &mut command.body {
        CommandBody::Op { pinned_by, .. } | CommandBody::Deliver { pinned_by, .. } => *pinned_by = pins,
        CommandBody::Txn(TxnCommand::Decide { pinned_by, .. }) => *pinned_by = pins,
        _ => {}
    }
    Ok(Some(asked))
}

/// After the command: a session that closed the inode meanwhile found its last link still there.
pub async fn release_unpinned(core: &Rc<Core>, shard: &Rc<Shard>, asked: Option<Asked>) -> Result<(), FsError> {
    let Some(asked) = asked else { return Ok(()) };
    let ino = asked.ino;
    for session in asked.holders.iter().copied() {
        if !core.leases.borrow().is_pinned_by(ino, session) {
            shard.command(Command::internal(CommandBody::ReleaseOrphan { ino, session })).await?;
        }
    }
    Ok(())
}

/// Settles transactions whose coordinator is gone: prepared parts, the rename lock, old aborts.
pub async fn resolve_left_over(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<(), FsError> {
    let (mut after, mut unsettled) = (None, None);
    loop {
        let prepared = shard.read(|view, _| pending::prepared(view, after, PAGE)).await??;
        let Some(last) = prepared.last() else { break };
        after = Some(*last);
        for tx in prepared {
            match verdict(core, tx).await {
                Ok(Verdict::Aborted) => {
                    shard.command(Command::internal(CommandBody::Txn(TxnCommand::Abort { tx }))).await?;
                }
                Ok(_) => {}
                Err(error) if error.is_failure() => unsettled = Some(error),
                Err(_) => {}
            }
        }
    }
    shard.unsettled.set(unsettled);
    if shard.id() == InodeId::ROOT.shard() {
        let holder = shard.read(|view, _| pending::rename_lock(view, VolumeId::new(0))).await??;
        for tx in holder {
            if verdict(core, tx).await.is_ok_and(|v| v != Verdict::Pending) {
                let release = TxnCommand::ReleaseRenameLock { tx };
                shard.command(Command::internal(CommandBody::Txn(release))).await?;
            }
        }
    }
    let term = shard.replica.term();
    let aborted = shard.read(|view, _| pending::aborted(view, None, PAGE)).await??;
    let transactions: Vec<TxId> = aborted.into_iter().filter(|tx| tx.term < term).collect();
    if !transactions.is_empty() {
        let forget = TxnCommand::Forget { transactions };
        shard.command(Command::internal(CommandBody::Txn(forget))).await?;
    }
    Ok(())
}

/// What became of a transaction, as its own shard says; one that is too old is aborted.
async fn verdict(core: &Rc<Core>, tx: TxId) -> Result<Verdict, FsError> {
    let age = core.clock.last().get().saturating_sub(tx.sequence);
    let force = age > Timestamp::from_wall_ms(DEAD_AFTER_MS).get();
    let command = Command::internal(CommandBody::Txn(TxnCommand::Resolve { tx, force }));
    let owner = core.config.owner(tx.shard.into());
    match core.peers.call(owner, CoreRequest::Execute(tx.shard, Box::new(command), Vec::new())).await {
        CoreReply::Executed(Remote { result: Ok(Answer::Txn(TxnReply::Verdict(verdict))), .. }) => Ok(verdict),
        CoreReply::Executed(Remote { result: Err(error), .. }) => Err(error),
        _ => Err(FsError::WrongShard),
    }
}

/// A session's pins on those unlinked inodes of a shard that `wanted` picks are over.
pub async fn release_orphans(
    shard: &Rc<Shard>,
    session: SessionId,
    wanted: impl Fn(InodeId) -> bool,
) -> Result<(), FsError> {
    let mut after = None;
    loop {
        let page = shard.read(|view, _| pending::orphans(view, after, PAGE)).await??;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(*last);
        for (ino, holder) in page {
            if holder == session && wanted(ino) {
                let body = CommandBody::ReleaseOrphan { ino, session };
                shard.command(Command::internal(body)).await?;
            }
        }
    }
}
