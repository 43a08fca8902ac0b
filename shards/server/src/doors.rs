//! The way in: who listens for clients, and every connection that came of it.
//!
//! Invariant: once they are shut nothing comes in and no answer goes out, so that no client learns of
//! what a core that stops can do no longer: for clients a stop is a wait.

use crate::core::Core;
use cfs_rpc::Connection;
use cfs_seam::{Instant, TaskHandle, sleep};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// An answer must have left after this time, so that what it holds is there for others again. A client
/// that was only slow connects again and asks again.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks at who takes its answers.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// The doors of one core; open until they are shut for good.
#[derive(Default)]
pub struct Doors {
    shut: Cell<bool>,
    next: Cell<u64>,
    inside: RefCell<BTreeMap<u64, Rc<Connection>>>,
    listeners: RefCell<Vec<TaskHandle>>,
}

impl Doors {
    /// Keeps the task of a listener, which ends with the doors.
    pub fn listen(&self, task: TaskHandle) {
        self.listeners.borrow_mut().push(task);
    }

    /// Lets a connection in, until [`Doors::leave`]; closes it where the doors are shut.
    pub fn enter(&self, connection: &Rc<Connection>) -> Option<u64> {
        if self.shut.get() {
            connection.close();
            return None;
        }
        let number = self.next.replace(self.next.get() + 1);
        self.inside.borrow_mut().insert(number, connection.clone());
        Some(number)
    }

    /// A connection is over.
    pub fn leave(&self, number: u64) {
        self.inside.borrow_mut().remove(&number);
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
