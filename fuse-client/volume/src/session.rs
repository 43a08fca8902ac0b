//! The session: its number, the numbers of its mutations, its hybrid clock.
//!
//! Invariants: a number names one mutation for ever; `oldest` never passes a mutation whose
//! outcome the caller still waits for.

use cfs_types::{RequestNumber, SessionId, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

pub(crate) struct Session {
    id: Cell<SessionId>,
    /// Rises when the server expired a session and another one takes its place.
    generation: Cell<u64>,
    /// Random, for the life of this process.
    pub instance: u64,
    next: Cell<RequestNumber>,
    outstanding: RefCell<BTreeSet<RequestNumber>>,
    clock: Cell<Timestamp>,
    cluster: Cell<Option<[u8; 16]>>,
    /// Somebody is asking for a new session: others wait for it.
    asking: Cell<bool>,
}

/// A mutation's number; counted as outstanding until dropped.
pub(crate) struct Numbered {
    session: Rc<Session>,
    pub number: RequestNumber,
    pub generation: u64,
}

impl Drop for Numbered {
    fn drop(&mut self) {
        if self.generation == self.session.generation.get() {
            self.session.outstanding.borrow_mut().remove(&self.number);
        }
    }
}

/// The right to ask for a new session.
pub(crate) struct Asking(Rc<Session>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asking.set(false);
    }
}

impl Session {
    /// A session that the first connection asks for.
    pub fn new(instance: u64, wall_ms: u64) -> Self {
        Session {
            id: Cell::default(),
            generation: Cell::new(0),
            instance,
            next: Cell::new(RequestNumber::new(1)),
            outstanding: RefCell::default(),
            clock: Cell::new(Timestamp::from_wall_ms(wall_ms)),
            cluster: Cell::new(None),
            asking: Cell::new(false),
        }
    }

    pub fn id(&self) -> SessionId {
        self.id.get()
    }
    pub fn has_id(&self) -> bool {
        self.id.get() != SessionId::default()
    }
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }
    pub fn clock(&self) -> Timestamp {
        self.clock.get()
    }
    /// A reply's timestamp: later requests carry it.
    pub fn observe(&self, timestamp: Timestamp) {
        self.clock.set(self.clock.get().max(timestamp));
    }

    /// The next mutation's number.
    pub fn number(self: &Rc<Self>) -> Numbered {
        let number = self.next.get();
        self.next.set(number.next());
        self.outstanding.borrow_mut().insert(number);
        Numbered { session: self.clone(), number, generation: self.generation.get() }
    }

    /// Results below this number may be forgotten.
    pub fn oldest(&self) -> RequestNumber {
        self.outstanding.borrow().first().copied().unwrap_or(self.next.get())
    }

    /// The right to connect without a session; None while another task has it.
    pub fn ask(self: &Rc<Self>) -> Option<Asking> {
        (!self.asking.replace(true)).then(|| Asking(self.clone()))
    }

    /// Takes what the welcome says. False where it is another cluster's or another session's.
    pub fn welcome(&self, id: SessionId, cluster: [u8; 16]) -> bool {
        if self.cluster.get().is_some_and(|known| known != cluster) || id == SessionId::default() {
            return false;
        }
        if self.has_id() && self.id.get() != id {
            return false;
        }
        self.cluster.set(Some(cluster));
        self.id.set(id);
        true
    }

    /// The server has expired the session of `generation`: the next connection asks for a new
    /// one. False where that has been noticed already.
    pub fn expire(&self, generation: u64) -> bool {
        if generation != self.generation.get() {
            return false;
        }
        self.generation.set(generation + 1);
        self.id.set(SessionId::default());
        self.outstanding.borrow_mut().clear();
        self.next.set(RequestNumber::new(1));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_waits_for_the_slowest_mutation() {
        let session = Rc::new(Session::new(7, 0));
        assert_eq!(session.oldest(), RequestNumber::new(1));
        let (first, second) = (session.number(), session.number());
        drop(second);
        assert_eq!(session.oldest(), first.number);
        drop(first);
        assert_eq!(session.oldest(), RequestNumber::new(3));
    }

    #[test]
    fn a_session_expires_once_and_another_cluster_is_refused() {
        let session = Rc::new(Session::new(1, 0));
        assert!(session.welcome(SessionId::new(5), [1; 16]));
        assert!(!session.welcome(SessionId::new(6), [1; 16]), "another session");
        assert!(session.expire(0));
        assert!(!session.expire(0));
        assert!(!session.welcome(SessionId::new(6), [2; 16]), "another cluster");
        assert!(session.welcome(SessionId::new(6), [1; 16]));
    }
}
