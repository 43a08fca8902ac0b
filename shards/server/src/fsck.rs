//! Offline check of a whole store. Reads only.
//!
//! Everything that a start would rely on is read and verified: superblock, anchors, log, tables,
//! chunks. Then the state that a start would have is built in memory (the log's tail executed,
//! messages delivered, transactions resolved) and every count in it is made again.
//!
//! Invariants: nothing is written to the device; damage never ends the check, it is reported and
//! what depends on it is skipped, and said to be skipped.

mod column;
mod data;
mod device;
mod finding;
mod group;
mod paths;
mod sessions;
mod settle;
mod space;
#[cfg(test)]
mod tests;
mod tree;

pub use finding::{Finding, Severity, Site};

use crate::boot::region_layout;
use crate::cells;
use cfs_device::{Anchors, DeviceError, Pool, PoolError, Superblock};
use cfs_kv::{BlockCache, StoreConfig, TableCheck, verify_table};
use cfs_log::GroupLog;
use cfs_namespace::audit::{self, Row};
use cfs_namespace::keys::stem;
use cfs_seam::{Disk, World, gather};
use cfs_segment::{CellOwner, CellRef, Floors, LocalRegions, Space, SpaceConfig, SpaceError, UNIT_BYTES};
use cfs_types::{ChunkId, GroupId};
use data::{ShardData, verify_chunks};
use finding::Findings;
use group::{Group, Opener, report_unreadable};
use sessions::Sessions;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use tree::Tree;

/// Cells of up to 2 MiB read at once.
const CELLS_AT_ONCE: usize = 16;
/// Short reads made at once.
const READS_AT_ONCE: usize = 64;
/// Memory for blocks of tables, bytes.
const CACHE_BYTES: usize = 16 << 20;

/// Why a store could not be checked at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FsckError {
    /// There is no store, or not one that this version knows.
    #[error("reading the superblock: {0}")]
    Superblock(#[from] DeviceError),
    /// The list of devices, or a device of it, is not there or not as it should be.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// Sizes that this version does not know.
    #[error("the devices have more regions than this version can address")]
    Layout,
}

/// What is being checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Superblock, anchors, log.
    Device,
    /// Sorted tables, by group.
    Tables,
    /// Names, inodes and file data, by shard.
    Shards,
    /// Counts across shards, space.
    Counts,
}

/// How far the check is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What is being checked.
    pub stage: Stage,
    /// Done of it.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// How much was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Log streams.
    pub streams: u64,
    /// Sorted tables.
    pub tables: u64,
    /// Rows of all shards.
    pub rows: u64,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of chunks, tables and small writes in the log, read and verified.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Names.
    pub names: u64,
    /// Cells that something names.
    pub cells: u64,
    /// Units of 4 KiB of these.
    pub units: u64,
    /// Segment tables.
    pub segment_tables: u64,
}

/// The result of a check.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// How much was checked.
    pub checked: Checked,
    /// What was found: the first thousand.
    pub findings: Vec<Finding>,
    /// How much more was found.
    pub more: u64,
    /// Findings of severity `Damage`, all of them.
    pub damage: u64,
    /// A write or flush had failed, and the device was taken out of service.
    pub out_of_service: bool,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damage == 0
    }

    /// Whether nothing at all was found, and the device is in service.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && !self.out_of_service
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        if self.more > 0 {
            writeln!(f, "and {} more", self.more)?;
        }
        let c = &self.checked;
        write!(
            f,
            "{} inodes, {} names, {} chunks, {} tables, {} rows, {} log streams, {} bytes verified: {}",
            c.inodes,
            c.names,
            c.chunks,
            c.tables,
            c.rows,
            c.streams,
            c.bytes,
            if self.is_sound() { "no damage" } else { "DAMAGED" }
        )
    }
}

/// Checks the store whose first device is `disk`, and `others` are its further ones; nobody may write to them meanwhile.
pub async fn fsck(
    world: &World,
    disk: Rc<dyn Disk>,
    others: Vec<Rc<dyn Disk>>,
    progress: impl FnMut(Progress),
) -> Result<Report, FsckError> {
    let superblock = opened(&disk).await?;
    let mut found = Vec::new();
    for other in others {
        found.push((opened(&other).await?, other));
    }
    let pool = Pool::assemble(disk.clone(), superblock, found.clone()).await?;
    found.retain(|(other, _)| pool.list.of_device(other.device).is_some());
    let layout = region_layout(&pool.list).ok_or(FsckError::Layout)?;
    let floors = Floors::of_share(0);
    let config = SpaceConfig { layout, floors, discard: false, start: 0 };
    // No region is held, so that every cell can be read and none be written.
    let grants = Rc::new(LocalRegions::new(0, &BTreeSet::new()));
    let space = Space::new(pool.disk, grants, config);
    let cluster = superblock.cluster.bytes();
    let opener = Opener {
        disk: disk.clone(),
        space: space.clone(),
        config: StoreConfig::new(usize::MAX, BlockCache::new(CACHE_BYTES), 0, stem),
        name_key: crate::config::name_key(&cluster),
        time: Cell::default(),
    };
    let mut check = Check {
        superblock,
        others: found,
        opener,
        progress,
        report: Report::default(),
        findings: Findings::default(),
        claims: Vec::new(),
        is_whole: true,
    };
    check.run(world).await?;
    let Findings { kept, more, damage } = check.findings;
    Ok(Report { findings: kept, more, damage, ..check.report })
}

