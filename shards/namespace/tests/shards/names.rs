//! Listings, colliding names, limits, and the end of inodes.

use crate::cluster::Cluster;
use cfs_namespace::data::{DataCommand, WriteAt, WriteData};
use cfs_namespace::keys::{self, space};
use cfs_namespace::record::{Dentry, Inode};
use cfs_namespace::txn::{Part, TxnCommand};
use cfs_namespace::{Command, CommandBody, Effect, LINKS_MAX, execute};
use cfs_types::{FsError, InodeId, Name, SessionId, VolumeId};
use cfs_wire::{AttrChange, EntryReply, FallocateMode, FileKind, Op, Reply, XattrMode};
use std::collections::BTreeSet;

const ROOT: InodeId = InodeId::ROOT;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn op(cluster: &mut Cluster, op: Op) -> Result<Reply, FsError> {
    let body = CommandBody::Op { op, asked: None, pinned_by: Vec::new() };
    let outcome = cluster.run(ROOT.shard(), &Command::internal(body));
    outcome.result.map(cfs_namespace::Answer::into_wire)
}

fn create(cluster: &mut Cluster, text: &str) -> EntryReply {
    let (name, mode) = (name(text), 0o644);
    match op(cluster, Op::Create { dir: ROOT, name, mode, exclusive: true, truncate: false }) {
        Ok(Reply::Entry(entry)) => entry,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_listing_in_pages_misses_and_repeats_nothing_that_stays() {
    let mut cluster = Cluster::new();
    for i in 0..500 {
        create(&mut cluster, &format!("file{i}"));
    }
    let (mut cookie, mut seen, mut pages) = (0, BTreeSet::new(), 0);
    loop {
        let list = Op::Readdir { dir: ROOT, cookie, bytes_max: 4096, plus: true };
        let Ok(Reply::Listing { entries, end, .. }) = cluster.ask(ROOT.shard(), &list) else { panic!("no listing") };
        let bytes: usize = entries.iter().map(|e| e.name.as_bytes().len() + 24).sum();
        assert!(bytes <= 4096);
        let last = entries.last().map(|entry| entry.name.clone());
        for entry in entries {
            assert!(entry.cookie > cookie && entry.attr.is_some());
            cookie = entry.cookie;
            assert!(seen.insert(entry.name));
        }
        pages += 1;
        if end {
            break;
        }
        // What comes and goes between pages, the last name read too, does not disturb the rest.
        create(&mut cluster, &format!("new{pages}"));
        let gone = last.expect("a page is not empty");
        assert_eq!(op(&mut cluster, Op::Unlink { dir: ROOT, name: gone }), Ok(Reply::Done));
    }
    assert!(pages > 5);
    assert!((0..500).all(|i| seen.contains(&name(&format!("file{i}")))));
}

#[test]
fn names_that_collide_get_ranks_and_stay_apart() {
    let mut cluster = Cluster::new();
    let ctx = cluster.context(ROOT.shard());
    let cookie = keys::cookie(&ctx.name_key, &name("wanted"));
    let other = Dentry { ino: ROOT, kind: FileKind::Directory };
    let shard = cluster.shards.get_mut(&ROOT.shard()).expect("there");
    let at = |rank: u64, text: &str| keys::dentry(VolumeId::new(0), ROOT, cookie + rank, text.as_bytes());
    shard.memory.apply(vec![(at(0, "zero"), Some(other.encode()))]);
    let ino = create(&mut cluster, "wanted").ino;
    let row = cluster.shards[&ROOT.shard()].memory.rows().any(|(key, _)| key == &*at(1, "wanted"));
    assert!(row, "the second of two names has rank 1");
    let lookup = Op::Lookup { dir: ROOT, name: name("wanted") };
    let found = cluster.ask(ROOT.shard(), &lookup);
    assert!(matches!(found, Ok(Reply::Entry(entry)) if entry.ino == ino));
    let shard = cluster.shards.get_mut(&ROOT.shard()).expect("there");
    shard.memory.apply(vec![(at(0, "zero"), None)]);
    assert!(cluster.ask(ROOT.shard(), &lookup).is_ok(), "a rank outlives those below it");
    let exclusive = Op::Create { dir: ROOT, name: name("wanted"), mode: 0, exclusive: true, truncate: false };
    assert_eq!(op(&mut cluster, exclusive), Err(FsError::Exists));
    assert_eq!(op(&mut cluster, Op::Unlink { dir: ROOT, name: name("wanted") }), Ok(Reply::Done));
    assert_eq!(cluster.ask(ROOT.shard(), &lookup), Err(FsError::NotFound));
}

#[test]
fn the_link_count_has_a_limit() {
    let mut cluster = Cluster::new();
    let ino = create(&mut cluster, "a").ino;
    let shard = cluster.shards.get_mut(&ROOT.shard()).expect("there");
    let row = shard.memory.rows().find(|(key, _)| **key == *keys::inode(ino));
    let mut inode = Inode::decode(row.expect("there").1).expect("a record");
    inode.nlink = LINKS_MAX - 1;
    shard.memory.apply(vec![(keys::inode(ino), Some(inode.encode()))]);
    for expected in [None, Some(FsError::TooManyLinks)] {
        let tx = cluster.new_tx(ROOT.shard());
        let body = TxnCommand::Prepare { tx, parts: vec![Part::AddLink { ino }] };
        let outcome = cluster.run(ROOT.shard(), &Command::internal(CommandBody::Txn(body)));
        assert_eq!(outcome.result.err(), expected);
    }
}

#[test]
fn an_inode_with_much_content_is_reaped_in_bounded_steps() {
    let mut cluster = Cluster::new();
    let ino = create(&mut cluster, "a").ino;
    for i in 0..200 {
        let name = format!("user.{i}").into_bytes();
        let set = Op::SetXattr { ino, name, value: vec![1; 100], mode: XattrMode::Create };
        assert_eq!(op(&mut cluster, set), Ok(Reply::Done));
    }
    let shard = ROOT.shard();
    let unlink = CommandBody::Op {
        op: Op::Unlink { dir: ROOT, name: name("a") },
        asked: None,
        pinned_by: vec![SessionId::new(5), SessionId::new(6)],
    };
    let mut next = unlink;
    let mut steps = 0;
    for session in [5, 6] {
        let ctx = cluster.context(shard);
        let memory = &mut cluster.shards.get_mut(&shard).expect("there").memory;
        let outcome = execute(memory, &ctx, &Command::internal(next)).expect("in memory");
        assert!(outcome.effects.is_empty(), "it is held open");
        memory.apply(outcome.writes);
        next = CommandBody::ReleaseOrphan { ino, session: SessionId::new(session) };
    }
    loop {
        let ctx = cluster.context(shard);
        let memory = &mut cluster.shards.get_mut(&shard).expect("there").memory;
        let outcome = execute(memory, &ctx, &Command::internal(next)).expect("in memory");
        assert!(outcome.writes.len() < 80, "{} writes", outcome.writes.len());
        memory.apply(outcome.writes);
        steps += 1;
        match outcome.effects.as_slice() {
            [Effect::ReapPending(_)] => next = CommandBody::Reap { ino },
            [Effect::Gone(gone)] => break assert_eq!(*gone, ino),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(steps, 4);
    let left = cluster.shards[&shard].memory.rows();
    let of_it = left
        .filter(|(key, _)| matches!(key[0], space::XATTR | space::ORPHAN | space::REAP) || **key == *keys::inode(ino));
    assert_eq!(of_it.count(), 0);
}

#[test]
fn only_namespaces_with_a_meaning_here_are_taken() {
    let mut cluster = Cluster::new();
    let ino = create(&mut cluster, "a").ino;
    let mut set =
        |name: &[u8]| op(&mut cluster, Op::SetXattr { ino, name: name.to_vec(), value: vec![1], mode: XattrMode::Set });
    for name in [&b"user.a"[..], b"trusted.a", b"security.a"] {
        assert_eq!(set(name), Ok(Reply::Done));
    }
    for name in [&b"system.posix_acl_access"[..], b"system.posix_acl_default", b"os2.a", b"user", b"a"] {
        assert_eq!(set(name), Err(FsError::NotSupported), "{}", name.escape_ascii());
    }
    assert_eq!(set(b"user."), Err(FsError::Invalid));
}

#[test]
fn a_file_that_changes_loses_its_capabilities() {
    let mut cluster = Cluster::new();
    let ino = create(&mut cluster, "a").ino;
    let (capability, other) = (b"security.capability".to_vec(), b"security.other".to_vec());
    let set = |cluster: &mut Cluster, name: &Vec<u8>| {
        let set = Op::SetXattr { ino, name: name.clone(), value: vec![1], mode: XattrMode::Set };
        assert_eq!(op(cluster, set), Ok(Reply::Done));
    };
    set(&mut cluster, &other);
    let checksums = vec![0xe16d_cdee];
    let data = WriteData::Inline { data_offset: 0, len: 5, checksums };
    let (at, kill_privileges, mode) = (WriteAt::Offset(0), false, FallocateMode::Allocate);
    let resized = AttrChange { size: Some(3), ..AttrChange::default() };
    let owned = AttrChange { uid: Some(5), ..AttrChange::default() };
    let changes = [
        CommandBody::Data(DataCommand::Write { ino, at, data, kill_privileges }),
        CommandBody::Data(DataCommand::Fallocate { ino, offset: 0, len: 9, mode, keep_size: false, kill_privileges }),
        CommandBody::Op { op: Op::Setattr { ino, change: resized }, asked: None, pinned_by: Vec::new() },
        CommandBody::Op { op: Op::Setattr { ino, change: owned }, asked: None, pinned_by: Vec::new() },
    ];
    for change in changes {
        set(&mut cluster, &capability);
        let get = Op::GetXattr { ino, name: capability.clone() };
        assert_eq!(cluster.ask(ino.shard(), &get), Ok(Reply::Bytes(vec![1])));
        let outcome = cluster.run(ino.shard(), &Command::internal(change.clone()));
        assert!(outcome.result.is_ok(), "{change:?}: {:?}", outcome.result);
        assert_eq!(cluster.ask(ino.shard(), &get), Err(FsError::NoAttribute), "{change:?}");
        let names = [&other[..], &[0]].concat();
        assert_eq!(cluster.ask(ino.shard(), &Op::ListXattr { ino }), Ok(Reply::Bytes(names)));
    }
    let mode = AttrChange { mode: Some(0o755), ..AttrChange::default() };
    set(&mut cluster, &capability);
    op(&mut cluster, Op::Setattr { ino, change: mode }).expect("set");
    assert_eq!(cluster.ask(ino.shard(), &Op::GetXattr { ino, name: capability }), Ok(Reply::Bytes(vec![1])));
}
