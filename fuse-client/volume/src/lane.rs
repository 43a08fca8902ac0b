//! One connection of a link: requests matched with responses.

use crate::core::Core;
use cfs_rpc::{Connection, Frame, RpcError};
use cfs_seam::{Instant, IoBuf, Promise, io, timeout};
use cfs_types::{FsError, InodeId, ShardId};
use cfs_wire::{CallbackReply, Flags, Request, Response};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// When a request left, as far as caching what it brings is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub at: Instant,
    /// The volume's count of revocations and own changes at that moment.
    pub tick: u64,
    /// The link that carried it.
    pub link: u64,
}

/// Where an answer comes from, as far as caching what it says is concerned.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub sent: Sent,
    /// The inodes that it brought a lease on, and the era of that; in order.
    leased: Vec<(InodeId, u64)>,
}

impl Origin {
    pub fn new(sent: Sent, mut leased: Vec<(InodeId, u64)>) -> Self {
        leased.sort_unstable();
        Origin { sent, leased }
    }

    /// The era of the lease on `ino` that came with the answer.
    pub fn era_of(&self, ino: InodeId) -> Option<u64> {
        self.leased.binary_search_by_key(&ino, |(ino, _)| *ino).ok().map(|at| self.leased[at].1)
    }
}

/// A response and its bulk bytes.
#[derive(Debug)]
pub(crate) struct Answered {
    pub response: Response,
    pub payload: Option<IoBuf>,
    pub origin: Origin,
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
    shard: ShardId,
    sent: Sent,
    promise: Promise<Result<Answered, Lost>>,
}

/// A connection past its handshake. One task receives.
pub(crate) struct Lane {
    connection: Rc<Connection>,
    pending: RefCell<BTreeMap<u32, Pending>>,
}

struct Forget<'a>(&'a Lane, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.pending.borrow_mut().remove(&self.1);
    }
}

impl Lane {
    pub fn new(connection: Rc<Connection>) -> Rc<Lane> {
        Rc::new(Lane { connection, pending: RefCell::default() })
    }

    /// Sends and waits for the response until `end`. Dropping the call forgets the request, not
    /// its effect.
    pub async fn request(
        &self,
        volume: &Core,
        request: &Request,
        payload: Option<IoBuf>,
        sent: Sent,
        end: Instant,
    ) -> Result<Answered, Lost> {
        let number = self.connection.next_request();
        let (promise, answer) = io();
        self.pending.borrow_mut().insert(number, Pending { shard: request.context.shard, sent, promise });
        let _forget = Forget(self, number);
        let opcode = request.op.opcode();
        let exchange = async {
            match self.connection.send(opcode, Flags::NONE, number, request, payload).await {
                Ok(()) => answer.await,
                Err(RpcError::Frame(_)) => Err(Lost::TooLong),
                Err(_) => Err(Lost::Gone),
            }
        };
        timeout(&volume.world.clock, end, exchange).await.unwrap_or(Err(Lost::TimedOut))
    }

    /// Answers a callback.
    pub async fn answer(&self, callback: &Frame, reply: &CallbackReply) {
        if self.connection.respond(&callback.header, reply, None).await.is_err() {
            self.close();
        }
    }

    /// The next frame; as [`Connection::recv`].
    pub async fn recv(&self) -> Result<Frame, RpcError> {
        self.connection.recv().await
    }

    /// Hands a response to whoever waits for it.
    pub fn complete(&self, volume: &Core, frame: Frame) -> Result<(), FsError> {
        if !frame.header.opcode.is_operation() {
            return Err(FsError::Malformed);
        }
        let response: Response = frame.message().map_err(|_| FsError::Malformed)?;
        let pending = self.pending.borrow_mut().remove(&frame.header.request);
        // A caller that gave up has taken its entry away: its leases are not wanted.
        let Some(pending) = pending else { return Ok(()) };
        let origin = volume.absorb(&response, pending.shard, pending.sent);
        let payload = frame.into_bulk();
        pending.promise.complete(Ok(Answered { response, payload, origin }));
        Ok(())
    }

    /// Whether a payload is handed over as it is and delays nothing that follows it.
    pub fn hands_over(&self) -> bool {
        self.connection.hands_over()
    }

    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Ends the connection; what waits is told so by the receiver.
    pub fn close(&self) {
        self.connection.close();
    }

    /// The connection is over.
    pub fn end(&self) {
        self.close();
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        for (_, waiting) in pending {
            waiting.promise.complete(Err(Lost::Gone));
        }
    }
}
