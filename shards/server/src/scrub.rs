//! Scrub: everything that a core stores is read and verified once a period, at a bounded rate, while it
//! serves (docs/decisions/0014-scrub.md).
//!
//! Invariants: a place is looked up and its read begun without an await between, so that what is read is what
//! the record names, whatever the cleaner does; nothing is a finding that did not fail twice; nothing is
//! changed but the note of when a group was verified, which a group with findings does not get.

mod findings;
mod look;
mod names;

pub use names::{Found, Scope, trace};

use crate::cells;
use crate::config::ScrubConfig;
use crate::core::Core;
use crate::metrics::Counter;
use crate::shard::Shard;
use cfs_exec::Event;
use cfs_kv::{Lookup, Pins, Rows, Scan};
use cfs_observe::{Finding, ScrubStatus};
use cfs_seam::{Instant, timeout};
use cfs_types::{FsError, GroupId, Nanos, Timestamp};
use findings::Findings;
use look::{Suspect, look};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Scheduled reads begin so long after a start, or an eighth of the period: a server has more urgent things to do.
const FIRST_AFTER: Duration = Duration::from_secs(600);
/// Between two looks at what was found, or a period.
const RECHECK: Duration = Duration::from_secs(600);
/// Longest sleep: the wall clock may have stepped meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// Chunks listed at once.
const PAGE: usize = 64;
/// What a group counts for beside what it stores: a note in the log, and a look into its store.
const GROUP_BYTES: u64 = 64 << 10;
/// A group that was verified so far in the future was verified by a clock that was wrong.
const SKEW_MAX: Duration = Duration::from_secs(86_400);

/// The scrub of one core.
pub struct Scrub {
    config: ScrubConfig,
    /// When each group was last verified.
    verified: RefCell<BTreeMap<GroupId, Nanos>>,
    /// Groups that somebody asked for.
    wanted: RefCell<BTreeSet<GroupId>>,
    asked: Event,
    /// The group that is being verified.
    current: Cell<Option<GroupId>>,
    /// Without the rate, until nothing is due.
    unpaced: Cell<bool>,
    /// When the rate allows the next read.
    next_read: Cell<Instant>,
    findings: RefCell<Findings>,
    /// Bytes read and verified.
    pub bytes: Counter,
    /// Findings, each counted once.
    pub found: Counter,
}

impl Scrub {
    /// Nothing verified yet.
    pub fn new(config: ScrubConfig) -> Self {
        Scrub {
            config,
            verified: RefCell::default(),
            wanted: RefCell::default(),
            asked: Event::new(),
            current: Cell::new(None),
            unpaced: Cell::new(false),
            next_read: Cell::default(),
            findings: RefCell::default(),
            bytes: Counter::default(),
            found: Counter::default(),
        }
    }

    /// All of these groups are due from now on.
    fn ask(&self, groups: impl Iterator<Item = GroupId>, unpaced: bool) {
        self.wanted.borrow_mut().extend(groups);
        self.unpaced.set(unpaced);
        self.findings.borrow_mut().allow_searches();
        self.asked.notify_all();
    }

    /// How long until the group's period is over; None where there is no period.
    fn time_left(&self, verified: Option<Nanos>, now: Nanos) -> Option<Duration> {
        let period = self.config.period?;
        let Some(at) = verified else { return Some(Duration::ZERO) };
        if since(now, at) > SKEW_MAX {
            return Some(Duration::ZERO);
        }
        Some(period.saturating_sub(since(at, now)))
    }

    fn is_due(&self, group: GroupId, now: Nanos) -> bool {
        let verified = self.verified.borrow().get(&group).copied();
        let is_wanted = self.wanted.borrow().contains(&group) || self.current.get() == Some(group);
        is_wanted || self.time_left(verified, now) == Some(Duration::ZERO)
    }

    /// The group that waits longest, where one is due; otherwise how long to sleep.
    fn next(&self, groups: impl Iterator<Item = GroupId>, now: Nanos, scheduled: bool) -> Result<GroupId, Duration> {
        let verified = self.verified.borrow();
        let wanted = self.wanted.borrow();
        let oldest = groups.map(|group| (!wanted.contains(&group), verified.get(&group).copied(), group)).min();
        let Some((unwanted, at, group)) = oldest else { return Err(SLEEP_MAX) };
        match self.time_left(at, now) {
            _ if !unwanted => Ok(group),
            Some(Duration::ZERO) if scheduled => Ok(group),
            left => Err(left.unwrap_or(SLEEP_MAX).min(SLEEP_MAX)),
        }
    }

    /// How things stand.
    pub fn status(&self, core: &Core) -> ScrubStatus {
        let (now, verified, findings) = (core.world.clock.wall(), self.verified.borrow(), self.findings.borrow());
        let oldest = groups(core).map(|group| verified.get(&group).copied()).min().flatten().unwrap_or_default();
        ScrubStatus {
            groups: groups(core).count() as u64,
            due_groups: groups(core).filter(|group| self.is_due(*group, now)).count() as u64,
            verified_since_seconds: u64::try_from(oldest.get() / 1_000_000_000).unwrap_or(0),
            scrubbed_bytes: self.bytes.get(),
            findings: findings.kept().cloned().collect(),
            more_findings: findings.more(),
        }
    }

