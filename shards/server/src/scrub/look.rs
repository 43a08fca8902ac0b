//! One look at one thing that is stored: whether it is what was written, and if not, whose bytes it has.

use super::names::path_of;
use crate::cells::{self, Found};
use crate::core::Core;
use crate::file_data::settle;
use crate::shard::Shard;
use cfs_kv::{Pins, verify_list, verify_table};
use cfs_namespace::data::{Place, chunk_extents};
use cfs_namespace::keys::stem;
use cfs_observe::{FilePiece, Finding};
use cfs_segment::{CellOwner, CellRef, SpaceError};
use cfs_types::{ChunkId, FsError, GroupId, InodeId, UNIT_BYTES};
use std::ops::Range;
use std::rc::Rc;

/// What fails is read so often: bytes may be changed on their way.
const TRIES: usize = 2;
/// Extents looked at in one step.
const EXTENTS_AT_ONCE: usize = 1024;
/// Pieces of files that a finding names.
const PIECES_MAX: usize = 8;

/// Something that is stored and may be damaged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Suspect {
    /// A list of tables of a group.
    List(GroupId, u64),
    /// A sorted table of a group.
    Table(GroupId, u64),
    /// A chunk.
    Chunk(ChunkId),
    /// A group's rows of where chunks lie.
    Rows(GroupId),
}

impl Suspect {
    fn group(self) -> GroupId {
        match self {
            Suspect::List(group, _) | Suspect::Table(group, _) | Suspect::Rows(group) => group,
            Suspect::Chunk(id) => id.shard().into(),
        }
    }

    /// The group with which it is verified.
    pub fn verified_with(self) -> GroupId {
        let group = self.group();
        if group.shard().is_some() { group } else { GroupId::new(0) }
    }
}

/// What is wrong with a cell.
enum Wrong {
    /// These units are not what was written.
    Units(Vec<u32>),
    /// It cannot be read.
    Refused(SpaceError),
}

/// Reads and verifies; None where it is sound, or gone.
pub async fn look(core: &Rc<Core>, suspect: Suspect) -> Option<Finding> {
    let shard = core.groups.get(&suspect.group())?;
    match suspect {
        Suspect::List(_, id) => look_at_list(core, shard, id).await,
        Suspect::Table(_, id) => look_at_table(core, shard, id).await,
        Suspect::Chunk(id) => look_at_chunk(core, shard, id).await,
        // Whoever goes through the group says so again.
        Suspect::Rows(_) => None,
    }
}

/// The rows that say where a group's chunks lie cannot be read.
pub fn unread_rows(shard: &Shard, error: FsError) -> Finding {
    let why = shard.replica.describe(error);
    metadata(
        format!("where the chunks of shard {} lie cannot be read ({why}): they were not verified", shard.group()),
        None,
    )
}

fn metadata(what: String, device_offset: Option<u64>) -> Finding {
    Finding { what: format!("metadata: {what}"), device_offset, files: Vec::new(), more_files: 0 }
}

fn count(core: &Core, cell: CellRef) {
    core.scrub.bytes.add(u64::from(cell.units()) * u64::from(UNIT_BYTES));
}

async fn look_at_list(core: &Rc<Core>, shard: &Rc<Shard>, id: u64) -> Option<Finding> {
    let group = shard.group();
    let mut finding = None;
    for _ in 0..TRIES {
        let list = shard.replica.store().manifest().lists.into_iter().find(|list| list.id == id)?;
        let what = match verify_list(&core.space, group, &list).await {
            Ok(true) => {
                count(core, list.cell);
                return None;
            }
            Ok(false) => format!("list {id} of the tables of group {group} is damaged"),
            Err(error) => format!("list {id} of the tables of group {group}: {error}"),
        };
        count(core, list.cell);
        finding = Some(metadata(what, Some(list.cell.offset())));
    }
    finding
}

async fn look_at_table(core: &Rc<Core>, shard: &Rc<Shard>, id: u64) -> Option<Finding> {
    let group = shard.group();
    let mut finding = None;
    for _ in 0..TRIES {
        let table = shard.replica.store().manifest().tables.into_iter().find(|table| table.id == id)?;
        let checked = verify_table(&core.space, group, &table, stem, async || core.world.tasks.yield_now().await).await;
        count(core, table.cell);
        let (what, offset) = match checked {
            Ok(check) => {
                let (offset, what) = check.damage.first()?;
                (format!("{what} of table {id} of group {group} is damaged"), *offset)
            }
            Err(error) => (format!("table {id} of group {group}: {error}"), table.cell.offset()),
        };
        finding = Some(metadata(what, Some(offset)));
    }
    finding
}

