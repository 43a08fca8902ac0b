//! Arithmetic of regions and segments.
//!
//! A region is 64 MiB: a 64 KiB header, then 31 times 2 MiB of data followed by a 64 KiB table.

use crate::{CellRef, UNIT_BYTES};
use std::fmt;

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

/// Where the regions of a device lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionLayout {
    first_unit: u64,
    regions: u32,
}

impl RegionLayout {
    /// `regions` regions from byte `offset` on; None unless it is a multiple of 4 KiB and all
    /// units can be addressed.
    pub fn new(offset: u64, regions: u32) -> Option<Self> {
        let bytes = u64::from(regions).checked_mul(REGION_BYTES)?;
        let fits = offset.is_multiple_of(UNIT_BYTES as u64)
            && offset.checked_add(bytes).is_some()
            && regions <= u32::MAX / SEGMENTS_PER_REGION;
        fits.then_some(RegionLayout { first_unit: offset / UNIT_BYTES as u64, regions })
    }
    /// Number of regions.
    pub const fn regions(self) -> u32 {
        self.regions
    }
    /// All segments in order.
    pub fn segments(self) -> impl Iterator<Item = SegmentId> {
        (0..self.regions).flat_map(|region| (0..SEGMENTS_PER_REGION).map(move |slot| SegmentId::new(region, slot)))
    }
    /// Byte offset of a region's header.
    pub fn region_offset(self, region: u32) -> u64 {
        (self.first_unit + u64::from(region) * REGION_UNITS) * UNIT_BYTES as u64
    }
    /// First unit of a segment's data.
    pub fn data_unit(self, segment: SegmentId) -> u64 {
        let within = u64::from(TABLE_UNITS) + u64::from(segment.slot()) * STRIDE;
        self.first_unit + u64::from(segment.region()) * REGION_UNITS + within
    }
    /// Byte offset of a segment's table.
    pub fn table_offset(self, segment: SegmentId) -> u64 {
        (self.data_unit(segment) + u64::from(SEGMENT_UNITS)) * UNIT_BYTES as u64
    }
    /// The segment a cell lies in and its first unit there; None unless it lies wholly inside
    /// the data of one segment.
    pub fn locate(self, cell: CellRef) -> Option<(SegmentId, u32)> {
        let unit = cell.unit().checked_sub(self.first_unit)?;
        let region = u32::try_from(unit / REGION_UNITS).ok().filter(|r| *r < self.regions)?;
        let within = (unit % REGION_UNITS).checked_sub(u64::from(TABLE_UNITS))?;
        let slot = u32::try_from(within / STRIDE).ok()?;
        let at = u32::try_from(within % STRIDE).ok()?;
        (at + cell.units() <= SEGMENT_UNITS).then(|| (SegmentId::new(region, slot), at))
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
}
