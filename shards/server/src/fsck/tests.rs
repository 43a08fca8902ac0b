//! Inconsistencies that no damage of the device explains: rows are planted one by one in a small
//! sound store, and each must be found.

use super::{Report, fsck};
use crate::cells::{self, Place};
use crate::config::name_key;
use crate::manifest::GroupManifest;
use crate::replica::Mark;
use cfs_consensus::VoteState;
use cfs_device::{AnchorId, Anchors, FormatOptions, Superblock, Uuid};
use cfs_kv::{BlockCache, Store, StoreConfig};
use cfs_log::CoreLog;
use cfs_namespace::data::{
    self, BackRef, ChunkRecord, DataRow, Extent, RangeRecord, Shape, Source, Summary, range_shard,
};
use cfs_namespace::record::{Counters, Dentry, Inode, Session, encode};
use cfs_namespace::{Key, Value, keys};
use cfs_seam::{Disk, IoBuf, World};
use cfs_segment::{CellOwner, CellRef, Floors, Lifetime, LocalRegions, Space, SpaceConfig, Written};
use cfs_types::{
    ChunkId, CoreId, FsError, GroupId, InodeId, MoveEpoch, Name, Nanos, RANGE_BYTES, RangeIndex, RequestNumber,
    SessionId, ShardId, Timestamp, VolumeId,
};
use cfs_wire::{FileKind, Reply};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const CLUSTER: [u8; 16] = [1; 16];
const ROOT: InodeId = InodeId::ROOT;
/// Bytes of each chunk.
const LEN: u32 = 5000;

type Rows = BTreeMap<(ShardId, Key), Value>;

fn ino(sequence: u64, shard: u8) -> InodeId {
    InodeId::new(sequence, ShardId::new(shard)).expect("valid")
}

fn dir() -> InodeId {
    ino(1, 7)
}

fn file() -> InodeId {
    ino(1, 1)
}

fn range() -> RangeIndex {
    RangeIndex::new(1)
}

/// Chunks: of the file's first range and of its second one.
fn chunks() -> [ChunkId; 2] {
    let second = range_shard(file(), range());
    [ChunkId::new(1, file().shard()), ChunkId::new(1, second)].map(|id| id.expect("valid"))
}

fn dentry_key(dir: InodeId, name: &str) -> Key {
    let name = Name::new(name.as_bytes()).expect("a name");
    let cookie = keys::cookie(&name_key(&CLUSTER), &name);
    keys::dentry(VolumeId::new(0), dir, cookie, name.as_bytes())
}

fn inode(kind: FileKind, change: impl FnOnce(&mut Inode)) -> Value {
    let mut inode = Inode::new(kind, 0o755, 0, 0, Nanos::new(1));
    change(&mut inode);
    inode.encode()
}

fn extent(start: u64, id: ChunkId) -> Extent {
    Extent { start, len: LEN, place: data::Place::Chunk { id, offset: 0 } }
}

/// What a sound store holds: a root, a directory, a file with two names and bytes in two ranges.
fn sound() -> Rows {
    let mut rows = Rows::new();
    let mut put = |shard: ShardId, key: Key, value: Value| drop(rows.insert((shard, key), value));
    let counters = |inodes, directories| encode(&Counters { inodes, directories, last_sequence: 1 });
    let directory =
        |parent, size, nlink| inode(FileKind::Directory, |i| (i.parent, i.size, i.nlink) = (Some(parent), size, nlink));
    let to = |ino, kind| Dentry { ino, kind }.encode();
    put(ROOT.shard(), keys::inode(ROOT), directory(ROOT, 2, 3));
    put(dir().shard(), keys::inode(dir()), directory(ROOT, 1, 2));
    put(ROOT.shard(), dentry_key(ROOT, "dir"), to(dir(), FileKind::Directory));
    put(ROOT.shard(), dentry_key(ROOT, "file"), to(file(), FileKind::File));
    put(dir().shard(), dentry_key(dir(), "other"), to(file(), FileKind::File));
    put(ROOT.shard(), keys::counters(), counters(2, 1));
    put(dir().shard(), keys::counters(), counters(1, 1));
    let filled = |i: &mut Inode| {
        (i.nlink, i.size, i.allocated, i.sequence) = (2, RANGE_BYTES + u64::from(LEN), 2 * u64::from(LEN), 1);
        i.xattr_name_bytes = 7;
    };
    put(file().shard(), keys::inode(file()), inode(FileKind::File, filled));
    put(file().shard(), keys::xattr(file(), b"user.a"), [1].as_slice().into());
    let end = RANGE_BYTES + u64::from(LEN);
    let summary = Summary { sequence: 1, from: RANGE_BYTES, through: end, bytes: LEN.into() };
    put(file().shard(), DataRow::Summary(file(), range(), summary).key(), summary.encode());
    let shape = Shape { allocated: LEN.into(), trim_from: None };
    let record = RangeRecord { epoch: 0, sequence: 1, shape, dying: false };
    put(range_shard(file(), range()), DataRow::Range(file(), range(), record).key(), record.encode());
    for (id, start) in chunks().into_iter().zip([0, RANGE_BYTES]) {
        let (extent, chunk) = (extent(start, id), ChunkRecord { len: LEN, live: LEN });
        let back = BackRef::Extent { ino: file(), end: extent.end() };
        let source = Source::Chunk { id, offset: 0 };
        put(id.shard(), DataRow::Extent(file(), extent.clone()).key(), extent.encode());
        put(id.shard(), DataRow::Chunk(id, chunk).key(), chunk.encode());
        put(id.shard(), DataRow::BackRef(source, back).key(), back.encode());
        put(id.shard(), DataRow::Grant(2).key(), encode(&2u64));
    }
    rows
}

