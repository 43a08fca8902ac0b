//! docs/formats/segment.md: region headers and segment tables.

use crate::disk::{number, seal};
use cfs_fuzz::{Target, unhex};
use cfs_segment::{CellOwner, Lifetime, RegionHeader, SEGMENT_UNITS, SegmentId, SegmentTable, TableEntry, UNIT_BYTES};
use cfs_types::{ChunkId, GroupId};

const HEADER: usize = 64;
const TABLE: usize = 64 << 10;

fn padded(mut bytes: Vec<u8>, whole: usize) -> Vec<u8> {
    bytes.resize(whole, 0);
    bytes
}

#[test]
fn region_headers() {
    let golden = unhex(include_str!("../../../../engine/segment/tests/golden/region-header.hex"));
    Target::new("region header", &["engine/segment/src/table.rs"], vec![padded(golden, UNIT_BYTES)])
        .sealed(|bytes| seal(bytes, 0, HEADER - 4, HEADER - 4))
        .may_hold(4, 8 << 10)
        .is_exact(
            |bytes| RegionHeader::decode(bytes.get(..UNIT_BYTES)?, 7).ok().filter(|_| bytes.len() == UNIT_BYTES),
            |header| header.encode().to_vec(),
        );
}

#[test]
fn segment_tables() {
    let segment = SegmentId::new(5, 30);
    let golden = unhex(include_str!("../../../../engine/segment/tests/golden/segment-table.hex"));
    let chunk = |at: u32| TableEntry { owner: CellOwner::Chunk(ChunkId::from_raw(at.into())), at, checksums: vec![at] };
    let entries: Vec<TableEntry> = (0..SEGMENT_UNITS).step_by(40).map(chunk).collect();
    let many = SegmentTable { segment, generation: 9, class: Lifetime::Hot, entries };
    let owner = CellOwner::Table { group: GroupId::new(256), table: u64::MAX };
    let entries = vec![TableEntry { owner, at: 0, checksums: vec![1; 512] }];
    let whole = SegmentTable { segment, generation: u64::MAX, class: Lifetime::Parity, entries };
    let seeds = vec![padded(golden, TABLE), many.encode().to_vec(), whole.encode().to_vec()];
    Target::new("segment table", &["engine/segment/src/table.rs", "engine/segment/src/cell.rs"], seeds)
        .sealed(|bytes| {
            let body = number(bytes, 36);
            seal(bytes, HEADER, HEADER.saturating_add(body), 40);
            seal(bytes, 0, HEADER - 4, HEADER - 4);
        })
        .may_hold(4, 0)
        .mutants(20_000)
        .round_trips(|bytes| SegmentTable::decode(bytes, segment).ok(), |table| table.encode().to_vec());
}
