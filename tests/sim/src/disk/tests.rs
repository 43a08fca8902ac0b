//! The simulated disk: what survives a power cut, and what faults do.

use super::*;
use crate::run;
use cfs_seam::{BLOCK_BYTES, Class, Lifetime, spawn};

const BLOCK: u64 = 4096;

fn block(byte: u8) -> IoBuf {
    IoBuf::copy_of(&[byte; BLOCK_BYTES])
}

async fn write(disk: &Rc<dyn Disk>, at: u64, byte: u8) {
    disk.write(at * BLOCK, block(byte), Durability::Flush, Lifetime::Hot).await.result.expect("a sound device");
}

async fn flush(disk: &Rc<dyn Disk>) {
    disk.flush().await.expect("a sound device");
}

/// The byte a block is made of; None where it is torn.
fn whole(disk: &MemoryDisk, at: u64) -> Option<u8> {
    let bytes = disk.peek(at * BLOCK, BLOCK_BYTES);
    bytes.iter().all(|b| *b == bytes[0]).then_some(bytes[0])
}

#[test]
fn flushed_writes_survive_and_unflushed_ones_are_lost_kept_or_torn() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let device = disk(1 << 20);
        let attached = device.clone();
        run(seed, |world| async move {
            let disk = attached.attach(&world);
            write(&disk, 0, 1).await;
            flush(&disk).await;
            write(&disk, 1, 2).await;
        });
        assert_eq!(whole(&device, 1), Some(2), "completed writes are read back");
        let after = device.crash(seed);
        assert_eq!(whole(&after, 0), Some(1), "seed {seed} lost a flushed write");
        match whole(&after, 1) {
            Some(0) => lost += 1,
            Some(2) => kept += 1,
            _ => torn += 1,
        }
        assert_eq!(after.unflushed_sectors(), 0);
    }
    assert!(lost > 10 && kept > 10 && torn > 10, "lost {lost}, kept {kept}, torn {torn}");
}

#[test]
fn a_later_write_may_survive_an_earlier_one() {
    let found = (0..200).any(|seed| {
        let device = disk(1 << 20);
        drop(device.write(0, block(1), Durability::Flush, Lifetime::Hot));
        drop(device.write(BLOCK, block(2), Durability::Flush, Lifetime::Hot));
        let after = device.crash(seed);
        whole(&after, 0) == Some(0) && whole(&after, 1) == Some(2)
    });
    assert!(found);
}

#[test]
fn through_writes_survive_and_a_write_that_began_after_a_flush_is_not_covered() {
    let mut uncovered = 0;
    for seed in 0..100 {
        let device = disk(1 << 20);
        let attached = device.clone();
        run(seed, |world| async move {
            let disk = attached.attach(&world);
            let through = disk.write(0, block(1), Durability::Through, Lifetime::Hot).await;
            through.result.expect("a sound device");
            let flushing = disk.flush();
            write(&disk, 1, 2).await;
            flushing.await.expect("a sound device");
        });
        let after = device.crash(seed);
        assert_eq!(whole(&after, 0), Some(1));
        uncovered += u32::from(whole(&after, 1) != Some(2));
    }
    assert!(uncovered > 10, "the flush covered what came after it");
}

#[test]
fn writes_in_flight_are_invisible_and_may_land_in_a_crash() {
    let mut landed = 0;
    for seed in 0..100 {
        let device = disk(1 << 20);
        let attached = device.clone();
        run(seed, |world| async move {
            let disk = attached.attach(&world);
            let _pending = disk.write(0, block(1), Durability::Flush, Lifetime::Hot);
            assert_eq!(attached.unflushed_sectors(), 8);
            assert_eq!(whole(&attached, 0), Some(0));
            landed_later(&attached, seed)
        })
        .then(|| landed += 1);
    }
    assert!((10..90).contains(&landed), "{landed}");
}

fn landed_later(device: &MemoryDisk, seed: u64) -> bool {
    whole(&device.crash(seed), 0) != Some(0)
}

#[test]
fn operations_overtake_each_other() {
    let order = run(3, |world| async move {
        let disk = disk(1 << 20).attach(&world);
        let order: Rc<RefCell<Vec<u64>>> = Rc::default();
        for n in 0..20 {
            let (write, order) = (disk.write(n * BLOCK, block(1), Durability::Flush, Lifetime::Hot), order.clone());
            let task = async move {
                write.await.result.expect("a sound device");
                order.borrow_mut().push(n);
            };
            spawn(&world.tasks, Class::Foreground, task).detach();
        }
        while order.borrow().len() < 20 {
            sleep(&world.clock, Duration::from_millis(1)).await;
        }
        order.take()
    });
    assert!(!order.is_sorted(), "{order:?}");
}

