//! Requests beyond what a file can be.

use crate::history::new_file;
use crate::raw::Peer;
use crate::stage::{Setup, Stage, formatted};
use cfs_seam::{IoBuf, World};
use cfs_types::{FILE_BYTES_MAX, FsError, InodeId, Name};
use cfs_volume::{Volume, VolumeOptions, WriteFlags};
use cfs_wire::{AttrChange, FallocateMode, Identity, Op, Reply, SeekWhence};
use std::rc::Rc;
use std::time::Duration;

const MAX: u64 = FILE_BYTES_MAX;

async fn create(volume: &Volume) -> (InodeId, cfs_volume::Handle) {
    let name = Name::new(b"f").expect("a name");
    let (entry, handle) =
        volume.create(&Identity::default(), InodeId::ROOT, &name, &new_file()).await.expect("created");
    (entry.attr.ino, handle)
}

async fn ask_beyond(world: World, volume: Rc<Volume>, options: VolumeOptions) {
    let (ino, handle) = create(&volume).await;
    let peer = Peer::connect(&world, &options).await;
    for len in [3_u32, 128 << 10] {
        for offset in [MAX - 1, MAX, MAX + 1, 1 << 60, u64::MAX - 1] {
            let op = Op::Write { ino, offset, len, append: false, kill_privileges: false, held: None };
            let refused = peer.call(ino.shard(), op, Some(IoBuf::zeroed(len as usize))).await;
            assert_eq!(refused, Err(FsError::FileTooLarge), "{len} bytes at {offset}");
            let data = vec![1; len as usize];
            let refused = volume.write(handle, offset, &data, WriteFlags::default()).await;
            assert_eq!(refused, Err(FsError::FileTooLarge), "{len} bytes at {offset}");
        }
    }
    for mode in [FallocateMode::Allocate, FallocateMode::ZeroRange, FallocateMode::PunchHole] {
        for (offset, len) in [(MAX - 1, 2), (MAX, 1), (1 << 60, 1 << 20), (0, u64::MAX)] {
            let op = Op::Fallocate { ino, offset, len, mode, keep_size: mode == FallocateMode::PunchHole };
            assert_eq!(peer.call(ino.shard(), op, None).await, Err(FsError::FileTooLarge), "{mode:?} at {offset}");
        }
    }
    for size in [MAX + 1, 1 << 60, u64::MAX] {
        let change = AttrChange { size: Some(size), ..AttrChange::default() };
        let refused = peer.call(ino.shard(), Op::Setattr { ino, change }, None).await;
        assert_eq!(refused, Err(FsError::FileTooLarge), "size {size}");
    }
    for offset in [MAX, 1 << 60, u64::MAX] {
        let op = Op::Seek { ino, offset, whence: SeekWhence::Data };
        assert_eq!(peer.call(ino.shard(), op, None).await, Err(FsError::NoExtent));
        assert_eq!(volume.read(handle, offset, 100).await.as_deref(), Ok(&[][..]));
    }
    let Reply::Attr(attr) = peer.call(ino.shard(), Op::Getattr { ino }, None).await.expect("there") else { panic!() };
    assert_eq!((attr.size, attr.blocks), (0, 0), "nothing was changed");
}

#[test]
fn spans_beyond_the_longest_file_are_refused_at_once() {
    let setup = Setup::default();
    let stage = Stage::new(11, setup, &formatted(&setup));
    stage.start(1);
    let options = stage.options();
    stage.client(|world, volume| ask_beyond(world, volume, options));
    stage.stop();
}

/// The last bytes that a file can have.
async fn write_last(_world: World, volume: Rc<Volume>) {
    let (ino, handle) = create(&volume).await;
    let change = AttrChange { size: Some(MAX), ..AttrChange::default() };
    let (attr, _) = volume.setattr(&Identity::default(), ino, change).await.expect("as long as can be");
    assert_eq!(attr.size, MAX);
    assert_eq!(volume.write(handle, MAX - 3, b"end", WriteFlags::default()).await, Ok(3));
    volume.fsync(handle).await.expect("durable");
    assert_eq!(volume.read(handle, MAX - 5, 100).await.as_deref(), Ok(&b"\0\0end"[..]));
    let change = AttrChange { size: Some(MAX - 1), ..AttrChange::default() };
    volume.setattr(&Identity::default(), ino, change).await.expect("cut");
    assert_eq!(volume.read(handle, MAX - 5, 100).await.as_deref(), Ok(&b"\0\0en"[..]));
    volume.shutdown().await.expect("a clean end");
}

#[test]
fn the_longest_file_is_read_and_written_to_its_last_byte() {
    let setup = Setup::default();
    let stage = Stage::new(12, setup, &formatted(&setup));
    stage.start(1);
    stage.client(write_last);
    stage.stop();
}

