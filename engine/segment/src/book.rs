//! The books: which unit is free, open, live or garbage. No I/O.

mod closed;
mod zones;

pub use closed::Room;

use crate::table::{SegmentTable, TableEntry};
use crate::{CellOwner, CellRef, Lifetime, RegionLayout, SEGMENT_UNITS, SEGMENTS_PER_REGION, SegmentId};
use cfs_types::member_of;
use std::collections::{BTreeMap, BTreeSet};
use zones::{Fill, Next};

/// Open segments of one class: a long cell that does not fit in one may fit in the other.
const OPEN_PER_CLASS: usize = 2;
/// A victim frees at least this many units.
const VICTIM_GAIN_UNITS: u32 = 32;
/// Free segments kept when a free region is given back: one region's worth.
const KEEP_FREE: usize = SEGMENTS_PER_REGION as usize;

/// What space is wanted for; each leaves more of the end of the device alone than the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// New file data.
    Data,
    /// Tables of the ordered stores.
    Metadata,
    /// Cleaning, deletes and what else gives space back.
    Reclaim,
}

impl From<Lifetime> for Purpose {
    fn from(class: Lifetime) -> Self {
        match class {
            Lifetime::Hot | Lifetime::Cold | Lifetime::Parity => Purpose::Data,
            Lifetime::Metadata | Lifetime::Log => Purpose::Metadata,
            Lifetime::Relocated => Purpose::Reclaim,
        }
    }
}

/// Free segments that a purpose may not touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Floors {
    /// Left alone by file data.
    pub data_segments: u32,
    /// Left alone by tables.
    pub metadata_segments: u32,
}

impl Floors {
    /// The usual floors of a core whose share of the devices is `segments`.
    pub fn of_share(segments: u32) -> Self {
        Floors { data_segments: (segments / 32).clamp(12, 256), metadata_segments: (segments / 64).clamp(4, 96) }
    }
    /// The same where regions lie in zones of `zone_segments` segments. What is left of a zone that was being filled is of no use after a
    /// start, so whole zones are kept.
    pub fn of_zones(segments: u32, zone_segments: u32) -> Self {
        let zones = (segments / zone_segments / 24).clamp(3, 16);
        Floors { data_segments: zones * zone_segments, metadata_segments: zones.div_ceil(2) * zone_segments }
    }
    fn of(self, purpose: Purpose) -> u64 {
        u64::from(match purpose {
            Purpose::Data => self.data_segments,
            Purpose::Metadata => self.metadata_segments,
            Purpose::Reclaim => 0,
        })
    }
}

/// Where the space went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Units of data in held and grantable regions.
    pub total_units: u64,
    /// Units of live cells, less those in them that are known to be dead.
    pub live_units: u64,
    /// Units that cleaning would give back.
    pub garbage_units: u64,
    /// Units left over at the ends of sealed segments, which cleaning would not give back.
    pub lost_units: u64,
    /// Units that can be written.
    pub free_units: u64,
    /// Units set aside by reservations.
    pub reserved_units: u64,
    /// Segments being filled.
    pub open_segments: u64,
    /// Segments that only lose cells.
    pub sealed_segments: u64,
    /// Segments without cells, grantable ones included.
    pub free_segments: u64,
    /// Live units of each class, in the order of [`Lifetime::ALL`].
    pub live_units_by_class: [u64; Lifetime::ALL.len()],
    /// Units written since start, in the same order.
    pub written_units_by_class: [u64; Lifetime::ALL.len()],
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Cell {
    at: u32,
    units: u32,
    /// Units of it that its owner would not write again, as far as it said.
    dead: u32,
    owner: CellOwner,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Sealed,
}

struct Used {
    phase: Phase,
    class: Lifetime,
    generation: u64,
    /// Next unit to hand out while open; what lies behind it when sealed is lost. All of the segment where
    /// it was found at a start: how far it was written is not known then.
    next: u32,
    /// Units of the live cells.
    live_units: u32,
    /// Dead ones among them.
    dead_units: u32,
    /// Live cells in order of place.
    cells: Vec<Cell>,
    /// Everything written since it was opened, for the table.
    written: Vec<TableEntry>,
    /// Operations in flight on it.
    pins: u32,
    sealed_at: u64,
    cleaning: bool,
    /// The cleaner could move nothing of it.
    unmoved: bool,
    /// Written to since the last call of `seal_idle`.
    busy: bool,
}

