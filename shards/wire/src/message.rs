//! Requests, replies and callbacks.

use cfs_types::{FsError, InodeId, MapEpoch, Name, Nanos, RequestNumber, SessionId, ShardId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};

/// First message on a connection, from the client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol that the client speaks.
    pub version: u16,
    /// Random bytes the server's proof must cover.
    pub nonce: [u8; 32],
    /// Session to resume, or 0 to be issued a new one.
    pub session: SessionId,
    /// Random, the same for the life of a client process: a session that comes with another one
    /// was taken over after a crash, and pins and leases of the old one are void.
    pub instance: u64,
    /// True on connections that carry bulk payload.
    pub bulk: bool,
}

/// Answer to [`Hello`]: a challenge, then, once the client has sent its proof, the welcome.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HelloReply {
    /// HMAC-SHA256(secret, "server" | client nonce | server nonce) proves the server; the client
    /// answers with HMAC-SHA256(secret, "client" | server nonce | client nonce).
    Challenge {
        /// Version of the protocol that the server speaks.
        version: u16,
        /// The server's random bytes.
        nonce: [u8; 32],
        /// The server's proof.
        proof: [u8; 32],
    },
    /// The client is in.
    Welcome(Welcome),
    /// Final.
    Refused(FsError),
}

/// What a client needs to know of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The session of this connection.
    pub session: SessionId,
    /// Identity of the cluster, checked on reconnect.
    pub cluster: [u8; 16],
    /// Version of `shard_core` and `cores`.
    pub map_epoch: MapEpoch,
    /// Owning core of each of the 256 shards.
    pub shard_core: Vec<u16>,
    /// Address of each core (`127.0.0.1:7400`, `unix:/path`).
    pub cores: Vec<String>,
    /// Lease term, milliseconds.
    pub lease_ms: u32,
    /// Changes with every start of the server: leases of an earlier one are void.
    pub incarnation: u64,
}

/// The client's answer to a challenge (`auth`): HMAC-SHA256, or zeros from a client that relies on
/// its Unix socket's credentials.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// The bytes.
    pub proof: [u8; 32],
}

/// Who asks, as the client's kernel says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Identity {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// Context of every request.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RequestContext {
    /// The shard that is to execute it.
    pub shard: ShardId,
    /// Map the client acted on.
    pub map_epoch: MapEpoch,
    /// The client's session.
    pub session: SessionId,
    /// The session's number of this mutation; 0 for reads.
    pub number: RequestNumber,
    /// Oldest mutation the client still waits for: results below it are forgotten.
    pub oldest: RequestNumber,
    /// Milliseconds the client will wait; 0 is the server's default.
    pub deadline_ms: u32,
    /// The client's hybrid clock.
    pub timestamp: Timestamp,
    /// The volume.
    pub volume: VolumeId,
    /// Who asks.
    pub identity: Identity,
    /// W3C trace context (trace id, span id, flags), where the request is sampled.
    pub trace: Option<([u8; 16], [u8; 8], u8)>,
}

/// A request as sent: context and operation. Bulk bytes travel in the frame's payload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Context.
    pub context: RequestContext,
    /// What to do.
    pub op: Op,
}

/// Kind of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes of an inode (POSIX `struct stat`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attr {
    /// Number.
    pub ino: InodeId,
    /// Kind.
    pub kind: FileKind,
    /// Permission, setuid, setgid and sticky bits (07777).
    pub mode: u16,
    /// Link count; 0 is open and unlinked.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, Linux encoding (`makedev`, 32 bits).
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes stored, in units of 512.
    pub blocks: u64,
    /// Last access.
    pub atime: Nanos,
    /// Last change of data.
    pub mtime: Nanos,
    /// Last change of the inode.
    pub ctime: Nanos,
    /// Birth.
    pub btime: Nanos,
    /// Rises with every change (change attribute of NFSv4).
    pub change: u64,
    /// Epoch of the file's ranges (ARCHITECTURE, Large files).
    pub epoch: u64,
    /// Last outbox sequence sent to the file's ranges: reads of ranges wait to reach it.
    pub sequence: u64,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TimeChange {
    /// UTIME_NOW.
    Now,
    /// This time.
    At(Nanos),
}

