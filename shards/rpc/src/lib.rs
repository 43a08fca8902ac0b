//! Framed connections over the seam, and the handshake that opens them; server and client alike.
//!
//! `Connection` turns a byte stream into verified frames with payloads in aligned buffers, and
//! queues outgoing frames, bounded, several in one send. `handshake` proves both sides.
//!
//! Invariants: a peer that has proven nothing costs one small buffer; a peer that does not read
//! costs the queue's limit, and what is held for its answers until they leave; a frame that was begun ends
//! in time or ends the connection.

mod allowance;
mod connection;
mod handshake;
mod queue;

pub use allowance::{Allowance, Held, Pool, Room};
pub use connection::{Connection, FRAME_TIME_MAX, Frame};
pub use handshake::{Admission, HANDSHAKE_TIME_MAX, accept_handshake, answer_hello, connect_handshake};
pub use queue::QUEUE_BYTES_MAX;

use cfs_seam::NetError;
use cfs_types::FsError;
use cfs_wire::FrameError;
use cfs_wire::frame::PROTOCOL_VERSION;

/// Why a connection ended or did not begin. It is closed in every case; reconnecting is safe
/// unless the variant says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RpcError {
    /// The stream failed or was closed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The peer's bytes are no frames, or our message fits none.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame or a handshake was begun and not ended in time.
    #[error("the peer stalled")]
    Stalled,
    /// The peer sent a message that has no place here.
    #[error("unexpected message")]
    Protocol,
    /// The peer does not know the secret. Final.
    #[error("the peer could not prove the shared secret")]
    NotProven,
    /// The peer speaks another version of the protocol. Final.
    #[error("the peer speaks version {0} of the protocol, this program {own}: both must be of one build", own = PROTOCOL_VERSION)]
    Version(u16),
    /// The server refuses this client. Final unless the error says otherwise.
    #[error("refused: {0}")]
    Refused(FsError),
}
