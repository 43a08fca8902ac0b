//! Numbers of the messages, so that a frame can be judged without decoding its message.

use crate::message::Op;

/// What a frame carries. Any 16 bits are an opcode in form; `is_operation` says whether this version
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
        matches!(self.0, 0x0101..=0x0115 | 0x0201..=0x0204 | 0x0310..=0x0314)
    }

    /// The operation's name in lower case, for metrics and traces; None for what is no operation.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x0101 => "lookup",
            0x0102 => "getattr",
            0x0103 => "setattr",
            0x0104 => "create",
            0x0105 => "mknod",
            0x0106 => "mkdir",
            0x0107 => "symlink",
            0x0108 => "unlink",
            0x0109 => "rmdir",
            0x010a => "rename",
            0x010b => "link",
            0x010c => "readlink",
            0x010d => "readdir",
            0x010e => "getxattr",
            0x010f => "setxattr",
            0x0110 => "listxattr",
            0x0111 => "removexattr",
            0x0112 => "open",
            0x0113 => "close",
            0x0114 => "statfs",
            0x0115 => "parent",
            0x0201 => "read",
            0x0202 => "write",
            0x0203 => "fallocate",
            0x0204 => "seek",
            0x0310 => "renew",
            0x0311 => "return_leases",
            0x0312 => "close_session",
            0x0313 => "echo",
            0x0314 => "reopen",
            _ => return None,
        })
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
            Op::Reopen { .. } => 0x0314,
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
            | Op::Echo
            | Op::Reopen { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_operation_has_a_name_of_its_own_and_nothing_else_has() {
        let operations = (0..=u16::MAX).map(Opcode::new).filter(|o| o.is_operation());
        let names: BTreeSet<_> = operations.clone().map(Opcode::name).collect();
        assert_eq!(names.len(), operations.count());
        assert!((0..=u16::MAX).map(Opcode::new).all(|o| o.name().is_some() == o.is_operation()));
        assert_eq!(Op::Statfs.opcode().name(), Some("statfs"));
    }
}
