//! Flipped bytes: the same records or an error that names the place; after a crash only the last
//! batch may be cut off.

use crate::harness::{DEVICE_BYTES, formatted, record};
use cfs_device::{AnchorId, Anchors, Superblock};
use cfs_log::{CoreLog, GroupLog, LogError, Record, RecordKind, Recovered, StreamEnd, inspect, recover};
use cfs_seam::{Disk, World, sleep};
use cfs_sim::{MemoryDisk, disk, now, run};
use cfs_types::{CoreId, GroupId};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

type Groups = BTreeMap<GroupId, GroupLog>;

const SLOTS: u64 = 16;
/// Batches of the small log.
const BATCHES: u64 = 6;

fn batch(n: u64) -> Vec<Record> {
    vec![
        record(1, RecordKind::Entry, n, n, format!("entry {n}").into_bytes()),
        record(2, RecordKind::Local, 0, n, format!("fact {n}").into_bytes()),
        record(2, RecordKind::HardState, n, 0, format!("state {n}").into_bytes()),
        record(3, RecordKind::Adopt, n, 1 + n % 2, Vec::new()),
    ]
}

async fn open(world: &World, disk: Rc<dyn Disk>, superblock: &Superblock) -> CoreLog {
    let recovered = recover(&disk, superblock).await.expect("intact");
    let (mut old, mut parts) = recovered.split(1, |_| CoreId::new(0)).expect("enough slots");
    let part = parts.pop().expect("one core");
    let (log, _) = CoreLog::open(world, disk, superblock, part).await.expect("enough slots");
    log.take_freed(&old.settle().await.expect("a sound device"));
    log
}

/// A log of a few batches, closed or not.
fn small_log(close: bool) -> (MemoryDisk, Superblock) {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    let disk = device.clone();
    run(7, move |world| async move {
        let log = open(&world, disk.attach(&world), &superblock).await;
        for n in 1..=BATCHES {
            log.append(batch(n)).await.expect("room");
        }
        if close {
            log.close().await.expect("room");
            assert_eq!(log.append(batch(1)).await, Err(LogError::Closed));
        }
    });
    (device, superblock)
}

fn read(device: &MemoryDisk, superblock: &Superblock) -> Result<Recovered, LogError> {
    let disk: Rc<dyn Disk> = Rc::new(device.clone());
    now(inspect(&disk, superblock))
}

fn groups(recovered: &Recovered) -> Groups {
    recovered.groups().map(|(group, log)| (group, log.clone())).collect()
}

/// All bytes that are not zero, and some of the padding.
fn places(device: &MemoryDisk, superblock: &Superblock) -> Vec<u64> {
    let anchors = Anchors::new(Rc::new(device.clone()), superblock);
    let stream = anchors.offsets(AnchorId::stream(0).expect("the first"));
    let slot = superblock.layout.slot_at(0);
    let mut places = Vec::new();
    for from in [stream[0], stream[1], slot, superblock.layout.slot_at(1)] {
        let bytes = device.peek(from, 64 << 10);
        let interesting = |at: &u64| {
            let byte = bytes[usize::try_from(*at).expect("small")];
            byte != 0 || at % 4096 < 128 || at.is_multiple_of(509)
        };
        places.extend((0..64 << 10).filter(interesting).map(|at| from + at));
    }
    places
}

#[test]
fn no_flip_in_a_closed_log_changes_or_loses_a_record() {
    let (device, superblock) = small_log(true);
    let before = read(&device, &superblock).expect("intact");
    assert_eq!(before.streams()[0].end, StreamEnd::Clean);
    let before = groups(&before);
    assert_eq!(before[&GroupId::new(2)].locals.len(), usize::try_from(BATCHES).expect("small"));
    let (mut same, mut refused) = (0, 0);
    for (n, at) in (0..8).cycle().zip(places(&device, &superblock)) {
        device.flip_bit(at, n);
        match read(&device, &superblock) {
            Ok(recovered) => {
                assert_eq!(groups(&recovered), before, "offset {at}");
                same += 1;
            }
            Err(LogError::Damaged { offset, .. }) => {
                assert!(offset <= at && at < offset + 4096, "flip at {at}, named {offset}");
                refused += 1;
            }
            Err(error) => panic!("offset {at}: {error}"),
        }
        device.flip_bit(at, n);
    }
    assert!(same > 500 && refused > 1000, "{same} and {refused}");
}

