//! Checks of a whole cluster at rest: every invariant of the stored state, and the model's tree.

use super::*;
use cfs_model::Model;
use cfs_namespace::keys::{self, space};
use cfs_namespace::record::{Counters, Dentry, Inode, decode};

struct Seen {
    inodes: BTreeMap<InodeId, Inode>,
    entries: Vec<(InodeId, Vec<u8>, Dentry)>,
    orphans: BTreeSet<InodeId>,
}

fn collect(cluster: &Cluster) -> Seen {
    let mut seen = Seen { inodes: BTreeMap::new(), entries: Vec::new(), orphans: BTreeSet::new() };
    for (id, shard) in &cluster.shards {
        let (mut inodes, mut directories) = (0, 0);
        for (key, value) in shard.memory.rows() {
            match key[0] {
                space::INODE => {
                    let inode = Inode::decode(value).expect("a record");
                    inodes += 1;
                    directories += u64::from(inode.is_dir());
                    let ino = keys::parse_inode(key).expect("a key");
                    assert_eq!(ino.shard(), *id);
                    seen.inodes.insert(ino, inode);
                }
                space::DENTRY => {
                    let (_, name) = keys::parse_dentry(key).expect("a key");
                    let dir: [u8; 8] = key[5..13].try_into().expect("8 bytes");
                    let dir = InodeId::from_raw(u64::from_be_bytes(dir)).expect("a number");
                    let dentry = Dentry::decode(value).expect("a record");
                    seen.entries.push((dir, name.as_bytes().to_vec(), dentry));
                }
                space::ORPHAN => {
                    seen.orphans.insert(keys::parse_inode(key).expect("a key"));
                }
                space::OUTBOX | space::PREPARED | space::LOCK | space::DECISION | space::REAP | space::RENAME_LOCK => {
                    panic!("left over in shard {id}: {key:?}")
                }
                _ => {}
            }
        }
        let counters: Counters = shard
            .memory
            .rows()
            .find(|(key, _)| key[0] == space::COUNTERS)
            .map(|(_, value)| decode(value).expect("a record"))
            .unwrap_or_default();
        assert_eq!((counters.inodes, counters.directories), (inodes, directories));
    }
    seen
}

/// Every invariant of the state at rest.
pub fn sound(cluster: &Cluster) {
    let seen = collect(cluster);
    let mut links: BTreeMap<InodeId, u32> = BTreeMap::from([(InodeId::ROOT, 1)]);
    let (mut subdirs, mut sizes) = (BTreeMap::<InodeId, u32>::new(), BTreeMap::new());
    for (dir, name, dentry) in &seen.entries {
        let child = seen
            .inodes
            .get(&dentry.ino)
            .unwrap_or_else(|| panic!("{dir:?}/{} leads to {:?}, which is gone", name.escape_ascii(), dentry.ino));
        assert_eq!(child.kind, dentry.kind);
        assert!(seen.inodes[dir].is_dir());
        *links.entry(dentry.ino).or_default() += 1;
        *sizes.entry(*dir).or_insert(0u64) += 1;
        if child.is_dir() {
            assert_eq!(child.parent, Some(*dir), "parent of {:?}", dentry.ino);
            *subdirs.entry(*dir).or_default() += 1;
        }
    }
    for (ino, inode) in &seen.inodes {
        let named = links.get(ino).copied().unwrap_or(0);
        assert!(!inode.dying && inode.locks == 0 && inode.pending_links == 0, "{ino:?} is held");
        assert!(named > 0 || seen.orphans.contains(ino), "{ino:?} has no name: {inode:?}");
        if inode.is_dir() {
            let expected = if named == 0 { 0 } else { 2 + subdirs.get(ino).unwrap_or(&0) };
            assert_eq!(inode.nlink, expected, "links of {ino:?}");
            assert_eq!(inode.size, sizes.get(ino).copied().unwrap_or(0), "entries of {ino:?}");
            assert!(named <= 1, "{ino:?} has two names");
            reaches_root(&seen, *ino);
        } else {
            assert_eq!(inode.nlink, named, "links of {ino:?}");
        }
    }
}

fn reaches_root(seen: &Seen, ino: InodeId) {
    let mut at = ino;
    for _ in 0..=seen.inodes.len() {
        if at == InodeId::ROOT || seen.inodes[&at].nlink == 0 {
            return;
        }
        at = seen.inodes[&at].parent.expect("a directory has a parent");
    }
    panic!("{ino:?} is in a loop");
}

/// A tree: each path with kind, mode, links, owner, group and the product's number.
pub type Tree = Vec<(String, String)>;

pub fn model_tree(model: &Model, ids: &Correspondence) -> Tree {
    let mut tree = Vec::new();
    let mut todo = vec![(Vec::new(), InodeId::ROOT)];
    while let Some((path, ino)) = todo.pop() {
        let node = model.node(ino).expect("there");
        let attr = node.attr(ino);
        let (kind, mode, nlink) = (attr.kind, attr.mode, attr.nlink);
        let known = ids.product(ino);
        let line = format!("{kind:?} {mode:o} {nlink} {} {} {known:?}", attr.uid, attr.gid);
        tree.push((path.escape_ascii().to_string(), line));
        if let Ok((entries, _)) = node.directory() {
            for (name, child) in entries {
                todo.push(([&path[..], b"/", name.as_bytes()].concat(), *child));
            }
        }
    }
    tree
}

pub fn product_tree(cluster: &Cluster) -> Tree {
    let seen = collect(cluster);
    let mut children: BTreeMap<InodeId, BTreeMap<Vec<u8>, InodeId>> = BTreeMap::new();
    for (dir, name, dentry) in seen.entries {
        children.entry(dir).or_default().insert(name, dentry.ino);
    }
    let mut tree = Vec::new();
    let mut todo = vec![(Vec::new(), InodeId::ROOT)];
    while let Some((path, ino)) = todo.pop() {
        let attr = seen.inodes[&ino].attr(ino);
        let (kind, mode, nlink) = (attr.kind, attr.mode, attr.nlink);
        let known = Some(ino);
        let line = format!("{kind:?} {mode:o} {nlink} {} {} {known:?}", attr.uid, attr.gid);
        tree.push((path.escape_ascii().to_string(), line));
        for (name, child) in children.get(&ino).into_iter().flatten() {
            todo.push(([&path[..], b"/", name].concat(), *child));
        }
    }
    tree
}
