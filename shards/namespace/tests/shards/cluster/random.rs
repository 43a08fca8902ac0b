//! Seeded random operations on few names, so that they meet.

use cfs_model::{Call, Model};
use cfs_types::{InodeId, Name, Nanos, SessionId};
use cfs_wire::{AttrChange, FileKind, Identity, Op, OpenMode, TimeChange, XattrMode};

/// xorshift64*: enough to choose operations.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(bits).expect("31 bits") % limit.max(1)
    }

    fn name(&mut self) -> Name {
        Name::new(&[b'a' + u8::try_from(self.below(4)).expect("small")]).expect("a name")
    }

    fn mode(&mut self) -> u16 {
        [0o644, 0o755, 0o4755, 0o2755, 0o2644, 0o7777][self.below(6)]
    }

    /// A directory, mostly; of a small number of them.
    fn dir(&mut self, model: &Model) -> InodeId {
        let dirs: Vec<InodeId> = model.nodes().filter(|(_, node)| node.is_dir()).map(|(ino, _)| ino).collect();
        if self.below(40) == 0 { self.any(model) } else { dirs[self.below(dirs.len().min(6))] }
    }

    fn any(&mut self, model: &Model) -> InodeId {
        let all: Vec<InodeId> = model.nodes().map(|(ino, _)| ino).collect();
        all[self.below(all.len())]
    }
}

/// The call of an operation at a time. Root and two users take turns; one of these is given files.
pub fn call(op: Op, now: i64) -> Call {
    let uid = [0, 1000, 3][usize::try_from(now / 10 % 3).expect("time runs on")];
    Call {
        op,
        payload: Vec::new(),
        identity: Identity { uid, gid: 100 },
        session: SessionId::new(5),
        now: Nanos::new(now),
    }
}

impl Random {
    /// An operation that changes names.
    pub fn change(&mut self, model: &Model) -> Op {
        let (dir, name) = (self.dir(model), self.name());
        match self.below(16) {
            0 | 1 => {
                Op::Create { dir, name, mode: self.mode(), exclusive: self.below(2) == 0, truncate: self.below(2) == 0 }
            }
            2..=4 => Op::Mkdir { dir, name, mode: self.mode() },
            5 | 6 => Op::Unlink { dir, name },
            7 | 8 => Op::Rmdir { dir, name },
            9 | 10 => Op::Link { ino: self.any(model), dir, name },
            _ => {
                let (no_replace, exchange) =
                    [(false, false), (false, false), (true, false), (false, true)][self.below(4)];
                let (to_dir, to) = (self.dir(model), self.name());
                Op::Rename { from_dir: dir, from: name, to_dir, to, no_replace, exchange }
            }
        }
    }

    /// Any operation.
    pub fn op(&mut self, model: &Model) -> Op {
        let ino = self.any(model);
        let (dir, name) = (self.dir(model), self.name());
        let namespace = ["user.", "trusted.", "security.", "system.", ""][self.below(5)];
        let xattr = [namespace.as_bytes(), self.name().as_bytes()].concat();
        match self.below(24) {
            0 => Op::Getattr { ino },
            1 => Op::Setattr { ino, change: self.attributes() },
            2 => {
                let kind = [FileKind::Fifo, FileKind::CharDevice, FileKind::File][self.below(3)];
                Op::Mknod { dir, name, kind, mode: self.mode(), rdev: 7 }
            }
            3 => Op::Symlink { dir, name, target: b"where".to_vec() },
            4 => Op::Readlink { ino },
            5 => Op::Readdir { dir, cookie: 0, bytes_max: 1 << 20, plus: true },
            6 => {
                let mode = [XattrMode::Set, XattrMode::Create, XattrMode::Replace][self.below(3)];
                Op::SetXattr { ino, name: xattr, value: b"value".to_vec(), mode }
            }
            7 => Op::RemoveXattr { ino, name: xattr },
            8 => Op::GetXattr { ino, name: xattr },
            9 => Op::ListXattr { ino },
            10 => Op::Open { ino, mode: OpenMode::Read },
            11 | 12 => Op::Close { ino },
            13 => Op::Lookup { dir, name },
            _ => self.change(model),
        }
    }

    fn attributes(&mut self) -> AttrChange {
        let mut change = AttrChange::default();
        match self.below(6) {
            0 => change.mode = Some(self.mode()),
            1 => change.uid = Some(3),
            2 => change.gid = Some(4),
            3 => change.size = Some(100),
            4 => change.kill_privileges = true,
            _ => change.mtime = Some(TimeChange::At(Nanos::new(17))),
        }
        change
    }
}