enum Slot {
    Free,
    Discarding,
    Used(Box<Used>),
}

struct Region {
    slots: Vec<Slot>,
    /// Its header has been written or did exist.
    headed: bool,
    /// It is being emptied for another core: its free segments are nobody's until then.
    leaving: bool,
    /// It lies on a member that is being emptied: its free segments are nobody's any more.
    closed: bool,
}

impl Region {
    fn used(&self) -> impl Iterator<Item = &Used> {
        self.slots.iter().filter_map(|slot| if let Slot::Used(used) = slot { Some(&**used) } else { None })
    }
    fn live_units(&self) -> u32 {
        self.used().map(|used| used.live_units).sum()
    }
    /// Without what is dead in live cells.
    fn alive_units(&self) -> u32 {
        self.used().map(Used::alive).sum()
    }
    fn is_free(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Slot::Free))
    }
    /// Nothing new is written there.
    fn is_out(&self) -> bool {
        self.leaving || self.closed
    }
    fn discarding(&self) -> u64 {
        let discarding = self.slots.iter().filter(|slot| matches!(slot, Slot::Discarding)).count();
        u64::try_from(discarding).expect("at most 31")
    }
}

/// What became of an attempt to place a cell.
pub(crate) enum Place {
    /// Here; `sealed` wants its table written, `headless` its region's header.
    Done { cell: CellRef, segment: SegmentId, sealed: Option<SegmentTable>, headless: Option<u64> },
    /// A segment has to be obtained first.
    NeedSegment,
    /// What is left is kept for other purposes.
    Refused,
}

/// Why a cell cannot be claimed or retired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BookError {
    OutOfBounds,
    Overlap(CellOwner),
    NotLive,
}

pub(crate) struct Book {
    layout: RegionLayout,
    floors: Floors,
    discard: bool,
    regions: BTreeMap<u32, Region>,
    /// Members that are being emptied.
    closed: BTreeSet<u16>,
    free: BTreeSet<SegmentId>,
    /// Segments that will be free once the device has been told.
    discarding: u64,
    /// A segment became free since `surplus` last found nothing.
    freed: bool,
    /// One of a member that is being emptied did, since [`Book::drop_closed`] last found nothing.
    freed_of_closed: bool,
    /// By stream, which is the class where there are no zones.
    open: [Vec<SegmentId>; Lifetime::ALL.len()],
    /// By their first region.
    zones: BTreeMap<u32, Fill>,
    /// The zone that each stream fills.
    streams: [Option<u32>; Lifetime::ALL.len()],
    reserved_units: u64,
    generation: u64,
    /// Segments sealed so far: the clock of ages.
    sealed: u64,
    written_units: [u64; Lifetime::ALL.len()],
}

impl Book {
    pub fn new(layout: RegionLayout, floors: Floors, discard: bool, generation: u64) -> Self {
        Book {
            // A zone is reset when it is begun anew.
            discard: discard && layout.zones().is_none(),
            layout,
            floors,
            regions: BTreeMap::new(),
            closed: BTreeSet::new(),
            free: BTreeSet::new(),
            discarding: 0,
            freed: false,
            freed_of_closed: false,
            open: Default::default(),
            zones: BTreeMap::new(),
            streams: [None; Lifetime::ALL.len()],
            reserved_units: 0,
            generation,
            sealed: 0,
            written_units: [0; Lifetime::ALL.len()],
        }
    }

    pub fn set_floors(&mut self, floors: Floors) {
        self.floors = floors;
    }
    pub fn holds(&self, region: u32) -> bool {
        self.regions.contains_key(&region)
    }
    pub fn held(&self) -> BTreeSet<u32> {
        self.regions.keys().copied().collect()
    }
    /// Takes over a region whose segments are all free.
    pub fn adopt(&mut self, region: u32, headed: bool) {
        let regions = self.layout.grant_of(region);
        if self.layout.zones().is_some() {
            // How far it was written is not known of one that has cells.
            self.zones.insert(regions.start, if headed { Fill::Spent } else { Fill::Empty });
        }
        regions.for_each(|region| self.adopt_one(region, headed));
    }
    fn adopt_one(&mut self, region: u32, headed: bool) {
        let part = self.layout.part_of(region).expect("a granted region exists");
        assert!(!self.closed.contains(&part.member()), "region {region} is of a member that is being emptied");
        let slots = (0..SEGMENTS_PER_REGION).map(|_| Slot::Free).collect();
        let fresh = self.regions.insert(region, Region { slots, headed, leaving: false, closed: false }).is_none();
        assert!(fresh, "region {region} was granted twice");
        if !(headed && self.layout.zones().is_some()) {
            self.free.extend((0..SEGMENTS_PER_REGION).map(|slot| SegmentId::new(region, slot)));
        }
    }

