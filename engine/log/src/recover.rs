//! Recovery: all streams of a device, whatever the number of cores was, joined by group.

mod merge;
mod orphans;
mod spare;
mod walk;

use crate::old::{OldStream, OldStreams, free_anchor};
use crate::record::{Origin, Position, Record, RecordKind};
use crate::stream::StreamHead;
use crate::{LogError, slots::Hold};
use cfs_device::{AnchorId, Anchors, Layout, STREAMS_MAX, Superblock, flush};
use cfs_seam::Disk;
use cfs_types::{CoreId, GroupId, LogIndex, MoveEpoch, Term};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
pub use walk::StreamEnd;
use walk::{Walked, walk};

/// Slots that a core needs: the one it writes, the one named next, one to reclaim, and the reserves.
pub const SLOTS_PER_CORE_MIN: u64 = 8;

/// An entry that survived; its payload is read on demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryAt {
    /// Raft index.
    pub index: LogIndex,
    /// Raft term.
    pub term: Term,
    /// The owner's move epoch when it was written.
    pub epoch: MoveEpoch,
    /// Where the payload lies.
    pub(crate) position: Position,
}

impl EntryAt {
    /// Bytes of the payload.
    pub fn bytes(&self) -> u32 {
        self.position.bytes
    }
}

/// What the log holds of one group. Entries and facts that the group had released may still be
/// there: its manifest says which.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupLog {
    /// Highest move epoch of any record; the next owner takes a higher one, or the same core the same.
    pub epoch: MoveEpoch,
    /// The newest of its kind.
    pub hard_state: Option<Record>,
    /// The newest of its kind.
    pub conf_state: Option<Record>,
    /// The newest of its kind.
    pub adopt: Option<Record>,
    /// Rising indexes; a gap only where a snapshot skipped some.
    pub entries: Vec<EntryAt>,
    /// Local records in rising order of their sequence.
    pub locals: Vec<Record>,
}

/// How one stream was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamReport {
    /// Number of the start that wrote it.
    pub boot: u64,
    /// The core that wrote it.
    pub core: CoreId,
    /// How it ended.
    pub end: StreamEnd,
    /// Device offset at which it ended.
    pub end_at: u64,
    /// Slots it occupies.
    pub slots: usize,
    /// Sequence of its last intact batch, 0 if there is none.
    pub batches_through: u64,
}

/// A record as it lies on the device.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub origin: Origin,
    /// The batch it was found in.
    pub sequence: u64,
    pub group: GroupId,
    pub kind: RecordKind,
    pub epoch: MoveEpoch,
    pub term: Term,
    pub index: LogIndex,
    pub position: Position,
    /// The payload, unless it is an entry.
    pub payload: Vec<u8>,
    /// Number of the stream in [`Recovered`].
    pub stream: usize,
    /// Must be written again: not proven to have been flushed, or its stream is to be freed.
    pub rewrite: bool,
}

/// Everything the log area holds.
pub struct Recovered {
    /// The groups that have records.
    groups: BTreeMap<GroupId, merge::Merged>,
    streams: Vec<(u16, Walked)>,
    collapsed: BTreeSet<usize>,
    layout: Layout,
    /// They know the streams' anchors: freeing one needs no read.
    anchors: Anchors,
}

/// What one core needs to open its log; made to be sent to it.
pub struct CorePart {
    pub(crate) core: CoreId,
    pub(crate) cores: u16,
    pub(crate) boot: u64,
    pub(crate) anchor: u16,
    pub(crate) free_slots: Vec<u32>,
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    pub(crate) rewrite: Vec<Found>,
    pub(crate) old_holds: BTreeMap<GroupId, Hold>,
    pub(crate) old_exist: bool,
    /// Streams that ended torn, all told to core 0.
    pub(crate) torn_streams: u64,
}

/// Reads the log at start, mends anchors of which a crash or damage left one copy, and frees what starts that
/// ended before they served have left. Everything else is only read. Errors name the damage; the caller must then refuse to serve.
pub async fn recover(disk: &Rc<dyn Disk>, superblock: &Superblock) -> Result<Recovered, LogError> {
    read_streams(disk, superblock, true).await
}

