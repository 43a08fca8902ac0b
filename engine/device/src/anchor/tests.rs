//! Bytes of a copy, and what hostile bytes turn into.

use super::*;

const DEVICE: [u8; 16] = [7; 16];

fn id() -> AnchorId {
    AnchorId::stream(2).expect("below 128")
}

#[test]
fn a_copy_has_these_bytes() {
    let buf = encode(DEVICE, id(), 3, b"record");
    assert_eq!(buf.len(), BLOCK_BYTES);
    let mut expected = Vec::new();
    expected.extend(b"cfsA\x01\x00\x82\x01");
    expected.extend(DEVICE);
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0]);
    expected.extend(crc32c(b"record").to_le_bytes());
    expected.extend([0; 20]);
    let crc = crc32c(&expected);
    expected.extend(crc.to_le_bytes());
    expected.extend(b"record");
    expected.resize(BLOCK_BYTES, 0);
    assert_eq!(&buf[..], &expected[..]);
}

#[test]
fn no_flipped_byte_is_believed() {
    let good = encode(DEVICE, id(), 3, b"record");
    for at in 0..HEADER_BYTES + 6 {
        for bit in 0..8 {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1 << bit;
            assert!(matches!(decode(DEVICE, id(), &bytes), CopyState::Damaged(_)), "byte {at}");
        }
    }
}

#[test]
fn copies_of_other_entries_and_devices_are_damage() {
    let good = encode(DEVICE, id(), 3, b"record");
    assert!(matches!(decode([8; 16], id(), &good), CopyState::Damaged(_)));
    assert!(matches!(decode(DEVICE, AnchorId::group(GroupId::new(1)), &good), CopyState::Damaged(_)));
    assert_eq!(decode(DEVICE, id(), &[0; COPY_BYTES]), CopyState::Blank);
}

#[test]
fn the_newer_copy_wins_and_two_bad_ones_are_not_blank() {
    let valid = |generation| CopyState::Valid { generation, record: vec![] };
    let state = |a, b| AnchorState { copies: [a, b] };
    assert_eq!(state(valid(2), valid(3)).newest(), Some(1));
    assert_eq!(state(valid(3), CopyState::Damaged("")).newest(), Some(0));
    assert!(state(CopyState::Damaged(""), CopyState::Blank).never_written());
    assert!(!state(CopyState::Damaged(""), CopyState::Damaged("")).never_written());
}
