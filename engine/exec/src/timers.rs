//! The timers of one core: a heap whose dead entries are skipped, and swept when they prevail.

use cfs_seam::{Instant, TimerId};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;

/// Dead entries that are never worth a sweep.
const DEAD_ALLOWED: usize = 64;

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Entry {
    at: Instant,
    /// Timers of one instant fire in the order they were armed.
    order: u64,
    slot: u32,
}

struct Slot {
    /// Order of the timer that holds this slot.
    order: u64,
    waker: Option<Waker>,
}

/// All armed timers.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Timers armed so far.
    armed: u64,
}

fn at(slot: u32) -> usize {
    usize::try_from(slot).expect("32 bits fit")
}

/// Low 32 bits are the slot, the others the low bits of the order.
fn id_of(slot: u32, order: u64) -> TimerId {
    TimerId(order << 32 | u64::from(slot))
}

impl Timers {
    /// Wakes `waker` at or after `instant`.
    pub fn arm(&mut self, instant: Instant, waker: Waker) -> TimerId {
        self.armed += 1;
        let order = self.armed;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot { order: 0, waker: None });
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 timers")
            }
        };
        self.slots[at(slot)] = Slot { order, waker: Some(waker) };
        self.heap.push(Reverse(Entry { at: instant, order, slot }));
        id_of(slot, order)
    }

    /// Forgets a timer; its waker comes back to be dropped by the caller.
    pub fn disarm(&mut self, id: TimerId) -> Option<Waker> {
        let slot = u32::try_from(id.0 & u64::from(u32::MAX)).expect("masked");
        let s = self.slots.get_mut(at(slot))?;
        if id_of(slot, s.order) != id || s.waker.is_none() {
            return None;
        }
        let waker = s.waker.take();
        self.free.push(slot);
        self.sweep();
        waker
    }

    /// The next timer due at `now`, which is then no longer armed.
    pub fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        let entry = self.first()?;
        if entry.at > now {
            return None;
        }
        self.heap.pop();
        self.free.push(entry.slot);
        self.slots[at(entry.slot)].waker.take()
    }

    /// When the earliest timer is due.
    pub fn next(&mut self) -> Option<Instant> {
        self.first().map(|entry| entry.at)
    }

    /// Forgets all; the wakers come back to be dropped by the caller.
    pub fn clear(&mut self) -> Vec<Waker> {
        self.heap.clear();
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().filter_map(|s| s.waker).collect()
    }

    fn is_live(&self, entry: &Entry) -> bool {
        let s = &self.slots[at(entry.slot)];
        s.order == entry.order && s.waker.is_some()
    }

    /// The earliest live entry; drops dead ones before it.
    fn first(&mut self) -> Option<Entry> {
        loop {
            let entry = self.heap.peek()?.0;
            if self.is_live(&entry) {
                return Some(entry);
            }
            self.heap.pop();
        }
    }

    fn sweep(&mut self) {
        let live = self.slots.len() - self.free.len();
        if self.heap.len() > 2 * live + DEAD_ALLOWED {
            let entries = std::mem::take(&mut self.heap).into_vec();
            self.heap = entries.into_iter().filter(|entry| self.is_live(&entry.0)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(timers: &mut Timers, now: u64) -> usize {
        std::iter::from_fn(|| timers.pop_due(Instant::new(now))).count()
    }

    #[test]
    fn only_due_timers_fire_and_only_once() {
        let mut timers = Timers::default();
        for at in [30, 10, 20] {
            timers.arm(Instant::new(at), Waker::noop().clone());
        }
        assert_eq!(timers.next(), Some(Instant::new(10)));
        assert_eq!(drain(&mut timers, 20), 2);
        assert_eq!(drain(&mut timers, 20), 0);
        assert_eq!(timers.next(), Some(Instant::new(30)));
    }

    #[test]
    fn a_stale_id_does_not_disarm_the_slots_next_timer() {
        let mut timers = Timers::default();
        let first = timers.arm(Instant::new(1), Waker::noop().clone());
        assert_eq!(drain(&mut timers, 1), 1);
        timers.arm(Instant::new(2), Waker::noop().clone());
        assert!(timers.disarm(first).is_none());
        assert_eq!(drain(&mut timers, 2), 1);
    }

    #[test]
    fn dead_entries_do_not_pile_up() {
        let mut timers = Timers::default();
        for at in 0..100_000 {
            let id = timers.arm(Instant::new(1_000_000 + at), Waker::noop().clone());
            assert!(timers.disarm(id).is_some());
        }
        assert!(timers.heap.len() <= DEAD_ALLOWED + 2, "{}", timers.heap.len());
        assert_eq!(timers.next(), None);
    }
}
