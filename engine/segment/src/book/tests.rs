//! What the books choose: where cells go, what is sealed, kept and cleaned.

use super::*;
use cfs_types::ChunkId;

fn book(regions: u32) -> Book {
    let layout = RegionLayout::new(0, 4).expect("aligned");
    let floors = Floors { data_segments: 6, metadata_segments: 3 };
    let mut book = Book::new(layout, floors, false, 0);
    (0..regions).for_each(|region| book.adopt(region, true));
    book
}

fn chunk(number: u64) -> CellOwner {
    CellOwner::Chunk(ChunkId::from_raw(number))
}

/// Places a cell that is written at once; in which segment it is.
fn put(book: &mut Book, number: u64, units: usize) -> (CellRef, SegmentId) {
    match book.place(Purpose::Data, chunk(number), Lifetime::Cold, &vec![0; units], 0) {
        Place::Done { cell, segment, sealed, .. } => {
            sealed.iter().for_each(|table| assert!(book.unpin(table.segment).is_none()));
            assert!(book.unpin(segment).is_none());
            (cell, segment)
        }
        Place::NeedSegment | Place::Refused => panic!("there is room"),
    }
}

fn seal_all(book: &mut Book) {
    for segment in book.sealable(false) {
        book.seal(segment).expect("it is open");
        book.unpin(segment);
    }
}

/// A sealed segment of 512 units, so many of them garbage.
fn sealed(book: &mut Book, number: u64, garbage: usize) -> SegmentId {
    let (gone, segment) = put(book, 2 * number, garbage);
    put(book, 2 * number + 1, 512 - garbage);
    seal_all(book);
    assert_eq!(book.retire(chunk(2 * number), gone), Ok(None));
    segment
}

#[test]
fn floors_grow_with_the_share_between_limits() {
    let of = |segments| {
        let floors = Floors::of_share(segments);
        (floors.data_segments, floors.metadata_segments)
    };
    assert_eq!([of(0), of(400), of(4800), of(100_000)], [(12, 4), (12, 6), (150, 75), (256, 96)]);
}

#[test]
fn what_an_old_segment_gains_counts_for_more() {
    let mut book = book(1);
    let old = sealed(&mut book, 0, 256);
    let young = sealed(&mut book, 1, 300);
    // 256 of 768 at age 2, 300 of 724 at age 1.
    assert_eq!(book.victim(0).map(|(segment, _)| segment), Some(old));
    book.cleaned(old, true);
    // What was just looked at is young again; both have the same age.
    assert_eq!(book.victim(0).map(|(segment, _)| segment), Some(young));
    book.cleaned(young, true);
    let emptier = sealed(&mut book, 2, 500);
    // 500 of 524 at age 1, 300 of 724 at age 2.
    assert_eq!(book.victim(0).map(|(segment, _)| segment), Some(emptier));
    assert_eq!(book.victim(0).map(|(segment, _)| segment), Some(young), "it is not chosen twice");
    assert_eq!(book.victim(0).map(|(segment, _)| segment), Some(old));
    assert!(book.victim(0).is_none());
}

#[test]
fn a_victim_gains_32_units_and_was_not_in_vain_before() {
    let mut book = book(1);
    sealed(&mut book, 0, 31);
    assert!(book.victim(0).is_none());
    let enough = sealed(&mut book, 1, 32);
    let (segment, live) = book.victim(0).expect("it gains 32 units");
    let kept = CellRef::new(book.layout.data_unit(enough) + 32, 480).expect("inside");
    assert_eq!((segment, live), (enough, vec![(chunk(3), kept)]));
    book.cleaned(enough, false);
    assert!(book.victim(0).is_none(), "nothing of it could be moved");
    book.retry_unmoved();
    assert_eq!(book.victim(0).map(|(segment, _)| segment), Some(enough));
}

#[test]
fn a_cell_goes_where_it_leaves_least_over_and_the_fuller_segment_is_sealed() {
    let mut book = book(1);
    let (_, first) = put(&mut book, 0, 400);
    let (_, second) = put(&mut book, 1, 200);
    assert_ne!(first, second, "it does not fit");
    assert_eq!(put(&mut book, 2, 112).1, first, "it fits there to the unit");
    assert_eq!(put(&mut book, 3, 100).1, second);
    let third = put(&mut book, 4, 300).1;
    assert!(third != first && third != second);
    assert_eq!(book.sealable(false), [second, third], "the full one was sealed");
    assert_eq!(put(&mut book, 5, 210).1, second, "of two alike the older");
}

