//! How much of each chunk is dead: what tells the cleaner which segments are worth it.
//!
//! The records of the chunks say it, the books of the space know only cells. All records are looked at once, when
//! space is first short after a start; from then on what executed commands change is noted and carried to the
//! books before the next choice.
//!
//! Invariant: only hints. What is noted too late makes the cleaner choose worse, nothing else.

use crate::cells::{self, PlaceFound};
use crate::core::Core;
use crate::file_data::settle;
use crate::messages::CoreRequest;
use crate::shard::Shard;
use cfs_kv::Pins;
use cfs_namespace::data::{ChunkRecord, chunks};
use cfs_segment::{CellOwner, CellRef};
use cfs_types::{ChunkId, CoreId, FsError, GroupId, UNIT_BYTES};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

/// Records of chunks looked at in one step, and steps made at once: some ten milliseconds.
const CHUNKS_AT_ONCE: usize = 256;
const STEPS_AT_ONCE: usize = 32;
/// Share of live bytes from which a chunk is copied as it is, percent.
const DENSE_PERCENT: u64 = 95;
/// Chunks whose change is remembered, about 16 bytes each: beyond it all records are looked at again.
const NOTES_MAX: usize = 1 << 16;

/// Cells of which part is dead, with their dead units.
pub type DeadUnits = Vec<(CellOwner, CellRef, u32)>;

/// The chunks of a core that became thinner since the books were told.
#[derive(Default)]
pub struct Thin {
    notes: RefCell<BTreeMap<ChunkId, u32>>,
    looked: Cell<Looked>,
}

/// How many of the records were looked at. What changes once that has begun is noted.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Looked {
    #[default]
    None,
    /// All of the groups before this one, and of it all chunks through this one.
    Until(GroupId, Option<ChunkId>),
    All,
}

impl Thin {
    /// A command has left a chunk like this.
    pub fn note(&self, id: ChunkId, record: ChunkRecord) {
        if self.looked.get() == Looked::None {
            return;
        }
        let mut notes = self.notes.borrow_mut();
        notes.insert(id, dead_units(record));
        if notes.len() > NOTES_MAX {
            notes.clear();
            self.looked.set(Looked::None);
        }
    }

    /// Tells the books what they do not know yet. True where some records are still to be looked at.
    pub async fn tell(&self, core: &Rc<Core>) -> Result<bool, FsError> {
        let told = self.tell_some(core).await;
        // What was to be told then is found only by looking.
        told.inspect_err(|_| self.looked.set(Looked::None))
    }

    async fn tell_some(&self, core: &Rc<Core>) -> Result<bool, FsError> {
        if self.looked.get() == Looked::None {
            self.looked.set(core.groups.keys().next().map_or(Looked::All, |first| Looked::Until(*first, None)));
        }
        let mut elsewhere = Elsewhere::default();
        for _ in 0..STEPS_AT_ONCE {
            let Looked::Until(group, after) = self.looked.get() else { break };
            let next = look(core, group, after, &mut elsewhere).await?;
            // It may have been forgotten meanwhile what was noted.
            if self.looked.get() == Looked::Until(group, after) {
                self.looked.set(next);
            }
            core.world.tasks.yield_now().await;
        }
        for (id, dead) in self.notes.take() {
            elsewhere.note(core, core.shard(id.shard())?, id, dead).await?;
        }
        elsewhere.tell(core).await;
        Ok(self.looked.get() != Looked::All)
    }
}

/// Looks at the next records of chunks; how far that came.
async fn look(
    core: &Rc<Core>,
    group: GroupId,
    after: Option<ChunkId>,
    elsewhere: &mut Elsewhere,
) -> Result<Looked, FsError> {
    let shard = core.groups.get(&group).ok_or(FsError::WrongShard)?;
    let page = match group.shard() {
        Some(_) => shard.read(|view, _| settle(chunks(view, after, CHUNKS_AT_ONCE))).await??,
        None => Vec::new(),
    };
    let Some(&(last, _)) = page.last() else {
        let next = core.groups.range((Bound::Excluded(group), Bound::Unbounded)).next();
        return Ok(next.map_or(Looked::All, |(next, _)| Looked::Until(*next, None)));
    };
    for (id, record) in page.into_iter().filter(|(_, record)| dead_units(*record) > 0) {
        elsewhere.note(core, shard, id, dead_units(record)).await?;
    }
    Ok(Looked::Until(group, Some(last)))
}

/// Whole units that the live bytes of a chunk would not take; 0 where so little of it is dead that it is moved as it is.
pub fn dead_units(record: ChunkRecord) -> u32 {
    if u64::from(record.live) * 100 >= u64::from(record.len) * DENSE_PERCENT {
        return 0;
    }
    record.len.div_ceil(UNIT_BYTES).saturating_sub(record.live.div_ceil(UNIT_BYTES))
}

/// What lies in regions that other cores hold.
#[derive(Default)]
struct Elsewhere(BTreeMap<CoreId, DeadUnits>);

impl Elsewhere {
    async fn note(&mut self, core: &Rc<Core>, shard: &Rc<Shard>, id: ChunkId, dead: u32) -> Result<(), FsError> {
        let mut pins = Pins::default();
        let place = loop {
            match cells::place(shard.replica.store(), id) {
                PlaceFound::Place(place) => break place,
                PlaceFound::Absent | PlaceFound::Damaged => return Ok(()),
                PlaceFound::Miss(fetch) => {
                    pins.merge(shard.replica.fetch(&fetch).await?);
                }
            }
        };
        let owner = CellOwner::Chunk(id);
        if !core.space.note_dead(owner, place.cell, dead)
            && let Some(holder) = core.regions.holder(place.cell)
        {
            self.0.entry(holder).or_default().push((owner, place.cell, dead));
        }
        Ok(())
    }

    async fn tell(self, core: &Rc<Core>) {
        for (holder, cells) in self.0 {
            core.peers.call(holder, CoreRequest::NoteDead(cells)).await;
        }
    }
}
