//! The slots of one core's stream: which are free, which hold what.
//!
//! Live slots are freed oldest first. Each remembers for each group the highest entry and the
//! highest local record in it; it can go when the group has released those.

use crate::record::RecordKind;
use crate::stream::{StreamHead, StreamId};
use cfs_types::GroupId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Slots of a core that no running log touches: a log that was full must open again, perhaps with
/// more cores, and write again what was not proven. A sixth of the core's share, at least this.
const BOOT_SLOTS_MIN: usize = 3;
const BOOT_SHARE: usize = 6;

/// How badly the log needs a record to be written when space is short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Urgency {
    /// Entries.
    Normal,
    /// States and local records: groups write them while they flush.
    Flush,
    /// Copies of the log itself: a slot is reclaimed after them.
    Reclaim,
    /// What is written before a log is open, and to end it.
    Boot,
}

impl Urgency {
    pub const ALL: [Urgency; 4] = [Urgency::Normal, Urgency::Flush, Urgency::Reclaim, Urgency::Boot];
}

/// What a group has in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Hold {
    entry_max: u64,
    local_max: u64,
}

impl Hold {
    fn of(&mut self, kind: RecordKind) -> Option<&mut u64> {
        match kind {
            RecordKind::Entry => Some(&mut self.entry_max),
            RecordKind::Local => Some(&mut self.local_max),
            RecordKind::HardState | RecordKind::ConfState | RecordKind::Adopt => None,
        }
    }
    /// A record with this index was added.
    pub fn raise(&mut self, kind: RecordKind, index: u64) {
        if let Some(max) = self.of(kind) {
            *max = index.max(*max);
        }
    }
    /// Records at or above this index were superseded.
    pub fn cap(&mut self, kind: RecordKind, index: u64) {
        if let Some(max) = self.of(kind) {
            *max = index.saturating_sub(1).min(*max);
        }
    }
    /// Whether the group needs nothing of it.
    pub fn is_released(&self, entries_through: u64, locals_through: u64) -> bool {
        self.entry_max <= entries_through && self.local_max <= locals_through
    }
}

/// Up to where a group has released.
#[derive(Clone, Copy, Default)]
pub(crate) struct Released {
    pub entries: u64,
    pub locals: u64,
}

struct LiveSlot {
    slot: u32,
    sequence: u64,
    previous_crc: u32,
    holds: BTreeMap<GroupId, Hold>,
}

impl LiveSlot {
    /// The stream's head if it begins here.
    fn head(&self, stream: StreamId) -> StreamHead {
        StreamHead { stream, slot: self.slot, sequence: self.sequence, previous_crc: self.previous_crc, tail: None }
    }
}

/// The slots of a core.
pub(crate) struct Slots {
    free: BTreeSet<u32>,
    live: VecDeque<LiveSlot>,
    next: u32,
    total: usize,
    boot_slots: usize,
    /// The current slot is only for records at least as urgent, while space is short.
    entered_for: Urgency,
    released: BTreeMap<GroupId, Released>,
}

impl Slots {
    /// Takes the first two of the free slots: one to write, one to name as the next. None where
    /// there are not two. `share` is how many slots the core has when no old stream is left.
    pub fn new(free: Vec<u32>, share: usize) -> Option<Self> {
        let mut free: BTreeSet<u32> = free.into_iter().collect();
        let total = free.len();
        let first = free.pop_first()?;
        let next = free.pop_first()?;
        let live = LiveSlot { slot: first, sequence: 1, previous_crc: 0, holds: BTreeMap::new() };
        let mut slots = Slots {
            free,
            live: VecDeque::from([live]),
            next,
            total,
            boot_slots: BOOT_SLOTS_MIN.max(share / BOOT_SHARE),
            entered_for: Urgency::Boot,
            released: BTreeMap::new(),
        };
        let entered_for = Urgency::ALL.into_iter().find(|urgency| slots.free.len() >= slots.keeps(*urgency));
        slots.entered_for = entered_for.expect("the last keeps none");
        Some(slots)
    }

    /// Free slots that must be left to the more urgent.
    fn keeps(&self, urgency: Urgency) -> usize {
        match urgency {
            Urgency::Normal => self.boot_slots + 2,
            Urgency::Flush => self.boot_slots + 1,
            Urgency::Reclaim => self.boot_slots,
            Urgency::Boot => 0,
        }
    }

    fn current_slot(&self) -> &LiveSlot {
        self.live.back().expect("there is always a current slot")
    }
    /// The slot that is being written.
    pub fn current(&self) -> u32 {
        self.current_slot().slot
    }
    /// The slot named in batch headers.
    pub fn next(&self) -> u32 {
        self.next
    }
    /// Slots of this core, free or live.
    pub fn total(&self) -> usize {
        self.total
    }
    /// Slots that entries can still take.
    pub fn free(&self) -> usize {
        self.free.len().saturating_sub(self.keeps(Urgency::Normal))
    }
    /// Live slots.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Whether records may go into the current slot.
    pub fn may_write(&self, urgency: Urgency) -> bool {
        urgency >= self.entered_for || self.free.len() >= self.keeps(urgency)
    }

    /// Goes on in the next slot, whose first batch will be `sequence`. False where that would use
    /// up what is kept for the more urgent.
    pub fn advance(&mut self, urgency: Urgency, sequence: u64, previous_crc: u32) -> bool {
        if self.free.len() <= self.keeps(urgency) {
            return false;
        }
        let following = self.free.pop_first().expect("not empty");
        let slot = std::mem::replace(&mut self.next, following);
        self.live.push_back(LiveSlot { slot, sequence, previous_crc, holds: BTreeMap::new() });
        self.entered_for = urgency;
        true
    }

