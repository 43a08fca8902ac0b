//! One core put together: what its tasks share, and how a request finds its way.
//!
//! Invariants: a core touches only its own shards; a request for another core's shard crosses the
//! mesh once; every request is answered by its deadline; a change that was begun runs to its end,
//! whether or not somebody still waits for it.

use crate::clean::Rounds;
use crate::config::ServerConfig;
use crate::doors::Doors;
use crate::fence::Fence;
use crate::former::{Former, forget_in};
use crate::hybrid_clock::HybridClock;
use crate::inline_cache::InlineCache;
use crate::leases::{Clearance, Intent, Leases, Place};
use crate::links::Links;
use crate::log_room::{Asker, LogPlace, LogRoom};
use crate::messages::{CoreReply, CoreRequest};
use crate::metrics::Metrics;
use crate::operation::Served;
use crate::overwrite::Overwrites;
use crate::peers::Peers;
use crate::regions::RegionPool;
use crate::scrub::Scrub;
use crate::shard::Shard;
use crate::thin::Thin;
use crate::unlinking::Unlinking;
use cfs_cluster::Lineage;
use cfs_device::{DeviceError, PoolDisk};
use cfs_exec::{Event, Semaphore};
use cfs_kv::{BlockCache, UnitCache};
use cfs_log::CoreLog;
use cfs_namespace::{Command, CommandBody};
use cfs_rpc::{Connection, Pool};
use cfs_seam::{Class, Instant, IoBuf, TaskHandle, World, io, spawn, timeout};
use cfs_segment::{Space, SpaceError};
use cfs_types::{CoreId, FsError, GroupId, InodeId, SessionId, ShardId, Timestamp, UNIT_BYTES};
use cfs_wire::{Callback, CallbackReply, Lease, LeaseKind, Reply, Request, RequestContext, Response};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a count of the space in use is good enough for clients.
const FULL_COUNTED_FOR: Duration = Duration::from_millis(5);
/// Requests of clients that this core has other cores serve at once.
pub const FORWARDS_MAX: u64 = 1024;

/// Longest a stop waits for flushes under way.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// A core while it serves.
pub struct Core {
    /// The world.
    pub world: World,
    /// Settings.
    pub config: ServerConfig,
    /// The other cores.
    pub peers: Rc<Peers>,
    /// The way in for clients.
    pub doors: Doors,
    /// Connected clients.
    pub links: Links,
    /// Counters.
    pub metrics: Metrics,
    /// Commit timestamps.
    pub clock: Rc<HybridClock>,
    /// The log.
    pub log: CoreLog,
    /// The devices.
    pub pool: Rc<PoolDisk>,
    /// Space on them.
    pub space: Space,
    /// Units of the space that are kept back from file data.
    pub floor_units: Cell<u64>,
    /// Bytes of all memtables.
    pub memtable_bytes: Rc<Cell<usize>>,
    /// Blocks of tables in memory.
    pub block_cache: BlockCache,
    /// Units of chunks in memory, in the same cache.
    pub units: UnitCache,
    /// Recent small writes.
    pub inline: Rc<InlineCache>,
    /// Ungranted regions.
    pub regions: Rc<RegionPool>,
    /// The groups this core serves.
    pub groups: BTreeMap<GroupId, Rc<Shard>>,
    /// Who may cache what.
    pub leases: RefCell<Leases>,
    /// A lease ended or was answered, or a change is over.
    pub leases_moved: Event,
    /// Sessions of before the restart that are not back yet.
    pub former: Former,
    /// Bytes of small writes that are not packed into chunks yet.
    pub unpacked_bytes: Rc<Cell<u64>>,
    /// How much of the chunks is dead, for the cleaner.
    pub thin: Rc<Thin>,
    /// Bytes of small writes that were let in and are not executed yet.
    pub admitted_bytes: Cell<u64>,
    /// How full the store was when that was last counted, and when.
    pub full: Cell<Option<(Instant, u8)>>,
    /// Places for changes, units of 4 KiB of their payload and one each.
    pub changing: Semaphore,
    /// What changes under way take of the log.
    pub log_room: Rc<LogRoom>,
    /// What the cleaner does.
    pub cleaning: Rounds,
    /// What reading and verifying everything has come to.
    pub scrub: Scrub,
    /// Room for the payload of requests.
    pub request_room: Pool,
    /// Room for the payload of answers.
    pub answer_room: Pool,
    /// Places for requests that cross the mesh.
    pub forwards: Semaphore,
    /// Every message that the start found in outboxes of this core has been delivered.
    pub is_delivered: Cell<bool>,
    /// That came true.
    pub delivered: Event,
    /// Something for the upkeep tasks to look at.
    pub upkeep: Event,
    /// Set when the core stops: upkeep must not start anything new.
    pub stopping: Cell<bool>,
    /// Sessions heard of since core 0 was last told.
    pub heard: RefCell<BTreeSet<SessionId>>,
    /// When each session was last heard of by any core (core 0).
    pub last_seen: RefCell<BTreeMap<SessionId, Instant>>,
    /// The starts of the server, once this one is among them (core 0).
    pub lineage: RefCell<Option<Arc<Lineage>>>,
    /// One makes it known (core 0).
    pub beginning: Semaphore,
    /// Sessions that are over.
    pub fence: Rc<Fence>,
    /// Overwrites in ranges of other shards.
    pub overwrites: Overwrites,
    /// Inodes that commands on their way may remove.
    pub unlinking: Unlinking,
    /// The core's tasks; they end with it.
    pub tasks: RefCell<Vec<TaskHandle>>,
}

