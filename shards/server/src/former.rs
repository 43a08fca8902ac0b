//! Sessions of before a start: until when they are waited for, and what is left of those that
//! ended just before it.
//!
//! Invariant: nothing that a lease of an earlier start may forbid happens before its session is
//! back on this core, or the lease's term is over.

use crate::coordinate::release_orphans;
use crate::core::Core;
use crate::log_room::Asker;
use crate::shard::Shard;
use cfs_namespace::{Command, CommandBody, pending};
use cfs_seam::{Instant, gather};
use cfs_types::{FsError, SessionId};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Sessions or orphans looked at in one step.
const PAGE: usize = 64;
/// Shards in which sessions are forgotten at once: their commands share flushes.
const SHARDS_AT_ONCE: usize = 8;

/// What the control group knew of sessions at start.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Those that were open, in rising order.
    pub open: Vec<SessionId>,
    /// All below were issued before.
    pub next: SessionId,
}

impl Issued {
    fn is_over(&self, session: SessionId) -> bool {
        session < self.next && self.open.binary_search(&session).is_err()
    }
}

/// Who may hold leases of an earlier start at this core.
pub struct Former {
    until: Instant,
    /// Not back yet; None before core 0 has said who was open.
    away: RefCell<Option<BTreeSet<SessionId>>>,
    /// Back before that.
    back: RefCell<BTreeSet<SessionId>>,
}

impl Former {
    /// Leases of an earlier start end at `until` at the latest.
    pub fn new(until: Instant) -> Self {
        Former { until, away: RefCell::new(None), back: RefCell::default() }
    }

    /// Takes who was open.
    pub fn know(&self, open: &[SessionId]) {
        let back = std::mem::take(&mut *self.back.borrow_mut());
        let away = open.iter().filter(|session| !back.contains(session));
        *self.away.borrow_mut() = Some(away.copied().collect());
    }

    /// A session has said what it holds, or is over.
    pub fn returned(&self, session: SessionId) {
        match &mut *self.away.borrow_mut() {
            Some(away) => drop(away.remove(&session)),
            None => drop(self.back.borrow_mut().insert(session)),
        }
    }

    /// Until when requests must wait, as things are now.
    pub fn wait(&self, now: Instant) -> Option<Instant> {
        let waiting = self.away.borrow().as_ref().is_none_or(|away| !away.is_empty());
        (waiting && now < self.until).then_some(self.until)
    }
}

/// Forgets what is left in this core's shards of sessions that were over at start: by a crash in the middle of
/// their end, or by a version that kept their records. What fails is found again at the next start.
pub async fn forget_ended(core: &Rc<Core>, issued: &Issued) {
    let shards = core.groups.values().filter(|s| s.group().shard().is_some());
    let forgetting = shards.map(|shard| async {
        let _failed = forget_ended_in(core, shard, issued).await;
    });
    gather(forgetting, SHARDS_AT_ONCE).await;
}

async fn forget_ended_in(core: &Rc<Core>, shard: &Rc<Shard>, issued: &Issued) -> Result<(), FsError> {
    let mut after = None;
    loop {
        let page = shard.read(|view, _| pending::sessions(view, after, PAGE)).await??;
        let Some(last) = page.last() else { break };
        after = Some(*last);
        let sessions: Vec<SessionId> = page.into_iter().filter(|session| issued.is_over(*session)).collect();
        if !sessions.is_empty() {
            let _place = core.log_place(Asker::FollowUp, 0).await;
            shard.command(Command::internal(CommandBody::ForgetSessions { sessions })).await?;
        }
    }
    let mut after = None;
    loop {
        let page = shard.read(|view, _| pending::orphans(view, after, PAGE)).await??;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(*last);
        for (ino, session) in page.into_iter().filter(|(_, session)| issued.is_over(*session)) {
            let _place = core.log_place(Asker::FollowUp, 0).await;
            shard.command(Command::internal(CommandBody::ReleaseOrphan { ino, session })).await?;
        }
    }
}

/// Forgets an ended session's results, record and pins in one shard. What fails is found again at the
/// next start. The session is behind the fence: what of it is on its way is executed before it is forgotten.
pub async fn forget_in(shard: &Rc<Shard>, session: SessionId) {
    let quiet = shard.replica.is_quiet();
    let known = shard.read(|view, _| pending::knows_session(view, session)).await;
    if !quiet || matches!(known, Ok(true)) {
        let body = CommandBody::ForgetSessions { sessions: vec![session] };
        let _failed = shard.command(Command::internal(body)).await;
    }
    let _failed = release_orphans(shard, session, |_| true).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId::new(1);
    const B: SessionId = SessionId::new(2);

    #[test]
    fn requests_wait_until_all_are_back_or_the_term_is_over() {
        let (now, until) = (Instant::new(5), Instant::new(10));
        let former = Former::new(until);
        assert_eq!(former.wait(now), Some(until), "nobody has said who was open");
        former.returned(B);
        former.know(&[A, B]);
        assert_eq!((former.wait(now), former.wait(until)), (Some(until), None));
        former.returned(A);
        assert_eq!(former.wait(now), None);
    }
}
