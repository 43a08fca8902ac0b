//! Bytes of a batch, and what hostile bytes turn into.

use super::*;
use crate::record::RecordKind;
use cfs_types::{GroupId, LogIndex, MoveEpoch, Term};

fn header() -> Header {
    Header {
        stream: StreamId { boot: 2, core: 1, salt: 0x1122_3344_5566_7788 },
        sequence: 9,
        durable_through: 8,
        previous_crc: 0xaabb_ccdd,
        next_slot: 5,
        is_end: false,
        body_bytes: 0,
        records: 0,
        body_crc: 0,
        crc: 0,
    }
}

fn record(payload: &[u8]) -> Record {
    Record {
        group: GroupId::new(3),
        kind: RecordKind::Entry,
        epoch: MoveEpoch::new(1),
        term: Term::new(2),
        index: LogIndex::new(4),
        payload: payload.to_vec().into(),
    }
}

fn sample() -> IoBuf {
    // More room than is used: what lies behind the records is zero all the same.
    let mut batch = Body::with_room(10_000);
    batch.push(&record(b"one"), None);
    batch.push(&record(b"two"), None);
    batch.seal(&header()).0
}

#[test]
fn a_batch_has_these_bytes() {
    let mut body = Vec::new();
    for payload in [b"one", b"two"] {
        let mut bytes = [0; record::RECORD_BYTES + 3];
        record::encode(&record(payload), None, &mut bytes);
        body.extend(bytes);
    }
    let mut expected = b"cfsL\x01\x00\x00\x00\x88\x77\x66\x55\x44\x33\x22\x11".to_vec();
    expected.extend([2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0]);
    expected.extend([9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([0xdd, 0xcc, 0xbb, 0xaa, 70, 0, 0, 0, 2, 0, 0, 0]);
    expected.extend(crc32c(&body).to_le_bytes());
    expected.resize(CRC_AT, 0);
    let crc = crc32c(&expected);
    expected.extend(crc.to_le_bytes());
    expected.extend(&body);
    expected.resize(BLOCK_BYTES, 0);
    assert_eq!(&sample()[..], &expected[..]);
}

#[test]
fn what_was_sealed_is_read_back() {
    let bytes = sample();
    let header = parse_header(&bytes).expect("intact");
    assert_eq!(header.batch_bytes(), 4096);
    let body = body(&header, &bytes).expect("intact");
    let payloads: Vec<&[u8]> = records(&header, body).expect("two").iter().map(|r| r.payload).collect();
    assert_eq!(payloads, [b"one", b"two"]);
}

#[test]
fn no_flipped_byte_is_believed() {
    let good = sample();
    for at in 0..BATCH_HEADER_BYTES + 70 {
        for bit in 0..8 {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1 << bit;
            let believed = parse_header(&bytes).is_some_and(|header| body(&header, &bytes).is_some());
            assert!(!believed, "byte {at}");
        }
    }
}

#[test]
fn a_body_cut_off_is_not_believed() {
    let bytes = sample();
    let header = parse_header(&bytes).expect("intact");
    assert_eq!(body(&header, &bytes[..BATCH_HEADER_BYTES + 69]), None);
    assert_eq!(body(&Header { body_bytes: u32::MAX, ..header }, &bytes), None);
    assert_eq!(records(&Header { records: u32::MAX, ..header }, &bytes[128..198]), None);
}