    /// Waits until the rate allows more after `bytes`. An asked start may lift the rate meanwhile.
    async fn spend(&self, core: &Core, bytes: u64) {
        let clock = &core.world.clock;
        let cost = bytes.saturating_mul(1_000_000_000) / self.config.bytes_per_second.max(1);
        let at = self.next_read.get().max(clock.now()).after(Duration::from_nanos(cost));
        self.next_read.set(at);
        core.world.tasks.yield_now().await;
        while !self.unpaced.get() && !core.stopping.get() && clock.now() < at {
            timeout(clock, at, self.asked.wait()).await;
        }
        if self.unpaced.get() {
            self.next_read.set(clock.now());
        }
    }
}

/// From `earlier` to `later`, zero where it is the other way round.
fn since(earlier: Nanos, later: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(later.get().saturating_sub(earlier.get())).unwrap_or(0))
}

/// What is verified and noted by itself; the control group goes with shard 0.
fn groups(core: &Core) -> impl Iterator<Item = GroupId> + '_ {
    core.groups.keys().copied().filter(|group| group.shard().is_some())
}

/// Everything is to be verified from now on; without the rate where `unpaced`.
pub fn start(core: &Core, unpaced: bool) {
    core.scrub.ask(groups(core), unpaced);
}

/// Verifies what is due, until the core stops.
pub async fn run(core: Rc<Core>) {
    let (scrub, clock) = (&core.scrub, &core.world.clock);
    let period = scrub.config.period.unwrap_or(Duration::MAX);
    let first = clock.now().after(FIRST_AFTER.min(period / 8));
    recall(&core).await;
    let mut recheck = clock.now();
    while !core.stopping.get() {
        let is_first = clock.now() < first;
        match scrub.next(groups(&core), clock.wall(), !is_first) {
            Ok(group) => {
                scrub.wanted.borrow_mut().remove(&group);
                scrub.current.set(Some(group));
                verify_group(&core, group).await;
                scrub.current.set(None);
            }
            Err(sleep) => {
                scrub.unpaced.set(false);
                let mut until = clock.now().after(sleep);
                if is_first && scrub.config.period.is_some() {
                    until = until.max(first);
                }
                if !scrub.findings.borrow().is_empty() {
                    until = until.min(recheck);
                }
                timeout(clock, until, scrub.asked.wait()).await;
            }
        }
        if clock.now() >= recheck {
            recheck = clock.now().after(RECHECK.min(period));
            let suspects = scrub.findings.borrow().suspects(|_| true);
            look_again(&core, suspects).await;
        }
    }
}

/// Reads when each group was last verified.
async fn recall(core: &Rc<Core>) {
    for group in groups(core) {
        let Some(shard) = core.groups.get(&group) else { continue };
        let mut pins = Pins::default();
        if shard.replica.ready().await.is_err() {
            continue;
        }
        let verified = loop {
            let store = shard.replica.store();
            match store.unnoticed(|store| store.get(&cells::verified_key(), Timestamp::MAX)) {
                Lookup::Found(value) => break cells::decode_verified(&value),
                Lookup::Absent => break None,
                Lookup::Miss(fetch) => match shard.replica.fetch(&fetch).await {
                    Ok(more) => pins.merge(more),
                    Err(_) => break None,
                },
            }
        };
        core.scrub.verified.borrow_mut().extend(verified.map(|at| (group, at)));
    }
}

/// Reads and verifies all that a shard stores, and notes that it was.
async fn verify_group(core: &Rc<Core>, group: GroupId) {
    let (scrub, began) = (&core.scrub, core.world.clock.wall());
    scrub.findings.borrow_mut().begin(group);
    scrub.spend(core, GROUP_BYTES).await;
    let Some(shard) = core.groups.get(&group) else { return };
    let control = core.groups.get(&GroupId::CONTROL).filter(|_| group == GroupId::new(0));
    for member in [Some(shard), control].into_iter().flatten() {
        verify_tables(core, member).await;
    }
    if let Err(error) = verify_chunks(core, shard).await {
        note(core, Suspect::Rows(group), Some(look::unread_rows(shard, error)));
    }
    if core.stopping.get() {
        return;
    }
    // What is gone was not met.
    let left = scrub.findings.borrow().suspects(|known| known.group == group && !known.is_met);
    look_again(core, left).await;
    let before = scrub.verified.borrow_mut().insert(group, began);
    let is_sound = scrub.findings.borrow().is_sound(group);
    if is_sound || before.is_some() {
        // A group that cannot be written to is verified again after the next start.
        let _unnoted = shard.replica.write_locals(vec![cells::verified(Some(began).filter(|_| is_sound))]).await;
    }
}

