//! The cleaner: segments of which little is alive are emptied, so that they come back whole.
//!
//! A core that has plenty empties a region for one that has none left ([`vacate`]).
//!
//! Who finds no space waits for it as long as it gains something ([`Rounds`]): what a write replaces is
//! given back behind it, and may not be missed by the next one.
//!
//! It asks the owner of each live cell to write it elsewhere; the old place is given back once
//! the new one is durable. Of sparse chunks only what is alive is written again, several together.
//!
//! What costs least is cleaned first, and the less is free the more may it cost ([`garbage_percent`]): to clean what is
//! half alive writes a byte for each that it gains, nine tenths alive nine. Garbage that is left alone grows.

use crate::admission::units_promised;
use crate::cells::{self, Found, Place};
use crate::checkpoint::relocate_table;
use crate::core::Core;
use crate::file_data::{read_chunk, settle, space_error};
use crate::messages::{CoreReply, CoreRequest};
use crate::pack::{Sparse, pack_some, repack, thousandths};
use crate::shard::Shard;
use cfs_exec::Event;
use cfs_kv::Pins;
use cfs_namespace::data::chunk_record;
use cfs_seam::{Instant, gather, timeout};
use cfs_segment::{CellOwner, CellRef, Lifetime, SEGMENT_UNITS, SEGMENTS_PER_REGION, Usage};
use cfs_types::{ChunkId, FsError, GroupId, UNIT_BYTES};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// The cleaner works while less than this share of the units is free, percent.
const FREE_PERCENT_LOW: u64 = 20;
/// On zones it works also while fewer than so many are free beside what is kept back.
const ZONES_AHEAD: u64 = 2;
/// Least share of garbage in what is cleaned while so much more is free than what is kept back, both percent.
const GARBAGE_PERCENT: [(u64, u64); 4] = [(8, 50), (4, 40), (2, 30), (1, 20)];
/// The same below that, and where a writer waits.
const GARBAGE_PERCENT_TIGHT: u64 = 10;
const GARBAGE_PERCENT_IN_NEED: u64 = 5;
/// What is tried, from the cheapest on.
const GARBAGE_STEPS: [u64; 7] = [70, 50, 40, 30, 20, GARBAGE_PERCENT_TIGHT, GARBAGE_PERCENT_IN_NEED];
/// Of a chunk with less than this share of live bytes, in thousandths, only those are moved.
const REPACKED_SHARE: u32 = 900;

