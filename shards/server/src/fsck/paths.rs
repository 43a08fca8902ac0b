//! Paths of the inodes that findings are about.

use super::finding::{Findings, Site};
use super::group::Group;
use cfs_namespace::audit::{self, Row};
use cfs_namespace::keys::{after_prefix, dentry_prefix};
use cfs_types::{GroupId, InodeId, VolumeId};
use std::collections::BTreeMap;

/// Deepest path that is spelled out.
const DEPTH_MAX: usize = 64;
/// Findings that get a path: each costs a look through directories.
const PATHS_MAX: usize = 100;

/// Spells out where the inodes of the first findings are.
pub async fn resolve(
    groups: &BTreeMap<GroupId, Group>,
    named_in: impl Fn(InodeId) -> Option<InodeId>,
    findings: &mut Findings,
) {
    let mut known: BTreeMap<InodeId, Option<String>> = BTreeMap::new();
    for finding in findings.kept.iter_mut().take(PATHS_MAX) {
        let Site::Inode(ino, path) = &mut finding.place else { continue };
        if !known.contains_key(ino) {
            known.insert(*ino, path_of(groups, &named_in, *ino).await);
        }
        path.clone_from(&known[ino]);
    }
}

async fn path_of(
    groups: &BTreeMap<GroupId, Group>,
    named_in: &impl Fn(InodeId) -> Option<InodeId>,
    ino: InodeId,
) -> Option<String> {
    let (mut at, mut names) = (ino, Vec::new());
    while at != InodeId::ROOT {
        if names.len() == DEPTH_MAX {
            return None;
        }
        let dir = named_in(at)?;
        names.push(name_in(groups.get(&dir.shard().into())?, dir, at).await?);
        at = dir;
    }
    names.reverse();
    Some(format!("/{}", names.join("/")))
}

async fn name_in(group: &Group, dir: InodeId, ino: InodeId) -> Option<String> {
    let prefix = dentry_prefix(VolumeId::new(0), dir);
    let end = after_prefix(&prefix);
    let mut found = None;
    let shown = group.rows(&prefix, &end, |key, value| {
        if let Some(Row::Dentry { name, dentry, .. }) = audit::decode(key, value)
            && dentry.ino == ino
        {
            found = Some(name.as_bytes().escape_ascii().to_string());
        }
    });
    shown.await.ok()?;
    found
}
