//! Streams between cores of one process that share a [`LocalNet`]: buffers change hands, and
//! nothing is copied or given to the kernel.
//!
//! A stream is two rings of owned pieces, one a direction, and a task at each end, its *pump*,
//! which the other end wakes: it hands what arrived to whoever waits for it, and what waits to be
//! sent to the ring once that has room.
//!
//! Invariants, as for sockets: bytes keep their order; what was sent before a close is received
//! before its end; a direction holds a bounded number of pieces and bytes, beyond which a send
//! completes late. No wake-up is lost: whoever publishes something issues a sequentially consistent
//! fence before it looks for a waker, and a pump registers its waker before it looks for news.

mod hub;

pub use hub::LocalNet;
pub(super) use hub::Registration;

use cfs_seam::{Chunk, Class, Io, IoBuf, NetError, Peer, Promise, SendDone, Spawn, Stream, TaskHandle, io, spawn};
use rtrb::{Consumer, Producer, RingBuffer};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};

/// Pieces a direction holds: two a send.
const PIECES_MAX: usize = 512;
/// A direction that holds so many bytes takes no further send, as a socket's buffer.
const BYTES_MAX: usize = 4 << 20;

/// What crosses.
enum Piece {
    Head(Vec<u8>),
    Payload(IoBuf),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Head(bytes) => bytes,
            Piece::Payload(buf) => buf,
        }
    }
}

/// One direction, as both ends see it.
#[derive(Default)]
struct Lane {
    bytes: AtomicUsize,
    /// The sender found no room and wants to be woken.
    sender_waits: AtomicBool,
}

/// What both ends share. Lane `n` leads away from end `n`.
#[derive(Default)]
struct Shared {
    lanes: [Lane; 2],
    pumps: [OnceLock<Waker>; 2],
    closed: AtomicBool,
}

impl Shared {
    /// Something changed for end `side`.
    fn wake(&self, side: usize) {
        fence(Ordering::SeqCst);
        if let Some(waker) = self.pumps[side].get() {
            waker.wake_by_ref();
        }
    }
}

/// One end before a core has taken it.
pub(super) struct LooseEnd {
    shared: Arc<Shared>,
    side: usize,
    outward: Producer<Piece>,
    inward: Consumer<Piece>,
}

/// Both ends of a new stream.
fn pair() -> [LooseEnd; 2] {
    let shared = Arc::<Shared>::default();
    let (there, arrives_there) = RingBuffer::new(PIECES_MAX);
    let (back, arrives_here) = RingBuffer::new(PIECES_MAX);
    [
        LooseEnd { shared: shared.clone(), side: 0, outward: there, inward: arrives_here },
        LooseEnd { shared, side: 1, outward: back, inward: arrives_there },
    ]
}

impl LooseEnd {
    /// Closes a stream that nobody will accept.
    fn refuse(self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake(1 - self.side);
    }

    /// Has a core use this end from now on. `queue_bytes_max`: sends that wait for room.
    pub(super) fn open(self, tasks: &Rc<dyn Spawn>, queue_bytes_max: usize) -> Rc<dyn Stream> {
        let end = Rc::new(End {
            shared: self.shared,
            side: self.side,
            sending: RefCell::new(Sending { ring: self.outward, queue: VecDeque::new(), queued_bytes: 0 }),
            receiving: RefCell::new(Receiving { ring: self.inward, rest: None, want: Want::Nothing }),
            closed: Cell::new(false),
            queue_bytes_max,
        });
        let pump = spawn(tasks, Class::Foreground, pump(end.clone()));
        Rc::new(LocalStream { end, _pump: pump })
    }
}

struct Outgoing {
    head: Vec<u8>,
    payload: Option<IoBuf>,
    promise: Promise<SendDone>,
}

impl Outgoing {
    fn bytes(&self) -> usize {
        self.head.len() + self.payload.as_ref().map_or(0, |payload| payload.len())
    }
    fn fail(self, error: NetError) {
        self.promise.complete(SendDone { result: Err(error), payload: self.payload });
    }
}

struct Sending {
    ring: Producer<Piece>,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
}