#[test]
fn after_a_crash_only_the_last_batch_can_be_cut_off() {
    let (device, superblock) = small_log(false);
    let device = device.crash(3);
    let before = read(&device, &superblock).expect("intact");
    let report = before.streams()[0].clone();
    assert_eq!((report.end, report.batches_through), (StreamEnd::Cut, BATCHES));
    let before = groups(&before);
    let last = report.end_at - 4096;
    let mut cut = 0;
    for (n, at) in (0..8).cycle().zip(places(&device, &superblock)) {
        device.flip_bit(at, n);
        match read(&device, &superblock) {
            Ok(recovered) if at >= last && at < report.end_at && groups(&recovered) != before => {
                assert_eq!(recovered.streams()[0].batches_through, BATCHES - 1);
                assert_eq!(groups(&recovered)[&GroupId::new(1)].entries.len(), 5);
                cut += 1;
            }
            Ok(recovered) => assert_eq!(groups(&recovered), before, "offset {at}"),
            Err(LogError::Damaged { offset, .. }) => {
                assert!(offset <= at && at < offset + 4096 && at < last, "flip at {at}, named {offset}");
            }
            Err(error) => panic!("offset {at}: {error}"),
        }
        device.flip_bit(at, n);
    }
    assert!(cut > 100, "{cut}");
}

fn assert_same(before: &Groups, after: &Groups) {
    for (group, log) in before {
        let terms = |log: &GroupLog| log.entries.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>();
        assert_eq!(terms(&after[group]), terms(log));
        assert_eq!(after[group].locals, log.locals);
        assert_eq!(after[group].hard_state, log.hard_state);
        assert_eq!(after[group].adopt, log.adopt);
    }
}

#[test]
fn a_tail_that_was_written_again_survives_damage_of_the_original() {
    // Once in a stream that is written again as a whole, once in one that is too large for that.
    for large in [0, 5] {
        let device = disk(DEVICE_BYTES);
        let superblock = formatted(&device, SLOTS);
        let first = device.clone();
        run(8, move |world| async move {
            let log = open(&world, first.attach(&world), &superblock).await;
            for n in 1..=large {
                log.append(vec![record(4, RecordKind::Entry, 1, n, vec![1; 15_000])]).await.expect("room");
            }
            for n in 1..=BATCHES {
                log.append(batch(n)).await.expect("room");
            }
        });
        let before = read(&device, &superblock).expect("intact");
        let last = before.streams()[0].end_at - 4096;
        let second = device.clone();
        run(9, move |world| async move {
            open(&world, second.attach(&world), &superblock).await;
        });
        device.flip_bit(last + 8, 1);
        let after = read(&device.crash(1), &superblock).expect("the copy counts");
        assert_same(&groups(&before), &groups(&after));
    }
}

#[test]
fn a_stream_anchor_with_one_copy_is_mended_at_start() {
    let (device, superblock) = small_log(true);
    let before = groups(&read(&device, &superblock).expect("intact"));
    let disk: Rc<dyn Disk> = Rc::new(device.clone());
    let [a, b] = Anchors::new(disk.clone(), &superblock).offsets(AnchorId::stream(0).expect("the first"));
    device.poke(b, &[0; 4096]);
    now(recover(&disk, &superblock)).expect("one copy is enough");
    device.flip_bit(a + 20, 0);
    assert_eq!(groups(&read(&device, &superblock).expect("the other copy is enough")), before);
}

