//! Decoding of requests into owned operations.
//!
//! Purpose: after this module nothing holds kernel bytes; names are checked `Name`s, numbers are
//! ids, flags are enums. Invariants: any bytes whatever give an operation or a refusal, never a
//! panic; nothing is allocated beyond the length of the request itself.

mod args;

use crate::abi::{self, InHeader, Opcode};
use crate::errno::Errno;
use crate::payload::{Payload, Pooled};
use args::Args;
use cfs_types::{FsError, InodeId, Name, Nanos};
use cfs_volume::{Creation, Handle, OpenFlags, RenameMode, WriteFlags};
use cfs_wire::{AttrChange, FallocateMode, FileKind, Identity, SeekWhence, TimeChange, XattrMode};
use zerocopy::FromBytes;

/// Bytes before the payload of a WRITE: the device's first buffer is this long, so that the
/// payload begins at the start of the second, aligned.
pub const HEAD_BYTES: usize = size_of::<InHeader>() + size_of::<abi::WriteIn>();

/// Who asks for what, and under which name the answer is awaited.
#[derive(Debug)]
pub struct Request {
    /// Repeated by the reply.
    pub unique: u64,
    /// The thread that waits; 0 if it has no number in our pid namespace.
    pub pid: u32,
    /// The user it acts as.
    pub identity: Identity,
    /// What it wants.
    pub operation: Operation,
}

/// A decoded operation.
#[derive(Debug)]
pub enum Operation {
    /// Begins the session.
    Init(abi::InitIn),
    /// Ends it.
    Destroy,
    /// The kernel drops references; no reply.
    Forget,
    /// The waiter of request `unique` got a signal; no reply.
    Interrupt { unique: u64 },
    /// Everything else, answered by the file system.
    File(FileOperation),
}

/// An operation of the file system. A lookup is one `again` where its thread tries the path once more.
#[derive(Debug)]
pub enum FileOperation {
    Lookup { dir: InodeId, name: Name, again: bool },
    Getattr { ino: InodeId },
    Statx { ino: InodeId },
    Setattr { ino: InodeId, change: AttrChange },
    Readlink { ino: InodeId },
    Symlink { dir: InodeId, name: Name, target: Vec<u8> },
    Mknod { dir: InodeId, name: Name, kind: FileKind, mode: u16, rdev: u32 },
    Mkdir { dir: InodeId, name: Name, mode: u16 },
    Unlink { dir: InodeId, name: Name },
    Rmdir { dir: InodeId, name: Name },
    Rename { from_dir: InodeId, from: Name, to_dir: InodeId, to: Name, mode: RenameMode },
    Link { ino: InodeId, dir: InodeId, name: Name },
    Create { dir: InodeId, name: Name, how: Creation },
    Open { ino: InodeId, flags: OpenFlags },
    Read { handle: Handle, offset: u64, len: u32 },
    Write { handle: Handle, offset: u64, flags: WriteFlags, data: Payload },
    Flush { handle: Handle },
    Release { handle: Handle },
    Fsync { handle: Handle },
    Fallocate { handle: Handle, offset: u64, len: u64, mode: FallocateMode, keep_size: bool },
    Lseek { handle: Handle, offset: u64, whence: SeekWhence },
    Opendir,
    Readdir { dir: InodeId, offset: u64, bytes_max: u32, plus: bool },
    Releasedir,
    Fsyncdir { dir: InodeId },
    Statfs,
    Syncfs,
    Access,
    Setxattr { ino: InodeId, name: Vec<u8>, value: Vec<u8>, mode: XattrMode },
    Getxattr { ino: InodeId, name: Vec<u8>, bytes_max: u32 },
    Listxattr { ino: InodeId, bytes_max: u32 },
    Removexattr { ino: InodeId, name: Vec<u8> },
}

/// Bytes that are no request, with what to answer if they at least name one.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request to answer; None if not even the header is there.
    pub unique: Option<u64>,
    /// The answer.
    pub errno: Errno,
}

