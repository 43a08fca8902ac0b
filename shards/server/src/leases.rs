//! Who may cache what: the lease table of one shard.
//!
//! Sans-I/O. Leases are memory only: after a restart every session that was open is taken to hold some
//! (`former`, docs/decisions/0010). A lease ends by itself when its session has been
//! silent for the term; until then a conflicting request waits for the holder's answer. Behind an
//! exclusive one there may be written bytes: before the request goes on, the broken lease is committed,
//! so that these bytes are refused whenever they arrive.
//!
//! Memory is bounded: where the table is full, holders of other objects are asked to give way, and
//! until they have nothing more is granted. What is open cannot be asked back, so opens beyond a limit
//! are refused (`pins`).
//!
//! Invariants: while a change is in progress on an object nobody is granted a lease on it; a
//! session never waits for itself, so that a holder asked to give way can still write back.

mod few;
mod pins;

use cfs_seam::Instant;
use cfs_types::{InodeId, SessionId};
use cfs_wire::LeaseKind;
use few::Few;
use pins::Pins;
pub use pins::{PIN_BYTES, PinLimits, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Memory of an object with one holder and one pin: 64 bytes in a node that is two thirds full, and
/// two small allocations.
pub const OBJECT_BYTES: usize = 208;
/// Objects looked at when one is to give way to another.
const RELIEF_LOOK: usize = 16;

/// A holder that is alive but has not answered a revocation for this many terms is fenced: it may be
/// writing back, so it gets longer than a silent one.
const GIVE_WAY_TERMS: u32 = 5;

/// What a request is about to do to an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// Conflicts with exclusive leases of others.
    Read,
    /// Conflicts with every lease of others.
    Change,
}

/// A holder to be asked to give way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// Holder.
    pub session: SessionId,
    /// Object.
    pub ino: InodeId,
    /// Names this revocation in the answer.
    pub sequence: u64,
}

/// Whether a request may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clearance {
    /// Nobody else holds a conflicting lease.
    Clear,
    /// Somebody held the object exclusively and did not give way in time: commit that it is taken,
    /// tell with [`Leases::taken`], and ask again.
    Broken,
    /// Look again when a holder answers, or at this time at the latest.
    WaitUntil(Instant),
}

struct Holding {
    kind: LeaseKind,
    granted: Instant,
    /// The revocation it was asked with; 0 while it was not.
    asked: u64,
    /// When somebody first waited for its answer.
    waited_from: Option<Instant>,
    /// It did not give way in time: the object is being taken.
    broken: bool,
}

#[derive(Default)]
struct Object {
    holders: Few<Holding>,
    pins: Few<()>,
    changes: u32,
    reads: u32,
}

impl Object {
    fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.pins.is_empty() && self.changes == 0 && self.reads == 0
    }
}

/// The table.
pub struct Leases {
    term: Duration,
    objects: BTreeMap<InodeId, Object>,
    renewed: BTreeMap<SessionId, Instant>,
    /// Sessions that lost leases by silence and were not told yet.
    lapsed: BTreeSet<SessionId>,
    /// Sessions that are alive but did not give way, to be cut off.
    fenced: BTreeSet<SessionId>,
    next_sequence: u64,
    /// Objects beyond which nothing more is granted.
    objects_max: usize,
    /// Where the next object that is to give way is looked for.
    hand: Option<InodeId>,
    /// How many inodes each session holds open.
    pins: Pins,
}

impl Leases {
    /// `term`: how long a silent session's leases stand in others' way. With `objects_max` objects
    /// the table is full; only what is open or being changed takes it beyond that.
    pub fn new(term: Duration, objects_max: usize, pins: PinLimits) -> Self {
        Leases {
            term,
            objects_max,
            pins: Pins::new(pins),
            hand: None,
            objects: BTreeMap::new(),
            renewed: BTreeMap::new(),
            lapsed: BTreeSet::new(),
            fenced: BTreeSet::new(),
            next_sequence: 1,
        }
    }

