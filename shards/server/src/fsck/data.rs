//! File data of one shard: extents, chunks, back references, ranges, and where chunks lie. All of
//! it is local to the shard, so it is checked and forgotten shard by shard.

use super::finding::{Findings, Severity, Site};
use super::group::Group;
use super::tree::ShardRanges;
use super::{CELLS_AT_ONCE, READS_AT_ONCE};
use crate::cells::{self, Found};
use crate::file_data::block_checksums;
use cfs_kv::Pins;
use cfs_namespace::data::{
    BackRef, ChunkRecord, DataRow, Extent, Layout, LogRef, Place, RangeRecord, Source, range_shard,
};
use cfs_seam::gather;
use cfs_segment::{CellOwner, CellRef, Space};
use cfs_types::{ChunkId, InodeId, LogIndex, ShardId, UNIT_BYTES};
use std::collections::{BTreeMap, BTreeSet};

/// The first range of a file: its record is the inode.
#[derive(Clone, Copy, Default)]
pub struct ZeroFacts {
    /// Bytes of its extents.
    pub bytes: u64,
    /// End of its last extent that has bytes.
    pub written: u64,
}

/// A range from 1 on, as its shard has it.
#[derive(Clone, Copy, Default)]
pub struct RangeFacts {
    /// Its record.
    pub record: Option<RangeRecord>,
    /// Bytes of its extents.
    pub bytes: u64,
    /// First byte of its first extent.
    pub low: u64,
    /// End of its last extent.
    pub high: u64,
    /// It is on the list of ranges to trim.
    pub is_trimming: bool,
}

/// Rows of file data of one shard, as far as they were shown.
pub struct ShardData {
    shard: ShardId,
    layout: Layout,
    /// Ranges of files whose extents this shard holds.
    pub ranges: ShardRanges,
    previous: Option<(InodeId, u64)>,
    sources: Sources,
    live: BTreeMap<ChunkId, u64>,
    spans: Vec<(ChunkId, u32, InodeId)>,
    /// Chunks with a record.
    pub chunks: BTreeMap<ChunkId, ChunkRecord>,
    log_refs: BTreeMap<LogIndex, Vec<(InodeId, u64, LogRef)>>,
    granted: u64,
}

impl ShardData {
    /// Nothing shown yet.
    pub fn new(shard: ShardId) -> Self {
        ShardData {
            shard,
            layout: Layout::default(),
            ranges: ShardRanges::default(),
            previous: None,
            sources: Sources::default(),
            live: BTreeMap::new(),
            spans: Vec::new(),
            chunks: BTreeMap::new(),
            log_refs: BTreeMap::new(),
            granted: 1,
        }
    }

    /// Takes a row in; rows come in key order.
    pub fn show(&mut self, row: DataRow, findings: &mut Findings) {
        match row {
            DataRow::Extent(ino, extent) => self.extent(ino, &extent, findings),
            DataRow::Chunk(id, record) => {
                let live = self.live.get(&id).copied().unwrap_or_default();
                if live != u64::from(record.live) {
                    let what = format!("{id:?} counts {} live bytes, extents name {live}", record.live);
                    findings.group(self.shard.into(), what);
                }
                self.chunks.insert(id, record);
            }
            DataRow::BackRef(source, BackRef::Extent { ino, end }) => {
                self.sources.sort(findings);
                if self.sources.take(&source) != Some((ino, end)) {
                    let what = format!("the back reference of {source:?} leads to no such extent (end {end})");
                    findings.inode(ino, what);
                }
            }
            DataRow::BackRef(source, BackRef::Message { to, ino, sequence }) => {
                let what =
                    format!("{source:?} is held for message {sequence} to shard {to}, which is not in the outbox");
                findings.inode(ino, what);
            }
            DataRow::Range(ino, range, record) => {
                if range.get() == 0 || range_shard(ino, range) != self.shard {
                    findings.inode(ino, format!("the record of range {range} lies in shard {}", self.shard));
                }
                if range.get() > 0 {
                    self.ranges.ranges.entry((ino, range)).or_default().record = Some(record);
                }
            }
            DataRow::Grant(next) => self.granted = next,
            DataRow::Trimming(ino, range) if range.get() == 0 => *self.ranges.trimming.at(ino) = true,
            DataRow::Trimming(ino, range) => self.ranges.ranges.entry((ino, range)).or_default().is_trimming = true,
            // The file's own shard compares these.
            DataRow::Summary(..) => {}
        }
    }

