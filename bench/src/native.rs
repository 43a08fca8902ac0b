//! The load generator that speaks RPC without FUSE.

mod client;
mod echo;
pub mod jobs;

use crate::latency::Summary;
use crate::process::Cpu;
use crate::workplace::Workplace;
use crate::{Failure, process};
use cfs_runtime::{CoreConfig, ParkPolicy, available_cpus, run as run_core};
use cfs_seam::World;
use cfs_types::CoreId;
use cfs_wire::Secret;
use clap::{Args, ValueEnum};
pub use client::Client;
pub use echo::{Echo, echo, pages};
pub use jobs::{fill_many, load as load_on};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// How long the load looks for answers before it sleeps: as long as a server core does. Longer would
/// keep the CPU from the kernel threads that flush.
const LOOK_TIME_MAX: Duration = Duration::from_micros(50);

/// What to do to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Job {
    /// 64 bytes there and back, one in flight a connection.
    Echo,
    /// Random 4 KiB reads of a file of 512 MiB.
    Read,
    /// The same of a file of 32 MiB, after all of it was read once.
    CachedRead,
    /// Random 4 KiB durable writes.
    Write,
    /// Reads of 1 MiB in order of a file of 512 MiB.
    SeqRead,
    /// Durable writes of 1 MiB in order, to a file that grows to 512 MiB.
    SeqWrite,
    /// Durable creates in 64 directories.
    Create,
}

impl Job {
    /// Operations in flight where nothing else is said.
    fn depth(self) -> usize {
        match self {
            Job::Echo => 16,
            Job::Read | Job::CachedRead | Job::Write => 32,
            Job::SeqRead | Job::SeqWrite => 8,
            Job::Create => 256,
        }
    }
}

/// Which loads, and how.
#[derive(Args, Debug)]
pub struct Loads {
    /// Only these loads; default: all that there are here.
    #[arg(long = "job")]
    pub jobs: Vec<Job>,
    /// Operations in flight; default: the job's own.
    #[arg(long)]
    pub depth: Option<usize>,
    /// Seconds of each load.
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
}

impl Loads {
    /// Has `load` carry out each that is wanted of `all`, and prints what it came to.
    pub fn run(
        &self,
        all: &[Job],
        load: impl Fn(Job, usize, Duration) -> Result<Loaded, Failure>,
    ) -> Result<(), Failure> {
        let jobs = if self.jobs.is_empty() { all } else { &self.jobs };
        for job in jobs {
            let depth = self.depth.unwrap_or(job.depth());
            let done = load(*job, depth, Duration::from_secs(self.seconds))?;
            println!("{:<10} x{depth:<4} {done}", format!("{job:?}"));
        }
        Ok(())
    }
}

/// `cfs-bench native`.
#[derive(Args, Debug)]
pub struct NativeOptions {
    /// Address of the server's core 0.
    #[arg(required_unless_present = "spawn")]
    pub address: Option<SocketAddr>,
    /// Start a server on a new store below this folder, instead.
    #[arg(long, value_name = "DIR", conflicts_with = "address")]
    pub spawn: Option<PathBuf>,
    /// Cores of that server.
    #[arg(long, default_value_t = 1)]
    pub cores: u16,
    /// The server's secret.
    #[arg(long, value_name = "FILE")]
    pub secret: Option<PathBuf>,
    /// Which, and how.
    #[command(flatten)]
    pub loads: Loads,
    /// The `cfs` binary; default: beside this one.
    #[arg(long)]
    pub cfs: Option<PathBuf>,
}

/// A server to load.
#[derive(Clone, Debug)]
pub struct Target {
    /// Core 0.
    pub address: SocketAddr,
    /// Its secret.
    pub secret: Secret,
}

impl Target {
    /// With the secret in this file.
    pub fn new(address: SocketAddr, secret: &Path) -> Result<Self, Failure> {
        let doing = || format!("reading the secret {}", secret.display());
        let bytes = std::fs::read(secret).map_err(|e| Failure::new(doing(), e))?;
        let secret = Secret::new(&bytes).ok_or_else(|| Failure::new(doing(), "too short"))?;
        Ok(Target { address, secret })
    }
}

/// Runs the loads and prints them.
pub fn run(options: &NativeOptions) -> Result<(), Failure> {
    let mut place = None;
    let (target, server) = match (&options.spawn, options.address) {
        (Some(dir), _) => {
            let place = place.insert(Workplace::new(dir)?);
            let store = place.folder().join("store");
            let server = place.serve(&process::binary(options.cfs.as_deref(), "cfs")?, &store, options.cores)?;
            (server.target()?, Some(server))
        }
        (None, Some(address)) => {
            let secret = options.secret.clone().ok_or_else(|| Failure("pass --secret FILE".into()))?;
            (Target::new(address, &secret)?, None)
        }
        (None, None) => return Err(Failure("pass an address or --spawn DIR".into())),
    };
    let all = [Job::Echo, Job::Read, Job::CachedRead, Job::Write, Job::SeqRead, Job::SeqWrite, Job::Create];
    let pid = server.as_ref().map(|s| s.pid());
    let is_free = options.spawn.is_some() && usize::from(options.cores) < available_cpus().len();
    options.loads.run(&all, |job, depth, time| load(&target, job, depth, time, pid, is_free))
}

