//! Group commit, back-pressure, a full log, and a device that fails.

use crate::harness::{DEVICE_BYTES, SLOT_BYTES, formatted, record};
use cfs_device::{DeviceError, Superblock};
use cfs_log::{CoreLog, LogError, OldStreams, RecordKind, recover};
use cfs_seam::{Disk, World, sleep};
use cfs_sim::{DiskFaults, MemoryDisk, disk, now, run};
use cfs_types::{CoreId, GroupId, LogIndex};
use std::rc::Rc;
use std::time::Duration;

async fn open(world: &World, disk: Rc<dyn Disk>, superblock: &Superblock) -> (CoreLog, OldStreams) {
    let recovered = recover(&disk, superblock).await.expect("intact");
    let (mut old, mut parts) = recovered.split(1, |_| CoreId::new(0)).expect("enough slots");
    let part = parts.pop().expect("one core");
    let (log, _) = CoreLog::open(world, disk, superblock, part).await.expect("enough slots");
    log.take_freed(&old.settle().await.expect("a sound device"));
    (log, old)
}

fn store(slots: u64) -> (MemoryDisk, Superblock) {
    let device = disk(DEVICE_BYTES);
    let superblock = formatted(&device, slots);
    (device, superblock)
}

#[test]
fn appends_that_wait_for_the_device_share_a_batch() {
    let (device, superblock) = store(16);
    run(1, move |world| async move {
        let (log, _) = open(&world, device.attach(&world), &superblock).await;
        let before = log.usage().batches;
        let waits: Vec<_> = (1..=100)
            .map(|n| log.append(vec![record(u16::try_from(n).expect("small"), RecordKind::Entry, 1, n, vec![1; 50])]))
            .collect();
        for wait in waits {
            wait.await.expect("room");
        }
        assert_eq!(log.usage().batches - before, 1);
        assert_eq!(device.unflushed_sectors(), 0, "answered before the flush");
        assert_eq!(log.usage().queued_bytes, 0);
    });
}

#[test]
fn a_full_log_waits_names_the_laggards_and_lets_them_flush() {
    let (device, superblock) = store(16);
    run(2, move |world| async move {
        let (log, _) = open(&world, device.attach(&world), &superblock).await;
        let mut index = 0;
        let waiting = loop {
            index += 1;
            let entry = record(1, RecordKind::Entry, 1, index, vec![9; 15_000]);
            let wait = log.append(vec![entry]);
            sleep(&world.clock, Duration::from_millis(20)).await;
            if log.usage().queued_bytes > 0 {
                break wait;
            }
        };
        assert!(index > 10, "{index}");
        assert_eq!((log.laggards(), log.usage().slots_free), (vec![GroupId::new(1)], 0));
        log.append(vec![record(2, RecordKind::HardState, 1, 0, vec![1])]).await.expect("kept for those who flush");
        log.append(vec![record(2, RecordKind::Local, 0, 1, vec![1; 10_000])]).await.expect("kept for those who flush");
        log.release(GroupId::new(1), LogIndex::new(index - 1), 0);
        waiting.await.expect("there is room again");
        assert!(log.read_payload(GroupId::new(1), LogIndex::new(index)).await.is_ok());
        assert!(log.read_payload(GroupId::new(1), LogIndex::new(index - 1)).await.is_err());
    });
}

#[test]
fn a_log_that_was_full_opens_again_with_more_cores() {
    let (device, superblock) = store(48);
    let full = device.clone();
    run(3, move |world| async move {
        let (log, _) = open(&world, full.attach(&world), &superblock).await;
        for group in 0..4 {
            // The last of these waits for ever.
            for index in 1..200 {
                let done = log.append(vec![record(group, RecordKind::Entry, 1, index, vec![9; 15_000])]);
                drop(done);
                log.wait_room().await;
                if log.usage().slots_free == 0 {
                    sleep(&world.clock, Duration::from_millis(50)).await;
                    return;
                }
            }
        }
    });
    let device = device.crash(3);
    for _ in 0..3 {
        let disk: Rc<dyn Disk> = Rc::new(device.clone());
        let recovered = now(recover(&disk, &superblock)).expect("intact");
        let split = recovered.split(3, |group| CoreId::new(group.get() % 3));
        let (mut old, parts) = split.expect("enough slots");
        assert!(!old.holders().is_empty());
        let attached = device.clone();
        run(4, move |world| async move {
            let mut logs = Vec::new();
            for part in parts {
                let opened = CoreLog::open(&world, attached.attach(&world), &superblock, part).await;
                logs.push(opened.expect("some slots are kept for this").0);
            }
            old.settle().await.expect("a sound device");
        });
    }
}