/// Decodes `len` bytes that the device put into `head` and, beyond it, into `rest`.
///
/// `rest` is taken away only as the payload of a long WRITE.
pub fn decode(head: &[u8; HEAD_BYTES], rest: &mut Option<Pooled>, len: usize) -> Result<Request, Refusal> {
    let nameless = Refusal { unique: None, errno: FsError::Malformed.into() };
    let used = &head[..len.min(HEAD_BYTES)];
    let (header, arguments) = InHeader::read_from_prefix(used).map_err(|_| nameless)?;
    let refuse = |errno| Refusal { unique: Some(header.unique), errno };
    let tail_bytes = len.saturating_sub(HEAD_BYTES);
    let tail = rest.as_deref().unwrap_or_default().get(..tail_bytes);
    let (Some(tail), true) = (tail, usize::try_from(header.len) == Ok(len)) else {
        return Err(refuse(FsError::Malformed.into()));
    };
    let opcode = Opcode::from_raw(header.opcode).ok_or(refuse(Errno::NO_SUCH_OPERATION))?;
    let operation = if opcode == Opcode::Write {
        decode_write(arguments, rest, tail_bytes)
    } else if tail_bytes == 0 {
        decode_operation(&header, opcode, Args::new(arguments))
    } else {
        let mut joined = Vec::with_capacity(arguments.len() + tail_bytes);
        joined.extend_from_slice(arguments);
        joined.extend_from_slice(tail);
        decode_operation(&header, opcode, Args::new(&joined))
    };
    Ok(Request {
        unique: header.unique,
        pid: header.pid,
        identity: Identity { uid: header.uid, gid: header.gid },
        operation: operation.map_err(|error| refuse(error.into()))?,
    })
}

/// Payloads up to this many bytes are copied, so that the long buffer can take the next request.
pub const COPIED_PAYLOAD_BYTES_MAX: usize = 64 << 10;

fn decode_write(arguments: &[u8], rest: &mut Option<Pooled>, bytes: usize) -> Result<Operation, FsError> {
    let arg: abi::WriteIn = Args::new(arguments).take()?;
    if usize::try_from(arg.size) != Ok(bytes) {
        return Err(FsError::Malformed);
    }
    let data = if bytes > COPIED_PAYLOAD_BYTES_MAX {
        Payload::Long(rest.take().ok_or(FsError::Malformed)?, bytes)
    } else {
        let short = rest.as_deref().unwrap_or_default().get(..bytes);
        Payload::Short(short.ok_or(FsError::Malformed)?.to_vec())
    };
    let late = arg.write_flags & abi::write_flag::CACHE != 0;
    Ok(Operation::File(FileOperation::Write {
        handle: Handle::new(arg.fh),
        offset: arg.offset,
        flags: WriteFlags {
            sync: has(arg.flags, libc::O_DSYNC),
            kill_privileges: arg.write_flags & abi::write_flag::KILL_SUIDGID != 0,
            append: Some(!late && has(arg.flags, libc::O_APPEND)),
        },
        data,
    }))
}

fn decode_operation(header: &InHeader, opcode: Opcode, mut args: Args<'_>) -> Result<Operation, FsError> {
    Ok(match opcode {
        Opcode::Init => Operation::Init(args.take()?),
        Opcode::Destroy => Operation::Destroy,
        Opcode::Forget | Opcode::BatchForget => Operation::Forget,
        Opcode::Interrupt => Operation::Interrupt { unique: args.take::<abi::InterruptIn>()?.unique },
        Opcode::Lookup
        | Opcode::Symlink
        | Opcode::Mknod
        | Opcode::Mkdir
        | Opcode::Unlink
        | Opcode::Rmdir
        | Opcode::Rename
        | Opcode::Rename2
        | Opcode::Link
        | Opcode::Create => Operation::File(decode_named(header, opcode, args)?),
        Opcode::Setxattr | Opcode::Getxattr | Opcode::Listxattr | Opcode::Removexattr => {
            Operation::File(decode_xattr(header, opcode, args)?)
        }
        _ => Operation::File(decode_numbered(header, opcode, args)?),
    })
}

