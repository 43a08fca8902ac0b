//! The RPC protocol: frames and messages, byte for byte (docs/formats/wire.md).
//!
//! A frame is a 24-byte header, an extension and a payload. The extension carries the context
//! and the message (postcard); the payload carries bulk bytes only (file data, listings), so
//! that it can arrive in an aligned buffer. Also the format of client requests inside log
//! entries: the enums are append-only.
//!
//! Invariants: decoding never panics and never allocates on a stranger's word.

pub mod auth;
pub mod codec;
pub mod frame;
pub mod message;
mod opcode;

pub use auth::Secret;
pub use codec::{FrameReader, Head};
pub use frame::{Encoded, Flags, FrameError, Header, encode};
pub use message::{
    Attr, AttrChange, Callback, CallbackReply, DirEntry, EntryReply, FallocateMode, FileKind, HeldBack, Hello,
    HelloReply, Identity, Lease, LeaseKind, Op, OpenMode, Proof, Reply, Request, RequestContext, Response, SeekWhence,
    TimeChange, Volume, Welcome, XattrMode,
};
pub use opcode::Opcode;
