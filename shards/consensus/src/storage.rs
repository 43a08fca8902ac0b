//! What the Raft library reads back: the cached end of the log and the durable vote.

use cfs_types::LogIndex;
use raft::prelude::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

/// The tail of the log, from just above `base` on. The durable copy is in the core log.
#[derive(Default)]
pub(crate) struct LogTail {
    pub hard: HardState,
    pub conf: ConfState,
    /// Index and term of the entry before the first cached one.
    pub base: (u64, u64),
    /// Index and term of the newest executed entry.
    pub applied: (u64, u64),
    /// The state that the driver holds ready for followers, if any.
    pub snapshot: Option<(u64, u64)>,
    /// A follower needs a snapshot and none is open.
    pub snapshot_wanted: Cell<bool>,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl LogTail {
    pub fn new(hard: HardState, conf: ConfState, base: (u64, u64)) -> Self {
        LogTail { hard, conf, base, applied: base, ..LogTail::default() }
    }

    pub fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    /// Adds entries; the first one replaces whatever stood at its index and after.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while self.last() >= first.index && !self.entries.is_empty() {
            let gone = self.entries.pop_back().expect("not empty");
            self.bytes -= gone.data.len();
        }
        assert_eq!(self.last() + 1, first.index, "entries must follow the log");
        self.bytes += entries.iter().map(|e| e.data.len()).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Drops cached entries through `through`, and more while the cache is over `bytes_max`, but
    /// never an entry that has not been executed.
    pub fn trim(&mut self, through: LogIndex, bytes_max: usize) {
        while let Some(front) = self.entries.front() {
            let executed = front.index <= self.applied.0;
            if !executed || (front.index > through.get() && self.bytes <= bytes_max) {
                break;
            }
            self.base = (front.index, front.term);
            self.bytes -= front.data.len();
            self.entries.pop_front();
        }
    }

    /// Forgets everything and starts after a snapshot.
    pub fn restart_at(&mut self, index: u64, term: u64, conf: ConfState) {
        self.entries.clear();
        self.bytes = 0;
        self.base = (index, term);
        self.applied = (index, term);
        self.snapshot = None;
        self.conf = conf;
    }

    fn position(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.base.0 + 1)?).ok()
    }
}

impl Storage for LogTail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.conf.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let compacted = Error::Store(StorageError::Compacted);
        let (from, to) = (self.position(low).ok_or(compacted)?, self.position(high));
        let to = to.filter(|to| *to <= self.entries.len()).ok_or(Error::Store(StorageError::Unavailable))?;
        let mut budget = max_size.into().unwrap_or(u64::MAX);
        let mut out = Vec::with_capacity(to - from);
        for entry in self.entries.range(from..to) {
            let bytes = entry.data.len() as u64;
            if !out.is_empty() && bytes > budget {
                break;
            }
            budget = budget.saturating_sub(bytes);
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        let at = self.position(index).ok_or(Error::Store(StorageError::Compacted))?;
        self.entries.get(at).map(|e| e.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The open snapshot, where the entries above it are still here; otherwise the driver is asked
    /// to open a newer one, and the library asks again.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let usable = |point: &(u64, u64)| point.0 >= request_index && point.0 >= self.base.0;
        let Some((index, term)) = self.snapshot.filter(usable) else {
            self.snapshot_wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        meta.index = index;
        meta.term = term;
        meta.set_conf_state(self.conf.clone());
        Ok(snapshot)
    }
}
