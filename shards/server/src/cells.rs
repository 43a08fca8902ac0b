//! Where the chunks of a shard lie: this node's own records, in the shard's local key space.
//!
//! Layout (docs/formats/local.md): key 0xF0 'c' chunk (big-endian u64) -> unit u64, units u32,
//! length u32; key 0xF0 'k' chunk -> CRC32C of each 4 KiB block, u32 each. Two keys, so that the
//! start reads places without checksums. Beside them key 0xF0 's' -> when all that the shard stores was last
//! verified, i64.

use cfs_kv::{Lookup, Store};
use cfs_segment::CellRef;
use cfs_types::{ChunkId, Nanos, Timestamp};
use std::rc::Rc;

use crate::replica::LocalWrite;

/// First byte of every local key.
pub const LOCAL_SPACE: u8 = 0xf0;

/// A chunk's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its cell.
    pub cell: CellRef,
    /// Bytes it was written with.
    pub len: u32,
}

fn key(kind: u8, chunk: ChunkId) -> Box<[u8]> {
    [&[LOCAL_SPACE, kind][..], &chunk.get().to_be_bytes()].concat().into()
}

/// First key of the places and one past the last.
pub fn places() -> ([u8; 2], [u8; 2]) {
    ([LOCAL_SPACE, b'c'], [LOCAL_SPACE, b'd'])
}

/// Key of when all that the shard stores was last verified.
pub fn verified_key() -> [u8; 2] {
    [LOCAL_SPACE, b's']
}

/// The write that records when all that the shard stores was last verified, or forgets it.
pub fn verified(at: Option<Nanos>) -> LocalWrite {
    (verified_key().into(), at.map(|at| Rc::from(at.get().to_le_bytes())))
}

/// That time; None where the value is none.
pub fn decode_verified(value: &[u8]) -> Option<Nanos> {
    Some(Nanos::new(i64::from_le_bytes(value.try_into().ok()?)))
}

/// First key of the records of checksums and one past the last.
pub fn checksum_rows() -> ([u8; 2], [u8; 2]) {
    ([LOCAL_SPACE, b'k'], [LOCAL_SPACE, b'l'])
}

/// The chunk of a record of checksums; None where the key is of another kind.
pub fn checksums_of(key: &[u8]) -> Option<ChunkId> {
    let chunk = key.strip_prefix(&[LOCAL_SPACE, b'k'])?.try_into().ok()?;
    Some(ChunkId::from_raw(u64::from_be_bytes(chunk)))
}

/// The chunk and place of a row; None where it does not decode.
pub fn decode_row(key: &[u8], value: &[u8]) -> Option<(ChunkId, Place)> {
    let chunk = u64::from_be_bytes(key.strip_prefix(&[LOCAL_SPACE, b'c'])?.try_into().ok()?);
    Some((ChunkId::from_raw(chunk), decode_place(value)?))
}

fn decode_place(value: &[u8]) -> Option<Place> {
    let (unit, rest) = value.split_first_chunk::<8>()?;
    let (units, rest) = rest.split_first_chunk::<4>()?;
    let cell = CellRef::new(u64::from_le_bytes(*unit), u32::from_le_bytes(*units))?;
    Some(Place { cell, len: u32::from_le_bytes(rest.try_into().ok()?) })
}

/// The writes that record a chunk.
pub fn record(chunk: ChunkId, place: Place, checksums: &[u32]) -> [LocalWrite; 2] {
    let mut value = place.cell.unit().to_le_bytes().to_vec();
    value.extend_from_slice(&place.cell.units().to_le_bytes());
    value.extend_from_slice(&place.len.to_le_bytes());
    let sums: Vec<u8> = checksums.iter().flat_map(|c| c.to_le_bytes()).collect();
    [(key(b'c', chunk), Some(Rc::from(value))), (key(b'k', chunk), Some(Rc::from(sums)))]
}

/// The writes that forget a chunk.
pub fn forget(chunk: ChunkId) -> [LocalWrite; 2] {
    [(key(b'c', chunk), None), (key(b'k', chunk), None)]
}

/// What the store says of a chunk.
pub enum Found {
    /// Its place, and the checksums of all its blocks.
    Place(Place, Rc<[u8]>),
    /// This node has no such chunk.
    Absent,
    /// The record does not decode.
    Damaged,
    /// Load this and ask again.
    Miss(cfs_kv::Fetch),
}

/// Where the store says that a chunk is.
pub enum PlaceFound {
    /// There.
    Place(Place),
    /// This node has no such chunk.
    Absent,
    /// The record does not decode.
    Damaged,
    /// Load this and ask again.
    Miss(cfs_kv::Fetch),
}

/// Looks up where a chunk is.
pub fn place(store: &Store, chunk: ChunkId) -> PlaceFound {
    match store.get(&key(b'c', chunk), Timestamp::MAX) {
        Lookup::Found(value) => decode_place(&value).map_or(PlaceFound::Damaged, PlaceFound::Place),
        Lookup::Absent => PlaceFound::Absent,
        Lookup::Miss(fetch) => PlaceFound::Miss(fetch),
    }
}

/// Looks a chunk up.
pub fn find(store: &Store, chunk: ChunkId) -> Found {
    let place = match place(store, chunk) {
        PlaceFound::Place(place) => place,
        PlaceFound::Absent => return Found::Absent,
        PlaceFound::Damaged => return Found::Damaged,
        PlaceFound::Miss(fetch) => return Found::Miss(fetch),
    };
    let sums = match store.get(&key(b'k', chunk), Timestamp::MAX) {
        Lookup::Found(value) => value,
        Lookup::Absent => return Found::Damaged,
        Lookup::Miss(fetch) => return Found::Miss(fetch),
    };
    let fits = sums.len() / 4 == place.cell.units() as usize;
    if fits { Found::Place(place, sums) } else { Found::Damaged }
}

/// The checksums of blocks `first..first + count` out of a record of all.
pub fn checksums(sums: &[u8], first: u32, count: u32) -> Vec<u32> {
    let (first, count) = (first as usize, count as usize);
    let words = sums.as_chunks::<4>().0.iter().skip(first).take(count);
    words.map(|w| u32::from_le_bytes(*w)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let chunk = ChunkId::from_raw(0x0102_0304_0506_0708);
        let place = Place { cell: CellRef::new(20_000, 3).expect("valid"), len: 9000 };
        let [(key, value), (_, sums)] = record(chunk, place, &[1, 2, 3]);
        assert_eq!(decode_row(&key, &value.expect("a value")), Some((chunk, place)));
        assert_eq!(checksums(&sums.expect("a value"), 1, 2), [2, 3]);
    }

    #[test]
    fn records_have_these_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let place = Place { cell: CellRef::new(20_000, 2).expect("valid"), len: 5000 };
        let [(place_key, place), (sums_key, sums)] = record(ChunkId::from_raw(0x0102), place, &[1, 0xaabb_ccdd]);
        assert_eq!(hex(&place_key), "f0630000000000000102");
        assert_eq!(hex(&place.expect("a value")), "204e0000000000000200000088130000");
        assert_eq!(hex(&sums_key), "f06b0000000000000102");
        assert_eq!(hex(&sums.expect("a value")), "01000000ddccbbaa");
        let (key, time) = verified(Some(Nanos::new(0x0102_0304)));
        assert_eq!((hex(&key), hex(&time.clone().expect("a value"))), ("f073".into(), "0403020100000000".into()));
        assert_eq!(time.and_then(|time| decode_verified(&time)), Some(Nanos::new(0x0102_0304)));
        assert_eq!(decode_verified(&[0; 7]), None);
    }
}
