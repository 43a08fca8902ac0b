//! Room in the log: clients must leave some of it to what makes room.
//!
//! Packing and flushing write to the log themselves before it can forget anything. So a change is
//! let in only while all that were let in fit beside a reserve; what comes then waits its turn.

use cfs_exec::Semaphore;
use cfs_log::CoreLog;
use cfs_seam::{Clock, sleep};
use cfs_types::INLINE_WRITE_BYTES_MAX;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// One part in so many of the log's slots is the reserve.
const RESERVE_SHARE: u64 = 8;
/// Log bytes of a change beside its data: its command, and its batch's padding.
const CHANGE_BYTES: u64 = 4096;
/// Between two looks at a log without room.
const POLL: Duration = Duration::from_millis(2);

/// What clients' changes under way take of the log.
pub struct LogRoom {
    promised: Cell<u64>,
    turn: Semaphore,
}

/// A place in the log for one change; dropping it gives it back.
pub struct LogPlace {
    room: Rc<LogRoom>,
    bytes: u64,
}

impl Drop for LogPlace {
    fn drop(&mut self) {
        self.room.promised.set(self.room.promised.get() - self.bytes);
    }
}

impl LogRoom {
    /// Nothing is under way.
    pub fn new() -> Rc<Self> {
        Rc::new(LogRoom { promised: Cell::new(0), turn: Semaphore::new(1) })
    }

    /// Waits for a change with so many bytes of data to fit, in order of arrival. Cancel-safe.
    /// `wanted` is told while there is no room.
    pub async fn enter(
        self: &Rc<Self>,
        log: &CoreLog,
        clock: &Rc<dyn Clock>,
        data: usize,
        wanted: impl Fn(),
    ) -> LogPlace {
        let data = (data as u64).min(u64::from(INLINE_WRITE_BYTES_MAX));
        let bytes = data + CHANGE_BYTES;
        let _turn = self.turn.acquire(1).await;
        while !self.fits(log, bytes) {
            wanted();
            sleep(clock, POLL).await;
        }
        self.promised.set(self.promised.get() + bytes);
        LogPlace { room: self.clone(), bytes }
    }

    fn fits(&self, log: &CoreLog, bytes: u64) -> bool {
        let (usage, promised) = (log.usage(), self.promised.get());
        let (free, total) = (usage.slots_free as u64, usage.slots_total as u64);
        let reserve = (total / RESERVE_SHARE).max(1);
        // A log too small for any reserve takes one change at a time.
        let alone = promised == 0 && (free >= reserve || usage.slots_live <= 1);
        alone || log.failed().is_some() || promised + bytes + reserve * log.slot_bytes() <= free * log.slot_bytes()
    }
}
