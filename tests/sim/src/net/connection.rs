//! One connection: two ends, two directions.

use super::Fabric;
use crate::sim::NodeId;
use crate::timeline::{Kind, Life};
use cfs_seam::{Chunk, Io, IoBuf, NetError, Peer, Promise, SendDone, Stream, io};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Read;
use std::rc::Rc;

/// Longest piece that arrives at once, bytes.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// A window that opens by less is not used.
const WINDOW_STEP_BYTES: usize = 4096;
/// Pieces per million that are cut very short.
const TINY_PIECE_PER_MILLION: u32 = 100_000;
/// How often a piece is tried again during a partition, nanoseconds.
const RETRY_NS: u64 = 50_000_000;
/// Latest that a peer notices that a node is gone, nanoseconds.
const NOTICE_NS_MAX: u64 = 500_000_000;
/// The user behind every Unix socket.
const PEER_UID: u32 = 0;

/// One side of a connection.
#[derive(Clone)]
pub struct Party {
    pub node: NodeId,
    pub life: Life,
    /// For logs of the other side.
    pub name: String,
}

enum Piece {
    Bytes(Vec<u8>),
    End,
}

enum Receive {
    Any(Promise<Result<Chunk, NetError>>),
    Exact { buf: IoBuf, from: usize, promise: Promise<(Result<(), NetError>, IoBuf)> },
}

struct Sending {
    head: Vec<u8>,
    payload: Option<IoBuf>,
    sent: usize,
    promise: Promise<SendDone>,
}

impl Sending {
    fn left(&self) -> usize {
        self.head.len() + self.payload.as_ref().map_or(0, |p| p.len()) - self.sent
    }
    /// The next `len` bytes, which may lie in head and payload.
    fn take(&mut self, len: usize) -> Vec<u8> {
        let payload = self.payload.as_deref().unwrap_or(&[]);
        let (from, to) = (self.sent, self.sent + len);
        let within = |part: usize| part.min(self.head.len());
        let after = |part: usize| part.saturating_sub(self.head.len());
        self.sent = to;
        [&self.head[within(from)..within(to)], &payload[after(from)..after(to)]].concat()
    }
    fn end(self, result: Result<(), NetError>) {
        self.promise.complete(SendDone { result, payload: self.payload });
    }
}

#[derive(Default)]
struct End {
    /// Arrived and not yet received.
    inbox: VecDeque<u8>,
    /// The other side sends no more.
    ended: bool,
    /// Closed by its owner, or broken.
    dead: bool,
    receive: Option<Receive>,
    outgoing: VecDeque<Sending>,
    wire: VecDeque<Piece>,
    /// Bytes of this end on the wire or in the other's inbox.
    unread: usize,
}

impl End {
    /// Ends everything pending; what was not received is lost.
    fn die(&mut self) {
        self.dead = true;
        self.inbox.clear();
        match self.receive.take() {
            Some(Receive::Any(promise)) => promise.complete(Err(NetError::Closed)),
            Some(Receive::Exact { buf, promise, .. }) => promise.complete((Err(NetError::Closed), buf)),
            None => {}
        }
        self.outgoing.drain(..).for_each(|sending| sending.end(Err(NetError::Closed)));
    }
}

/// A connection between two parties; `usize` arguments name the side, 0 or 1.
pub struct Connection {
    fabric: Rc<Fabric>,
    parties: [Party; 2],
    ends: [RefCell<End>; 2],
    local_socket: bool,
}

impl Connection {
    pub fn new(fabric: Rc<Fabric>, parties: [Party; 2], local_socket: bool) -> Rc<Connection> {
        Rc::new(Connection { fabric, parties, ends: Default::default(), local_socket })
    }

    /// The two streams, in the order of the parties.
    pub fn ends(self: &Rc<Self>) -> (Rc<dyn Stream>, Rc<dyn Stream>) {
        let end = |side| Rc::new(SimStream { connection: self.clone(), side });
        (end(0), end(1))
    }

    pub fn node(&self, side: usize) -> NodeId {
        self.parties[side].node
    }

    /// Breaks both ends.
    pub fn reset(&self) {
        for end in &self.ends {
            let mut end = end.borrow_mut();
            end.wire.clear();
            end.die();
        }
    }

    /// The ends on `node` die now, the other one when it notices.
    pub fn node_died(self: &Rc<Self>, node: NodeId) {
        for side in 0..2 {
            if self.node(side) == node {
                let mut end = self.ends[side].borrow_mut();
                end.wire.clear();
                end.die();
                continue;
            }
            let connection = self.clone();
            let at = self.fabric.timeline.nanos() + self.fabric.rng.below(NOTICE_NS_MAX);
            self.fabric.timeline.schedule(at, &self.parties[side].life, Kind::Reset, move || connection.reset());
        }
    }

    /// Puts what fits the window on the wire.
    fn pump(self: &Rc<Self>, side: usize) {
        loop {
            let mut end = self.ends[side].borrow_mut();
            let room = self.fabric.config.window_bytes.saturating_sub(end.unread);
            let Some(sending) = end.outgoing.front_mut() else { return };
            if sending.left() == 0 {
                let done = end.outgoing.pop_front().expect("there is a front");
                done.end(Ok(()));
                continue;
            }
            // As TCP does (RFC 9293, 3.8.6.2): pieces as small as what was just read would stay small for ever.
            if room < sending.left().min(WINDOW_STEP_BYTES) {
                return;
            }
            let most = sending.left().min(room).min(PIECE_BYTES_MAX);
            let rng = &self.fabric.rng;
            let tiny = rng.chance(TINY_PIECE_PER_MILLION);
            let len = 1 + rng.index(if tiny { most.min(16) } else { most });
            // Most pieces are as long as can be, as on a real network.
            let len = if !tiny && rng.chance(700_000) { most } else { len };
            let bytes = sending.take(len);
            end.unread += len;
            drop(end);
            self.put(side, Piece::Bytes(bytes));
        }
    }

