//! One connection: frames in, frames out.

use crate::RpcError;
use crate::allowance::{Allowance, Held, Room, SMALL_BYTES_MAX};
use crate::queue::{Outgoing, Queue};
use cfs_seam::{Class, Clock, Instant, IoBuf, NetError, Peer, Stream, TaskHandle, World, spawn, timeout};
use cfs_wire::frame::{Cover, PAYLOAD_BYTES_MAX, encode_covering};
use cfs_wire::{Flags, FrameError, FrameReader, Head, Header, Opcode};
use serde::{Serialize, de::DeserializeOwned};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// A frame whose first byte has arrived must be complete after this time.
pub const FRAME_TIME_MAX: Duration = Duration::from_secs(30);

/// Longest that a long payload waits for room in memory before it is thrown away: what comes after it on the
/// same connection may be what makes room. A small one does not wait: it shares the connection with what
/// keeps leases alive.
const ROOM_TIME_MAX: Duration = Duration::from_millis(500);
/// Longest message that takes no room: it is part of the request itself, whose places are bounded.
const SHORT_MESSAGE_BYTES: usize = 512;
/// A payload that is thrown away is received in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// A verified frame.
#[derive(Debug)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The message, unless the header says it is the payload.
    pub extension: Vec<u8>,
    /// Bulk bytes (or the message), 4 KiB aligned; None where the length is 0.
    pub payload: Option<IoBuf>,
    /// What payload and a long message take of the connection's [`Allowance`], where it has one.
    pub room: Option<Room>,
    /// There was no room for it: payload and message were thrown away, and nothing of the frame but its
    /// header is verified.
    pub refused: bool,
}

impl Frame {
    /// Decodes the message.
    pub fn message<M: DeserializeOwned>(&self) -> Result<M, FrameError> {
        self.header.message(&self.extension, self.payload.as_deref().unwrap_or(&[]))
    }
    /// The bulk bytes: none where the payload is the message itself.
    pub fn into_bulk(self) -> Option<IoBuf> {
        self.payload.filter(|_| !self.header.flags.has(Flags::MESSAGE_IN_PAYLOAD))
    }
}

/// A framed stream. One task receives, any number send. Dropping it closes the stream.
pub struct Connection {
    stream: Rc<dyn Stream>,
    clock: Rc<dyn Clock>,
    queue: Rc<Queue>,
    reader: RefCell<FrameReader>,
    payload_max: Cell<usize>,
    allowance: OnceCell<Allowance>,
    /// What had left at the last look, and since when.
    watched: Cell<Option<(u64, Instant)>>,
    next_request: Cell<u32>,
    _sender: TaskHandle,
}

impl Connection {
    /// Takes over a stream. Until the handshake has succeeded payloads are refused.
    pub fn new(world: &World, stream: Rc<dyn Stream>) -> Rc<Connection> {
        let queue = Rc::new(Queue::default());
        let sender = spawn(&world.tasks, Class::Foreground, send_all(stream.clone(), queue.clone()));
        Rc::new(Connection {
            stream,
            clock: world.clock.clone(),
            queue,
            reader: RefCell::new(FrameReader::new()),
            payload_max: Cell::new(0),
            allowance: OnceCell::new(),
            watched: Cell::new(None),
            next_request: Cell::new(1),
            _sender: sender,
        })
    }

    /// The next frame, verified. Not cancel-safe: a dropped call may lose bytes, so close then.
    /// After an error the connection is closed.
    pub async fn recv(&self) -> Result<Frame, RpcError> {
        let result = self.recv_frame().await;
        if result.is_err() {
            self.close();
        }
        result
    }

    async fn recv_frame(&self) -> Result<Frame, RpcError> {
        let Head { header, extension } = self.recv_head().await?;
        let len = header.payload_bytes();
        if len > self.payload_max.get() {
            return Err(FrameError::TooLong(header.payload_len).into());
        }
        let message = if extension.len() > SHORT_MESSAGE_BYTES { extension.len() } else { 0 };
        let bytes = (len + message) as u64;
        let mut room = None;
        if bytes > 0
            && let Some(allowance) = self.allowance.get()
        {
            let patience = if bytes > SMALL_BYTES_MAX { ROOM_TIME_MAX } else { Duration::ZERO };
            room = allowance.take(bytes, &self.clock, patience).await;
            if room.is_none() {
                self.discard(len).await?;
                return Ok(Frame { header, extension: Vec::new(), payload: None, room, refused: true });
            }
        }
        let payload = if len == 0 { None } else { Some(self.recv_payload(len).await?) };
        header.verify_covering(self.cover(), &extension, payload.as_deref().unwrap_or(&[]))?;
        Ok(Frame { header, extension, payload, room, refused: false })
    }

    /// Receives bytes that nobody keeps.
    async fn discard(&self, len: usize) -> Result<(), RpcError> {
        for at in (0..len).step_by(PIECE_BYTES) {
            self.recv_payload(PIECE_BYTES.min(len - at)).await?;
        }
        Ok(())
    }

    async fn recv_head(&self) -> Result<Head, RpcError> {
        loop {
            let (head, idle) = {
                let mut reader = self.reader.borrow_mut();
                (reader.poll_head()?, reader.is_idle())
            };
            if let Some(head) = head {
                return Ok(head);
            }
            let piece = if idle {
                self.stream.recv().await?
            } else {
                let end = self.clock.now().after(FRAME_TIME_MAX);
                timeout(&self.clock, end, self.stream.recv()).await.ok_or(RpcError::Stalled)??
            };
            self.reader.borrow_mut().feed(piece);
        }
    }

