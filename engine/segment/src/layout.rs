//! Arithmetic of regions and segments.
//!
//! A region is 64 MiB: a 64 KiB header, then 31 times 2 MiB of data followed by a 64 KiB table.

use crate::{CellRef, UNIT_BYTES};
use cfs_types::{MEMBER_BYTES_MAX, MEMBERS_MAX, member_of, member_offset};
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

/// Bytes of one region.
pub const REGION_BYTES: u64 = 64 << 20;
/// Units of one region.
pub const REGION_UNITS: u64 = REGION_BYTES / UNIT_BYTES as u64;
/// Segments of one region.
pub const SEGMENTS_PER_REGION: u32 = 31;
/// Units of data of one segment.
pub const SEGMENT_UNITS: u32 = 512;
/// Longest cell: a whole segment.
pub const CELL_UNITS_MAX: u32 = SEGMENT_UNITS;
/// Units of a region header and of a segment table.
pub(crate) const TABLE_UNITS: u32 = 16;
const STRIDE: u64 = (SEGMENT_UNITS + TABLE_UNITS) as u64;

const _: () = assert!(TABLE_UNITS as u64 + SEGMENTS_PER_REGION as u64 * STRIDE == REGION_UNITS);
const _: () = assert!(CELL_UNITS_MAX as u64 * UNIT_BYTES as u64 == cfs_types::CHUNK_BYTES_MAX as u64);

/// A segment: region number times 31 plus its place in the region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId(u32);

impl SegmentId {
    /// Names a segment. Panics where `slot` is 31 or more or the number overflows.
    pub fn new(region: u32, slot: u32) -> Self {
        assert!(slot < SEGMENTS_PER_REGION, "a region has 31 segments");
        SegmentId(
            region.checked_mul(SEGMENTS_PER_REGION).and_then(|s| s.checked_add(slot)).expect("checked by the layout"),
        )
    }
    /// The region it lies in.
    pub const fn region(self) -> u32 {
        self.0 / SEGMENTS_PER_REGION
    }
    /// Its place in the region.
    pub const fn slot(self) -> u32 {
        self.0 % SEGMENTS_PER_REGION
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}.{}", self.region(), self.slot())
    }
}

/// The regions of one device of a node, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    first_unit: u64,
    first_region: u32,
    regions: u32,
}

impl Part {
    /// `regions` regions, numbered from `first_region` on, from byte `offset` of member `member` on. None unless
    /// the offset is a multiple of 4 KiB, all units can be addressed and all segments numbered.
    pub fn new(member: u16, offset: u64, first_region: u32, regions: u32) -> Option<Self> {
        let bytes = u64::from(regions).checked_mul(REGION_BYTES)?;
        if member >= MEMBERS_MAX {
            return None;
        }
        let fits = offset.is_multiple_of(UNIT_BYTES as u64)
            && offset.checked_add(bytes)? <= MEMBER_BYTES_MAX
            && first_region.checked_add(regions)? <= u32::MAX / SEGMENTS_PER_REGION;
        let first_unit = (member_offset(member) + offset) / UNIT_BYTES as u64;
        fits.then_some(Part { first_unit, first_region, regions })
    }
    /// The member that it is of.
    pub fn member(self) -> u16 {
        member_of(self.first_unit * UNIT_BYTES as u64).0
    }
    /// Number of regions.
    pub const fn regions(self) -> u32 {
        self.regions
    }
    /// The numbers of its regions.
    pub const fn numbers(self) -> Range<u32> {
        self.first_region..self.first_region + self.regions
    }
}

/// Where the regions of a node's devices lie, as one core knows it: clones are the same one, and a device that is
/// added to one is there for all of them, and one that leaves is gone for all.
///
/// Invariants: a member is there once; no two parts have a region number in common.
#[derive(Clone, Debug)]
pub struct RegionLayout {
    parts: Rc<RefCell<Vec<Part>>>,
    zones: Option<ZoneShape>,
}

/// Regions that lie in zones: a zone is filled segment by segment from its first one on, and only all of it is used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneShape {
    /// Regions of a zone, which are granted together, named by the first.
    pub regions: u32,
    /// Zones that each core fills at a time, from 1.
    pub streams: u32,
}