async fn verify_tables(core: &Rc<Core>, shard: &Rc<Shard>) {
    let (group, manifest) = (shard.group(), shard.replica.store().manifest());
    let lists = manifest.lists.iter().map(|list| Suspect::List(group, list.id));
    let tables = manifest.tables.iter().map(|table| Suspect::Table(group, table.id));
    for suspect in lists.chain(tables) {
        verify(core, suspect).await;
    }
}

async fn verify_chunks(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<(), FsError> {
    let (first, to) = cells::places();
    let mut from = Some(first.to_vec());
    while let Some(at) = from.take().filter(|_| !core.stopping.get()) {
        let (rows, next) = page(shard, &at, &to, PAGE).await?;
        for (key, value) in &rows {
            if let Some((id, _)) = cells::decode_row(key, value) {
                verify(core, Suspect::Chunk(id)).await;
            }
        }
        from = next;
    }
    Ok(())
}

/// Rows from `from` to before `to`, `limit` at most, and where the next ones begin. They count as nobody's use.
async fn page(shard: &Shard, from: &[u8], to: &[u8], limit: usize) -> Result<(Rows, Option<Vec<u8>>), FsError> {
    let mut pins = Pins::default();
    loop {
        match shard.replica.store().unnoticed(|store| store.scan(from, to, Timestamp::MAX, limit)) {
            Scan::Rows { rows, more } => {
                let next = rows.last().filter(|_| more).map(|(last, _)| [last, &[0][..]].concat());
                return Ok((rows, next));
            }
            Scan::Miss(fetch) => pins.merge(shard.replica.fetch(&fetch).await?),
        }
    }
}

/// Looks at one thing and waits as long as the rate wants.
async fn verify(core: &Rc<Core>, suspect: Suspect) {
    if core.stopping.get() {
        return;
    }
    let before = core.scrub.bytes.get();
    let finding = look(core, suspect).await;
    note(core, suspect, finding);
    core.scrub.spend(core, core.scrub.bytes.get() - before).await;
}

async fn look_again(core: &Rc<Core>, suspects: Vec<Suspect>) {
    for suspect in suspects {
        verify(core, suspect).await;
    }
}

/// Keeps a finding, or lets go of one that is none any more; says a new one.
fn note(core: &Rc<Core>, suspect: Suspect, finding: Option<Finding>) {
    let words = finding.as_ref().map(ToString::to_string);
    if core.scrub.findings.borrow_mut().set(suspect, finding) {
        core.scrub.found.bump();
        words.into_iter().for_each(|words| core.config.notices.say(format!("scrub: damage: {words}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(days: i64) -> Nanos {
        Nanos::new(days * 86_400_000_000_000)
    }

    fn weekly(verified: &[(u16, i64)]) -> Scrub {
        let scrub = Scrub::new(ScrubConfig { period: Some(7 * DAY), bytes_per_second: 1 });
        scrub.verified.borrow_mut().extend(verified.iter().map(|(group, days)| (GroupId::new(*group), at(*days))));
        scrub
    }

    fn next(scrub: &Scrub, now: i64) -> Result<u16, Duration> {
        scrub.next([1, 2, 3].into_iter().map(GroupId::new), at(now), true).map(GroupId::get)
    }

    #[test]
    fn the_group_that_was_never_verified_comes_first_then_the_oldest() {
        assert_eq!(next(&weekly(&[(1, 1), (2, 2)]), 100), Ok(3));
        assert_eq!(next(&weekly(&[(1, 12), (2, 11), (3, 13)]), 100), Ok(2));
        assert_eq!(next(&weekly(&[(1, 92), (2, 94), (3, 95)]), 100), Ok(1));
    }

    #[test]
    fn it_sleeps_until_one_is_due_and_no_longer_than_the_wall_clock_is_trusted() {
        let scrub = Scrub::new(ScrubConfig { period: Some(Duration::from_secs(600)), bytes_per_second: 1 });
        let verified = Nanos::new(at(100).get() - 200_000_000_000);
        scrub.verified.borrow_mut().extend([1, 2, 3].map(|group| (GroupId::new(group), verified)));
        assert_eq!(next(&scrub, 100), Err(Duration::from_secs(400)));
        assert_eq!(next(&weekly(&[(1, 99), (2, 99), (3, 99)]), 100), Err(SLEEP_MAX));
        assert_eq!(next(&weekly(&[(1, 200), (2, 300), (3, 300)]), 100), Ok(1), "a clock was wrong");
    }

    #[test]
    fn who_asks_has_all_of_it_verified_also_where_there_is_no_period() {
        let scrub = Scrub::new(ScrubConfig { period: None, bytes_per_second: 1 });
        assert_eq!(next(&scrub, 100), Err(SLEEP_MAX));
        scrub.ask([2, 3].into_iter().map(GroupId::new), false);
        for group in [2, 3] {
            assert_eq!(next(&scrub, 100), Ok(group));
            scrub.wanted.borrow_mut().remove(&GroupId::new(group));
        }
        assert_eq!(next(&scrub, 100), Err(SLEEP_MAX));
    }
}