/// Where the cells of the chunks were written.
type Cells = BTreeMap<ChunkId, Written>;

async fn write_cells(space: &Space) -> Cells {
    let mut cells = Cells::new();
    for id in chunks() {
        let bytes = IoBuf::copy_of(&vec![9; LEN as usize]);
        let written = space.write(CellOwner::Chunk(id), Lifetime::Hot, bytes).await.expect("a sound device");
        cells.insert(id, written);
    }
    space.sync().await.expect("a sound device");
    cells
}

fn record_cells(rows: &mut Rows, cells: &Cells) {
    for (id, written) in cells {
        let place = Place { cell: written.cell, len: LEN };
        for (key, value) in cells::record(*id, place, &written.checksums) {
            rows.insert((id.shard(), key), value.expect("recorded"));
        }
    }
}

async fn write_group(space: &Space, anchors: &Anchors, group: GroupId, rows: Vec<(Key, Option<Value>)>) {
    let config = StoreConfig::new(1 << 20, BlockCache::new(1 << 20), 1, cfs_namespace::keys::stem);
    let store = Store::open(group, None, space.clone(), config);
    store.apply(rows, Timestamp::new(5));
    assert!(store.freeze());
    let mut change = store.flush().await.expect("a sound device").expect("rows");
    let tables = store.propose(&mut change).await.expect("alone");
    let manifest = GroupManifest {
        mark: Mark { applied: (3, 1), locals: 0 },
        vote: VoteState { term: 1, vote: 1, commit: 3 },
        epoch: MoveEpoch::new(1),
        timestamp: Timestamp::new(5),
        tables,
    };
    anchors.write(AnchorId::group(group), &manifest.encode()).await.expect("a sound device");
    store.install(change).expect("proposed");
}

async fn format(disk: &Rc<dyn Disk>) -> Superblock {
    let mut options = FormatOptions::new(Uuid::new(CLUSTER), Uuid::new([2; 16]), Uuid::new([3; 16]));
    options.log_slot_bytes = Some(64 << 10);
    options.log_bytes = Some(1 << 20);
    cfs_device::format(&**disk, &options, &mut |_, _| {}).await.expect("a sound device")
}

/// A server that stopped cleanly leaves an empty stream of the log, and where it ended.
async fn start_and_stop(world: &World, disk: &Rc<dyn Disk>, superblock: &Superblock) {
    let recovered = cfs_log::recover(disk, superblock).await.expect("a new log");
    let (_, parts) = recovered.split(1, |_| CoreId::new(0)).expect("one core");
    for part in parts {
        let (log, _) = CoreLog::open(world, disk.clone(), superblock, part).await.expect("enough slots");
        log.close().await.expect("a sound device");
    }
}

