//! What a task does to a few names in a few directories: asked of the server by name, and of the
//! reference file system.

use crate::history::{ME, name, whole};
use cfs_model::{Call, Model};
use cfs_sim::Stream;
use cfs_types::{FsError, InodeId, Nanos, RANGE_BYTES, SessionId};
use cfs_volume::{Creation, Handle, Lookup, OpenFlags, RenameMode, Volume, WriteFlags};
use cfs_wire::{Attr, AttrChange, FileKind, Op, Reply, XattrMode};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Directories of a task: its top and those below it.
pub const DIRS: usize = 3;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const KEY: &[u8] = b"user.a";
/// Most read by one act.
const READ_BYTES: u32 = 400 << 10;

/// A directory and a name in it.
pub type At = (usize, &'static str);

/// One thing to do. Everything written is durable when it is answered.
#[derive(Clone, Debug)]
pub enum Act {
    Create(At),
    Mkdir(At),
    Unlink(At),
    Rmdir(At),
    Link(At, At),
    Rename(At, At, RenameMode),
    /// So many bytes made of a number, at an offset.
    Write(At, u64, usize, u8),
    Truncate(At, u64),
    SetXattr(At, usize, u8),
    Look(At),
    Read(At, u64),
    GetXattr(At),
    List(usize),
}

/// What an act shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Done,
    /// Kind, links and, but for directories, size.
    Attr(FileKind, u32, u64),
    Bytes(Vec<u8>),
    Names(BTreeSet<Vec<u8>>),
}

/// What was asked and what came of it.
pub type Answer = Result<Seen, FsError>;

fn attr_seen(attr: &Attr) -> Seen {
    let is_dir = attr.kind == FileKind::Directory;
    Seen::Attr(attr.kind, attr.nlink, if is_dir { 0 } else { attr.size })
}

/// The bytes of a write: every sector says where it belongs.
fn bytes(offset: u64, len: usize, mark: u8) -> Vec<u8> {
    let byte = |at: u64| mark.wrapping_add((at / 512).to_le_bytes()[0]) | 1;
    (offset..).take(len).map(byte).collect()
}

impl Act {
    /// Any.
    pub fn any(rng: &Stream) -> Act {
        let at = || -> At { (rng.index(DIRS), NAMES[rng.index(NAMES.len())]) };
        let mark = || rng.next().to_le_bytes()[0];
        let place = || match rng.below(12) {
            0 => RANGE_BYTES + rng.below(50_000),
            1..5 => rng.below(16) * 4096,
            _ => rng.below(20_000),
        };
        let modes = [RenameMode::NoReplace, RenameMode::Exchange, RenameMode::Replace];
        match rng.below(100) {
            0..14 => Act::Create(at()),
            14..18 => Act::Mkdir(at()),
            18..24 => Act::Unlink(at()),
            24..27 => Act::Rmdir(at()),
            27..31 => Act::Link(at(), at()),
            31..39 => Act::Rename(at(), at(), modes[rng.index(3)]),
            39..60 => {
                let len = if rng.below(3) == 0 { 65_537 + rng.index(300_000) } else { 1 + rng.index(6_000) };
                Act::Write(at(), place(), len, mark())
            }
            60..64 => Act::Truncate(at(), place()),
            64..69 => Act::SetXattr(at(), rng.index(3_000), mark()),
            69..77 => Act::Look(at()),
            77..90 => Act::Read(at(), place()),
            90..94 => Act::GetXattr(at()),
            _ => Act::List(rng.index(DIRS)),
        }
    }

    /// Every look at everything there is.
    pub fn looks() -> impl Iterator<Item = Act> {
        let each = |dir| NAMES.into_iter().map(move |name| (dir, name));
        let looks = |at| [Act::Look(at), Act::Read(at, 0), Act::Read(at, RANGE_BYTES), Act::GetXattr(at)];
        (0..DIRS).map(Act::List).chain((0..DIRS).flat_map(each).flat_map(looks))
    }

