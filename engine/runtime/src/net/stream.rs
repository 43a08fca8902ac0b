//! A connected stream: its socket, and its receiving and its sending side.

use super::receive::Receiving;
use super::send::Sending;
use super::{address, os_error};
use crate::reactor::Reactor;
use cfs_seam::{Chunk, Io, IoBuf, NetError, Peer, SendDone, Stream};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// What operations share.
pub(super) struct Connection {
    pub socket: OwnedFd,
    pub reactor: Rc<Reactor>,
    pub receiving: RefCell<Receiving>,
    pub sending: RefCell<Sending>,
    pub closed: Cell<bool>,
    peer: Peer,
}

/// What the core holds: dropping it closes the connection.
struct RingStream(Rc<Connection>);

/// Takes over a connected socket.
pub(super) fn open(socket: OwnedFd, reactor: &Rc<Reactor>) -> Result<Rc<dyn Stream>, NetError> {
    let (socket, peer) = address::prepare(socket).map_err(|error| os_error(&error))?;
    Ok(Rc::new(RingStream(Rc::new(Connection {
        socket,
        reactor: reactor.clone(),
        receiving: RefCell::default(),
        sending: RefCell::default(),
        closed: Cell::new(false),
        peer,
    }))))
}

impl Connection {
    /// Ends both directions. What is in flight completes soon, what is queued at once.
    pub(super) fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        address::shutdown(self.socket.as_fd());
        self.close_receiving();
        self.close_sending();
    }
}

impl Stream for RingStream {
    fn recv(&self) -> Io<Result<Chunk, NetError>> {
        self.0.receive()
    }
    fn recv_exact(&self, buf: IoBuf, from: usize) -> Io<(Result<(), NetError>, IoBuf)> {
        self.0.receive_exact(buf, from)
    }
    fn send(&self, head: Vec<u8>, payload: Option<IoBuf>) -> Io<SendDone> {
        self.0.send(head, payload)
    }
    fn close(&self) {
        self.0.close();
    }
    fn peer(&self) -> Peer {
        self.0.peer.clone()
    }
}

impl Drop for RingStream {
    fn drop(&mut self) {
        self.0.close();
    }
}
