//! Stream sockets on the ring.
//!
//! Invariants: a socket's descriptor stays open until the last operation on it has completed, so
//! its number never names another socket in a queued entry. Memory a stream is bounded: received
//! bytes by back-pressure, bytes to send by a limit that closes a stream whose peer does not read.
#![allow(unsafe_code)]

mod address;
mod listener;
mod local;
mod receive;
mod send;
mod stream;

use crate::reactor::{Completion, Next, Operation, Reactor};
use address::SocketAddress;
use cfs_seam::{Address, Io, Listener, Net, NetError, Promise, Spawn, Stream, io};
use io_uring::opcode;
use io_uring::types::Fd;
pub use local::LocalNet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

/// What a socket's errno means to its user: the same as the end of the stream, or something else.
fn net_error(errno: i32) -> NetError {
    match errno {
        libc::ECONNRESET
        | libc::ECONNREFUSED
        | libc::ECONNABORTED
        | libc::EPIPE
        | libc::ENOTCONN
        | libc::ESHUTDOWN
        | libc::ENOENT
        | libc::ECANCELED => NetError::Closed,
        _ => NetError::Os(errno),
    }
}

fn os_error(error: &std::io::Error) -> NetError {
    net_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The sockets of one core.
pub(crate) struct RingNet {
    reactor: Rc<Reactor>,
    tasks: Rc<dyn Spawn>,
    local: Option<LocalNet>,
}

impl RingNet {
    pub(crate) fn new(reactor: Rc<Reactor>, tasks: Rc<dyn Spawn>) -> Self {
        let local = reactor.config().local.clone();
        RingNet { reactor, tasks, local }
    }
}

impl Net for RingNet {
    fn listen(&self, address: &Address) -> Result<Rc<dyn Listener>, NetError> {
        listener::listen(self, address)
    }

    fn connect(&self, address: &Address) -> Io<Result<Rc<dyn Stream>, NetError>> {
        if let Some(end) = self.local.as_ref().and_then(|local| local.connect(address)) {
            return Io::ready(Ok(end.open(&self.tasks, self.reactor.config().send_queue_bytes_max)));
        }
        let prepared = SocketAddress::of(address).and_then(|to| Ok((to.socket()?, to)));
        let (socket, to) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Io::ready(Err(os_error(&error))),
        };
        let (promise, future) = io();
        // In a Vec, because the address must not move while the kernel may read it.
        let operation = Box::new(Connect { socket, to: vec![to], promise });
        let (to, length) = operation.to[0].raw();
        let entry = opcode::Connect::new(Fd(operation.socket.as_raw_fd()), to, length).build();
        // SAFETY: the entry points to the address on the heap, owned by the operation as is the socket.
        unsafe { self.reactor.start(operation, entry) };
        future
    }
}

struct Connect {
    socket: OwnedFd,
    to: Vec<SocketAddress>,
    promise: Promise<Result<Rc<dyn Stream>, NetError>>,
}

impl Operation for Connect {
    fn complete(self: Box<Self>, completion: Completion, reactor: &Rc<Reactor>) -> Next {
        let Connect { socket, promise, .. } = *self;
        let connected = completion.bytes().map_err(net_error);
        promise.complete(connected.and_then(|_| stream::open(socket, reactor)));
        Next::Done
    }
}
