//! Inodes and names of all shards: every count is made again and compared.
//!
//! A shard is shown row by row; what only its own rows tell is compared at its end and forgotten. Of the whole
//! store there remain 24 bytes an inode and 24 a name, which are compared after the last shard.

use super::column::{Column, Reader};
use super::data::{RangeFacts, ZeroFacts};
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
    /// Its number; 0 where there is none.
    parent: u64,
    xattr_name_bytes: u32,
    held: bool,
}

/// Names in a directory, and directories among them.
#[derive(Clone, Copy, Default)]
struct Listed {
    entries: u64,
    subdirectories: u32,
}

/// An inode number, and what its shard has of it.
struct Node {
    facts: Option<Facts>,
    listed: Listed,
    xattr_name_bytes: u64,
    is_orphan: bool,
    is_reaped: bool,
    range_zero: ZeroFacts,
    is_trimming: bool,
    summed_up: u64,
}

/// Rows of the shard that is being shown.
#[derive(Default)]
struct Rows {
    facts: Column<Option<Facts>>,
    listed: Column<Listed>,
    xattr_name_bytes: Column<u64>,
    orphans: Column<bool>,
    reaped: Column<bool>,
    summed_up: Column<u64>,
}

/// What names are compared with.
struct Known {
    ino: InodeId,
    /// As in [`Facts`].
    parent: u64,
    nlink: u32,
    kind: FileKind,
}
const _: () = assert!(size_of::<Known>() == 24);

/// A name that leads to an inode.
#[derive(Clone, Copy)]
struct Link {
    child: InodeId,
    dir: InodeId,
    kind: FileKind,
}
const _: () = assert!(size_of::<Link>() == 24);