    /// Whether a segment could be opened at once.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    fn slot(&mut self, segment: SegmentId) -> &mut Slot {
        let slot = usize::try_from(segment.slot()).expect("below 31");
        &mut self.regions.get_mut(&segment.region()).expect("a held region").slots[slot]
    }
    fn used(&mut self, segment: SegmentId) -> Option<&mut Used> {
        let slot = usize::try_from(segment.slot()).expect("below 31");
        match &mut self.regions.get_mut(&segment.region())?.slots[slot] {
            Slot::Used(used) => Some(used),
            Slot::Free | Slot::Discarding => None,
        }
    }
    fn all_used(&self) -> impl Iterator<Item = (SegmentId, &Used)> {
        self.regions.iter().flat_map(|(region, r)| {
            (0..SEGMENTS_PER_REGION).zip(&r.slots).filter_map(|(slot, state)| match state {
                Slot::Used(used) => Some((SegmentId::new(*region, slot), &**used)),
                Slot::Free | Slot::Discarding => None,
            })
        })
    }

    /// Records a cell that a durable record names. Only before the first write.
    pub fn claim(&mut self, owner: CellOwner, cell: CellRef) -> Result<(), BookError> {
        let (segment, at) = self.layout.locate(cell).ok_or(BookError::OutOfBounds)?;
        if !self.holds(segment.region()) {
            self.adopt(segment.region(), true);
        }
        let generation = self.generation;
        let is_unused = self.layout.zones().is_some() && matches!(self.slot(segment), Slot::Free);
        if self.free.remove(&segment) || is_unused {
            let class = if matches!(owner, CellOwner::Table { .. }) { Lifetime::Metadata } else { Lifetime::Hot };
            let mut used = Used::new(class, generation);
            used.phase = Phase::Sealed;
            used.next = SEGMENT_UNITS;
            *self.slot(segment) = Slot::Used(Box::new(used));
        }
        let used = self.used(segment).ok_or(BookError::OutOfBounds)?;
        let index = used.cells.partition_point(|c| c.at < at);
        let before = index.checked_sub(1).map(|i| used.cells[i]).filter(|c| c.at + c.units > at);
        let after = used.cells.get(index).copied().filter(|c| at + cell.units() > c.at);
        if let Some(other) = before.or(after) {
            return Err(BookError::Overlap(other.owner));
        }
        used.cells.insert(index, Cell { at, units: cell.units(), dead: 0, owner });
        used.live_units += cell.units();
        Ok(())
    }

    /// Segments that could still be opened, grantable ones included.
    fn openable(&self, ungranted: u32) -> u64 {
        let held = u64::try_from(self.free.len()).expect("counts fit");
        held + self.discarding + u64::from(ungranted) * u64::from(SEGMENTS_PER_REGION)
    }

    /// Finds a place for `checksums.len()` units; it is pinned until [`Book::unpin`].
    pub fn place(
        &mut self,
        purpose: Purpose,
        owner: CellOwner,
        class: Lifetime,
        checksums: &[u32],
        ungranted: u32,
    ) -> Place {
        let units = u32::try_from(checksums.len()).expect("checked by the caller");
        assert!((1..=SEGMENT_UNITS).contains(&units), "a cell has 1 to 512 units");
        let mut fitting: Option<(u32, SegmentId)> = None;
        for segment in self.open[self.stream_of(class)].clone() {
            let left = SEGMENT_UNITS - self.used(segment).expect("open segments are used").next;
            if left >= units && fitting.is_none_or(|(best, _)| left < best) {
                fitting = Some((left, segment));
            }
        }
        let (mut sealed, mut headless) = (None, None);
        let segment = match fitting {
            Some((_, segment)) => segment,
            None if self.layout.zones().is_some() => match self.next_in_zone(purpose, class, units, ungranted) {
                Next::Opened { segment, sealed: table, headless: header } => {
                    (sealed, headless) = (table, header);
                    segment
                }
                Next::NeedZone => return Place::NeedSegment,
                Next::Refused => return Place::Refused,
            },
            None if self.openable(ungranted) <= self.floors.of(purpose) => return Place::Refused,
            None => {
                let Some(segment) = self.free.pop_first() else { return Place::NeedSegment };
                sealed = self.crowded(class).and_then(|full| self.seal(full));
                headless = self.open_segment(segment, class);
                segment
            }
        };
        self.written_units[class.index()] += u64::from(units);
        let used = self.used(segment).expect("open segments are used");
        let at = used.next;
        used.next += units;
        used.live_units += units;
        used.pins += 1;
        used.busy = true;
        used.cells.push(Cell { at, units, dead: 0, owner });
        used.written.push(TableEntry { owner, at, checksums: checksums.to_vec() });
        let unit = self.layout.data_unit(segment) + u64::from(at);
        let cell = CellRef::new(unit, units).expect("inside the device");
        Place::Done { cell, segment, sealed, headless }
    }

    /// Units left over in the fullest open segment of a class; 0 where there is none.
    pub fn tail(&self, class: Lifetime) -> u32 {
        let left = |segment: &SegmentId| {
            let slot = usize::try_from(segment.slot()).expect("below 31");
            match self.regions.get(&segment.region()).map(|region| &region.slots[slot]) {
                Some(Slot::Used(used)) => SEGMENT_UNITS - used.next,
                Some(Slot::Free | Slot::Discarding) | None => 0,
            }
        };
        self.open[self.stream_of(class)].iter().map(left).filter(|left| *left > 0).min().unwrap_or(0)
    }

    /// The open segment to seal before another one of its class is opened.
    fn crowded(&mut self, class: Lifetime) -> Option<SegmentId> {
        let open = self.open[self.stream_of(class)].clone();
        if open.len() < OPEN_PER_CLASS {
            return None;
        }
        open.into_iter().max_by_key(|s| self.used(*s).expect("open segments are used").next)
    }

    fn open_segment(&mut self, segment: SegmentId, class: Lifetime) -> Option<u64> {
        self.generation += 1;
        let generation = self.generation;
        *self.slot(segment) = Slot::Used(Box::new(Used::new(class, generation)));
        let stream = self.stream_of(class);
        self.open[stream].push(segment);
        let region = self.regions.get_mut(&segment.region()).expect("a held region");
        (!std::mem::replace(&mut region.headed, true)).then_some(generation)
    }

    /// Closes an open segment; its table is to be written, it is pinned until then.
    /// None where it held nothing and is free again.
    pub fn seal(&mut self, segment: SegmentId) -> Option<SegmentTable> {
        self.sealed += 1;
        let now = self.sealed;
        let used = self.used(segment)?;
        used.phase = Phase::Sealed;
        used.sealed_at = now;
        used.pins += 1;
        let (class, generation) = (used.class, used.generation);
        let entries = std::mem::take(&mut used.written);
        let stream = self.stream_of(class);
        self.open[stream].retain(|s| *s != segment);
        self.note_sealed(segment, stream);
        Some(SegmentTable { segment, generation, class, entries })
    }

    /// Open segments, all of them or those not written to since this was last asked.
    pub fn sealable(&mut self, only_idle: bool) -> Vec<SegmentId> {
        let mut wanted = Vec::new();
        for segment in self.open.concat() {
            if only_idle && self.goes_on_behind(segment) {
                continue;
            }
            let used = self.used(segment).expect("open segments are used");
            let busy = std::mem::take(&mut used.busy);
            if used.next > 0 && !(only_idle && busy) {
                wanted.push(segment);
            }
        }
        wanted
    }

    /// An operation begins on a held segment. False where it is not in use.
    pub fn pin(&mut self, segment: SegmentId) -> bool {
        self.used(segment).map(|used| used.pins += 1).is_some()
    }
    /// An operation on `segment` is over. The segment is returned if it is to be discarded.
    pub fn unpin(&mut self, segment: SegmentId) -> Option<SegmentId> {
        let used = self.used(segment).expect("pinned segments are not freed");
        used.pins = used.pins.checked_sub(1).expect("pins are balanced");
        self.settle(segment)
    }
    /// A cell became garbage. The segment is returned if it is to be discarded.
    pub fn retire(&mut self, owner: CellOwner, cell: CellRef) -> Result<Option<SegmentId>, BookError> {
        let (segment, at) = self.layout.locate(cell).ok_or(BookError::OutOfBounds)?;
        let used = self.used(segment).ok_or(BookError::NotLive)?;
        let index = used.index_of(owner, at, cell.units()).ok_or(BookError::NotLive)?;
        let gone = used.cells.remove(index);
        used.live_units -= gone.units;
        used.dead_units -= gone.dead;
        Ok(self.settle(segment))
    }
    /// So many units of a live cell are dead: whoever cleans its segment need not write them again.
    pub fn note_dead(&mut self, owner: CellOwner, cell: CellRef, dead: u32) -> Result<(), BookError> {
        let (segment, at) = self.layout.locate(cell).ok_or(BookError::OutOfBounds)?;
        let used = self.used(segment).ok_or(BookError::NotLive)?;
        let index = used.index_of(owner, at, cell.units()).ok_or(BookError::NotLive)?;
        let dead = dead.min(cell.units());
        used.dead_units = used.dead_units - used.cells[index].dead + dead;
        used.cells[index].dead = dead;
        Ok(())
    }
    /// Frees a segment that nothing uses any more.
    fn settle(&mut self, segment: SegmentId) -> Option<SegmentId> {
        let used = self.used(segment).expect("called for used segments");
        if used.phase == Phase::Open || used.live_units > 0 || used.pins > 0 {
            return None;
        }
        if self.discard {
            *self.slot(segment) = Slot::Discarding;
            self.discarding += u64::from(!self.is_out(segment.region()));
            return Some(segment);
        }
        self.set_free(segment);
        None
    }
    fn set_free(&mut self, segment: SegmentId) {
        *self.slot(segment) = Slot::Free;
        if self.layout.zones().is_some() {
            return self.empty_zone(self.layout.grant_of(segment.region()));
        }
        if !self.is_out(segment.region()) {
            self.free.insert(segment);
        }
        self.freed = true;
        self.freed_of_closed |= !self.closed.is_empty();
    }
    fn is_out(&self, region: u32) -> bool {
        self.regions.get(&region).expect("a held region").is_out()
    }
    /// The device has been told; `supported` false stops further discards.
    pub fn discarded(&mut self, segment: SegmentId, supported: bool) {
        self.discard &= supported;
        self.discarding -= u64::from(!self.is_out(segment.region()));
        self.set_free(segment);
    }
    /// A wholly free region that is not needed; the caller gives it back.
    pub fn surplus(&mut self) -> Option<u32> {
        let keep = KEEP_FREE * usize::try_from(self.layout.grant_regions()).expect("few");
        if !std::mem::take(&mut self.freed) || self.free.len() < 2 * keep {
            return None;
        }
        let region = self.drop_free()?;
        self.freed = true;
        Some(region)
    }
    /// Lets go of a wholly free region, if there is one.
    pub fn drop_free(&mut self) -> Option<u32> {
        let region = match self.layout.zones() {
            Some(_) => self.unused_zone()?,
            None => *self.regions.iter().rev().find(|(_, r)| !r.is_out() && r.is_free())?.0,
        };
        self.let_go(region);
        Some(region)
    }

    /// Forgets a region and those that are granted with it.
    fn let_go(&mut self, region: u32) {
        let regions = self.layout.grant_of(region);
        self.zones.remove(&regions.start);
        self.free.retain(|s| !regions.contains(&s.region()));
        regions.for_each(|region| drop(self.regions.remove(&region)));
    }

    /// The region that is cheapest to empty, and the units of its live cells.
    pub fn cheapest(&self) -> Option<(u32, u64)> {
        let live = |first: u32| {
            let of = self.regions.range(self.layout.grant_of(first));
            of.map(|(_, region)| u64::from(region.live_units())).sum::<u64>()
        };
        let is_first = |region: u32| self.layout.grant_of(region).start == region;
        let held =
            self.regions.iter().filter(|(region, r)| !r.is_out() && is_first(**region) && !self.is_filled(**region));
        held.map(|(region, _)| (*region, live(*region))).min_by_key(|(_, live)| *live)
    }
    /// Takes the free segments of a region out of use and marks the others as being cleaned. Those that are
    /// open ([`Book::open_in`]) are to be sealed.
    pub fn begin_leaving(&mut self, region: u32) {
        let regions = self.layout.grant_of(region);
        self.free.retain(|s| !regions.contains(&s.region()));
        regions.for_each(|region| self.set_leaving(region, true));
    }
    /// The open segments of a region.
    pub fn open_in(&self, region: u32) -> Vec<SegmentId> {
        self.open.concat().into_iter().filter(|s| s.region() == region).collect()
    }
    /// The live cells of a region, in order of place.
    pub fn live_in(&self, region: u32) -> Vec<(CellOwner, CellRef)> {
        let regions = self.layout.grant_of(region);
        let here = self.all_used().filter(|(segment, _)| regions.contains(&segment.region()));
        here.flat_map(|(segment, used)| used.live_from(self.layout.data_unit(segment))).collect()
    }
    /// Lets go of a region that was being emptied, if it is empty. Whether it was.
    pub fn end_leaving(&mut self, region: u32) -> bool {
        let mut regions = self.layout.grant_of(region);
        let is_free = regions.all(|region| self.regions.get(&region).expect("being emptied, it is held").is_free());
        if is_free {
            self.let_go(region);
        }
        is_free
    }
    /// Takes a region that was being emptied into use again.
    pub fn stay(&mut self, region: u32) {
        let regions = self.layout.grant_of(region);
        regions.clone().for_each(|region| self.set_leaving(region, false));
        if self.layout.zones().is_some() {
            return self.empty_zone(regions);
        }
        self.freed_of_closed |= !self.closed.is_empty();
        let of = self.regions.get(&region).expect("a region being emptied is held");
        let slots = of.slots.iter().filter(|_| !of.closed);
        let free = (0..SEGMENTS_PER_REGION).zip(slots).filter(|(_, slot)| matches!(slot, Slot::Free));
        self.free.extend(free.map(|(slot, _)| SegmentId::new(region, slot)));
    }
    fn set_leaving(&mut self, region: u32, leaving: bool) {
        let of = self.regions.get_mut(&region).expect("a held region");
        of.leaving = leaving;
        for slot in &mut of.slots {
            if let Slot::Used(used) = slot {
                used.cleaning = leaving;
            }
        }
        let discarding = if of.closed { 0 } else { of.discarding() };
        self.discarding = if leaving { self.discarding - discarding } else { self.discarding + discarding };
    }

    pub fn reserve(&mut self, purpose: Purpose, units: u64, ungranted: u32) -> bool {
        let free = self.openable(ungranted) * u64::from(SEGMENT_UNITS);
        let kept = self.floors.of(purpose) * u64::from(SEGMENT_UNITS) + self.reserved_units;
        let granted = free.checked_sub(kept).is_some_and(|left| units <= left);
        if granted {
            self.reserved_units += units;
        }
        granted
    }
    pub fn release(&mut self, units: u64) {
        self.reserved_units = self.reserved_units.checked_sub(units).expect("releases match reservations");
    }

    /// The best sealed segment to clean, marked so that it is not chosen twice.
    ///
    /// Cost-benefit of Rosenblum and Ousterhout (1992): free share times age over the cost of
    /// reading the segment and writing what lives.
    pub fn victim(&mut self, gain_min: u32) -> Option<(SegmentId, Vec<(CellOwner, CellRef)>)> {
        if self.layout.zones().is_some() {
            return self.victim_in_zone(gain_min);
        }
        let now = self.sealed;
        let score = |used: &Used| {
            let gain = u64::from(used.gain());
            let age = now.saturating_sub(used.sealed_at) + 1;
            u128::from(gain) * u128::from(age) * 1024 / u128::from(SEGMENT_UNITS + used.alive())
        };
        let (segment, _) = self
            .all_used()
            .filter(|(_, u)| u.phase == Phase::Sealed && !u.cleaning && !u.unmoved && u.live_units > 0)
            .filter(|(_, u)| u.gain() >= gain_min.max(VICTIM_GAIN_UNITS))
            .map(|(segment, used)| (segment, score(used)))
            .max_by_key(|(segment, score)| (*score, std::cmp::Reverse(*segment)))?;
        Some((segment, self.begin_cleaning(segment)?))
    }
    /// Marks a segment as being cleaned: its live cells.
    fn begin_cleaning(&mut self, segment: SegmentId) -> Option<Vec<(CellOwner, CellRef)>> {
        let first = self.layout.data_unit(segment);
        let used = self.used(segment)?;
        used.cleaning = true;
        Some(used.live_from(first))
    }
    /// The cleaner is through with a segment. What it could not move makes the segment young again, so that the
    /// cleaner turns to others first; one of which it could move nothing is left alone for a while.
    pub fn cleaned(&mut self, segment: SegmentId, movable: bool) {
        let now = self.sealed;
        if let Some(used) = self.used(segment) {
            used.cleaning = false;
            used.unmoved = !movable;
            used.sealed_at = now;
        }
    }

    /// Forgets what could not be moved.
    pub fn retry_unmoved(&mut self) {
        for slot in self.regions.values_mut().flat_map(|region| &mut region.slots) {
            if let Slot::Used(used) = slot {
                used.unmoved = false;
            }
        }
    }

    /// Live units on each member of the pool that this core holds regions of.
    pub fn live_by_member(&self) -> BTreeMap<u16, u64> {
        let mut live = BTreeMap::new();
        for (region, held) in &self.regions {
            let (member, _) = member_of(self.layout.region_offset(*region));
            *live.entry(member).or_default() += u64::from(held.live_units());
        }
        live
    }

    pub fn usage(&self, ungranted: u32) -> Usage {
        let segment_units = u64::from(SEGMENT_UNITS);
        let free_segments = self.openable(ungranted);
        let mut usage = Usage { free_segments, free_units: free_segments * segment_units, ..Usage::default() };
        usage.reserved_units = self.reserved_units;
        usage.written_units_by_class = self.written_units;
        usage.total_units = usage.free_units;
        for (_, used) in self.all_used() {
            let live = u64::from(used.alive());
            usage.total_units += segment_units;
            usage.live_units += live;
            usage.live_units_by_class[used.class.index()] += live;
            match used.phase {
                Phase::Open => {
                    usage.open_segments += 1;
                    usage.free_units += u64::from(SEGMENT_UNITS - used.next);
                    usage.garbage_units += u64::from(used.next) - live;
                }
                Phase::Sealed if self.layout.zones().is_some() => {
                    usage.sealed_segments += 1;
                    usage.garbage_units += segment_units - live;
                }
                Phase::Sealed => {
                    usage.sealed_segments += 1;
                    usage.garbage_units += u64::from(used.gain());
                    usage.lost_units += segment_units - live - u64::from(used.gain());
                }
            }
        }
        let (dead, rest) = self.unused_in_zones();
        usage.total_units += dead + rest;
        usage.garbage_units += dead;
        usage.lost_units += rest;
        usage
    }
}

