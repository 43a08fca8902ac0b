//! docs/formats/device.md: superblock and anchors.

use crate::disk::{formatted, lay, number, seal};
use cfs_device::{
    ANCHORS_AT, AnchorId, Anchors, CopyState, FormatOptions, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES_AT, SuperblockCopy,
    format, open_zones,
};
use cfs_device::{
    Layout, Member, MemberList, REGION_BYTES, Roles, Superblock, Uuid, ZONED_HEAD_BYTES, inspect, mark_failed,
};
use cfs_fuzz::Target;
use cfs_seam::{Class, Disk, Durability, IoBuf, Lifetime, Spawn, TaskHandle, Zones, Zoning};
use cfs_sim::{DiskFaults, MemoryDisk, now};
use cfs_types::GroupId;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

#[test]
fn superblocks() {
    let (device, superblock) = formatted();
    let failed = device.crash(1);
    now(mark_failed(&failed, &superblock)).expect("a sound device");
    let mut seeds = [&device, &failed].map(|d| d.peek(0, SUPERBLOCK_BYTES)).to_vec();
    let zones = Zoning { head_bytes: ZONED_HEAD_BYTES, zone_bytes: 3 * REGION_BYTES, active_max: None };
    let layout = Layout::of_zones(32 << 30, zones, None).expect("large enough");
    now(mark_failed(&failed, &Superblock { layout, ..superblock })).expect("a sound device");
    seeds.push(failed.peek(0, SUPERBLOCK_BYTES));
    let (decoded, written) = (device.crash(2), device.crash(3));
    let read = |bytes: &[u8]| {
        SUPERBLOCK_COPIES_AT.iter().for_each(|at| lay(&decoded, *at, bytes, SUPERBLOCK_BYTES));
        match now(inspect(&decoded)).expect("a sound device") {
            [SuperblockCopy::Valid(superblock), again] => {
                assert_eq!(again, SuperblockCopy::Valid(superblock));
                Some(superblock)
            }
            _ => None,
        }
    };
    // What opens can be told that it has failed, and says so from then on.
    let encode = |superblock: &Superblock| {
        now(mark_failed(&written, superblock)).expect("a sound device");
        let [SuperblockCopy::Valid(marked), _] = now(inspect(&written)).expect("a sound device") else {
            panic!("what was written opens")
        };
        let expected = Superblock { failed: true, generation: marked.generation, ..*superblock };
        assert!(marked == expected && marked.generation > superblock.generation, "{marked:?}");
        decoded.peek(0, SUPERBLOCK_BYTES)
    };
    let mut last = seeds[0].clone();
    last[64..72].fill(0xff);
    seal(&mut last, 0, SUPERBLOCK_BYTES - 4, SUPERBLOCK_BYTES - 4);
    Target::new("superblock", &["engine/device/src/superblock.rs", "engine/device/src/layout.rs"], seeds)
        // A generation that cannot rise.
        .case(last)
        .sealed(|bytes| seal(bytes, 0, SUPERBLOCK_BYTES - 4, SUPERBLOCK_BYTES - 4))
        .may_hold(4, 16 << 10)
        .mutants(20_000)
        .round_trips(read, encode);
}

#[test]
fn lists_of_devices() {
    let (_, superblock) = formatted();
    let alone = MemberList::alone(&superblock).expect("few regions");
    let mut several = alone.clone();
    for (number, path) in [(1, "/dev/nvme1n1"), (2, "")] {
        let first_region = several.next_region;
        let member = Member {
            device: Uuid::new([number; 16]),
            number: number.into(),
            roles: Roles::DATA,
            first_region,
            regions_at: REGION_BYTES,
            seen_at: path.into(),
            ..alone.members[0].clone()
        };
        several.next_region += member.regions;
        several.members.push(member);
    }
    let seeds = vec![alone.encode(), several.encode()];
    Target::new("members", &["engine/device/src/members.rs"], seeds)
        .may_hold(8, 32 << 10)
        .mutants(20_000)
        .is_exact(MemberList::decode, MemberList::encode);
}

/// Bytes of an anchor's header, and of a copy.
const HEADER: usize = 64;
const COPY: usize = 16 << 10;

