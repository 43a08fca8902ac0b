//! docs/formats/kv-table.md: blocks, index, filter and footer of sorted tables, lists, and roots.

use crate::disk::{lay, number};
use cfs_fuzz::{Target, unhex};
use cfs_kv::{BlockCache, List, Lookup, Manifest, Root, Scan, Store, StoreConfig, TableCheck, TableRef, verify_table};
use cfs_segment::{
    CellOwner, CellRef, Floors, LocalRegions, REGION_BYTES, RegionLayout, SegmentId, Space, SpaceConfig, UNIT_BYTES,
    checksum,
};
use cfs_sim::{MemoryDisk, now};
use cfs_types::{GroupId, Timestamp};
use std::rc::Rc;

const REGIONS: u32 = 1;

/// As that of the golden table.
fn stem(key: &[u8]) -> Option<&[u8]> {
    key.get(..2)
}

fn device() -> MemoryDisk {
    cfs_sim::disk(u64::from(REGIONS) * REGION_BYTES)
}

fn space(device: &MemoryDisk) -> Space {
    let layout = RegionLayout::new(0, REGIONS).expect("aligned");
    let grants = LocalRegions::new(REGIONS, &Default::default());
    let floors = Floors { data_segments: 2, metadata_segments: 2 };
    let config = SpaceConfig { layout, floors, discard: false, start: 1 };
    Space::new(Rc::new(device.clone()), Rc::new(grants), config)
}

/// The first cell of so many units.
fn cell(units: u32) -> CellRef {
    let layout = RegionLayout::new(0, REGIONS).expect("aligned");
    CellRef::new(layout.data_unit(SegmentId::new(0, 0)), units).expect("in range")
}

