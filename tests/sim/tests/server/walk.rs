//! The whole tree, read back after a restart: counts, and comparison with the references.

use crate::history::{ME, whole};
use crate::reference::{Reference, agree};
use cfs_model::Content;
use cfs_types::{InodeId, ShardId};
use cfs_volume::{OpenFlags, Volume};
use cfs_wire::{Attr, FileKind};
use std::collections::BTreeMap;

/// Most read at once.
const READ_BYTES: u32 = 256 << 10;
/// Files up to this size are compared as a whole, larger ones where something was written.
const WHOLE_BYTES: u64 = 512 << 10;

/// Numbers of each shard that are tried when inodes are missing.
const SEQUENCES_GUESSED: u64 = 20;

/// What a walk found.
#[derive(Default)]
pub struct Tree {
    /// Each inode, with how many names lead to it and, for directories, how many of its children
    /// are directories.
    pub inodes: BTreeMap<InodeId, (Attr, u32, u32)>,
    /// Names of each directory.
    pub names: BTreeMap<InodeId, BTreeMap<Vec<u8>, InodeId>>,
}

/// Walks everything below the root and checks what holds of every tree.
pub async fn walk(volume: &Volume) -> Tree {
    let mut tree = Tree::default();
    let (root, _) = volume.getattr(InodeId::ROOT).await.expect("the root is there");
    tree.inodes.insert(root.ino, (root, 1, 0));
    let mut todo = vec![InodeId::ROOT];
    while let Some(dir) = todo.pop() {
        let lines = whole(volume, dir, 4096, true).await.expect("a directory lists");
        let mut names = BTreeMap::new();
        for line in lines {
            let entry = line.entry.unwrap_or_else(|| panic!("{:?} in {dir:?} leads nowhere", line.name));
            assert_eq!((entry.attr.ino, entry.attr.kind), (line.ino, line.kind), "{:?} in {dir:?}", line.name);
            if line.kind == FileKind::Directory {
                assert!(!tree.inodes.contains_key(&line.ino), "{:?} has two parents", line.ino);
                assert_eq!(volume.parent(line.ino).await, Ok(dir));
                tree.inodes.get_mut(&dir).expect("walked").2 += 1;
                todo.push(line.ino);
            }
            tree.inodes.entry(line.ino).or_insert((entry.attr, 0, 0)).1 += 1;
            names.insert(line.name.as_bytes().to_vec(), line.ino);
        }
        tree.names.insert(dir, names);
    }
    for (ino, (attr, names, subdirs)) in &tree.inodes {
        let links = if attr.kind == FileKind::Directory { 2 + subdirs } else { *names };
        assert_eq!(attr.nlink, links, "links of {ino:?}");
    }
    let counted = volume.statfs().await.expect("it answers").inodes;
    let walked = u64::try_from(tree.inodes.len()).expect("few");
    assert_eq!(counted, walked, "no name leads to {:#?}", strays(volume, &tree).await);
    tree
}

/// Inodes that exist and have no name, as far as their numbers are easy to guess.
async fn strays(volume: &Volume, tree: &Tree) -> Vec<Attr> {
    let mut found = Vec::new();
    for shard in ShardId::all() {
        for sequence in 1..SEQUENCES_GUESSED {
            let ino = InodeId::new(sequence, shard).expect("small");
            match volume.getattr(ino).await {
                Ok((attr, _)) if !tree.inodes.contains_key(&ino) => found.push(attr),
                _ => {}
            }
        }
    }
    found
}

/// Compares a subtree with its reference.
pub async fn compare(volume: &Volume, tree: &Tree, reference: &Reference) {
    for want in reference.linked() {
        let ino = want.ino;
        let Some((got, ..)) = tree.inodes.get(&ino) else { panic!("{ino:?} is lost") };
        assert!(agree(got, &want), "{got:?} should be {want:?}");
        match want.kind {
            FileKind::Directory => {
                let entries = reference.entries(ino);
                let names = entries.iter().map(|(name, ino)| (name.as_bytes().to_vec(), *ino)).collect();
                assert_eq!(tree.names[&ino], names, "names in {ino:?}");
            }
            FileKind::File => compare_file(volume, ino, reference.content(ino)).await,
            _ => {}
        }
        for (key, value) in reference.xattrs(ino) {
            assert_eq!(volume.getxattr(ino, key).await.as_ref(), Ok(value), "attribute of {ino:?}");
        }
    }
}

async fn compare_file(volume: &Volume, ino: InodeId, content: &Content) {
    let handle = volume.open(&ME, ino, OpenFlags::default()).await.expect("it opens");
    let mut at = 0;
    // Where nothing was written far and wide, nothing is read.
    while at < content.size() {
        let got = volume.read(handle, at, READ_BYTES).await.expect("it reads");
        let want = content.read(at, READ_BYTES);
        let differs = got.iter().zip(&want).position(|(a, b)| a != b);
        assert!(*got == *want, "{ino:?} at {at}: {} bytes of {}, differs at {differs:?}", got.len(), want.len());
        let next = at + u64::from(READ_BYTES);
        at = if at < WHOLE_BYTES { next } else { content.seek_data(next).unwrap_or(content.size()) };
    }
    volume.release(handle);
}
