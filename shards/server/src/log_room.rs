//! Room in the log: clients must leave some of it to what makes room.
//!
//! Packing and flushing write to the log themselves before it can forget anything. So a change is
//! let in only while all that were let in fit beside a reserve; what comes then waits its turn.
//!
//! What a change has other shards do (prepare, deliver) takes room in their cores' logs. It has a
//! share of its own there, which clients' new changes leave alone: otherwise two cores full of changes
//! would wait for each other. So upkeep waits for nobody, follow-ups for upkeep, changes for both.

use cfs_exec::Semaphore;
use cfs_log::{CoreLog, Usage};
use cfs_seam::{Clock, sleep};
use cfs_types::INLINE_WRITE_BYTES_MAX;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// One part in so many of the log's slots is the reserve.
const RESERVE_SHARE: u64 = 8;
/// Slots of the share of follow-ups are those of the reserve, and one that is partly full.
const PARTLY_FULL: u64 = 1;
/// Log bytes of a change beside its data: its command, and its batch's padding.
const CHANGE_BYTES: u64 = 4096;
/// Between two looks at a log without room.
const POLL: Duration = Duration::from_millis(2);

/// Who wants room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A change that a client asks for.
    Change,
    /// What a change under way, here or on another core, has a shard do.
    FollowUp,
}

/// What changes under way take of the log.
pub struct LogRoom {
    changes: Cell<u64>,
    follow_ups: Cell<u64>,
    /// Those who wait, one of each kind at a time.
    turns: [Semaphore; 2],
}

/// A place in the log for one change; dropping it gives it back.
pub struct LogPlace {
    room: Rc<LogRoom>,
    asker: Asker,
    bytes: u64,
}

impl Drop for LogPlace {
    fn drop(&mut self) {
        let promised = self.room.promised(self.asker);
        promised.set(promised.get() - self.bytes);
    }
}

/// Slots that are left to what makes room.
fn reserve(usage: &Usage) -> u64 {
    (usage.slots_total as u64 / RESERVE_SHARE).max(1)
}

impl LogRoom {
    /// Nothing is under way.
    pub fn new() -> Rc<Self> {
        let turns = [Semaphore::new(1), Semaphore::new(1)];
        Rc::new(LogRoom { changes: Cell::new(0), follow_ups: Cell::new(0), turns })
    }

    /// Bytes promised to changes, or to follow-ups.
    fn promised(&self, asker: Asker) -> &Cell<u64> {
        match asker {
            Asker::Change => &self.changes,
            Asker::FollowUp => &self.follow_ups,
        }
    }

    /// Waits for a change with so many bytes of data to fit, in order of arrival. Cancel-safe.
    /// `wanted` is told while there is no room.
    pub async fn enter(
        self: &Rc<Self>,
        log: &CoreLog,
        clock: &Rc<dyn Clock>,
        asker: Asker,
        data: usize,
        wanted: impl Fn(),
    ) -> LogPlace {
        let data = (data as u64).min(u64::from(INLINE_WRITE_BYTES_MAX));
        let bytes = data + CHANGE_BYTES;
        let _turn = self.turns[usize::from(asker == Asker::FollowUp)].acquire(1).await;
        while !self.fits(&log.usage(), log.slot_bytes(), asker, bytes) && log.failed().is_none() {
            wanted();
            sleep(clock, POLL).await;
        }
        let promised = self.promised(asker);
        promised.set(promised.get() + bytes);
        LogPlace { room: self.clone(), asker, bytes }
    }

    /// Whether even the reserve is being used up: what makes room must not write to the log any more.
    pub fn is_short(log: &CoreLog) -> bool {
        let usage = log.usage();
        (usage.slots_free as u64) < reserve(&usage)
    }

    fn fits(&self, usage: &Usage, slot_bytes: u64, asker: Asker, bytes: u64) -> bool {
        let (free, reserve) = (usage.slots_free as u64, reserve(usage));
        let kept = match asker {
            Asker::Change => 2 * reserve + PARTLY_FULL,
            Asker::FollowUp => reserve,
        };
        let promised = self.changes.get() + self.follow_ups.get();
        // A log too small for any reserve takes one change at a time, and one follow-up.
        let alone = self.promised(asker).get() == 0 && (free >= reserve || usage.slots_live <= 1);
        alone || promised + bytes + kept * slot_bytes <= free * slot_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = 1 << 20;

    fn take(room: &Rc<LogRoom>, free: usize, asker: Asker, bytes: u64) -> Option<LogPlace> {
        let usage = Usage { slots_total: 16, slots_free: free, slots_live: 16 - free, ..Usage::default() };
        room.fits(&usage, SLOT, asker, bytes).then(|| {
            let promised = room.promised(asker);
            promised.set(promised.get() + bytes);
            LogPlace { room: room.clone(), asker, bytes }
        })
    }

    #[test]
    fn follow_ups_find_room_where_changes_have_taken_all_they_may() {
        let room = LogRoom::new();
        let changes: Vec<_> = std::iter::from_fn(|| take(&room, 10, Asker::Change, SLOT)).collect();
        assert_eq!(changes.len(), 5, "two slots are the upkeep's, three the follow-ups'");
        let follow_ups: Vec<_> = std::iter::from_fn(|| take(&room, 10, Asker::FollowUp, SLOT)).collect();
        assert_eq!(follow_ups.len(), 3);
        drop(changes);
        assert!(take(&room, 10, Asker::Change, SLOT).is_some());
    }

    #[test]
    fn one_of_each_kind_goes_on_in_a_log_without_room_for_more() {
        let room = LogRoom::new();
        let change = take(&room, 2, Asker::Change, SLOT).expect("alone");
        assert!(take(&room, 2, Asker::Change, SLOT).is_none());
        let follow_up = take(&room, 2, Asker::FollowUp, SLOT).expect("alone of its kind");
        assert!(take(&room, 2, Asker::FollowUp, SLOT).is_none());
        drop((change, follow_up));
        assert!(take(&room, 1, Asker::Change, SLOT).is_none(), "what is left is the upkeep's");
    }
}