impl Core {
    /// This core's number.
    pub fn me(&self) -> CoreId {
        self.peers.me()
    }

    /// A shard of this core.
    pub fn shard(&self, shard: ShardId) -> Result<&Rc<Shard>, FsError> {
        self.groups.get(&shard.into()).ok_or(FsError::WrongShard)
    }

    /// A response that is no shard's, without leases.
    pub fn response(&self, result: Result<Reply, FsError>) -> Response {
        Response {
            timestamp: Timestamp::default(),
            map_epoch: self.config.map_epoch,
            leases: Vec::new(),
            full_percent: self.full_percent(),
            result,
        }
    }

    /// Counted anew after [`FULL_COUNTED_FOR`]: every response carries it, and counting looks at
    /// every segment.
    fn full_percent(&self) -> u8 {
        let now = self.world.clock.now();
        if let Some((counted, percent)) = self.full.get()
            && now.since(counted) < FULL_COUNTED_FOR
        {
            return percent;
        }
        let usage = self.space.usage();
        let used = usage.total_units.saturating_sub(usage.free_units + usage.garbage_units);
        // Of what there is for file data.
        let room = usage.total_units.saturating_sub(self.floor_units.get()).max(1);
        let percent = u8::try_from((used * 100 / room).min(100)).unwrap_or(100);
        self.full.set(Some((now, percent)));
        percent
    }

    /// Serves a client's request here, or at the core that owns its shard.
    pub async fn serve_or_forward(
        self: &Rc<Self>,
        request: Request,
        payload: Option<IoBuf>,
    ) -> (Response, Option<IoBuf>) {
        let owner = self.config.owner(request.context.shard.into());
        if owner == self.me() {
            return self.serve(request, payload, true).await;
        }
        self.metrics.forwarded.bump();
        let _place = self.forwards.acquire(1).await;
        match self.peers.call(owner, CoreRequest::Serve(Box::new(request), payload)).await {
            CoreReply::Served(response, payload) => (*response, payload),
            _ => (self.response(Err(FsError::WrongShard)), None),
        }
    }

    /// How long a request may take.
    pub fn patience(&self, context: &RequestContext) -> Duration {
        match context.deadline_ms {
            0 => self.config.deadline,
            ms => Duration::from_millis(u64::from(ms)).min(self.config.deadline),
        }
    }

    /// Serves a request for a shard of this core. `direct`: the client's connection ends here, so
    /// that it may be granted leases.
    pub async fn serve(
        self: &Rc<Self>,
        request: Request,
        payload: Option<IoBuf>,
        direct: bool,
    ) -> (Response, Option<IoBuf>) {
        let wait = self.patience(&request.context);
        let asked = request.context.shard;
        self.clock.observe(request.context.timestamp);
        self.metrics.in_service.add(1);
        let end = self.world.clock.now().after(wait);
        let answered = if crate::operation::changes(&request.op) {
            self.change(request, payload, direct, end).await
        } else {
            let work = crate::operation::serve(self.clone(), request, payload, direct);
            timeout(&self.world.clock, end, work).await
        };
        self.metrics.in_service.sub(1);
        let (result, leases, payload) = answered.unwrap_or((Err(FsError::TimedOut), Vec::new(), None));
        let mut response = self.response(result);
        response.leases = leases;
        response.timestamp = self.shard(asked).map(|shard| shard.replica.executed_at()).unwrap_or_default();
        (response, payload)
    }

