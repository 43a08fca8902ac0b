//! One shard (or the control group) on its core: queries and commands against its replica.

use crate::delivery::Outbox;
use crate::fence::Fence;
use crate::machine::{GroupAnswer, GroupCommand};
use crate::replica::{Executed, LocalWrite, Replica};
use crate::view::StoreView;
use bytes::Bytes;
use cfs_exec::Event;
use cfs_kv::Pins;
use cfs_namespace::data::Layout;
use cfs_namespace::{Answer, Command, EntryContext, NeedMore, View};
use cfs_seam::Instant;
use cfs_types::{ChunkId, FsError, GroupId, InodeId, LogIndex, RangeIndex, ShardId, VolumeId};
use cfs_wire::{Op, Reply};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Ranges whose progress is remembered, for a shard.
const REACHED_MAX: usize = 256;
/// Longest that anybody waits for a transaction: one whose coordinator is gone is settled long before.
const BLOCKED_MAX: Duration = Duration::from_secs(60);
/// The same where some transaction cannot be settled: longer than others take, shorter than a request may.
const UNSETTLED_MAX: Duration = Duration::from_secs(5);

/// A group and what its core keeps in memory about it.
pub struct Shard {
    /// Its replica.
    pub replica: Rc<Replica>,
    /// The cluster's key of dentry hashes.
    name_key: [u8; 32],
    /// Chunk ids granted to this term and not used yet: next and end.
    pub chunk_ids: Cell<(u64, u64)>,
    /// The first chunk id that was granted to this term, once there is one.
    pub granted_from: Cell<Option<u64>>,
    /// Its small writes are being packed.
    pub packing: Cell<bool>,
    /// Chunks that are being freed or moved now.
    chunk_turns: RefCell<BTreeSet<ChunkId>>,
    /// One of them is done.
    pub chunk_turns_moved: Event,
    fence: Rc<Fence>,
    /// Messages to other shards.
    pub outbox: Outbox,
    /// Ranges of this shard that have executed everything their inode's shard had sent up to a
    /// sequence of the inode.
    pub reached: RefCell<BTreeMap<(InodeId, RangeIndex), u64>>,
    /// Why some transaction that holds something here cannot be settled, when that was last tried.
    pub unsettled: Cell<Option<FsError>>,
}

impl Shard {
    /// A shard over its replica; sessions behind the core's fence are refused.
    pub fn new(replica: Rc<Replica>, name_key: [u8; 32], fence: Rc<Fence>) -> Rc<Self> {
        Rc::new(Shard {
            replica,
            name_key,
            chunk_ids: Cell::new((0, 0)),
            granted_from: Cell::new(None),
            packing: Cell::new(false),
            chunk_turns: RefCell::default(),
            chunk_turns_moved: Event::new(),
            fence,
            outbox: Outbox::default(),
            reached: RefCell::default(),
            unsettled: Cell::new(None),
        })
    }

    /// Runs the replica until it fails or the task is cancelled.
    pub async fn run(self: Rc<Self>) {
        self.replica.clone().run().await;
        self.outbox.close();
    }

    /// Which group.
    pub fn group(&self) -> GroupId {
        self.replica.id()
    }

    /// Which shard; the control group counts as shard 0 where a context is needed.
    pub fn id(&self) -> ShardId {
        self.replica.id().shard().unwrap_or_default()
    }

    /// The right to free or move a chunk; None while somebody has it.
    pub fn chunk_turn(self: &Rc<Self>, id: ChunkId) -> Option<ChunkTurn> {
        let free = self.chunk_turns.borrow_mut().insert(id);
        free.then(|| ChunkTurn { shard: self.clone(), id })
    }

    /// Notes how far a range has come, so that its readers need not ask again.
    pub fn note_reached(&self, ino: InodeId, range: RangeIndex, all: u64) {
        let mut reached = self.reached.borrow_mut();
        if reached.len() >= REACHED_MAX {
            reached.clear();
        }
        reached.insert((ino, range), all);
    }

    /// The context of a query now.
    pub fn context(&self) -> EntryContext {
        EntryContext {
            shard: self.id(),
            term: self.replica.term(),
            index: LogIndex::new(self.replica.mark().applied.0),
            timestamp: self.replica.clock().last(),
            now: self.replica.clock().now(),
            name_key: self.name_key,
            volume: VolumeId::new(0),
            layout: Layout::default(),
        }
    }

    /// Runs a read against executed state, loading what it misses.
    pub async fn read<T>(
        &self,
        mut step: impl FnMut(&dyn View, &EntryContext) -> Result<T, NeedMore>,
    ) -> Result<T, FsError> {
        let mut pins = Pins::default();
        self.replica.ready().await?;
        loop {
            let answer = {
                let view = StoreView::new(self.replica.store());
                step(&view, &self.context())
            };
            match answer {
                Ok(answer) if self.replica.is_current() => return Ok(answer),
                // What was read may be old: another replica may lead by now.
                Ok(_) => self.replica.ready().await?,
                Err(need) => pins.merge(self.replica.load(need).await?),
            }
        }
    }

    /// Answers a read-only operation; waits while a transaction holds what it needs.
    pub async fn query(&self, op: &Op) -> Result<Reply, FsError> {
        let began = self.replica.clock().source().now();
        loop {
            let answer = self.read(|view, context| cfs_namespace::query(view, context, op)).await?;
            match answer {
                Err(FsError::Blocked) => self.next_unlock(began).await?,
                answer => return answer,
            }
        }
    }

    /// Executes a command once; `Blocked` is the caller's to handle. `SessionExpired`: its session ended
    /// before it could be proposed.
    pub async fn execute(&self, command: Command, data: Bytes, locals: Vec<LocalWrite>) -> Result<Executed, FsError> {
        self.replica.ready().await?;
        self.replica.room().await?;
        if self.fence.is_over(command.session) {
            return Err(FsError::SessionExpired);
        }
        self.replica.propose(GroupCommand::Shard(Box::new(command)), data, locals).await
    }

    /// Waits until a transaction has let go of something here. One holds for ever what is wanted since `began`
    /// where the shard that knows its outcome is damaged: then its error is the answer.
    async fn next_unlock(&self, began: Instant) -> Result<(), FsError> {
        let waited = self.replica.clock().source().now().since(began);
        match self.unsettled.get() {
            Some(error) if waited > UNSETTLED_MAX => return Err(error),
            _ if waited > BLOCKED_MAX => return Err(FsError::TimedOut),
            _ => {}
        }
        self.replica.next_unlock().await;
        Ok(())
    }

    /// Executes a command without data; waits while a transaction holds what it needs.
    pub async fn command(&self, command: Command) -> Result<(Answer, Executed), FsError> {
        let began = self.replica.clock().source().now();
        loop {
            let executed = self.execute(command.clone(), Bytes::new(), Vec::new()).await?;
            match &executed.result {
                Err(FsError::Blocked) => self.next_unlock(began).await?,
                Err(error) => return Err(*error),
                Ok(GroupAnswer::Shard(answer)) => return Ok((answer.clone(), executed)),
                Ok(GroupAnswer::Control(_)) => return Err(FsError::Invalid),
            }
        }
    }
}

/// The right to free or move a chunk.
pub struct ChunkTurn {
    shard: Rc<Shard>,
    id: ChunkId,
}

impl Drop for ChunkTurn {
    fn drop(&mut self) {
        self.shard.chunk_turns.borrow_mut().remove(&self.id);
        self.shard.chunk_turns_moved.notify_all();
    }
}