impl RegionLayout {
    /// `regions` regions of the only device from byte `offset` on; None where [`Part::new`] says so.
    pub fn new(offset: u64, regions: u32) -> Option<Self> {
        RegionLayout::of(vec![Part::new(0, offset, 0, regions)?])
    }
    /// These parts; None where two of them are of one member or share a number.
    pub fn of(parts: Vec<Part>) -> Option<Self> {
        let layout = RegionLayout { parts: Rc::default(), zones: None };
        parts.into_iter().all(|part| layout.add(part)).then_some(layout)
    }
    /// The same regions, in zones.
    #[must_use]
    pub fn in_zones(self, zones: ZoneShape) -> Self {
        RegionLayout { zones: Some(zones), ..self }
    }
    /// The zones, where the regions lie in some.
    pub const fn zones(&self) -> Option<ZoneShape> {
        self.zones
    }
    /// Regions that are granted together.
    pub fn grant_regions(&self) -> u32 {
        self.zones.map_or(1, |zones| zones.regions)
    }
    /// The regions that are granted together with this one.
    pub fn grant_of(&self, region: u32) -> Range<u32> {
        let first = region - region % self.grant_regions();
        first..first + self.grant_regions()
    }
    /// Takes a part in. False where its member or one of its numbers is there already.
    #[must_use]
    pub fn add(&self, part: Part) -> bool {
        let mut parts = self.parts.borrow_mut();
        let shares = |other: &Part| {
            let (a, b) = (other.numbers(), part.numbers());
            other.member() == part.member() || a.start < b.end && b.start < a.end
        };
        if parts.iter().any(shares) {
            return false;
        }
        let at = parts.partition_point(|other| other.first_unit < part.first_unit);
        parts.insert(at, part);
        true
    }
    /// Takes the part of a member out: nothing lies there any more.
    pub fn remove(&self, member: u16) {
        self.parts.borrow_mut().retain(|part| part.member() != member);
    }
    /// The parts, by member.
    pub fn parts(&self) -> Vec<Part> {
        self.parts.borrow().clone()
    }
    /// Number of regions.
    pub fn regions(&self) -> u32 {
        self.parts.borrow().iter().map(|part| part.regions).sum()
    }
    /// Whether there is a region of that number.
    pub fn has(&self, region: u32) -> bool {
        self.part_of(region).is_some()
    }
    /// All segments in order.
    pub fn segments(&self) -> impl Iterator<Item = SegmentId> {
        let regions = self.parts().into_iter().flat_map(Part::numbers);
        regions.flat_map(|region| (0..SEGMENTS_PER_REGION).map(move |slot| SegmentId::new(region, slot)))
    }
    /// The part that a region lies in.
    pub fn part_of(&self, region: u32) -> Option<Part> {
        self.parts.borrow().iter().find(|part| part.numbers().contains(&region)).copied()
    }
    /// First unit of a region's header. Panics where there is no such region.
    fn region_unit(&self, region: u32) -> u64 {
        let part = self.part_of(region).expect("a region of some device");
        part.first_unit + u64::from(region - part.first_region) * REGION_UNITS
    }
    /// Byte offset of a region's header. Panics where there is no such region.
    pub fn region_offset(&self, region: u32) -> u64 {
        self.region_unit(region) * UNIT_BYTES as u64
    }
    /// First unit of a segment's data. Panics where there is no such segment.
    pub fn data_unit(&self, segment: SegmentId) -> u64 {
        let within = u64::from(TABLE_UNITS) + u64::from(segment.slot()) * STRIDE;
        self.region_unit(segment.region()) + within
    }
    /// Byte offset of a segment's table. Panics where there is no such segment.
    pub fn table_offset(&self, segment: SegmentId) -> u64 {
        (self.data_unit(segment) + u64::from(SEGMENT_UNITS)) * UNIT_BYTES as u64
    }
    /// The segment a cell lies in and its first unit there; None unless it lies wholly inside
    /// the data of one segment.
    pub fn locate(&self, cell: CellRef) -> Option<(SegmentId, u32)> {
        let parts = self.parts.borrow();
        let part = match parts.as_slice() {
            [only] => only,
            parts => &parts[parts.partition_point(|part| part.first_unit <= cell.unit()).checked_sub(1)?],
        };
        let unit = cell.unit().checked_sub(part.first_unit)?;
        let region = u32::try_from(unit / REGION_UNITS).ok().filter(|r| *r < part.regions)?;
        let within = (unit % REGION_UNITS).checked_sub(u64::from(TABLE_UNITS))?;
        let slot = u32::try_from(within / STRIDE).ok()?;
        let at = u32::try_from(within % STRIDE).ok()?;
        (at + cell.units() <= SEGMENT_UNITS).then(|| (SegmentId::new(part.first_region + region, slot), at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_found_in_its_segment_and_nowhere_else() {
        let layout = RegionLayout::new(128 << 20, 3).expect("aligned");
        for segment in layout.segments() {
            let first = layout.data_unit(segment);
            for (at, units, inside) in [(0, 512, true), (511, 1, true), (511, 2, false), (512, 1, false)] {
                let cell = CellRef::new(first + at, units).expect("in range");
                let found = layout.locate(cell);
                assert_eq!(found.is_some_and(|f| f == (segment, u32::try_from(at).expect("small"))), inside);
            }
        }
        let header = CellRef::new(128 << 8, 1).expect("in range");
        assert_eq!(layout.locate(header), None);
        let beyond = CellRef::new((128 << 8) + 3 * REGION_UNITS + 16, 1).expect("in range");
        assert_eq!(layout.locate(beyond), None);
        assert_eq!(layout.locate(CellRef::from_raw(u64::MAX)), None);
    }

    #[test]
    fn each_member_has_its_own_numbers_and_addresses_and_gaps_belong_to_nobody() {
        let parts = [(0, 128 << 20, 0, 3), (2, 64 << 20, 3, 2), (1, 64 << 20, 9, 1)];
        let parts = parts.map(|(member, offset, first, regions)| Part::new(member, offset, first, regions));
        let layout = RegionLayout::of(parts.into_iter().flatten().collect()).expect("apart");
        assert_eq!(layout.regions(), 6);
        for segment in layout.segments() {
            let cell = CellRef::new(layout.data_unit(segment) + 7, 5).expect("in range");
            assert_eq!(layout.locate(cell), Some((segment, 7)));
            let member = layout.part_of(segment.region()).expect("there").member();
            assert_eq!(member_of(cell.offset()).0, member);
        }
        assert_eq!(layout.part_of(9).map(Part::member), Some(1));
        assert!(layout.has(4) && !layout.has(5) && !layout.has(8) && !layout.has(10));
        for (member, offset) in [(0, 320 << 20), (1, 0), (1, 128 << 20), (2, 192 << 20), (3, 64 << 20), (127, 1 << 30)]
        {
            let unit = (member_offset(member) + offset) / UNIT_BYTES as u64 + 16;
            assert_eq!(layout.locate(CellRef::new(unit, 1).expect("in range")), None, "{member} {offset}");
        }
        let refused = [(2, 64 << 20, 20, 1), (3, 64 << 20, 2, 1), (3, 64 << 20, 8, 2), (3, 0, 0, 20)];
        for (member, offset, first, regions) in refused {
            assert!(!layout.add(Part::new(member, offset, first, regions).expect("in range")), "{member} {first}");
        }
        assert!(layout.add(Part::new(3, 0, 5, 4).expect("in range")));
    }

    #[test]
    fn what_cannot_be_addressed_or_numbered_is_no_part() {
        let most = u32::MAX / SEGMENTS_PER_REGION;
        assert!(Part::new(127, 0, most - 1, 1).is_some());
        assert_eq!(Part::new(127, 0, most, 1), None);
        assert_eq!(Part::new(128, 0, 0, 1), None);
        assert_eq!(Part::new(1, 512, 0, 1), None);
        assert_eq!(Part::new(1, MEMBER_BYTES_MAX - REGION_BYTES + 4096, 0, 1), None);
        assert!(Part::new(1, MEMBER_BYTES_MAX - REGION_BYTES, 0, 1).is_some());
    }
}
