//! A core's place in the server: what it is before, while and after it serves, and its answers
//! to the other cores.

use crate::RootOwner;
use crate::admission::units_promised;
use crate::boot::{self, Loaded, StartError};
use crate::config::ServerConfig;
use crate::core::Core;
use crate::devices::{self, Devices, Known};
use crate::file_data::{free_chunk, sequence_of, store_chunk};
use crate::former::{Issued, forget_ended};
use crate::messages::{CoreReply, CoreRequest};
use crate::operation::make_root;
use crate::overwrite::overwrite_here;
use crate::peers::{Handler, Peers};
use crate::{clean, control, coordinate, scrub, status};
use cfs_device::{DeviceError, PoolDisk, Superblock};
use cfs_exec::Event;
use cfs_log::{CorePart, OldStreams};
use cfs_seam::{Class, Disk, World, gather, spawn};
use cfs_segment::{CellOwner, CellRef, Lifetime, Purpose, RegionLayout};
use cfs_types::{CoreId, FsError, GroupId, InodeId};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// One core of a server.
pub struct Seat {
    /// The world.
    pub world: World,
    /// The first device, with superblock, anchors and log.
    pub disk: Rc<dyn Disk>,
    /// All devices, for what lies on segments.
    pub pool: Rc<PoolDisk>,
    /// Where their regions lie.
    pub regions: RegionLayout,
    /// Its superblock at the start.
    pub superblock: Superblock,
    /// What there is to know of the devices beside.
    pub known: Known,
    /// Settings.
    pub config: ServerConfig,
    /// The other cores.
    pub peers: Rc<Peers>,
    loaded: RefCell<Option<Loaded>>,
    core: RefCell<Option<Rc<Core>>>,
    /// The log streams of earlier starts (core 0).
    pub old_streams: RefCell<Option<OldStreams>>,
    releasing: cfs_exec::Semaphore,
    stopped: Event,
    is_stopped: Cell<bool>,
}

impl Seat {
    /// A seat that has not loaded yet.
    pub fn new(world: World, devices: Devices, regions: RegionLayout, config: ServerConfig) -> Rc<Self> {
        let peers = Peers::new(world.clone());
        let Devices { pool, attach, gone } = devices;
        Rc::new(Seat {
            world,
            disk: pool.first,
            pool: pool.disk,
            regions,
            superblock: pool.superblock,
            known: Known::new(attach, gone, pool.superblock, pool.list),
            config,
            peers,
            loaded: RefCell::default(),
            core: RefCell::default(),
            old_streams: RefCell::default(),
            releasing: cfs_exec::Semaphore::new(1),
            stopped: Event::new(),
            is_stopped: Cell::new(false),
        })
    }

    /// The core, once it serves.
    pub fn core(&self) -> Option<Rc<Core>> {
        self.core.borrow().clone()
    }

    /// The number of this start, as far as 32 bits tell.
    pub fn boot_of(&self, part: &CorePart) -> u32 {
        u32::try_from(part.boot()).unwrap_or(u32::MAX)
    }

    /// Resolves when the core was told to stop.
    pub async fn wait_stopped(&self) {
        while !self.is_stopped.get() {
            self.stopped.wait().await;
        }
    }

    /// Ends the wait.
    pub fn set_stopped(&self) {
        self.is_stopped.set(true);
        self.stopped.notify_all();
    }

    async fn load(self: &Rc<Self>, part: CorePart) -> CoreReply {
        match boot::load(self, part).await {
            Ok((loaded, claims)) => {
                *self.loaded.borrow_mut() = Some(loaded);
                CoreReply::Claims(Ok(claims))
            }
            Err(StartError(error)) => CoreReply::Claims(Err(error)),
        }
    }

    fn start(self: &Rc<Self>, regions: boot::Regions) -> CoreReply {
        let Some(loaded) = self.loaded.borrow_mut().take() else {
            return CoreReply::Started(Err("nothing was loaded".into()));
        };
        match loaded.start(self, regions) {
            Ok(core) => {
                self.stop_with_log(&core);
                self.fail_with_space(&core);
                *self.core.borrow_mut() = Some(core);
                CoreReply::Started(Ok(()))
            }
            Err(StartError(error)) => CoreReply::Started(Err(error)),
        }
    }

    /// Has core 0 stop the server where this core's log fails: nothing more can be promised. No client is
    /// let know: for them it is a stop as any other.
    fn stop_with_log(self: &Rc<Self>, core: &Rc<Core>) {
        let (failed, marked, peers) = (core.log.wait_failed(), core.log.wait_marked(), self.peers.clone());
        let watch = async move {
            failed.await;
            shut_doors(&peers).await;
            marked.await;
            peers.call(CoreId::new(0), CoreRequest::Failed).await;
        };
        spawn(&self.world.tasks, Class::Foreground, watch).detach();
    }

