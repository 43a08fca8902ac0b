//! A device of zones: what is written again in place survives power cuts, zones are written in order, and resets come when
//! nothing is alive any more.

use cfs_device::{AnchorId, Anchors, DeviceError, FormatOptions, Superblock, Uuid, format, open, open_zones};
use cfs_seam::{Disk, DiskError, Durability, IoBuf, Lifetime, World, ZoneState, Zones};
use cfs_sim::{DiskFaults, MemoryDisk};
use cfs_types::GroupId;
use std::rc::Rc;

const MIB: u64 = 1 << 20;
const ZONES: Zones = Zones { count: 48, stride_bytes: 128 * MIB, capacity_bytes: 68 * MIB, active_max: Some(6) };
const FIRST: u64 = 64 * MIB;

fn options() -> FormatOptions {
    FormatOptions::new(Uuid::new([1; 16]), Uuid::new([2; 16]), Uuid::new([3; 16]))
}

fn device() -> MemoryDisk {
    MemoryDisk::with_zones(ZONES, DiskFaults::default(), 7)
}

async fn zoned(world: &World, device: &MemoryDisk, core: u16) -> Rc<dyn Disk> {
    open_zones(device.attach(world), &world.tasks, core).await.expect("good zones")
}

fn formatted() -> (MemoryDisk, Superblock) {
    let device = device();
    let work = device.clone();
    let superblock = cfs_sim::run(1, |world| async move {
        let disk = zoned(&world, &work, 0).await;
        assert_eq!(open(&*disk).await, Err(DeviceError::Blank));
        format(&*disk, &options(), &mut |_, _| ()).await.expect("formats")
    });
    (device, superblock)
}

fn block(fill: u8, blocks: usize) -> IoBuf {
    let mut buf = IoBuf::zeroed(blocks * 4096);
    buf.fill(fill);
    buf
}

async fn write(disk: &Rc<dyn Disk>, offset: u64, buf: IoBuf, class: Lifetime) -> Result<(), DiskError> {
    disk.write(offset, buf, Durability::Flush, class).await.result
}

#[test]
fn a_formatted_device_opens_and_is_not_formatted_again() {
    let (device, superblock) = formatted();
    assert_eq!(superblock.layout.log_slots, 16);
    assert_eq!((superblock.layout.regions, superblock.layout.zone_bytes), (24, 64 * MIB));
    cfs_sim::run(2, |world| async move {
        let disk = zoned(&world, &device, 1).await;
        assert_eq!(open(&*disk).await, Ok(superblock));
        let again = format(&*disk, &options(), &mut |_, _| ()).await;
        assert!(matches!(again, Err(DeviceError::NotEmpty { offset: 0 })), "{again:?}");
        let forced = FormatOptions { force: true, device: Uuid::new([9; 16]), ..options() };
        write(&disk, FIRST, block(1, 1), Lifetime::Log).await.expect("written");
        format(&*disk, &forced, &mut |_, _| ()).await.expect("forced");
        let disk = zoned(&world, &device, 2).await;
        assert_eq!(open(&*disk).await.map(|superblock| superblock.device), Ok(Uuid::new([9; 16])));
        let read = disk.read(FIRST, IoBuf::stale(4096)).await;
        assert!(read.buf.iter().all(|byte| *byte == 0), "the zones are reset");
    });
}

#[test]
fn what_is_not_ours_is_not_formatted_over() {
    let device = device();
    device.poke(0, &[7; 4096]);
    cfs_sim::run(1, |world| async move {
        let raw = device.attach(&world);
        raw.write(0, block(7, 1), Durability::Flush, Lifetime::Log).await.result.expect("written");
        let disk = zoned(&world, &device, 0).await;
        assert_eq!(open(&*disk).await, Err(DeviceError::Foreign));
        let refused = format(&*disk, &options(), &mut |_, _| ()).await;
        assert_eq!(refused, Err(DeviceError::NotEmpty { offset: 0 }));
    });
}

