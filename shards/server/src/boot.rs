//! Start of a server: read the log, open every group, agree on the regions, serve.
//!
//! Core 0 leads. It reads the log, gives every core its part (`Load`), collects what the groups
//! own, divides the regions, and lets every core serve (`Start`).
//!
//! Invariants: nothing is executed before what the log could not prove is durable again; a region
//! with cells belongs to one core; damage ends the start with the place it was found at.

mod load;

pub use load::{Loaded, load};

use crate::core::Core;
use crate::devices;
use crate::messages::{CoreReply, CoreRequest};
use crate::peers::Peers;
use crate::seat::Seat;
use cfs_device::{JOURNALS, Member, MemberList};
use cfs_log::{CorePart, recover};
use cfs_seam::{Class, Disk, io, spawn};
use cfs_segment::{CellOwner, CellRef, Part, REGION_BYTES, RegionLayout, SEGMENTS_PER_REGION, ZoneShape};
use cfs_types::{CoreId, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Why a server did not start, in words for its operator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl StartError {
    /// What was being done, and what went wrong.
    pub fn new(doing: &str, error: impl std::fmt::Display) -> Self {
        StartError(format!("{doing}: {error}"))
    }
}

/// What the groups of one core own on the device.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Cells of tables and chunks.
    pub cells: Vec<(CellOwner, CellRef)>,
}

/// The division of the regions, as one core needs it.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    /// Cells in regions that this core holds.
    pub cells: Vec<(CellOwner, CellRef)>,
    /// Its share of the regions without cells.
    pub pool: BTreeSet<u32>,
    /// Who holds the regions with cells.
    pub holders: BTreeMap<u32, CoreId>,
    /// Sessions that were open before.
    pub former: Vec<SessionId>,
}

/// Core 0: brings up all cores.
pub async fn lead(seat: &Rc<Seat>) -> Result<Rc<Core>, StartError> {
    let cores = seat.config.cores;
    let recovered = recover(&seat.disk, &seat.superblock).await;
    let recovered = recovered.map_err(|e| StartError::new("reading the log", e))?;
    // Before any core begins a zone of its own.
    seat.disk.settle().await.map_err(|e| StartError::new("finishing the zones that were being written", e))?;
    let config = seat.config.clone();
    let (mut old, parts) =
        recovered.split(cores, |group| config.owner(group)).map_err(|e| StartError::new("dividing the log", e))?;
    let claims = load_all(seat, parts).await?;
    let freed = old.settle().await.map_err(|e| StartError::new("freeing old log streams", e))?;
    *seat.old_streams.borrow_mut() = Some(old);
    let divided = divide(&seat.regions, cores, claims)?;
    for (core, mut regions) in (0..).map(CoreId::new).zip(divided) {
        if core.get() == 0 {
            regions.former = Vec::new();
        }
        start_core(&seat.peers, core, regions).await?;
    }
    announce_freed(&seat.peers, freed).await;
    let core = seat.core().ok_or_else(|| StartError("core 0 did not start".into()))?;
    seat.known.retiring().into_iter().for_each(|member| devices::see_off(seat, &core, member));
    Ok(core)
}

/// Has all cores load their parts, at the same time.
async fn load_all(seat: &Rc<Seat>, parts: Vec<CorePart>) -> Result<Vec<Claims>, StartError> {
    let mut loading = Vec::new();
    for part in parts {
        let (core, peers) = (part.core(), seat.peers.clone());
        let (promise, loaded) = io();
        let load = async move { promise.complete(peers.call(core, CoreRequest::Load(Box::new(part))).await) };
        spawn(&seat.world.tasks, Class::Foreground, load).detach();
        loading.push((core, loaded));
    }
    let mut replies = Vec::new();
    for (core, loaded) in loading {
        replies.push((core, loaded.await));
    }
    let claims = replies.into_iter().map(|(core, reply)| match reply {
        CoreReply::Claims(claims) => claims.map_err(StartError),
        _ => Err(StartError(format!("core {core} did not load"))),
    });
    claims.collect()
}

async fn start_core(peers: &Rc<Peers>, core: CoreId, regions: Regions) -> Result<(), StartError> {
    match peers.call(core, CoreRequest::Start(Box::new(regions))).await {
        CoreReply::Started(Ok(())) => Ok(()),
        CoreReply::Started(Err(error)) => Err(StartError(error)),
        _ => Err(StartError(format!("core {core} did not start"))),
    }
}

/// Tells every core which log slots came free.
pub async fn announce_freed(peers: &Rc<Peers>, freed: cfs_log::Freed) {
    for core in (0..peers.cores()).map(CoreId::new) {
        peers.call(core, CoreRequest::FreeSlots(freed.clone())).await;
    }
}

/// Fewest free segments that a core should come up with: tables and the cleaner need some before anything comes back.
const FREE_SEGMENTS_MIN: usize = 8;