#[test]
fn anchors() {
    let (device, superblock) = formatted();
    let id = AnchorId::group(GroupId::new(3));
    let open = |device| Anchors::new(device, &superblock);
    let disk: Rc<dyn Disk> = Rc::new(device.clone());
    let anchors = open(disk.clone());
    let [at, other] = anchors.offsets(id);
    let seeds = [&b"a record"[..], &[7; 5000], b""].map(|record| {
        now(anchors.write(id, record)).expect("a sound device");
        let blocks = (HEADER + record.len()).next_multiple_of(4096);
        device.peek(at, blocks)
    });
    let read = |bytes: &[u8]| {
        lay(&device, at, bytes, COPY);
        let state = now(open(disk.clone()).inspect(id)).expect("a sound device");
        match state.copies {
            [CopyState::Valid { generation, record }, _] => Some((generation, record)),
            _ => None,
        }
    };
    // A start mends the other copy: it is the same then.
    let encode = |(_, record): &(u64, Vec<u8>)| {
        let bytes = device.peek(at, COPY);
        lay(&device, other, &[], COPY);
        let recovered = now(open(disk.clone()).recover(id)).expect("a sound device");
        assert_eq!(recovered.as_ref(), Some(record));
        let state = now(open(disk.clone()).inspect(id)).expect("a sound device");
        assert_eq!(state.copies[0], state.copies[1]);
        bytes
    };
    let mut last = seeds[0].clone();
    last[24..32].fill(0xff);
    seal_anchor(&mut last);
    Target::new("anchor", &["engine/device/src/anchor.rs"], seeds.to_vec())
        // A generation that cannot rise.
        .case(last)
        .sealed(|bytes| seal_anchor(bytes))
        .may_hold(4, 48 << 10)
        .mutants(20_000)
        .round_trips(read, encode);
}

/// Both checksums of an anchor copy.
pub fn seal_anchor(bytes: &mut [u8]) {
    let record = number(bytes, 32);
    seal(bytes, HEADER, HEADER.saturating_add(record), 36);
    seal(bytes, 0, HEADER - 4, HEADER - 4);
}

/// Few zones, of which the first one is that of a journal.
const ZONES: Zones = Zones { count: 32, stride_bytes: 64 << 20, capacity_bytes: 64 << 20, active_max: None };

/// Nothing is written here, so nothing is spawned.
struct NoTasks;

impl Spawn for NoTasks {
    fn spawn_boxed(&self, _: Class, _: Pin<Box<dyn Future<Output = ()>>>) -> TaskHandle {
        panic!("a journal is read at once")
    }
    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async {})
    }
}

/// What the first journal of a device has after a format, and some more.
fn journal() -> Vec<u8> {
    let device = MemoryDisk::with_zones(ZONES, DiskFaults::default(), 1);
    let written = device.clone();
    cfs_sim::run(1, |world| async move {
        let disk = open_zones(Rc::new(written), &world.tasks, 0).await.expect("zones of use");
        let options = FormatOptions::new(Uuid::new([1; 16]), Uuid::new([2; 16]), Uuid::new([3; 16]));
        let superblock = format(&*disk, &options, &mut |_, _| {}).await.expect("an empty device");
        let anchors = Anchors::new(disk, &superblock);
        anchors.write(AnchorId::group(GroupId::new(3)), &[7; 5000]).await.expect("a sound device");
    });
    let (zones, _) = device.zone_states().expect("it has some");
    device.peek(0, usize::try_from(zones[0].written_bytes).expect("a few blocks"))
}

#[test]
fn journals_of_zones() {
    let tasks: Rc<dyn Spawn> = Rc::new(NoTasks);
    let decode = |bytes: &[u8]| {
        let device = MemoryDisk::with_zones(ZONES, DiskFaults::default(), 1);
        let mut buf = IoBuf::zeroed(bytes.len().next_multiple_of(4096));
        buf[..bytes.len()].copy_from_slice(bytes);
        now(device.write(0, buf, Durability::Flush, Lifetime::Log)).result.ok()?;
        let disk = now(open_zones(Rc::new(device), &tasks, 0)).ok()?;
        let read = now(disk.read(ANCHORS_AT, IoBuf::stale(1 << 20)));
        read.result.ok().map(|()| read.buf.len())
    };
    Target::new("journal", &["engine/device/src/zoned/record.rs"], vec![journal()])
        .sealed(|bytes| {
            for at in (0..bytes.len()).step_by(4096).filter(|at| bytes[*at..].starts_with(b"cfsJ")).collect::<Vec<_>>()
            {
                let body = number(bytes, at + 32);
                seal(bytes, at + 64, (at + 64).saturating_add(body), at + 36);
                seal(bytes, at, at + 60, at + 60);
            }
        })
        .may_hold(16, 16 << 20)
        .mutants(5_000)
        .decodes(decode);
}
