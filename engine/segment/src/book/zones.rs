//! Regions in zones: filled segment by segment, given back as a whole.
//!
//! Each stream of classes fills a zone of its own, one open segment at a time; the next one is opened when that is sealed, so that
//! tables and cells are written in the order of their places. A zone that is full, or was found with cells at a start, only loses cells
//! until it has none. Where no empty zone may be taken any more, tables and what gives space back go where other
//! streams still have room.

use super::{
    Book, Lifetime, Phase, Purpose, SEGMENT_UNITS, SEGMENTS_PER_REGION, SegmentId, SegmentTable, Slot,
    VICTIM_GAIN_UNITS,
};
use crate::{CellOwner, CellRef};
use std::cmp::Reverse;
use std::ops::Range;

/// How far a zone is filled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// All its segments are free.
    Empty,
    /// Its next segment, counted through all its regions.
    Filling { next: u32 },
    /// No segment of it is opened before all are free.
    Spent,
}

/// What became of an attempt to open a segment.
pub(super) enum Next {
    /// This is open; `sealed` wants its table written before, `headless` its region's header.
    Opened { segment: SegmentId, sealed: Option<SegmentTable>, headless: Option<u64> },
    /// A zone has to be granted first.
    NeedZone,
    /// What is left is kept for other purposes.
    Refused,
}

/// The stream of each class, in the order of their numbers, where a core fills so many zones (docs/decisions/0017-zones.md).
const STREAMS: [[usize; Lifetime::ALL.len()]; 5] =
    [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 1, 2, 2, 2, 0], [0, 1, 3, 2, 3, 0], [0, 1, 3, 2, 4, 0]];

fn segment(zone: u32, number: u32) -> SegmentId {
    SegmentId::new(zone + number / SEGMENTS_PER_REGION, number % SEGMENTS_PER_REGION)
}

impl Book {
    /// Where the open segments of a class are listed.
    pub(super) fn stream_of(&self, class: Lifetime) -> usize {
        let Some(zones) = self.layout.zones() else { return class.index() };
        let most = u32::try_from(STREAMS.len()).expect("five");
        let streams = usize::try_from(zones.streams.clamp(1, most)).expect("small");
        STREAMS[streams - 1][class.index()]
    }

    fn zone_segments(&self) -> u32 {
        self.layout.grant_regions() * SEGMENTS_PER_REGION
    }

    /// Whether a zone is being filled.
    pub(super) fn is_filled(&self, zone: u32) -> bool {
        matches!(self.zones.get(&zone), Some(Fill::Filling { .. }))
    }

    /// The next segment for a cell of `units` units.
    pub(super) fn next_in_zone(&mut self, purpose: Purpose, class: Lifetime, units: u32, ungranted: u32) -> Next {
        let stream = self.stream_of(class);
        if self.has_next(stream) {
            return self.open_next(stream, class);
        }
        if self.openable(ungranted) > self.floors.of(purpose) {
            let Some(first) = self.free.first() else { return Next::NeedZone };
            let regions = self.layout.grant_of(first.region());
            self.free.retain(|s| !regions.contains(&s.region()));
            // The last segment of the zone before is sealed first.
            let sealed = self.open[stream].first().copied().and_then(|full| self.seal(full));
            self.zones.insert(regions.start, Fill::Filling { next: 0 });
            self.streams[stream] = Some(regions.start);
            let Next::Opened { segment, headless, .. } = self.open_next(stream, class) else {
                unreachable!("a zone has segments");
            };
            return Next::Opened { segment, sealed, headless };
        }
        if purpose == Purpose::Data {
            return Next::Refused;
        }
        for other in (0..self.streams.len()).filter(|other| *other != stream) {
            let open = self.open[other].first().copied();
            let left = open.and_then(|open| self.used(open)).map_or(0, |used| SEGMENT_UNITS - used.next);
            if let Some(segment) = open.filter(|_| left >= units) {
                return Next::Opened { segment, sealed: None, headless: None };
            }
            if self.has_next(other) {
                let class = Lifetime::ALL.into_iter().find(|class| self.stream_of(*class) == other);
                return self.open_next(other, class.expect("a stream has classes"));
            }
        }
        Next::Refused
    }

    fn has_next(&self, stream: usize) -> bool {
        let zone = self.streams[stream].and_then(|zone| self.zones.get(&zone));
        matches!(zone, Some(Fill::Filling { next }) if *next < self.zone_segments())
    }

