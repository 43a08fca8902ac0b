//! What a group should find in its log.

use bytes::Bytes;
use cfs_log::{GroupLog, Record, RecordKind};
use std::collections::BTreeMap;

/// What a group has written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Model {
    /// Index to term and payload.
    pub entries: BTreeMap<u64, (u64, Vec<u8>)>,
    pub locals: BTreeMap<u64, Bytes>,
    pub hard_state: Option<Bytes>,
    pub entries_released: u64,
    pub locals_released: u64,
}

impl Model {
    pub fn apply(&mut self, records: &[Record]) {
        for record in records {
            let index = record.index.get();
            match record.kind {
                RecordKind::Entry => {
                    self.entries.split_off(&index);
                    self.entries.insert(index, (record.term.get(), record.payload.to_vec()));
                }
                RecordKind::Local => {
                    self.locals.split_off(&index);
                    self.locals.insert(index, record.payload.clone());
                }
                RecordKind::HardState => self.hard_state = Some(record.payload.clone()),
                RecordKind::ConfState | RecordKind::Adopt => panic!("not in the model"),
            }
        }
    }

    /// Forgets what the group does not need.
    pub fn release(&mut self, entries: u64, locals: u64) {
        self.entries_released = self.entries_released.max(entries);
        self.locals_released = self.locals_released.max(locals);
        self.entries = self.entries.split_off(&(self.entries_released + 1));
        self.locals = self.locals.split_off(&(self.locals_released + 1));
    }

    pub fn entry_last(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(0).max(self.entries_released)
    }
    pub fn local_last(&self) -> u64 {
        self.locals.keys().next_back().copied().unwrap_or(0).max(self.locals_released)
    }

    /// Whether the log holds exactly this, apart from what was released and payloads of entries.
    pub fn matches(&self, log: &GroupLog) -> bool {
        let entries: Vec<(u64, u64, usize)> = log
            .entries
            .iter()
            .map(|e| (e.index.get(), e.term.get(), usize::try_from(e.bytes()).expect("small")))
            .filter(|(index, _, _)| *index > self.entries_released)
            .collect();
        let locals: Vec<(u64, &Bytes)> = log
            .locals
            .iter()
            .map(|r| (r.index.get(), &r.payload))
            .filter(|(index, _)| *index > self.locals_released)
            .collect();
        entries == self.entries.iter().map(|(i, (t, p))| (*i, *t, p.len())).collect::<Vec<_>>()
            && locals == self.locals.iter().map(|(i, p)| (*i, p)).collect::<Vec<_>>()
            && log.hard_state.as_ref().map(|r| &r.payload) == self.hard_state.as_ref()
    }

    /// Both sides without payloads, for messages.
    pub fn differences(&self, log: &GroupLog) -> String {
        let wanted: Vec<(u64, u64)> = self.entries.iter().map(|(i, (t, _))| (*i, *t)).collect();
        let found: Vec<(u64, u64)> = log.entries.iter().map(|e| (e.index.get(), e.term.get())).collect();
        let locals: Vec<u64> = self.locals.keys().copied().collect();
        let found_locals: Vec<u64> = log.locals.iter().map(|r| r.index.get()).collect();
        let state = log.hard_state.as_ref().map(|r| &r.payload);
        format!(
            "entries above {} {wanted:?} not {found:?}, locals above {} {locals:?} not {found_locals:?}, state {:?} not {state:?}",
            self.entries_released, self.locals_released, self.hard_state
        )
    }
}