/// Gives each region with cells to the core that has most there, and shares out the others: each to the core with the
/// fewest free segments.
fn divide(layout: &RegionLayout, cores: u16, claims: Vec<Claims>) -> Result<Vec<Regions>, StartError> {
    let mut counts: BTreeMap<u32, BTreeMap<u16, usize>> = BTreeMap::new();
    let mut by_region: BTreeMap<u32, Vec<(CellOwner, CellRef)>> = BTreeMap::new();
    for (core, claim) in (0..).zip(claims) {
        for (owner, cell) in claim.cells {
            let place = layout.locate(cell);
            let (segment, _) =
                place.ok_or_else(|| StartError(format!("damage: {owner} names {cell:?}, which is in no segment")))?;
            // What is granted together is held together.
            let first = layout.grant_of(segment.region()).start;
            *counts.entry(first).or_default().entry(core).or_default() += 1;
            by_region.entry(first).or_default().push((owner, cell));
        }
    }
    let most = |c: &BTreeMap<u16, usize>| c.iter().max_by_key(|(_, n)| **n).map_or(0, |(core, _)| *core);
    let mut share = Share::new(cores);
    for (first, cells) in &by_region {
        let used: BTreeSet<_> = cells.iter().filter_map(|(_, cell)| layout.locate(*cell)).map(|(s, _)| s).collect();
        // What was begun of a zone is not gone on with.
        let free = if layout.zones().is_some() { 0 } else { SEGMENTS_PER_REGION as usize - used.len() };
        share.give(*first, most(&counts[first]), free);
    }
    let is_first = |region: &u32| layout.grant_of(*region).start == *region;
    let free = layout.parts().into_iter().flat_map(Part::numbers).filter(is_first);
    let pool: Vec<(u32, u16)> = free
        .filter(|region| !by_region.contains_key(region))
        .map(|region| (region, share.give_to_poorest(layout.grant_of(region).count() * SEGMENTS_PER_REGION as usize)))
        .collect();
    share.balance();
    let holders = share.held.iter().flat_map(|(first, (core, _))| {
        let holder = CoreId::new(*core);
        layout.grant_of(*first).map(move |region| (region, holder))
    });
    let holders: BTreeMap<u32, CoreId> = holders.collect();
    let mut out: Vec<Regions> =
        (0..cores).map(|_| Regions { holders: holders.clone(), ..Regions::default() }).collect();
    for (region, cells) in by_region {
        out[usize::from(holders[&region].get())].cells.extend(cells);
    }
    for (region, core) in pool {
        out[usize::from(core)].pool.insert(region);
    }
    Ok(out)
}

/// What each core gets, while that is decided.
struct Share {
    /// Of each region with cells: its core, and its free segments.
    held: BTreeMap<u32, (u16, usize)>,
    /// Free segments of each core.
    free: Vec<usize>,
}

impl Share {
    fn new(cores: u16) -> Self {
        Share { held: BTreeMap::new(), free: vec![0; usize::from(cores)] }
    }

    fn give(&mut self, region: u32, core: u16, free: usize) {
        self.held.insert(region, (core, free));
        self.free[usize::from(core)] += free;
    }

    /// Gives free segments to the core that has the fewest; which that is.
    fn give_to_poorest(&mut self, free: usize) -> u16 {
        let poorest = self.poorest();
        self.free[usize::from(poorest)] += free;
        poorest
    }

    fn poorest(&self) -> u16 {
        let cores = (0..).zip(&self.free);
        cores.min_by_key(|(_, free)| **free).map_or(0, |(core, _)| core)
    }

    /// Where a core would have next to nothing free, as where the store is nearly full and more cores come up than
    /// before, another one gives it a region.
    fn balance(&mut self) {
        loop {
            let poorest = self.poorest();
            let has = self.free[usize::from(poorest)];
            // What the one that gives and the one that takes have then.
            let after = |(core, free): (u16, usize)| (self.free[usize::from(core)] - free).min(has + free);
            let others = self.held.iter().filter(|(_, (core, _))| *core != poorest);
            let best = others.map(|(region, held)| (after(*held), *region)).max();
            let Some((_, region)) = best.filter(|(then, _)| has < FREE_SEGMENTS_MIN && *then > has) else { return };
            let (core, free) = self.held[&region];
            self.free[usize::from(core)] -= free;
            self.give(region, poorest, free);
        }
    }
}

/// The regions of a node's devices; None where they cannot all be addressed.
pub fn region_layout(list: &MemberList) -> Option<RegionLayout> {
    RegionLayout::of(list.members.iter().map(part_of).collect::<Option<_>>()?)
}

/// How a core of so many uses the zones of a device of zones (docs/decisions/0017-zones.md).
pub fn zone_shape(disk: &dyn Disk, cores: u16) -> Result<Option<ZoneShape>, StartError> {
    let Some(zoning) = disk.geometry().zoning else { return Ok(None) };
    let streams = zoning.active_max.map_or(u32::MAX, |most| ((most - 1) / u32::from(cores)).saturating_sub(2));
    if streams == 0 || cores > JOURNALS {
        return Err(StartError(format!(
            "the device has too few zones that may be written at a time for {cores} cores: each needs three, and one is spare"
        )));
    }
    let regions = u32::try_from(zoning.zone_bytes / REGION_BYTES).map_err(|e| StartError::new("zones", e))?;
    Ok(Some(ZoneShape { regions, streams }))
}

/// The regions of one of them.
pub fn part_of(member: &Member) -> Option<Part> {
    Part::new(member.number, member.regions_at, member.first_region, member.regions)
}

const _: () = assert!(REGION_BYTES == cfs_device::REGION_BYTES, "a superblock with others is refused");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_without_free_segments_is_given_a_region_that_has_some() {
        let share = |regions: &[(u16, usize)]| {
            let mut share = Share::new(2);
            (0..).zip(regions).for_each(|(region, (core, free))| share.give(region, *core, *free));
            share.balance();
            share.free
        };
        assert_eq!(share(&[(0, 9), (0, 5), (1, 0)]), [9, 5]);
        assert_eq!(share(&[(0, 12), (0, 0), (1, 0)]), [12, 0], "one of them has to do without");
        assert_eq!(share(&[(0, 1), (0, 2), (0, 3), (1, 0)]), [3, 3]);
        assert_eq!(share(&[(0, 20), (0, 20), (1, 8)]), [40, 8], "that is enough");
        let mut share = Share::new(3);
        share.give(7, 1, 2);
        assert_eq!([31, 31, 31, 31].map(|free| share.give_to_poorest(free)), [0, 2, 1, 0]);
    }
}