    /// Has the core's log fail with its space: a device that has refused a write or a flush is trusted
    /// with nothing more, also where the log's own writes still succeed.
    fn fail_with_space(self: &Rc<Self>, core: &Rc<Core>) {
        let (failed, core) = (core.space.wait_failed(), core.clone());
        let watch = async move {
            failed.await;
            core.doors.shut();
            if let Some(source) = core.space.failed() {
                core.log.fail(DeviceError::Segments { source }).await;
            }
        };
        spawn(&self.world.tasks, Class::Foreground, watch).detach();
    }

    /// The group needs nothing of the old log streams. An anchor that cannot be written ends this core's
    /// log, as the log's own does.
    async fn release_old(&self, group: GroupId) {
        let _turn = self.releasing.acquire(1).await;
        let Some(mut old) = self.old_streams.borrow_mut().take() else { return };
        let freed = old.release(group).await;
        *self.old_streams.borrow_mut() = Some(old);
        match (freed, self.core()) {
            (Ok(freed), _) => boot::announce_freed(&self.peers, freed).await,
            (Err(error), Some(core)) => core.log.fail(error).await,
            // Whoever starts the cores says so.
            (Err(_), None) => {}
        }
    }

    /// Core 0 has every core shut its doors before the first log is closed: a core that still served
    /// would tell its clients of the ones that serve no longer.
    async fn stop(self: &Rc<Self>) {
        if self.peers.me() == CoreId::new(0) {
            shut_doors(&self.peers).await;
        }
        if let Some(core) = self.core() {
            core.stop().await;
        }
        self.set_stopped();
    }

    async fn answer(self: &Rc<Self>, core: &Rc<Core>, request: CoreRequest) -> CoreReply {
        match request {
            CoreRequest::Serve(request, payload) => {
                let (response, payload) = core.serve(*request, payload, false).await;
                CoreReply::Served(Box::new(response), payload)
            }
            CoreRequest::Execute(shard, command, data) => {
                CoreReply::Executed(coordinate::execute_here(core, shard, *command, data).await)
            }
            CoreRequest::Revoke(shard, command) => {
                CoreReply::Revoked(coordinate::hold_for(core, shard, &command).await.map(drop))
            }
            CoreRequest::Query(shard, op) => CoreReply::Answered(match core.shard(shard) {
                Ok(shard) => shard.clone().query(&op).await,
                Err(error) => Err(error),
            }),
            CoreRequest::StoreChunk(shard, data) => CoreReply::Stored(store_for(core, shard, data).await),
            CoreRequest::DropChunk(id) => {
                if let Ok(shard) = core.shard(id.shard()) {
                    let _failed = free_chunk(core, &shard.clone(), id).await;
                }
                CoreReply::Done
            }
            CoreRequest::Overwrite(asked, data) => CoreReply::Overwrote(overwrite_here(core, *asked, data).await),
            CoreRequest::RangeSequence(ino, range) => CoreReply::Sequence(match core.shard(ino.shard()) {
                Ok(shard) => sequence_of(&shard.clone(), ino, range).await,
                Err(error) => Err(error),
            }),
            CoreRequest::AwaitDelivered => {
                while !core.is_delivered.get() {
                    core.delivered.wait().await;
                }
                CoreReply::Done
            }
            CoreRequest::TakeRegions(is_in_need) => {
                let mut given = core.regions.give(&core.space, is_in_need, units_promised(core));
                if given.is_empty() && is_in_need {
                    given.extend(clean::vacate(core).await);
                }
                CoreReply::Granted(given)
            }
            CoreRequest::Retire(owner, cell) => retire(core, owner, cell),
            CoreRequest::NoteDead(cells) => {
                for (owner, cell, dead) in cells {
                    core.space.note_dead(owner, cell, dead);
                }
                CoreReply::Done
            }
            CoreRequest::Relocate(group, cells) => CoreReply::Relocated(clean::relocate(core, group, &cells).await),
            about @ (CoreRequest::OpenSession(_)
            | CoreRequest::Lineage
            | CoreRequest::TakenOver
            | CoreRequest::EndSession(_)
            | CoreRequest::DropSession(_)
            | CoreRequest::Alive(_)
            | CoreRequest::Former(_)) => answer_of_sessions(core, about).await,
            about @ (CoreRequest::Scrub(_) | CoreRequest::Trace(..)) => answer_of_scrub(core, about).await,
            CoreRequest::MakeRoot(root) => CoreReply::Started(root_of(core, root).await),
            CoreRequest::Status => CoreReply::Status(Box::new(status::of(core).await)),
            CoreRequest::FreeSlots(freed) => {
                core.log.take_freed(&freed);
                CoreReply::Done
            }
            about => devices::answer(self, core, about).await,
        }
    }
}

