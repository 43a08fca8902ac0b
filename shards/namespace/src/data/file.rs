//! A regular file under change, in the shard of its inode.
//!
//! Range 0 is changed here; other ranges are told by outbox, and what was told is summed up in
//! the inode's shard: which ranges there are, between which offsets they can hold bytes, and the
//! last sequence sent to each.

use super::message::{Change, DataMessage};
use super::record::Summary;
use super::{keys, range, range_shard, record_of};
use crate::command::Message;
use crate::outcome::{Step, Stop};
use crate::record::Inode;
use crate::state::{State, read_inode};
use crate::view::View;
use cfs_types::{FsError, InodeId, RangeIndex};
use cfs_wire::FileKind;

/// Reads what the inode's shard knows of a range.
pub fn read_summary(view: &dyn View, ino: InodeId, range: RangeIndex) -> Step<Summary> {
    match view.get(&keys::summary(ino, range))? {
        Some(value) => record_of(Summary::decode(&value)),
        None => Ok(Summary::default()),
    }
}

/// Summaries of the ranges from `first` to below `end`, or to the last one; at most `limit`.
pub fn summaries(
    view: &dyn View,
    ino: InodeId,
    (first, end): (RangeIndex, Option<RangeIndex>),
    limit: usize,
) -> Step<Vec<(RangeIndex, Summary)>> {
    let end = end.map_or_else(|| keys::summaries_end(ino), |end| keys::summary(ino, end));
    let rows = view.scan(&keys::summary(ino, first), &end, limit)?;
    let decoded =
        rows.iter().map(|(key, value)| Ok((record_of(keys::summary_range(key))?, record_of(Summary::decode(value))?)));
    decoded.collect()
}

/// A file and its inode, which the caller writes.
pub struct File<'t, 'v> {
    /// The state.
    pub state: &'t mut State<'v>,
    /// Its number.
    pub ino: InodeId,
    /// Its inode.
    pub inode: &'t mut Inode,
}

impl File<'_, '_> {
    /// Fails for what has no data: directories and special files.
    pub fn check_kind(inode: &Inode) -> Result<(), FsError> {
        match inode.kind {
            FileKind::File => Ok(()),
            FileKind::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }

    /// Reads the inode of a file that takes data: `Stale` where it is gone or being freed.
    pub fn writable(view: &dyn View, ino: InodeId) -> Step<Inode> {
        let inode = read_inode(view, ino)?;
        Self::check_kind(&inode)?;
        if inode.nlink == 0 && view.get(&crate::keys::reap(ino))?.is_some() {
            return Err(Stop::Fail(FsError::Stale));
        }
        Ok(inode)
    }

    /// Changes one range.
    pub fn change(&mut self, range: RangeIndex, change: Change) -> Step<()> {
        if range.get() == 0 { self.change_first(range, &change) } else { self.tell(range, change) }
    }

    fn change_first(&mut self, first: RangeIndex, change: &Change) -> Step<()> {
        let trim_from = &mut self.inode.trim_from;
        let gained = range::change(self.state, self.ino, first, trim_from, change)?;
        self.account(gained)
    }

    /// One step of trimming range 0.
    pub fn trim_first(&mut self) -> Step<()> {
        let trim_from = &mut self.inode.trim_from;
        let gained = range::trim(self.state, self.ino, RangeIndex::new(0), trim_from)?;
        self.account(gained)
    }

    fn account(&mut self, gained: i64) -> Step<()> {
        self.inode.allocated = record_of(self.inode.allocated.checked_add_signed(gained))?;
        Ok(())
    }

    fn tell(&mut self, range: RangeIndex, change: Change) -> Step<()> {
        let mut summary = read_summary(self.state, self.ino, range)?;
        let before = summary.bytes;
        match &change {
            Change::Write { offset, len, .. } => summary.cover(*offset, *offset + u64::from(*len)),
            Change::Zero { from, to } | Change::Allocate { from, to } => summary.cover(*from, *to),
            Change::Hole { from, to } => summary.uncover(*from, *to),
            Change::Cut { from } => summary.uncover(*from, u64::MAX),
            Change::Forget => summary.uncover(0, u64::MAX),
        }
        self.inode.sequence += 1;
        summary.sequence = self.inode.sequence;
        let allocated = self.inode.allocated.saturating_sub(before);
        self.inode.allocated = allocated + summary.bytes;
        if change == Change::Forget {
            self.state.delete(keys::summary(self.ino, range));
        } else {
            self.state.put(keys::summary(self.ino, range), summary.encode());
        }
        let message =
            DataMessage { ino: self.ino, range, epoch: self.inode.epoch, sequence: self.inode.sequence, change };
        let to = range_shard(self.ino, range);
        range::hold_bytes(self.state, to, &message);
        self.state.send(to, &Message::Data(message))?;
        Ok(())
    }
}