    /// Begins a change, in a task of its own, and waits for its end until `end`. What it holds
    /// (leases revoked, chunks written) must not be let go while its command is on its way.
    async fn change(
        self: &Rc<Self>,
        request: Request,
        payload: Option<IoBuf>,
        direct: bool,
        end: Instant,
    ) -> Option<Served> {
        let data = payload.as_ref().map_or(0, |p| p.len());
        let units = 1 + data as u64 / u64::from(UNIT_BYTES);
        let begin = async { (self.changing.acquire(units).await, self.log_place(Asker::Change, data).await) };
        let place = timeout(&self.world.clock, end, begin).await?;
        let (promise, done) = io();
        let work = crate::operation::serve(self.clone(), request, payload, direct);
        let task = async move {
            promise.complete(work.await);
            drop(place);
        };
        spawn(&self.world.tasks, Class::Foreground, task).detach();
        timeout(&self.world.clock, end, done).await
    }

    /// Waits until a change with so many bytes of data fits into the log beside what makes room there.
    pub async fn log_place(&self, asker: Asker, data: usize) -> LogPlace {
        self.log_room.enter(&self.log, &self.world.clock, asker, data, || self.upkeep.notify_all()).await
    }

    /// Registers a client's connection for callbacks.
    pub fn attach(self: &Rc<Self>, session: SessionId, instance: u64, connection: Rc<Connection>) -> u64 {
        let (number, taken_over) = self.links.add(&self.world, session, instance, connection);
        if taken_over {
            self.leases.borrow_mut().end_session(session);
        }
        self.ask_again(session);
        self.leases_moved.notify_all();
        number
    }

    /// A connection of a session ended.
    pub fn detach(&self, session: SessionId, number: u64) {
        if self.links.remove(session, number) {
            self.ask_again(session);
        }
    }

    /// Sends the revocations again that the session has not answered.
    fn ask_again(&self, session: SessionId) {
        for r in self.leases.borrow().unanswered(session) {
            self.links.call_back(session, Callback::Revoke { ino: r.ino, sequence: r.sequence });
        }
    }

    /// A session of before the restart is connected to this core again, and has said what it holds
    /// open here.
    pub fn session_back(&self, session: SessionId) {
        self.former.returned(session);
        self.leases_moved.notify_all();
    }

    /// The session is over: its leases and pins go.
    pub fn end_session(&self, session: SessionId) {
        self.leases.borrow_mut().end_session(session);
        self.links.close(session);
        self.session_back(session);
    }

    /// This core forgets a session that has ended, and what it held.
    pub async fn drop_session(self: &Rc<Self>, session: SessionId) {
        self.fence.end(session);
        // What it holds stands in others' way until what it wrote is in place.
        self.overwrites.drained(session).await;
        self.end_session(session);
        for shard in self.groups.values().filter(|s| s.group().shard().is_some()) {
            forget_in(shard, session).await;
        }
    }

