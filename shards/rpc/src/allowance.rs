//! Room in memory for payloads and long messages: what all connections of a core share, and what one may take of it.
//!
//! Invariants: bytes that have no room are not kept; small payloads wait only for small ones; one
//! connection takes half at most, so that one that stalls leaves room for others; what is longer than its
//! share waits for all of that and passes alone.

use cfs_exec::{Permit, Semaphore};
use cfs_seam::{Clock, timeout};
use cfs_types::INLINE_WRITE_BYTES_MAX;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// Longest payload that is small, in bytes.
pub(crate) const SMALL_BYTES_MAX: u64 = INLINE_WRITE_BYTES_MAX as u64;

/// Room for so many bytes, a quarter of it for small payloads. Clones are the same room.
#[derive(Clone)]
pub struct Pool {
    small: Semaphore,
    long: Semaphore,
    bytes: u64,
}

impl Pool {
    /// A pool of `bytes`, all free.
    pub fn new(bytes: u64) -> Self {
        let small = bytes / 4;
        Pool { small: Semaphore::new(small), long: Semaphore::new(bytes - small), bytes }
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.bytes - self.small.free() - self.long.free()
    }
}

/// What one connection may have of the room that a core's connections share.
pub struct Allowance {
    shared: Pool,
    own: Pool,
}

/// Room that is taken, until it is dropped.
pub struct Room {
    _own: Permit,
    _shared: Permit,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Room({})", self._shared.permits())
    }
}

/// What is given back once an answer has left: places in queues, room in memory.
#[derive(Default)]
pub struct Held {
    /// For the request.
    pub request: Option<Room>,
    /// For the answer's.
    pub answer: Option<Room>,
    /// A place among the requests of the connection.
    pub place: Option<Permit>,
}

impl Allowance {
    /// A connection's part of `shared`.
    pub fn new(shared: &Pool) -> Self {
        Allowance { shared: shared.clone(), own: Pool::new(shared.bytes / 2) }
    }

    /// Takes room for so many bytes; None where there is none within `patience`. Cancel-safe.
    pub async fn take(&self, bytes: u64, clock: &Rc<dyn Clock>, patience: Duration) -> Option<Room> {
        let (own, shared) = match bytes {
            ..=SMALL_BYTES_MAX => (&self.own.small, &self.shared.small),
            _ => (&self.own.long, &self.shared.long),
        };
        if let Some(own) = own.try_acquire(bytes)
            && let Some(shared) = shared.try_acquire(bytes)
        {
            return Some(Room { _own: own, _shared: shared });
        }
        if patience.is_zero() {
            return None;
        }
        let room = async {
            let own = own.acquire(bytes).await;
            Room { _own: own, _shared: shared.acquire(bytes).await }
        };
        timeout(clock, clock.now().after(patience), room).await
    }
}
