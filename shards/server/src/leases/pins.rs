//! What sessions hold open: pins, with a limit on all of a core and a lower one on those of one session.
//!
//! Invariant: what a session was told that it holds open is not refused to it when it only says so
//! again, after a restart or when asked for a lease. That goes by the limit of the whole server, which
//! holds wherever its shards lie now.

use super::Leases;
use cfs_types::{FsError, InodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// Memory of an inode that is open and has no lease: 64 bytes in a node that is two thirds full, and a
/// small allocation.
pub const PIN_BYTES: usize = 128;

/// How many inodes may be open; one that several sessions hold counts for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinLimits {
    /// On this core.
    pub core: usize,
    /// On this core by one session.
    pub session: usize,
    /// On all cores.
    pub server: usize,
}

/// So many of each session; none of them has 0.
#[derive(Default)]
struct Counts {
    all: usize,
    of: BTreeMap<SessionId, usize>,
}

impl Counts {
    fn get(&self, session: SessionId) -> usize {
        self.of.get(&session).copied().unwrap_or(0)
    }

    fn add(&mut self, session: SessionId) {
        self.all += 1;
        *self.of.entry(session).or_default() += 1;
    }

    fn sub(&mut self, session: SessionId) {
        self.all -= 1;
        match self.get(session) {
            1 => drop(self.of.remove(&session)),
            own => drop(self.of.insert(session, own - 1)),
        }
    }
}

/// How many there are.
pub(super) struct Pins {
    limits: PinLimits,
    held: Counts,
    /// Places taken for what is about to be opened.
    opening: Counts,
    /// Sessions that hold more open than there are pins of theirs.
    unsaid: BTreeSet<SessionId>,
}

impl Pins {
    pub fn new(limits: PinLimits) -> Self {
        Pins { limits, held: Counts::default(), opening: Counts::default(), unsaid: BTreeSet::new() }
    }

    fn has_room(&self, session: SessionId) -> bool {
        self.held.all + self.opening.all < self.limits.core
            && self.held.get(session) + self.opening.get(session) < self.limits.session
    }

    pub fn end_session(&mut self, session: SessionId) {
        self.held.all -= self.held.of.remove(&session).unwrap_or(0);
        self.unsaid.remove(&session);
    }
}

/// Room for one inode that a session is about to open. Give it back with [`Leases::vacate`].
#[must_use]
pub struct Place(SessionId);

impl Leases {
    /// Takes a place for what the session is about to open.
    pub fn place(&mut self, session: SessionId) -> Result<Place, FsError> {
        if !self.pins.has_room(session) {
            return Err(FsError::TooManyOpen);
        }
        self.pins.opening.add(session);
        Ok(Place(session))
    }

    /// The place is free again: for the inode that it was taken for, or for another.
    pub fn vacate(&mut self, place: Place) {
        self.pins.opening.sub(place.0);
    }

    /// The session holds the inode open, where there is room.
    pub fn open(&mut self, ino: InodeId, session: SessionId) -> Result<(), FsError> {
        if !self.is_pinned_by(ino, session) && !self.pins.has_room(session) {
            return Err(FsError::TooManyOpen);
        }
        self.pin(ino, session);
        Ok(())
    }

    /// The session says that it holds the inode open already. An error leaves it without a pin.
    pub fn reopen(&mut self, ino: InodeId, session: SessionId) -> Result<(), FsError> {
        if !self.is_pinned_by(ino, session) && self.pins.held.all >= self.pins.limits.server {
            self.pins.unsaid.insert(session);
            return Err(FsError::TooManyOpen);
        }
        self.pin(ino, session);
        Ok(())
    }

    /// Whether what the session has no pin on is not open: none that it told of was refused.
    pub fn has_every_pin(&self, session: SessionId) -> bool {
        !self.pins.unsaid.contains(&session)
    }

    fn pin(&mut self, ino: InodeId, session: SessionId) {
        if !self.is_pinned_by(ino, session) {
            self.objects.entry(ino).or_default().pins.get_or_insert(session, ());
            self.pins.held.add(session);
        }
    }

    /// The session's last descriptor is closed.
    pub fn unpin(&mut self, ino: InodeId, session: SessionId) {
        if let Some(object) = self.objects.get_mut(&ino)
            && object.pins.remove(session).is_some()
        {
            self.pins.held.sub(session);
        }
        self.tidy(ino);
    }

    /// Sessions that hold the inode open.
    pub fn pinned_by(&self, ino: InodeId) -> Vec<SessionId> {
        self.objects.get(&ino).map(|o| o.pins.sessions().collect()).unwrap_or_default()
    }

    /// Whether the session holds the inode open.
    pub fn is_pinned_by(&self, ino: InodeId, session: SessionId) -> bool {
        self.objects.get(&ino).is_some_and(|o| o.pins.get(session).is_some())
    }

    /// How many inodes sessions hold open, and most.
    pub fn opens(&self) -> (usize, usize) {
        (self.pins.held.all, self.pins.limits.core)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: SessionId = SessionId::new(1);
    const B: SessionId = SessionId::new(2);
    const FULL: Result<(), FsError> = Err(FsError::TooManyOpen);

    fn nth(n: u64) -> InodeId {
        InodeId::from_raw(n).expect("valid")
    }
    fn table() -> Leases {
        Leases::new(Duration::from_secs(2), 100, PinLimits { core: 4, session: 3, server: 6 })
    }

    #[test]
    fn a_session_has_less_room_than_all_and_what_is_closed_makes_room() {
        let mut t = table();
        for n in [1, 2, 3, 3] {
            assert_eq!(t.open(nth(n), A), Ok(()), "{n}");
        }
        assert_eq!(t.open(nth(4), A), FULL, "its own room is used up");
        assert_eq!(t.open(nth(3), B), Ok(()));
        assert_eq!(t.open(nth(2), B), FULL, "everybody's is");
        assert_eq!(t.open(nth(3), B), Ok(()), "it holds it already");
        t.unpin(nth(1), A);
        t.unpin(nth(1), A);
        assert_eq!(t.open(nth(2), B), Ok(()));
        assert_eq!(t.opens(), (4, 4));
        t.end_session(A);
        t.end_session(B);
        assert_eq!((t.opens(), t.objects()), ((0, 4), 0));
    }

    #[test]
    fn a_place_is_kept_for_who_took_it() {
        let mut t = table();
        let places = [t.place(A), t.place(A), t.place(A)];
        assert_eq!(t.place(A).err(), Some(FsError::TooManyOpen));
        assert_eq!(t.open(nth(1), A), FULL);
        t.end_session(A);
        for (n, place) in (1..).zip(places) {
            t.vacate(place.expect("room"));
            assert_eq!(t.open(nth(n), A), Ok(()));
        }
        assert_eq!(t.open(nth(4), A), FULL);
    }

    #[test]
    fn what_was_open_is_open_again_up_to_what_the_whole_server_holds() {
        let mut t = table();
        for n in 1..=6 {
            assert_eq!(t.reopen(nth(n), A), Ok(()), "{n}");
        }
        assert!(t.has_every_pin(A));
        assert_eq!(t.reopen(nth(7), A), FULL);
        assert_eq!(t.reopen(nth(6), A), Ok(()));
        assert!(!t.has_every_pin(A) && t.has_every_pin(B));
        assert_eq!(t.open(nth(1), A), Ok(()));
        assert_eq!(t.open(nth(8), B), FULL, "until there is room for all again");
        (1..=3).for_each(|n| t.unpin(nth(n), A));
        assert_eq!(t.open(nth(8), B), Ok(()));
    }
}