/// The superblock of a device, also where that is out of service.
async fn opened(disk: &Rc<dyn Disk>) -> Result<Superblock, DeviceError> {
    match cfs_device::open(&**disk).await {
        Err(DeviceError::OutOfService) => cfs_device::newest(&**disk).await,
        opened => opened,
    }
}

struct Check<P> {
    superblock: Superblock,
    /// The further devices.
    others: Vec<(Superblock, Rc<dyn Disk>)>,
    opener: Opener,
    progress: P,
    report: Report,
    findings: Findings,
    claims: Vec<(CellOwner, CellRef)>,
    /// Everything could be read so far: counts across shards can be compared.
    is_whole: bool,
}

impl<P: FnMut(Progress)> Check<P> {
    fn step(&mut self, stage: Stage, done: u64, total: u64) {
        (self.progress)(Progress { stage, done, total });
    }

    async fn run(&mut self, world: &World) -> Result<(), FsckError> {
        self.step(Stage::Device, 0, 1);
        let disk = self.opener.disk.clone();
        device::check_superblock(&disk, &self.superblock, &mut self.findings).await?;
        for (superblock, disk) in &self.others {
            device::check_superblock(disk, superblock, &mut self.findings).await?;
        }
        self.report.out_of_service = self.superblock.failed;
        let log = device::read_log(&disk, &self.superblock, &mut self.findings).await;
        self.is_whole = log.is_some();
        let log = log.unwrap_or_default();
        self.report.checked.streams = log.streams;
        let anchors = Anchors::new(disk, &self.superblock);
        device::check_anchors(&anchors, log.is_clean, &mut self.findings).await;
        let mut groups = self.open_groups(&anchors, &log.groups).await;
        if self.is_whole {
            settle::settle(&self.opener, &mut groups, world.clock.wall(), &mut self.findings).await;
        } else {
            let what = "what is under way between the shards, and counts, were not checked because of damage";
            self.findings.add(Severity::Note, Site::Group(GroupId::CONTROL), what);
        }
        let tree = self.check_shards(&groups).await;
        self.step(Stage::Counts, 0, 1);
        let claims = std::mem::take(&mut self.claims);
        self.report.checked.cells = claims.len() as u64;
        self.report.checked.units = claims.iter().map(|claim| u64::from(claim.1.units())).sum();
        let cells = space::check_ownership(self.opener.space.layout(), claims, &mut self.findings);
        self.report.checked.segment_tables = space::check_tables(&self.opener.space, &cells, &mut self.findings).await;
        self.step(Stage::Counts, 1, 1);
        paths::resolve(&groups, |ino| tree.named_in(ino), &mut self.findings).await;
        Ok(())
    }

    /// Verifies the tables of every group and opens it.
    async fn open_groups(&mut self, anchors: &Anchors, logs: &BTreeMap<GroupId, GroupLog>) -> BTreeMap<GroupId, Group> {
        let mut groups = BTreeMap::new();
        let total = GroupId::COUNT as u64;
        for (done, id) in (0..).zip((0..).take(GroupId::COUNT).map(GroupId::new)) {
            self.step(Stage::Tables, done, total);
            let Ok(manifest) = device::read_manifest(anchors, &self.opener.space, id, &mut self.findings).await else {
                self.is_whole = false;
                continue;
            };
            let mut intact = true;
            let tables = manifest.as_ref().map(|(_, tables)| tables);
            self.claims.extend(tables.into_iter().flat_map(|tables| tables.claims(id)));
            let tables = tables.map(|tables| tables.tables.as_slice()).unwrap_or_default();
            let space = self.opener.space.clone();
            let checks = tables.iter().map(|table| verify_table(&space, id, table, stem, async || ()));
            let checks = gather(checks, CELLS_AT_ONCE).await;
            for (table, check) in tables.iter().zip(checks) {
                intact &= self.note_table(id, table, check);
            }
            let none = GroupLog::default();
            let log = logs.get(&id).unwrap_or(&none);
            let mut group = self.opener.open(id, manifest, log, &mut self.findings).await;
            group.is_whole &= intact;
            self.is_whole &= group.is_whole;
            groups.insert(id, group);
        }
        groups
    }

