//! Inodes and names of all shards: every count is made again and compared.

use super::data::RangeFacts;
use super::finding::Findings;
use cfs_namespace::audit::Row;
use cfs_namespace::data::{DataRow, Summary};
use cfs_namespace::keys;
use cfs_namespace::record::{Counters, Inode};
use cfs_types::{InodeId, Name, RangeIndex, ShardId, VolumeId};
use cfs_wire::FileKind;
use std::collections::{BTreeMap, BTreeSet};

/// What an inode says of itself.
struct Facts {
    kind: FileKind,
    nlink: u32,
    size: u64,
    allocated: u64,
    trim_from: Option<u64>,
    parent: Option<InodeId>,
    xattr_name_bytes: u32,
    held: bool,
}

/// An inode number, and what was found about it anywhere.
#[derive(Default)]
struct Node {
    facts: Option<Facts>,
    /// Names that lead to it, the directory of the first, and its kind as names say.
    names: u32,
    named_in: Option<InodeId>,
    kind: Option<FileKind>,
    /// Names in it, and directories among them.
    entries: u64,
    subdirectories: u32,
    xattr_name_bytes: u64,
    is_orphan: bool,
    is_reaped: bool,
    range_zero: RangeFacts,
    summed_up: u64,
}

/// Everything that was shown.
#[derive(Default)]
pub struct Tree {
    name_key: [u8; 32],
    nodes: BTreeMap<InodeId, Node>,
    summaries: BTreeMap<(InodeId, RangeIndex), Summary>,
    ranges: BTreeMap<(InodeId, RangeIndex), RangeFacts>,
    counted: BTreeMap<ShardId, (Counters, Option<Counters>)>,
    last_name: Option<(InodeId, u64, Vec<Name>)>,
    sent: BTreeMap<(ShardId, ShardId), u64>,
    executed: BTreeMap<(ShardId, ShardId), u64>,
    /// Names seen.
    pub names: u64,
}

impl Tree {
    /// Nothing shown yet.
    pub fn new(name_key: [u8; 32]) -> Self {
        Tree { name_key, ..Tree::default() }
    }

    /// Inodes seen.
    pub fn inodes(&self) -> u64 {
        self.nodes.values().filter(|n| n.facts.is_some()).count() as u64
    }

    fn node(&mut self, ino: InodeId) -> &mut Node {
        self.nodes.entry(ino).or_default()
    }

    /// Takes in a row of `shard`; rows of a shard come in key order.
    pub fn show(&mut self, shard: ShardId, row: &Row, findings: &mut Findings) {
        match row {
            Row::Inode(ino, inode) => self.inode(shard, *ino, inode, findings),
            Row::Dentry { volume, dir, cookie, name, dentry } => {
                self.check_name(shard, (*volume, *dir), (*cookie, name), findings);
                self.names += 1;
                let node = self.node(*dir);
                node.entries += 1;
                node.subdirectories += u32::from(dentry.is_dir());
                let child = self.node(dentry.ino);
                child.names += 1;
                child.named_in.get_or_insert(*dir);
                if *child.kind.get_or_insert(dentry.kind) != dentry.kind {
                    findings.inode(dentry.ino, "names disagree about its kind");
                }
            }
            Row::Xattr(ino, bytes) => self.node(*ino).xattr_name_bytes += bytes,
            Row::Counters(counters) => self.counted.entry(shard).or_default().1 = Some(counters.clone()),
            Row::Orphan(ino, _) => self.node(*ino).is_orphan = true,
            Row::Reap(ino) => self.node(*ino).is_reaped = true,
            Row::OutboxCursor(to, sequence) => drop(self.sent.insert((shard, *to), *sequence)),
            Row::InboxCursor(from, sequence) => drop(self.executed.insert((*from, shard), *sequence)),
            Row::Data(DataRow::Summary(ino, range, summary)) => {
                self.node(*ino).summed_up += summary.bytes;
                self.summaries.insert((*ino, *range), *summary);
            }
            _ => {}
        }
    }

    fn inode(&mut self, shard: ShardId, ino: InodeId, inode: &Inode, findings: &mut Findings) {
        if ino.shard() != shard {
            findings.inode(ino, format!("its record lies in shard {shard}"));
        }
        let (counted, _) = self.counted.entry(shard).or_default();
        counted.inodes += 1;
        counted.directories += u64::from(inode.is_dir());
        counted.last_sequence = counted.last_sequence.max(ino.sequence());
        self.node(ino).facts = Some(Facts {
            kind: inode.kind,
            nlink: inode.nlink,
            size: inode.size,
            allocated: inode.allocated,
            trim_from: inode.trim_from,
            parent: inode.parent,
            xattr_name_bytes: inode.xattr_name_bytes,
            held: inode.dying || inode.locks > 0 || inode.pending_links > 0,
        });
    }

