//! Sessions of before a start: until when they are waited for, and what is left of those that
//! ended just before it.
//!
//! Invariant: nothing that a lease of an earlier start may forbid happens before its session is
//! back on this core, or the lease's term is over.

use crate::coordinate::release_orphans;
use crate::core::Core;
use crate::shard::Shard;
use cfs_namespace::{Command, CommandBody, pending};
use cfs_seam::Instant;
use cfs_types::{FsError, SessionId};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Sessions or orphans looked at in one step.
const PAGE: usize = 64;

/// What the control group knew of sessions at start.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Those that were open.
    pub open: Vec<SessionId>,
    /// All below were issued before.
    pub next: SessionId,
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

/// Forgets what a crash in the middle of a session's end left in this core's shards.
pub async fn forget_ended(core: &Rc<Core>, issued: &Issued) -> Result<(), FsError> {
    let is_over = |session: SessionId| session < issued.next && !issued.open.contains(&session);
    for shard in core.groups.values().filter(|s| s.group().shard().is_some()) {
        let mut over = BTreeSet::new();
        let mut after = None;
        loop {
            let page = shard.read(|view, _| pending::sessions(view, after, PAGE)).await??;
            over.extend(page.iter().copied().filter(|session| is_over(*session)));
            after = page.last().copied();
            if after.is_none() {
                break;
            }
        }
        let mut after = None;
        loop {
            let page = shard.read(|view, _| pending::orphans(view, after, PAGE)).await??;
            over.extend(page.iter().map(|(_, session)| *session).filter(|session| is_over(*session)));
            after = page.last().copied();
            if after.is_none() {
                break;
            }
        }
        for session in over {
            forget_in(shard, session).await;
        }
    }
    Ok(())
}

/// Forgets an ended session's results and pins in one shard. What fails is found again at the
/// next start. The session is behind the fence: what of it is on its way is executed before its end.
pub async fn forget_in(shard: &Rc<Shard>, session: SessionId) {
    let quiet = shard.replica.is_quiet();
    let known = shard.read(|view, _| pending::knows_session(view, session)).await;
    if !quiet || matches!(known, Ok(true)) {
        let _failed = shard.command(Command::internal(CommandBody::ExpireSession { session })).await;
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