/// What setattr changes; None leaves a field alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AttrChange {
    /// Mode bits (07777).
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Truncate or extend.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeChange>,
    /// Modification time.
    pub mtime: Option<TimeChange>,
    /// Change time as the kernel gives it (writeback cache only).
    pub ctime: Option<TimeChange>,
    /// Clear setuid and setgid (kernel's KILL_SUIDGID).
    pub kill_privileges: bool,
}

/// XATTR_CREATE, XATTR_REPLACE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// Fails with `Exists`.
    Create,
    /// Fails with `NoAttribute`.
    Replace,
}

/// Of bytes that a client held back before it sends them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldBack {
    /// The file's epoch when the client began to hold them.
    pub epoch: u64,
    /// When the last of them was written: the file's time of change, whenever they arrive.
    pub time: Nanos,
}

/// What fallocate does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FallocateMode {
    /// Make sure the range can be written; grows the file unless `keep_size`.
    Allocate,
    /// FALLOC_FL_PUNCH_HOLE (always keeps the size).
    PunchHole,
    /// FALLOC_FL_ZERO_RANGE.
    ZeroRange,
}

/// lseek on extents.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SeekWhence {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

/// How a file is opened, as far as the server cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OpenMode {
    /// Reads only.
    Read,
    /// May write.
    Write,
}

/// Operations. The routing shard is in the comment; `FsError::WrongShard` otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op {
    // Metadata, 0x01xx.
    /// dir's shard. Reply: Entry; a missing name is `NotFound` with a lease on the directory.
    Lookup { dir: InodeId, name: Name },
    /// ino's shard. Reply: Attr.
    Getattr { ino: InodeId },
    /// ino's shard. Reply: Attr.
    Setattr { ino: InodeId, change: AttrChange },
    /// dir's shard; also pins the file open. `exclusive`: O_EXCL. Reply: Entry.
    Create { dir: InodeId, name: Name, mode: u16, exclusive: bool, truncate: bool },
    /// dir's shard. Fifo, socket, device or regular file. Reply: Entry.
    Mknod { dir: InodeId, name: Name, kind: FileKind, mode: u16, rdev: u32 },
    /// dir's shard. Reply: Entry.
    Mkdir { dir: InodeId, name: Name, mode: u16 },
    /// dir's shard. Reply: Entry.
    Symlink { dir: InodeId, name: Name, target: Vec<u8> },
    /// dir's shard. Reply: Done.
    Unlink { dir: InodeId, name: Name },
    /// dir's shard. Reply: Done.
    Rmdir { dir: InodeId, name: Name },
    /// source dir's shard. Reply: Done.
    Rename { from_dir: InodeId, from: Name, to_dir: InodeId, to: Name, no_replace: bool, exchange: bool },
    /// new dir's shard (the dentry is the commit point). Reply: Entry.
    Link { ino: InodeId, dir: InodeId, name: Name },
    /// ino's shard. Reply: Bytes.
    Readlink { ino: InodeId },
    /// dir's shard. Entries after `cookie` (0 is the start; `.` and `..` are the client's), at
    /// most `bytes_max` of names and attributes. Reply: Listing.
    Readdir { dir: InodeId, cookie: u64, bytes_max: u32, plus: bool },
    /// ino's shard. Reply: Bytes.
    GetXattr { ino: InodeId, name: Vec<u8> },
    /// ino's shard. Reply: Done.
    SetXattr { ino: InodeId, name: Vec<u8>, value: Vec<u8>, mode: XattrMode },
    /// ino's shard. Reply: Bytes, names each ended by NUL.
    ListXattr { ino: InodeId },
    /// ino's shard. Reply: Done.
    RemoveXattr { ino: InodeId, name: Vec<u8> },
    /// ino's shard: the session pins it open (volatile). Reply: Attr.
    Open { ino: InodeId, mode: OpenMode },
    /// ino's shard: the session's last descriptor is closed. Reply: Done.
    Close { ino: InodeId },
    /// any shard. Reply: Statfs.
    Statfs,
    /// ino's shard: the directory's parent. Reply: Entry of the parent's number (attr may be None).
    Parent { dir: InodeId },

    // Data, 0x02xx.
    /// The range's shard; within one range. Payload of the reply: `len` bytes or fewer at the end.
    /// (`epoch`, `sequence`) as the client learned them from the inode; holes read as zeros.
    Read { ino: InodeId, offset: u64, len: u32, epoch: u64, sequence: u64 },
    /// Payload: the data, within one range, at most 2 MiB.
    /// Inode's shard. `append`: the server gives the offset (reply `Written.offset`). `held`: the bytes
    /// were held back; `Stale` where others have had the file since.
    Write { ino: InodeId, offset: u64, len: u32, append: bool, kill_privileges: bool, held: Option<HeldBack> },
    /// ino's shard. Reply: Attr.
    Fallocate { ino: InodeId, offset: u64, len: u64, mode: FallocateMode, keep_size: bool },
    /// ino's shard. Reply: Offset.
    Seek { ino: InodeId, offset: u64, whence: SeekWhence },

    // Sessions and leases, 0x03xx.
    /// Any core: renews every lease this session holds at that core. Reply: Done.
    Renew,
    /// Any core: gives leases back. Reply: Done.
    ReturnLeases { inodes: Vec<InodeId> },
    /// Control group: ends the session; its pins go. Reply: Done.
    CloseSession,
    /// Any core: echoes the payload (benches, path probes). Reply: Done.
    Echo,
    /// On a new connection, before anything else: the session still holds these open in the core's
    /// shards. With `last` these are all, and the session is back after a restart. `seen`: of shards of the
    /// core, the incarnation they were last asked about and the newest timestamp of their answers. Reply: Done; `Stale` where
    /// that is not part of the shard's history: the store is an older copy.
    Reopen { inodes: Vec<InodeId>, last: bool, seen: Vec<(ShardId, u64, Timestamp)> },
}

