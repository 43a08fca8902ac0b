//! Leveled compaction, one bounded step at a time.
//!
//! Follows LevelDB's design (docs/decisions/0002-ordered-store.md): level 0 holds flushed
//! memtables that may overlap, each deeper level is one sorted run eight times as large as the
//! one above. A step merges all of level 0, or one table of a deeper level, with what overlaps in
//! the next level.

use super::merge::{Output, Run, merge};
use super::version::Version;
use super::{Change, Inner, KvError, LEVEL0_TABLES, State, Store};
use crate::manifest::LEVELS;
use crate::table::Table;
use cfs_types::Timestamp;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Each deeper level is so many times larger.
const LEVEL_RATIO: u64 = 8;

struct Step {
    level: usize,
    upper: Vec<Rc<Table>>,
    lower: Vec<Rc<Table>>,
    /// Nothing in deeper levels has keys in this range.
    bottom: bool,
}

impl State {
    /// The level that most exceeds its size, if any does.
    pub(super) fn pick_level(&self, level1_units: u64) -> Option<usize> {
        let score = |level: usize| {
            let tables = &self.version.levels[level];
            match level {
                0 => {
                    u64::try_from(tables.len()).expect("bounded") * 1000 / u64::try_from(LEVEL0_TABLES).expect("small")
                }
                _ => {
                    let depth = u32::try_from(level - 1).expect("few levels");
                    Version::units(tables) * 1000 / (level1_units.max(1) * LEVEL_RATIO.pow(depth))
                }
            }
        };
        let (level, score) = (0..LEVELS - 1).map(|l| (l, score(l))).max_by_key(|(l, s)| (*s, LEVELS - l))?;
        (score >= 1000).then_some(level)
    }

    /// Chooses inputs. None where nothing is to be done, Busy where an input is locked.
    fn pick(&mut self, level1_units: u64) -> Result<Option<Step>, KvError> {
        let version = self.version.clone();
        let Some(level) = self.pick_level(level1_units) else { return Ok(None) };
        let upper = if level == 0 {
            version.levels[0].clone()
        } else {
            let tables = &version.levels[level];
            let after = |t: &Rc<Table>| t.footer.get().is_some_and(|f| f.first.key > self.cursors[level]);
            let start = tables.iter().position(after).unwrap_or(0);
            let range = closure(tables, start, start + 1);
            self.cursors[level] = last_key(&tables[range.clone()]);
            tables[range].to_vec()
        };
        let (from, to) = bounds(&upper);
        let below = &version.levels[level + 1];
        let start = below.iter().position(|t| t.overlaps(&from, &to)).unwrap_or(0);
        let count = below[start..].iter().take_while(|t| t.overlaps(&from, &to)).count();
        let range = if count > 0 { closure(below, start, start + count) } else { 0..0 };
        let lower = below[range].to_vec();
        if upper.iter().chain(&lower).any(|t| self.locked.contains(&t.id)) {
            return Err(KvError::Busy);
        }
        let all: Vec<_> = upper.iter().chain(&lower).cloned().collect();
        let (from, to) = bounds(&all);
        let bottom = !version.levels[level + 2..].iter().flatten().any(|t| t.overlaps(&from, &to));
        Ok(Some(Step { level, upper, lower, bottom }))
    }
}

/// Widens a range of a level so that no key has versions inside and outside of it.
fn closure(tables: &[Rc<Table>], mut start: usize, mut end: usize) -> std::ops::Range<usize> {
    let touch = |a: &Table, b: &Table| match (a.footer.get(), b.footer.get()) {
        (Some(a), Some(b)) => a.last.key == b.first.key,
        _ => true,
    };
    while start > 0 && touch(&tables[start - 1], &tables[start]) {
        start -= 1;
    }
    while end < tables.len() && touch(&tables[end - 1], &tables[end]) {
        end += 1;
    }
    start..end
}

fn last_key(tables: &[Rc<Table>]) -> Box<[u8]> {
    tables.iter().filter_map(|t| t.footer.get()).map(|f| f.last.key.clone()).max().unwrap_or_default()
}

/// First and last key of some tables.
fn bounds(tables: &[Rc<Table>]) -> (Box<[u8]>, Box<[u8]>) {
    let first = tables.iter().filter_map(|t| t.footer.get()).map(|f| f.first.key.clone()).min();
    (first.unwrap_or_default(), last_key(tables))
}

impl Store {
    /// Does one step of compaction: None where no level is too large. Reads and writes at most a
    /// level 0 and what it overlaps in level 1, or some ten tables. Busy while another change
    /// holds an input. Dropping the future is safe.
    pub async fn compact_step(&self) -> Result<Option<Change>, KvError> {
        if !self.should_compact() {
            return Ok(None);
        }
        self.inner.all_footers().await?;
        let (step, floor) = {
            let mut state = self.inner.state.borrow_mut();
            let Some(step) = state.pick(self.inner.config.level1_units)? else { return Ok(None) };
            (step, state.floor.unwrap_or(Timestamp::MAX))
        };
        let inputs: BTreeSet<u64> = step.upper.iter().chain(&step.lower).map(|t| t.id).collect();
        let mut change = Change::begin(&self.inner, inputs, false);
        if step.upper.len() == 1 && step.lower.is_empty() {
            // Nothing to merge with: the table only changes its level.
            change.added.extend(step.upper.into_iter().map(|t| (step.level + 1, t)));
            return Ok(Some(change));
        }
        let mut runs: Vec<Run> = if step.level == 0 {
            step.upper.into_iter().map(|t| Run::new([t])).collect()
        } else {
            vec![Run::new(step.upper)]
        };
        runs.push(Run::new(step.lower));
        let output = Output::new(change, step.level + 1, false);
        let change = merge(&self.inner, runs, floor, step.bottom, output).await?;
        self.inner.space.sync().await?;
        Ok(Some(change))
    }
}

impl Inner {
    /// Loads the footers of the current version, which may change meanwhile.
    async fn all_footers(&self) -> Result<(), KvError> {
        loop {
            let version = self.state.borrow().version.clone();
            if version.ready.get() {
                return Ok(());
            }
            self.load_footers(&version).await?;
        }
    }
}