    /// A name lies under its hash, once.
    fn check_name(
        &mut self,
        shard: ShardId,
        (volume, dir): (VolumeId, InodeId),
        (cookie, name): (u64, &Name),
        findings: &mut Findings,
    ) {
        if volume.get() != 0 || dir.shard() != shard {
            findings.inode(dir, format!("the name {name:?} lies in shard {shard}, volume {volume}"));
        }
        let hash = keys::cookie(&self.name_key, name);
        if !(hash..hash + keys::RANKS).contains(&cookie) {
            findings.inode(dir, format!("the name {name:?} is not stored under its hash"));
        }
        match &mut self.last_name {
            Some((last_dir, last_hash, names)) if (*last_dir, *last_hash) == (dir, hash) => {
                if names.contains(name) {
                    findings.inode(dir, format!("the name {name:?} is there twice"));
                }
                names.push(name.clone());
            }
            last => *last = Some((dir, hash, vec![name.clone()])),
        }
    }

    /// Takes in what a shard knows of the ranges whose extents it holds.
    pub fn show_ranges(&mut self, ranges: BTreeMap<(InodeId, RangeIndex), RangeFacts>) {
        for ((ino, range), facts) in ranges {
            if range.get() == 0 {
                self.node(ino).range_zero = facts;
            } else {
                self.ranges.insert((ino, range), facts);
            }
        }
    }

    /// After the last shard: compares.
    pub fn conclude(&self, findings: &mut Findings) {
        for (shard, (counted, stored)) in &self.counted {
            let stored = stored.clone().unwrap_or_default();
            if (stored.inodes, stored.directories) != (counted.inodes, counted.directories) {
                let what = format!(
                    "the counters say {} inodes and {} directories, there are {} and {}",
                    stored.inodes, stored.directories, counted.inodes, counted.directories
                );
                findings.group((*shard).into(), what);
            }
            if stored.last_sequence < counted.last_sequence {
                findings.group((*shard).into(), "an inode number above the last one given out");
            }
        }
        for ((from, to), executed) in &self.executed {
            let sent = self.sent.get(&(*from, *to)).copied().unwrap_or_default();
            if sent != *executed {
                let what = format!("{sent} messages were sent to shard {to}, which has executed {executed}");
                findings.group((*from).into(), what);
            }
        }
        for (ino, node) in &self.nodes {
            match &node.facts {
                Some(facts) => self.check_inode(*ino, node, facts, findings),
                None => check_absent(*ino, node, findings),
            }
        }
        self.check_ranges(findings);
        self.check_reachable(findings);
    }

    fn check_inode(&self, ino: InodeId, node: &Node, facts: &Facts, findings: &mut Findings) {
        let mut say = |what: String| findings.inode(ino, what);
        if node.kind.is_some_and(|kind| kind != facts.kind) {
            say(format!("a name says {:?}, the inode {:?}", node.kind, facts.kind));
        }
        if facts.held {
            say("it is held by a transaction that does not exist".into());
        }
        if u64::from(facts.xattr_name_bytes) != node.xattr_name_bytes && !node.is_reaped {
            say(format!("{} bytes of attribute names, counted {}", node.xattr_name_bytes, facts.xattr_name_bytes));
        }
        if facts.nlink == 0 && !node.is_orphan && !node.is_reaped {
            say("it has no links, and neither a session nor the reaper has it".into());
        }
        if node.is_reaped && facts.nlink > 0 {
            say("it is being freed and has links".into());
        }
        if facts.kind == FileKind::Directory {
            check_directory(ino, node, facts, &mut say);
        } else {
            if node.names != facts.nlink {
                say(format!("{} links, and {} names lead to it", facts.nlink, node.names));
            }
            if node.entries > 0 {
                say(format!("{} names in something that is no directory", node.entries));
            }
        }
        check_data(node, facts, &mut say);
    }

