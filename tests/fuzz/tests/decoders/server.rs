//! docs/formats/entry.md, local.md and manifest.md, and what replicas say to each other.

use crate::messages::examples;
use bytes::Bytes;
use cfs_cluster::{ControlCommand, Start};
use cfs_fuzz::{Target, unhex};
use cfs_kv::Root;
use cfs_namespace::{Command, record};
use cfs_segment::CellRef;
use cfs_server::formats::{
    Batch, Cursor, GroupManifest, GroupMessage, Page, Place, Want, checksums_of, decode_entry, decode_local,
    decode_place, decode_vote, encode_entry, encode_local, place_rows,
};
use cfs_server::group::{GroupCommand, LocalWrite, Mark};
use cfs_types::{ChunkId, Nanos, SessionId, Timestamp};

fn commands() -> Vec<GroupCommand> {
    let shard = examples("Command").into_iter().chain(examples("CommandBody").into_iter().map(|body| {
        // Session, numbers and identity of the server itself.
        [&[0, 0, 0, 0, 0], &body[..]].concat()
    }));
    let decode = |bytes: Vec<u8>| record::decode::<Command>(&[&[1], &bytes[..]].concat()).expect("an example");
    let shard = shard.map(|bytes| GroupCommand::Shard(Box::new(decode(bytes))));
    let control = [
        ControlCommand::OpenNextSession { now: Nanos::new(-5) },
        ControlCommand::OpenSession { now: Nanos::new(5) },
        ControlCommand::EndSession { session: SessionId::new(300) },
        ControlCommand::Begin(Start { incarnation: 7, taken_over: vec![Timestamp::new(5); 3] }),
    ];
    shard.chain(control.map(GroupCommand::Control)).collect()
}

#[test]
fn entries() {
    let golden = unhex("010100000500000068656c6c6f07110200000000000005ed0301020101ac02");
    let batch = |commands| Batch { timestamp: Timestamp::new(7), now: Nanos::new(-9), commands };
    let alone = commands().into_iter().map(|command| encode_entry(&batch(vec![command]), &[Bytes::from_static(b"ab")]));
    let together = encode_entry(&batch(commands()), &[]);
    let seeds = [golden, together].into_iter().chain(alone).collect();
    Target::new("entry", &["shards/server/src/entry.rs", "shards/namespace/src/command.rs"], seeds)
        .may_hold(64, 1024)
        .round_trips(
            |bytes| decode_entry(bytes).ok().map(|(batch, area)| (batch, Bytes::copy_from_slice(area))),
            |(batch, area)| encode_entry(batch, std::slice::from_ref(area)),
        );
}

#[test]
fn manifests() {
    let root = include_str!("../../../../engine/kv/tests/golden/root.hex");
    let tables = Root::decode(&unhex(root)).expect("golden");
    let manifest = GroupManifest {
        mark: Mark { applied: (9, 2), locals: 4 },
        timestamp: Timestamp::new(300),
        tables,
        ..GroupManifest::default()
    };
    let golden = unhex("0109020402010803ac020c020000000000000000000000");
    Target::new("manifest", &["shards/server/src/manifest.rs"], vec![golden, manifest.encode()])
        .round_trips(GroupManifest::decode, GroupManifest::encode);
}

/// A row as one piece of input.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(10)
}

#[test]
fn places_of_chunks() {
    let place = Place { cell: CellRef::new(20_000, 3).expect("valid"), len: 9000 };
    let [(key, value), (sums, _)] = place_rows(ChunkId::from_raw(0x0102_0304), place, &[1, 2, 3]);
    let row = [&key[..], &value.expect("a value")].concat();
    let mut far = row.clone();
    far[10..18].copy_from_slice(&((1_u64 << 55) - 1).to_le_bytes());
    // A cell beyond what a byte offset can tell.
    Target::new("place", &["shards/server/src/cells.rs"], vec![row]).case(far).is_exact(
        |bytes| {
            let (key, value) = split(bytes)?;
            decode_place(key, value)
        },
        |(chunk, place)| {
            let [(key, value), _] = place_rows(*chunk, *place, &[]);
            [&key[..], &value.expect("a value")].concat()
        },
    );
    Target::new("key of checksums", &["shards/server/src/cells.rs"], vec![sums.to_vec()])
        .is_exact(checksums_of, |chunk| place_rows(*chunk, place, &[])[1].0.to_vec());
}

#[test]
fn local_records() {
    let put: LocalWrite = ([0xf0, b'c'].into(), Some([7, 8].as_slice().into()));
    let delete: LocalWrite = ([0xf0, b'k'].into(), None);
    let seeds = [put, delete].iter().map(encode_local).collect();
    Target::new("local record", &["shards/server/src/replica/records.rs"], seeds).is_exact(decode_local, encode_local);
}

#[test]
fn votes() {
    let seed = [3_u64, 1, 9].map(u64::to_le_bytes).concat();
    Target::new("vote", &["shards/server/src/replica/records.rs"], vec![seed])
        .is_exact(decode_vote, |vote| [vote.term, vote.vote, vote.commit].map(u64::to_le_bytes).concat());
}

#[test]
fn messages_of_replicas() {
    let want = Want { point: (9, 2), at: Cursor::Row(b"key".to_vec()) };
    let time = Timestamp::new(77);
    let page = Page {
        want: want.clone(),
        time,
        rows: vec![(b"key".to_vec(), time, b"value".to_vec()), (Vec::new(), time, Vec::new())],
        areas: vec![(7, vec![1; 20])],
        next: Some(Cursor::Area(8)),
    };
    let messages = [
        GroupMessage::Raft(vec![1, 2]),
        GroupMessage::Want(want),
        GroupMessage::Page(page),
        GroupMessage::Gone((1, 1)),
    ];
    let seeds = messages.iter().map(GroupMessage::encode).collect();
    Target::new("message of a replica", &["shards/server/src/replica/transfer.rs"], seeds)
        .may_hold(64, 1024)
        .round_trips(|bytes| GroupMessage::decode(bytes).ok(), GroupMessage::encode);
}
