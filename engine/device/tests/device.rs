//! Format, open and anchors over a simulated device.

use cfs_device::{
    ANCHOR_BYTES_MAX, AnchorId, Anchors, DEVICE_BYTES_MIN, DeviceError, FormatOptions, Mended, SUPERBLOCK_BYTES,
    SUPERBLOCK_COPIES_AT, Superblock, SuperblockCopy, Uuid, crc32c, format, inspect, mark_failed, open, recover,
};
use cfs_seam::{Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime};
use cfs_sim::{DiskFaults, MemoryDisk, disk, now};
use cfs_types::GroupId;
use std::cell::RefCell;
use std::rc::Rc;

fn options() -> FormatOptions {
    FormatOptions {
        log_slot_bytes: Some(64 << 10),
        log_bytes: Some(1 << 20),
        ..FormatOptions::new(Uuid::new([1; 16]), Uuid::new([2; 16]), Uuid::new([3; 16]))
    }
}

fn formatted() -> (MemoryDisk, Superblock) {
    let device = disk(DEVICE_BYTES_MIN);
    let superblock = now(format(&device, &options(), &mut |_, _| {})).expect("an empty device");
    (device, superblock)
}

fn anchors(device: &MemoryDisk, superblock: &Superblock) -> Anchors {
    Anchors::new(Rc::new(device.clone()), superblock)
}

#[test]
fn a_formatted_device_opens_after_a_power_cut_and_is_not_formatted_twice() {
    let device = MemoryDisk::new(DEVICE_BYTES_MIN, DiskFaults { litter: true, ..DiskFaults::default() }, 5);
    assert!(matches!(now(open(&device)), Err(DeviceError::Foreign)));
    let refused = now(format(&device, &options(), &mut |_, _| {}));
    assert!(matches!(refused, Err(DeviceError::NotEmpty { .. })), "{refused:?}");
    let mut last = 0;
    let forced = FormatOptions { force: true, ..options() };
    let superblock = now(format(&device, &forced, &mut |done, total| {
        assert!(done > last && done <= total);
        last = done;
    }));
    let superblock = superblock.expect("forced");
    assert_eq!(last, 18 << 20);
    let after = device.crash(1);
    assert_eq!(now(open(&after)), Ok(superblock));
    assert!(after.peek(1 << 20, 17 << 20).iter().all(|byte| *byte == 0));
    assert_eq!(now(format(&after, &options(), &mut |_, _| {})), Err(DeviceError::NotEmpty { offset: 0 }));
}

#[test]
fn an_interrupted_format_leaves_nothing_that_opens() {
    let (device, _) = formatted();
    for seed in 0..20 {
        let cut = MemoryDisk::new(DEVICE_BYTES_MIN, DiskFaults::default(), seed);
        cut.poke(0, &device.peek(0, 4096));
        cut.poke(64 << 10, &device.peek(64 << 10, 4096));
        // The first flush of a forced format fails: the old superblocks may be there or not.
        cut.fail_flushes(1);
        let forced = FormatOptions { force: true, device: Uuid::new([9; 16]), ..options() };
        assert!(matches!(now(format(&cut, &forced, &mut |_, _| {})), Err(DeviceError::Flush { .. })));
        if let Ok(superblock) = now(open(&cut.crash(seed))) {
            assert_eq!(superblock.device, Uuid::new([3; 16]), "never the new one");
        }
    }
}

#[test]
fn an_interrupted_format_is_known_and_begun_again_without_force() {
    let whole = disk(DEVICE_BYTES_MIN);
    let cut = MemoryDisk::new(DEVICE_BYTES_MIN, DiskFaults::default(), 1);
    // The mark is on stable media, what comes after it is not.
    let begun = now(format(&cut, &options(), &mut |done, _| {
        if done > 1 << 20 {
            cut.fail_flushes(1);
        }
    }));
    assert!(matches!(begun, Err(DeviceError::Flush { .. })), "{begun:?}");
    let after = cut.crash(1);
    assert_eq!(now(open(&after)), Err(DeviceError::Unfinished));
    let again = now(format(&after, &options(), &mut |_, _| {}));
    assert_eq!(again, now(format(&whole, &options(), &mut |_, _| {})));
    assert!(now(open(&after.crash(2))).is_ok());
}

#[test]
fn a_blank_head_before_data_is_a_lost_one() {
    for at in [1 << 20, 17 << 20, (128 << 20) + 5, DEVICE_BYTES_MIN - 1] {
        let device = disk(DEVICE_BYTES_MIN);
        let mut sector = [0; 512];
        sector[usize::try_from(at % 512).expect("below 512")] = 1;
        device.poke(at - at % 512, &sector);
        assert_eq!(now(open(&device)), Err(DeviceError::HeadLost { offset: at }));
        let refused = now(format(&device, &options(), &mut |_, _| {}));
        assert_eq!(refused, Err(DeviceError::NotEmpty { offset: at }));
        assert_eq!(now(open(&device)), Err(DeviceError::HeadLost { offset: at }), "nothing was written");
    }
}

