//! Where the entries of a group lie: runs of consecutive indexes, 16 bytes an entry.

use crate::record::Position;
use std::collections::VecDeque;

struct Run {
    first: u64,
    positions: VecDeque<Position>,
}

impl Run {
    fn end(&self) -> u64 {
        self.first + u64::try_from(self.positions.len()).expect("memory is smaller than 2^64")
    }
    fn get(&self, index: u64) -> Option<&Position> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.positions.get(at)
    }
}

/// Entries of one group in index order. More than one run only where a snapshot skipped indexes.
#[derive(Default)]
pub(crate) struct EntryIndex {
    runs: VecDeque<Run>,
}

impl EntryIndex {
    /// The highest index, if there is any entry.
    pub fn last(&self) -> Option<u64> {
        self.runs.back().map(|run| run.end() - 1)
    }

    /// Adds an entry; what lies at or above its index is superseded. True if anything was.
    pub fn append(&mut self, index: u64, position: Position) -> bool {
        let superseded = self.last().is_some_and(|last| last >= index);
        if superseded {
            self.truncate_from(index);
        }
        match self.runs.back_mut() {
            Some(run) if run.end() == index => run.positions.push_back(position),
            _ => self.runs.push_back(Run { first: index, positions: VecDeque::from([position]) }),
        }
        superseded
    }

    /// Forgets everything at or above `index`.
    pub fn truncate_from(&mut self, index: u64) {
        while let Some(run) = self.runs.back_mut() {
            if run.first < index {
                let keep = usize::try_from(index - run.first).unwrap_or(usize::MAX);
                run.positions.truncate(keep);
                return;
            }
            self.runs.pop_back();
        }
    }

    /// Forgets everything up to and including `through`.
    pub fn release(&mut self, through: u64) {
        while let Some(run) = self.runs.front_mut() {
            if run.end() > through.saturating_add(1) {
                while run.first <= through {
                    run.positions.pop_front();
                    run.first += 1;
                }
                return;
            }
            self.runs.pop_front();
        }
    }

    pub fn get(&self, index: u64) -> Option<Position> {
        self.runs.iter().rev().find_map(|run| run.get(index)).copied()
    }

    /// A copy was written: it takes the place of its original, and of nothing else. True if the
    /// original was still there.
    pub fn replace(&mut self, index: u64, original: Position, copy: Position) -> bool {
        for run in &mut self.runs {
            let at = index.checked_sub(run.first).and_then(|at| usize::try_from(at).ok());
            if let Some(position) = at.and_then(|at| run.positions.get_mut(at))
                && *position == original
            {
                *position = copy;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> Position {
        Position { at: n, bytes: 1, crc: 0 }
    }

    #[test]
    fn a_later_entry_supersedes_all_at_or_above_it() {
        let mut index = EntryIndex::default();
        for n in 5..10 {
            assert!(!index.append(n, at(n)));
        }
        assert!(index.append(7, at(70)));
        assert_eq!((index.get(6), index.get(7), index.get(8)), (Some(at(6)), Some(at(70)), None));
        assert!(index.append(3, at(30)));
        assert_eq!((index.last(), index.get(5)), (Some(3), None));
    }

    #[test]
    fn release_forgets_a_prefix_and_gaps_stay_gaps() {
        let mut index = EntryIndex::default();
        for n in [1, 2, 3, 10, 11] {
            index.append(n, at(n));
        }
        index.release(2);
        assert_eq!((index.get(2), index.get(3), index.get(4), index.get(10)), (None, Some(at(3)), None, Some(at(10))));
        index.release(10);
        assert_eq!((index.get(3), index.get(10), index.get(11)), (None, None, Some(at(11))));
        index.release(u64::MAX);
        assert_eq!(index.last(), None);
    }

    #[test]
    fn a_copy_replaces_only_its_original() {
        let mut index = EntryIndex::default();
        index.append(1, at(1));
        assert!(!index.replace(1, at(9), at(2)));
        assert_eq!(index.get(1), Some(at(1)));
        assert!(index.replace(1, at(1), at(2)));
        assert_eq!(index.get(1), Some(at(2)));
    }
}
