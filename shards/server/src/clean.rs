//! The cleaner: segments of which little is alive are emptied, so that they come back whole.
//!
//! A core that has plenty empties a region for one that has none left ([`vacate`]).
//!
//! Who finds no space waits for it as long as it gains something ([`Rounds`]): what a write replaces is
//! given back behind it, and may not be missed by the next one.
//!
//! It asks the group of each live cell to write it elsewhere; the old place is given back once
//! the new one is durable. Of sparse chunks only what is alive is written again, those of a group together.
//!
//! What costs least is cleaned first, cells and what is dead within them counted alike ([`crate::thin`]), and the
//! less is free the more may it cost ([`garbage_percent`]): to clean what is half alive writes a byte for each that
//! it gains, nine tenths alive nine. Garbage that is left alone grows.

use crate::admission::units_promised;
use crate::cells::{self, Found, Place};
use crate::checkpoint::relocate_table;
use crate::core::Core;
use crate::file_data::{read_chunk, settle, space_error};
use crate::messages::{CoreReply, CoreRequest};
use crate::pack::repack;
use crate::shard::Shard;
use crate::thin::dead_units;
use cfs_exec::Event;
use cfs_kv::Pins;
use cfs_namespace::data::chunk_record;
use cfs_seam::{gather, timeout};
use cfs_segment::{CellOwner, CellRef, Lifetime, SEGMENT_UNITS, SEGMENTS_PER_REGION, Usage, Victim};
use cfs_types::{ChunkId, FsError, GroupId, UNIT_BYTES};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The cleaner works while less than this share of the units is free, percent.
const FREE_PERCENT_LOW: u64 = 20;
/// On zones it works also while fewer than so many are free beside what is kept back.
const ZONES_AHEAD: u64 = 2;
/// Least share of garbage in what is cleaned while so much more is free than what is kept back, both percent.
const GARBAGE_PERCENT: [(u64, u64); 3] = [(4, 60), (2, 50), (1, 40)];
/// The same below that, and where a writer waits.
const GARBAGE_PERCENT_TIGHT: u64 = 10;
const GARBAGE_PERCENT_IN_NEED: u64 = 5;
/// What is tried, from the cheapest on.
const GARBAGE_STEPS: [u64; 8] = [70, 60, 50, 40, 30, 20, GARBAGE_PERCENT_TIGHT, GARBAGE_PERCENT_IN_NEED];
/// Groups that move cells at the same time.
const MOVES_AT_ONCE: usize = 4;
/// Segments emptied together: many cells of a group take one command, one flush and one chunk to move.
const VICTIMS_AT_ONCE: usize = 4;
/// Where less is free than what is kept back, what is moved must find room before anything comes back.
const VICTIMS_AT_ONCE_TIGHT: usize = 1;
/// Longest that a region is being emptied for another core: less than a writer there waits for space.
const VACATING_TIME_MAX: Duration = Duration::from_secs(4);

/// What the cleaner's rounds came to.
#[derive(Default)]
pub struct Rounds {
    begun: Cell<u64>,
    /// The last one that gained nothing.
    fruitless: Cell<u64>,
    /// One has ended.
    pub ended: Event,
    /// Somebody waits for what the next one gains.
    in_need: Cell<bool>,
}

impl Rounds {
    /// How many have begun.
    pub fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Somebody waits for the next one.
    pub fn ask(&self) {
        self.in_need.set(true);
    }

    /// Whether one that began after so many had gained nothing.
    pub fn gained_nothing_since(&self, begun: u64) -> bool {
        self.fruitless.get() > begun
    }

    /// Runs one; true where it gained something.
    pub async fn run(&self, core: &Rc<Core>) -> Result<bool, FsError> {
        let round = self.begun.get() + 1;
        self.begun.set(round);
        let gained = self.clean_some(core, self.in_need.take()).await;
        if gained != Ok(true) {
            self.fruitless.set(round);
        }
        self.ended.notify_all();
        gained
    }