#[test]
fn old_streams_go_when_their_groups_have_released_them() {
    let (device, superblock) = store(32);
    let first = device.clone();
    run(5, move |world| async move {
        let (log, _) = open(&world, first.attach(&world), &superblock).await;
        for index in 1..20 {
            let entry = record(1, RecordKind::Entry, 1, index, vec![9; 15_000]);
            log.append(vec![entry, record(2, RecordKind::Local, 0, index, vec![2])]).await.expect("room");
        }
    });
    run(6, move |world| async move {
        let (log, mut old) = open(&world, device.attach(&world), &superblock).await;
        assert_eq!(log.laggards(), [GroupId::new(1), GroupId::new(2)]);
        let before = log.usage().slots_total;
        assert!(log.release(GroupId::new(1), LogIndex::new(19), 0));
        assert!(!log.release(GroupId::new(1), LogIndex::new(19), 0), "told once");
        assert_eq!(old.release(GroupId::new(1)).await, Ok(Default::default()));
        assert!(!log.release(GroupId::new(2), LogIndex::new(0), 5));
        assert!(log.release(GroupId::new(2), LogIndex::new(0), 19));
        let freed = old.release(GroupId::new(2)).await.expect("a sound device");
        assert!(freed.all_gone && freed.slots.len() >= 5);
        log.take_freed(&freed);
        assert_eq!(log.usage().slots_total, before + freed.slots.len());
        log.close().await.expect("room");
        let disk = device.attach(&world);
        assert_eq!(recover(&disk, &superblock).await.expect("intact").streams().len(), 1);
    });
}

#[test]
fn an_old_stream_stays_until_its_anchor_is_durable() {
    let (device, superblock) = store(32);
    let first = device.clone();
    run(5, move |world| async move {
        let (log, _) = open(&world, first.attach(&world), &superblock).await;
        for index in 1..20 {
            log.append(vec![record(1, RecordKind::Entry, 1, index, vec![9; 15_000])]).await.expect("room");
        }
    });
    run(6, move |world| async move {
        let (log, mut old) = open(&world, device.attach(&world), &superblock).await;
        assert!(log.release(GroupId::new(1), LogIndex::new(19), 0));
        device.set_faults(DiskFaults { write_error_per_million: 1_000_000, ..DiskFaults::default() });
        assert!(matches!(old.release(GroupId::new(1)).await, Err(DeviceError::Write { .. })));
        device.set_faults(DiskFaults::default());
        let freed = old.release(GroupId::new(1)).await.expect("it works again");
        assert!(freed.all_gone && freed.slots.len() >= 5, "{freed:?}");
    });
}

#[test]
fn states_copied_for_reclaim_give_no_entry_away() {
    let (device, superblock) = store(24);
    let first = device.clone();
    run(8, move |world| async move {
        let (log, _) = open(&world, first.attach(&world), &superblock).await;
        log.append(vec![record(1, RecordKind::Adopt, 0, 0, Vec::new())]).await.expect("room");
        for index in 1..200 {
            log.append(vec![record(1, RecordKind::Entry, 1, index, vec![9; 15_000])]).await.expect("room");
            // Much is released at once, so that the newest of what stays lies in slots that are full.
            if index % 20 == 0 {
                log.release(GroupId::new(1), LogIndex::new(index - 10), 0);
            }
            sleep(&world.clock, Duration::from_millis(20)).await;
        }
    });
    let disk: Rc<dyn Disk> = Rc::new(device);
    let recovered = now(recover(&disk, &superblock)).expect("intact");
    let (_, log) = recovered.groups().find(|(group, _)| *group == GroupId::new(1)).expect("it has records");
    assert!(log.entries.first().is_some_and(|first| first.index <= LogIndex::new(171)), "{:?}", log.entries.first());
}

