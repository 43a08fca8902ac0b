//! What a closed log has its anchor say: a tail that is lost later is no crash, and an anchor that is lost no
//! empty log.

use crate::harness::{DEVICE_BYTES, SLOT_BYTES, formatted, record};
use cfs_device::{AnchorId, Anchors, Superblock};
use cfs_log::{CoreLog, LogError, OldStreams, RecordKind, Recovered, StreamEnd, inspect, recover};
use cfs_seam::{Disk, World, sleep};
use cfs_sim::{DiskFaults, MemoryDisk, disk, now, run};
use cfs_types::{CoreId, GroupId, LogIndex};
use std::rc::Rc;
use std::time::Duration;

const SLOTS: u64 = 32;
const BLOCK: u64 = 4096;
/// Of an anchor that says where its stream begins.
const OPEN_BYTES: usize = 40;
/// Of one that says where it ended, too.
const ENDED_BYTES: usize = 56;

async fn open(world: &World, disk: &MemoryDisk, superblock: &Superblock, cores: u16) -> (Vec<CoreLog>, OldStreams) {
    let disk = disk.attach(world);
    let recovered = recover(&disk, superblock).await.expect("intact");
    let (mut old, parts) = recovered.split(cores, |group| CoreId::new(group.get() % cores)).expect("enough slots");
    let mut logs = Vec::new();
    for part in parts {
        logs.push(CoreLog::open(world, disk.clone(), superblock, part).await.expect("enough slots").0);
    }
    let freed = old.settle().await.expect("a sound device");
    logs.iter().for_each(|log| log.take_freed(&freed));
    (logs, old)
}

/// One start: entries `from..=to` of group 1, a batch each, then a stop or a crash.
fn life(
    device: &MemoryDisk,
    superblock: Superblock,
    entries: std::ops::RangeInclusive<u64>,
    bytes: usize,
    close: bool,
) {
    let device = device.clone();
    run(7, move |world| async move {
        let (logs, _) = open(&world, &device, &superblock, 1).await;
        for n in entries {
            let entry = record(1, RecordKind::Entry, 1, n, vec![9; bytes]);
            logs[0].append(vec![entry]).await.expect("room");
        }
        if close {
            let (first, second) = (logs[0].clone(), logs[0].clone());
            let both = cfs_seam::gather([first.close(), second.close()], 2).await;
            assert_eq!(both, [Ok(()), Ok(())]);
        }
    });
}

fn read(device: &MemoryDisk, superblock: &Superblock) -> Result<Recovered, LogError> {
    let disk: Rc<dyn Disk> = Rc::new(device.clone());
    now(inspect(&disk, superblock))
}

fn entries(recovered: &Recovered) -> usize {
    recovered.groups().map(|(_, log)| log.entries.len()).sum()
}

fn anchor(device: &MemoryDisk, superblock: &Superblock, n: u16) -> Option<Vec<u8>> {
    let anchors = Anchors::new(Rc::new(device.clone()), superblock);
    now(anchors.read(AnchorId::stream(n).expect("a low one"))).expect("intact")
}

fn blank(device: &MemoryDisk, from: u64, to: u64) {
    device.poke(from, &vec![0; usize::try_from(to - from).expect("small")]);
}

fn blank_anchor(device: &MemoryDisk, superblock: &Superblock, n: u16) {
    let anchors = Anchors::new(Rc::new(device.clone()), superblock);
    for at in anchors.offsets(AnchorId::stream(n).expect("a low one")) {
        blank(device, at, at + BLOCK);
    }
}

#[test]
fn the_tail_of_a_closed_log_is_missed_at_every_length() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    life(&device, superblock, 1..=8, 10, true);
    // What was not flushed is gone: the anchor was durable before the close was answered.
    let device = device.crash(3);
    let whole = read(&device, &superblock).expect("intact").streams()[0].clone();
    assert_eq!((whole.end, whole.batches_through), (StreamEnd::Clean, 10));
    assert_eq!(anchor(&device, &superblock, 0).expect("written").len(), ENDED_BYTES);
    for blocks in 1..=10 {
        let damaged = device.crash(0);
        let from = whole.end_at - blocks * BLOCK;
        blank(&damaged, from, whole.end_at);
        match read(&damaged, &superblock) {
            // The second of the two empty batches at the end.
            Ok(recovered) => assert_eq!((blocks, entries(&recovered)), (1, 8)),
            Err(LogError::Damaged { boot, offset, sequence, .. }) => {
                assert_eq!((boot, offset, sequence), (1, from, 11 - blocks));
                assert!(blocks > 1);
            }
            Err(error) => panic!("{blocks}: {error}"),
        }
    }
}

#[test]
fn the_slots_of_a_closed_log_are_missed_from_any_of_them_on() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    // Four batches of a quarter fill a slot to the last byte.
    life(&device, superblock, 1..=14, 16_000, true);
    for first in 0..4 {
        let damaged = device.crash(0);
        blank(
            &damaged,
            superblock.layout.slot_at(first),
            superblock.layout.regions_at.min(superblock.layout.slot_at(31)),
        );
        match read(&damaged, &superblock).map(|_| ()) {
            Err(LogError::Damaged { offset, sequence, .. }) => {
                assert_eq!((offset, sequence), (superblock.layout.slot_at(first), u64::from(first) * 4 + 1));
            }
            other => panic!("{first}: {other:?}"),
        }
    }
}

