//! The way in: who listens for clients, and every connection that came of it.
//!
//! Invariants: connections are bounded, also those that have not proven themselves. Once the doors are shut
//! nothing comes in and no answer goes out, so that no client learns of what a core that stops can do no
//! longer: for clients a stop is a wait.

use crate::core::Core;
use cfs_exec::{Permit, Semaphore};
use cfs_observe::Bounded;
use cfs_rpc::Connection;
use cfs_seam::{Instant, TaskHandle, sleep};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Connections of one core that have proven themselves; further ones are told to come later.
const CONNECTIONS_MAX: u64 = 1024;
/// So many more for bulk payload; a client that gets none sends it on its other connection.
const BULK_CONNECTIONS_MAX: u64 = 512;
/// Connections of one core that have not: for a newer one the oldest is closed.
const HANDSHAKES_MAX: usize = 128;
/// An answer must have left after this time, so that what it holds is there for others again. A client
/// that was only slow connects again and asks again.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks at who takes its answers.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// The doors of one core; open until they are shut for good.
pub struct Doors {
    shut: Cell<bool>,
    next: Cell<u64>,
    inside: RefCell<BTreeMap<u64, Rc<Connection>>>,
    /// Those in their handshake, the oldest first.
    strangers: RefCell<VecDeque<u64>>,
    /// Places of those past it.
    links: Semaphore,
    bulk: Semaphore,
    listeners: RefCell<Vec<TaskHandle>>,
}

impl Default for Doors {
    fn default() -> Self {
        Doors {
            shut: Cell::default(),
            next: Cell::default(),
            inside: RefCell::default(),
            strangers: RefCell::default(),
            links: Semaphore::new(CONNECTIONS_MAX),
            bulk: Semaphore::new(BULK_CONNECTIONS_MAX),
            listeners: RefCell::default(),
        }
    }
}

impl Doors {
    /// Keeps the task of a listener, which ends with the doors.
    pub fn listen(&self, task: TaskHandle) {
        self.listeners.borrow_mut().push(task);
    }

    /// Lets a connection in as a stranger, until [`Doors::leave`]; closes it where the doors are shut, and
    /// the oldest stranger where they are too many.
    pub fn enter(&self, connection: &Rc<Connection>) -> Option<u64> {
        if self.shut.get() {
            connection.close();
            return None;
        }
        let number = self.next.replace(self.next.get() + 1);
        let mut inside = self.inside.borrow_mut();
        inside.insert(number, connection.clone());
        let mut strangers = self.strangers.borrow_mut();
        strangers.push_back(number);
        let oldest = if strangers.len() > HANDSHAKES_MAX { strangers.pop_front() } else { None };
        if let Some(oldest) = oldest.and_then(|oldest| inside.get(&oldest)) {
            oldest.close();
        }
        Some(number)
    }

    /// The handshake of a connection is over.
    pub fn shaken(&self, number: u64) {
        self.strangers.borrow_mut().retain(|other| *other != number);
    }

    /// A place for a connection that has proven itself, if there is one.
    pub fn place(&self, bulk: bool) -> Option<Permit> {
        let places = if bulk { &self.bulk } else { &self.links };
        places.try_acquire(1)
    }

    /// A connection is over.
    pub fn leave(&self, number: u64) {
        self.shaken(number);
        self.inside.borrow_mut().remove(&number);
    }

    /// How many connections of each kind there are.
    pub fn counts(&self) -> [Bounded; 3] {
        let bounded = |name, used, limit| Bounded { name, used, limit };
        [
            bounded("connections", CONNECTIONS_MAX - self.links.free(), CONNECTIONS_MAX),
            bounded("bulk_connections", BULK_CONNECTIONS_MAX - self.bulk.free(), BULK_CONNECTIONS_MAX),
            bounded("handshakes", self.strangers.borrow().len() as u64, HANDSHAKES_MAX as u64),
        ]
    }

    /// Closes connections whose answers do not leave; says how many.
    fn close_stuck(&self, now: Instant) -> u64 {
        let inside = self.inside.borrow();
        let stuck = inside.values().filter(|connection| connection.is_stuck(now, ANSWER_TIME_MAX));
        stuck.map(|connection| connection.close()).count() as u64
    }

    /// Stops listening, then closes every connection, also in its handshake.
    pub fn shut(&self) {
        self.shut.set(true);
        let listeners = std::mem::take(&mut *self.listeners.borrow_mut());
        drop(listeners);
        let inside = std::mem::take(&mut *self.inside.borrow_mut());
        inside.values().for_each(|connection| connection.close());
    }
}

/// Watches over who takes its answers until the core stops.
pub async fn watch(core: Rc<Core>) {
    while !core.stopping.get() {
        sleep(&core.world.clock, WATCH_PERIOD).await;
        let closed = core.doors.close_stuck(core.world.clock.now());
        core.metrics.stuck.add(closed);
    }
}