#[derive(Default)]
enum Want {
    #[default]
    Nothing,
    Chunk(Promise<Result<Chunk, NetError>>),
    Exact {
        buf: IoBuf,
        filled: usize,
        promise: Promise<(Result<(), NetError>, IoBuf)>,
    },
}

struct Receiving {
    ring: Consumer<Piece>,
    /// A piece of which the first bytes are gone.
    rest: Option<(Piece, usize)>,
    want: Want,
}

struct End {
    shared: Arc<Shared>,
    side: usize,
    sending: RefCell<Sending>,
    receiving: RefCell<Receiving>,
    closed: Cell<bool>,
    queue_bytes_max: usize,
}

/// Serves one end until it is closed.
async fn pump(end: Rc<End>) {
    poll_fn(|cx| {
        end.shared.pumps[end.side].get_or_init(|| cx.waker().clone());
        fence(Ordering::SeqCst);
        end.push();
        end.answer();
        if end.closed.get() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl End {
    fn other(&self) -> usize {
        1 - self.side
    }

    fn send(&self, head: Vec<u8>, payload: Option<IoBuf>) -> Io<SendDone> {
        let (promise, future) = io();
        let outgoing = Outgoing { head, payload, promise };
        let mut sending = self.sending.borrow_mut();
        let too_much = sending.queued_bytes.saturating_add(outgoing.bytes()) > self.queue_bytes_max;
        if self.closed.get() || too_much {
            drop(sending);
            outgoing.fail(if too_much { NetError::Os(libc::ENOBUFS) } else { NetError::Closed });
            self.close();
            return future;
        }
        sending.queued_bytes += outgoing.bytes();
        sending.queue.push_back(outgoing);
        drop(sending);
        self.push();
        future
    }

    /// Moves what waits into the ring as far as there is room.
    fn push(&self) {
        let lane = &self.shared.lanes[self.side];
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        {
            let mut sending = self.sending.borrow_mut();
            if self.shared.closed.load(Ordering::Acquire) {
                failed.extend(sending.queue.drain(..));
                sending.queued_bytes = 0;
            }
            while !sending.queue.is_empty() {
                if lane.bytes.load(Ordering::Acquire) >= BYTES_MAX || sending.ring.slots() < 2 {
                    if lane.sender_waits.swap(true, Ordering::SeqCst) {
                        break;
                    }
                    continue;
                }
                let Some(outgoing) = sending.queue.pop_front() else { break };
                sending.queued_bytes -= outgoing.bytes();
                lane.bytes.fetch_add(outgoing.bytes(), Ordering::AcqRel);
                let Outgoing { head, payload, promise } = outgoing;
                let pieces = [Some(Piece::Head(head)), payload.map(Piece::Payload)];
                for piece in pieces.into_iter().flatten().filter(|piece| !piece.bytes().is_empty()) {
                    assert!(sending.ring.push(piece).is_ok(), "two places were free and only this end fills them");
                }
                done.push(promise);
            }
        }
        if !done.is_empty() {
            self.shared.wake(self.other());
        }
        done.into_iter().for_each(|promise| promise.complete(SendDone { result: Ok(()), payload: None }));
        failed.into_iter().for_each(|outgoing: Outgoing| outgoing.fail(NetError::Closed));
    }

    /// The next piece and how many of its bytes are gone already.
    fn pop(&self, receiving: &mut Receiving) -> Option<(Piece, usize)> {
        if let Some(rest) = receiving.rest.take() {
            return Some(rest);
        }
        let piece = receiving.ring.pop().ok()?;
        let lane = &self.shared.lanes[self.other()];
        lane.bytes.fetch_sub(piece.bytes().len(), Ordering::AcqRel);
        if lane.sender_waits.swap(false, Ordering::SeqCst) {
            self.shared.wake(self.other());
        }
        Some((piece, 0))
    }

    /// The next piece, if it is a payload of this length.
    fn take_whole(&self, len: usize) -> Option<IoBuf> {
        let mut receiving = self.receiving.borrow_mut();
        match self.pop(&mut receiving)? {
            (Piece::Payload(whole), 0) if whole.len() == len => Some(whole),
            other => {
                receiving.rest = Some(other);
                None
            }
        }
    }

    fn is_free(&self) -> bool {
        match &self.receiving.borrow().want {
            Want::Nothing => true,
            Want::Chunk(promise) => promise.is_abandoned(),
            Want::Exact { .. } => false,
        }
    }

    fn receive(&self, want: Want) {
        self.receiving.borrow_mut().want = want;
        self.answer();
    }

    /// Gives whoever waits what is there.
    fn answer(&self) {
        // Before the pieces are looked at: what was sent before the close comes first.
        let ended = self.closed.get() || self.shared.closed.load(Ordering::Acquire);
        let mut receiving = self.receiving.borrow_mut();
        match std::mem::take(&mut receiving.want) {
            Want::Nothing => {}
            Want::Chunk(promise) if promise.is_abandoned() => {}
            Want::Chunk(promise) => match self.pop(&mut receiving).filter(|_| !self.closed.get()) {
                Some((piece, gone)) => {
                    drop(receiving);
                    promise.complete(Ok(chunk(piece, gone)));
                }
                None if ended => {
                    drop(receiving);
                    promise.complete(Err(NetError::Closed));
                }
                None => receiving.want = Want::Chunk(promise),
            },
            Want::Exact { mut buf, mut filled, promise } => {
                while filled < buf.len()
                    && let Some((piece, gone)) = self.pop(&mut receiving)
                {
                    match piece {
                        Piece::Payload(whole) if gone == 0 && filled == 0 && whole.len() == buf.len() => {
                            filled = whole.len();
                            buf = whole;
                        }
                        piece => {
                            let rest = &piece.bytes()[gone..];
                            let bytes = rest.len().min(buf.len() - filled);
                            buf[filled..filled + bytes].copy_from_slice(&rest[..bytes]);
                            filled += bytes;
                            receiving.rest = (bytes < rest.len()).then_some((piece, gone + bytes));
                        }
                    }
                }
                let whole = filled == buf.len();
                if whole || ended {
                    drop(receiving);
                    promise.complete((if whole { Ok(()) } else { Err(NetError::Closed) }, buf));
                } else {
                    receiving.want = Want::Exact { buf, filled, promise };
                }
            }
        }
    }

    fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake(self.other());
        self.shared.wake(self.side);
        self.push();
        self.answer();
    }
}

fn chunk(piece: Piece, gone: usize) -> Chunk {
    match piece {
        Piece::Head(bytes) if gone == 0 => bytes,
        piece => piece.bytes()[gone..].to_vec(),
    }
}

/// What the core holds: dropping it closes the stream.
struct LocalStream {
    end: Rc<End>,
    _pump: TaskHandle,
}

impl Stream for LocalStream {
    fn recv(&self) -> Io<Result<Chunk, NetError>> {
        if !self.end.is_free() {
            return Io::ready(Err(NetError::Os(libc::EBUSY)));
        }
        let (promise, future) = io();
        self.end.receive(Want::Chunk(promise));
        future
    }
    fn recv_exact(&self, buf: IoBuf, from: usize) -> Io<(Result<(), NetError>, IoBuf)> {
        if from > buf.len() {
            return Io::ready((Err(NetError::Os(libc::EINVAL)), buf));
        }
        if !self.end.is_free() {
            return Io::ready((Err(NetError::Os(libc::EBUSY)), buf));
        }
        let (promise, future) = io();
        self.end.receive(Want::Exact { buf, filled: from, promise });
        future
    }
    fn take_whole(&self, len: usize) -> Option<IoBuf> {
        if self.end.is_free() { self.end.take_whole(len) } else { None }
    }
    fn hands_over(&self) -> bool {
        true
    }
    fn send(&self, head: Vec<u8>, payload: Option<IoBuf>) -> Io<SendDone> {
        self.end.send(head, payload)
    }
    fn close(&self) {
        self.end.close();
    }
    fn peer(&self) -> Peer {
        Peer { address: "this process".to_owned(), uid: Some(crate::system::user_id()) }
    }
}

impl Drop for LocalStream {
    fn drop(&mut self) {
        self.end.close();
    }
}