    fn note_table(&mut self, group: GroupId, table: &cfs_kv::TableRef, check: Result<TableCheck, SpaceError>) -> bool {
        self.report.checked.tables += 1;
        self.report.checked.bytes += u64::from(table.cell.units()) * UNIT_BYTES as u64;
        match check {
            Ok(check) => {
                for (offset, what) in &check.damage {
                    let what = format!("{what} of table {} of group {group} is damaged", table.id);
                    self.findings.add(Severity::Damage, Site::Device(*offset), what);
                }
                check.damage.is_empty()
            }
            Err(error) => {
                self.findings.add(Severity::Damage, Site::Device(table.cell.offset()), error.to_string());
                false
            }
        }
    }

    async fn check_shards(&mut self, groups: &BTreeMap<GroupId, Group>) -> Tree {
        let mut tree = Tree::new(self.opener.name_key);
        let mut sessions = Sessions::default();
        for (done, (id, group)) in (0..).zip(groups) {
            self.step(Stage::Shards, done, groups.len() as u64);
            if id.shard().is_some() {
                self.check_shard(group, &mut tree, &mut sessions).await;
            } else {
                self.check_control(group, &mut sessions).await;
            }
        }
        tree.sort();
        self.report.checked.inodes = tree.inodes();
        self.report.checked.names = tree.names;
        if self.is_whole {
            tree.conclude(&mut self.findings);
            sessions.conclude(&mut self.findings);
        }
        tree
    }

    async fn check_shard(&mut self, group: &Group, tree: &mut Tree, sessions: &mut Sessions) {
        let shard = group.id.shard().expect("the caller has checked");
        let mut data = ShardData::new(shard);
        let findings = &mut self.findings;
        let mut odd = 0u64;
        let shown = group.rows(&[0], &[cells::LOCAL_SPACE], |key, value| match audit::decode(key, value) {
            Some(Row::Data(row)) => {
                tree.show(shard, &Row::Data(row.clone()), findings);
                data.show(row, findings);
            }
            Some(row) => {
                report_leftover(group.id, &row, findings);
                sessions.show(&row);
                tree.show(shard, &row, findings);
            }
            None => odd += 1,
        });
        match shown.await {
            Ok(rows) => self.report.checked.rows += rows,
            Err(error) => {
                // What tables have is reported already.
                if group.is_whole {
                    report_unreadable(group.id, &error, &mut self.findings);
                }
                self.is_whole = false;
            }
        }
        if odd > 0 {
            self.findings.group(group.id, format!("{odd} rows do not decode"));
        }
        if self.is_whole {
            sessions.end_shard(group.id, &mut self.findings);
            data.conclude(&mut self.findings);
            self.report.checked.bytes += data.verify_log_refs(group, &mut self.findings).await;
        }
        let found = verify_chunks(&self.opener.space, group, &data, self.is_whole, &mut self.findings).await;
        self.report.checked.chunks += found.count;
        self.report.checked.bytes += found.bytes;
        self.claims.extend(found.claims);
        if self.is_whole {
            self.report_unnamed(group, &found.unnamed);
        }
        tree.end_shard(shard, data.ranges, self.is_whole, &mut self.findings);
    }

    fn report_unnamed(&mut self, group: &Group, unnamed: &[(ChunkId, CellRef)]) {
        for (id, cell) in unnamed {
            let (severity, what) = if group.freed.contains(id) {
                (Severity::Note, "the next start frees it")
            } else {
                (Severity::Leak, "nothing names it")
            };
            self.findings.add(
                severity,
                Site::Device(cell.offset()),
                format!("{id:?} has {} units: {what}", cell.units()),
            );
        }
    }

    async fn check_control(&mut self, group: &Group, sessions: &mut Sessions) {
        let mut odd = 0u64;
        let shown = group.rows(&[0], &[u8::MAX], |key, value| match cfs_cluster::decode_row(key, value) {
            Some(row) => sessions.show_control(row),
            None => odd += 1,
        });
        match shown.await {
            Ok(rows) => self.report.checked.rows += rows,
            Err(error) if group.is_whole => report_unreadable(group.id, &error, &mut self.findings),
            Err(_) => {}
        }
        if odd > 0 {
            self.findings.group(group.id, format!("{odd} rows do not decode"));
        }
    }
}

/// What should have gone when messages were delivered and transactions resolved.
fn report_leftover(group: GroupId, row: &Row, findings: &mut Findings) {
    match row {
        Row::Outbox(to, sequence, _) => {
            findings.group(group, format!("message {sequence} to shard {to} stays undelivered"))
        }
        Row::Prepared(tx) => findings.group(group, format!("{tx:?} stays prepared")),
        Row::Lock(ino, tx) => findings.inode(*ino, format!("{tx:?}, which does not exist, holds a lock")),
        Row::Decision(tx, true) => findings.group(group, format!("{tx:?} is committed and waits for nobody")),
        Row::RenameLock(_, tx) => {
            findings.add(Severity::Note, Site::Group(group), format!("{tx:?} holds the rename lock"));
        }
        _ => {}
    }
}