    /// Announces a request of `by`; returns the holders to ask. Pair with [`Leases::end`].
    pub fn begin(&mut self, ino: InodeId, by: SessionId, intent: Intent) -> Vec<Revocation> {
        let object = self.objects.entry(ino).or_default();
        match intent {
            Intent::Read => object.reads += 1,
            Intent::Change => object.changes += 1,
        }
        let mut asked = Vec::new();
        for (session, holding) in object.holders.iter_mut() {
            if session != by && conflicts(holding.kind, intent) && holding.asked == 0 {
                holding.asked = self.next_sequence;
                asked.push(Revocation { session, ino, sequence: self.next_sequence });
                self.next_sequence += 1;
            }
        }
        asked
    }

    /// Whether a request announced with [`Leases::begin`] may go on now.
    pub fn clearance(&mut self, ino: InodeId, by: SessionId, intent: Intent, now: Instant) -> Clearance {
        let (term, renewed, lapsed) = (self.term, &self.renewed, &mut self.lapsed);
        let fenced = &mut self.fenced;
        let Some(object) = self.objects.get_mut(&ino) else { return Clearance::Clear };
        let (mut latest, mut broken) = (None, false);
        object.holders.retain(|session, holding| {
            if session == by || !conflicts(holding.kind, intent) {
                return true;
            }
            let seen = renewed.get(&session).copied().unwrap_or_default().max(holding.granted);
            let patience = holding.waited_from.get_or_insert(now).after(term * GIVE_WAY_TERMS);
            if patience <= now {
                fenced.insert(session);
            }
            let ends = seen.after(term).min(patience);
            if ends > now {
                latest = latest.max(Some(ends));
                return true;
            }
            if holding.kind == LeaseKind::Exclusive {
                holding.broken = true;
                broken = true;
                return true;
            }
            lapsed.insert(session);
            false
        });
        match latest {
            Some(latest) => Clearance::WaitUntil(latest),
            None if broken => Clearance::Broken,
            None => Clearance::Clear,
        }
    }

    /// It is committed that the object was taken: the broken leases on it are gone.
    pub fn taken(&mut self, ino: InodeId) {
        let Some(object) = self.objects.get_mut(&ino) else { return };
        let lapsed = &mut self.lapsed;
        object.holders.retain(|session, holding| {
            if holding.broken {
                lapsed.insert(session);
            }
            !holding.broken
        });
    }

    /// Sessions that did not give way in time: close their connections, so that they serve nothing
    /// from what they lost. They learn it at their next renewal too.
    pub fn take_fenced(&mut self) -> BTreeSet<SessionId> {
        std::mem::take(&mut self.fenced)
    }

    /// The request announced with [`Leases::begin`] is over.
    pub fn end(&mut self, ino: InodeId, intent: Intent) {
        if let Some(object) = self.objects.get_mut(&ino) {
            match intent {
                Intent::Read => object.reads = object.reads.saturating_sub(1),
                Intent::Change => object.changes = object.changes.saturating_sub(1),
            }
        }
        self.tidy(ino);
    }

    /// A holder gave way.
    pub fn answered(&mut self, session: SessionId, ino: InodeId, sequence: u64) {
        if let Some(object) = self.objects.get_mut(&ino) {
            let matches = object.holders.get(session).is_some_and(|h| h.asked == sequence);
            if matches {
                object.holders.remove(session);
            }
        }
        self.tidy(ino);
    }

    /// Those of `inodes` of which another session may hold unwritten data.
    pub fn dirty_elsewhere(&self, inodes: &[InodeId], by: SessionId) -> Vec<InodeId> {
        let dirty = |ino: &&InodeId| {
            self.objects
                .get(ino)
                .is_some_and(|o| o.holders.iter().any(|(s, h)| s != by && h.kind == LeaseKind::Exclusive))
        };
        inodes.iter().filter(dirty).copied().collect()
    }

