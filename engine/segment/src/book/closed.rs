//! Members that are being emptied: nothing new is written there, and what lives there is moved.

use super::{Book, Phase, Slot};
use crate::{CellOwner, CellRef, SEGMENT_UNITS, SEGMENTS_PER_REGION, SegmentId};

/// What a core has on a member, and what it has elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// Units that are live there.
    pub live_units: u64,
    /// Units that can be written elsewhere.
    pub free_units: u64,
    /// Units elsewhere that cleaning would give back.
    pub garbage_units: u64,
}

fn can_be_emptied(slot: &Slot) -> bool {
    let Slot::Used(used) = slot else { return false };
    used.phase == Phase::Sealed && !used.cleaning && !used.unmoved && used.live_units > 0
}

impl Book {
    fn is_on(&self, region: u32, member: u16) -> bool {
        self.layout.part_of(region).is_some_and(|part| part.member() == member)
    }

    /// Nothing new is written on the member from now on, but for what its open segments take until they are sealed
    /// ([`Book::open_in_closed`]).
    pub fn close_member(&mut self, member: u16) {
        self.closed.insert(member);
        self.freed_of_closed = true;
        let regions: Vec<u32> = self.regions.keys().copied().filter(|region| self.is_on(*region, member)).collect();
        for region in regions {
            let held = self.regions.get_mut(&region).expect("its key was found");
            if !held.is_out() {
                self.discarding -= held.discarding();
            }
            held.closed = true;
            self.free.retain(|segment| segment.region() != region);
        }
    }
    /// A member of that number may be written to again: it is another one. Nothing is held of it.
    pub fn open_member(&mut self, member: u16) {
        self.closed.remove(&member);
    }
    /// The open segments on members that are being emptied.
    pub fn open_in_closed(&self) -> Vec<SegmentId> {
        self.open.concat().into_iter().filter(|segment| self.regions[&segment.region()].closed).collect()
    }
    /// Lets go of a region of a member that is being emptied, if it is empty. False where there is none.
    pub fn drop_closed(&mut self) -> bool {
        if !std::mem::take(&mut self.freed_of_closed) {
            return false;
        }
        let empty = self.regions.iter().find(|(_, held)| held.closed && !held.leaving && held.is_free());
        let Some(region) = empty.map(|(region, _)| *region) else { return false };
        self.regions.remove(&region);
        self.freed_of_closed = true;
        true
    }
    /// Regions of the member that are held.
    pub fn held_on(&self, member: u16) -> u64 {
        let parts = self.layout.parts();
        let numbers = parts.into_iter().find(|part| part.member() == member).map(|part| part.numbers());
        numbers.map_or(0, |numbers| u64::try_from(self.regions.range(numbers).count()).expect("32 bits"))
    }
    /// The next segment to empty on members that are being emptied, marked as [`Book::victim`] does.
    pub fn closed_victim(&mut self) -> Option<(SegmentId, Vec<(CellOwner, CellRef)>)> {
        if self.closed.is_empty() {
            return None;
        }
        let closed = self.regions.iter().filter(|(_, held)| held.closed);
        let segment = closed.flat_map(|(region, held)| {
            let slots = (0..SEGMENTS_PER_REGION).zip(&held.slots);
            slots.filter(|(_, slot)| can_be_emptied(slot)).map(|(slot, _)| SegmentId::new(*region, slot))
        });
        let segment = segment.min()?;
        let first = self.layout.data_unit(segment);
        let used = self.used(segment)?;
        used.cleaning = true;
        Some((segment, used.live_from(first)))
    }

    /// What this core has on a member, and elsewhere beside `ungranted` regions that are not of it.
    pub fn room(&self, member: u16, ungranted: u32) -> Room {
        let segment_units = u64::from(SEGMENT_UNITS);
        let ungranted_units = u64::from(ungranted) * u64::from(SEGMENTS_PER_REGION) * segment_units;
        let mut room = Room { free_units: ungranted_units, ..Room::default() };
        for (region, held) in &self.regions {
            if self.is_on(*region, member) {
                room.live_units += u64::from(held.live_units());
                continue;
            }
            for slot in held.slots.iter().filter(|_| !held.closed) {
                match slot {
                    Slot::Free | Slot::Discarding => room.free_units += segment_units,
                    Slot::Used(used) if used.phase == Phase::Open => {
                        room.free_units += segment_units - u64::from(used.next);
                        room.garbage_units += u64::from(used.next - used.live_units);
                    }
                    Slot::Used(used) => room.garbage_units += u64::from(used.gain()),
                }
            }
        }
        room
    }
}