    /// Cleans a few segments, if space is short and something is to be gained. True where it did, or may with what
    /// it learns next.
    async fn clean_some(&self, core: &Rc<Core>, in_need: bool) -> Result<bool, FsError> {
        if self.empty_closed(core).await {
            return Ok(true);
        }
        let usage = core.space.usage();
        // A zone gives nothing back before all of it is clean: what is kept back must not be reached meanwhile.
        let zones = core.space.layout().zones().map_or(0, |zones| zones.regions * SEGMENTS_PER_REGION);
        let floor = if zones > 0 { core.floor_units.get() + ZONES_AHEAD * u64::from(zones * SEGMENT_UNITS) } else { 0 };
        if usage.free_units * 100 >= usage.total_units * FREE_PERCENT_LOW && usage.free_units >= floor {
            return Ok(false);
        }
        let learns = core.thin.tell(core).await?;
        let floor = core.floor_units.get();
        let need =
            if in_need { GARBAGE_PERCENT_IN_NEED } else { garbage_percent(&usage, floor + units_promised(core)) };
        let most = if usage.free_units < floor { VICTIMS_AT_ONCE_TIGHT } else { VICTIMS_AT_ONCE };
        // The most garbage first, wherever it is.
        for garbage in GARBAGE_STEPS.into_iter().filter(|garbage| *garbage >= need) {
            let gain_min = u32::try_from(u64::from(SEGMENT_UNITS) * garbage / 100).expect("a share of a segment");
            loop {
                let victims: Vec<Victim> = (0..most).map_while(|_| core.space.victim(gain_min)).collect();
                if victims.is_empty() {
                    break;
                }
                if empty(core, victims).await {
                    return Ok(true);
                }
            }
        }
        Ok(learns)
    }

    /// Empties a segment of a device that retires, whatever that gains. False where there is none, or nothing of it can
    /// be moved now.
    async fn empty_closed(&self, core: &Rc<Core>) -> bool {
        while let Some(victim) = core.space.closed_victim() {
            if empty(core, vec![victim]).await {
                return true;
            }
        }
        false
    }
}

/// Moves what is alive in the victims elsewhere. True where something was moved.
async fn empty(core: &Rc<Core>, mut victims: Vec<Victim>) -> bool {
    let cells: Vec<_> = victims.iter().flat_map(|victim| victim.live.iter().copied()).collect();
    let moved = move_cells(core, &cells).await;
    let mut rest = moved.as_slice();
    for victim in &mut victims {
        let (own, others) = rest.split_at(victim.live.len());
        rest = others;
        if own.iter().all(|units| *units == 0) {
            victim.cannot_be_moved();
        }
    }
    moved.iter().any(|units| *units > 0)
}

/// Least share of garbage, percent, in what is worth cleaning now.
fn garbage_percent(usage: &Usage, kept_units: u64) -> u64 {
    let spare = usage.free_units.saturating_sub(kept_units) * 100 / usage.total_units.max(1);
    let step = GARBAGE_PERCENT.into_iter().find(|(percent, _)| spare >= *percent);
    step.map_or(GARBAGE_PERCENT_TIGHT, |(_, garbage)| garbage)
}

/// Has the group of each cell write it elsewhere. The units that each takes there; 0 where it was not moved.
async fn move_cells(core: &Rc<Core>, cells: &[(CellOwner, CellRef)]) -> Vec<u32> {
    let mut groups: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
    for (at, (owner, _)) in cells.iter().enumerate() {
        let group = match *owner {
            CellOwner::Chunk(id) => id.shard().into(),
            CellOwner::Table { group, .. } => group,
        };
        groups.entry(group).or_default().push(at);
    }
    let moves = groups.into_iter().map(|(group, at)| async move {
        let some = at.iter().map(|at| cells[*at]).collect();
        match core.peers.call(core.config.owner(group), CoreRequest::Relocate(group, some)).await {
            CoreReply::Relocated(units) => at.into_iter().zip(units).collect(),
            _ => Vec::new(),
        }
    });
    let mut moved = vec![0; cells.len()];
    for (at, units) in gather(moves, MOVES_AT_ONCE).await.into_iter().flatten() {
        moved[at] = units;
    }
    let units: u64 = moved.iter().map(|units| u64::from(*units)).sum();
    core.metrics.cleaned_bytes.add(units * u64::from(UNIT_BYTES));
    moved
}