    /// Whether a segment lies in a zone that is not full: nothing of that can be cleaned, and what is left over of the
    /// segment when it is sealed is lost.
    pub(super) fn goes_on_behind(&self, segment: SegmentId) -> bool {
        let zone = self.zones.get(&self.layout.grant_of(segment.region()).start);
        matches!(zone, Some(Fill::Filling { next }) if *next < self.zone_segments())
    }

    /// Opens the next segment of a stream's zone, which has one.
    fn open_next(&mut self, stream: usize, class: Lifetime) -> Next {
        let sealed = self.open[stream].first().copied().and_then(|full| self.seal(full));
        let zone = self.streams[stream].expect("a stream that fills a zone");
        let Some(Fill::Filling { next }) = self.zones.get_mut(&zone) else { return Next::Refused };
        let segment = segment(zone, *next);
        *next += 1;
        let headless = self.open_segment(segment, class);
        Next::Opened { segment, sealed, headless }
    }

    /// A segment of a stream was sealed: where it was the last of its zone, nothing more comes there.
    pub(super) fn note_sealed(&mut self, segment: SegmentId, stream: usize) {
        let zone = self.layout.grant_of(segment.region()).start;
        let last = self.zone_segments();
        if let Some(fill) = self.zones.get_mut(&zone)
            && *fill == (Fill::Filling { next: last })
        {
            *fill = Fill::Spent;
            self.streams[stream] = None;
        }
    }

    /// Takes a zone without cells into use again, where nothing more comes there.
    pub(super) fn empty_zone(&mut self, regions: Range<u32>) {
        let of = self.regions.range(regions.clone());
        let is_free = of.fold(true, |is_free, (_, region)| is_free && region.is_free() && !region.leaving);
        let fill = self.zones.get_mut(&regions.start).expect("a zone of a held region");
        if !is_free || matches!(fill, Fill::Filling { .. }) {
            return;
        }
        *fill = Fill::Empty;
        self.freed = true;
        for region in regions {
            self.regions.get_mut(&region).expect("held with its zone").headed = false;
            self.free.extend((0..SEGMENTS_PER_REGION).map(|slot| SegmentId::new(region, slot)));
        }
    }

    /// The last zone that is held and not used.
    pub(super) fn unused_zone(&self) -> Option<u32> {
        Some(self.layout.grant_of(self.free.last()?.region()).start)
    }

    /// The next segment of the zone with the most garbage.
    pub(super) fn victim_in_zone(&mut self, gain_min: u32) -> Option<(SegmentId, Vec<(CellOwner, CellRef)>)> {
        let least = u64::from(gain_min.max(VICTIM_GAIN_UNITS)) * u64::from(self.zone_segments());
        let all = u64::from(self.zone_segments()) * u64::from(SEGMENT_UNITS);
        let spent = self.zones.iter().filter(|(_, fill)| **fill == Fill::Spent);
        let garbage = spent.map(|(zone, _)| {
            let of = self.regions.range(self.layout.grant_of(*zone));
            (all - of.map(|(_, region)| u64::from(region.alive_units())).sum::<u64>(), *zone)
        });
        let mut garbage: Vec<(u64, u32)> = garbage.filter(|(units, _)| *units >= least).collect();
        garbage.sort_unstable_by_key(|(units, zone)| (Reverse(*units), *zone));
        let found = garbage.into_iter().find_map(|(_, zone)| {
            let mut segments = (0..self.zone_segments()).map(|number| segment(zone, number));
            segments.find(|segment| {
                self.used(*segment)
                    .is_some_and(|u| u.phase == Phase::Sealed && !u.cleaning && !u.unmoved && u.live_units > 0)
            })
        })?;
        Some((found, self.begin_cleaning(found)?))
    }

    /// Units of segments in zones that are not empty which have no cell any more, and of those that are still to be opened.
    pub(super) fn unused_in_zones(&self) -> (u64, u64) {
        let (mut dead, mut rest) = (0, 0);
        for (zone, fill) in self.zones.iter().filter(|(_, fill)| **fill != Fill::Empty) {
            let of = self.regions.range(self.layout.grant_of(*zone));
            let slots = (0..).zip(of.flat_map(|(_, region)| &region.slots));
            for (number, _) in slots.filter(|(_, slot)| matches!(slot, Slot::Free)) {
                match fill {
                    Fill::Filling { next } if number >= *next => rest += u64::from(SEGMENT_UNITS),
                    Fill::Filling { .. } | Fill::Spent | Fill::Empty => dead += u64::from(SEGMENT_UNITS),
                }
            }
        }
        (dead, rest)
    }
}

#[cfg(test)]
mod tests;
