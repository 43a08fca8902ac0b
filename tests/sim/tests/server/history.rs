//! One random history: clients work, the server goes down and comes back, everything is checked.

use crate::private::Private;
use crate::reference::Reference;
use crate::stage::{CORES_MAX, LIMIT, SESSION_LIFE, Setup, Stage};
use crate::walk::{compare, walk};
use cfs_sim::{Crash, MemoryDisk, Stream};
use cfs_types::{FsError, InodeId, Name};
use cfs_volume::{Listed, Volume};
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
struct Announce(u64);

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

/// Runs the history of a seed; returns its trace.
pub fn run(seed: u64, plan: Plan, setup: Setup, device: &MemoryDisk) -> u64 {
    let _announce = Announce(seed);
    let stage = Stage::new(seed, setup, device);
    let chance = Stream::new(seed ^ 0x6869_7374);
    let any_cores = || u16::try_from(1 + chance.below(u64::from(CORES_MAX))).expect("few");
    stage.start(any_cores());
    let began = u64::try_from(stage.sim.now().as_nanos()).expect("64 bits");
    let results = Rc::new(Results::default());
    for client in 0..plan.volumes {
        let (results, seed) = (results.clone(), chance.next());
        results.running.set(results.running.get() + 1);
        let mut options = stage.options();
        if chance.below(3) == 0 {
            options.dirty_bytes_max = 16 << 10;
        }
        stage.begin_client(options, move |world, volume| async move {
            let (over, since) = (Rc::new(Cell::new(0)), cfs_seam::Instant::new(world.clock.now().nanos() - began));
            for task in 0..plan.tasks {
                let (world, volume, over, results) = (world.clone(), volume.clone(), over.clone(), results.clone());
                let tasks = world.tasks.clone();
                let label = format!("client-{client}-{task}");
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
                cfs_seam::spawn(&tasks, cfs_seam::Class::Foreground, work).detach();
            }
            while over.get() < plan.tasks {
                cfs_seam::sleep(&world.clock, Duration::from_millis(5)).await;
            }
            assert_eq!(volume.syncfs().await, Ok(()));
            match volume.shutdown().await {
                Ok(()) => {}
                // The server was away for too long: the session lives on for a while.
                Err(FsError::TimedOut) => results.left_behind.set(true),
                Err(error) => panic!("the session does not end: {error}"),
            }
            results.running.set(results.running.get() - 1);
        });
    }
    for _ in 0..chance.below(plan.crashes + 1) {
        stage.sim.run_for(Duration::from_micros(chance.below(plan.pause_us)));
        down_and_up(&stage, &chance, any_cores());
    }
    let over = stage.sim.run_until(LIMIT, || results.running.get() == 0);
    assert!(over, "the clients do not end (seed {seed}); server: {:?}", stage.ended.borrow());
    let rest = if results.left_behind.get() { 2 * SESSION_LIFE } else { REAP_TIME };
    verify(&stage, &chance, any_cores(), rest, results.references.take());
    stage.sim.trace()
}

/// The server goes down and comes back, perhaps only after it went down once more.
fn down_and_up(stage: &Stage, chance: &Stream, cores: u16) {
    let how = || if chance.below(3) == 0 { Crash::Process } else { Crash::Power };
    stage.say("down");
    stage.crash(how());
    stage.sim.run_for(Duration::from_micros(chance.below(200_000)));
    if chance.below(4) == 0 {
        stage.launch(cores);
        stage.sim.run_for(Duration::from_micros(chance.below(100_000)));
        stage.crash(how());
    }
    stage.say("starting");
    stage.start(cores);
    stage.say("up");
}

/// Restarts and reads everything back.
fn verify(stage: &Stage, chance: &Stream, cores: u16, rest: Duration, references: Vec<Reference>) {
    if chance.below(2) == 0 {
        stage.crash(Crash::Power);
    } else {
        stage.stop();
    }
    stage.start(cores);
    stage.client(move |world, volume| async move {
        cfs_seam::sleep(&world.clock, rest).await;
        let tree = walk(&volume).await;
        for reference in references {
            compare(&volume, &tree, &reference).await;
        }
        volume.shutdown().await.expect("a clean end");
    });
    stage.stop();
}
