//! docs/formats/device.md: superblock and anchors.

use crate::disk::{formatted, lay, number, seal};
use cfs_device::{AnchorId, Anchors, CopyState, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES_AT, SuperblockCopy};
use cfs_device::{Member, MemberList, REGION_BYTES, Roles, Superblock, Uuid, inspect, mark_failed};
use cfs_fuzz::Target;
use cfs_seam::Disk;
use cfs_sim::now;
use cfs_types::GroupId;
use std::rc::Rc;

#[test]
fn superblocks() {
    let (device, superblock) = formatted();
    let failed = device.crash(1);
    now(mark_failed(&failed, &superblock)).expect("a sound device");
    let seeds = [&device, &failed].map(|d| d.peek(0, SUPERBLOCK_BYTES)).to_vec();
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
