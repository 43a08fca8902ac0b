//! What cores say to each other over the mesh.

use crate::RootOwner;
use crate::boot::{Claims, Regions};
use crate::devices::{NewDevice, NotAdded, OpenDevice, Retiring};
use crate::former::Issued;
use crate::overwrite::{Overwrite, Overwrote};
use crate::scrub::{Found, Scope};
use crate::thin::DeadUnits;
use cfs_cluster::Lineage;
use cfs_device::{Member, Superblock};
use cfs_log::{CorePart, Freed};
use cfs_namespace::{Answer, Command, TxId};
use cfs_observe::CoreStatus;
use cfs_seam::IoBuf;
use cfs_segment::{CellOwner, CellRef, Room};
use cfs_types::{ChunkId, FsError, GroupId, InodeId, RangeIndex, SessionId, ShardId, Timestamp};
use cfs_wire::{Op, Reply, Request, Response};
use std::sync::Arc;

/// The outcome of a command executed for another core.
pub struct Remote {
    /// The answer.
    pub result: Result<Answer, FsError>,
    /// Who holds what a blocked command needs.
    pub blocked_by: Option<TxId>,
}

/// A request of one core to another.
pub enum CoreRequest {
    /// Start: this core's part of the log. Answer: `Claims`.
    Load(Box<CorePart>),
    /// Start: every core's claims are known; serve. Answer: `Done`.
    Start(Box<Regions>),
    /// A client's request that reached the wrong core. Answer: `Served`.
    Serve(Box<Request>, Option<IoBuf>),
    /// A command of a transaction or an outbox. Answer: `Executed`.
    Execute(ShardId, Box<Command>, Vec<u8>),
    /// Have others give way on what a command of a transaction will change. Answer: `Revoked`.
    Revoke(ShardId, Box<Command>),
    /// A read for a transaction. Answer: `Answered`.
    Query(ShardId, Op),
    /// Write a chunk for a range of this core's shard. Answer: `Stored`.
    StoreChunk(ShardId, IoBuf),
    /// The chunk was not named after all. Answer: `Done`.
    DropChunk(ChunkId),
    /// An overwrite of what is in a range of this core's shard. Answer: `Overwrote`.
    Overwrite(Box<Overwrite>, IoBuf),
    /// The last message the inode's shard has sent to a range. Answer: `Sequence`.
    RangeSequence(InodeId, RangeIndex),
    /// Wait until the messages that the start found have been delivered. Answer: `Done`.
    AwaitDelivered,
    /// Give half of the ungranted regions; to a core in need also the last one. Answer: `Granted`.
    TakeRegions(bool),
    /// A cell in a region of this core is garbage. Answer: `Done`.
    Retire(CellOwner, CellRef),
    /// Parts of cells in regions of this core are dead. Answer: `Done`.
    NoteDead(DeadUnits),
    /// The cleaner of a core's regions asks the group whose cells these are to move them. Answer: `Relocated`.
    Relocate(GroupId, Vec<(CellOwner, CellRef)>),
    /// A group needs nothing of the old log streams any more (core 0). Answer: `Done`.
    OldReleased(GroupId),
    /// Log slots that became free for this core. Answer: `Done`.
    FreeSlots(Freed),
    /// Issue a session, or check that this one is open (core 0). Answer: `Session`.
    OpenSession(Option<SessionId>),
    /// The starts of the server (core 0). Answer: `Lineage`.
    Lineage,
    /// How far the shards of this core were when they were taken up. Answer: `TakenOver`.
    TakenOver,
    /// The session is over (core 0 first, which tells all). Answer: `Done`.
    EndSession(SessionId),
    /// This core forgets a session that has ended. Answer: `Done`.
    DropSession(SessionId),
    /// What is known of sessions from before the start. Answer: `Done`.
    Former(Issued),
    /// The session was seen on another core (core 0 keeps its life). Answer: `Done`.
    Alive(Vec<SessionId>),
    /// Make the root directory where there is none. Answer: `Answered`.
    MakeRoot(RootOwner),
    /// Take in a device (core 0). Answer: `Added`.
    AddDevice(Box<NewDevice>),
    /// The superblock of the first device from now on. Answer: `Done`.
    FirstDevice(Box<Superblock>),
    /// A device that is in the list by now: reads and writes may go there. Answer: `TakenIn`.
    TakeIn(Box<Member>, OpenDevice),
    /// Regions that nobody holds, for this core's pool. Answer: `Done`.
    PoolRegions(Vec<u32>),
    /// Empty a device, so that it can leave (core 0): its number, UUID or path. Answer: `Retiring`.
    RetireDevice(String),
    /// What this core has on a device, and elsewhere. Answer: `Room`.
    Room(u16),
    /// How many regions of a device this core holds. Answer: `HeldOn`.
    HeldOn(u16),
    /// Write nothing new on a device, and move what lies there. Answer: `Done`.
    CloseDevice(u16),
    /// A device has left the list. Answer: `Done`.
    LetGo(u16),
    /// Read and verify everything from now on; without the limit of rate where that is true. Answer: `Done`.
    Scrub(bool),
    /// Look for what leads to an inode. Answer: `Traced`.
    Trace(InodeId, Scope),
    /// How things stand. Answer: `Status`.
    Status,
    /// Let no client in any more, and answer none: the server stops. Answer: `Done`.
    ShutDoors,
    /// The log of a core has failed (core 0): as `Stop`, and the first device is out of service. Answer: `Done`.
    Failed,
    /// Flush what is open and stop; core 0 first, which has all shut their doors. Answer: `Done`.
    Stop,
}

/// The answer to a [`CoreRequest`].
pub enum CoreReply {
    /// It is done.
    Done,
    /// What this core's groups own.
    Claims(Result<Claims, String>),
    /// This core serves, or why not.
    Started(Result<(), String>),
    /// This core does not serve yet.
    Starting,
    /// A client's answer.
    Served(Box<Response>, Option<IoBuf>),
    /// A command's outcome.
    Executed(Remote),
    /// Whether others gave way.
    Revoked(Result<(), FsError>),
    /// A query's answer.
    Answered(Result<Reply, FsError>),
    /// A chunk was written, durably.
    Stored(Result<ChunkId, FsError>),
    /// What became of an overwrite.
    Overwrote(Result<Overwrote, FsError>),
    /// A message's sequence.
    Sequence(Result<(u64, u64), FsError>),
    /// Units that each of the cells takes where it was moved to; 0 where it was not.
    Relocated(Vec<u32>),
    /// What leads to the inode.
    Traced(Result<Found, FsError>),
    /// The device is one of the node's, or why not.
    Added(Result<Box<Member>, NotAdded>),
    /// The device is being emptied, or why not.
    Retiring(Result<Box<Retiring>, String>),
    /// What this core has on a device and elsewhere, and the units that it keeps there.
    Room(Room, u64),
    /// Regions of a device that this core holds.
    HeldOn(u64),
    /// Whether this core can use the device.
    TakenIn(bool),
    /// Regions handed over.
    Granted(Vec<u32>),
    /// The session.
    Session(Result<SessionId, FsError>),
    /// The starts.
    Lineage(Result<Arc<Lineage>, FsError>),
    /// How far each shard was.
    TakenOver(Vec<(ShardId, Timestamp)>),
    /// How things stand.
    Status(Box<CoreStatus>),
}