#[test]
fn what_is_dead_within_cells_is_garbage_too() {
    let mut book = book(1);
    let gone = sealed(&mut book, 0, 100);
    let (cell, thin) = put(&mut book, 8, 512);
    seal_all(&mut book);
    assert_eq!(book.note_dead(chunk(9), cell, 1), Err(BookError::NotLive), "another owner's");
    for dead in [200, 300] {
        assert_eq!(book.note_dead(chunk(8), cell, dead), Ok(()));
    }
    let usage = book.usage(0);
    assert_eq!((usage.live_units, usage.garbage_units, usage.lost_units), (412 + 212, 400, 0));
    assert_eq!(book.victim(200).map(|(segment, _)| segment), Some(thin));
    assert_eq!(book.victim(0).map(|(segment, _)| segment), Some(gone));
    assert_eq!(book.retire(chunk(8), cell), Ok(None));
    let usage = book.usage(0);
    assert_eq!((usage.live_units, usage.garbage_units), (412, 100), "what was dead went with its cell");
    assert_eq!(book.note_dead(chunk(8), cell, 1), Err(BookError::NotLive));
}

#[test]
fn the_tail_of_a_class_is_what_its_fullest_open_segment_has_left() {
    let mut book = book(1);
    assert_eq!(book.tail(Lifetime::Cold), 0);
    put(&mut book, 0, 400);
    assert_eq!((book.tail(Lifetime::Cold), book.tail(Lifetime::Hot)), (112, 0));
    put(&mut book, 1, 200);
    assert_eq!(book.tail(Lifetime::Cold), 112);
    put(&mut book, 2, 112);
    assert_eq!(book.tail(Lifetime::Cold), 312, "a full one has none");
}

#[test]
fn every_unit_is_counted_once() {
    let mut book = book(2);
    let all = u64::from(2 * SEGMENTS_PER_REGION * SEGMENT_UNITS);
    let (gone, open) = put(&mut book, 0, 100);
    put(&mut book, 1, 50);
    let usage = book.usage(0);
    assert_eq!((usage.total_units, usage.free_units, usage.live_units), (all, all - 150, 150));
    assert_eq!((usage.open_segments, usage.sealed_segments, usage.free_segments), (1, 0, 61));
    book.retire(chunk(0), gone).expect("live");
    assert_eq!((book.usage(0).garbage_units, book.usage(0).lost_units), (100, 0));
    assert_eq!(book.usage(1).total_units, all + u64::from(SEGMENTS_PER_REGION * SEGMENT_UNITS));
    seal_all(&mut book);
    let usage = book.usage(0);
    // What lives would fit behind itself: all the rest comes back.
    assert_eq!((usage.total_units, usage.garbage_units, usage.lost_units, usage.live_units), (all, 462, 0, 50));
    assert_eq!(usage.free_units, all - u64::from(SEGMENT_UNITS));
    assert_eq!(usage.live_units_by_class[Lifetime::Cold.index()], 50);
    assert_eq!(usage.written_units_by_class[Lifetime::Cold.index()], 150);
    let last = CellRef::new(book.layout.data_unit(open) + 100, 50).expect("inside");
    assert_eq!(book.retire(chunk(0), last), Err(BookError::NotLive), "another owner's");
    assert_eq!(book.retire(chunk(1), last), Ok(None));
    assert_eq!(book.retire(chunk(1), last), Err(BookError::NotLive));
    assert_eq!((book.usage(0).free_units, book.usage(0).live_units), (all, 0));
}

#[test]
fn a_free_region_is_surplus_beside_another_one() {
    let mut book = book(2);
    let (cell, segment) = put(&mut book, 0, 512);
    seal_all(&mut book);
    assert!(book.surplus().is_none(), "nothing became free");
    assert_eq!(book.retire(chunk(0), cell), Ok(None));
    assert_eq!(segment.region(), 0);
    assert_eq!(book.surplus(), Some(1), "62 segments are free");
    assert!(book.surplus().is_none());
    assert_eq!(book.held(), BTreeSet::from([0]));
}

#[test]
fn a_reservation_leaves_the_floor_of_its_purpose() {
    let mut book = book(1);
    let segments = |count: u32| u64::from(count * SEGMENT_UNITS);
    assert!(!book.reserve(Purpose::Data, segments(25) + 1, 0));
    assert!(book.reserve(Purpose::Data, segments(25), 0));
    assert!(!book.reserve(Purpose::Metadata, segments(3) + 1, 0));
    assert!(book.reserve(Purpose::Metadata, segments(3), 0));
    assert!(!book.reserve(Purpose::Reclaim, segments(3) + 1, 0));
    assert!(book.reserve(Purpose::Reclaim, segments(3), 0));
    assert!(!book.reserve(Purpose::Reclaim, 1, 0));
    assert!(book.reserve(Purpose::Reclaim, segments(31), 1), "a region that can be granted");
    book.release(segments(62));
    assert_eq!(book.usage(0).reserved_units, 0);
}