/// Takes back a cell that another core has no use for any more.
fn retire(core: &Core, owner: CellOwner, cell: CellRef) -> CoreReply {
    if core.space.retire(owner, cell).is_err() {
        core.metrics.damage.bump();
    }
    CoreReply::Done
}

/// Has every core shut its doors; all are told at once.
pub async fn shut_doors(peers: &Rc<Peers>) {
    let cores = (0..peers.cores()).map(CoreId::new);
    gather(cores.map(|core| peers.call(core, CoreRequest::ShutDoors)), usize::from(peers.cores())).await;
}

/// Answers what is asked for the scrub.
async fn answer_of_scrub(core: &Rc<Core>, request: CoreRequest) -> CoreReply {
    match request {
        CoreRequest::Scrub(unpaced) => scrub::start(core, unpaced),
        CoreRequest::Trace(ino, scope) => return CoreReply::Traced(scrub::trace(core, ino, scope).await),
        _ => {}
    }
    CoreReply::Done
}

/// Answers what cores tell one another of sessions.
async fn answer_of_sessions(core: &Rc<Core>, request: CoreRequest) -> CoreReply {
    match request {
        CoreRequest::OpenSession(wanted) => CoreReply::Session(control::open_session(core, wanted).await),
        CoreRequest::Lineage => CoreReply::Lineage(control::lineage(core).await),
        CoreRequest::TakenOver => CoreReply::TakenOver(control::taken_over(core).await),
        CoreRequest::EndSession(session) => {
            control::end_session(core, session).await;
            CoreReply::Done
        }
        CoreRequest::DropSession(session) => {
            core.drop_session(session).await;
            CoreReply::Done
        }
        CoreRequest::Alive(sessions) => {
            control::alive(core, &sessions);
            CoreReply::Done
        }
        CoreRequest::Former(issued) => {
            meet_former(core, issued);
            CoreReply::Done
        }
        _ => CoreReply::Done,
    }
}

/// Learns which sessions there were before the restart, and forgets those that have ended since.
fn meet_former(core: &Rc<Core>, issued: Issued) {
    core.fence.end_all_but(&issued.open, issued.next);
    core.former.know(&issued.open);
    core.leases_moved.notify_all();
    let owner = core.clone();
    let work = async move { forget_ended(&owner, &issued).await };
    spawn(&core.world.tasks, Class::Background, work).detach();
}

async fn root_of(core: &Rc<Core>, root: RootOwner) -> Result<(), String> {
    let shard = core.shard(InodeId::ROOT.shard()).map_err(|e| e.to_string())?.clone();
    let made = make_root(&shard, root.uid, root.gid).await;
    made.map_err(|e| shard.replica.describe(e))
}

async fn store_for(
    core: &Rc<Core>,
    shard: cfs_types::ShardId,
    data: cfs_seam::IoBuf,
) -> Result<cfs_types::ChunkId, FsError> {
    let shard = core.shard(shard)?.clone();
    let (id, locals) = store_chunk(core, &shard, Purpose::Data, Lifetime::Hot, data).await?;
    shard.replica.write_locals(locals).await?;
    Ok(id)
}

impl Handler for Seat {
    fn handle(self: Rc<Self>, _from: CoreId, request: CoreRequest) -> Pin<Box<dyn Future<Output = CoreReply>>> {
        Box::pin(async move {
            match request {
                CoreRequest::Load(part) => self.load(*part).await,
                CoreRequest::Start(regions) => self.start(*regions),
                CoreRequest::OldReleased(group) => {
                    self.release_old(group).await;
                    CoreReply::Done
                }
                CoreRequest::ShutDoors => {
                    self.core().iter().for_each(|core| core.doors.shut());
                    CoreReply::Done
                }
                CoreRequest::Failed => {
                    devices::mark_again(&self).await;
                    self.stop().await;
                    CoreReply::Done
                }
                CoreRequest::Stop => {
                    self.stop().await;
                    CoreReply::Done
                }
                request => match self.core() {
                    Some(core) => self.answer(&core, request).await,
                    None => CoreReply::Starting,
                },
            }
        })
    }
}
