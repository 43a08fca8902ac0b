//! Stream sockets.

use crate::{Io, IoBuf};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

/// Where to listen or connect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Address {
    /// TCP, Nagle off.
    Tcp(SocketAddr),
    /// Unix stream socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "{addr}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a socket operation failed. The stream is dead; reconnecting is safe.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetError {
    /// The peer closed or reset the connection, or nobody listens.
    #[error("connection closed")]
    Closed,
    /// Any other error (errno).
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
}

/// Who is at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Remote address, for logs.
    pub address: String,
    /// User id of the peer's process (SO_PEERCRED), Unix sockets only.
    pub uid: Option<u32>,
}

/// Bytes received, never empty: the end of the stream is `NetError::Closed`.
pub type Chunk = Vec<u8>;

/// Completion of a send: the payload comes back, unless it went to a peer in this process, which has it now.
pub struct SendDone {
    /// All bytes handed to the kernel, or why not.
    pub result: Result<(), NetError>,
    /// The payload that was handed in, where it is still there.
    pub payload: Option<IoBuf>,
}

/// A connected stream. One task receives; sends queue in call order.
pub trait Stream {
    /// The next bytes that arrived.
    fn recv(&self) -> Io<Result<Chunk, NetError>>;
    /// Fills `buf[from..]` completely, straight from the socket where nothing was received ahead.
    fn recv_exact(&self, buf: IoBuf, from: usize) -> Io<(Result<(), NetError>, IoBuf)>;
    /// The next `len` bytes, where they are here already as one buffer that nothing was taken of.
    fn take_whole(&self, _len: usize) -> Option<IoBuf> {
        None
    }
    /// Whether payloads change hands as they are within this process, at both ends: a long one delays nothing
    /// that is sent after it, and none can be damaged on a way that it does not go.
    fn hands_over(&self) -> bool {
        false
    }
    /// Sends `head`, then `payload`, with nothing of another send between.
    fn send(&self, head: Vec<u8>, payload: Option<IoBuf>) -> Io<SendDone>;
    /// Closes both directions; pending operations complete with `Closed`.
    fn close(&self);
    /// Who is at the other end.
    fn peer(&self) -> Peer;
}

/// An accepted connection.
pub type Accepted = Rc<dyn Stream>;

/// A listening socket; dropping it closes it.
pub trait Listener {
    /// The next connection.
    fn accept(&self) -> Io<Result<Accepted, NetError>>;
    /// The bound address, with the port the kernel chose where 0 was asked for.
    fn address(&self) -> Address;
}

/// Sockets of this core.
pub trait Net {
    /// Binds and listens. A Unix path that exists and that nobody serves is replaced.
    fn listen(&self, address: &Address) -> Result<Rc<dyn Listener>, NetError>;
    /// Connects.
    fn connect(&self, address: &Address) -> Io<Result<Rc<dyn Stream>, NetError>>;
}