/// A load, and the server's CPU an operation where its process is known.
pub struct Loaded {
    /// Rates and latencies.
    pub summary: Summary,
    /// CPU of the server.
    pub server: Cpu,
}

impl Loaded {
    /// Microseconds of the server's CPU an operation.
    pub fn server_micros(&self) -> f64 {
        self.server.micros_each(self.summary.operations)
    }
}

impl std::fmt::Display for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}  server {:.2} us of CPU each", self.summary, self.server_micros())
    }
}

/// Runs one load on a thread of its own, on the last CPU. `is_free`: no core of the server is there.
pub fn load(
    target: &Target,
    job: Job,
    depth: usize,
    time: Duration,
    server: Option<u32>,
    is_free: bool,
) -> Result<Loaded, Failure> {
    let target = target.clone();
    on_last_cpu(is_free, move |world| async move {
        match job {
            Job::Echo => {
                let wanted = Echo::Rpc(target);
                echo::load(&world, &wanted, depth, time, server).await
            }
            _ => {
                let client = Client::connect(&world, &target).await?;
                jobs::load(&client, job, depth, time, server).await
            }
        }
    })
}

/// Runs `work` on an executor of its own, pinned to the last CPU: servers take them from the first.
/// Where that CPU is free for it, it looks for work before it sleeps, so that nobody pays for
/// waking it.
pub fn on_last_cpu<T, F>(is_free: bool, work: impl FnOnce(World) -> F + Send + 'static) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + 'static,
{
    let body = move || {
        let mut config = CoreConfig::new(CoreId::new(0));
        config.pin_cpu = available_cpus().last().copied();
        if is_free && available_cpus().len() > 1 {
            config.park = ParkPolicy::Spin { limit: LOOK_TIME_MAX };
        }
        run_core(config, move |world, _reactor| work(world)).map_err(|e| Failure::new("the load's executor", e))?
    };
    let thread = std::thread::Builder::new().name("load".into()).spawn(body);
    let thread = thread.map_err(|e| Failure::new("starting a thread", e))?;
    thread.join().unwrap_or_else(|_| Err(Failure("the load panicked".into())))
}

/// A loop of each of `depth` tasks until the time is over, and their latencies together.
pub async fn closed_loops<F>(
    world: &World,
    depth: usize,
    time: Duration,
    server: Option<u32>,
    one: impl Fn(usize, u64) -> F + 'static,
) -> Result<Loaded, Failure>
where
    F: Future<Output = Result<(), Failure>> + 'static,
{
    closed_loops_of(world, depth, (time, u64::MAX), server, one).await
}

/// The same, until the time is over or so many operations were begun.
pub async fn closed_loops_of<F>(
    world: &World,
    depth: usize,
    (time, operations): (Duration, u64),
    server: Option<u32>,
    one: impl Fn(usize, u64) -> F + 'static,
) -> Result<Loaded, Failure>
where
    F: Future<Output = Result<(), Failure>> + 'static,
{
    use crate::latency::Latencies;
    use cfs_seam::{Class, io, spawn};
    use std::cell::{Cell, RefCell};
    let (one, seen) = (Rc::new(one), Rc::new(RefCell::new(Latencies::default())));
    let before = server.map(Cpu::of).unwrap_or_default();
    let start = world.clock.now();
    let end = start.after(time);
    let begun_so_far = Rc::new(Cell::new(0));
    let mut waits = Vec::new();
    for task in 0..depth {
        let (promise, done) = io();
        let (one, seen, clock) = (one.clone(), seen.clone(), world.clock.clone());
        let begun_so_far = begun_so_far.clone();
        let body = async move {
            let mut first_error = None;
            for turn in 0.. {
                let begun = clock.now();
                if begun >= end || begun_so_far.replace(begun_so_far.get() + 1) >= operations {
                    break;
                }
                match one(task, turn).await {
                    Ok(()) => seen.borrow_mut().record(clock.now().since(begun)),
                    Err(error) => {
                        seen.borrow_mut().fail();
                        first_error = Some(error);
                        break;
                    }
                }
            }
            promise.complete(first_error);
        };
        spawn(&world.tasks, Class::Foreground, body).detach();
        waits.push(done);
    }
    for done in waits {
        if let Some(error) = done.await {
            return Err(error);
        }
    }
    let elapsed = world.clock.now().since(start);
    let server = server.map(Cpu::of).unwrap_or_default().since(before);
    let summary = seen.borrow().summary(elapsed);
    Ok(Loaded { summary, server })
}