/// Writes a sound store with `change` made to its rows, and checks it.
fn check(change: impl FnOnce(&mut Rows, &Cells) + 'static) -> Report {
    let device = cfs_sim::disk(256 << 20);
    cfs_sim::run(1, |world| async move {
        let disk: Rc<dyn Disk> = Rc::new(device);
        let superblock = format(&disk).await;
        let alone = cfs_device::MemberList::alone(&superblock).expect("few regions");
        let layout = crate::boot::region_layout(&alone).expect("the usual size");
        let grants = Rc::new(LocalRegions::new(layout.regions(), &BTreeSet::new()));
        let config = SpaceConfig { layout, floors: Floors::of_share(64), discard: false, start: 1 };
        let space = Space::new(disk.clone(), grants, config);
        space.start();
        let cells = write_cells(&space).await;
        let mut rows = sound();
        record_cells(&mut rows, &cells);
        change(&mut rows, &cells);
        let mut by_shard: BTreeMap<ShardId, Vec<(Key, Option<Value>)>> = BTreeMap::new();
        for ((shard, key), value) in rows {
            by_shard.entry(shard).or_default().push((key, Some(value)));
        }
        start_and_stop(&world, &disk, &superblock).await;
        let anchors = Anchors::new(disk.clone(), &superblock);
        for (shard, rows) in by_shard {
            write_group(&space, &anchors, shard.into(), rows).await;
        }
        fsck(&world, disk, Vec::new(), |_| ()).await.expect("a store")
    })
}

fn finds(what: &str, change: impl FnOnce(&mut Rows, &Cells) + 'static) {
    let report = check(change);
    assert!(!report.is_sound(), "{what}: {report}");
    assert!(report.to_string().contains(what), "{what}: {report}");
}

fn change_inode(rows: &mut Rows, ino: InodeId, change: impl FnOnce(&mut Inode)) {
    let value = rows.get_mut(&(ino.shard(), keys::inode(ino))).expect("there");
    let mut inode = Inode::decode(value).expect("sound");
    change(&mut inode);
    *value = inode.encode();
}

#[test]
fn the_store_without_a_change_is_clean() {
    let report = check(|_, _| ());
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.checked.inodes, report.checked.names, report.checked.chunks), (3, 3, 2));
}

#[test]
fn names_and_links_are_counted() {
    finds("2 links, and 1 names lead to it", |rows, _| drop(rows.remove(&(ROOT.shard(), dentry_key(ROOT, "file")))));
    finds("it counts 2 entries, there are 1", |rows, _| drop(rows.remove(&(ROOT.shard(), dentry_key(ROOT, "file")))));
    finds("there is no such inode, and 2 names lead to it", |rows, _| {
        drop(rows.remove(&(file().shard(), keys::inode(file()))));
    });
    finds("/file (inode 1.1): 3 links, and 2 names", |rows, _| change_inode(rows, file(), |i| i.nlink = 3));
    finds("neither a session nor the reaper has it", |rows, _| change_inode(rows, file(), |i| i.nlink = 0));
    finds("/dir (inode 7.1): 3 links, and 0 subdirectories", |rows, _| change_inode(rows, dir(), |i| i.nlink = 3));
    finds("its parent is Some(inode 7.1)", |rows, _| change_inode(rows, dir(), |i| i.parent = Some(dir())));
    finds("a name says Some(File), the inode Symlink", |rows, _| {
        change_inode(rows, file(), |i| (i.kind, i.target) = (FileKind::Symlink, [1].as_slice().into()));
    });
    finds("it is held by a transaction that does not exist", |rows, _| change_inode(rows, dir(), |i| i.dying = true));
    finds("bytes of attribute names", |rows, _| change_inode(rows, file(), |i| i.xattr_name_bytes = 9));
}

#[test]
fn a_loop_of_directories_is_found() {
    finds("its parents form a loop", |rows, _| {
        let name = rows.remove(&(ROOT.shard(), dentry_key(ROOT, "dir"))).expect("there");
        rows.insert((dir().shard(), dentry_key(dir(), "dir")), name);
    });
}

#[test]
fn counters_are_made_again() {
    finds("the counters say 3 inodes and 1 directories, there are 2 and 1", |rows, _| {
        let counters = Counters { inodes: 3, directories: 1, last_sequence: 1 };
        rows.insert((ROOT.shard(), keys::counters()), encode(&counters));
    });
    finds("above the last one given out", |rows, _| {
        let counters = Counters { inodes: 2, directories: 1, last_sequence: 0 };
        rows.insert((ROOT.shard(), keys::counters()), encode(&counters));
    });
}