#[test]
fn the_tail_of_a_log_that_was_not_closed_is_cut_silently() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    life(&device, superblock, 1..=8, 10, false);
    let whole = read(&device, &superblock).expect("intact").streams()[0].clone();
    assert_eq!(anchor(&device, &superblock, 0).expect("written").len(), OPEN_BYTES);
    for blocks in 1..=8 {
        let crashed = device.crash(0);
        blank(&crashed, whole.end_at - blocks * BLOCK, whole.end_at);
        let recovered = read(&crashed, &superblock).expect("a crash");
        assert_eq!(recovered.streams()[0].end, StreamEnd::Cut);
        assert_eq!(entries(&recovered), 8 - usize::try_from(blocks).expect("small"));
    }
}

#[test]
fn an_old_stream_is_known_to_have_ended_until_it_is_freed() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    // More than is written again as a whole.
    life(&device, superblock, 1..=10, 15_000, true);
    let end = read(&device, &superblock).expect("intact").streams()[0].end_at;
    for start in 0..3 {
        life(&device, superblock, 11 + start * 5..=15 + start * 5, 15_000, start == 1);
        let device = device.crash(start);
        let recovered = read(&device, &superblock).expect("intact");
        assert_eq!(recovered.streams()[0].boot, 1);
        assert_eq!(entries(&recovered), 15 + 5 * usize::try_from(start).expect("small"));
        blank(&device, end - 3 * BLOCK, end);
        match read(&device, &superblock).map(|_| ()) {
            Err(LogError::Damaged { boot: 1, offset, .. }) => assert!(end - offset <= 6 * BLOCK && offset < end),
            other => panic!("start {start}: {other:?}"),
        }
    }
    // Once it is freed its slots are anybody's.
    let last = device.clone();
    run(9, move |world| async move {
        let (logs, mut old) = open(&world, &last, &superblock, 1).await;
        assert!(logs[0].release(GroupId::new(1), LogIndex::new(25), 0));
        assert!(old.release(GroupId::new(1)).await.expect("a sound device").all_gone);
        logs[0].close().await.expect("room");
    });
    blank(&device, end - 3 * BLOCK, end);
    assert_eq!(read(&device, &superblock).expect("intact").streams().len(), 1);
}

#[test]
fn a_log_that_was_reclaimed_says_where_it_begins_and_ended() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    let used = device.clone();
    run(5, move |world| async move {
        let (logs, _) = open(&world, &used, &superblock, 1).await;
        for n in 1..=150 {
            logs[0].append(vec![record(1, RecordKind::Entry, 1, n, vec![9; 15_000])]).await.expect("room");
            logs[0].release(GroupId::new(1), LogIndex::new(n.saturating_sub(6)), 0);
            sleep(&world.clock, Duration::from_millis(5)).await;
        }
        // The reclaimer may be at work on the same anchor.
        logs[0].release(GroupId::new(1), LogIndex::new(149), 0);
        logs[0].close().await.expect("room");
    });
    let device = device.crash(1);
    let recovered = read(&device, &superblock).expect("intact");
    let report = recovered.streams()[0].clone();
    assert!(report.end == StreamEnd::Clean && report.slots <= 4 && entries(&recovered) >= 1, "{report:?}");
    blank(&device, report.end_at - 3 * BLOCK, report.end_at);
    assert!(matches!(read(&device, &superblock).map(|_| ()), Err(LogError::Damaged { .. })));
}

#[test]
fn a_close_that_fails_leaves_no_end() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    let failing = device.clone();
    run(5, move |world| async move {
        let (logs, _) = open(&world, &failing, &superblock, 1).await;
        logs[0].append(vec![record(1, RecordKind::Entry, 1, 1, vec![1])]).await.expect("room");
        failing.set_faults(DiskFaults { write_error_per_million: 1_000_000, ..DiskFaults::default() });
        assert!(matches!(logs[0].close().await, Err(LogError::Failed(_))));
        failing.set_faults(DiskFaults::default());
    });
    assert_eq!(anchor(&device, &superblock, 0).expect("written").len(), OPEN_BYTES);
}

#[test]
fn a_stream_that_lost_its_anchor_is_missed() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    assert_eq!(read(&device, &superblock).expect("never started").streams().len(), 0);
    let used = device.clone();
    run(5, move |world| async move {
        let (logs, _) = open(&world, &used, &superblock, 2).await;
        for log in logs {
            log.append(vec![record(1, RecordKind::Entry, 1, 1, vec![1])]).await.expect("room");
            log.close().await.expect("room");
        }
    });
    for lost in [&[0][..], &[1], &[0, 1]] {
        let damaged = device.crash(0);
        lost.iter().for_each(|n| blank_anchor(&damaged, &superblock, *n));
        let core = lost[0];
        let offset = superblock.layout.slot_at(u32::from(core));
        let found = read(&damaged, &superblock).map(|_| ());
        assert_eq!(found, Err(LogError::AnchorLost { boot: 1, core, slot: u32::from(core), offset }));
    }
}

#[test]
fn a_manifest_without_any_stream_is_damage() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    life(&device, superblock, 1..=3, 10, true);
    let anchors = Anchors::new(Rc::new(device.clone()), &superblock);
    let manifest = AnchorId::group(GroupId::new(7));
    now(anchors.write(manifest, b"manifest")).expect("a sound device");
    assert_eq!(entries(&read(&device, &superblock).expect("intact")), 3);
    blank_anchor(&device, &superblock, 0);
    blank(&device, superblock.layout.slot_at(0), superblock.layout.slot_at(0) + SLOT_BYTES);
    let found = read(&device, &superblock).map(|_| ());
    assert_eq!(found, Err(LogError::NoStream { group: GroupId::new(7), offset: anchors.offsets(manifest)[0] }));
}