    fn extent(&mut self, ino: InodeId, extent: &Extent, findings: &mut Findings) {
        let (start, end) = (extent.start, extent.end());
        let range = self.layout.range_of(start);
        if range_shard(ino, range) != self.shard {
            findings.inode(ino, format!("the extent {start}..{end} lies in shard {}", self.shard));
        }
        if self.layout.range_of(end - 1) != range || end > self.layout.file_bytes_max() {
            findings.inode(ino, format!("the extent {start}..{end} leaves its range"));
        }
        if self.previous.is_some_and(|(file, before)| file == ino && before > start) {
            findings.inode(ino, format!("the extent {start}..{end} overlaps the one before it"));
        }
        self.previous = Some((ino, end));
        let is_written = extent.place != Place::Unwritten;
        if range.get() == 0 {
            let facts = self.ranges.zero.at(ino);
            facts.bytes += u64::from(extent.len);
            facts.written = if is_written { end } else { facts.written };
        } else {
            let facts = self.ranges.ranges.entry((ino, range)).or_default();
            if facts.bytes == 0 {
                facts.low = start;
            }
            facts.high = end;
            facts.bytes += u64::from(extent.len);
        }
        match &extent.place {
            Place::Unwritten => return,
            Place::Log(slice) => {
                self.log_refs.entry(slice.index).or_default().push((ino, start, slice.clone()));
            }
            Place::Chunk { id, offset } => {
                *self.live.entry(*id).or_default() += u64::from(extent.len);
                self.spans.push((*id, offset + extent.len, ino));
            }
        }
        self.sources.add(extent.place.source().expect("not unwritten"), (ino, end));
    }

    /// After the last row: what is missing.
    pub fn conclude(&mut self, findings: &mut Findings) {
        self.sources.sort(findings);
        for (source, (ino, end)) in std::mem::take(&mut self.sources).left() {
            findings.inode(ino, format!("the extent that ends at {end} has no back reference ({source:?})"));
        }
        for (id, end, ino) in std::mem::take(&mut self.spans) {
            match self.chunks.get(&id) {
                None => findings.inode(ino, format!("an extent names {id:?}, which has no record")),
                Some(record) if end > record.len => {
                    findings.inode(ino, format!("an extent ends at {end} of {id:?}, which has {} bytes", record.len));
                }
                Some(_) => {}
            }
        }
        for id in self.chunks.keys() {
            if id.shard() != self.shard || id.sequence() >= self.granted {
                findings.group(self.shard.into(), format!("{id:?} was never granted to this shard"));
            }
        }
        for ((ino, range), facts) in &self.ranges.ranges {
            let Some(record) = facts.record else {
                findings.inode(*ino, format!("range {range} has extents or is to be trimmed, and has no record"));
                continue;
            };
            if record.shape.allocated != facts.bytes {
                let what =
                    format!("range {range} counts {} bytes, its extents have {}", record.shape.allocated, facts.bytes);
                findings.inode(*ino, what);
            }
            if record.shape.trim_from.is_some() != facts.is_trimming {
                findings.inode(*ino, format!("range {range} and the list of ranges to trim disagree"));
            }
        }
    }

    /// Reads and verifies every small write that still rides in the log.
    pub async fn verify_log_refs(&mut self, group: &Group, findings: &mut Findings) -> u64 {
        let refs = std::mem::take(&mut self.log_refs).into_iter();
        let refs =
            refs.flat_map(|(index, slices)| slices.into_iter().map(move |(ino, at, slice)| (index, (ino, at), slice)));
        let checks = refs.map(|(index, place, slice)| async move {
            let read = group.read_data(index, slice.data_offset, slice.data_len).await;
            let wrong = match read {
                Ok(data) if block_checksums(&data) == slice.checksums => None,
                Ok(_) => Some((place, format!("bytes in entry {index} of the log fail their checksum"))),
                Err(what) => Some((place, what)),
            };
            (u64::from(slice.data_len), wrong)
        });
        let mut bytes = 0;
        for (len, wrong) in gather(checks, READS_AT_ONCE).await {
            bytes += len;
            wrong.into_iter().for_each(|((ino, at), what)| findings.inode(ino, format!("from byte {at}: {what}")));
        }
        bytes
    }
}

/// The bytes that extents name, and which extents: 48 bytes each.
#[derive(Default)]
struct Sources {
    all: Vec<(Source, InodeId, u64)>,
    is_taken: Vec<bool>,
}

impl Sources {
    fn add(&mut self, source: Source, (ino, end): (InodeId, u64)) {
        self.all.push((source, ino, end));
    }

    /// After the last extent: bytes that two of them name are reported.
    fn sort(&mut self, findings: &mut Findings) {
        if self.is_taken.len() == self.all.len() {
            return;
        }
        self.all.sort_unstable();
        self.is_taken = vec![false; self.all.len()];
        for two in self.all.windows(2).filter(|two| two[0].0 == two[1].0) {
            let ((_, other, at), (_, ino, end)) = (two[0], two[1]);
            let what =
                format!("the extent that ends at {end} has the same bytes as the one of {other:?} that ends at {at}");
            findings.inode(ino, what);
        }
    }

    /// The extent that names these bytes, once; of several the last.
    fn take(&mut self, source: &Source) -> Option<(InodeId, u64)> {
        let after = self.all.partition_point(|(at, _, _)| at <= source);
        let index = after.checked_sub(1).filter(|index| self.all[*index].0 == *source && !self.is_taken[*index])?;
        self.is_taken[index] = true;
        let (_, ino, end) = self.all[index];
        Some((ino, end))
    }

    /// Those that were not taken.
    fn left(self) -> impl Iterator<Item = (Source, (InodeId, u64))> {
        let is_taken = self.is_taken.into_iter();
        let left = self.all.into_iter().zip(is_taken).filter(|(_, is_taken)| !is_taken);
        left.map(|((source, ino, end), _)| (source, (ino, end)))
    }
}

