//! What the books do with zones: two regions each here, two filled at a time.

use super::super::{Book, Floors, Place, Purpose};
use crate::{CellOwner, CellRef, Lifetime, RegionLayout, SegmentId, ZoneShape};
use cfs_types::ChunkId;

/// Segments of a zone.
const ZONE: u32 = 62;

fn book(zones: u32) -> Book {
    let layout = RegionLayout::new(0, 12).expect("aligned").in_zones(ZoneShape { regions: 2, streams: 2 });
    let floors = Floors { data_segments: ZONE, metadata_segments: 0 };
    let mut book = Book::new(layout, floors, true, 0);
    (0..zones).for_each(|zone| book.adopt(2 * zone, false));
    book
}

fn owner(number: u64) -> CellOwner {
    CellOwner::Chunk(ChunkId::from_raw(number))
}

/// Places a cell of a whole segment, which is written at once; the segments whose table and header came before it.
fn put(book: &mut Book, number: u64, class: Lifetime) -> Option<(CellRef, SegmentId, Option<SegmentId>)> {
    match book.place(class.into(), owner(number), class, &[0; 512], 0) {
        Place::Done { cell, segment, sealed, .. } => {
            let before = sealed.map(|table| table.segment);
            before.iter().for_each(|before| assert_eq!(book.unpin(*before), None));
            assert_eq!(book.unpin(segment), None);
            Some((cell, segment, before))
        }
        Place::NeedSegment | Place::Refused => None,
    }
}

/// Fills a zone: its cells.
fn filled(book: &mut Book, from: u64, class: Lifetime) -> Vec<(u64, CellRef)> {
    let cells =
        (from..from + u64::from(ZONE)).map(|number| (number, put(book, number, class).expect("there is room").0));
    cells.collect()
}

fn retire(book: &mut Book, cells: &[(u64, CellRef)]) {
    cells.iter().for_each(|(number, cell)| assert_eq!(book.retire(owner(*number), *cell), Ok(None)));
}

#[test]
fn segments_are_opened_in_the_order_of_their_places_and_sealed_before_the_next() {
    let mut book = book(4);
    let mut last: Option<SegmentId> = None;
    for number in 0..u64::from(ZONE) {
        let (_, segment, before) = put(&mut book, number, Lifetime::Hot).expect("there is room");
        assert_eq!(before, last);
        assert!(last.is_none_or(|last| last < segment), "{segment} after {last:?}");
        last = Some(segment);
        // Another class fills another zone meanwhile.
        let (_, other, _) = put(&mut book, 1000 + number, Lifetime::Relocated).expect("there is room");
        assert_ne!(other.region() / 2, segment.region() / 2);
    }
    let (_, next, before) = put(&mut book, 500, Lifetime::Hot).expect("there is room");
    assert_eq!((before, next.slot(), next.region() % 2), (last, 0, 0), "a zone begins with its first segment");
}

#[test]
fn a_zone_is_used_again_when_it_is_full_and_nothing_in_it_is_alive() {
    let mut book = book(2);
    let cells = filled(&mut book, 0, Lifetime::Hot);
    retire(&mut book, &cells[..40]);
    assert!(put(&mut book, 100, Lifetime::Hot).is_none(), "the other one is kept back");
    retire(&mut book, &cells[40..61]);
    // Sealed, since nothing comes behind it, and read by somebody.
    let last = SegmentId::new(1, 30);
    assert!(book.sealable(true).is_empty(), "it was written to");
    assert_eq!(book.sealable(true), [last]);
    let table = book.seal(last).expect("it is open");
    assert!(book.pin(last));
    assert_eq!(book.unpin(table.segment), None);
    retire(&mut book, &cells[61..]);
    assert!(put(&mut book, 101, Lifetime::Hot).is_none());
    assert_eq!(book.unpin(last), None);
    assert!(put(&mut book, 102, Lifetime::Hot).is_some());
    let usage = book.usage(0);
    assert_eq!((usage.free_segments, usage.garbage_units), (u64::from(ZONE), 0));
}

#[test]
fn what_gives_space_back_goes_where_others_still_have_room() {
    let mut book = book(1);
    book.floors = Floors { data_segments: 0, metadata_segments: 0 };
    put(&mut book, 0, Lifetime::Hot).expect("there is room");
    assert!((0..2).all(|_| book.sealable(true).is_empty()), "more comes behind it");
    assert!(put(&mut book, 1, Lifetime::Cold).is_none(), "there is no other zone");
    let (_, segment, before) = put(&mut book, 2, Lifetime::Relocated).expect("there is room in this one");
    assert_eq!((segment, before), (SegmentId::new(0, 1), Some(SegmentId::new(0, 0))));
}

#[test]
fn the_zone_with_the_most_garbage_is_cleaned_segment_by_segment() {
    let mut book = book(6);
    let (one, two) = (filled(&mut book, 0, Lifetime::Hot), filled(&mut book, 100, Lifetime::Hot));
    put(&mut book, 200, Lifetime::Hot);
    retire(&mut book, &one[..20]);
    retire(&mut book, &two[..59]);
    let mut seen = Vec::new();
    while let Some((segment, live)) = book.victim(256) {
        assert_eq!(live.len(), 1);
        seen.push(segment);
    }
    assert_eq!(
        seen,
        (28..31).map(|slot| SegmentId::new(3, slot)).collect::<Vec<_>>(),
        "a third of the other is too little"
    );
}

#[test]
fn a_zone_that_was_found_with_cells_is_not_filled_on() {
    let mut book = book(0);
    let cell = CellRef::new(book.layout.data_unit(SegmentId::new(2, 3)), 1).expect("in range");
    assert_eq!(book.claim(owner(1), cell), Ok(()));
    assert_eq!(book.held().into_iter().collect::<Vec<_>>(), [2, 3]);
    assert!(matches!(book.place(Purpose::Reclaim, owner(2), Lifetime::Hot, &[0], 0), Place::Refused));
    let usage = book.usage(0);
    assert_eq!((usage.total_units, usage.live_units, usage.garbage_units), (62 * 512, 1, 62 * 512 - 1));
    assert_eq!(book.retire(owner(1), cell), Ok(None));
    assert_eq!(book.drop_free(), Some(2), "it is given back whole");
    assert!(book.held().is_empty());
}