impl Used {
    /// The live cells of a segment whose data begins at unit `first`.
    fn live_from(&self, first: u64) -> Vec<(CellOwner, CellRef)> {
        let place = |c: &Cell| CellRef::new(first + u64::from(c.at), c.units).expect("inside the device");
        self.cells.iter().map(|c| (c.owner, place(c))).collect()
    }
    /// Where among the live cells one is.
    fn index_of(&self, owner: CellOwner, at: u32, units: u32) -> Option<usize> {
        let index = self.cells.binary_search_by_key(&at, |c| c.at).ok()?;
        let cell = self.cells[index];
        (cell.owner == owner && cell.units == units).then_some(index)
    }

    /// Units that have to be written elsewhere before it is free.
    fn alive(&self) -> u32 {
        self.live_units - self.dead_units
    }

    /// Units that cleaning gives back once it is sealed: garbage, and the end that was left over only where
    /// all that lives here would fit into it. A longer cell would leave as much over wherever it goes.
    fn gain(&self) -> u32 {
        let left_over = SEGMENT_UNITS - self.next;
        self.next - self.alive() + if self.alive() <= left_over { left_over } else { 0 }
    }

    fn new(class: Lifetime, generation: u64) -> Self {
        Used {
            phase: Phase::Open,
            class,
            generation,
            next: 0,
            live_units: 0,
            dead_units: 0,
            cells: Vec::new(),
            written: Vec::new(),
            pins: 0,
            sealed_at: 0,
            cleaning: false,
            unmoved: false,
            busy: false,
        }
    }
}

#[cfg(test)]
mod tests;