/// Everything that was shown.
#[derive(Default)]
pub struct Tree {
    name_key: [u8; 32],
    rows: Rows,
    /// By shard, sorted.
    known: BTreeMap<ShardId, Vec<Known>>,
    /// By the shard of the child; sorted after the last shard.
    links: BTreeMap<ShardId, Vec<Link>>,
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
        self.known.values().map(|known| known.len() as u64).sum()
    }

    /// Takes in a row of `shard`; rows of a shard come in key order.
    pub fn show(&mut self, shard: ShardId, row: &Row, findings: &mut Findings) {
        match row {
            Row::Inode(ino, inode) => self.inode(shard, *ino, inode, findings),
            Row::Dentry { volume, dir, cookie, name, dentry } => {
                self.check_name(shard, (*volume, *dir), (*cookie, name), findings);
                self.names += 1;
                let listed = self.rows.listed.at(*dir);
                listed.entries += 1;
                listed.subdirectories += u32::from(dentry.is_dir());
                let link = Link { child: dentry.ino, dir: *dir, kind: dentry.kind };
                self.links.entry(dentry.ino.shard()).or_default().push(link);
            }
            Row::Xattr(ino, bytes) => *self.rows.xattr_name_bytes.at(*ino) += bytes,
            Row::Counters(counters) => self.counted.entry(shard).or_default().1 = Some(counters.clone()),
            Row::Orphan(ino, _) => *self.rows.orphans.at(*ino) = true,
            Row::Reap(ino) => *self.rows.reaped.at(*ino) = true,
            Row::OutboxCursor(to, sequence) => drop(self.sent.insert((shard, *to), *sequence)),
            Row::InboxCursor(from, sequence) => drop(self.executed.insert((*from, shard), *sequence)),
            Row::Data(DataRow::Summary(ino, range, summary)) => {
                *self.rows.summed_up.at(*ino) += summary.bytes;
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
        *self.rows.facts.at(ino) = Some(Facts {
            kind: inode.kind,
            nlink: inode.nlink,
            size: inode.size,
            allocated: inode.allocated,
            trim_from: inode.trim_from,
            parent: inode.parent.map_or(0, InodeId::get),
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

    /// After the last row of a shard, with what its extents tell: compares what is all there, unless something of
    /// the store is not.
    pub fn end_shard(&mut self, shard: ShardId, data: ShardRanges, is_whole: bool, findings: &mut Findings) {
        self.ranges.extend(data.ranges);
        let rows = std::mem::take(&mut self.rows);
        let mut known = Vec::with_capacity(rows.facts.len());
        let mut columns = Columns::new(rows, data.zero, data.trimming);
        while let Some((ino, node)) = columns.next() {
            if let Some(Facts { parent, nlink, kind, .. }) = node.facts {
                known.push(Known { ino, parent, nlink, kind });
            }
            if is_whole {
                match &node.facts {
                    Some(facts) => check_inode(ino, &node, facts, findings),
                    None => check_absent(ino, &node, findings),
                }
            }
        }
        self.known.insert(shard, known);
    }

    /// After the last shard: names can be found.
    pub fn sort(&mut self) {
        self.links.values_mut().for_each(|links| links.sort_unstable_by_key(|link| (link.child, link.dir)));
    }

    /// The names that lead to an inode, after [`Tree::sort`].
    fn links_to(&self, ino: InodeId) -> &[Link] {
        let links = self.links.get(&ino.shard()).map(Vec::as_slice).unwrap_or_default();
        let from = links.partition_point(|link| link.child < ino);
        let count = links[from..].iter().take_while(|link| link.child == ino).count();
        &links[from..from + count]
    }

    /// The inodes whose records lie where they should.
    fn known(&self, ino: InodeId) -> Option<&Known> {
        let known = self.known.get(&ino.shard())?;
        known.binary_search_by_key(&ino, |known| known.ino).ok().map(|at| &known[at])
    }

    /// After [`Tree::sort`], where all shards could be read: compares.
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
        for known in self.known.values().flatten() {
            check_links(known, self.links_to(known.ino), findings);
        }
        for links in self.links.values().flat_map(|links| links.chunk_by(|a, b| a.child == b.child)) {
            let ino = links[0].child;
            if links.iter().any(|link| link.kind != links[0].kind) {
                findings.inode(ino, "names disagree about its kind");
            }
            if self.known(ino).is_none() {
                findings.inode(ino, format!("there is no such inode, and {} names lead to it", links.len()));
            }
        }
        self.check_ranges(findings);
        self.check_reachable(findings);
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
        if self.known(InodeId::ROOT).is_none() {
            if self.inodes() > 0 {
                findings.inode(InodeId::ROOT, "there is no root directory");
            }
            return;
        }
        let mut reached = BTreeSet::from([InodeId::ROOT]);
        let is_live_dir = |known: &&Known| known.kind == FileKind::Directory && known.nlink > 0;
        for Known { ino, .. } in self.known.values().flatten().filter(is_live_dir) {
            let (mut path, mut at) = (BTreeSet::new(), *ino);
            while !reached.contains(&at) {
                if !path.insert(at) {
                    findings.inode(*ino, "its parents form a loop");
                    break;
                }
                match self.named_in(at) {
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

    /// The directory of a name that leads there, after [`Tree::sort`].
    pub fn named_in(&self, ino: InodeId) -> Option<InodeId> {
        self.links_to(ino).first().map(|link| link.dir)
    }
}

/// What a shard's extents tell of the ranges of files.
#[derive(Default)]
pub struct ShardRanges {
    /// Ranges from 1 on: their files may lie in other shards.
    pub ranges: BTreeMap<(InodeId, RangeIndex), RangeFacts>,
    /// First ranges.
    pub zero: Column<ZeroFacts>,
    /// First ranges that are to be trimmed.
    pub trimming: Column<bool>,
}

/// The columns of a shard, joined by inode.
struct Columns {
    facts: Reader<Option<Facts>>,
    listed: Reader<Listed>,
    xattr_name_bytes: Reader<u64>,
    orphans: Reader<bool>,
    reaped: Reader<bool>,
    summed_up: Reader<u64>,
    zero: Reader<ZeroFacts>,
    trimming: Reader<bool>,
}

impl Columns {
    fn new(rows: Rows, zero: Column<ZeroFacts>, trimming: Column<bool>) -> Self {
        Columns {
            facts: rows.facts.read(),
            listed: rows.listed.read(),
            xattr_name_bytes: rows.xattr_name_bytes.read(),
            orphans: rows.orphans.read(),
            reaped: rows.reaped.read(),
            summed_up: rows.summed_up.read(),
            zero: zero.read(),
            trimming: trimming.read(),
        }
    }

    /// The lowest inode that is left.
    fn next(&mut self) -> Option<(InodeId, Node)> {
        let lowest = [
            self.facts.lowest(),
            self.listed.lowest(),
            self.xattr_name_bytes.lowest(),
            self.orphans.lowest(),
            self.reaped.lowest(),
            self.summed_up.lowest(),
            self.zero.lowest(),
            self.trimming.lowest(),
        ];
        let ino = lowest.into_iter().flatten().min()?;
        let node = Node {
            facts: self.facts.take(ino),
            listed: self.listed.take(ino),
            xattr_name_bytes: self.xattr_name_bytes.take(ino),
            is_orphan: self.orphans.take(ino),
            is_reaped: self.reaped.take(ino),
            range_zero: self.zero.take(ino),
            is_trimming: self.trimming.take(ino),
            summed_up: self.summed_up.take(ino),
        };
        Some((ino, node))
    }
}

fn check_inode(ino: InodeId, node: &Node, facts: &Facts, findings: &mut Findings) {
    let mut say = |what: String| findings.inode(ino, what);
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
    let Listed { entries, subdirectories } = node.listed;
    if facts.kind != FileKind::Directory {
        if entries > 0 {
            say(format!("{entries} names in something that is no directory"));
        }
    } else {
        if facts.nlink > 0 && facts.nlink != 2 + subdirectories {
            say(format!("{} links, and {subdirectories} subdirectories", facts.nlink));
        }
        if facts.size != entries {
            say(format!("it counts {} entries, there are {entries}", facts.size));
        }
    }
    check_data(node, facts, &mut say);
}

fn check_absent(ino: InodeId, node: &Node, findings: &mut Findings) {
    let mut say = |what: String| findings.inode(ino, format!("there is no such inode, and {what}"));
    if node.listed.entries > 0 {
        say(format!("{} names are in it", node.listed.entries));
    }
    if node.xattr_name_bytes > 0 || node.range_zero.bytes > 0 || node.summed_up > 0 {
        say("it has attributes or data".into());
    }
    if node.is_orphan || node.is_reaped {
        say("it waits to be freed".into());
    }
}

/// The names that lead to an inode are as many as it counts, and of its kind.
fn check_links(known: &Known, links: &[Link], findings: &mut Findings) {
    let mut say = |what: String| findings.inode(known.ino, what);
    let names = u32::try_from(links.len()).unwrap_or(u32::MAX);
    if let Some(link) = links.first().filter(|link| link.kind != known.kind) {
        say(format!("a name says {:?}, the inode {:?}", Some(link.kind), known.kind));
    }
    if known.kind != FileKind::Directory {
        if names != known.nlink {
            say(format!("{} links, and {names} names lead to it", known.nlink));
        }
        return;
    }
    let is_root = known.ino == InodeId::ROOT;
    if names != u32::from(known.nlink > 0 && !is_root) {
        say(format!("{names} names lead to this directory"));
    }
    let named_in = if is_root { Some(known.ino) } else { links.first().map(|link| link.dir) };
    let parent = InodeId::from_raw(known.parent);
    if known.nlink > 0 && parent != named_in {
        say(format!("its parent is {parent:?}, its name is in {named_in:?}"));
    }
}

fn check_data(node: &Node, facts: &Facts, say: &mut impl FnMut(String)) {
    let zero = &node.range_zero;
    let stored = zero.bytes + node.summed_up;
    if facts.allocated != stored {
        say(format!("{} bytes stored, counted {}", stored, facts.allocated));
    }
    if facts.trim_from.is_some() != node.is_trimming {
        say("the inode and the list of ranges to trim disagree".into());
    }
    let end = facts.trim_from.map_or(zero.written, |from| from.min(zero.written));
    if facts.kind == FileKind::File && end > facts.size {
        say(format!("bytes are stored up to {end}, beyond its end at {}", facts.size));
    }
}