#[test]
fn a_failed_flush_ends_the_log_and_the_device() {
    // Also where the flush of the note's first copy fails: the second one is written.
    for (seed, failures) in (0..20).zip([1, 2].into_iter().cycle()) {
        let (device, superblock) = store(16);
        run(seed, move |world| async move {
            let (log, _) = open(&world, device.attach(&world), &superblock).await;
            let (failed, marked) = (log.wait_failed(), log.wait_marked());
            // The device as it is, not as the runtime shows it: what its cache lost it has lost.
            device.set_faults(DiskFaults { failed_flush_sticks: false, ..DiskFaults::default() });
            device.fail_flushes(failures);
            let first = log.append(vec![record(1, RecordKind::Entry, 1, 1, vec![1])]);
            sleep(&world.clock, Duration::from_nanos(1)).await;
            let second = log.append(vec![record(1, RecordKind::Entry, 1, 2, vec![1])]);
            for wait in [first, second] {
                assert!(matches!(wait.await, Err(LogError::Failed(DeviceError::Flush { .. }))));
            }
            assert!(log.failed().is_some());
            let later = log.append(vec![record(1, RecordKind::Entry, 1, 3, vec![1])]).await;
            assert!(matches!(later, Err(LogError::Failed(_))));
            assert!(matches!(log.close().await, Err(LogError::Failed(_))));
            failed.await;
            // Whoever waits for this stops the process: by then the device must say that it failed.
            marked.await;
            assert_eq!(cfs_device::open(&device).await, Err(DeviceError::OutOfService), "seed {seed}");
        });
    }
}

#[test]
fn records_and_queues_have_limits() {
    let (device, superblock) = store(16);
    run(8, move |world| async move {
        let (log, _) = open(&world, device.attach(&world), &superblock).await;
        let limit = log.record_bytes_max();
        let long = log.append(vec![record(1, RecordKind::Entry, 1, 1, vec![0; limit + 1])]).await;
        assert_eq!(long, Err(LogError::RecordTooLong { bytes: limit + 1, limit }));
        let mut waits = Vec::new();
        let refused = loop {
            let index = u64::try_from(waits.len()).expect("small") + 1;
            let wait = log.append(vec![record(1, RecordKind::Entry, 1, index, vec![0; limit])]);
            if log.usage().queued_bytes >= log.usage().queued_bytes_limit {
                break log.append(vec![record(1, RecordKind::Entry, 1, index + 1, vec![0; limit])]).await;
            }
            waits.push(wait);
        };
        assert_eq!(refused, Err(LogError::QueueFull));
        assert!(log.usage().queued_bytes_limit <= usize::try_from(3 * SLOT_BYTES).expect("small"));
        log.wait_room().await;
    });
}

#[test]
fn too_many_cores_for_the_log_area_are_refused() {
    let (device, superblock) = store(16);
    let disk: Rc<dyn Disk> = Rc::new(device);
    let recovered = now(recover(&disk, &superblock)).expect("empty");
    assert_eq!((recovered.boot(), recovered.streams().len()), (1, 0));
    let refused = recovered.split(3, |_| CoreId::new(0)).map(|_| ());
    assert!(matches!(refused, Err(LogError::TooManyCores { cores: 3, .. })));
}

#[test]
fn an_adoption_of_an_earlier_start_does_not_give_old_streams_up() {
    let (device, superblock) = store(32);
    run(9, move |world| async move {
        let (log, _) = open(&world, device.attach(&world), &superblock).await;
        log.append(vec![record(1, RecordKind::Adopt, 0, 0, Vec::new())]).await.expect("room");
        // More than what a start writes again as a whole.
        for index in 1..=8 {
            log.append(vec![record(1, RecordKind::Entry, 1, index, vec![9; 8000])]).await.expect("room");
        }
        drop(log);
        let (log, mut old) = open(&world, device.attach(&world), &superblock).await;
        assert!(!log.release(GroupId::new(1), LogIndex::new(3), 0), "entries up to 7 are only there");
        assert_eq!(old.holders().into_iter().collect::<Vec<_>>(), [GroupId::new(1)]);
        assert!(log.release(GroupId::new(1), LogIndex::new(8), 0), "now it needs nothing");
        old.release(GroupId::new(1)).await.expect("a sound device");
        assert!(old.holders().is_empty());
    });
}
