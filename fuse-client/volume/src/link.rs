//! The way to one core: a connection for requests and callbacks, and beside it one for payloads.
//!
//! Nothing relies on the order of requests and responses: an answer is kept by when its request left and
//! which leases it brought ([`Origin`]), and what must come after something waits for its response. Only callbacks and the
//! answers to them have an order, and they are on the first connection.

use crate::core::Core;
use crate::lane::Lane;
pub(crate) use crate::lane::{Answered, Lost, Origin, Sent};
use cfs_rpc::{Connection, Frame};
use cfs_seam::{Class, Instant, IoBuf, TaskHandle, spawn};
use cfs_types::{FsError, INLINE_WRITE_BYTES_MAX};
use cfs_wire::{Callback, CallbackReply, Flags, Op, Opcode, Request};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Payloads longer than this go on a connection of their own: what is shorter is sent in the time that
/// a request takes anyhow.
const SMALL_BYTES_MAX: u32 = INLINE_WRITE_BYTES_MAX;
/// After an attempt to connect for payloads that failed the next one waits so long.
const BULK_PAUSE: Duration = Duration::from_secs(1);

/// The second connection.
#[derive(Default)]
struct Bulk {
    lane: RefCell<Option<Rc<Lane>>>,
    connecting: Cell<bool>,
    not_before: Cell<Instant>,
}

/// A connection past its handshake, and its companion.
pub(crate) struct Link {
    /// Unique among the links of this volume.
    pub id: u64,
    pub core: u16,
    /// Which start of the server it leads to.
    pub incarnation: Option<u64>,
    lane: Rc<Lane>,
    /// Made for the first long payload; as long as there is none, everything goes on the first.
    bulk: Bulk,
    receiver: RefCell<Option<TaskHandle>>,
    /// Last time anything was sent on the first, for keep-alive.
    pub last_sent: Cell<Instant>,
}

/// Whether request or response carry a long payload.
fn is_bulk(op: &Op) -> bool {
    matches!(op, Op::Read { len, .. } | Op::Write { len, .. } if *len > SMALL_BYTES_MAX)
}

impl Link {
    /// Begins to receive.
    pub fn start(
        volume: &Rc<Core>,
        (id, incarnation): (u64, Option<u64>),
        core: u16,
        connection: Rc<Connection>,
    ) -> Rc<Link> {
        let link = Rc::new(Link {
            id,
            core,
            incarnation,
            lane: Lane::new(connection),
            bulk: Bulk::default(),
            receiver: RefCell::default(),
            last_sent: Cell::new(volume.now()),
        });
        let receive = receive(Rc::downgrade(volume), link.clone());
        *link.receiver.borrow_mut() = Some(spawn(&volume.world.tasks, Class::Foreground, receive));
        link
    }

    /// Sends and waits for the response until `end`. Dropping the call forgets the request, not
    /// its effect. A connection that leaves a request unanswered is dead.
    pub async fn request(
        self: &Rc<Self>,
        volume: &Rc<Core>,
        request: &Request,
        payload: Option<IoBuf>,
        end: Instant,
    ) -> Result<Answered, Lost> {
        let sent = Sent { at: volume.now(), tick: volume.inodes.tick(), link: self.id };
        let bulk = if is_bulk(&request.op) { self.bulk_lane(volume) } else { None };
        let Some(lane) = bulk else {
            self.last_sent.set(sent.at);
            let answered = self.lane.request(volume, request, payload, sent, end).await;
            if matches!(answered, Err(Lost::TimedOut)) {
                self.close();
            }
            return answered;
        };
        let answered = lane.request(volume, request, payload, sent, end).await;
        if matches!(answered, Err(Lost::TimedOut)) {
            lane.close();
        }
        answered
    }

    /// The connection for payloads. Where there is none one is made, and nobody waits for it.
    fn bulk_lane(self: &Rc<Self>, volume: &Rc<Core>) -> Option<Rc<Lane>> {
        let up = self.bulk.lane.borrow().clone().filter(|lane| !lane.is_closed());
        let now = volume.now();
        if up.is_some() || self.lane.hands_over() || self.bulk.connecting.get() || now < self.bulk.not_before.get() {
            return up;
        }
        self.bulk.connecting.set(true);
        let (link, asked) = (self.clone(), volume.clone());
        volume.spawn(Class::Foreground, async move {
            let connection = asked.connect_bulk(&link).await;
            link.bulk.connecting.set(false);
            let Some(connection) = connection.filter(|_| !link.is_closed()) else {
                link.bulk.not_before.set(asked.now().after(BULK_PAUSE));
                return;
            };
            let lane = Lane::new(connection);
            *link.bulk.lane.borrow_mut() = Some(lane.clone());
            asked.spawn(Class::Foreground, receive_bulk(Rc::downgrade(&asked), lane));
        });
        None
    }

    /// Answers a callback.
    pub async fn answer(&self, callback: &Frame, reply: &CallbackReply) {
        self.lane.answer(callback, reply).await;
    }

    pub fn is_closed(&self) -> bool {
        self.lane.is_closed()
    }

    /// Ends both connections; what waits is told so by the receivers.
    pub fn close(&self) {
        self.lane.close();
        if let Some(bulk) = self.bulk.lane.borrow().as_ref() {
            bulk.close();
        }
    }
}

/// Applies what arrives, in order: revocations and the leases of one connection must not overtake
/// each other.
async fn receive(volume: Weak<Core>, link: Rc<Link>) {
    while let Ok(frame) = link.lane.recv().await {
        let Some(volume) = volume.upgrade() else { break };
        let handled = if frame.header.flags.has(Flags::RESPONSE) {
            link.lane.complete(&volume, frame)
        } else if frame.header.opcode == Opcode::CALLBACK {
            match frame.message::<Callback>() {
                Ok(callback) => volume.handle_callback(&link, frame, callback).await,
                Err(_) => Err(FsError::Malformed),
            }
        } else {
            Err(FsError::Malformed)
        };
        if handled.is_err() {
            break;
        }
    }
    link.close();
    link.lane.end();
    if let Some(volume) = volume.upgrade() {
        volume.link_ended(&link);
    }
}

/// Applies responses; a core sends nothing else here.
async fn receive_bulk(volume: Weak<Core>, lane: Rc<Lane>) {
    while let Ok(frame) = lane.recv().await {
        let Some(volume) = volume.upgrade() else { break };
        if !frame.header.flags.has(Flags::RESPONSE) || lane.complete(&volume, frame).is_err() {
            break;
        }
    }
    lane.end();
}