    fn check_ranges(&self, findings: &mut Findings) {
        for ((ino, range), summary) in &self.summaries {
            let facts = self.ranges.get(&(*ino, *range));
            let Some(record) = facts.and_then(|f| f.record) else {
                findings.inode(*ino, format!("range {range} was told something and has no record"));
                continue;
            };
            let facts = facts.copied().unwrap_or_default();
            let live = record.shape.trim_from.map_or(facts.high, |from| from.min(facts.high));
            let outside = facts.bytes > 0 && facts.low < live && (facts.low < summary.from || live > summary.through);
            let live_bytes =
                facts.bytes.saturating_sub(record.shape.trim_from.map_or(0, |from| facts.high.saturating_sub(from)));
            if record.sequence != summary.sequence || outside || live_bytes > summary.bytes {
                findings.inode(*ino, format!("range {range} and what the file's shard knows of it disagree"));
            }
        }
        for ((ino, range), facts) in &self.ranges {
            let forgotten = facts.record.is_none_or(|record| record.dying);
            if !forgotten && !self.summaries.contains_key(&(*ino, *range)) {
                findings.inode(*ino, format!("range {range} has a record and the file's shard knows nothing of it"));
            }
        }
    }

    /// Every directory leads to the root.
    fn check_reachable(&self, findings: &mut Findings) {
        if self.nodes.get(&InodeId::ROOT).is_none_or(|n| n.facts.is_none()) {
            if self.inodes() > 0 {
                findings.inode(InodeId::ROOT, "there is no root directory");
            }
            return;
        }
        let mut reached = BTreeSet::from([InodeId::ROOT]);
        for (ino, node) in &self.nodes {
            let live_dir = node.facts.as_ref().is_some_and(|f| f.kind == FileKind::Directory && f.nlink > 0);
            if !live_dir {
                continue;
            }
            let (mut path, mut at) = (BTreeSet::new(), *ino);
            while !reached.contains(&at) {
                if !path.insert(at) {
                    findings.inode(*ino, "its parents form a loop");
                    break;
                }
                match self.nodes.get(&at).and_then(|n| n.named_in) {
                    Some(parent) => at = parent,
                    None => {
                        findings.inode(*ino, "it cannot be reached from the root");
                        break;
                    }
                }
            }
            reached.extend(path);
        }
    }

    /// The directory of a name that leads there.
    pub fn named_in(&self, ino: InodeId) -> Option<InodeId> {
        self.nodes.get(&ino)?.named_in
    }
}

fn check_absent(ino: InodeId, node: &Node, findings: &mut Findings) {
    let mut say = |what: String| findings.inode(ino, format!("there is no such inode, and {what}"));
    if node.names > 0 {
        say(format!("{} names lead to it", node.names));
    }
    if node.entries > 0 {
        say(format!("{} names are in it", node.entries));
    }
    if node.xattr_name_bytes > 0 || node.range_zero.bytes > 0 || node.summed_up > 0 {
        say("it has attributes or data".into());
    }
    if node.is_orphan || node.is_reaped {
        say("it waits to be freed".into());
    }
}

fn check_directory(ino: InodeId, node: &Node, facts: &Facts, say: &mut impl FnMut(String)) {
    if facts.nlink > 0 && facts.nlink != 2 + node.subdirectories {
        say(format!("{} links, and {} subdirectories", facts.nlink, node.subdirectories));
    }
    if facts.size != node.entries {
        say(format!("it counts {} entries, there are {}", facts.size, node.entries));
    }
    let expected = u32::from(facts.nlink > 0 && ino != InodeId::ROOT);
    if node.names != expected {
        say(format!("{} names lead to this directory", node.names));
    }
    let parent = if ino == InodeId::ROOT { Some(ino) } else { node.named_in };
    if facts.nlink > 0 && facts.parent != parent {
        say(format!("its parent is {:?}, its name is in {parent:?}", facts.parent));
    }
}

fn check_data(node: &Node, facts: &Facts, say: &mut impl FnMut(String)) {
    let zero = &node.range_zero;
    let stored = zero.bytes + node.summed_up;
    if facts.allocated != stored {
        say(format!("{} bytes stored, counted {}", stored, facts.allocated));
    }
    if facts.trim_from.is_some() != zero.is_trimming {
        say("the inode and the list of ranges to trim disagree".into());
    }
    let end = facts.trim_from.map_or(zero.written, |from| from.min(zero.written));
    if facts.kind == FileKind::File && end > facts.size {
        say(format!("bytes are stored up to {end}, beyond its end at {}", facts.size));
    }
}
