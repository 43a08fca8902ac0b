//! What is known to be damaged.
//!
//! Invariant: bounded; what there is no room for is counted.

use super::look::Suspect;
use cfs_observe::Finding;
use cfs_types::GroupId;
use std::collections::BTreeMap;

/// Findings that are kept; one has some hundred bytes.
const FINDINGS_MAX: usize = 128;
/// Searches of all shards for the name of a file, until the list is empty again or somebody asks for a start.
const SEARCHES_MAX: u32 = 16;

/// A finding that is kept.
pub struct Known {
    /// The group, of whose verification it is a part.
    pub group: GroupId,
    /// It was looked at since that last began.
    pub is_met: bool,
    finding: Finding,
}

/// What is known to be damaged on one core.
pub struct Findings {
    kept: BTreeMap<Suspect, Known>,
    /// What there was no room for when each group was last verified.
    more: BTreeMap<GroupId, u64>,
    searches: u32,
}

impl Default for Findings {
    fn default() -> Self {
        Findings { kept: BTreeMap::new(), more: BTreeMap::new(), searches: SEARCHES_MAX }
    }
}

impl Findings {
    /// A group begins to be verified.
    pub fn begin(&mut self, group: GroupId) {
        self.more.remove(&group);
        self.kept.values_mut().filter(|known| known.group == group).for_each(|known| known.is_met = false);
    }

    /// What a look has found. True where it was not known before.
    pub fn set(&mut self, suspect: Suspect, finding: Option<Finding>) -> bool {
        let group = suspect.verified_with();
        let Some(finding) = finding else {
            self.kept.remove(&suspect);
            if self.is_empty() {
                self.searches = SEARCHES_MAX;
            }
            return false;
        };
        if self.kept.len() >= FINDINGS_MAX && !self.kept.contains_key(&suspect) {
            *self.more.entry(group).or_default() += 1;
            return true;
        }
        self.kept.insert(suspect, Known { group, is_met: true, finding }).is_none()
    }

    /// The path that was found for an inode earlier.
    pub fn path_of(&self, inode: u64) -> Option<String> {
        let mut files = self.kept.values().flat_map(|known| &known.finding.files);
        files.find(|piece| piece.inode == inode).and_then(|piece| piece.path.clone())
    }

    /// Whether all shards may be searched for one more name.
    pub fn may_search(&mut self) -> bool {
        let may = self.searches > 0;
        self.searches = self.searches.saturating_sub(1);
        may
    }

    /// Names may be searched for again.
    pub fn allow_searches(&mut self) {
        self.searches = SEARCHES_MAX;
    }

    /// Whatever of it is kept and wanted.
    pub fn suspects(&self, wanted: impl Fn(&Known) -> bool) -> Vec<Suspect> {
        self.kept.iter().filter(|(_, known)| wanted(known)).map(|(suspect, _)| *suspect).collect()
    }

    /// Whether the group has none.
    pub fn is_sound(&self, group: GroupId) -> bool {
        !self.more.contains_key(&group) && self.kept.values().all(|known| known.group != group)
    }

    /// Whether there is none that is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Those that are kept.
    pub fn kept(&self) -> impl Iterator<Item = &Finding> {
        self.kept.values().map(|known| &known.finding)
    }

    /// How many more there are.
    pub fn more(&self) -> u64 {
        self.more.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_types::{ChunkId, ShardId};

    fn chunk(sequence: u64) -> Suspect {
        Suspect::Chunk(ChunkId::new(sequence, ShardId::new(7)).expect("small"))
    }

    fn finding() -> Option<Finding> {
        Some(Finding { what: "damage".into(), device_offset: None, files: Vec::new(), more_files: 0 })
    }

    #[test]
    fn a_finding_is_new_once_and_goes_with_its_cause() {
        let mut findings = Findings::default();
        assert!(findings.set(chunk(1), finding()) && !findings.set(chunk(1), finding()));
        assert!(!findings.is_sound(GroupId::new(7)) && findings.is_sound(GroupId::new(8)));
        assert!(!findings.set(chunk(1), None));
        assert!(findings.is_empty() && findings.is_sound(GroupId::new(7)));
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_until_its_group_is_verified_again() {
        let mut findings = Findings::default();
        let all = FINDINGS_MAX as u64 + 5;
        for _ in 0..2 {
            findings.begin(GroupId::new(7));
            (0..all).for_each(|sequence| {
                findings.set(chunk(sequence), finding());
            });
            assert_eq!((findings.kept().count(), findings.more()), (FINDINGS_MAX, 5));
        }
    }

    #[test]
    fn what_was_not_met_again_is_told_from_what_was() {
        let mut findings = Findings::default();
        findings.set(chunk(1), finding());
        findings.set(chunk(2), finding());
        findings.begin(GroupId::new(7));
        findings.set(chunk(2), finding());
        assert_eq!(findings.suspects(|known| !known.is_met), [chunk(1)]);
    }
}