#[test]
fn an_anchor_is_the_last_acknowledged_one_or_a_later_one_after_any_power_cut() {
    let (mut device, superblock) = formatted();
    let id = AnchorId::group(GroupId::new(3));
    let mut acknowledged = 0u64;
    for round in 0..60u64 {
        let (work, core) = (device.clone(), u16::try_from(round % 3).expect("small"));
        let done = Rc::new(std::cell::Cell::new(acknowledged));
        let (tell, mut next) = (done.clone(), acknowledged);
        cfs_sim::kill(round, 60 + round * 7, |world| async move {
            let disk = zoned(&world, &work, core).await;
            let anchors = Anchors::new(disk.clone(), &superblock);
            let found = anchors.recover(id).await.expect("intact").unwrap_or_default();
            let found = found.get(..8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")));
            assert!(found >= next, "round {round}: {found} of {next}");
            next = found;
            loop {
                next += 1;
                let mut record = vec![next.to_le_bytes()[0]; 6000];
                record[..8].copy_from_slice(&next.to_le_bytes());
                anchors.write(id, &record).await.expect("written");
                tell.set(next);
            }
        });
        acknowledged = done.get();
        device = device.crash(round);
    }
    assert!(acknowledged > 60, "{acknowledged}");
}

#[test]
fn a_start_that_is_cut_off_again_and_again_loses_nothing() {
    const GROUPS: u16 = 24;
    const ROUNDS: u64 = 900;
    let (mut device, superblock) = formatted();
    let id = |group| AnchorId::group(GroupId::new(group));
    let work = device.clone();
    cfs_sim::run(1, |world| async move {
        let anchors = Anchors::new(zoned(&world, &work, 0).await, &superblock);
        for group in 0..GROUPS {
            anchors.write(id(group), &[group.to_le_bytes()[0]; 6000]).await.expect("written");
        }
    });
    let mut whole = 0;
    for round in 0..ROUNDS {
        let work = device.clone();
        // The first write of each start makes the other zone of the pair the one that is written to; most are cut off in that.
        let done = cfs_sim::kill(round, 10 + round * 7 % 16, |world| async move {
            let disk = zoned(&world, &work, 0).await;
            let anchors = Anchors::new(disk.clone(), &superblock);
            for group in 0..GROUPS {
                let found = anchors.read(id(group)).await;
                assert_eq!(found, Ok(Some(vec![group.to_le_bytes()[0]; 6000])), "round {round}, group {group}");
            }
            let unused = disk.write(48 << 20, block(1, 1), Durability::Flush, Lifetime::Log).await;
            assert_eq!(unused.result, Ok(()));
        });
        whole += u64::from(done.is_some());
        // Some are killed, and the power stays.
        if round % 3 > 0 {
            device = device.crash(round);
        }
    }
    assert!((1..ROUNDS).contains(&whole), "{whole} of {ROUNDS} starts were not cut off");
}

#[test]
fn a_journal_that_is_full_goes_on_in_the_other_zone_of_its_pair() {
    let (device, superblock) = formatted();
    let work = device.clone();
    let ids = [1, 2].map(|group| AnchorId::group(GroupId::new(group)));
    cfs_sim::run(5, |world| async move {
        let disk = zoned(&world, &work, 1).await;
        let anchors = Anchors::new(disk.clone(), &superblock);
        anchors.write(ids[0], b"kept").await.expect("written");
        for n in 0..700u32 {
            anchors.write(ids[1], &[n.to_le_bytes()[0] | 1; 12000]).await.expect("written");
        }
    });
    let (_, resets) = device.zone_states().expect("zones");
    assert!((2..8).contains(&resets), "{resets}");
    let device = device.crash(1);
    cfs_sim::run(6, |world| async move {
        let disk = zoned(&world, &device, 0).await;
        let anchors = Anchors::new(disk, &superblock);
        assert_eq!(anchors.read(ids[0]).await, Ok(Some(b"kept".to_vec())));
        assert_eq!(anchors.read(ids[1]).await, Ok(Some(vec![699u32.to_le_bytes()[0] | 1; 12000])));
    });
}

#[test]
fn a_zone_is_written_in_order_with_its_gaps_filled() {
    let (device, _) = formatted();
    cfs_sim::run(3, |world| async move {
        let disk = zoned(&world, &device, 0).await;
        let region = FIRST + 16 * 64 * MIB;
        // All at once, without waiting: the device sees one after the other.
        let writes = [(0, 1), (65536, 3), (65536 + 3 * 4096, 5), (3 * MIB, 512)].map(|(at, blocks)| {
            disk.write(
                region + at,
                block(u8::try_from(at % 251).expect("small") | 1, blocks),
                Durability::Flush,
                Lifetime::Hot,
            )
        });
        for write in writes {
            assert_eq!(write.await.result, Ok(()));
        }
        let read = disk.read(region + 4096, IoBuf::stale(65536)).await;
        assert_eq!(read.result, Ok(()));
        assert!(read.buf[..61440].iter().all(|byte| *byte == 0) && read.buf[61440] == (65536 % 251) as u8 | 1);
        let behind = write(&disk, region + MIB, block(1, 1), Lifetime::Hot).await;
        assert_eq!(behind, Err(DiskError::OutOfOrder));
        let nowhere = write(&disk, region + 64 * MIB + 4096, block(1, 1), Lifetime::Hot).await;
        assert_eq!(nowhere, Err(DiskError::OutOfOrder), "its zone was not begun");
        // Begun anew, whatever is in it.
        assert_eq!(write(&disk, region, block(9, 1), Lifetime::Hot).await, Ok(()));
        let read = disk.read(region + 65536, IoBuf::stale(4096)).await;
        assert!(read.buf.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn zones_that_nobody_fills_any_more_are_finished() {
    let (device, _) = formatted();
    let active = |device: &MemoryDisk| {
        let (zones, _) = device.zone_states().expect("zones");
        zones.iter().filter(|zone| zone.state == ZoneState::Active).count()
    };
    let work = device.clone();
    cfs_sim::run(3, |world| async move {
        let disk = zoned(&world, &work, 0).await;
        // The log goes from slot to slot; each makes the one before full.
        for slot in 0..8 {
            assert_eq!(write(&disk, FIRST + slot * 64 * MIB, block(1, 2), Lifetime::Log).await, Ok(()), "{slot}");
        }
        for zone in 16..19 {
            assert_eq!(write(&disk, FIRST + zone * 64 * MIB, block(1, 2), Lifetime::Hot).await, Ok(()), "{zone}");
        }
    });
    assert!(active(&device) >= 4);
    let work = device.clone();
    cfs_sim::run(4, |world| async move {
        let disk = zoned(&world, &work, 0).await;
        assert_eq!(disk.settle().await, Ok(()));
        for zone in 19..23 {
            assert_eq!(write(&disk, FIRST + zone * 64 * MIB, block(1, 2), Lifetime::Hot).await, Ok(()), "{zone}");
        }
    });
    assert_eq!(active(&device), 4);
}

#[test]
fn zones_that_are_of_no_use_are_refused_in_words() {
    let odd = [
        (Zones { capacity_bytes: 63 * MIB, ..ZONES }, "less than a region"),
        (Zones { count: 31, ..ZONES }, "fewer than 32 zones"),
        (Zones { active_max: Some(3), ..ZONES }, "fewer than four zones"),
    ];
    for (zones, words) in odd {
        let device = MemoryDisk::with_zones(zones, DiskFaults::default(), 1);
        let refused = cfs_sim::run(1, |world| async move {
            open_zones(device.attach(&world), &world.tasks, 0).await.err().map(|error| error.to_string())
        });
        assert!(refused.as_ref().is_some_and(|said| said.contains(words)), "{refused:?}");
    }
}