    async fn recv_payload(&self, len: usize) -> Result<IoBuf, RpcError> {
        let nothing_ahead = self.reader.borrow().held_bytes() == 0;
        if let Some(payload) = nothing_ahead.then(|| self.stream.take_whole(len)).flatten() {
            return Ok(payload);
        }
        let mut payload = IoBuf::stale(len);
        let ahead = self.reader.borrow_mut().take_ahead(&mut payload);
        if ahead == len {
            return Ok(payload);
        }
        let end = self.clock.now().after(FRAME_TIME_MAX);
        let rest = self.stream.recv_exact(payload, ahead);
        let (result, payload) = timeout(&self.clock, end, rest).await.ok_or(RpcError::Stalled)?;
        result?;
        Ok(payload)
    }

    /// Queues a frame; waits while [`crate::QUEUE_BYTES_MAX`] bytes are queued. Returns before it
    /// is sent. Cancel-safe: a dropped call has queued the whole frame or nothing.
    pub async fn send<M: Serialize>(
        &self,
        opcode: Opcode,
        flags: Flags,
        request: u32,
        message: &M,
        payload: Option<IoBuf>,
    ) -> Result<(), RpcError> {
        self.queue_frame((opcode, flags, request), message, payload, None).await
    }

    async fn queue_frame<M: Serialize>(
        &self,
        what: (Opcode, Flags, u32),
        message: &M,
        payload: Option<IoBuf>,
        held: Option<Held>,
    ) -> Result<(), RpcError> {
        let encoded = encode_covering(self.cover(), what, message, payload.as_deref().unwrap_or(&[]))?;
        let payload = match encoded.payload {
            Some(message) => Some(IoBuf::copy_of(&message)),
            None => payload.filter(|p| !p.is_empty()),
        };
        let queued = self.queue.push(Outgoing { head: encoded.head, payload, held, joined: Vec::new() }).await;
        if queued { Ok(()) } else { Err(NetError::Closed.into()) }
    }

    /// Answers `request`: a frame with the flag RESPONSE and its number.
    pub async fn respond<M: Serialize>(
        &self,
        request: &Header,
        message: &M,
        payload: Option<IoBuf>,
    ) -> Result<(), RpcError> {
        self.send(request.opcode, Flags::RESPONSE, request.request, message, payload).await
    }

    /// The same; what is held for the request is given back once the answer has left, or cannot.
    pub async fn respond_holding<M: Serialize>(
        &self,
        request: &Header,
        message: &M,
        payload: Option<IoBuf>,
        held: Held,
    ) -> Result<(), RpcError> {
        let whose = (request.opcode, Flags::RESPONSE, request.request);
        self.queue_frame(whose, message, payload, Some(held)).await
    }

    /// Payloads are received, and long messages kept, only where the allowance has room for them. Once, before
    /// there are any.
    pub fn bound_payloads(&self, allowance: Allowance) {
        let first = self.allowance.set(allowance).is_ok();
        assert!(first, "a connection has one allowance");
    }

    /// Whether nothing has left for `limit` although something waits to leave. To be asked again and
    /// again: it knows what it saw the last time, and when.
    pub fn is_stuck(&self, now: Instant, limit: Duration) -> bool {
        let (left, waits) = self.queue.progress();
        match self.watched.get() {
            Some((seen, since)) if waits && seen == left => now.since(since) >= limit,
            _ => {
                self.watched.set(Some((left, now)));
                false
            }
        }
    }

    /// A number for the next request of this side; wraps, 0 is never given.
    pub fn next_request(&self) -> u32 {
        let number = self.next_request.get();
        self.next_request.set(number.checked_add(1).unwrap_or(1));
        number
    }

    /// Resolves once everything queued has been handed to the kernel, or the connection closed.
    pub async fn drained(&self) {
        self.queue.drained().await;
    }

    /// Accept payloads from here on: the peer has proven itself.
    pub(crate) fn admit_payloads(&self) {
        self.payload_max.set(PAYLOAD_BYTES_MAX);
    }

    /// Closes both directions; what is queued is dropped, a pending `recv` fails.
    pub fn close(&self) {
        self.queue.close();
        self.stream.close();
    }

    /// Whether it was closed from this side or by an error.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// What the checksums of frames cover: both ends of a stream hand over, or neither.
    fn cover(&self) -> Cover {
        if self.stream.hands_over() { Cover::Nothing } else { Cover::Payload }
    }

    /// Whether payloads change hands as they are, so that a long one delays nothing that is sent after it.
    pub fn hands_over(&self) -> bool {
        self.stream.hands_over()
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.stream.peer()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

/// Hands everything that is queued to the stream at once, so that it shares system calls and
/// packets, and waits until the kernel has taken it.
async fn send_all(stream: Rc<dyn Stream>, queue: Rc<Queue>) {
    while let Some(batches) = queue.take().await {
        let send = |batch: Outgoing| {
            let (bytes, held) = (batch.bytes(), (batch.held, batch.joined));
            (stream.send(batch.head, batch.payload), bytes, held)
        };
        let sends: Vec<_> = batches.into_iter().map(send).collect();
        let mut failed = false;
        for (send, bytes, held) in sends {
            failed |= send.await.result.is_err();
            drop(held);
            queue.sent(bytes);
        }
        if failed {
            queue.close();
            stream.close();
        }
    }
}
