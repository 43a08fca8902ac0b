//! Histories on a device that fails: reads, writes and flushes that are refused, sectors that rot or stay
//! unreadable, writes that go astray or are lost.
//!
//! What is looked for: bytes, names and attributes that are read back are right, always. An operation may
//! end in an input/output error, the server may stop and may refuse to start, if it says why. Where nothing but
//! refusals happened, everything acknowledged is there after a restart. Where the device lost or changed what it
//! held, a part of it may be unreadable then, and the offline check says so. What a lost write takes from the
//! end of the log nobody can tell from what was never written: there only garbage would be wrong.

use crate::act::Act;
use crate::doubt::Doubt;
use crate::history::Announce;
use crate::images::Images;
use crate::seeds::{run_all, seeds, sum_up};
use crate::stage::{LIMIT, Stage};
use crate::summary::Summary;
use cfs_device::{Layout, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES_AT, Superblock};
use cfs_rpc::RpcError;
use cfs_server::{FsckError, Report, fsck};
use cfs_sim::{Crash, DiskFaults, Stream};
use cfs_volume::{Volume, VolumeError, VolumeOptions};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Histories that CI runs.
const SEEDS: u64 = 200;
/// How much happens in a history.
const PLAN: Plan = Plan { acts: 80, downs: 4, pause_us: 400_000 };
/// Longest a server whose device has failed takes to end.
const END_TIME_MAX: Duration = Duration::from_secs(60);
/// How often a fault happens.
const RATES: [u32; 3] = [10_000, 50_000, 200_000];
/// Sectors that rot while the server is down, at most.
const ROT_AT_REST: u64 = 4;

/// How much happens.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Acts of a task.
    pub acts: usize,
    /// Times the server goes down, at most.
    pub downs: u64,
    /// Longest between two of them, microseconds.
    pub pause_us: u64,
}

/// What goes wrong in a history.
fn faults_of(seed: u64, chance: &Stream, layout: &Layout) -> DiskFaults {
    let rate = RATES[chance.index(RATES.len())];
    // Most damage spares the log, so that nothing that is lost is excused.
    let damage_from = if chance.below(4) > 0 { layout.regions_at } else { 0 };
    let sound = DiskFaults { damage_from, ..DiskFaults::default() };
    match seed / 8 % 8 {
        0 => DiskFaults { read_error_per_million: rate, ..sound },
        1 => DiskFaults { write_error_per_million: rate / 8, ..sound },
        2 => DiskFaults { flush_error_per_million: rate / 20, ..sound },
        3 => DiskFaults { rot_per_million: rate, ..sound },
        4 => DiskFaults { misdirect_per_million: rate, ..sound },
        5 => DiskFaults { lost_per_million: rate, ..sound },
        6 => DiskFaults { unreadable_per_million: rate / 4, ..sound },
        _ => DiskFaults {
            read_error_per_million: rate / 4,
            write_error_per_million: rate / 80,
            flush_error_per_million: rate / 80,
            rot_per_million: rate / 8,
            misdirect_per_million: rate / 8,
            lost_per_million: rate / 8,
            ..sound
        },
    }
}

/// What the tasks and the history share.
#[derive(Default)]
struct Shared {
    tasks: Cell<usize>,
    settled: Cell<usize>,
    ended: Cell<usize>,
    doubts: RefCell<Vec<Doubt>>,
    /// The end of the log may have been lost.
    is_excused: Cell<bool>,
    acts: Cell<u64>,
    failures: Cell<u64>,
}

struct History<'a> {
    stage: &'a Stage,
    plan: Plan,
    label: &'a str,
    chance: Stream,
    faults: DiskFaults,
    log: Range<u64>,
    /// The superblock's bytes while the device was in service.
    superblock: Vec<u8>,
    shared: Rc<Shared>,
    summary: Summary,
}

fn superblock_of(stage: &Stage) -> Superblock {
    let device = stage.device();
    cfs_sim::run(1, |_| async move { cfs_device::open(&device).await }).expect("a sound device")
}

/// Runs the history of a seed on a stage where nothing runs yet.
fn run(seed: u64, stage: &Stage) -> Summary {
    let chance = Stream::new(seed ^ 0x6661_756c);
    let faults = faults_of(seed, &chance, &superblock_of(stage).layout);
    run_with(seed, stage, (chance, faults))
}

