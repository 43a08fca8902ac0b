//! Sessions that are over: what they asked for and was not proposed yet never will be.
//!
//! The control group has committed a session's end before a core is told of it here. A core that
//! starts anew needs nothing from before: only sessions that are open then get in.

use cfs_types::SessionId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// Who may not ask any more.
#[derive(Default)]
pub struct Fence {
    /// All sessions below are over.
    floor: Cell<SessionId>,
    /// So are these, above it.
    ended: RefCell<BTreeSet<SessionId>>,
}

impl Fence {
    /// The session is over, and so are all below `floor`, the oldest that is open.
    pub fn end(&self, session: SessionId, floor: SessionId) {
        let mut ended = self.ended.borrow_mut();
        ended.insert(session);
        self.floor.set(self.floor.get().max(floor));
        *ended = ended.split_off(&self.floor.get());
    }

    /// Whether a session is over. Number 0 stands for the server itself and never is.
    pub fn is_over(&self, session: SessionId) -> bool {
        let is_client = session != SessionId::default();
        is_client && (session < self.floor.get() || self.ended.borrow().contains(&session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_sessions_stay_out_and_those_below_the_oldest_open_one_need_no_room() {
        let fence = Fence::default();
        let session = SessionId::new;
        fence.end(session(3), session(2));
        fence.end(session(5), session(2));
        let over: Vec<u64> = (1..8).filter(|n| fence.is_over(session(*n))).collect();
        assert_eq!(over, [1, 3, 5]);
        fence.end(session(2), session(6));
        let over: Vec<u64> = (1..8).filter(|n| fence.is_over(session(*n))).collect();
        assert_eq!(over, [1, 2, 3, 4, 5]);
        assert!(fence.ended.borrow().is_empty());
        assert!(!fence.is_over(SessionId::default()), "what the server asks for itself always goes on");
    }
}