#[test]
fn what_was_superseded_never_comes_back_with_its_superseder_gone() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, 32);
    let first = device.clone();
    run(11, move |world| async move {
        let log = open(&world, first.attach(&world), &superblock).await;
        let held = record(2, RecordKind::Local, 0, 1, vec![1; 15_000]);
        log.append(vec![held]).await.expect("room");
        for index in 1..=7 {
            log.append(vec![record(1, RecordKind::Entry, 3, index, vec![1; 15_000])]).await.expect("room");
        }
    });
    let second = device.clone();
    run(12, move |world| async move {
        let log = open(&world, second.attach(&world), &superblock).await;
        log.append(vec![record(1, RecordKind::Entry, 2, 5, vec![2])]).await.expect("room");
        assert!(log.release(GroupId::new(1), cfs_types::LogIndex::new(5), 0));
        // Another group writes and releases as long as there is room.
        let mut index = 0;
        while log.usage().slots_free > 0 && index < 200 {
            index += 1;
            log.append(vec![record(3, RecordKind::Entry, 1, index, vec![3; 15_000])]).await.expect("room");
            log.release(GroupId::new(3), cfs_types::LogIndex::new(index), 0);
            sleep(&world.clock, Duration::from_millis(5)).await;
        }
    });
    let after = groups(&read(&device.crash(2), &superblock).expect("intact"));
    let above: Vec<u64> = after[&GroupId::new(1)].entries.iter().map(|e| e.index.get()).filter(|i| *i > 5).collect();
    assert_eq!(above, [0; 0], "entries 6 and 7 were superseded");
}

#[test]
fn a_slot_in_the_middle_that_is_gone_is_damage() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    let disk = device.clone();
    run(9, move |world| async move {
        let log = open(&world, disk.attach(&world), &superblock).await;
        for n in 1..=12 {
            let entry = record(1, RecordKind::Entry, 1, n, vec![7; 15_000]);
            log.append(vec![entry]).await.expect("room");
        }
    });
    let whole = read(&device, &superblock).expect("intact").streams()[0].clone();
    assert!(whole.slots >= 3);
    for slot in 0..2 {
        let gone = device.crash(0);
        gone.poke(superblock.layout.slot_at(slot), &vec![0; 64 << 10]);
        match read(&gone, &superblock).map(|_| ()) {
            Err(LogError::Damaged { sequence, .. }) => assert_eq!(sequence, u64::from(slot) * 4 + 1),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_damaged_payload_is_named_and_never_returned() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    let disk = device.clone();
    run(10, move |world| async move {
        let log = open(&world, disk.attach(&world), &superblock).await;
        let index = cfs_types::LogIndex::new(1);
        let payload: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0]).collect();
        log.append(vec![record(1, RecordKind::Entry, 1, 1, payload.clone())]).await.expect("room");
        let group = GroupId::new(1);
        assert_eq!(log.read_payload_range(group, index, 4095..4099).await, Ok(payload[4095..4099].to_vec()));
        let beyond = log.read_payload_range(group, index, 9_999..10_001).await;
        assert_eq!(beyond, Err(LogError::NotFound { group, index }));
        disk.flip_bit(superblock.layout.slot_at(0) + 5000, 2);
        let read = log.read_payload(group, index).await;
        assert!(matches!(read, Err(LogError::EntryDamaged { .. })), "{read:?}");
    });
}

#[test]
fn a_batch_that_is_torn_at_the_beginning_of_a_slot_is_cut_off() {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, SLOTS);
    let second = superblock.layout.slot_at(1);
    let (written, begun) = (device.clone(), device.clone());
    let batches = run(9, move |world| async move {
        let log = open(&world, written.attach(&world), &superblock).await;
        let payload = vec![7; log.record_bytes_max() / 2];
        let mut batches = 0;
        while begun.peek(second, 4096).iter().all(|byte| *byte == 0) {
            batches += 1;
            let index = u64::try_from(batches).expect("few");
            log.append(vec![record(1, RecordKind::Entry, 1, index, payload.clone())]).await.expect("room");
        }
        batches
    });
    let whole = read(&device, &superblock).expect("intact");
    assert_eq!(whole.groups().next().map(|(_, log)| log.entries.len()), Some(batches));
    // Behind the header's block: the header says where the chain goes on, the body does not.
    device.flip_bit(second + 8192, 0);
    let torn = read(&device, &superblock).expect("only the last batch is gone");
    assert_eq!(torn.streams()[0].end, StreamEnd::Torn);
    assert_eq!(torn.groups().next().map(|(_, log)| log.entries.len()), Some(batches - 1));
}