    /// Puts a piece on the wire. Each schedules one arrival, which takes the oldest piece: order
    /// is kept whatever the delays.
    fn put(self: &Rc<Self>, side: usize, piece: Piece) {
        let delay = self.fabric.latency(self.node(side), self.node(1 - side));
        self.ends[side].borrow_mut().wire.push_back(piece);
        self.deliver_at(side, self.fabric.timeline.nanos() + delay, 0);
    }

    /// Schedules the arrival of one piece of `side`, which has waited for `waited` nanoseconds.
    fn deliver_at(self: &Rc<Self>, side: usize, at: u64, waited: u64) {
        let connection = self.clone();
        let life = &self.parties[1 - side].life;
        self.fabric.timeline.schedule(at, life, Kind::Segment, move || connection.deliver(side, waited));
    }

    /// The oldest piece on the wire of `side` arrives, unless the network is cut.
    fn deliver(self: &Rc<Self>, side: usize, waited: u64) {
        if self.fabric.is_cut(self.node(0), self.node(1)) {
            if waited >= self.fabric.config.give_up_ns {
                return self.reset();
            }
            let at = self.fabric.timeline.nanos() + RETRY_NS;
            return self.deliver_at(side, at, waited + RETRY_NS);
        }
        if self.fabric.rng.chance(self.fabric.config.reset_per_million) {
            return self.reset();
        }
        let Some(piece) = self.ends[side].borrow_mut().wire.pop_front() else { return };
        let mut other = self.ends[1 - side].borrow_mut();
        match piece {
            _ if other.dead => {
                drop(other);
                return self.ends[side].borrow_mut().die();
            }
            Piece::Bytes(bytes) => other.inbox.extend(bytes),
            Piece::End => other.ended = true,
        }
        drop(other);
        self.serve(1 - side);
    }

    /// Completes a pending receive of `side` as far as bytes have arrived.
    fn serve(self: &Rc<Self>, side: usize) {
        let mut end = self.ends[side].borrow_mut();
        let end = &mut *end;
        let had = end.inbox.len();
        match end.receive.take() {
            None => return,
            Some(Receive::Any(promise)) if promise.is_abandoned() => return,
            Some(Receive::Any(promise)) => match (had, end.ended) {
                (0, false) => {
                    end.receive = Some(Receive::Any(promise));
                    return;
                }
                (0, true) => return promise.complete(Err(NetError::Closed)),
                _ => {
                    let rng = &self.fabric.rng;
                    let len = if rng.chance(700_000) { had } else { 1 + rng.index(had) };
                    promise.complete(Ok(end.inbox.drain(..len).collect()));
                }
            },
            Some(Receive::Exact { promise, .. }) if promise.is_abandoned() => return,
            Some(Receive::Exact { mut buf, from, promise }) => {
                let len = had.min(buf.len() - from);
                end.inbox.read_exact(&mut buf[from..from + len]).expect("as much as is there");
                if from + len == buf.len() {
                    promise.complete((Ok(()), buf));
                } else if end.ended {
                    promise.complete((Err(NetError::Closed), buf));
                } else {
                    end.receive = Some(Receive::Exact { buf, from: from + len, promise });
                }
            }
        }
        let taken = had - end.inbox.len();
        self.ends[1 - side].borrow_mut().unread -= taken;
        self.pump(1 - side);
    }
}

/// One end in the hands of a task; dropping it closes the connection.
struct SimStream {
    connection: Rc<Connection>,
    side: usize,
}

impl SimStream {
    /// Registers a receive, refusing a second one: one task receives.
    fn receive(&self, receive: Receive) {
        let mut end = self.connection.ends[self.side].borrow_mut();
        let busy = match &end.receive {
            Some(Receive::Any(promise)) => !promise.is_abandoned(),
            Some(Receive::Exact { promise, .. }) => !promise.is_abandoned(),
            None => false,
        };
        assert!(!busy, "two receives on one stream");
        end.receive = Some(receive);
        drop(end);
        self.connection.serve(self.side);
    }
    fn is_dead(&self) -> bool {
        self.connection.ends[self.side].borrow().dead
    }
}

impl Stream for SimStream {
    fn recv(&self) -> Io<Result<Chunk, NetError>> {
        if self.is_dead() {
            return Io::ready(Err(NetError::Closed));
        }
        let (promise, chunk) = io();
        self.receive(Receive::Any(promise));
        chunk
    }
    fn recv_exact(&self, buf: IoBuf, from: usize) -> Io<(Result<(), NetError>, IoBuf)> {
        if self.is_dead() {
            return Io::ready((Err(NetError::Closed), buf));
        }
        let (promise, filled) = io();
        self.receive(Receive::Exact { buf, from, promise });
        filled
    }
    fn send(&self, head: Vec<u8>, payload: Option<IoBuf>) -> Io<SendDone> {
        if self.is_dead() {
            return Io::ready(SendDone { result: Err(NetError::Closed), payload });
        }
        let (promise, done) = io();
        let sending = Sending { head, payload, sent: 0, promise };
        self.connection.ends[self.side].borrow_mut().outgoing.push_back(sending);
        self.connection.pump(self.side);
        done
    }
    fn close(&self) {
        if self.is_dead() {
            return;
        }
        self.connection.ends[self.side].borrow_mut().die();
        self.connection.put(self.side, Piece::End);
    }
    fn peer(&self) -> Peer {
        let other = &self.connection.parties[1 - self.side];
        Peer { address: other.name.clone(), uid: self.connection.local_socket.then_some(PEER_UID) }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.close();
    }
}
