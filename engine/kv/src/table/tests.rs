//! Tables against their golden bytes, hostile bytes, and the limits of a cell.

use super::*;
use crate::golden::unhex;

const GROUP: GroupId = GroupId::new(3);
const ID: u64 = 0x0a0b;
const OWNER: CellOwner = CellOwner::Table { group: GROUP, table: ID };

fn two_bytes(key: &[u8]) -> Option<&[u8]> {
    key.get(..2)
}

fn sample() -> (Vec<u8>, Footer) {
    let mut builder = TableBuilder::new(GROUP, ID, two_bytes);
    builder.push(b"apple", !7, Some(b"red"));
    builder.push(b"apple", !5, None);
    builder.push(b"apricot", !6, Some(b"orange"));
    builder.finish().expect("not empty")
}

fn many(count: u32) -> (Vec<u8>, Footer) {
    let mut builder = TableBuilder::new(GROUP, ID, two_bytes);
    for i in 0..count {
        builder.push(format!("key{i:05}").as_bytes(), !7, Some(&[1; 100]));
    }
    builder.finish().expect("not empty")
}

#[test]
fn a_table_is_these_bytes() {
    let (bytes, _) = sample();
    assert_eq!(bytes.len(), 3 * UNIT_BYTES);
    let golden = include_str!("../../tests/golden/table.hex");
    for (unit, part) in bytes.chunks(UNIT_BYTES).zip(golden.split("\n\n")) {
        let part: String = part.split_whitespace().collect();
        let hex: String = unit.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex[..part.len()], part);
        assert!(hex[part.len()..].bytes().all(|b| b == b'0'));
    }
}

#[test]
fn a_table_of_before_stems_is_read() {
    let bytes: Vec<u8> = include_str!("../../tests/golden/table-1.hex").split("\n\n").flat_map(whole).collect();
    let footer = Footer::decode(&bytes[2 * UNIT_BYTES..], GROUP, ID, 3).expect("sound");
    assert!(!footer.stems && footer.entries == 3);
    let meta = Meta::decode(&bytes[UNIT_BYTES..2 * UNIT_BYTES], OWNER, footer.meta_unit).expect("sound");
    assert!(meta.may_contain(filter::hash(b"apple")) && !meta.may_contain(filter::hash(b"ap")));
}

/// A unit, of which the golden file leaves the zeros at the end out.
fn whole(part: &str) -> Vec<u8> {
    let mut unit = unhex(part);
    unit.resize(UNIT_BYTES, 0);
    unit
}

#[test]
fn what_is_built_is_read_back() {
    let (bytes, footer) = many(500);
    let units = bytes.len() / UNIT_BYTES;
    let last = &bytes[(units - 1) * UNIT_BYTES..];
    assert_eq!(Footer::decode(last, GROUP, ID, u32::try_from(units).expect("small")), Some(footer.clone()));
    let meta_at = usize::try_from(footer.meta_unit).expect("small") * UNIT_BYTES;
    let meta = Meta::decode(&bytes[meta_at..(units - 1) * UNIT_BYTES], OWNER, footer.meta_unit).expect("sound");
    assert!(meta.may_contain(filter::hash(b"ke")) && !meta.may_contain(filter::hash(b"kf")));
    assert_eq!(meta.seek(b"key", 0), 0);
    assert_eq!(meta.block(meta.seek(b"key99999", 0)), None);
}

#[test]
fn another_tables_bytes_are_refused() {
    let (bytes, footer) = sample();
    assert!(Footer::decode(&bytes[2 * UNIT_BYTES..], GROUP, ID, 3).is_some());
    for (group, id, units) in [(4, ID, 3), (3, ID + 1, 3), (3, ID, 4), (3, ID, 0)] {
        assert_eq!(Footer::decode(&bytes[2 * UNIT_BYTES..], GroupId::new(group), id, units), None);
    }
    let meta = &bytes[UNIT_BYTES..2 * UNIT_BYTES];
    assert!(Meta::decode(meta, OWNER, footer.meta_unit).is_some());
    assert!(Meta::decode(meta, OWNER, 2).is_none());
}

#[test]
fn a_builder_that_says_it_fits_keeps_to_the_cell() {
    for (key_bytes, value_bytes) in [(8, 0), (1000, 10), (20, 100), (1024, 3000), (8, 4064), (8, 4065), (8, 300_000)] {
        let (mut builder, value, mut count) = (TableBuilder::new(GROUP, ID, two_bytes), vec![3; value_bytes], 0u64);
        loop {
            let mut key = count.to_be_bytes().to_vec();
            key.resize(key_bytes, 0);
            if !builder.fits(&key, value.len()) {
                break;
            }
            builder.push(&key, 1, Some(&value));
            count += 1;
        }
        let (bytes, footer) = builder.finish().expect("not empty");
        assert_eq!(footer.entries, count);
        assert!(bytes.len() <= UNITS_MAX * UNIT_BYTES);
        assert!(bytes.len() > UNITS_MAX * UNIT_BYTES * 8 / 10, "{key_bytes}, {value_bytes}: {} bytes", bytes.len());
    }
}