/// A directory entry in a listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirEntry {
    /// Resume after this one.
    pub cookie: u64,
    /// Name.
    pub name: Name,
    /// Inode.
    pub ino: InodeId,
    /// Kind.
    pub kind: FileKind,
    /// Attributes, where asked for and the inode lives in the directory's shard.
    pub attr: Option<Attr>,
}

/// A name's inode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntryReply {
    /// Inode.
    pub ino: InodeId,
    /// Kind.
    pub kind: FileKind,
    /// Attributes; None where the inode lives in another shard: ask there.
    pub attr: Option<Attr>,
}

/// Capacity and use (statfs).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Volume {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes free to users.
    pub bytes_free: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Inodes that could still be made.
    pub inodes_free: u64,
}

/// Successful results.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to tell.
    Done,
    /// An entry was found or made.
    Entry(EntryReply),
    /// Attributes.
    Attr(Attr),
    /// Short bytes (symlink, xattr, xattr names).
    Bytes(Vec<u8>),
    /// Entries in cookie order; `end`: there are no more. `parent`: the directory's own.
    Listing { parent: InodeId, entries: Vec<DirEntry>, end: bool },
    /// Read: data is the payload; `len` of it.
    Data { len: u32 },
    /// Write: where it went and the inode after it.
    Written { offset: u64, attr: Attr, sequence: u64 },
    /// Seek.
    Offset(u64),
    /// Statfs.
    Statfs(Volume),
}

/// What a session may cache of an object until the lease ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum LeaseKind {
    /// Attributes, entries, listings, data: read only.
    Shared,
    /// Also hold written data back.
    Exclusive,
}

/// A lease granted with a reply; the term counts from when the request was *sent*.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// Object.
    pub ino: InodeId,
    /// Kind.
    pub kind: LeaseKind,
}

/// Reply to a [`Request`]; bulk bytes travel in the frame's payload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Response {
    /// Commit timestamp of the last entry that the shard had executed: the state that this shows. 0 where no
    /// shard answers.
    pub timestamp: Timestamp,
    /// The map in force: a client with an older one asks for it.
    pub map_epoch: MapEpoch,
    /// Leases granted.
    pub leases: Vec<Lease>,
    /// 0 to 100: how full the store is; from 95 on clients write through.
    pub full_percent: u8,
    /// The result.
    pub result: Result<Reply, FsError>,
}

/// From a core to a client: leases that stand in the way of another session's change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Callback {
    /// Stop caching `ino`: write dirty data back, forget attributes, entries and pages, answer.
    Revoke { ino: InodeId, sequence: u64 },
}

/// A client's answer to [`Callback::Revoke`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CallbackReply {
    /// Object.
    pub ino: InodeId,
    /// As in the callback.
    pub sequence: u64,
    /// The session still holds it open.
    pub pinned: bool,
}