/// As [`recover`], but writes nothing: for checkers.
pub async fn inspect(disk: &Rc<dyn Disk>, superblock: &Superblock) -> Result<Recovered, LogError> {
    read_streams(disk, superblock, false).await
}

async fn read_streams(disk: &Rc<dyn Disk>, superblock: &Superblock, mend: bool) -> Result<Recovered, LogError> {
    let anchors = Anchors::new(disk.clone(), superblock);
    let layout = superblock.layout;
    let mut streams = Vec::new();
    for n in 0..STREAMS_MAX {
        let id = AnchorId::stream(n).expect("below the limit");
        let record = if mend { anchors.recover(id).await? } else { anchors.read(id).await? };
        let Some(record) = record.filter(|record| !record.is_empty()) else { continue };
        let head = StreamHead::decode(&record).ok_or(LogError::BadAnchor { stream: n })?;
        streams.push((n, walk(&**disk, &layout, head).await?));
    }
    orphans::refuse(&**disk, &layout, &anchors, &streams).await?;
    streams.sort_by_key(|(_, walked)| (walked.head.stream.boot, walked.head.stream.core));
    if mend {
        free_spare(&**disk, &anchors, &mut streams).await?;
    }
    let collapsed = smallest(&streams, layout.log_slot_bytes / 2);
    let mut by_group: BTreeMap<GroupId, Vec<Found>> = BTreeMap::new();
    for (n, (_, walked)) in streams.iter_mut().enumerate() {
        let collapse = collapsed.contains(&n);
        for mut found in std::mem::take(&mut walked.found) {
            found.stream = n;
            found.rewrite = collapse || found.sequence > walked.proven || found.kind.is_state();
            by_group.entry(found.group).or_default().push(found);
        }
    }
    let groups = by_group.into_iter().map(|(group, found)| (group, merge::merge(found))).collect();
    Ok(Recovered { groups, streams, collapsed, layout, anchors })
}

/// The highest number of a start of which there is a stream, 0 without any.
fn newest_boot(streams: &[(u16, Walked)]) -> u64 {
    streams.iter().map(|(_, walked)| walked.head.stream.boot).max().unwrap_or(0)
}

/// Frees the streams that others make needless. What those hold was written by processes that are gone, and need
/// not have been flushed.
async fn free_spare(disk: &dyn Disk, anchors: &Anchors, streams: &mut Vec<(u16, Walked)>) -> Result<(), LogError> {
    let spare = spare::find(streams);
    if !spare.is_empty() {
        flush(disk).await?;
    }
    for n in spare.into_iter().rev() {
        let (anchor, _) = streams.remove(n);
        free_anchor(anchors, anchor).await?;
    }
    Ok(())
}

/// The smallest streams, at most `bytes` together. They are written again as a whole and freed at
/// once, so that a machine that crashes at each start does not use up slots and anchors.
fn smallest(streams: &[(u16, Walked)], bytes: u64) -> BTreeSet<usize> {
    let mut sizes: Vec<(u64, usize)> = streams.iter().enumerate().map(|(n, (_, w))| (w.bytes, n)).collect();
    sizes.sort_unstable();
    let mut left = bytes;
    let fits = sizes.into_iter().take_while(|(size, _)| {
        let fits = *size <= left;
        left = left.saturating_sub(*size);
        fits
    });
    fits.map(|(_, n)| n).collect()
}

impl Recovered {
    /// The streams, by start and core.
    pub fn streams(&self) -> Vec<StreamReport> {
        let report = |walked: &Walked| StreamReport {
            boot: walked.head.stream.boot,
            core: CoreId::new(walked.head.stream.core),
            end: walked.end,
            end_at: walked.end_at,
            slots: walked.slots.len(),
            batches_through: walked.through,
        };
        self.streams.iter().map(|(_, walked)| report(walked)).collect()
    }

