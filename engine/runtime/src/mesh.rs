//! The core mesh: a single-producer single-consumer ring for every ordered pair of cores, and a
//! bounded queue into each core for threads that are no cores.
//!
//! Invariants: messages of a pair arrive in order, once. A sender wakes the receiver only if it
//! sleeps: cores by MSG_RING, other threads by an event descriptor (`wake.rs`).

use crate::RuntimeError;
use crate::reactor::Reactor;
use crate::wake::WakeCell;
use cfs_seam::{Io, Mesh, MeshFull, MeshMessage, Promise, io};
use cfs_types::CoreId;
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Messages that wait between two cores, and from all other threads to one core: 16 bytes each.
pub const MESH_RING_MESSAGES: usize = 1024;

/// The sender that messages of a [`Remote`] carry.
pub const OUTSIDE: CoreId = CoreId::new(u16::MAX);

struct Shared {
    cells: Vec<Arc<WakeCell>>,
    outside: Vec<SyncSender<MeshMessage>>,
}

/// One core's place in the mesh; goes to the core's thread.
pub struct MeshSeat {
    me: CoreId,
    to: Vec<Option<Producer<MeshMessage>>>,
    from: Vec<Option<Consumer<MeshMessage>>>,
    outside: Receiver<MeshMessage>,
    shared: Arc<Shared>,
}

/// Seats for `cores` cores, in order.
pub fn mesh(cores: u16) -> Result<Vec<MeshSeat>, RuntimeError> {
    let count = usize::from(cores);
    let mut cells = Vec::with_capacity(count);
    let (mut inlets, mut outlets) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        cells.push(Arc::new(WakeCell::new()?));
        let (inlet, outlet) = sync_channel(MESH_RING_MESSAGES);
        inlets.push(inlet);
        outlets.push(outlet);
    }
    let shared = Arc::new(Shared { cells, outside: inlets });
    let mut seats: Vec<MeshSeat> = (0..cores)
        .zip(outlets)
        .map(|(me, outside)| {
            let (to, from) = (Vec::with_capacity(count), Vec::with_capacity(count));
            MeshSeat { me: CoreId::new(me), to, from, outside, shared: shared.clone() }
        })
        .collect();
    for sender in 0..count {
        for receiver in 0..count {
            let (producer, consumer) = match sender == receiver {
                true => (None, None),
                false => {
                    let (producer, consumer) = RingBuffer::new(MESH_RING_MESSAGES);
                    (Some(producer), Some(consumer))
                }
            };
            seats[sender].to.push(producer);
            seats[receiver].from.push(consumer);
        }
    }
    Ok(seats)
}

impl MeshSeat {
    /// The core that sits here.
    pub fn core(&self) -> CoreId {
        self.me
    }
    /// A handle by which any thread may send to any core.
    pub fn remote(&self) -> Remote {
        Remote(self.shared.clone())
    }
    pub(crate) fn cell(&self) -> Arc<WakeCell> {
        self.shared.cells[usize::from(self.me.get())].clone()
    }
}

/// Sends to the cores from threads that are none, for example management. Answers come back by a
/// channel inside the message.
#[derive(Clone)]
pub struct Remote(Arc<Shared>);

impl Remote {
    /// Cores of the mesh.
    pub fn cores(&self) -> u16 {
        u16::try_from(self.0.cells.len()).expect("a mesh has at most 65,535 seats")
    }
    /// Queues a message; the core receives it as coming from [`OUTSIDE`]. Comes back where the
    /// queue is full, the core has ended or there is no such core.
    pub fn send(&self, to: CoreId, message: MeshMessage) -> Result<(), MeshFull> {
        let index = usize::from(to.get());
        let (Some(inlet), Some(cell)) = (self.0.outside.get(index), self.0.cells.get(index)) else {
            return Err(MeshFull(message));
        };
        match inlet.try_send(message) {
            Ok(()) => {
                cell.notify();
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => Err(MeshFull(message)),
        }
    }
}

type Received = (CoreId, MeshMessage);

/// The mesh as one core uses it.
pub(crate) struct CoreMesh {
    me: CoreId,
    to: RefCell<Vec<Option<Producer<MeshMessage>>>>,
    inbox: RefCell<Inbox>,
    waiting: Cell<Option<Promise<Received>>>,
    shared: Arc<Shared>,
    reactor: Rc<Reactor>,
}

struct Inbox {
    from: Vec<Option<Consumer<MeshMessage>>>,
    outside: Receiver<MeshMessage>,
    own: VecDeque<MeshMessage>,
    me: CoreId,
    /// Where the next look begins, so that no sender starves another.
    turn: usize,
}

impl Inbox {
    /// The next message, fair between senders. The last place stands for the outside.
    fn pop(&mut self) -> Option<Received> {
        let places = self.from.len() + 1;
        for step in 0..places {
            let place = (self.turn + step) % places;
            let found = match self.from.get_mut(place) {
                None => self.outside.try_recv().ok().map(|message| (OUTSIDE, message)),
                Some(Some(ring)) => {
                    let from = CoreId::new(u16::try_from(place).expect("a seat number"));
                    ring.pop().ok().map(|message| (from, message))
                }
                Some(None) => self.own.pop_front().map(|message| (self.me, message)),
            };
            if found.is_some() {
                self.turn = place + 1;
                return found;
            }
        }
        None
    }
}

impl CoreMesh {
    pub(crate) fn new(seat: MeshSeat, reactor: Rc<Reactor>) -> Self {
        let MeshSeat { me, to, from, outside, shared } = seat;
        let inbox = Inbox { from, outside, own: VecDeque::new(), me, turn: 0 };
        CoreMesh { me, to: RefCell::new(to), inbox: RefCell::new(inbox), waiting: Cell::new(None), shared, reactor }
    }

    /// Hands a message to the task that waits for one. True if it did.
    pub(crate) fn deliver(&self) -> bool {
        let Some(promise) = self.waiting.take() else { return false };
        if promise.is_abandoned() {
            return false;
        }
        let message = self.inbox.borrow_mut().pop();
        match message {
            Some(message) => {
                promise.complete(message);
                true
            }
            None => {
                self.waiting.set(Some(promise));
                false
            }
        }
    }
}

impl Mesh for CoreMesh {
    fn cores(&self) -> u16 {
        u16::try_from(self.shared.cells.len()).expect("a mesh has at most 65,535 seats")
    }
    fn me(&self) -> CoreId {
        self.me
    }
    fn send(&self, to: CoreId, message: MeshMessage) -> Result<(), MeshFull> {
        if to == self.me {
            let mut inbox = self.inbox.borrow_mut();
            if inbox.own.len() >= MESH_RING_MESSAGES {
                return Err(MeshFull(message));
            }
            inbox.own.push_back(message);
            return Ok(());
        }
        let index = usize::from(to.get());
        let mut rings = self.to.borrow_mut();
        let Some(Some(ring)) = rings.get_mut(index) else { return Err(MeshFull(message)) };
        ring.push(message).map_err(|PushError::Full(message)| MeshFull(message))?;
        if self.shared.cells[index].claim() {
            self.reactor.wake_core(self.shared.cells[index].clone());
        }
        Ok(())
    }
    fn recv(&self) -> Io<Received> {
        if let Some(message) = self.inbox.borrow_mut().pop() {
            return Io::ready(message);
        }
        let (promise, future) = io();
        self.waiting.set(Some(promise));
        future
    }
}