    /// A record was written to the current slot.
    pub fn hold(&mut self, group: GroupId, kind: RecordKind, index: u64) {
        let current = self.live.back_mut().expect("there is always a current slot");
        current.holds.entry(group).or_default().raise(kind, index);
    }

    /// Records of the group at or above `index` were superseded.
    pub fn supersede(&mut self, group: GroupId, kind: RecordKind, index: u64) {
        for slot in &mut self.live {
            if let Some(hold) = slot.holds.get_mut(&group) {
                hold.cap(kind, index);
            }
        }
    }

    /// The group needs nothing at or below these any more.
    pub fn release(&mut self, group: GroupId, through: Released) {
        let released = self.released.entry(group).or_default();
        released.entries = released.entries.max(through.entries);
        released.locals = released.locals.max(through.locals);
    }

    /// Up to where the group has released.
    pub fn released(&self, group: GroupId) -> Released {
        self.released.get(&group).copied().unwrap_or_default()
    }

    fn holders<'a>(&'a self, slot: &'a LiveSlot) -> impl Iterator<Item = GroupId> + 'a {
        slot.holds.iter().filter_map(|(group, hold)| {
            let released = self.released(*group);
            (!hold.is_released(released.entries, released.locals)).then_some(*group)
        })
    }

    /// Who holds the oldest slot that is not being written.
    pub fn laggards(&self) -> Vec<GroupId> {
        match self.live.front() {
            Some(front) if self.live.len() > 1 => self.holders(front).collect(),
            _ => Vec::new(),
        }
    }

    /// Where the live part would begin if all slots that can go went. None where none can.
    pub fn reclaimable(&self, stream: StreamId) -> Option<StreamHead> {
        let older = self.live.len() - 1;
        let count = self.live.iter().take(older).take_while(|slot| self.holders(slot).next().is_none()).count();
        let first = self.live.get(count).filter(|_| count > 0)?;
        Some(first.head(stream))
    }

    /// Where the live part begins.
    pub fn head(&self, stream: StreamId) -> StreamHead {
        self.live.front().expect("there is always a current slot").head(stream)
    }

    /// The stream's anchor says that it begins at `head` now.
    pub fn reclaim(&mut self, head: &StreamHead) {
        while self.live.front().is_some_and(|slot| slot.sequence < head.sequence) {
            let slot = self.live.pop_front().expect("not empty");
            self.free.insert(slot.slot);
        }
    }

    /// Slots of old streams came free.
    pub fn add(&mut self, slots: impl Iterator<Item = u32>) {
        for slot in slots {
            self.free.insert(slot);
            self.total += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecordKind::{Entry, Local};
    use Urgency::{Boot, Flush, Normal, Reclaim};

    const GROUP: GroupId = GroupId::new(1);
    const STREAM: StreamId = StreamId { boot: 1, core: 0, salt: 0 };

    #[test]
    fn slots_go_oldest_first_once_every_group_has_released() {
        let mut slots = Slots::new((0..13).collect(), 13).expect("enough");
        slots.hold(GROUP, Entry, 5);
        slots.hold(GroupId::new(2), Local, 1);
        assert!(slots.advance(Normal, 10, 0));
        slots.hold(GROUP, Entry, 9);
        slots.release(GROUP, Released { entries: 100, locals: 0 });
        assert_eq!((slots.reclaimable(STREAM), slots.laggards()), (None, vec![GroupId::new(2)]));
        slots.release(GroupId::new(2), Released { entries: 0, locals: 1 });
        let head = slots.reclaimable(STREAM).expect("the first");
        assert_eq!((head.slot, head.sequence), (1, 10));
        slots.reclaim(&head);
        assert_eq!((slots.live(), slots.free(), slots.reclaimable(STREAM)), (1, 6, None));
    }

    #[test]
    fn what_was_superseded_holds_nothing() {
        let mut slots = Slots::new((0..13).collect(), 13).expect("enough");
        slots.hold(GROUP, Entry, 7);
        slots.advance(Normal, 2, 0);
        slots.supersede(GROUP, Entry, 5);
        slots.hold(GROUP, Entry, 5);
        slots.release(GROUP, Released { entries: 4, locals: 0 });
        assert!(slots.reclaimable(STREAM).is_some());
    }

    #[test]
    fn the_reserve_is_for_records_that_free_space() {
        // One to write, one named next, one for entries, one each for flush and reclaim, three.
        let mut slots = Slots::new((0..8).collect(), 8).expect("enough");
        assert!(slots.advance(Normal, 2, 0));
        assert!(slots.may_write(Normal) && !slots.advance(Normal, 3, 0));
        assert!(slots.advance(Flush, 3, 0) && !slots.may_write(Normal));
        assert!(slots.may_write(Flush) && !slots.advance(Flush, 4, 0));
        assert!(slots.advance(Reclaim, 4, 0) && !slots.may_write(Flush) && !slots.advance(Reclaim, 5, 0));
        for n in 5..8 {
            assert!(slots.advance(Boot, n, 0));
        }
        assert!(!slots.advance(Boot, 9, 0));
        slots.add(10..15);
        assert!(slots.may_write(Normal));
    }
}
