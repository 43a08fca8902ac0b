//! One connection to one core: requests matched with responses.

use crate::core::Core;
use cfs_rpc::{Connection, Frame};
use cfs_seam::{Class, Instant, IoBuf, Promise, TaskHandle, io, spawn, timeout};
use cfs_types::FsError;
use cfs_wire::{Callback, Flags, Opcode, Request, Response};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// When a request left, as far as caching what it brings is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub at: Instant,
    /// The volume's count of revocations and own changes at that moment.
    pub tick: u64,
    /// The link that carried it.
    pub link: u64,
}

/// A response and its bulk bytes.
#[derive(Debug)]
pub(crate) struct Answered {
    pub response: Response,
    pub payload: Option<IoBuf>,
    pub sent: Sent,
}

/// Why no response came. The outcome of a mutation is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    /// The connection ended.
    Gone,
    /// The deadline passed.
    TimedOut,
    /// The request does not fit a frame; it was not sent.
    TooLong,
}

struct Pending {
    sent: Sent,
    promise: Promise<Result<Answered, Lost>>,
}

/// A connection past its handshake.
pub(crate) struct Link {
    /// Unique among the links of this volume.
    pub id: u64,
    pub core: u16,
    connection: Rc<Connection>,
    pending: RefCell<BTreeMap<u32, Pending>>,
    receiver: RefCell<Option<TaskHandle>>,
    /// Last time anything was sent, for keep-alive.
    pub last_sent: Cell<Instant>,
}

struct Forget<'a>(&'a Link, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.pending.borrow_mut().remove(&self.1);
    }
}

impl Link {
    /// Begins to receive.
    pub fn start(volume: &Rc<Core>, id: u64, core: u16, connection: Rc<Connection>) -> Rc<Link> {
        let link = Rc::new(Link {
            id,
            core,
            connection,
            pending: RefCell::default(),
            receiver: RefCell::default(),
            last_sent: Cell::new(volume.now()),
        });
        let receive = receive(Rc::downgrade(volume), link.clone());
        *link.receiver.borrow_mut() = Some(spawn(&volume.world.tasks, Class::Foreground, receive));
        link
    }

    /// Sends and waits for the response until `end`. Dropping the call forgets the request, not
    /// its effect.
    pub async fn request(
        &self,
        volume: &Core,
        request: &Request,
        payload: Option<IoBuf>,
        end: Instant,
    ) -> Result<Answered, Lost> {
        let number = self.connection.next_request();
        let sent = Sent { at: volume.now(), tick: volume.inodes.tick(), link: self.id };
        self.last_sent.set(sent.at);
        let (promise, answer) = io();
        self.pending.borrow_mut().insert(number, Pending { sent, promise });
        let _forget = Forget(self, number);
        let opcode = request.op.opcode();
        let exchange = async {
            match self.connection.send(opcode, Flags::NONE, number, request, payload).await {
                Ok(()) => answer.await,
                Err(cfs_rpc::RpcError::Frame(_)) => Err(Lost::TooLong),
                Err(_) => Err(Lost::Gone),
            }
        };
        timeout(&volume.world.clock, end, exchange).await.unwrap_or(Err(Lost::TimedOut))
    }

    /// Answers a callback.
    pub async fn answer(&self, callback: &Frame, reply: &cfs_wire::CallbackReply) {
        if self.connection.respond(&callback.header, reply, None).await.is_err() {
            self.close();
        }
    }

    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Ends the connection; what waits is told so by the receiver.
    pub fn close(&self) {
        self.connection.close();
    }

    fn fail_all(&self) {
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        for (_, waiting) in pending {
            waiting.promise.complete(Err(Lost::Gone));
        }
    }

    fn complete(&self, volume: &Core, frame: Frame) -> Result<(), FsError> {
        if !frame.header.opcode.is_operation() {
            return Err(FsError::Malformed);
        }
        let response: Response = frame.message().map_err(|_| FsError::Malformed)?;
        let pending = self.pending.borrow_mut().remove(&frame.header.request);
        // A caller that gave up has taken its entry away: its leases are not wanted.
        let Some(pending) = pending else { return Ok(()) };
        volume.absorb(&response, pending.sent);
        let payload = frame.into_bulk();
        pending.promise.complete(Ok(Answered { response, payload, sent: pending.sent }));
        Ok(())
    }
}

/// Applies what arrives, in order: leases and revocations must not overtake each other.
async fn receive(volume: Weak<Core>, link: Rc<Link>) {
    while let Ok(frame) = link.connection.recv().await {
        let Some(volume) = volume.upgrade() else { break };
        let handled = if frame.header.flags.has(Flags::RESPONSE) {
            link.complete(&volume, frame)
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
    link.fail_all();
    if let Some(volume) = volume.upgrade() {
        volume.link_ended(&link);
    }
}