/// What the cells of a shard's chunks turned out to be.
#[derive(Default)]
pub struct Cells {
    /// Owners and places.
    pub claims: Vec<(CellOwner, CellRef)>,
    /// Cells of chunks that nothing names.
    pub unnamed: Vec<(ChunkId, CellRef)>,
    /// Chunks.
    pub count: u64,
    /// Bytes read and verified.
    pub bytes: u64,
}

/// Reads and verifies the cells of all chunks of a shard; where the chunks' records are known,
/// compares them.
pub async fn verify_chunks(
    space: &Space,
    group: &Group,
    data: &ShardData,
    compare: bool,
    findings: &mut Findings,
) -> Cells {
    let mut out = Cells::default();
    let mut rows = Vec::new();
    let (from, to) = cells::places();
    let mut odd = 0u64;
    let shown = group.rows(&from, &to, |key, value| match cells::decode_row(key, value) {
        Some(row) => rows.push(row),
        None => odd += 1,
    });
    if let Err(error) = shown.await {
        super::group::report_unreadable(group.id, &error, findings);
        return out;
    }
    if odd > 0 {
        findings.group(group.id, format!("{odd} records of where chunks lie do not decode"));
    }
    let placed: BTreeSet<ChunkId> = rows.iter().map(|(id, _)| *id).collect();
    check_checksum_rows(group, &placed, findings).await;
    for (id, place) in rows {
        out.claims.push((CellOwner::Chunk(id), place.cell));
        out.count += 1;
        if compare {
            compare_chunk(data, (id, place), &mut out, findings);
        }
        if place.len.div_ceil(UNIT_BYTES) != place.cell.units() {
            findings.group(group.id, format!("{id:?} has {} bytes in {:?}", place.len, place.cell));
        }
    }
    for (id, verified) in gather(placed.iter().map(|id| verify_cell(space, group, *id)), CELLS_AT_ONCE).await {
        match verified {
            Ok(bytes) => out.bytes += bytes,
            Err((place, what)) => findings.add(Severity::Damage, place, format!("{id:?}: {what}")),
        }
    }
    for (id, record) in data.chunks.iter().filter(|(id, _)| compare && !placed.contains(id)) {
        findings.group(group.id, format!("{id:?} of {} bytes lies nowhere", record.len));
    }
    out
}

/// A chunk's cell and its record agree.
fn compare_chunk(data: &ShardData, (id, place): (ChunkId, cells::Place), out: &mut Cells, findings: &mut Findings) {
    let group = data.shard.into();
    match data.chunks.get(&id) {
        Some(record) if record.len != place.len => {
            findings.group(group, format!("{id:?} has {} bytes, its cell {}", record.len, place.len));
        }
        Some(_) => {}
        None => out.unnamed.push((id, place.cell)),
    }
    if id.shard() != data.shard || id.sequence() >= data.granted {
        findings.group(group, format!("the cell of {id:?}, which was never granted to this shard"));
    }
}

/// Every record of checksums belongs to a place.
async fn check_checksum_rows(group: &Group, placed: &BTreeSet<ChunkId>, findings: &mut Findings) {
    let (from, to) = cells::checksum_rows();
    let mut stray = 0u64;
    let shown = group.rows(&from, &to, |key, _| {
        stray += u64::from(cells::checksums_of(key).is_none_or(|id| !placed.contains(&id)));
    });
    if let Err(error) = shown.await {
        super::group::report_unreadable(group.id, &error, findings);
    }
    if stray > 0 {
        findings.group(group.id, format!("{stray} records of checksums belong to no chunk"));
    }
}

/// Reads a chunk's cell and verifies it; returns its bytes, or what is wrong and where.
async fn verify_cell(space: &Space, group: &Group, id: ChunkId) -> (ChunkId, Result<u64, (Site, String)>) {
    (id, try_verify_cell(space, group, id).await)
}

async fn try_verify_cell(space: &Space, group: &Group, id: ChunkId) -> Result<u64, (Site, String)> {
    let mut pins = Pins::default();
    let here = || Site::Group(group.id);
    let (place, sums) = loop {
        match cells::find(&group.store, id) {
            Found::Place(place, sums) => break (place, sums),
            Found::Absent | Found::Damaged => return Err((here(), "its place or its checksums are damaged".into())),
            Found::Miss(fetch) => pins.merge(group.store.fetch(&fetch).await.map_err(|e| (here(), e.to_string()))?),
        }
    };
    let units = place.cell.units();
    let sums = cells::checksums(&sums, 0, units);
    let owner = CellOwner::Chunk(id);
    match space.read(owner, place.cell, &sums, 0, units).await {
        Ok(_) => Ok(u64::from(units) * u64::from(UNIT_BYTES)),
        Err(cfs_segment::SpaceError::Damaged { offset, .. }) => {
            Err((Site::Device(offset), "its bytes fail their checksum".into()))
        }
        Err(error) => Err((Site::Device(place.cell.offset()), error.to_string())),
    }
}
