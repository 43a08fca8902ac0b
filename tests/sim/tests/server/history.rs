//! One random history: clients work, the server goes down and comes back, everything is checked.

use crate::private::Private;
use crate::reference::Reference;
use crate::stage::{LIMIT, SESSION_LIFE, Stage};
use crate::summary::Summary;
use crate::walk::{compare, walk};
use cfs_seam::{Class, Instant, World, sleep, spawn};
use cfs_sim::{Crash, Stream};
use cfs_types::{FsError, InodeId, Name};
use cfs_volume::{Creation, Listed, OpenFlags, Volume};
use cfs_wire::Identity;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Time for what is unlinked to be reaped in the background.
const REAP_TIME: Duration = Duration::from_secs(30);

/// Whoever acts: the superuser.
pub const ME: Identity = Identity { uid: 0, gid: 0 };

/// A name.
pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// How a new file is made and opened for writing.
pub fn new_file() -> Creation {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    Creation { mode: 0o644, exclusive: true, truncate: false, flags }
}

/// A whole listing, fetched in parts of about `bytes`.
pub async fn whole(volume: &Volume, dir: InodeId, bytes: u32, plus: bool) -> Result<Vec<Listed>, FsError> {
    let (mut lines, mut cookie) = (Vec::new(), 0);
    loop {
        let part = volume.readdir(&ME, dir, cookie, bytes, plus).await?;
        lines.extend(part.entries);
        match lines.last() {
            Some(last) if !part.end => cookie = last.cookie,
            _ => return Ok(lines),
        }
    }
}

/// How much happens in a history.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Clients.
    pub volumes: usize,
    /// Tasks of each with a directory of their own.
    pub tasks: usize,
    /// Operations of each task.
    pub steps: usize,
    /// Times the server goes down, at most.
    pub crashes: u64,
    /// Longest between two of them, microseconds.
    pub pause_us: u64,
}

/// Prints the seed of a history that fails.
pub struct Announce(pub u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the history of seed {} failed: CFS_SIM_SEEDS={}..{}", self.0, self.0, self.0 + 1);
        }
    }
}

/// What the tasks leave to be compared.
#[derive(Default)]
struct Results {
    references: RefCell<Vec<Reference>>,
    running: Cell<usize>,
    /// Some session was not ended.
    left_behind: Cell<bool>,
}

struct History<'a> {
    stage: &'a Stage,
    plan: Plan,
    chance: Stream,
    results: Rc<Results>,
    summary: Summary,
}

/// Runs the history of a seed on a stage where nothing runs yet.
pub fn run(seed: u64, plan: Plan, stage: &Stage) -> Summary {
    let _announce = Announce(seed);
    let summary = part(seed, plan, stage, "client", &mut Vec::new());
    Summary { histories: 1, trace: stage.sim.trace(), ..summary }
}

/// As [`run`], as a part of a longer history: the directories are named after `label`, what was in `kept` before is
/// still there, and what the clients leave is added.
pub fn part(seed: u64, plan: Plan, stage: &Stage, label: &str, kept: &mut Vec<Reference>) -> Summary {
    let chance = Stream::new(seed ^ 0x6869_7374);
    let mut history = History { stage, plan, chance, results: Rc::default(), summary: Summary::default() };
    history.results.references.borrow_mut().append(kept);
    stage.start(history.any_cores());
    for client in 0..plan.volumes {
        history.begin_client(format!("{label}-{client}"));
    }
    for _ in 0..history.chance.below(plan.crashes + 1) {
        stage.sim.run_for(Duration::from_micros(history.chance.below(plan.pause_us)));
        history.down_and_up();
    }
    let results = history.results.clone();
    let over = stage.sim.run_until(LIMIT, || results.running.get() == 0);
    assert!(over, "the clients do not end; server: {:?}", stage.ended.borrow());
    *kept = history.verify();
    history.summary
}

impl History<'_> {
    fn any_cores(&self) -> u16 {
        u16::try_from(1 + self.chance.below(u64::from(self.stage.setup.cores_max))).expect("few")
    }

    fn begin_client(&self, label: String) {
        let (results, plan, seed) = (self.results.clone(), self.plan, self.chance.next());
        results.running.set(results.running.get() + 1);
        let mut options = self.stage.options();
        if self.chance.below(3) == 0 {
            options.dirty_bytes_max = 16 << 10;
        }
        let began = u64::try_from(self.stage.sim.now().as_nanos()).expect("64 bits");
        self.stage.begin_client(options, move |world, volume| async move {
            let since = Instant::new(world.clock.now().nanos() - began);
            work(&world, since, &volume, (&label, seed), plan, &results).await;
            results.running.set(results.running.get() - 1);
        });
    }

    /// The server goes down and comes back, perhaps only after it went down once more; the store is checked each time.
    fn down_and_up(&mut self) {
        let (stage, cores) = (self.stage, self.any_cores());
        stage.say("down");
        self.summary.take_down(stage, &self.chance);
        stage.sim.run_for(Duration::from_micros(self.chance.below(200_000)));
        self.summary.check(stage);
        if self.chance.below(4) == 0 {
            stage.launch(cores);
            stage.sim.run_for(Duration::from_micros(self.chance.below(100_000)));
            stage.crash_by_chance(&self.chance);
            self.summary.crashes += 1;
            self.summary.check(stage);
        }
        stage.say("starting");
        self.summary.start(stage, cores);
        stage.say("up");
    }

    /// Restarts and reads everything back; the store is checked before and after. Returns what is there.
    fn verify(&mut self) -> Vec<Reference> {
        let stage = self.stage;
        self.summary.note_status(&stage.status());
        if self.chance.below(2) == 0 {
            stage.crash(Crash::Power);
            self.summary.crashes += 1;
        } else {
            stage.stop();
        }
        self.summary.check(stage);
        stage.start(self.any_cores());
        let rest = if self.results.left_behind.get() { 2 * SESSION_LIFE } else { REAP_TIME };
        let references = self.results.references.take();
        let references = stage.client(move |world, volume| async move {
            sleep(&world.clock, rest).await;
            let tree = walk(&volume).await;
            for reference in &references {
                compare(&volume, &tree, reference).await;
            }
            volume.shutdown().await.expect("a clean end");
            references
        });
        self.summary.note_status(&stage.status());
        stage.stop();
        self.summary.check(stage);
        references
    }
}

/// A client's life.
async fn work(
    world: &World,
    since: Instant,
    volume: &Rc<Volume>,
    (label, seed): (&str, u64),
    plan: Plan,
    results: &Rc<Results>,
) {
    let over = Rc::new(Cell::new(0));
    for task in 0..plan.tasks {
        let (world, volume, over, results) = (world.clone(), volume.clone(), over.clone(), results.clone());
        let tasks = world.tasks.clone();
        let label = format!("{label}-{task}");
        let seed = seed.wrapping_add(u64::try_from(task).expect("few"));
        let work = async move {
            let mut private = Private::new(world, since, volume, seed, &label).await;
            for _ in 0..plan.steps {
                private.step().await;
            }
            private.end();
            results.references.borrow_mut().push(private.reference);
            over.set(over.get() + 1);
        };
        spawn(&tasks, Class::Foreground, work).detach();
    }
    while over.get() < plan.tasks {
        sleep(&world.clock, Duration::from_millis(5)).await;
    }
    assert_eq!(volume.syncfs().await, Ok(()));
    match volume.shutdown().await {
        Ok(()) => {}
        // The server was away for too long: the session lives on for a while.
        Err(FsError::TimedOut) => results.left_behind.set(true),
        Err(error) => panic!("the session does not end: {error}"),
    }
}
