//! Sessions, on core 0: issued and ended by the control group, alive while a core hears of them; and the starts of the
//! server, which it remembers.

use crate::core::Core;
use crate::former::Issued;
use crate::machine::{GroupAnswer, GroupCommand};
use crate::messages::{CoreReply, CoreRequest};
use crate::shard::Shard;
use bytes::Bytes;
use cfs_cluster::{ControlAnswer, ControlCommand, Lineage, Start};
use cfs_seam::{Class, gather, spawn, timeout};
use cfs_types::{CoreId, FsError, GroupId, SessionId, ShardId, Timestamp};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Most sessions; for a further one the longest silent one ends, if it is silent for long enough.
const SESSIONS_MAX: usize = 4096;
/// A live client is heard of twice in this time.
const SILENT_FOR: Duration = Duration::from_secs(120);
/// Longest a shard is waited for to say how far it was.
const TAKEN_OVER_TIME: Duration = Duration::from_secs(5);
/// Sessions looked at in one step.
const PAGE: usize = 256;

fn control(core: &Rc<Core>) -> Result<Rc<Shard>, FsError> {
    core.groups.get(&GroupId::CONTROL).cloned().ok_or(FsError::WrongShard)
}

/// The starts of the server, this one among them: it is made known before anybody is let in.
pub async fn lineage(core: &Rc<Core>) -> Result<Arc<Lineage>, FsError> {
    let _turn = core.beginning.acquire(1).await;
    if let Some(known) = core.lineage.borrow().clone() {
        return Ok(known);
    }
    let group = control(core)?;
    let mut taken_over = vec![Timestamp::MAX; ShardId::all().count()];
    let asked = (0..core.config.cores).map(|of| core.peers.call(CoreId::new(of), CoreRequest::TakenOver));
    for reply in gather(asked, usize::from(core.config.cores)).await {
        let CoreReply::TakenOver(shards) = reply else { return Err(FsError::Busy) };
        shards.iter().for_each(|(shard, at)| taken_over[usize::from(shard.get())] = *at);
    }
    let command = ControlCommand::Begin(Start { incarnation: core.config.incarnation, taken_over });
    let executed = group.replica.propose(GroupCommand::Control(command), Bytes::new(), Vec::new()).await?;
    executed.result?;
    let known = Arc::new(group.read(|view, _| cfs_cluster::lineage(view)).await?);
    *core.lineage.borrow_mut() = Some(known.clone());
    Ok(known)
}

/// How far the shards of this core were when they were taken up. One that cannot be used is not among them.
pub async fn taken_over(core: &Rc<Core>) -> Vec<(ShardId, Timestamp)> {
    let end = core.world.clock.now().after(TAKEN_OVER_TIME);
    let mut all = Vec::new();
    for shard in core.groups.values() {
        let Some(id) = shard.group().shard() else { continue };
        if let Some(Ok(())) = timeout(&core.world.clock, end, shard.replica.ready()).await {
            all.push((id, shard.replica.taken_over_at()));
        }
    }
    all
}

/// Issues a session, or confirms that the wanted one is open.
pub async fn open_session(core: &Rc<Core>, wanted: Option<SessionId>) -> Result<SessionId, FsError> {
    let group = control(core)?;
    lineage(core).await?;
    if let Some(session) = wanted {
        let open = group.read(|view, _| cfs_cluster::is_open(view, session)).await?;
        if open {
            alive(core, &[session]);
            return Ok(session);
        }
        return Err(FsError::SessionExpired);
    }
    make_room(core).await?;
    let command = ControlCommand::OpenSession { now: core.clock.now() };
    let executed = group.replica.propose(GroupCommand::Control(command), Bytes::new(), Vec::new()).await?;
    match executed.result? {
        GroupAnswer::Control(ControlAnswer::Opened(session)) => {
            alive(core, &[session]);
            Ok(session)
        }
        _ => Err(FsError::Invalid),
    }
}

/// Sees to it that the sessions stay bounded: `Busy` where all of them are alive.
async fn make_room(core: &Rc<Core>) -> Result<(), FsError> {
    let silent = {
        let seen = core.last_seen.borrow();
        if seen.len() < SESSIONS_MAX {
            return Ok(());
        }
        seen.iter().min_by_key(|(_, at)| **at).map(|(session, at)| (*session, *at))
    };
    match silent {
        Some((session, at)) if core.world.clock.now().since(at) >= SILENT_FOR => {
            if close(core, session).await {
                let owner = core.clone();
                let task = async move { forget(&owner, session).await };
                spawn(&core.world.tasks, Class::Background, task).detach();
            }
            Ok(())
        }
        _ => Err(FsError::Busy),
    }
}

/// Ends a session for good: fenced first, then its leases, pins and results go everywhere.
pub async fn end_session(core: &Rc<Core>, session: SessionId) {
    if close(core, session).await {
        forget(core, session).await;
    }
}

/// Commits that the session is over.
async fn close(core: &Rc<Core>, session: SessionId) -> bool {
    let Ok(group) = control(core) else { return false };
    let command = GroupCommand::Control(ControlCommand::EndSession { session });
    if group.replica.propose(command, Bytes::new(), Vec::new()).await.is_err() {
        return false;
    }
    // At once: what other cores still have heard of it comes too late.
    core.fence.end(session);
    core.last_seen.borrow_mut().remove(&session);
    true
}

/// Has every core forget a session that is over. None waits for another: one may have to wait for what the
/// session has under way there.
async fn forget(core: &Rc<Core>, session: SessionId) {
    let cores = (0..core.config.cores).map(CoreId::new);
    let forgetting = cores.map(|to| core.peers.call(to, CoreRequest::DropSession(session)));
    gather(forgetting, usize::from(core.config.cores)).await;
}

/// Notes that sessions were heard of. Those that are over count as sessions no more, whoever has heard of them.
pub fn alive(core: &Rc<Core>, sessions: &[SessionId]) {
    let now = core.world.clock.now();
    let mut seen = core.last_seen.borrow_mut();
    for session in sessions.iter().filter(|session| !core.fence.is_over(**session)) {
        seen.insert(*session, now);
    }
}

/// All open sessions.
pub async fn open_sessions(core: &Rc<Core>) -> Result<Vec<SessionId>, FsError> {
    let group = control(core)?;
    let mut all: Vec<SessionId> = Vec::new();
    loop {
        let after = all.last().copied().unwrap_or_default();
        let page = group.read(|view, _| cfs_cluster::open_sessions(view, after, PAGE)).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// What the control group knows of sessions.
pub async fn issued(core: &Rc<Core>) -> Result<Issued, FsError> {
    // In this order: a session that is opened meanwhile is in the list, or not below the number.
    let next = control(core)?.read(|view, _| cfs_cluster::next_session(view)).await?;
    let open = open_sessions(core).await?;
    Ok(Issued { open, next })
}

/// Ends the sessions that no core has heard of for too long, each by itself.
pub async fn expire(core: &Rc<Core>) -> Result<(), FsError> {
    let now = core.world.clock.now();
    for session in open_sessions(core).await? {
        if core.fence.is_over(session) {
            continue;
        }
        let seen = *core.last_seen.borrow_mut().entry(session).or_insert(now);
        if now.since(seen) <= core.config.session_life {
            continue;
        }
        // Once: its end may take longer than the time to the next look.
        alive(core, &[session]);
        let owner = core.clone();
        let task = async move { end_session(&owner, session).await };
        spawn(&core.world.tasks, Class::Background, task).detach();
    }
    Ok(())
}
