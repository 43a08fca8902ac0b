//! A bounded queue between tasks of one core.

use crate::event::Event;
use crate::semaphore::{Permit, Semaphore};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Why a value was not sent; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// No room: wait, or refuse in turn.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

struct Inner<T> {
    /// Values with the room they take.
    queue: RefCell<VecDeque<(T, Permit)>>,
    room: Semaphore,
    senders: Cell<usize>,
    received_by: Cell<bool>,
    arrived: Event,
}

/// Clones send into the same queue.
pub struct Sender<T>(Rc<Inner<T>>);

/// The one end that receives.
pub struct Receiver<T>(Rc<Inner<T>>);

/// A queue for at most `capacity` values (at least one).
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let capacity = u64::try_from(capacity.max(1)).expect("a length fits 64 bits");
    let inner = Rc::new(Inner {
        queue: RefCell::default(),
        room: Semaphore::new(capacity),
        senders: Cell::new(1),
        received_by: Cell::new(true),
        arrived: Event::new(),
    });
    (Sender(inner.clone()), Receiver(inner))
}

impl<T> Sender<T> {
    /// Waits for room, fairly. Answers `Closed` where the receiver is gone. Dropping the future
    /// before it resolves drops the value unsent.
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        let permit = self.0.room.acquire(1).await;
        self.push(value, permit)
    }
    /// Sends if there is room now.
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        if self.is_closed() {
            return Err(SendError::Closed(value));
        }
        match self.0.room.try_acquire(1) {
            Some(permit) => self.push(value, permit),
            None => Err(SendError::Full(value)),
        }
    }
    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        !self.0.received_by.get()
    }

    fn push(&self, value: T, permit: Permit) -> Result<(), SendError<T>> {
        if self.is_closed() {
            return Err(SendError::Closed(value));
        }
        self.0.queue.borrow_mut().push_back((value, permit));
        self.0.arrived.notify_all();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.senders.set(self.0.senders.get() - 1);
        if self.0.senders.get() == 0 {
            self.0.arrived.notify_all();
        }
    }
}

impl<T> Receiver<T> {
    /// The next value; None once all senders are gone and the queue is empty. Cancel-safe.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            if let Some(value) = self.try_recv() {
                return Some(value);
            }
            if self.0.senders.get() == 0 {
                return None;
            }
            self.0.arrived.wait().await;
        }
    }
    /// The next value if one waits.
    pub fn try_recv(&mut self) -> Option<T> {
        let (value, permit) = self.0.queue.borrow_mut().pop_front()?;
        drop(permit);
        Some(value)
    }
    /// Values that wait.
    pub fn len(&self) -> usize {
        self.0.queue.borrow().len()
    }
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.received_by.set(false);
        // Returning the room wakes the first of the senders that wait; each then passes its own on.
        let unread = std::mem::take(&mut *self.0.queue.borrow_mut());
        drop(unread);
    }
}