#[test]
fn what_is_kept_for_sessions_is_compared() {
    const ISSUED_TO_NOBODY: SessionId = SessionId::new(5);
    let keep_result = |rows: &mut Rows| {
        let result = encode(&Ok::<Reply, FsError>(Reply::Done));
        rows.insert((ROOT.shard(), keys::result(ISSUED_TO_NOBODY, RequestNumber::new(1))), result);
    };
    finds("1 results of sessions that it does not know", move |rows, _| keep_result(rows));
    finds("session 5 was never issued", move |rows, _| {
        keep_result(rows);
        rows.insert((ROOT.shard(), keys::session(ISSUED_TO_NOBODY)), encode(&Session::default()));
    });
}

#[test]
fn rows_that_are_none_are_found() {
    finds("1 rows do not decode", |rows, _| drop(rows.insert((ROOT.shard(), [0x11].into()), [].into())));
    finds("is not stored under its hash", |rows, _| {
        let value = rows.remove(&(ROOT.shard(), dentry_key(ROOT, "file"))).expect("there");
        let key = keys::dentry(VolumeId::new(0), ROOT, 4096, b"file");
        rows.insert((ROOT.shard(), key), value);
    });
    finds("its record lies in shard 9", |rows, _| {
        let value = rows.remove(&(file().shard(), keys::inode(file()))).expect("there");
        rows.insert((ShardId::new(9), keys::inode(file())), value);
    });
}

#[test]
fn extents_and_their_counts_are_compared() {
    let id = chunks()[0];
    finds("counts 4999 live bytes, extents name 5000", move |rows, _| {
        let record = ChunkRecord { len: LEN, live: LEN - 1 };
        rows.insert((id.shard(), DataRow::Chunk(id, record).key()), record.encode());
    });
    finds("has no back reference", move |rows, _| {
        let back = BackRef::Extent { ino: file(), end: LEN.into() };
        let key = DataRow::BackRef(Source::Chunk { id, offset: 0 }, back).key();
        drop(rows.remove(&(id.shard(), key)));
    });
    finds("leads to no such extent", move |rows, _| {
        drop(rows.remove(&(id.shard(), DataRow::Extent(file(), extent(0, id)).key())));
    });
    finds("overlaps the one before it", move |rows, _| {
        let more = Extent { start: 4096, len: 4096, place: data::Place::Unwritten };
        rows.insert((id.shard(), DataRow::Extent(file(), more.clone()).key()), more.encode());
    });
    finds("beyond its end at 10", |rows, _| change_inode(rows, file(), |i| i.size = 10));
    finds("bytes stored, counted", |rows, _| change_inode(rows, file(), |i| i.allocated += 1));
    finds("disagree", |rows, _| {
        let summary = Summary { sequence: 2, from: RANGE_BYTES, through: RANGE_BYTES + 9000, bytes: LEN.into() };
        rows.insert((file().shard(), DataRow::Summary(file(), range(), summary).key()), summary.encode());
    });
}

#[test]
fn cells_belong_to_one_chunk_each() {
    let [first, second] = chunks();
    finds("both have these units", move |rows, cells| {
        let place = Place { cell: cells[&first].cell, len: LEN };
        for (key, value) in cells::record(second, place, &cells[&first].checksums) {
            rows.insert((second.shard(), key), value.expect("recorded"));
        }
    });
    finds("which is in no segment", move |rows, cells| {
        let place = Place { cell: CellRef::new(3, 2).expect("valid"), len: LEN };
        for (key, value) in cells::record(first, place, &cells[&first].checksums) {
            rows.insert((first.shard(), key), value.expect("recorded"));
        }
    });
    finds("lies nowhere", move |rows, _| {
        for (key, _) in cells::forget(first) {
            drop(rows.remove(&(first.shard(), key)));
        }
    });
    finds("its bytes fail their checksum", move |rows, cells| {
        let place = Place { cell: cells[&first].cell, len: LEN };
        for (key, value) in cells::record(first, place, &[1, 2]) {
            rows.insert((first.shard(), key), value.expect("recorded"));
        }
    });
}

#[test]
fn a_cell_that_nothing_names_is_a_leak() {
    let report = check(|rows, cells| {
        let stray = ChunkId::new(0, file().shard()).expect("valid");
        let place = Place { cell: cells[&chunks()[0]].cell, len: LEN };
        for (key, _) in cells::forget(chunks()[0]) {
            drop(rows.remove(&(file().shard(), key)));
        }
        for (key, value) in cells::record(stray, place, &cells[&chunks()[0]].checksums) {
            rows.insert((file().shard(), key), value.expect("recorded"));
        }
    });
    assert!(report.to_string().contains("leak: device offset"), "{report}");
}
