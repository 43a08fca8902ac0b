//! One core put together: connections, mesh, shards, batches.
//!
//! `serve_core` is a core's whole life. Everything here runs on the seam, so the same code serves
//! users and runs in the simulator.

mod admission;
mod boot;
mod cells;
mod checkpoint;
mod clean;
mod config;
mod connection;
mod control;
mod coordinate;
mod core;
mod delivery;
mod devices;
mod door;
mod doors;
mod effects;
mod entry;
mod fence;
mod file_data;
mod former;
mod fsck;
mod hybrid_clock;
mod inline_cache;
mod leases;
mod links;
mod log_room;
mod machine;
mod manifest;
mod messages;
mod metrics;
mod operation;
mod overwrite;
mod pack;
mod peers;
mod regions;
mod replica;
mod scrub;
mod seat;
mod shard;
mod status;
mod steps;
mod sweep;
mod thin;
mod touched;
mod unlinking;
mod unpacked;
mod upkeep;
mod view;

pub use boot::StartError;
pub use config::{MemoryLimits, Notices, ScrubConfig, ServerConfig};
pub use devices::{Attach, Devices, NewDevice, NotAdded, OpenDevice, Retiring};
pub use door::Door;
pub use fsck::{Checked, Finding, FsckError, Progress, Report, Severity, Site, Stage, fsck};
pub use messages::{CoreReply, CoreRequest};
pub use peers::Envelope;

/// One group and what it is made of, for whoever runs it without a whole core: groups of several
/// voters are run so, as long as servers have no peers.
pub mod group {
    pub use crate::boot::region_layout;
    pub use crate::fence::Fence;
    pub use crate::hybrid_clock::HybridClock;
    pub use crate::inline_cache::InlineCache;
    pub use crate::machine::{GroupAnswer, GroupCommand, Machine};
    pub use crate::replica::{
        DataNotes, Executed, LocalWrite, Mark, Opened, Opener, Parts, PeerLink, PeerParts, Replica,
    };
    pub use crate::shard::Shard;
    pub use crate::view::StoreView;
}

/// What a server writes and says beside a shard's own rows, byte for byte (docs/formats: entry, local, manifest;
/// messages between replicas), for whoever reads it without a server.
pub mod formats {
    pub use crate::cells::{Place, checksums_of, decode_row as decode_place, record as place_rows};
    pub use crate::entry::{Batch, EntryError, decode as decode_entry, encode as encode_entry};
    pub use crate::manifest::GroupManifest;
    pub use crate::replica::{Cursor, GroupMessage, Page, Want, decode_local, decode_vote, encode_local};
}

use cfs_seam::{Class, World, spawn};
use cfs_types::{CoreId, GroupId, InodeId};
use seat::Seat;
use std::rc::Rc;

/// Who owns the root directory of a new volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RootOwner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Serves with one core until it is told to stop (`CoreRequest::Stop`) or its log fails. Every
/// core of the process runs this; core 0 leads the start and calls `ready` once all serve.
pub async fn serve_core(
    world: World,
    devices: Devices,
    config: ServerConfig,
    root: RootOwner,
    ready: impl FnOnce(Door),
) -> Result<(), StartError> {
    let Some(regions) = boot::region_layout(&devices.pool.list) else {
        return Err(StartError("the devices have more regions than this version can address".into()));
    };
    let regions = match boot::zone_shape(&*devices.pool.first, config.cores)? {
        Some(zones) => regions.in_zones(zones),
        None => regions,
    };
    let seat = Seat::new(world.clone(), devices, regions, config);
    let served = seat.peers.clone().serve(seat.clone());
    let _mesh = spawn(&world.tasks, Class::Foreground, served);
    if seat.peers.me() == CoreId::new(0) {
        world.tasks.yield_now().await;
        if let Err(error) = lead(&seat, root).await {
            seat::shut_doors(&seat.peers).await;
            stop_all(&seat).await;
            return Err(failure(&seat).unwrap_or(error));
        }
        ready(Door::new(seat.core().expect("it has led the start")));
    }
    seat.wait_stopped().await;
    if seat.peers.me() == CoreId::new(0) {
        stop_all(&seat).await;
    }
    failure(&seat).map_or(Ok(()), Err)
}

/// Why this core cannot serve, where its log or its device has failed.
fn failure(seat: &Seat) -> Option<StartError> {
    let error = seat.core()?.log.failed()?;
    Some(StartError(format!("core {} has failed: {error}", seat.peers.me())))
}

async fn lead(seat: &Rc<Seat>, root: RootOwner) -> Result<(), StartError> {
    let core = boot::lead(seat).await?;
    let issued = control::issued(&core).await;
    let described = |e| core.groups.get(&GroupId::CONTROL).map_or_else(|| format!("{e}"), |g| g.replica.describe(e));
    let issued = issued.map_err(|e| StartError::new("reading the sessions", described(e)))?;
    for to in (0..seat.config.cores).map(CoreId::new) {
        seat.peers.call(to, CoreRequest::Former(issued.clone())).await;
    }
    let owner = seat.config.owner(InodeId::ROOT.shard().into());
    match seat.peers.call(owner, CoreRequest::MakeRoot(root)).await {
        CoreReply::Started(Ok(())) => Ok(()),
        CoreReply::Started(Err(error)) => {
            Err(StartError(format!("making the root directory on core {owner}: {error}")))
        }
        _ => Err(StartError(format!("making the root directory on core {owner}: no answer"))),
    }
}

/// Core 0 stops last: the others need it until then.
async fn stop_all(seat: &Rc<Seat>) {
    for core in (0..seat.config.cores).map(CoreId::new) {
        if core != seat.peers.me() {
            seat.peers.call(core, CoreRequest::Stop).await;
        }
    }
}