    /// Grants what is possible now, at most `wanted`. Exclusive needs to be alone.
    pub fn grant(&mut self, ino: InodeId, session: SessionId, wanted: LeaseKind, now: Instant) -> Option<LeaseKind> {
        // An object that is there only because it is open or being changed counts as new.
        let held = self.objects.get(&ino).is_some_and(|object| !object.holders.is_empty());
        if self.is_full() && !held {
            return None;
        }
        let object = self.objects.entry(ino).or_default();
        let others = object.holders.iter().filter(|(s, _)| *s != session);
        let (mut any, mut exclusive) = (false, false);
        for (_, holding) in others {
            any = true;
            exclusive |= holding.kind == LeaseKind::Exclusive;
        }
        let contended = object.changes > 0 || (object.reads > 0 && wanted == LeaseKind::Exclusive);
        let asked = object.holders.get(session).is_some_and(|h| h.asked != 0);
        let kind = if any || object.pins.sessions().any(|s| s != session) { LeaseKind::Shared } else { wanted };
        if contended || exclusive || asked {
            self.tidy(ino);
            return None;
        }
        let fresh = Holding { kind, granted: now, asked: 0, waited_from: None, broken: false };
        let holding = object.holders.get_or_insert(session, fresh);
        holding.kind = holding.kind.max(kind);
        holding.granted = now;
        Some(holding.kind)
    }

    /// The session is alive. False where leases of it had lapsed: they are gone and it must know.
    /// Those granted within the term are not touched: the client serves from them. Nor are exclusive
    /// ones: the client may hold bytes back, and is asked for them before others see the object.
    pub fn renew(&mut self, session: SessionId, now: Instant) -> bool {
        let last = self.renewed.insert(session, now).unwrap_or_default();
        let mut lapsed = self.lapsed.remove(&session);
        if last.after(self.term) > now {
            return !lapsed;
        }
        let term = self.term;
        self.objects.retain(|_, object| {
            if let Some(holding) = object.holders.get(session).filter(|h| h.granted.after(term) <= now) {
                lapsed = true;
                if holding.kind == LeaseKind::Shared {
                    object.holders.remove(session);
                }
            }
            !object.is_idle()
        });
        !lapsed
    }

    /// The session gave leases back by itself.
    pub fn give_back(&mut self, session: SessionId, ino: InodeId) {
        if let Some(object) = self.objects.get_mut(&ino) {
            object.holders.remove(session);
        }
        self.tidy(ino);
    }

    /// Revocations that the session has not answered: sent again on its new connection.
    pub fn unanswered(&self, session: SessionId) -> Vec<Revocation> {
        let asked = self.objects.iter().filter_map(|(ino, object)| {
            let sequence = object.holders.get(session)?.asked;
            (sequence != 0).then_some(Revocation { session, ino: *ino, sequence })
        });
        asked.collect()
    }

    /// The session is over.
    pub fn end_session(&mut self, session: SessionId) {
        self.renewed.remove(&session);
        self.lapsed.remove(&session);
        self.pins.end_session(session);
        self.objects.retain(|_, object| {
            object.holders.remove(session);
            object.pins.remove(session);
            !object.is_idle()
        });
    }

    /// Whether nothing more is granted.
    pub fn is_full(&self) -> bool {
        self.objects.len() >= self.objects_max
    }

    /// Chooses an object that nobody uses just now, and returns its holders, to be asked to give way to
    /// others. Nobody waits for their answers. Goes round the table, a few objects at a time.
    pub fn relieve(&mut self) -> Vec<Revocation> {
        let from = self.hand.take().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut asked = Vec::new();
        for (ino, object) in self.objects.range_mut((from, std::ops::Bound::Unbounded)).take(RELIEF_LOOK) {
            self.hand = Some(*ino);
            let used = !object.pins.is_empty() || object.changes > 0 || object.reads > 0;
            for (session, holding) in object.holders.iter_mut().filter(|(_, h)| !used && h.asked == 0) {
                holding.asked = self.next_sequence;
                asked.push(Revocation { session, ino: *ino, sequence: self.next_sequence });
                self.next_sequence += 1;
            }
            if !asked.is_empty() {
                break;
            }
        }
        asked
    }

