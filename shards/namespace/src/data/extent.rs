//! An extent: a piece of a file that is contiguous in the file and where it is stored.
//!
//! Invariants: not empty, within one range, extents of a file do not overlap.

use super::codec::{Fields, Writer};
use super::place::{LogRef, Place};
use crate::view::Value;
use cfs_types::{ChunkId, INLINE_WRITE_BYTES_MAX, LogIndex, UNIT_BYTES};

const VERSION: u8 = 1;
const KIND_LOG: u8 = 1;
const KIND_CHUNK: u8 = 2;
const KIND_UNWRITTEN: u8 = 3;

/// A piece of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte, from the beginning of the file.
    pub start: u64,
    /// Bytes, at least 1.
    pub len: u32,
    /// Where they are.
    pub place: Place,
}

impl Extent {
    /// The first byte after it: what its key carries.
    pub fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }

    /// What of it lies in `from..to`; None if nothing does.
    pub fn clipped(&self, from: u64, to: u64) -> Option<Extent> {
        let start = self.start.max(from);
        let end = self.end().min(to);
        let len = u32::try_from(end.checked_sub(start)?).expect("no longer than the extent");
        let distance = u32::try_from(start - self.start).expect("within the extent");
        (len > 0).then(|| Extent { start, len, place: self.place.narrowed(distance, len) })
    }

    /// The value stored under the key that carries [`Extent::end`].
    pub fn encode(&self) -> Value {
        let header = |kind| Writer::of(VERSION).u8(kind).reserved::<2>().u32(self.len);
        match &self.place {
            Place::Log(log) => {
                let fixed = header(KIND_LOG).u64(log.index.get()).u32(log.data_offset).u32(log.data_len).u32(log.skip);
                log.checksums.iter().fold(fixed, |w, crc| w.u32(*crc)).done()
            }
            Place::Chunk { id, offset } => header(KIND_CHUNK).u64(id.get()).u32(*offset).done(),
            Place::Unwritten => header(KIND_UNWRITTEN).done(),
        }
    }

    /// The extent that ends at `end`; None where the bytes are not a valid extent.
    pub fn decode(end: u64, bytes: &[u8]) -> Option<Extent> {
        let mut fields = Fields::of(bytes, VERSION)?;
        let kind = fields.u8()?;
        fields.reserved::<2>()?;
        let len = fields.u32()?;
        let place = match kind {
            KIND_LOG => Place::Log(decode_log(&mut fields)?),
            KIND_CHUNK => Place::Chunk { id: ChunkId::from_raw(fields.u64()?), offset: fields.u32()? },
            KIND_UNWRITTEN => Place::Unwritten,
            _ => return None,
        };
        fields.end()?;
        let start = end.checked_sub(u64::from(len))?;
        (len > 0 && place.holds(len)).then_some(Extent { start, len, place })
    }
}

fn decode_log(fields: &mut Fields) -> Option<LogRef> {
    let index = LogIndex::new(fields.u64()?);
    let (data_offset, data_len, skip) = (fields.u32()?, fields.u32()?, fields.u32()?);
    if data_len > INLINE_WRITE_BYTES_MAX {
        return None;
    }
    let checksums = (0..data_len.div_ceil(UNIT_BYTES)).map(|_| fields.u32());
    let checksums = checksums.collect::<Option<Vec<u32>>>()?;
    Some(LogRef { index, data_offset, data_len, skip, checksums })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn samples() -> Vec<Extent> {
        let log = LogRef {
            index: LogIndex::new(0x0102_0304),
            data_offset: 512,
            data_len: 5000,
            skip: 3,
            checksums: vec![0xAABB_CCDD, 0x1122_3344],
        };
        let chunk = Place::Chunk { id: ChunkId::from_raw(0x0507), offset: 4096 };
        vec![
            Extent { start: 1000, len: 4997, place: Place::Log(log) },
            Extent { start: 0, len: 8192, place: chunk },
            Extent { start: 4096, len: 1, place: Place::Unwritten },
        ]
    }

    #[test]
    fn golden_extents() {
        let hex = |e: &Extent| e.encode().iter().map(|b| format!("{b:02x}")).collect::<String>();
        let got: Vec<String> = samples().iter().map(hex).collect();
        assert_eq!(
            got,
            [
                "0101000085130000040302010000000000020000881300000300 0000ddccbbaa44332211".replace(' ', ""),
                "010200000020000007050000000000000010 0000".replace(' ', ""),
                "0103000001000000".to_string(),
            ]
        );
    }

    #[test]
    fn extents_round_trip_and_every_cut_or_longer_copy_is_refused() {
        for extent in samples() {
            let bytes = extent.encode();
            assert_eq!(Extent::decode(extent.end(), &bytes).as_ref(), Some(&extent));
            for cut in 0..bytes.len() {
                assert_eq!(Extent::decode(extent.end(), &bytes[..cut]), None);
            }
            assert_eq!(Extent::decode(extent.end(), &[&bytes[..], &[0]].concat()), None);
            assert_eq!(Extent::decode(u64::from(extent.len) - 1, &bytes), None);
        }
    }

    #[test]
    fn a_length_from_outside_does_not_allocate() {
        let mut bytes = samples()[0].encode().to_vec();
        bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Extent::decode(1 << 40, &bytes), None);
    }

    #[test]
    fn clipping_keeps_what_lies_inside() {
        let extent = &samples()[1];
        assert_eq!(extent.clipped(0, u64::MAX).as_ref(), Some(extent));
        assert_eq!(extent.clipped(8192, 9000), None);
        let inner = extent.clipped(100, 200).expect("inside");
        assert_eq!((inner.start, inner.len), (100, 100));
        let chunk = Place::Chunk { id: ChunkId::from_raw(0x0507), offset: 4196 };
        assert_eq!(inner.place, chunk);
    }
}