/// Empties the region with the least alive, for a core that has to refuse a write without one. None where
/// this core needs its regions itself, or where not everything could be moved in time; what was moved stays so.
pub async fn vacate(core: &Rc<Core>) -> Option<u32> {
    let leaving = core.space.vacate(units_promised(core)).await.ok()??;
    let until = core.world.clock.now().after(VACATING_TIME_MAX);
    let work = async {
        let _moved = move_cells(core, &leaving.live()).await;
        leaving.left().await
    };
    timeout(&core.world.clock, until, work).await
}

/// Moves what is alive in cells of a group of this core elsewhere. The units that each takes there; 0 where it is
/// not there any more, somebody else is at it, or it could not be moved.
pub async fn relocate(core: &Rc<Core>, group: GroupId, cells: &[(CellOwner, CellRef)]) -> Vec<u32> {
    let mut moved = vec![0; cells.len()];
    let Some(shard) = core.groups.get(&group) else { return moved };
    let mut sparse = Vec::new();
    for (moved, (owner, cell)) in moved.iter_mut().zip(cells) {
        *moved = match *owner {
            CellOwner::Table { .. } => {
                relocate_table(shard, *cell).await.map(|moved| if moved { cell.units() } else { 0 })
            }
            CellOwner::Chunk(id) => match sparse_units(shard, id).await {
                Ok(Some(units)) => {
                    sparse.push((id, units, moved));
                    continue;
                }
                Ok(None) => move_chunk(core, shard, id, *cell).await,
                Err(error) => Err(error),
            },
        }
        .unwrap_or(0);
    }
    let ids: Vec<ChunkId> = sparse.iter().map(|(id, ..)| *id).collect();
    // What is dead in them is not worth a copy. Their cells go with the last extents that name them.
    if !ids.is_empty() && repack(core, shard, &ids).await.unwrap_or(false) {
        sparse.into_iter().for_each(|(_, units, moved)| *moved = units);
    }
    moved
}

/// The units that what is alive in a chunk would take, where that is worth less than a copy of the chunk.
async fn sparse_units(shard: &Rc<Shard>, id: ChunkId) -> Result<Option<u32>, FsError> {
    let record = shard.read(|view, _| settle(chunk_record(view, id))).await??;
    let sparse = record.filter(|record| dead_units(*record) > 0);
    Ok(sparse.map(|record| record.live.div_ceil(UNIT_BYTES)))
}

/// Copies a chunk as it is. The units it takes, 0 where it is not in this cell any more.
async fn move_chunk(core: &Rc<Core>, shard: &Rc<Shard>, id: ChunkId, cell: CellRef) -> Result<u32, FsError> {
    let Some(_turn) = shard.chunk_turn(id) else { return Ok(0) };
    let mut pins = Pins::default();
    let place = loop {
        match cells::find(shard.replica.store(), id) {
            Found::Place(place, _) if place.cell == cell => break place,
            Found::Place(..) | Found::Absent => return Ok(0),
            Found::Damaged => return Err(FsError::Corrupt),
            Found::Miss(fetch) => {
                pins.merge(shard.replica.fetch(&fetch).await?);
            }
        }
    };
    let Some(bytes) = read_chunk(core, shard, id, 0, place.len).await? else { return Ok(0) };
    let owner = CellOwner::Chunk(id);
    let written = core.space.write(owner, Lifetime::Relocated, bytes).await.map_err(space_error)?;
    core.space.sync().await.map_err(space_error)?;
    let moved = Place { cell: written.cell, len: place.len };
    shard.replica.write_locals(cells::record(id, moved, &written.checksums).into()).await?;
    core.space.retire(owner, cell).map_err(space_error)?;
    Ok(cell.units())
}
