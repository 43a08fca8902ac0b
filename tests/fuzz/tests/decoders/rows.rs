//! docs/formats/namespace.md and file-data.md: keys and records of a shard's state.

use crate::messages::examples;
use cfs_fuzz::Target;
use cfs_namespace::audit::{self, Row};
use cfs_namespace::data::{BackRef, ChunkRecord, DataRow, Extent, LogRef, Place, RangeRecord, Shape, Source, Summary};
use cfs_namespace::record::{self, Counters, Dentry, Inode, Session};
use cfs_namespace::{Command, Key, Message, TxId, Value, keys};
use cfs_types::{
    ChunkId, FsError, InodeId, LogIndex, Nanos, RangeIndex, RequestNumber, SessionId, ShardId, Term, VolumeId,
};
use cfs_wire::{FileKind, Reply};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

fn ino(raw: u64) -> InodeId {
    InodeId::from_raw(raw).expect("a number")
}

fn inodes() -> Vec<Inode> {
    let mut directory = Inode::new(FileKind::Directory, 0o2755, 1000, 100, Nanos::new(0x0102_0304));
    directory.parent = Some(ino(0x1122));
    directory.dying = true;
    (directory.size, directory.locks, directory.pending_links) = (3, 1, 2);
    let mut link = Inode::new(FileKind::Symlink, 0o777, 0, 0, Nanos::new(0));
    link.target = (*b"to").into();
    let mut file = Inode::new(FileKind::File, 0o644, 0, 0, Nanos::new(-1));
    file.take(SessionId::new(0x0607));
    file.take(SessionId::new(0x0608));
    (file.size, file.trim_from) = (1 << 40, Some(77));
    vec![directory, link, file, Inode::new(FileKind::Fifo, 0o600, 1, 2, Nanos::new(5))]
}

#[test]
fn inode_records() {
    let seeds: Vec<Vec<u8>> = inodes().iter().map(|inode| inode.encode().to_vec()).collect();
    let mut odd = seeds[1].clone();
    odd[103] = 0x80;
    Target::new("inode", &["shards/namespace/src/record/inode.rs"], seeds)
        // A symlink with something in the place of a parent.
        .case(odd)
        .is_exact(|bytes| Inode::decode(bytes).ok(), |inode| inode.encode().to_vec());
}

#[test]
fn dentry_records() {
    let kinds = [FileKind::File, FileKind::Directory, FileKind::Socket];
    let seeds = kinds.map(|kind| Dentry { ino: ino(0x0102), kind }.encode().to_vec());
    Target::new("dentry", &["shards/namespace/src/record/dentry.rs"], seeds.to_vec())
        .is_exact(|bytes| Dentry::decode(bytes).ok(), |dentry| dentry.encode().to_vec());
}

/// A version byte before each of the page's examples of a type.
fn records(of: &str) -> Vec<Vec<u8>> {
    examples(of).into_iter().map(|example| [&[1], &example[..]].concat()).collect()
}

fn cold<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &'static str) {
    Target::new(name, &["shards/namespace/src/record.rs", "shards/namespace/src/command.rs"], records(name))
        .may_hold(64, 1024)
        .round_trips(|bytes| record::decode::<T>(bytes).ok(), |value| record::encode(value).to_vec());
}

#[test]
fn cold_records() {
    cold::<Counters>("Counters");
    cold::<Session>("Session");
    cold::<Message>("Message");
    cold::<Result<Reply, FsError>>("Result");
}

#[test]
fn commands() {
    cold::<Command>("Command");
    cold::<cfs_namespace::CommandBody>("CommandBody");
    cold::<cfs_namespace::data::DataCommand>("DataCommand");
    cold::<cfs_namespace::txn::TxnCommand>("TxnCommand");
}

type Bytes = Vec<u8>;

/// A row as one piece of input: the length of the key, the key, the value.
fn joined(key: &[u8], value: &[u8]) -> Bytes {
    [&[u8::try_from(key.len()).expect("keys are short")], key, value].concat()
}

