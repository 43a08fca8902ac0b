//! What shards keep for sessions, against what the control group says of them.
//!
//! A shard has a session's record as long as it has results of it, and both go after the session's end: at once,
//! or after a crash with the next start.

use super::finding::{Findings, Severity, Site};
use cfs_cluster::Row as ControlRow;
use cfs_namespace::audit::Row;
use cfs_types::{GroupId, SessionId};
use std::collections::BTreeSet;

/// What all shards keep.
#[derive(Default)]
pub struct Sessions {
    /// Those that some shard names.
    named: BTreeSet<SessionId>,
    /// Of these, the ones of the shard that is being read.
    here: BTreeSet<SessionId>,
    /// Results there without their session's record.
    lone_results: u64,
    open: BTreeSet<SessionId>,
    next: Option<SessionId>,
}

impl Sessions {
    /// Takes in a row of a shard, in the order of keys: sessions come before results.
    pub fn show(&mut self, row: &Row) {
        match row {
            Row::Session(session, _) => drop(self.here.insert(*session)),
            Row::Result(session, _) => self.lone_results += u64::from(!self.here.contains(session)),
            Row::Orphan(_, session) => drop(self.named.insert(*session)),
            _ => {}
        }
    }

    /// A shard was shown.
    pub fn end_shard(&mut self, group: GroupId, findings: &mut Findings) {
        if self.lone_results > 0 {
            findings.group(group, format!("{} results of sessions that it does not know", self.lone_results));
        }
        self.lone_results = 0;
        self.named.append(&mut self.here);
    }

    /// Takes in a row of the control group.
    pub fn show_control(&mut self, row: ControlRow) {
        match row {
            ControlRow::Next(next) => self.next = Some(next),
            ControlRow::Open(session) => drop(self.open.insert(session)),
            ControlRow::Start(_) => {}
        }
    }

    /// After the last group: compares.
    pub fn conclude(&self, findings: &mut Findings) {
        let next = self.next.unwrap_or(SessionId::new(1));
        for session in self.named.union(&self.open).filter(|session| **session >= next) {
            findings.group(GroupId::CONTROL, format!("session {session} was never issued"));
        }
        let over = self.named.difference(&self.open).filter(|session| **session < next).count();
        if over > 0 {
            let what = format!("shards know {over} sessions that are over: the next start forgets them");
            findings.add(Severity::Note, Site::Group(GroupId::CONTROL), what);
        }
    }
}