/// Operations on a name in a directory.
fn decode_named(header: &InHeader, opcode: Opcode, mut args: Args<'_>) -> Result<FileOperation, FsError> {
    let dir = inode(header.nodeid)?;
    Ok(match opcode {
        Opcode::Lookup => FileOperation::Lookup { dir, name: args.name()?, again: false },
        Opcode::Unlink => FileOperation::Unlink { dir, name: args.name()? },
        Opcode::Rmdir => FileOperation::Rmdir { dir, name: args.name()? },
        Opcode::Symlink => {
            let name = args.name()?;
            FileOperation::Symlink { dir, name, target: args.text()?.to_vec() }
        }
        Opcode::Mknod => {
            let arg: abi::MknodIn = args.take()?;
            let kind = node_kind(arg.mode)?;
            FileOperation::Mknod { dir, name: args.name()?, kind, mode: mode_bits(arg.mode), rdev: arg.rdev }
        }
        Opcode::Mkdir => {
            let arg: abi::MkdirIn = args.take()?;
            FileOperation::Mkdir { dir, name: args.name()?, mode: mode_bits(arg.mode) }
        }
        Opcode::Link => {
            let arg: abi::LinkIn = args.take()?;
            FileOperation::Link { ino: inode(arg.oldnodeid)?, dir, name: args.name()? }
        }
        Opcode::Create => {
            let arg: abi::CreateIn = args.take()?;
            let how = Creation {
                mode: mode_bits(arg.mode),
                exclusive: has(arg.flags, libc::O_EXCL),
                truncate: has(arg.flags, libc::O_TRUNC),
                flags: open_flags(arg.flags),
            };
            FileOperation::Create { dir, name: args.name()?, how }
        }
        Opcode::Rename => {
            let to_dir = inode(args.take::<abi::RenameIn>()?.newdir)?;
            let (from, to) = (args.name()?, args.name()?);
            FileOperation::Rename { from_dir: dir, from, to_dir, to, mode: RenameMode::Replace }
        }
        Opcode::Rename2 => {
            let arg: abi::Rename2In = args.take()?;
            let (to_dir, mode) = (inode(arg.newdir)?, rename_mode(arg.flags)?);
            let (from, to) = (args.name()?, args.name()?);
            FileOperation::Rename { from_dir: dir, from, to_dir, to, mode }
        }
        _ => return Err(FsError::Malformed),
    })
}

fn decode_xattr(header: &InHeader, opcode: Opcode, mut args: Args<'_>) -> Result<FileOperation, FsError> {
    let ino = inode(header.nodeid)?;
    Ok(match opcode {
        Opcode::Setxattr => {
            let arg: abi::SetxattrIn = args.take()?;
            let mode = xattr_mode(arg.flags)?;
            let name = args.text()?.to_vec();
            FileOperation::Setxattr { ino, name, value: args.bytes(arg.size)?.to_vec(), mode }
        }
        Opcode::Getxattr => {
            let arg: abi::GetxattrIn = args.take()?;
            FileOperation::Getxattr { ino, name: args.text()?.to_vec(), bytes_max: arg.size }
        }
        Opcode::Listxattr => FileOperation::Listxattr { ino, bytes_max: args.take::<abi::GetxattrIn>()?.size },
        Opcode::Removexattr => FileOperation::Removexattr { ino, name: args.text()?.to_vec() },
        _ => return Err(FsError::Malformed),
    })
}

/// Operations on an inode or a handle.
fn decode_numbered(header: &InHeader, opcode: Opcode, mut args: Args<'_>) -> Result<FileOperation, FsError> {
    let node = header.nodeid;
    Ok(match opcode {
        Opcode::Getattr => FileOperation::Getattr { ino: inode(node)? },
        Opcode::Statx => FileOperation::Statx { ino: inode(node)? },
        Opcode::Setattr => FileOperation::Setattr { ino: inode(node)?, change: attr_change(&args.take()?) },
        Opcode::Readlink => FileOperation::Readlink { ino: inode(node)? },
        Opcode::Open => {
            let arg: abi::OpenIn = args.take()?;
            FileOperation::Open { ino: inode(node)?, flags: open_flags(arg.flags) }
        }
        Opcode::Read => {
            let arg: abi::ReadIn = args.take()?;
            FileOperation::Read { handle: Handle::new(arg.fh), offset: arg.offset, len: arg.size }
        }
        Opcode::Readdir | Opcode::Readdirplus => {
            let arg: abi::ReadIn = args.take()?;
            let plus = opcode == Opcode::Readdirplus;
            FileOperation::Readdir { dir: inode(node)?, offset: arg.offset, bytes_max: arg.size, plus }
        }
        Opcode::Flush => FileOperation::Flush { handle: Handle::new(args.take::<abi::FlushIn>()?.fh) },
        Opcode::Release => FileOperation::Release { handle: Handle::new(args.take::<abi::ReleaseIn>()?.fh) },
        Opcode::Fsync => FileOperation::Fsync { handle: Handle::new(args.take::<abi::FsyncIn>()?.fh) },
        Opcode::Fallocate => {
            let arg: abi::FallocateIn = args.take()?;
            let (mode, keep_size) = fallocate_mode(arg.mode)?;
            let handle = Handle::new(arg.fh);
            FileOperation::Fallocate { handle, offset: arg.offset, len: arg.length, mode, keep_size }
        }
        Opcode::Lseek => {
            let arg: abi::LseekIn = args.take()?;
            let whence = seek_whence(arg.whence)?;
            FileOperation::Lseek { handle: Handle::new(arg.fh), offset: arg.offset, whence }
        }
        Opcode::Opendir => FileOperation::Opendir,
        Opcode::Releasedir => FileOperation::Releasedir,
        Opcode::Fsyncdir => FileOperation::Fsyncdir { dir: inode(node)? },
        Opcode::Statfs => FileOperation::Statfs,
        Opcode::Syncfs => FileOperation::Syncfs,
        Opcode::Access => FileOperation::Access,
        _ => return Err(FsError::Malformed),
    })
}