fn seal_part(bytes: &mut [u8], owner: CellOwner, first_unit: usize, end_unit: usize) {
    let Some(part) = bytes.get_mut(first_unit * UNIT_BYTES..end_unit * UNIT_BYTES) else { return };
    let unit = u32::try_from(first_unit).expect("small");
    let crc = checksum(owner, unit, &part[4..]);
    part[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Blocks as far as each of them says, then the index, then the footer.
fn seal_table(bytes: &mut Vec<u8>, owner: CellOwner, meta_unit: usize, units: usize) {
    bytes.resize(units * UNIT_BYTES, 0);
    let mut unit = 0;
    while unit < meta_unit {
        let end = (unit + number(bytes, unit * UNIT_BYTES + 4).div_ceil(UNIT_BYTES)).clamp(unit + 1, meta_unit);
        seal_part(bytes, owner, unit, end);
        unit = end;
    }
    seal_part(bytes, owner, meta_unit, units - 1);
    seal_part(bytes, owner, units - 1, units);
}

/// Looks for keys in a store of this one table, and lists it. Damage is an error; an endless loop is none.
fn look(space: Space, group: GroupId, table: TableRef) {
    let manifest = Manifest { next_table_id: table.id + 1, tables: vec![table], ..Manifest::default() };
    for (owner, cell) in manifest.claims(group) {
        space.claim(owner, cell).expect("the first cell");
    }
    let config = StoreConfig::new(32 << 10, BlockCache::new(1 << 20), 1, stem);
    let store = Store::open(group, Some(manifest), space, config);
    for key in [&b"apple"[..], b"apricot", b"key0100", b"", b"zzz"] {
        for round in 0.. {
            assert!(round < 10, "what was fetched is not missed again");
            let Lookup::Miss(fetch) = store.get(key, Timestamp::new(6)) else { break };
            if now(store.fetch(&fetch)).is_err() {
                break;
            }
        }
    }
    // All of it, and what the filter is asked for: keys of one stem.
    for (from, to) in [(&b""[..], &[0xff; 9][..]), (b"ap", b"aq"), (b"key0", b"key9"), (b"zz", b"z{")] {
        let mut pins = None;
        for round in 0.. {
            assert!(round < 1000, "what was fetched is not missed again");
            let Scan::Miss(fetch) = store.scan(from, to, Timestamp::MAX, 100) else { break };
            let Ok(fetched) = now(store.fetch(&fetch)) else { break };
            pins = Some(fetched);
        }
        drop(pins);
    }
}

fn try_table(what: &'static str, group: GroupId, id: u64, bytes: Vec<u8>) {
    let units = bytes.len() / UNIT_BYTES;
    let meta_unit = number(&bytes, (units - 1) * UNIT_BYTES + 32) & 0xffff;
    let owner = CellOwner::Table { group, table: id };
    let table = TableRef { id, cell: cell(u32::try_from(units).expect("small")), level: 0 };
    let device = device();
    Target::new(what, &["engine/kv/src/block.rs", "engine/kv/src/table.rs", "engine/kv/src/filter.rs"], vec![bytes])
        .sealed(|bytes| seal_table(bytes, owner, meta_unit, units))
        // A store has its cache; a table is read whole to be verified.
        .may_hold(16, 64 << 10)
        .mutants(8_000)
        .decodes(|bytes| {
            lay(&device, table.cell.offset(), bytes, units * UNIT_BYTES);
            let TableCheck { damage, entries, .. } =
                now(verify_table(&space(&device), group, &table, stem, async || ())).ok()?;
            look(space(&device), group, table);
            damage.is_empty().then_some(entries)
        });
}

#[test]
fn golden_tables() {
    let now = include_str!("../../../../engine/kv/tests/golden/table.hex");
    let before_stems = include_str!("../../../../engine/kv/tests/golden/table-1.hex");
    for (what, golden) in [("golden table", now), ("golden table of version 1", before_stems)] {
        let units = golden.split("\n\n").map(|part| {
            let mut unit = unhex(part);
            unit.resize(UNIT_BYTES, 0);
            unit
        });
        try_table(what, GroupId::new(3), 0x0a0b, units.collect::<Vec<_>>().concat());
    }
}

#[test]
fn tables_of_several_blocks() {
    let group = GroupId::new(3);
    let (id, bytes) = cfs_sim::run(1, move |world| async move {
        let device = device();
        let layout = RegionLayout::new(0, REGIONS).expect("aligned");
        let floors = Floors { data_segments: 2, metadata_segments: 2 };
        let config = SpaceConfig { layout, floors, discard: false, start: 1 };
        let grants = Rc::new(LocalRegions::new(REGIONS, &Default::default()));
        let space = Space::new(device.attach(&world), grants, config);
        space.start();
        let store = Store::open(group, None, space, StoreConfig::new(32 << 10, BlockCache::new(1 << 20), 1, stem));
        let row =
            |i: u32| (format!("key{i:04}").into_bytes().into(), (!i.is_multiple_of(9)).then(|| vec![7; 40].into()));
        store.apply((0..200).map(row).collect(), Timestamp::new(5));
        store.apply(vec![(b"long".as_slice().into(), Some(vec![3; 9000].into()))], Timestamp::new(6));
        assert!(store.freeze());
        let mut change = store.flush().await.expect("there is space").expect("rows");
        store.propose(&mut change).await.expect("room in the root");
        store.install(change).expect("the cells were live");
        let table = store.manifest().tables[0];
        let bytes = usize::try_from(table.cell.units()).expect("small") * UNIT_BYTES;
        (table.id, device.peek(table.cell.offset(), bytes))
    });
    assert!(bytes.len() > 6 * UNIT_BYTES, "several blocks");
    try_table("table", group, id, bytes);
}

#[test]
fn lists_of_tables() {
    let (group, id, level) = (GroupId::new(7), 9, 4);
    let mut golden = unhex(include_str!("../../../../engine/kv/tests/golden/list.hex"));
    golden.resize(UNIT_BYTES, 0);
    let list = List { id, cell: cell(1), level, tables: Vec::new() };
    let root = Manifest { next_table_id: 10, tables: Vec::new(), lists: vec![list] }.root();
    let device = device();
    Target::new("list", &["engine/kv/src/list.rs"], vec![golden])
        .sealed(|bytes| {
            bytes.resize(UNIT_BYTES, 0);
            seal_part(bytes, CellOwner::Table { group, table: id }, 0, 1);
        })
        .may_hold(8, 16 << 10)
        .mutants(20_000)
        .decodes(|bytes| {
            lay(&device, cell(1).offset(), bytes, UNIT_BYTES);
            let manifest = now(root.load(&space(&device), group)).ok()?;
            assert_eq!(manifest.root(), root, "the list is named as before");
            Some(manifest)
        });
}

#[test]
fn roots() {
    let golden = [
        include_str!("../../../../engine/kv/tests/golden/root.hex"),
        include_str!("../../../../engine/kv/tests/golden/manifest.hex"),
    ];
    Target::new("root", &["engine/kv/src/manifest.rs"], golden.map(unhex).to_vec())
        .round_trips(|bytes| Root::decode(bytes).ok(), Root::encode);
}