#[test]
fn a_failed_flush_fails_once_and_drops_dirty_data_unseen() {
    let mut dropped = 0;
    for seed in 0..50 {
        let device = MemoryDisk::new(1 << 20, DiskFaults::default(), seed);
        let dev = device.clone();
        run(seed, |_| async move {
            dev.write(0, block(7), Durability::Flush, Lifetime::Hot).await.result.expect("a sound device");
            dev.fail_flushes(1);
            assert_eq!(dev.flush().await, Err(DiskError::Device(EIO)));
            assert_eq!(dev.flush().await, Ok(()));
        });
        dropped += u32::from(whole(&device, 0) != Some(7));
    }
    assert!(dropped > 10);
}

#[test]
fn a_failed_flush_sticks_to_the_machine_that_asked() {
    let device = MemoryDisk::new(1 << 20, DiskFaults::default(), 1);
    let attached = device.clone();
    run(1, |world| async move {
        let (first, other) = (attached.attach(&world), attached.attach(&world));
        attached.fail_flushes(1);
        assert_eq!(first.flush().await, Err(DiskError::Device(EIO)));
        assert_eq!(first.flush().await, Err(DiskError::Device(EIO)), "and no later one succeeds");
        assert_eq!(other.flush().await, Ok(()), "another machine, or this one after a restart, goes on");
    });
    assert_eq!(device.injected().flush_errors, 1);
}

#[test]
fn a_lost_write_reports_success_and_an_unreadable_sector_is_mended_by_a_write() {
    let lost = DiskFaults { lost_per_million: 1_000_000, damage_from: BLOCK, ..DiskFaults::default() };
    let device = MemoryDisk::new(1 << 20, lost, 1);
    let work = device.clone();
    run(1, |_| async move {
        for at in 0..2 {
            work.write(at * BLOCK, block(1), Durability::Flush, Lifetime::Hot).await.result.expect("reports success");
        }
        work.flush().await.expect("a sound device");
        assert_eq!((whole(&work, 0), whole(&work, 1)), (Some(1), Some(0)), "only behind the first block");
        assert!(!work.was_damaged(0..BLOCK) && work.was_damaged(BLOCK..2 * BLOCK));

        work.set_faults(DiskFaults { unreadable_per_million: 1_000_000, ..DiskFaults::default() });
        assert_eq!(work.read(0, block(0)).await.result, Err(DiskError::Device(EIO)));
        work.set_faults(DiskFaults::default());
        assert_eq!(work.read(0, block(0)).await.result, Err(DiskError::Device(EIO)), "it stays so");
        work.write(0, block(2), Durability::Flush, Lifetime::Hot).await.result.expect("a sound device");
        assert_eq!(work.read(0, block(0)).await.result, Ok(()));
    });
    let injected = device.injected();
    assert_eq!((injected.lost, injected.unreadable), (1, 2));
}

#[test]
fn rot_misdirection_errors_and_discard_do_what_they_say() {
    let faults = DiskFaults { rot_per_million: 1_000_000, ..DiskFaults::default() };
    let rotten = MemoryDisk::new(1 << 20, faults, 1);
    let faults = DiskFaults { misdirect_per_million: 1_000_000, ..DiskFaults::default() };
    let astray = MemoryDisk::new(1 << 20, faults, 1);
    let faults = DiskFaults { read_error_per_million: 1_000_000, ..DiskFaults::default() };
    let broken = MemoryDisk::new(1 << 20, faults, 1);
    run(0, |_| async move {
        let read = rotten.read(0, block(9)).await;
        assert_eq!(read.buf.iter().map(|b| b.count_ones()).sum::<u32>(), 1);

        astray.write(0, block(1), Durability::Flush, Lifetime::Hot).await.result.expect("reports success");
        let found: Vec<u64> = (0..256).filter(|at| whole(&astray, *at) == Some(1)).collect();
        assert!(found.len() == 1 && found != [0], "{found:?}");

        assert_eq!(broken.read(0, block(0)).await.result, Err(DiskError::Device(EIO)));
        assert_eq!(broken.read(1 << 20, block(0)).await.result, Err(DiskError::OutOfRange));
        let past = broken.write((1 << 20) - BLOCK, IoBuf::zeroed(8192), Durability::Flush, Lifetime::Hot);
        assert_eq!(past.await.result, Err(DiskError::OutOfRange));
    });
    let tidy = disk(1 << 20);
    for at in 0..64 {
        tidy.poke(at * BLOCK, &block(1));
    }
    drop(tidy.discard(0, 32 * BLOCK));
    assert!((0..32).any(|at| whole(&tidy, at) != Some(1)), "nothing was discarded");
    assert!((32..64).all(|at| whole(&tidy, at) == Some(1)), "too much was discarded");
}

#[test]
fn litter_is_the_same_whenever_it_is_read() {
    let faults = DiskFaults { litter: true, ..DiskFaults::default() };
    let device = MemoryDisk::new(1 << 20, faults, 5);
    let first = device.peek(0, 8192);
    assert_eq!(first, device.peek(0, 8192));
    assert!(first.iter().any(|b| *b != 0));
}

#[test]
#[should_panic(expected = "not whole blocks")]
fn a_misaligned_write_is_a_bug() {
    drop(disk(1 << 20).write(512, block(1), Durability::Flush, Lifetime::Hot));
}
