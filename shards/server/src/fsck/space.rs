//! Space: every unit belongs to one cell at most, every cell lies in a segment, and what the
//! segments' own tables say.

use super::READS_AT_ONCE;
use super::finding::{Findings, Severity, Site};
use cfs_seam::gather;
use cfs_segment::{CellOwner, CellRef, RegionLayout, SegmentId, SegmentTable, Space, TableError};
use cfs_types::GroupId;
use std::collections::BTreeMap;

type Cell = (CellOwner, CellRef);

fn site(owner: CellOwner) -> GroupId {
    match owner {
        CellOwner::Chunk(id) => id.shard().into(),
        CellOwner::Table { group, .. } => group,
    }
}

/// Reports cells outside of segments and units with two owners; gives those in segments by their place.
pub fn check_ownership(layout: &RegionLayout, mut claims: Vec<Cell>, findings: &mut Findings) -> Vec<Cell> {
    claims.sort_unstable_by_key(|(owner, cell)| (cell.unit(), *owner));
    claims.retain(|(owner, cell)| {
        let is_inside = layout.locate(*cell).is_some();
        if !is_inside {
            findings.group(site(*owner), format!("{owner} names {cell:?}, which is in no segment"));
        }
        is_inside
    });
    let mut before: Option<Cell> = None;
    for (owner, cell) in claims.iter().copied() {
        if let Some((other, taken)) = before
            && taken.unit() + u64::from(taken.units()) > cell.unit()
        {
            let what = format!("{other} ({taken:?}) and {owner} ({cell:?}) both have these units");
            findings.add(Severity::Damage, Site::Device(cell.offset()), what);
        }
        let end = |cell: CellRef| cell.unit() + u64::from(cell.units());
        if before.is_none_or(|(_, taken)| end(taken) < end(cell)) {
            before = Some((owner, cell));
        }
    }
    claims
}

/// Compares the segments that have cells with their tables. A segment that was open at a crash has
/// none, or one of an earlier use; nothing depends on them, so all but contradictions are notes.
pub async fn check_tables(space: &Space, cells: &[Cell], findings: &mut Findings) -> u64 {
    let mut sealed = 0;
    let mut region = None;
    let segment_of = |(_, cell): &Cell| space.layout().locate(*cell).map(|(segment, _)| segment);
    let by_segment = cells.chunk_by(|a, b| segment_of(a) == segment_of(b));
    let segments: Vec<(SegmentId, &[Cell])> =
        by_segment.filter_map(|some| Some((segment_of(&some[0])?, some))).collect();
    for some in segments.chunks(READS_AT_ONCE) {
        let tables = gather(some.iter().map(|(segment, _)| space.read_table(*segment)), READS_AT_ONCE).await;
        for ((segment, cells), table) in some.iter().zip(tables) {
            if region.replace(segment.region()) != Some(segment.region()) {
                check_header(space, segment.region(), findings).await;
            }
            let place = Site::Device(space.layout().table_offset(*segment));
            match table {
                Ok(Ok(table)) => {
                    sealed += 1;
                    compare_table(space.layout(), &table, cells, findings);
                }
                Ok(Err(TableError::Absent)) => {}
                Ok(Err(TableError::Damaged)) => {
                    findings.add(Severity::Note, place, format!("the table of {segment} is damaged"));
                }
                Err(error) => findings.add(Severity::Damage, place, error.to_string()),
            }
        }
    }
    sealed
}

/// What a segment's table says of the cells that lie there.
fn compare_table(layout: &RegionLayout, table: &SegmentTable, cells: &[Cell], findings: &mut Findings) {
    let segment = table.segment;
    let known: BTreeMap<_, _> = table.entries.iter().map(|e| ((e.at, e.owner), e.checksums.len())).collect();
    let mut unknown = 0u64;
    for (owner, cell) in cells {
        let at = layout.locate(*cell).map(|(_, at)| at);
        match at.and_then(|at| known.get(&(at, *owner))) {
            None => unknown += 1,
            Some(units) if *units != cell.units() as usize => {
                let what = format!("{owner} has {cell:?}, the table of {segment} says {units} units");
                findings.add(Severity::Damage, Site::Device(cell.offset()), what);
            }
            Some(_) => {}
        }
    }
    if unknown > 0 {
        let what = format!("the table of {segment} is of an earlier use: it does not know {unknown} of its cells");
        findings.add(Severity::Note, Site::Device(layout.table_offset(segment)), what);
    }
}

async fn check_header(space: &Space, region: u32, findings: &mut Findings) {
    let place = Site::Device(space.layout().region_offset(region));
    match space.read_region_header(region).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => findings.add(Severity::Note, place, format!("the header of region {region}: {error}")),
        Err(error) => findings.add(Severity::Damage, place, error.to_string()),
    }
}