    /// Whether it may change something.
    pub fn changes(&self) -> bool {
        !matches!(self, Act::Look(_) | Act::Read(..) | Act::GetXattr(_) | Act::List(_))
    }

    /// Asks the server.
    pub async fn perform(&self, volume: &Rc<Volume>, dirs: [InodeId; DIRS]) -> Answer {
        let there = |at: At| (dirs[at.0], name(at.1));
        let done = Ok(Seen::Done);
        match self {
            Act::Create(at) => {
                let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags: OpenFlags::default() };
                let (dir, name) = there(*at);
                let (_, handle) = volume.create(&ME, dir, &name, &how).await?;
                volume.release(handle);
                done
            }
            Act::Mkdir(at) => volume.mkdir(&ME, dirs[at.0], &name(at.1), 0o755).await.map(|_| Seen::Done),
            Act::Unlink(at) => volume.unlink(&ME, dirs[at.0], &name(at.1)).await.map(|()| Seen::Done),
            Act::Rmdir(at) => volume.rmdir(&ME, dirs[at.0], &name(at.1)).await.map(|()| Seen::Done),
            Act::Link(from, to) => {
                let ino = find(volume, there(*from)).await?.ino;
                volume.link(&ME, ino, dirs[to.0], &name(to.1)).await.map(|_| Seen::Done)
            }
            Act::Rename(from, to, mode) => {
                let (from, to) = (there(*from), there(*to));
                volume.rename(&ME, (from.0, &from.1), (to.0, &to.1), *mode).await.map(|()| Seen::Done)
            }
            Act::Write(at, offset, len, mark) => {
                let handle = open(volume, there(*at), true).await?;
                let written = volume.write(handle, *offset, &bytes(*offset, *len, *mark), WriteFlags::default()).await;
                volume.release(handle);
                written.map(|_| Seen::Done)
            }
            Act::Truncate(at, size) => {
                let ino = find_file(volume, there(*at)).await?;
                let change = AttrChange { size: Some(*size), ..AttrChange::default() };
                volume.setattr(&ME, ino, change).await.map(|_| Seen::Done)
            }
            Act::SetXattr(at, len, mark) => {
                let ino = find(volume, there(*at)).await?.ino;
                volume.setxattr(&ME, ino, KEY, &vec![*mark; *len], XattrMode::Set).await.map(|()| Seen::Done)
            }
            Act::Look(at) => {
                let ino = find(volume, there(*at)).await?.ino;
                volume.getattr(ino).await.map(|(attr, _)| attr_seen(&attr))
            }
            Act::Read(at, offset) => {
                let handle = open(volume, there(*at), false).await?;
                let read = volume.read(handle, *offset, READ_BYTES).await;
                volume.release(handle);
                read.map(|bytes| Seen::Bytes(bytes.to_vec()))
            }
            Act::GetXattr(at) => {
                let ino = find(volume, there(*at)).await?.ino;
                volume.getxattr(ino, KEY).await.map(Seen::Bytes)
            }
            Act::List(dir) => {
                let lines = whole(volume, dirs[*dir], 4096, false).await?;
                Ok(Seen::Names(lines.into_iter().map(|line| line.name.as_bytes().to_vec()).collect()))
            }
        }
    }

    /// Asks the reference.
    pub fn apply(&self, model: &mut Model, dirs: [InodeId; DIRS]) -> Answer {
        let there = |at: At| (dirs[at.0], name(at.1));
        let find = |model: &Model, at: At| -> Result<InodeId, FsError> {
            let (entries, _) = model.node(dirs[at.0])?.directory()?;
            entries.get(&name(at.1)).copied().ok_or(FsError::NotFound)
        };
        let find_file = |model: &Model, at: At| {
            let ino = find(model, at)?;
            if model.node(ino)?.is_dir() { Err(FsError::IsDirectory) } else { Ok(ino) }
        };
        let mut payload = Vec::new();
        let op = match self {
            Act::Create(at) => {
                let (dir, name) = there(*at);
                Op::Create { dir, name, mode: 0o644, exclusive: true, truncate: false }
            }
            Act::Mkdir(at) => Op::Mkdir { dir: dirs[at.0], name: name(at.1), mode: 0o755 },
            Act::Unlink(at) => Op::Unlink { dir: dirs[at.0], name: name(at.1) },
            Act::Rmdir(at) => Op::Rmdir { dir: dirs[at.0], name: name(at.1) },
            Act::Link(from, to) => Op::Link { ino: find(model, *from)?, dir: dirs[to.0], name: name(to.1) },
            Act::Rename(from, to, mode) => {
                let (no_replace, exchange) = (*mode == RenameMode::NoReplace, *mode == RenameMode::Exchange);
                let ((from_dir, from), (to_dir, to)) = (there(*from), there(*to));
                Op::Rename { from_dir, from, to_dir, to, no_replace, exchange }
            }
            Act::Write(at, offset, len, mark) => {
                let ino = find_file(model, *at)?;
                payload = bytes(*offset, *len, *mark);
                let len = u32::try_from(*len).expect("short");
                Op::Write { ino, offset: *offset, len, append: false, kill_privileges: false, held: None }
            }
            Act::Truncate(at, size) => {
                let change = AttrChange { size: Some(*size), ..AttrChange::default() };
                Op::Setattr { ino: find_file(model, *at)?, change }
            }
            Act::SetXattr(at, len, mark) => {
                let (ino, value) = (find(model, *at)?, vec![*mark; *len]);
                Op::SetXattr { ino, name: KEY.to_vec(), value, mode: XattrMode::Set }
            }
            Act::Look(at) => {
                let ino = find(model, *at)?;
                return Ok(attr_seen(&model.node(ino)?.attr(ino)));
            }
            Act::Read(at, offset) => {
                let ino = find_file(model, *at)?;
                return Ok(Seen::Bytes(model.node(ino)?.file()?.read(*offset, READ_BYTES)));
            }
            Act::GetXattr(at) => {
                let ino = find(model, *at)?;
                return model.node(ino)?.xattrs.get(KEY).cloned().map(Seen::Bytes).ok_or(FsError::NoAttribute);
            }
            Act::List(dir) => {
                let (entries, _) = model.node(dirs[*dir])?.directory()?;
                return Ok(Seen::Names(entries.keys().map(|name| name.as_bytes().to_vec()).collect()));
            }
        };
        call(model, op, payload).map(|_| Seen::Done)
    }
}

/// Performs an operation of the reference.
pub fn call(model: &mut Model, op: Op, payload: Vec<u8>) -> Result<Reply, FsError> {
    let (identity, session, now) = (ME, SessionId::new(1), Nanos::default());
    model.apply(&Call { op, payload, identity, session, now }).map(|(reply, _)| reply)
}

async fn find(volume: &Volume, (dir, name): (InodeId, cfs_types::Name)) -> Result<Attr, FsError> {
    match volume.lookup(&ME, dir, &name).await? {
        Lookup::Found(entry) => Ok(entry.attr),
        Lookup::Missing { .. } => Err(FsError::NotFound),
    }
}

async fn find_file(volume: &Volume, at: (InodeId, cfs_types::Name)) -> Result<InodeId, FsError> {
    let attr = find(volume, at).await?;
    if attr.kind == FileKind::Directory { Err(FsError::IsDirectory) } else { Ok(attr.ino) }
}

async fn open(volume: &Rc<Volume>, at: (InodeId, cfs_types::Name), write: bool) -> Result<Handle, FsError> {
    let ino = find_file(volume, at).await?;
    volume.open(&ME, ino, OpenFlags { write, append: false, direct: true, sync: true }).await
}