/// Sparse chunks are not looked for again, for so many times as long as the last look took: where a writer waits for what
/// is gained, and where nobody does.
const REST_IN_NEED: u32 = 10;
const REST: u32 = 200;
/// The same, longest.
const REST_IN_NEED_MAX: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);
/// Cells moved at the same time, of up to 2 MiB each.
const MOVES_AT_ONCE: usize = 4;
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
    /// The sparsest chunks when they were last looked for.
    sparse: RefCell<Sparse>,
    /// When that look ended, and how long it took.
    looked: Cell<Option<(Instant, Duration)>>,
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
        let gained = self.clean_one(core, self.in_need.take()).await;
        if gained != Ok(true) {
            self.fruitless.set(round);
        }
        self.ended.notify_all();
        gained
    }

    /// Cleans one segment, if space is short and something is to be gained. True where it did.
    async fn clean_one(&self, core: &Rc<Core>, in_need: bool) -> Result<bool, FsError> {
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
        let need = if in_need { GARBAGE_PERCENT_IN_NEED } else { garbage_percent(&usage, core.floor_units.get()) };
        self.look(core, in_need).await?;
        // The most garbage first, wherever it is.
        for garbage in GARBAGE_STEPS.into_iter().filter(|garbage| *garbage >= need) {
            let gain_min = u32::try_from(u64::from(SEGMENT_UNITS) * garbage / 100).expect("a share of a segment");
            while let Some(mut victim) = core.space.victim(gain_min) {
                if move_cells(core, &victim.live).await > 0 {
                    return Ok(true);
                }
                victim.cannot_be_moved();
            }
            if self.pack_sparsest(core, 100 - garbage).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Empties a segment of a device that retires, whatever that gains. False where there is none, or nothing of it can
    /// be moved now.
    async fn empty_closed(&self, core: &Rc<Core>) -> bool {
        while let Some(mut victim) = core.space.closed_victim() {
            if move_cells(core, &victim.live).await > 0 {
                return true;
            }
            victim.cannot_be_moved();
        }
        false
    }

    /// Looks for sparse chunks, unless it did so lately.
    async fn look(&self, core: &Rc<Core>, in_need: bool) -> Result<(), FsError> {
        let clock = &core.world.clock;
        let begun = clock.now();
        if self.looked.get().is_some_and(|(at, took)| begun < at.after(rest(took, in_need))) {
            return Ok(());
        }
        let found = Sparse::look(core).await?;
        self.sparse.replace(found);
        let now = clock.now();
        self.looked.set(Some((now, now.since(begun))));
        Ok(())
    }

    /// Packs the sparsest chunks, of one shard, if less than `percent` of each is alive. True where that gave something back.
    async fn pack_sparsest(&self, core: &Rc<Core>, percent: u64) -> Result<bool, FsError> {
        loop {
            let some = self.sparse.borrow_mut().take(percent);
            let Some((shard, some)) = some else { return Ok(false) };
            if pack_some(core, core.shard(shard)?, &some).await? {
                return Ok(true);
            }
        }
    }
}

/// Least share of garbage, percent, in what is worth cleaning now.
fn garbage_percent(usage: &Usage, floor_units: u64) -> u64 {
    let spare = usage.free_units.saturating_sub(floor_units) * 100 / usage.total_units.max(1);
    let step = GARBAGE_PERCENT.into_iter().find(|(percent, _)| spare >= *percent);
    step.map_or(GARBAGE_PERCENT_TIGHT, |(_, garbage)| garbage)
}

fn rest(took: Duration, in_need: bool) -> Duration {
    if in_need { (took * REST_IN_NEED).min(REST_IN_NEED_MAX) } else { (took * REST).min(REST_MAX) }
}

/// Has the owner of each cell write it elsewhere. Units that were moved.
async fn move_cells(core: &Rc<Core>, cells: &[(CellOwner, CellRef)]) -> u64 {
    let moves = cells.iter().map(|&(owner, cell)| async move {
        let group = match owner {
            CellOwner::Chunk(id) => id.shard().into(),
            CellOwner::Table { group, .. } => group,
        };
        let to = core.config.owner(group);
        match core.peers.call(to, CoreRequest::Relocate(owner, cell)).await {
            CoreReply::Relocated(units) => u64::from(units),
            _ => 0,
        }
    });
    let units = gather(moves, MOVES_AT_ONCE).await.into_iter().sum();
    core.metrics.cleaned_bytes.add(units * u64::from(UNIT_BYTES));
    units
}

/// Empties the region with the least alive, for a core that has to refuse a write without one. None where
/// this core needs its regions itself, or where not everything could be moved in time; what was moved stays so.
pub async fn vacate(core: &Rc<Core>) -> Option<u32> {
    let leaving = core.space.vacate(units_promised(core)).await.ok()??;
    let until = core.world.clock.now().after(VACATING_TIME_MAX);
    let work = async {
        move_cells(core, &leaving.live()).await;
        leaving.left().await
    };
    timeout(&core.world.clock, until, work).await
}

/// Moves what is alive in a cell of a group of this core elsewhere. The units that it takes there; 0 where it is not
/// there any more, or somebody else is at it.
pub async fn relocate(core: &Rc<Core>, owner: CellOwner, cell: CellRef) -> Result<u32, FsError> {
    match owner {
        CellOwner::Table { group, .. } => {
            let moved = relocate_table(&group_of(core, group)?, cell).await?;
            Ok(if moved { cell.units() } else { 0 })
        }
        CellOwner::Chunk(id) => relocate_chunk(core, &group_of(core, id.shard().into())?, id, cell).await,
    }
}

fn group_of(core: &Rc<Core>, group: GroupId) -> Result<Rc<Shard>, FsError> {
    core.groups.get(&group).cloned().ok_or(FsError::WrongShard)
}

async fn relocate_chunk(core: &Rc<Core>, shard: &Rc<Shard>, id: ChunkId, cell: CellRef) -> Result<u32, FsError> {
    let record = shard.read(|view, _| settle(chunk_record(view, id))).await??;
    // What is dead in it is not worth a copy. Its cell goes with the last extent that names it.
    if let Some(record) = record.filter(|record| thousandths(*record) < REPACKED_SHARE)
        && repack(core, shard, &[id]).await?
    {
        return Ok(record.live.div_ceil(UNIT_BYTES));
    }
    let Some(_turn) = shard.chunk_turn(id) else { return Ok(0) };
    let moved = move_chunk(core, shard, id, cell).await?;
    Ok(if moved { cell.units() } else { 0 })
}

async fn move_chunk(core: &Rc<Core>, shard: &Rc<Shard>, id: ChunkId, cell: CellRef) -> Result<bool, FsError> {
    let mut pins = Pins::default();
    let place = loop {
        match cells::find(shard.replica.store(), id) {
            Found::Place(place, _) if place.cell == cell => break place,
            Found::Place(..) | Found::Absent => return Ok(false),
            Found::Damaged => return Err(FsError::Corrupt),
            Found::Miss(fetch) => {
                pins.merge(shard.replica.fetch(&fetch).await?);
            }
        }
    };
    let Some(bytes) = read_chunk(core, shard, id, 0, place.len).await? else { return Ok(false) };
    let owner = CellOwner::Chunk(id);
    let written = core.space.write(owner, Lifetime::Relocated, bytes).await.map_err(space_error)?;
    core.space.sync().await.map_err(space_error)?;
    let moved = Place { cell: written.cell, len: place.len };
    shard.replica.write_locals(cells::record(id, moved, &written.checksums).into()).await?;
    core.space.retire(owner, cell).map_err(space_error)?;
    Ok(true)
}