async fn ask_too_much(world: World, volume: Rc<Volume>) {
    let (ino, handle) = create(&volume).await;
    assert_eq!(volume.write(handle, 5 << 30, b"data", WriteFlags::default()).await, Ok(4));
    volume.fsync(handle).await.expect("durable");
    let me = Identity::default();
    let begun = world.clock.now();
    for (mode, keep_size) in
        [(FallocateMode::Allocate, true), (FallocateMode::Allocate, false), (FallocateMode::ZeroRange, false)]
    {
        let refused = volume.fallocate(&me, handle, 0, 1 << 50, mode, keep_size).await;
        assert_eq!(refused, Err(FsError::NoSpace), "{mode:?}");
    }
    let (attr, _) = volume.getattr(ino).await.expect("there");
    assert_eq!(attr.size, (5 << 30) + 4);
    for mode in [FallocateMode::ZeroRange, FallocateMode::PunchHole] {
        assert_eq!(volume.fallocate(&me, handle, 0, 1 << 57, mode, true).await, Ok(()), "{mode:?}");
        assert_eq!(volume.read(handle, 5 << 30, 100).await.as_deref(), Ok(&[0; 4][..]));
    }
    let fits = volume.fallocate(&me, handle, 0, 100 << 20, FallocateMode::Allocate, false).await;
    assert_eq!(fits, Ok(()), "what there is room for");
    assert!(world.clock.now().since(begun) < Duration::from_secs(1), "it looks at what is not there");
    volume.shutdown().await.expect("a clean end");
}

#[test]
fn fallocate_takes_no_more_than_there_is_and_looks_at_nothing_that_is_not() {
    let setup = Setup::default();
    let stage = Stage::new(13, setup, &formatted(&setup));
    stage.start(2);
    stage.client(ask_too_much);
    stage.stop();
}

async fn keep_every_result(world: World, options: VolumeOptions) {
    const RESULTS: u64 = 65_536;
    let peer = Peer::connect(&world, &options).await;
    let change = AttrChange { mode: Some(0o700), ..AttrChange::default() };
    let change = async || -> Result<(), FsError> {
        let op = Op::Setattr { ino: InodeId::ROOT, change: change.clone() };
        peer.call(InodeId::ROOT.shard(), op, None).await.map(|_| ())
    };
    for (number, oldest, answer) in [
        (1, Some(1), Ok(())),
        (RESULTS, Some(1), Ok(())),
        (RESULTS + 1, Some(1), Err(FsError::Busy)),
        (u64::MAX - 1, Some(0), Err(FsError::Busy)),
        (RESULTS + 1, Some(2), Ok(())),
        (2 * RESULTS + 2, None, Ok(())),
    ] {
        peer.go_on(number, oldest);
        assert_eq!(change().await, answer, "request {number}, oldest {oldest:?}");
    }
}

#[test]
fn a_session_that_never_says_what_it_has_received_is_told_to_wait() {
    let setup = Setup::default();
    let stage = Stage::new(12, setup, &formatted(&setup));
    stage.start(1);
    let options = stage.options();
    stage.client(|world, _volume| keep_every_result(world, options));
    stage.stop();
}

async fn make_what_no_file_has(world: World, options: VolumeOptions) {
    const NO_ID: u32 = u32::MAX;
    let peer = Peer::connect(&world, &options).await;
    let (dir, shard) = (InodeId::ROOT, InodeId::ROOT.shard());
    let name = |text: &[u8]| Name::new(text).expect("a name");
    let target = b"in\0side".to_vec();
    let cut = Op::Symlink { dir, name: name(b"link"), target };
    assert_eq!(peer.call(shard, cut, None).await, Err(FsError::Invalid));
    for (uid, gid) in [(NO_ID, 0), (0, NO_ID)] {
        let make = Op::Create { dir, name: name(b"file"), mode: 0o644, exclusive: true, truncate: false };
        assert_eq!(peer.call_as(shard, Identity { uid, gid }, make, None).await, Err(FsError::Invalid));
        let change = AttrChange { uid: Some(uid), gid: Some(gid), ..AttrChange::default() };
        let given = peer.call(shard, Op::Setattr { ino: dir, change }, None).await;
        assert_eq!(given, Err(FsError::Invalid));
    }
    let listing = peer.call(shard, Op::Readdir { dir, cookie: 0, bytes_max: 4096, plus: false }, None).await;
    assert!(matches!(&listing, Ok(Reply::Listing { entries, .. }) if entries.is_empty()), "{listing:?}");
}

#[test]
fn ids_and_targets_that_no_file_can_have_are_refused() {
    let setup = Setup::default();
    let stage = Stage::new(13, setup, &formatted(&setup));
    stage.start(1);
    let options = stage.options();
    stage.client(|world, _volume| make_what_no_file_has(world, options));
    stage.stop();
}
