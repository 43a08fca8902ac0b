//! What waits to be sent on one connection, bounded in bytes.

use crate::allowance::Held;
use cfs_seam::{Io, IoBuf, Promise, io};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// Bytes that may wait or be in flight before `send` waits.
pub const QUEUE_BYTES_MAX: usize = 8 << 20;
/// Small frames are joined into one send up to this many bytes.
const BATCH_BYTES_MAX: usize = 16 << 10;

pub(crate) struct Outgoing {
    pub head: Vec<u8>,
    pub payload: Option<IoBuf>,
    /// Given back once it has left.
    pub held: Option<Held>,
    /// The same of frames that were joined to it.
    pub joined: Vec<Held>,
}

impl Outgoing {
    /// Bytes on the wire.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.payload.as_ref().map_or(0, |p| p.len())
    }
}

/// One sender task takes batches, any task pushes.
#[derive(Default)]
pub(crate) struct Queue {
    frames: RefCell<VecDeque<Outgoing>>,
    /// Bytes in `frames` and in flight.
    bytes: Cell<usize>,
    /// Batches that have left since the start.
    left: Cell<u64>,
    closed: Cell<bool>,
    sender: RefCell<Option<Promise<()>>>,
    waiters: RefCell<Vec<Promise<()>>>,
}

impl Queue {
    /// Waits for room, then queues. False where the queue is closed.
    pub async fn push(&self, frame: Outgoing) -> bool {
        while !self.closed.get() && self.bytes.get() >= QUEUE_BYTES_MAX {
            self.changed().await;
        }
        if self.closed.get() {
            return false;
        }
        self.bytes.set(self.bytes.get() + frame.bytes());
        self.frames.borrow_mut().push_back(frame);
        let sender = self.sender.borrow_mut().take();
        if let Some(sender) = sender {
            sender.complete(());
        }
        true
    }

    /// Everything that is queued, at least one batch, or None once closed. Frames without payload
    /// are joined, the last of a batch may have one.
    pub async fn take(&self) -> Option<Vec<Outgoing>> {
        loop {
            if self.closed.get() {
                return None;
            }
            let batches: Vec<Outgoing> = std::iter::from_fn(|| self.join()).collect();
            if !batches.is_empty() {
                return Some(batches);
            }
            let (promise, wake) = io();
            *self.sender.borrow_mut() = Some(promise);
            wake.await;
        }
    }

    fn join(&self) -> Option<Outgoing> {
        let mut frames = self.frames.borrow_mut();
        let mut batch = frames.pop_front()?;
        let (mut joined, mut bytes) = (0, batch.head.len());
        let mut is_open = batch.payload.is_none();
        for next in frames.iter() {
            if !is_open || bytes + next.head.len() > BATCH_BYTES_MAX {
                break;
            }
            (joined, bytes) = (joined + 1, bytes + next.head.len());
            is_open = next.payload.is_none();
        }
        // All the room at once: growing would copy, and touch fresh pages, again and again.
        batch.head.reserve_exact(bytes - batch.head.len());
        for next in frames.drain(..joined) {
            batch.head.extend_from_slice(&next.head);
            batch.payload = next.payload;
            batch.joined.extend(next.held);
        }
        Some(batch)
    }

    /// A batch of so many bytes has left: room for others.
    pub fn sent(&self, bytes: usize) {
        self.left.set(self.left.get() + 1);
        self.bytes.set(self.bytes.get() - bytes);
        self.wake_all();
    }

    /// Batches that have left, and whether others wait or are on their way.
    pub fn progress(&self) -> (u64, bool) {
        (self.left.get(), self.bytes.get() > 0)
    }

    /// Resolves when everything queued has been sent or the queue is closed.
    pub async fn drained(&self) {
        while !self.closed.get() && self.bytes.get() > 0 {
            self.changed().await;
        }
    }

    /// Drops what waits and wakes everybody.
    pub fn close(&self) {
        self.closed.set(true);
        self.frames.borrow_mut().clear();
        let sender = self.sender.borrow_mut().take();
        if let Some(sender) = sender {
            sender.complete(());
        }
        self.wake_all();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    fn changed(&self) -> Io<()> {
        let (promise, wake) = io();
        let mut waiters = self.waiters.borrow_mut();
        waiters.retain(|w| !w.is_abandoned());
        waiters.push(promise);
        wake
    }

    fn wake_all(&self) {
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waiter in waiters {
            waiter.complete(());
        }
    }
}