#[test]
fn one_damaged_superblock_is_survived_and_two_are_named() {
    let (device, superblock) = formatted();
    device.flip_bit(70, 3);
    assert_eq!(now(open(&device)), Ok(superblock));
    let operations = device.operations();
    device.flip_bit((64 << 10) + 4000, 3);
    assert!(matches!(now(open(&device)), Err(DeviceError::SuperblockDamaged { .. })));
    assert_eq!(device.operations(), operations + 2, "a refused device is only read");
    assert_eq!(now(open(&disk(DEVICE_BYTES_MIN))), Err(DeviceError::Blank));
}

/// Both copies are this one, also after a power cut.
fn both_are(device: &MemoryDisk, superblock: Superblock) {
    assert_eq!(now(inspect(&device.crash(4))), Ok([SuperblockCopy::Valid(superblock); 2]));
}

#[test]
fn a_start_mends_the_copy_that_is_not_intact() {
    for at in SUPERBLOCK_COPIES_AT {
        for (byte, was) in [(70, SuperblockCopy::Damaged("checksum")), (1, SuperblockCopy::Foreign)] {
            let (device, superblock) = formatted();
            device.flip_bit(at + byte, 3);
            let (opened, mended) = now(recover(&device)).expect("one copy is intact");
            assert_eq!((opened, mended.map(|m| (m.offset, m.was))), (superblock, Some((at, was))));
            both_are(&device, superblock);
            assert_eq!(now(recover(&device)), Ok((superblock, None)), "nothing is left to mend");
        }
    }
}

#[test]
fn a_start_brings_the_copy_of_an_earlier_generation_up_to_date() {
    for at in SUPERBLOCK_COPIES_AT {
        let (device, superblock) = formatted();
        let mut older = device.peek(at, SUPERBLOCK_BYTES);
        older[64] = 0;
        let crc = crc32c(&older[..SUPERBLOCK_BYTES - 4]);
        older[SUPERBLOCK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        device.poke(at, &older);
        let (opened, mended) = now(recover(&device)).expect("both are intact");
        assert_eq!((opened, mended.map(|m| m.offset)), (superblock, Some(at)));
        both_are(&device, superblock);
    }
}

/// A device with a sector that is not read before it has been written again, and another like it.
struct BadSectors {
    disk: MemoryDisk,
    at: RefCell<Vec<u64>>,
}

impl BadSectors {
    fn new(disk: &MemoryDisk, at: &[u64]) -> Self {
        BadSectors { disk: disk.clone(), at: RefCell::new(at.to_vec()) }
    }
}

impl Disk for BadSectors {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        if self.at.borrow().contains(&offset) {
            return Io::ready(IoDone { result: Err(DiskError::Device(5)), buf });
        }
        self.disk.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        self.at.borrow_mut().retain(|at| *at != offset);
        self.disk.write(offset, buf, durability, lifetime)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.disk.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.disk.discard(offset, bytes)
    }
}

#[test]
fn a_start_mends_the_copy_that_cannot_be_read() {
    for at in SUPERBLOCK_COPIES_AT {
        let (device, superblock) = formatted();
        let bad = BadSectors::new(&device, &[at]);
        assert_eq!(now(open(&bad)), Ok(superblock));
        let mended = Mended { offset: at, was: SuperblockCopy::Unreadable(DiskError::Device(5)) };
        assert_eq!(now(recover(&bad)), Ok((superblock, Some(mended))));
        assert_eq!(now(recover(&bad)), Ok((superblock, None)), "nothing is left to mend");
    }
}

#[test]
fn what_no_intact_copy_stands_beside_is_refused_by_its_place() {
    let refused = |device: &MemoryDisk, bad: &[u64]| match now(open(&BadSectors::new(device, bad))) {
        Err(DeviceError::Read { offset, .. }) => offset,
        other => panic!("{other:?}"),
    };
    let [first, second] = SUPERBLOCK_COPIES_AT;
    let (device, _) = formatted();
    assert_eq!(refused(&device, &[first, second]), first);
    device.flip_bit(70, 3);
    assert_eq!(refused(&device, &[second]), second);
    assert_eq!(refused(&disk(DEVICE_BYTES_MIN), &[second]), second, "it is not blank for all that is known");
}