fn halves(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn data_rows() -> Vec<DataRow> {
    let (file, range) = (ino(0x0102), RangeIndex::new(3));
    let log = LogRef { index: LogIndex::new(9), data_offset: 64, data_len: 9000, skip: 17, checksums: vec![1, 2, 3] };
    let extent = |len, place| DataRow::Extent(file, Extent { start: 4096, len, place });
    let (in_log, in_chunk) =
        (Source::Log { index: LogIndex::new(9), offset: 8 }, Source::Chunk { id: ChunkId::from_raw(7), offset: 4096 });
    let shape = Shape { allocated: 5000, trim_from: Some(9) };
    vec![
        extent(8983, Place::Log(log)),
        extent(100, Place::Chunk { id: ChunkId::from_raw(7), offset: 8192 }),
        extent(1 << 20, Place::Unwritten),
        DataRow::Chunk(ChunkId::from_raw(7), ChunkRecord { len: 70_000, live: 9 }),
        DataRow::BackRef(in_log, BackRef::Extent { ino: file, end: 13_079 }),
        DataRow::BackRef(in_chunk, BackRef::Message { to: ShardId::new(5), ino: file, sequence: 8 }),
        DataRow::Range(file, range, RangeRecord { epoch: 1, sequence: 2, shape, dying: true }),
        DataRow::Range(file, range, RangeRecord::default()),
        DataRow::Summary(file, range, Summary { sequence: 4, from: 10, through: 90, bytes: 70 }),
        DataRow::Trimming(file, range),
    ]
}

fn value_of(row: &DataRow) -> Value {
    match row {
        DataRow::Extent(_, extent) => extent.encode(),
        DataRow::Chunk(_, chunk) => chunk.encode(),
        DataRow::BackRef(_, reference) => reference.encode(),
        DataRow::Range(_, _, range) => range.encode(),
        DataRow::Summary(_, _, summary) => summary.encode(),
        DataRow::Grant(sequence) => record::encode(sequence),
        DataRow::Trimming(..) => [].into(),
    }
}

const DATA: &[&str] = &[
    "shards/namespace/src/data/keys.rs",
    "shards/namespace/src/data/extent.rs",
    "shards/namespace/src/data/record.rs",
    "shards/namespace/src/data/codec.rs",
];

#[test]
fn rows_of_file_data() {
    let seeds = data_rows().iter().map(|row| joined(&row.key(), &value_of(row))).collect();
    let decode = |bytes: &[u8]| {
        let (key, value) = halves(bytes)?;
        match audit::decode(key, value)? {
            Row::Data(row) => Some(row),
            _ => None,
        }
    };
    // The next chunk sequence is a varint, of which there is a longer form.
    let exact = |bytes: &[u8]| decode(bytes).filter(|row| !matches!(row, DataRow::Grant(_)));
    Target::new("rows of file data", DATA, seeds).is_exact(exact, |row| joined(&row.key(), &value_of(row)));
    let grant = joined(&DataRow::Grant(300).key(), &record::encode(&300_u64));
    Target::new("next chunk", DATA, vec![grant]).round_trips(decode, |row| joined(&row.key(), &value_of(row)));
}

/// A row of each other kind.
fn rows() -> Vec<Bytes> {
    let (dir, session, peer, volume) = (InodeId::ROOT, SessionId::new(3), ShardId::new(7), VolumeId::new(0));
    let tx = TxId { shard: peer, term: Term::new(4), sequence: 5, attempt: 6 };
    let all = |key: Key, of: &str| records(of).into_iter().map(move |value| joined(&key, &value)).collect::<Vec<_>>();
    let mut rows = vec![
        joined(&keys::dentry(volume, dir, 0x20, b"name"), &Dentry { ino: ino(9), kind: FileKind::File }.encode()),
        joined(&keys::xattr(dir, b"user.a"), b"value"),
        joined(&keys::outbox_cursor(peer), &record::encode(&8_u64)),
        joined(&keys::inbox_cursor(peer), &record::encode(&9_u64)),
        joined(&keys::lock(dir, b"name"), &record::encode(&tx)),
        joined(&keys::lock(dir, b""), &record::encode(&tx)),
        joined(&keys::rename_lock(volume), &record::encode(&tx)),
        joined(&keys::orphan(dir, session), b""),
        joined(&keys::reap(dir), b""),
    ];
    rows.extend(inodes().iter().map(|inode| joined(&keys::inode(dir), &inode.encode())));
    rows.extend(all(keys::counters(), "Counters"));
    rows.extend(all(keys::session(session), "Session"));
    rows.extend(all(keys::result(session, RequestNumber::new(2)), "Result"));
    rows.extend(all(keys::outbox(peer, 11), "Message"));
    rows.extend(all(keys::prepared(tx), "Prepared"));
    rows.extend(all(keys::decision(tx), "Decision"));
    rows
}

#[test]
fn rows_of_the_namespace() {
    Target::new("rows", &["shards/namespace/src/audit.rs", "shards/namespace/src/keys.rs"], rows())
        .may_hold(64, 1024)
        .decodes(|bytes| {
            let (key, value) = halves(bytes)?;
            let _ =
                (keys::parse_dentry(key), keys::parse_session(key), keys::parse_result(key), keys::parse_outbox(key));
            let _ = keys::stem(key);
            let _ = (keys::parse_tx(key), keys::parse_orphan(key), keys::parse_inode(key), keys::after_prefix(key));
            audit::decode(key, value)
        });
}

#[test]
fn rows_of_the_control_group() {
    let row = |kind: u8, rest: &[u8]| joined(&[&[1, kind], rest].concat(), &[0, 0, 0, 0, 0, 0, 1, 0]);
    Target::new(
        "rows of the control group",
        &["shards/cluster/src/lib.rs"],
        vec![row(b'n', b""), row(b's', &[9; 8]), row(b'b', &[0; 8])],
    )
    .may_hold(0, 0)
    .decodes(|bytes| {
        let (key, value) = halves(bytes)?;
        cfs_cluster::decode_row(key, value)
    });
}
