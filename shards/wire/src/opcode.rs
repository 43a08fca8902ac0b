//! Numbers of the messages, so that a frame can be judged without decoding its message.

use crate::message::Op;

/// What a frame carries. Any 16 bits are an opcode in form; `is_known` says whether this version
/// has a message for it (the answer to others is `FsError::UnknownOperation`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Opcode(u16);

impl Opcode {
    /// `Hello`; its response is a `HelloReply`.
    pub const HELLO: Opcode = Opcode(0x0301);
    /// `Proof`; its response is a `HelloReply`.
    pub const PROOF: Opcode = Opcode(0x0302);
    /// `Callback`, from the server; its response is a `CallbackReply`.
    pub const CALLBACK: Opcode = Opcode(0x0303);
    /// `Op::Echo`.
    pub const ECHO: Opcode = Opcode(0x0313);

    /// Wraps a number.
    pub const fn new(raw: u16) -> Self {
        Opcode(raw)
    }
    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
    /// Whether it is the opcode of an [`Op`].
    pub const fn is_operation(self) -> bool {
        matches!(self.0, 0x0101..=0x0115 | 0x0201..=0x0204 | 0x0310..=0x0313)
    }
    /// Whether this version has a message for it.
    pub const fn is_known(self) -> bool {
        self.is_operation() || matches!(self.0, 0x0301..=0x0303)
    }
}

impl Op {
    /// The operation's number: 0x01xx metadata, 0x02xx data, 0x03xx sessions and leases.
    pub const fn opcode(&self) -> Opcode {
        Opcode(match self {
            Op::Lookup { .. } => 0x0101,
            Op::Getattr { .. } => 0x0102,
            Op::Setattr { .. } => 0x0103,
            Op::Create { .. } => 0x0104,
            Op::Mknod { .. } => 0x0105,
            Op::Mkdir { .. } => 0x0106,
            Op::Symlink { .. } => 0x0107,
            Op::Unlink { .. } => 0x0108,
            Op::Rmdir { .. } => 0x0109,
            Op::Rename { .. } => 0x010a,
            Op::Link { .. } => 0x010b,
            Op::Readlink { .. } => 0x010c,
            Op::Readdir { .. } => 0x010d,
            Op::GetXattr { .. } => 0x010e,
            Op::SetXattr { .. } => 0x010f,
            Op::ListXattr { .. } => 0x0110,
            Op::RemoveXattr { .. } => 0x0111,
            Op::Open { .. } => 0x0112,
            Op::Close { .. } => 0x0113,
            Op::Statfs => 0x0114,
            Op::Parent { .. } => 0x0115,
            Op::Read { .. } => 0x0201,
            Op::Write { .. } => 0x0202,
            Op::Fallocate { .. } => 0x0203,
            Op::Seek { .. } => 0x0204,
            Op::Renew => 0x0310,
            Op::ReturnLeases { .. } => 0x0311,
            Op::CloseSession => 0x0312,
            Op::Echo => 0x0313,
        })
    }

    /// Whether it changes replicated state and so carries a request number (exactly once).
    pub const fn is_mutation(&self) -> bool {
        match self {
            Op::Setattr { .. }
            | Op::Create { .. }
            | Op::Mknod { .. }
            | Op::Mkdir { .. }
            | Op::Symlink { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Rename { .. }
            | Op::Link { .. }
            | Op::SetXattr { .. }
            | Op::RemoveXattr { .. }
            | Op::Write { .. }
            | Op::Fallocate { .. } => true,
            Op::Lookup { .. }
            | Op::Getattr { .. }
            | Op::Readlink { .. }
            | Op::Readdir { .. }
            | Op::GetXattr { .. }
            | Op::ListXattr { .. }
            | Op::Open { .. }
            | Op::Close { .. }
            | Op::Statfs
            | Op::Parent { .. }
            | Op::Read { .. }
            | Op::Seek { .. }
            | Op::Renew
            | Op::ReturnLeases { .. }
            | Op::CloseSession
            | Op::Echo => false,
        }
    }
}