#[test]
fn an_anchor_outlives_a_copy_that_cannot_be_read() {
    let id = AnchorId::group(GroupId::new(7));
    for bad in 0..2 {
        let (device, superblock) = formatted();
        let sound = anchors(&device, &superblock);
        now(sound.write(id, b"record")).expect("a sound device");
        let at = sound.offsets(id)[bad];
        let opened = Anchors::new(Rc::new(BadSectors::new(&device, &[at])), &superblock);
        assert_eq!(now(opened.recover(id)), Ok(Some(b"record".to_vec())));
        let both = now(opened.inspect(id)).expect("both are read again").copies;
        assert_eq!(both[0], both[1]);
        let neither = Anchors::new(Rc::new(BadSectors::new(&device, &sound.offsets(id))), &superblock);
        assert!(matches!(now(neither.recover(id)), Err(DeviceError::Read { .. })));
    }
}

#[test]
fn a_refused_device_is_not_mended() {
    let (device, superblock) = formatted();
    now(mark_failed(&device, &superblock)).expect("a sound device");
    device.flip_bit(100, 0);
    let before = device.operations();
    assert_eq!(now(recover(&device)), Err(DeviceError::OutOfService));
    assert_eq!(device.operations(), before + 2, "it is only read");
}

#[test]
fn a_device_out_of_service_stays_so() {
    let (device, superblock) = formatted();
    now(mark_failed(&device, &superblock)).expect("a sound device");
    assert_eq!(now(open(&device.crash(3))), Err(DeviceError::OutOfService));
    // Damage of the first copy does not bring it back.
    device.flip_bit(100, 0);
    assert_eq!(now(open(&device)), Err(DeviceError::OutOfService));
}

#[test]
fn a_device_that_shrank_is_refused() {
    let (device, _) = formatted();
    let small = disk(128 << 20);
    small.poke(0, &device.peek(0, 4096));
    let expected = DeviceError::Shrunk { actual: 128 << 20, expected: DEVICE_BYTES_MIN };
    assert_eq!(now(open(&small)), Err(expected));
}

#[test]
fn an_anchor_is_the_old_record_or_the_new_one_after_a_cut_at_any_write() {
    let (device, superblock) = formatted();
    let id = AnchorId::group(GroupId::CONTROL);
    assert_eq!(now(anchors(&device, &superblock).read(id)), Ok(None));
    let (old, new) = (vec![1; 100], vec![2; ANCHOR_BYTES_MAX]);
    now(anchors(&device, &superblock).write(id, &old)).expect("a sound device");
    let mut seen = [0, 0];
    for seed in 0..100 {
        let cut = device.crash(seed);
        // The first or the second flush of the write fails, and the power goes.
        if seed % 2 == 0 {
            cut.fail_flushes(1);
        }
        let written = now(anchors(&cut, &superblock).write(id, &new));
        assert_eq!(written.is_ok(), seed % 2 == 1);
        let after = cut.crash(seed);
        let found = now(anchors(&after, &superblock).recover(id)).expect("one copy is whole").expect("written");
        assert!(found == old || found == new);
        assert!(written.is_err() || found == new, "seed {seed}");
        seen[usize::from(found == new)] += 1;
        // Recovered means: damage of any one copy changes nothing.
        for offset in anchors(&after, &superblock).offsets(id) {
            let rotten = after.crash(seed);
            rotten.flip_bit(offset + 70, 1);
            assert_eq!(now(anchors(&rotten, &superblock).read(id)), Ok(Some(found.clone())), "seed {seed}");
        }
    }
    assert!(seen[0] > 0 && seen[1] > 50, "{seen:?}");
}

#[test]
fn an_anchor_with_two_bad_copies_is_named() {
    let (device, superblock) = formatted();
    let id = AnchorId::stream(4).expect("below the limit");
    let anchors = anchors(&device, &superblock);
    now(anchors.write(id, b"stream")).expect("a sound device");
    let [offset_a, offset_b] = anchors.offsets(id);
    device.flip_bit(offset_a + 64, 0);
    assert_eq!(now(anchors.read(id)), Ok(Some(b"stream".to_vec())));
    device.flip_bit(offset_b + 69, 7);
    let expected = DeviceError::AnchorDamaged { entry: id.get(), offset_a, offset_b };
    assert_eq!(now(anchors.read(id)), Err(expected));
}

#[test]
fn records_that_do_not_fit_are_refused() {
    let (device, superblock) = formatted();
    let id = AnchorId::group(GroupId::new(0));
    let refused = now(anchors(&device, &superblock).write(id, &vec![0; ANCHOR_BYTES_MAX + 1]));
    assert!(matches!(refused, Err(DeviceError::AnchorTooLong { .. })));
    assert_eq!(device.geometry().bytes, DEVICE_BYTES_MIN);
    assert_eq!(AnchorId::stream(128), None);
}
