//! The hybrid logical clock of one core.
//!
//! Invariant: a timestamp given out is larger than every one given out or observed before.

use cfs_seam::Clock;
use cfs_types::{Nanos, Timestamp};
use std::cell::Cell;
use std::rc::Rc;

/// Furthest a peer's clock may pull ours ahead of the wall clock, milliseconds: beyond it a
/// stranger's timestamp is ignored, so that no client can exhaust the 44 bits.
const AHEAD_MS_MAX: u64 = 60_000;

/// Gives commit timestamps.
pub struct HybridClock {
    clock: Rc<dyn Clock>,
    last: Cell<Timestamp>,
}

impl HybridClock {
    /// Starts at the wall clock.
    pub fn new(clock: Rc<dyn Clock>) -> Self {
        HybridClock { clock, last: Cell::new(Timestamp::default()) }
    }

    /// The clock it is made from.
    pub fn source(&self) -> &Rc<dyn Clock> {
        &self.clock
    }

    /// Wall time, for file times.
    pub fn now(&self) -> Nanos {
        self.clock.wall()
    }

    /// A new timestamp.
    pub fn tick(&self) -> Timestamp {
        let next = self.last.get().tick(self.wall_ms());
        self.last.set(next);
        next
    }

    /// The newest given out or observed.
    pub fn last(&self) -> Timestamp {
        self.last.get()
    }

    /// Takes in a timestamp from this node's own records: never falls behind it.
    pub fn restore(&self, ours: Timestamp) {
        self.last.set(self.last.get().max(ours));
    }

    /// Takes in a timestamp of another clock; ours never falls behind it. Returns false where it
    /// lies too far ahead to be believed.
    pub fn observe(&self, theirs: Timestamp) -> bool {
        let believable = theirs <= Timestamp::from_wall_ms(self.wall_ms() + AHEAD_MS_MAX);
        if believable && theirs > self.last.get() {
            self.last.set(theirs);
        }
        believable
    }

    fn wall_ms(&self) -> u64 {
        u64::try_from(self.clock.wall().get() / 1_000_000).unwrap_or(0)
    }
}