    /// What the log holds of each group that has records.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &GroupLog)> {
        self.groups.iter().map(|(group, merged)| (*group, &merged.log))
    }

    /// Number of the coming start.
    pub fn boot(&self) -> u64 {
        newest_boot(&self.streams) + 1
    }

    /// Divides everything among `cores` cores; `owner` says which one has a group from now on.
    /// The parts are by core. [`OldStreams`] stays with one of them.
    pub fn split(self, cores: u16, owner: impl Fn(GroupId) -> CoreId) -> Result<(OldStreams, Vec<CorePart>), LogError> {
        let too_many = |reason| Err(LogError::TooManyCores { cores, reason });
        let used: BTreeSet<u16> = self.streams.iter().map(|(anchor, _)| *anchor).collect();
        let mut anchors = (0..STREAMS_MAX).filter(|n| !used.contains(n));
        if cores == 0 || self.layout.log_slots / u64::from(cores) < SLOTS_PER_CORE_MIN {
            return too_many("slots");
        }
        let boot = self.boot();
        let old_exist = !self.streams.is_empty();
        let torn = self.streams.iter().filter(|(_, walked)| walked.end == StreamEnd::Torn).count() as u64;
        let mut parts = Vec::new();
        for (core, free_slots) in (0..cores).zip(self.deal_free_slots(cores)) {
            let Some(anchor) = anchors.next() else {
                return too_many("anchors of streams");
            };
            parts.push(CorePart {
                core: CoreId::new(core),
                cores,
                boot,
                anchor,
                free_slots,
                groups: BTreeMap::new(),
                rewrite: Vec::new(),
                old_holds: BTreeMap::new(),
                old_exist,
                torn_streams: if core == 0 { torn } else { 0 },
            });
        }
        let mut old: Vec<OldStream> = self
            .streams
            .iter()
            .enumerate()
            .map(|(n, (anchor, walked))| OldStream {
                anchor: *anchor,
                slots: walked.slots.clone(),
                holders: BTreeSet::new(),
                collapsed: self.collapsed.contains(&n),
            })
            .collect();
        for (group, merged) in self.groups {
            for stream in &merged.held_streams {
                old[*stream].holders.insert(group);
            }
            let part = &mut parts[usize::from(owner(group).get())];
            if !merged.held_streams.is_empty() {
                part.old_holds.insert(group, merged.held);
            }
            part.rewrite.extend(merged.rewrite);
            part.groups.insert(group, merged.log);
        }
        Ok((OldStreams::new(self.anchors, old), parts))
    }

    /// Slot i belongs to core i mod cores, but where old streams leave a core short, others share.
    fn deal_free_slots(&self, cores: u16) -> Vec<Vec<u32>> {
        let used: BTreeSet<u32> = self.streams.iter().flat_map(|(_, walked)| walked.slots.iter().copied()).collect();
        let count = u32::try_from(self.layout.log_slots).expect("checked by the layout");
        let mut dealt: Vec<Vec<u32>> = (0..cores).map(|_| Vec::new()).collect();
        for slot in (0..count).filter(|slot| !used.contains(slot)) {
            let core = usize::try_from(slot % u32::from(cores)).expect("a small number");
            dealt[core].push(slot);
        }
        loop {
            let (poor, rich) = (extreme(&dealt, false), extreme(&dealt, true));
            if dealt[rich].len() <= dealt[poor].len() + 1 {
                return dealt;
            }
            let slot = dealt[rich].pop().expect("longer than another");
            dealt[poor].push(slot);
        }
    }
}

fn extreme(dealt: &[Vec<u32>], longest: bool) -> usize {
    let by_length = (0..dealt.len()).map(|core| (dealt[core].len(), core));
    let found = if longest { by_length.max() } else { by_length.min() };
    found.expect("at least one core").1
}

impl CorePart {
    /// The core it is for.
    pub fn core(&self) -> CoreId {
        self.core
    }
    /// Number of this start.
    pub fn boot(&self) -> u64 {
        self.boot
    }
    /// The core's groups that have records.
    pub fn groups(&self) -> &BTreeMap<GroupId, GroupLog> {
        &self.groups
    }
}
