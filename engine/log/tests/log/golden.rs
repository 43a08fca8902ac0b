//! A store that version 1 wrote stays readable.

use crate::harness::{DEVICE_BYTES, record};
use cfs_device::{AnchorId, Anchors, open};
use cfs_log::{LogError, RecordKind, StreamEnd, inspect};
use cfs_seam::Disk;
use cfs_sim::{MemoryDisk, disk, now};
use cfs_types::GroupId;
use std::rc::Rc;

/// Blocks of 4 KiB: first copies of superblock and anchor of stream 0, then the first four of slot 0.
const GOLDEN: &[u8] = include_bytes!("golden/log-v1.bin");

fn golden() -> MemoryDisk {
    let device = disk(DEVICE_BYTES);
    device.poke(0, &GOLDEN[..4096]);
    let superblock = now(open(&device)).expect("a version 1 superblock");
    let anchors = Anchors::new(Rc::new(device.clone()), &superblock);
    let [anchor, _] = anchors.offsets(AnchorId::stream(0).expect("the first"));
    device.poke(anchor, &GOLDEN[4096..8192]);
    device.poke(superblock.layout.slot_at(0), &GOLDEN[8192..]);
    device
}

#[test]
fn the_records_of_version_1_are_read() {
    let device = golden();
    let superblock = now(open(&device)).expect("a version 1 superblock");
    assert_eq!(superblock.device.to_string(), "03030303-0303-0303-0303-030303030303");
    assert_eq!((superblock.layout.log_slots, superblock.layout.log_slot_bytes), (16, 64 << 10));
    let disk: Rc<dyn Disk> = Rc::new(device);
    let recovered = now(inspect(&disk, &superblock)).expect("a version 1 log");
    assert_eq!((recovered.streams()[0].end, recovered.boot()), (StreamEnd::Clean, 2));
    let groups: Vec<_> = recovered.groups().collect();
    let [(first, one), (second, two)] = groups[..] else { panic!("{groups:?}") };
    assert_eq!((first, second), (GroupId::new(1), GroupId::CONTROL));
    let entries: Vec<_> = one.entries.iter().map(|e| (e.index.get(), e.term.get(), e.bytes())).collect();
    assert_eq!(entries, [(1, 1, 3), (2, 2, 3)]);
    assert_eq!(one.hard_state, Some(record(1, RecordKind::HardState, 2, 0, b"vote".to_vec())));
    assert_eq!(two.locals, [record(256, RecordKind::Local, 0, 1, b"fact".to_vec())]);
    assert_eq!(two.conf_state, Some(record(256, RecordKind::ConfState, 1, 0, b"voters".to_vec())));
    assert_eq!(two.adopt, Some(record(256, RecordKind::Adopt, 1, 9, Vec::new())));
}

#[test]
fn a_stream_anchor_that_points_nowhere_is_refused() {
    let device = golden();
    let superblock = now(open(&device)).expect("a version 1 superblock");
    let disk: Rc<dyn Disk> = Rc::new(device);
    let anchors = Anchors::new(disk.clone(), &superblock);
    let id = AnchorId::stream(0).expect("the first");
    let head = now(anchors.read(id)).expect("intact").expect("written");
    let mut nowhere = head.clone();
    nowhere[4] = 200;
    now(anchors.write(id, &nowhere)).expect("a sound device");
    assert!(matches!(now(inspect(&disk, &superblock)).map(|_| ()), Err(LogError::Damaged { .. })));
    now(anchors.write(id, &head[1..])).expect("a sound device");
    assert_eq!(now(inspect(&disk, &superblock)).map(|_| ()), Err(LogError::BadAnchor { stream: 0 }));
}