/// A number the kernel learned from us; one that cannot be ours is stale.
fn inode(raw: u64) -> Result<InodeId, FsError> {
    InodeId::from_raw(raw).ok_or(FsError::Stale)
}

/// Whether `flags` has libc's `flag` (a positive constant).
fn has(flags: u32, flag: i32) -> bool {
    flags & flag.cast_unsigned() != 0
}

fn mode_bits(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("12 bits")
}

fn node_kind(mode: u32) -> Result<FileKind, FsError> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(FileKind::File),
        libc::S_IFIFO => Ok(FileKind::Fifo),
        libc::S_IFSOCK => Ok(FileKind::Socket),
        libc::S_IFCHR => Ok(FileKind::CharDevice),
        libc::S_IFBLK => Ok(FileKind::BlockDevice),
        _ => Err(FsError::Invalid),
    }
}

fn open_flags(flags: u32) -> OpenFlags {
    OpenFlags {
        write: flags & libc::O_ACCMODE.cast_unsigned() != libc::O_RDONLY.cast_unsigned(),
        append: has(flags, libc::O_APPEND),
        direct: has(flags, libc::O_DIRECT),
        sync: has(flags, libc::O_DSYNC),
    }
}

fn rename_mode(flags: u32) -> Result<RenameMode, FsError> {
    match flags {
        0 => Ok(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(FsError::Invalid),
    }
}

fn xattr_mode(flags: u32) -> Result<XattrMode, FsError> {
    match (has(flags, libc::XATTR_CREATE), has(flags, libc::XATTR_REPLACE)) {
        (false, false) => Ok(XattrMode::Set),
        (true, false) => Ok(XattrMode::Create),
        (false, true) => Ok(XattrMode::Replace),
        (true, true) => Err(FsError::Invalid),
    }
}

/// (mode, keep_size). What is not served is `NotSupported`, and programs fall back.
fn fallocate_mode(flags: u32) -> Result<(FallocateMode, bool), FsError> {
    let keep_size = has(flags, libc::FALLOC_FL_KEEP_SIZE);
    match flags & !libc::FALLOC_FL_KEEP_SIZE.cast_unsigned() {
        0 => Ok((FallocateMode::Allocate, keep_size)),
        f if f == libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned() && keep_size => Ok((FallocateMode::PunchHole, true)),
        f if f == libc::FALLOC_FL_ZERO_RANGE.cast_unsigned() => Ok((FallocateMode::ZeroRange, keep_size)),
        _ => Err(FsError::NotSupported),
    }
}

fn seek_whence(raw: u32) -> Result<SeekWhence, FsError> {
    match i32::try_from(raw) {
        Ok(libc::SEEK_DATA) => Ok(SeekWhence::Data),
        Ok(libc::SEEK_HOLE) => Ok(SeekWhence::Hole),
        _ => Err(FsError::Invalid),
    }
}

fn attr_change(arg: &abi::SetattrIn) -> AttrChange {
    use abi::fattr;
    let set = |bit: u32| arg.valid & bit != 0;
    let time = |now: bool, seconds: u64, nanos: u32| {
        if now { TimeChange::Now } else { TimeChange::At(Nanos::from_timespec(seconds.cast_signed(), nanos)) }
    };
    AttrChange {
        mode: set(fattr::MODE).then(|| mode_bits(arg.mode)),
        uid: set(fattr::UID).then_some(arg.uid),
        gid: set(fattr::GID).then_some(arg.gid),
        size: set(fattr::SIZE).then_some(arg.size),
        atime: set(fattr::ATIME).then(|| time(set(fattr::ATIME_NOW), arg.atime, arg.atimensec)),
        mtime: set(fattr::MTIME).then(|| time(set(fattr::MTIME_NOW), arg.mtime, arg.mtimensec)),
        ctime: set(fattr::CTIME).then(|| time(false, arg.ctime, arg.ctimensec)),
        // chown(-1, -1) arrives as a change of nothing, and takes privileges like any other chown.
        kill_privileges: set(fattr::KILL_SUIDGID) || arg.valid & fattr::CHANGES == 0,
    }
}

#[cfg(test)]
mod tests;