async fn look_at_chunk(core: &Rc<Core>, shard: &Rc<Shard>, id: ChunkId) -> Option<Finding> {
    let (mut pins, mut tries) = (Pins::default(), 0);
    let (cell, wrong) = loop {
        let (cell, verifying) = match shard.replica.store().unnoticed(|store| cells::find(store, id)) {
            Found::Place(place, sums) => {
                let sums = cells::checksums(&sums, 0, place.cell.units());
                // No await since the look-up: the read pins what the record names.
                (place.cell, core.space.verify(CellOwner::Chunk(id), place.cell, &sums))
            }
            Found::Absent => return None,
            Found::Damaged => return Some(metadata(format!("the record of where {id:?} lies is damaged"), None)),
            Found::Miss(fetch) => match shard.replica.fetch(&fetch).await {
                Ok(more) => {
                    pins.merge(more);
                    continue;
                }
                Err(error) => {
                    let why = shard.replica.describe(error);
                    return Some(metadata(format!("the record of where {id:?} lies cannot be read ({why})"), None));
                }
            },
        };
        let verified = verifying.await;
        count(core, cell);
        let wrong = match verified {
            Ok(units) if units.is_empty() => return None,
            Ok(units) => Wrong::Units(units),
            Err(error) => Wrong::Refused(error),
        };
        tries += 1;
        if tries == TRIES {
            break (cell, wrong);
        }
    };
    Some(describe(core, shard, id, (cell, wrong)).await)
}

async fn describe(core: &Rc<Core>, shard: &Rc<Shard>, id: ChunkId, (cell, wrong): (CellRef, Wrong)) -> Finding {
    let (units, what) = match wrong {
        Wrong::Units(units) => (units, "fails its checksum".to_string()),
        Wrong::Refused(error) => ((0..cell.units()).collect(), error.to_string()),
    };
    let runs = units.chunk_by(|a, b| a + 1 == *b);
    let runs = runs.map(|run| run[0] * UNIT_BYTES..(run[run.len() - 1] + 1) * UNIT_BYTES);
    let first = u64::from(units[0]) * u64::from(UNIT_BYTES);
    let mut finding = Finding { what, device_offset: Some(cell.offset() + first), files: Vec::new(), more_files: 0 };
    match pieces_of(shard, id, &runs.collect::<Vec<_>>()).await {
        Ok(pieces) if pieces.is_empty() => {
            finding.what = format!("a part of {id:?} that no file has any more {}", finding.what)
        }
        Ok(pieces) => {
            finding.more_files = pieces.len().saturating_sub(PIECES_MAX) as u64;
            for (ino, bytes) in pieces.into_iter().take(PIECES_MAX) {
                let path = path_of(core, ino).await;
                let shard = ino.shard().get();
                finding.files.push(FilePiece { inode: ino.get(), shard, path, from: bytes.start, to: bytes.end });
            }
        }
        Err(error) => {
            let why = shard.replica.describe(error);
            finding.what = format!("{id:?} {}; whose bytes it has cannot be read: {why}", finding.what);
        }
    }
    finding
}

/// The pieces of files that lie in these bytes of a chunk.
async fn pieces_of(shard: &Rc<Shard>, id: ChunkId, runs: &[Range<u32>]) -> Result<Vec<(InodeId, Range<u64>)>, FsError> {
    let (mut pieces, mut after) = (Vec::<(InodeId, Range<u64>)>::new(), None);
    loop {
        let (found, next) = shard.read(|view, _| settle(chunk_extents(view, id, after, EXTENTS_AT_ONCE))).await??;
        for one in found {
            let Place::Chunk { offset, .. } = one.extent.place else { continue };
            for run in runs {
                let (from, to) = (run.start.max(offset), run.end.min(offset + one.extent.len));
                if from >= to {
                    continue;
                }
                let start = one.extent.start + u64::from(from - offset);
                let bytes = start..start + u64::from(to - from);
                match pieces.last_mut() {
                    Some((ino, last)) if *ino == one.ino && last.end == bytes.start => last.end = bytes.end,
                    _ => pieces.push((one.ino, bytes)),
                }
            }
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok(pieces),
        }
    }
}