fn run_with(seed: u64, stage: &Stage, (chance, faults): (Stream, DiskFaults)) -> Summary {
    let _announce = Announce(seed);
    let summary = part(PLAN, stage, "client", (chance, faults));
    Summary { histories: 1, trace: stage.sim.trace(), injected: stage.device().injected(), ..summary }
}

/// As [`run_with`], as a part of a longer history: the directories are named after `label`. The device answers well
/// afterwards.
pub fn part(plan: Plan, stage: &Stage, label: &str, (chance, faults): (Stream, DiskFaults)) -> Summary {
    let layout = superblock_of(stage).layout;
    let log = layout.log_at..layout.regions_at;
    let summary = Summary::default();
    let superblock = stage.device().peek(SUPERBLOCK_COPIES_AT[0], SUPERBLOCK_BYTES);
    let mut history = History { stage, plan, label, chance, faults, log, superblock, shared: Rc::default(), summary };
    history.play();
    let shared = &history.shared;
    Summary { events: shared.acts.get(), failures: shared.failures.get(), ..history.summary }
}

impl History<'_> {
    fn play(&mut self) {
        let stage = self.stage;
        stage.start(self.any_cores());
        for client in 0..1 + self.chance.below(2) {
            self.begin_client(client);
        }
        let shared = self.shared.clone();
        let settled = stage.sim.run_until(LIMIT, || shared.settled.get() == shared.tasks.get());
        assert!(settled, "the clients do not begin");
        self.set_faults(true);
        for _ in 0..self.chance.below(self.plan.downs + 1) {
            let pause = Duration::from_micros(self.chance.below(self.plan.pause_us));
            stage.sim.run_until(pause, || !stage.ended.borrow().is_empty());
            self.down();
            if !self.up(self.chance.below(3) == 0) {
                return;
            }
        }
        self.set_faults(self.chance.below(2) == 0);
        let is_over = || shared.ended.get() == shared.tasks.get();
        while !is_over() {
            stage.sim.run_until(LIMIT, || is_over() || !stage.ended.borrow().is_empty());
            if is_over() {
                break;
            }
            if stage.ended.borrow().is_empty() {
                return self.assert_shut_out("the clients do not end");
            }
            self.down();
            if !self.up(false) {
                return;
            }
            self.set_faults(false);
        }
        self.verify();
    }

    /// Clients wait for a server that lets nobody in because what it knows of sessions is damaged.
    fn assert_shut_out(&mut self, otherwise: &str) {
        let (stage, refusals) = (self.stage, Rc::new(RefCell::new(Vec::new())));
        let addresses = stage.options().addresses;
        for address in &addresses {
            let (told, options) =
                (refusals.clone(), VolumeOptions { addresses: vec![address.clone()], ..stage.options() });
            stage.sim.start_core(stage.sim.node(1), 0, |world| async move {
                let refusal = Volume::connect(world, options).await.err();
                told.borrow_mut().push(refusal);
            });
        }
        let tried = stage.sim.run_until(LIMIT, || refusals.borrow().len() == addresses.len());
        assert!(tried, "{otherwise}, and nobody is refused");
        let is_damage = |refusal: &Option<VolumeError>| match refusal {
            Some(VolumeError::Connect { error: RpcError::Refused(error), .. }) => error.is_failure(),
            _ => false,
        };
        assert!(refusals.borrow().iter().any(is_damage) && self.is_damaged(), "{otherwise}");
        self.summary.refused += 1;
        self.end();
        self.back_in_service();
        self.check_finds_damage();
    }

    fn any_cores(&self) -> u16 {
        u16::try_from(1 + self.chance.below(u64::from(self.stage.setup.cores_max))).expect("few")
    }

    fn set_faults(&self, on: bool) {
        let well = DiskFaults { damage_from: self.faults.damage_from, ..DiskFaults::default() };
        self.stage.device().set_faults(if on { self.faults } else { well });
    }

    /// Whether the device lost or changed anything that it held.
    fn is_damaged(&self) -> bool {
        self.stage.device().was_damaged(0..u64::MAX)
    }

    fn begin_client(&self, client: u64) {
        let tasks = 1 + self.chance.index(3);
        self.shared.tasks.set(self.shared.tasks.get() + tasks);
        let (shared, seed, acts) = (self.shared.clone(), self.chance.next(), self.plan.acts);
        let label = self.label.to_string();
        // What a client caches is not read from the device.
        let options = VolumeOptions { data_cache_bytes: 0, read_ahead_bytes: 0, ..self.stage.options() };
        self.stage.begin_client(options, move |world, volume| async move {
            for task in 0..tasks {
                let (shared, volume) = (shared.clone(), volume.clone());
                let rng = Stream::new(seed.wrapping_add(u64::try_from(task).expect("few")));
                let label = format!("{label}-{client}-{task}");
                let work = async move {
                    let mut doubt = Doubt::new(&volume, label).await;
                    shared.settled.set(shared.settled.get() + 1);
                    work(&volume, (&rng, acts), &mut doubt, &shared).await;
                    shared.doubts.borrow_mut().push(doubt);
                    shared.ended.set(shared.ended.get() + 1);
                };
                cfs_seam::spawn(&world.tasks, cfs_seam::Class::Foreground, work).detach();
            }
        });
    }

    /// Takes the server down, unless its device has done that.
    fn down(&mut self) {
        let stage = self.stage;
        if stage.ended.borrow().is_empty() && self.chance.below(4) > 0 {
            stage.say("down");
            stage.crash_by_chance(&self.chance);
            self.summary.crashes += 1;
        } else {
            self.end();
        }
        let injected = stage.device().injected();
        if injected.write_errors + injected.flush_errors > 0 {
            self.back_in_service();
        }
        self.set_faults(false);
        if self.faults.rot_per_million > 0 {
            (0..self.chance.below(ROT_AT_REST)).for_each(|_| stage.device().rot());
        }
        if stage.device().was_damaged(self.log.clone()) {
            self.shared.is_excused.set(true);
        }
        if self.chance.below(2) == 0 {
            self.check();
        }
        stage.sim.run_for(Duration::from_micros(self.chance.below(200_000)));
    }

    /// The server ends, by itself or because it is told to.
    fn end(&mut self) {
        let stage = self.stage;
        let by_itself = !stage.ended.borrow().is_empty();
        stage.say(if by_itself { "it ends" } else { "it is told to stop" });
        if !by_itself {
            stage.tell_to_stop();
        }
        assert!(stage.await_end(END_TIME_MAX), "the server does not end: {:?}", stage.ended.borrow());
        let reasons: Vec<String> = stage.ended.borrow().iter().filter_map(|(_, end)| end.clone().err()).collect();
        stage.say(&format!("ended: {reasons:?}"));
        assert!(!by_itself || !reasons.is_empty(), "it ends and nobody says why");
        reasons.iter().for_each(|reason| assert!(names_a_place(reason), "{reason}"));
        self.summary.device_ends += u64::from(!reasons.is_empty());
        self.summary.stops += u64::from(reasons.is_empty());
        stage.crash(Crash::Process);
    }

    /// What only somebody does who knows better than the mark, or what is left of it: the device goes on as if it
    /// had not failed.
    fn back_in_service(&self) {
        self.set_faults(false);
        let device = self.stage.device();
        SUPERBLOCK_COPIES_AT.iter().for_each(|at| device.poke(*at, &self.superblock));
    }

    /// Checks the store offline. None where it cannot be checked at all.
    fn check(&self) -> Option<Report> {
        self.set_faults(false);
        let device = self.stage.device();
        let report = cfs_sim::run(1, |world| async move { fsck(&world, Rc::new(device), Vec::new(), |_| ()).await });
        match report {
            Ok(report) => {
                assert!(report.is_sound() || self.is_damaged(), "refusals alone do no damage:\n{report}");
                Some(report)
            }
            Err(FsckError::Superblock(error)) => {
                assert!(self.is_damaged(), "{error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn check_finds_damage(&self) {
        let report = self.check();
        assert!(report.as_ref().is_none_or(|report| !report.is_sound()), "the check finds nothing");
    }

    /// Starts the server, first on a faulty device or not. False where it refuses on a device that answers well again.
    fn up(&mut self, mut faulty: bool) -> bool {
        let stage = self.stage;
        loop {
            self.set_faults(faulty);
            stage.say("starting");
            let ready = stage.launch(self.any_cores());
            let failed = || stage.ended.borrow().iter().any(|(_, result)| result.is_err());
            stage.sim.run_until(LIMIT, || ready.get() || failed());
            if ready.get() {
                stage.say("up");
                self.set_faults(true);
                return true;
            }
            let reasons: Vec<String> = stage.ended.borrow().iter().filter_map(|(_, end)| end.clone().err()).collect();
            stage.say(&format!("refused: {reasons:?}"));
            assert!(!reasons.is_empty(), "it neither starts nor says why not");
            reasons.iter().for_each(|reason| assert!(names_a_place(reason), "{reason}"));
            self.summary.refused += 1;
            stage.crash(Crash::Process);
            self.back_in_service();
            if !faulty {
                assert!(self.is_damaged(), "it refuses to start and nothing is damaged: {reasons:?}");
                self.check_finds_damage();
                return false;
            }
            faulty = false;
        }
    }

    /// Restarts on a device that answers well, and reads everything back.
    fn verify(&mut self) {
        let stage = self.stage;
        self.down();
        self.check();
        if !self.up(false) {
            return;
        }
        self.set_faults(false);
        let shared = self.shared.clone();
        let read = stage.begin_client(stage.options(), move |_, volume| async move {
            let mut unreadable = 0;
            for mut doubt in shared.doubts.take() {
                for act in Act::looks() {
                    let got = doubt.step(&volume, &act).await;
                    unreadable += u64::from(got.as_ref().is_err_and(|error| error.is_failure()));
                    let right = doubt.take(&act, &got);
                    assert!(right || shared.is_excused.get(), "{}", doubt.story());
                }
            }
            unreadable
        });
        let over = stage.sim.run_until(LIMIT, || read.borrow().is_some() || !stage.ended.borrow().is_empty());
        if !over {
            return self.assert_shut_out("the last client does not end");
        }
        let unreadable = read.take();
        if !stage.ended.borrow().is_empty() || unreadable != Some(0) {
            assert!(
                self.is_damaged(),
                "{unreadable:?} acts failed where nothing is damaged: {:?}",
                stage.ended.borrow()
            );
        }
        self.summary.unreadable += unreadable.unwrap_or(1);
        self.end();
        self.back_in_service();
        if unreadable != Some(0) {
            self.check_finds_damage();
        } else {
            self.check();
        }
    }
}

/// A task's life.
async fn work(volume: &Rc<Volume>, (rng, acts): (&Stream, usize), doubt: &mut Doubt, shared: &Shared) {
    for _ in 0..acts {
        let act = Act::any(rng);
        let got = doubt.step(volume, &act).await;
        shared.acts.set(shared.acts.get() + 1);
        shared.failures.set(shared.failures.get() + u64::from(got.as_ref().is_err_and(|error| error.is_failure())));
        if !doubt.take(&act, &got) {
            assert!(shared.is_excused.get(), "{}", doubt.story());
            return;
        }
        if doubt.is_hopeless() {
            return;
        }
    }
}

/// Whether a reason tells where to look: what failed, and at which place.
fn names_a_place(reason: &str) -> bool {
    reason.chars().any(|c| c.is_ascii_digit())
}

/// Histories in which clients once waited for ever: for what a transaction held whose shard was damaged, and for a
/// server whose sessions were.
const ONCE_STUCK: [u64; 3] = [542, 756, 767];

#[test]
fn nobody_waits_for_what_is_damaged() {
    let images = Images::new();
    ONCE_STUCK.iter().for_each(|seed| _ = run(*seed, &images.stage(*seed)));
}

/// Histories in which a violation must be found.
const PROOF_SEEDS: u64 = 72;

#[test]
fn a_flush_that_succeeds_after_one_that_failed_is_noticed() {
    let faults = DiskFaults { flush_error_per_million: 20_000, failed_flush_sticks: false, ..DiskFaults::default() };
    let history = |seed, images: &Images| run_with(seed, &images.stage(seed), (Stream::new(seed), faults));
    let (_, wrong) = run_all(0..PROOF_SEEDS, 1, Images::new, history);
    println!("wrong histories of the first: {wrong:?}");
    assert!(!wrong.is_empty());
}

#[test]
fn whatever_fails_nothing_wrong_is_read() {
    let seeds = seeds(SEEDS);
    let total = sum_up(seeds.clone(), Images::new, |seed, images| run(seed, &images.stage(seed)));
    if seeds.end - seeds.start >= SEEDS {
        let all = total.injected;
        let kinds = [
            all.read_errors,
            all.unreadable,
            all.write_errors,
            all.flush_errors,
            all.rotten,
            all.misdirected,
            all.lost,
        ];
        assert!(kinds.iter().all(|count| *count > 10), "every kind of fault happens: {total:?}");
        assert!(total.failures > 0 && total.device_ends > 0 && total.refused > 0, "and is noticed: {total:?}");
    }
}
