//! One client does a little of everything; the server restarts and shows it again.

use crate::stage::{Setup, Stage, formatted};
use cfs_seam::World;
use cfs_types::{InodeId, Name};
use cfs_volume::{Creation, Handle, Lookup, OpenFlags, RenameMode, Volume, WriteFlags};
use cfs_wire::{FileKind, Identity};
use std::rc::Rc;

const ROOT: InodeId = InodeId::ROOT;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn me() -> Identity {
    Identity::default()
}

fn writing() -> OpenFlags {
    OpenFlags { write: true, ..OpenFlags::default() }
}

async fn found(volume: &Volume, dir: InodeId, text: &str) -> cfs_wire::Attr {
    match volume.lookup(&me(), dir, &name(text)).await.expect("a healthy server") {
        Lookup::Found(entry) => entry.attr,
        Lookup::Missing { .. } => panic!("{text} is missing"),
    }
}

async fn create(volume: &Volume, dir: InodeId, text: &str) -> (InodeId, Handle) {
    let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags: writing() };
    let (entry, handle) = volume.create(&me(), dir, &name(text), &how).await.expect("created");
    (entry.attr.ino, handle)
}

async fn content(volume: &Volume, ino: InodeId) -> Vec<u8> {
    let handle = volume.open(&me(), ino, OpenFlags::default()).await.expect("opened");
    let bytes = volume.read(handle, 0, 1 << 20).await.expect("read").to_vec();
    volume.release(handle);
    bytes
}

async fn write_some(_world: World, volume: Rc<Volume>) {
    let dir = volume.mkdir(&me(), ROOT, &name("dir"), 0o755).await.expect("made").attr.ino;
    let other = volume.mkdir(&me(), ROOT, &name("other"), 0o755).await.expect("made").attr.ino;
    assert_ne!(dir.shard(), ROOT.shard());
    let (file, handle) = create(&volume, dir, "file").await;
    assert_eq!(volume.write(handle, 0, b"hello, world", WriteFlags::default()).await, Ok(12));
    volume.fsync(handle).await.expect("durable");
    volume.release(handle);
    assert_eq!(content(&volume, file).await, b"hello, world");
    let long = vec![7; 300_000];
    let (_, handle) = create(&volume, dir, "long").await;
    assert_eq!(volume.write(handle, 0, &long, WriteFlags::default()).await, Ok(long.len()));
    volume.fsync(handle).await.expect("durable");
    volume.release(handle);
    let mode = RenameMode::Replace;
    volume.rename(&me(), (dir, &name("file")), (dir, &name("renamed")), mode).await.expect("renamed");
    volume.rename(&me(), (dir, &name("long")), (other, &name("moved")), mode).await.expect("moved");
    volume.rename(&me(), (ROOT, &name("dir")), (other, &name("inner")), mode).await.expect("a directory moved");
    volume.link(&me(), file, ROOT, &name("second")).await.expect("linked");
    let (_, handle) = create(&volume, other, "gone").await;
    volume.release(handle);
    volume.unlink(&me(), other, &name("gone")).await.expect("unlinked");
    volume.mkdir(&me(), other, &name("empty"), 0o755).await.expect("made");
    volume.rmdir(&me(), other, &name("empty")).await.expect("removed");
    volume.symlink(&me(), other, &name("link"), b"../somewhere").await.expect("made");
    volume.shutdown().await.expect("a clean end");
}

async fn check_all(_world: World, volume: Rc<Volume>) {
    let mut roots: Vec<_> = volume.readdir(&me(), ROOT, 0, 1 << 16, true).await.expect("listed").entries;
    roots.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = roots.iter().map(|e| e.name.as_bytes().to_vec()).collect();
    assert_eq!(names, [&b"other"[..], b"second"]);
    let second = found(&volume, ROOT, "second").await;
    assert_eq!((second.nlink, second.size, second.kind), (2, 12, FileKind::File));
    let other = found(&volume, ROOT, "other").await;
    assert_eq!(other.nlink, 3);
    let inner = found(&volume, other.ino, "inner").await;
    let renamed = found(&volume, inner.ino, "renamed").await;
    assert_eq!(renamed.ino, second.ino);
    assert_eq!(content(&volume, second.ino).await, b"hello, world");
    let moved = found(&volume, other.ino, "moved").await;
    assert_eq!(content(&volume, moved.ino).await, vec![7; 300_000]);
    let link = found(&volume, other.ino, "link").await;
    assert_eq!(volume.readlink(link.ino).await.expect("read"), b"../somewhere");
    assert_eq!(volume.readdir(&me(), other.ino, 0, 1 << 16, false).await.expect("listed").entries.len(), 3);
    volume.shutdown().await.expect("a clean end");
}

fn once(seed: u64, setup: Setup, cores: &[u16]) -> u64 {
    let stage = Stage::new(seed, setup, &formatted(&setup));
    let (first, later) = cores.split_first().expect("one start at least");
    stage.start(*first);
    stage.client(write_some);
    stage.client(check_all);
    for cores in later {
        stage.stop();
        stage.start(*cores);
        stage.client(check_all);
    }
    stage.stop();
    stage.sim.trace()
}

#[test]
fn one_core_keeps_everything_over_a_restart() {
    once(1, Setup::default(), &[1, 1, 1]);
}

#[test]
fn two_and_three_cores_serve_operations_between_shards() {
    once(2, Setup::default(), &[2, 2]);
    once(3, Setup::default(), &[3, 3]);
}

#[test]
fn the_number_of_cores_may_change_from_start_to_start() {
    once(4, Setup::default(), &[1, 3, 2, 1]);
    once(5, Setup::tight(), &[3, 1, 2, 3]);
}

#[test]
fn one_seed_is_one_history() {
    assert_eq!(once(6, Setup::tight(), &[2, 3]), once(6, Setup::tight(), &[2, 3]));
}
