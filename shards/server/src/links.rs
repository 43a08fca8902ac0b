//! Connections of clients to this core, and the callbacks that travel on them.
//!
//! Invariant: a session has one link at a core, and beside it one connection for bulk payload; a newer
//! one of the same session takes the place of an older one. Callbacks never block the shard that sends
//! them. When a session is cut off both end.

use cfs_exec::channel::{self, Receiver, Sender};
use cfs_rpc::Connection;
use cfs_seam::{Class, World, spawn};
use cfs_types::SessionId;
use cfs_wire::{Callback, Flags, Opcode};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Callbacks queued for one client; a client that lets them pile up loses its connection.
const CALLBACKS_MAX: usize = 4096;

struct Link {
    number: u64,
    instance: u64,
    callbacks: Sender<Callback>,
    connection: Rc<Connection>,
}

struct Bulk {
    number: u64,
    instance: u64,
    connection: Rc<Connection>,
}

/// Who is connected.
#[derive(Default)]
pub struct Links {
    /// The newest last: it carries the callbacks. A client that is connected connects once more where it asks for the
    /// map, and gives that up again.
    links: RefCell<BTreeMap<SessionId, Vec<Link>>>,
    bulk: RefCell<BTreeMap<SessionId, Bulk>>,
    next: std::cell::Cell<u64>,
}

impl Links {
    /// Registers the connection that carries a session's callbacks; returns its number and
    /// whether the session was taken over from another client process.
    pub fn add(&self, world: &World, session: SessionId, instance: u64, connection: Rc<Connection>) -> (u64, bool) {
        let number = self.number();
        let (callbacks, receiver) = channel::bounded(CALLBACKS_MAX);
        spawn(&world.tasks, Class::Foreground, send_callbacks(connection.clone(), receiver)).detach();
        let link = Link { number, instance, callbacks, connection };
        let mut links = self.links.borrow_mut();
        let links = links.entry(session).or_default();
        let old: Vec<Link> = links.extract_if(.., |old| old.instance != instance).collect();
        links.push(link);
        let taken_over = !old.is_empty();
        if taken_over {
            old.iter().for_each(|old| old.connection.close());
            if let Some(bulk) = self.bulk.borrow().get(&session).filter(|bulk| bulk.instance != instance) {
                bulk.connection.close();
            }
        }
        (number, taken_over)
    }

    /// Registers the connection that carries a session's bulk payload; returns its number. An older one
    /// is closed: its client has given it up, or is about to end the session of one that crashed.
    pub fn add_bulk(&self, session: SessionId, instance: u64, connection: Rc<Connection>) -> u64 {
        let number = self.number();
        let old = self.bulk.borrow_mut().insert(session, Bulk { number, instance, connection });
        if let Some(old) = old {
            old.connection.close();
        }
        number
    }

    fn number(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// Forgets a connection that ended. True where an earlier one carries the callbacks from now on.
    pub fn remove(&self, session: SessionId, number: u64) -> bool {
        let mut links = self.links.borrow_mut();
        let mut falls_back = false;
        if let Some(of_session) = links.get_mut(&session) {
            let carried = of_session.last().is_some_and(|link| link.number == number);
            of_session.retain(|link| link.number != number);
            falls_back = carried && !of_session.is_empty();
            if of_session.is_empty() {
                links.remove(&session);
            }
        }
        let mut bulk = self.bulk.borrow_mut();
        if bulk.get(&session).is_some_and(|b| b.number == number) {
            bulk.remove(&session);
        }
        falls_back
    }

    /// The session says good-bye on a connection that must still carry the answer: the end of the
    /// session does not close it, but its other one.
    pub fn detach(&self, session: SessionId, from: &Rc<Connection>) {
        let links = self.links.borrow_mut().remove(&session).unwrap_or_default();
        let links = links.into_iter().map(|link| link.connection);
        let bulk = self.bulk.borrow_mut().remove(&session).map(|bulk| bulk.connection);
        for other in links.chain(bulk).filter(|other| !Rc::ptr_eq(other, from)) {
            other.close();
        }
    }

    /// Sends a callback. False where the session has no connection here: its leases end by time.
    pub fn call_back(&self, session: SessionId, callback: Callback) -> bool {
        let links = self.links.borrow();
        let Some(link) = links.get(&session).and_then(|links| links.last()) else { return false };
        let queued = link.callbacks.try_send(callback).is_ok();
        if !queued {
            link.connection.close();
        }
        queued
    }

    /// Closes every connection of a session.
    pub fn close(&self, session: SessionId) {
        if let Some(links) = self.links.borrow().get(&session) {
            links.iter().for_each(|link| link.connection.close());
        }
        if let Some(bulk) = self.bulk.borrow().get(&session) {
            bulk.connection.close();
        }
    }

    /// Sessions connected to this core.
    pub fn len(&self) -> usize {
        self.links.borrow().len()
    }
}

async fn send_callbacks(connection: Rc<Connection>, mut callbacks: Receiver<Callback>) {
    while let Some(callback) = callbacks.recv().await {
        let request = connection.next_request();
        let sent = connection.send(Opcode::CALLBACK, Flags::NONE, request, &callback, None).await;
        if sent.is_err() {
            return;
        }
    }
}