    /// Ends every connection, then the log; the doors of the other cores are shut already. What is
    /// acknowledged is durable. Flushes under way are let finish, within a time: one that waits for
    /// another core would wait for ever.
    pub async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.doors.shut();
        self.upkeep.notify_all();
        let end = self.world.clock.now().after(FLUSH_TIME_MAX);
        let closing: Vec<_> = self.groups.values().map(|shard| shard.replica.close_tables()).collect();
        timeout(&self.world.clock, end, async {
            for closed in closing {
                closed.await;
            }
        })
        .await;
        if let Err(SpaceError::Failed(source)) = self.space.seal_all().await {
            self.log.fail(DeviceError::Segments { source }).await;
        }
        // Who runs the core finds and reports a failure of the log.
        let _failed = self.log.close().await;
    }

    /// A client answered a revocation.
    pub fn lease_answered(&self, session: SessionId, reply: CallbackReply) {
        if reply.pinned {
            let _refused = self.reopened(reply.ino, session);
        }
        self.leases.borrow_mut().answered(session, reply.ino, reply.sequence);
        self.leases_moved.notify_all();
    }

    /// The session has opened the inode, where there is room. One that is over holds nothing: nobody
    /// would close it.
    pub fn opened(&self, ino: InodeId, session: SessionId) -> Result<(), FsError> {
        self.alive(session)?;
        self.leases.borrow_mut().open(ino, session)
    }

    /// The session says that it holds the inode open already.
    pub fn reopened(&self, ino: InodeId, session: SessionId) -> Result<(), FsError> {
        self.alive(session)?;
        self.leases.borrow_mut().reopen(ino, session)
    }

    fn alive(&self, session: SessionId) -> Result<(), FsError> {
        if self.fence.is_over(session) { Err(FsError::SessionExpired) } else { Ok(()) }
    }

    /// Takes a place for what the session is about to open.
    pub fn place(self: &Rc<Self>, session: SessionId) -> Result<OpenPlace, FsError> {
        let place = self.leases.borrow_mut().place(session)?;
        Ok(OpenPlace { core: self.clone(), place: Some(place) })
    }

    /// Waits until sessions of before the restart are back or their leases have ended: also the one
    /// that asks, where another core passed its request on.
    pub async fn grace(&self) {
        while let Some(until) = self.former.wait(self.world.clock.now()) {
            timeout(&self.world.clock, until, self.leases_moved.wait()).await;
        }
    }

    /// Asks others to give way on objects and waits until they have. While the result lives,
    /// nobody is granted what conflicts with it. What a silent session held exclusively is taken from
    /// it first: its bytes that come later are refused.
    pub async fn hold(
        self: &Rc<Self>,
        mut inodes: Vec<InodeId>,
        by: SessionId,
        intent: Intent,
    ) -> Result<Held, FsError> {
        self.grace().await;
        inodes.sort_unstable();
        inodes.dedup();
        let held = Held { core: self.clone(), inodes, intent };
        for ino in &held.inodes {
            let asked = self.leases.borrow_mut().begin(*ino, by, intent);
            for r in asked {
                self.metrics.revocations.bump();
                self.links.call_back(r.session, Callback::Revoke { ino: r.ino, sequence: r.sequence });
            }
        }
        for ino in &held.inodes {
            loop {
                let now = self.world.clock.now();
                let clearance = self.leases.borrow_mut().clearance(*ino, by, intent, now);
                for session in self.leases.borrow_mut().take_fenced() {
                    self.links.close(session);
                }
                match clearance {
                    Clearance::Clear => break,
                    Clearance::Broken => self.take(*ino).await?,
                    Clearance::WaitUntil(at) => {
                        timeout(&self.world.clock, at, self.leases_moved.wait()).await;
                    }
                }
            }
        }
        Ok(held)
    }

    /// Commits that an exclusive lease is broken, before anybody relies on it.
    async fn take(&self, ino: InodeId) -> Result<(), FsError> {
        let shard = self.shard(ino.shard())?.clone();
        let _alone = self.overwrites.take(ino).await;
        shard.command(Command::internal(CommandBody::Take { ino })).await?;
        self.metrics.leases_broken.bump();
        self.leases.borrow_mut().taken(ino);
        self.leases_moved.notify_all();
        Ok(())
    }

    /// Grants leases on what a reply shows.
    pub fn grant(&self, session: SessionId, wanted: &[(InodeId, LeaseKind)]) -> Vec<Lease> {
        let now = self.world.clock.now();
        let mut leases = self.leases.borrow_mut();
        let grants = wanted
            .iter()
            .filter_map(|(ino, kind)| leases.grant(*ino, session, *kind, now).map(|kind| Lease { ino: *ino, kind }));
        let granted: Vec<Lease> = grants.collect();
        let asked = if leases.is_full() { leases.relieve() } else { Vec::new() };
        drop(leases);
        for r in asked {
            self.links.call_back(r.session, Callback::Revoke { ino: r.ino, sequence: r.sequence });
        }
        granted
    }
}

/// Room for an inode that is about to be opened, until it is dropped.
pub struct OpenPlace {
    core: Rc<Core>,
    place: Option<Place>,
}

impl Drop for OpenPlace {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.core.leases.borrow_mut().vacate(place);
        }
    }
}

/// Objects on which a request is in progress.
pub struct Held {
    core: Rc<Core>,
    inodes: Vec<InodeId>,
    intent: Intent,
}

impl Drop for Held {
    fn drop(&mut self) {
        for ino in &self.inodes {
            self.core.leases.borrow_mut().end(*ino, self.intent);
        }
        self.core.leases_moved.notify_all();
    }
}