    /// Objects with a lease, a pin or a request in progress.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    fn tidy(&mut self, ino: InodeId) {
        if self.objects.get(&ino).is_some_and(Object::is_idle) {
            self.objects.remove(&ino);
        }
    }
}

fn conflicts(held: LeaseKind, intent: Intent) -> bool {
    intent == Intent::Change || held == LeaseKind::Exclusive
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId::new(1);
    const B: SessionId = SessionId::new(2);
    const PINS: PinLimits = PinLimits { core: 8, session: 6, server: 16 };

    fn ino() -> InodeId {
        InodeId::from_raw(77).expect("valid")
    }
    fn at(ms: u64) -> Instant {
        Instant::new(ms * 1_000_000)
    }
    fn table() -> Leases {
        Leases::new(Duration::from_secs(2), 8, PINS)
    }

    #[test]
    fn a_change_waits_for_other_holders_and_not_for_its_own_session() {
        let mut t = table();
        assert_eq!(t.grant(ino(), A, LeaseKind::Shared, at(0)), Some(LeaseKind::Shared));
        assert!(t.begin(ino(), A, Intent::Change).is_empty());
        assert_eq!(t.clearance(ino(), A, Intent::Change, at(1)), Clearance::Clear);
        t.end(ino(), Intent::Change);
        let asked = t.begin(ino(), B, Intent::Change);
        assert_eq!(asked.len(), 1);
        assert_eq!(t.clearance(ino(), B, Intent::Change, at(1)), Clearance::WaitUntil(at(2000)));
        t.answered(A, ino(), asked[0].sequence);
        assert_eq!(t.clearance(ino(), B, Intent::Change, at(1)), Clearance::Clear);
    }

    #[test]
    fn nothing_is_granted_while_a_change_is_in_progress() {
        let mut t = table();
        t.begin(ino(), B, Intent::Change);
        assert_eq!(t.grant(ino(), A, LeaseKind::Shared, at(0)), None);
        t.end(ino(), Intent::Change);
        assert_eq!(t.grant(ino(), A, LeaseKind::Shared, at(0)), Some(LeaseKind::Shared));
    }

    #[test]
    fn a_silent_holder_delays_others_by_no_more_than_the_term() {
        let mut t = table();
        t.grant(ino(), A, LeaseKind::Exclusive, at(0));
        assert!(t.renew(A, at(1000)));
        t.begin(ino(), B, Intent::Read);
        assert_eq!(t.clearance(ino(), B, Intent::Read, at(2500)), Clearance::WaitUntil(at(3000)));
        assert_eq!(t.clearance(ino(), B, Intent::Read, at(3000)), Clearance::Broken);
        assert_eq!(t.clearance(ino(), B, Intent::Read, at(3000)), Clearance::Broken, "nobody has committed it yet");
        t.taken(ino());
        assert_eq!(t.clearance(ino(), B, Intent::Read, at(3000)), Clearance::Clear);
        assert!(!t.renew(A, at(3001)), "it must learn that its leases are gone");
    }

    #[test]
    fn a_holder_that_renews_but_never_answers_is_fenced() {
        let mut t = table();
        t.grant(ino(), A, LeaseKind::Exclusive, at(0));
        t.begin(ino(), B, Intent::Change);
        for second in 0..10 {
            t.renew(A, at(second * 1000));
            assert!(matches!(t.clearance(ino(), B, Intent::Change, at(second * 1000)), Clearance::WaitUntil(_)));
            assert!(t.take_fenced().is_empty());
        }
        t.renew(A, at(9_999));
        assert_eq!(t.clearance(ino(), B, Intent::Change, at(10_000)), Clearance::Broken);
        t.taken(ino());
        assert_eq!(t.clearance(ino(), B, Intent::Change, at(10_000)), Clearance::Clear);
        assert_eq!(t.take_fenced(), BTreeSet::from([A]));
        assert!(!t.renew(A, at(10_001)), "it must learn that its leases are gone");
    }

    #[test]
    fn a_late_renewal_keeps_what_was_granted_within_the_term() {
        let mut t = table();
        let other = InodeId::from_raw(78).expect("valid");
        t.renew(A, at(0));
        t.grant(ino(), A, LeaseKind::Shared, at(0));
        t.grant(other, A, LeaseKind::Shared, at(2500));
        assert!(!t.renew(A, at(3000)), "the first has lapsed");
        assert!(t.begin(ino(), B, Intent::Change).is_empty());
        assert_eq!(t.begin(other, B, Intent::Change).len(), 1, "the second still stands");
    }

    #[test]
    fn who_comes_back_late_is_asked_for_what_it_holds_back() {
        let mut t = table();
        t.renew(A, at(0));
        t.grant(ino(), A, LeaseKind::Exclusive, at(0));
        assert!(!t.renew(A, at(3000)), "it must not count on the lease");
        assert_eq!(t.begin(ino(), B, Intent::Read).len(), 1);
        assert!(matches!(t.clearance(ino(), B, Intent::Read, at(3001)), Clearance::WaitUntil(_)));
    }

    #[test]
    fn readers_share_and_only_a_lone_session_gets_exclusive() {
        let mut t = table();
        t.grant(ino(), A, LeaseKind::Shared, at(0));
        assert_eq!(t.grant(ino(), B, LeaseKind::Exclusive, at(0)), Some(LeaseKind::Shared));
        t.give_back(A, ino());
        assert_eq!(t.grant(ino(), B, LeaseKind::Exclusive, at(0)), Some(LeaseKind::Exclusive));
        assert_eq!(t.grant(ino(), A, LeaseKind::Shared, at(0)), None);
    }

    #[test]
    fn a_full_table_asks_holders_to_give_way_and_stays_full_until_they_have() {
        let mut t = table();
        let nth = |n| InodeId::from_raw(n).expect("valid");
        for n in 1..=8 {
            assert!(t.grant(nth(n), A, LeaseKind::Shared, at(0)).is_some());
        }
        t.open(nth(1), A).expect("room");
        t.begin(nth(2), A, Intent::Read);
        assert_eq!(t.grant(nth(9), A, LeaseKind::Shared, at(0)), None);
        t.open(nth(9), A).expect("room");
        assert_eq!(t.grant(nth(9), A, LeaseKind::Shared, at(0)), None, "open, and yet no lease");
        t.unpin(nth(9), A);
        let mut asked = Vec::new();
        for _ in 0..20 {
            asked.extend(t.relieve());
        }
        assert_eq!(asked.iter().map(|r| r.ino).collect::<Vec<_>>(), (3..=8).map(nth).collect::<Vec<_>>());
        assert!(t.is_full());
        t.answered(A, nth(3), asked[0].sequence);
        assert_eq!(t.grant(nth(9), A, LeaseKind::Shared, at(0)), Some(LeaseKind::Shared));
        assert!(t.is_full() && t.objects() == 8);
    }

    #[test]
    fn a_stale_answer_does_not_end_a_newer_lease() {
        let mut t = table();
        t.grant(ino(), A, LeaseKind::Shared, at(0));
        let first = t.begin(ino(), B, Intent::Change);
        t.answered(A, ino(), first[0].sequence);
        t.end(ino(), Intent::Change);
        t.grant(ino(), A, LeaseKind::Shared, at(1));
        let second = t.begin(ino(), B, Intent::Change);
        t.answered(A, ino(), first[0].sequence);
        assert!(matches!(t.clearance(ino(), B, Intent::Change, at(2)), Clearance::WaitUntil(_)));
        t.answered(A, ino(), second[0].sequence);
        assert_eq!(t.clearance(ino(), B, Intent::Change, at(2)), Clearance::Clear);
    }
}
