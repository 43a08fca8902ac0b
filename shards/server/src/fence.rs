//! Sessions that are over: what they asked for and was not proposed yet never will be.
//!
//! The control group has committed a session's end before a core is told of it here. A core that starts is told
//! of all that ended before; until then only sessions that are open get in. So no shard has to know a session
//! that is over: a late request of it is refused here, wherever it waited.
//!
//! Invariant: numbers are kept as ranges, so that what ended between two sessions that are open needs room once.

use cfs_types::SessionId;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Who may not ask any more.
#[derive(Default)]
pub struct Fence {
    /// The first session of each range, and one past its last. No two touch.
    over: RefCell<BTreeMap<SessionId, SessionId>>,
}

impl Fence {
    /// The session is over.
    pub fn end(&self, session: SessionId) {
        self.end_range(session, session.next());
    }

    /// All sessions below `next` are over but those that are open, in rising order.
    pub fn end_all_but(&self, open: &[SessionId], next: SessionId) {
        let mut from = SessionId::default();
        for session in open {
            self.end_range(from, *session);
            from = session.next();
        }
        self.end_range(from, next);
    }

    fn end_range(&self, mut first: SessionId, mut end: SessionId) {
        if first >= end {
            return;
        }
        let mut over = self.over.borrow_mut();
        while let Some((from, to)) = over.range(..=end).next_back().map(|(from, to)| (*from, *to))
            && to >= first
        {
            over.remove(&from);
            (first, end) = (first.min(from), end.max(to));
        }
        over.insert(first, end);
    }

    /// Whether a session is over. Number 0 stands for the server itself and never is.
    pub fn is_over(&self, session: SessionId) -> bool {
        let is_client = session != SessionId::default();
        is_client && self.over.borrow().range(..=session).next_back().is_some_and(|(_, end)| session < *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u64) -> SessionId {
        SessionId::new(number)
    }

    fn over(fence: &Fence) -> Vec<u64> {
        (0..12).filter(|n| fence.is_over(session(*n))).collect()
    }

    #[test]
    fn ended_sessions_stay_out_and_need_room_only_between_those_that_are_open() {
        let fence = Fence::default();
        for number in [3, 5, 9, 4, 9] {
            fence.end(session(number));
        }
        assert_eq!(over(&fence), [3, 4, 5, 9]);
        assert_eq!(fence.over.borrow().len(), 2);
        // 1, 6 and 7 are open all the time.
        for number in [2, 8].into_iter().chain(10..10_000) {
            fence.end(session(number));
        }
        assert_eq!(over(&fence), [2, 3, 4, 5, 8, 9, 10, 11]);
        assert_eq!(fence.over.borrow().len(), 2);
        assert!(!fence.is_over(session(10_000)));
    }

    #[test]
    fn what_ended_before_the_start_is_over_and_what_ended_since_stays_so() {
        let fence = Fence::default();
        fence.end(session(6));
        fence.end_all_but(&[session(2), session(6), session(7)], session(10));
        assert_eq!(over(&fence), [1, 3, 4, 5, 6, 8, 9]);
        assert!(!fence.is_over(SessionId::default()), "what the server asks for itself always goes on");
        fence.end_all_but(&[], session(1));
        assert_eq!(over(&fence), [1, 3, 4, 5, 6, 8, 9]);
    }
}
