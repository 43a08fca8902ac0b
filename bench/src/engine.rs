//! One core of the server in this process: its loads come without RPC and sockets.

use crate::Failure;
use crate::native::{Client, Job, Loaded, Loads, load_on};
use crate::workplace::Workplace;
use cfs_device::{FormatOptions, Pool, Uuid};
use cfs_rpc::Admission;
use cfs_runtime::{CoreConfig, OpenMode, ParkPolicy, available_cpus, mesh, open_disk, start_core};
use cfs_seam::{Class, Disk, Io, io, spawn};
use cfs_server::{
    CoreReply, CoreRequest, Devices, Envelope, MemoryLimits, Notices, RootOwner, ServerConfig, serve_core,
};
use cfs_types::{CoreId, MapEpoch};
use cfs_wire::Secret;
use clap::Args;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// `cfs-bench engine`.
#[derive(Args, Debug)]
pub struct EngineOptions {
    /// Where the store goes.
    #[arg(long)]
    pub dir: PathBuf,
    /// Which, and how.
    #[command(flatten)]
    pub loads: Loads,
    /// Memory of the core, MiB.
    #[arg(long, default_value_t = 256)]
    pub memory: u64,
}

/// Runs the loads and prints them.
pub fn run(options: &EngineOptions) -> Result<(), Failure> {
    let place = Workplace::new(&options.dir)?;
    let all = [Job::Read, Job::CachedRead, Job::Write, Job::SeqRead, Job::SeqWrite, Job::Create];
    options.loads.run(&all, |job, depth, time| load_inside(&place, job, depth, time, options.memory << 20))
}

/// One load on a new store, with a core of `memory` bytes. The CPU is that of both, load and core.
pub fn load_inside(place: &Workplace, job: Job, depth: usize, time: Duration, memory: u64) -> Result<Loaded, Failure> {
    let store = place.folder().join("engine");
    let done = on_core(&store, STORE_BYTES, MemoryLimits::of_core(memory), move |client, _| async move {
        load_on(&client, job, depth, time, Some(std::process::id())).await
    });
    let _gone = std::fs::remove_file(&store);
    done
}

/// Size of the stores.
const STORE_BYTES: u64 = 4 << 30;
/// How long an idle core looks for work, as `cfs server` has it.
const LOOK_TIME: Duration = Duration::from_micros(50);

/// Formats a store of `bytes` bytes, serves it with one core of this process and has `work` done on that core.
pub fn on_core<T, F>(
    store: &Path,
    bytes: u64,
    memory: MemoryLimits,
    work: impl FnOnce(Rc<Client>, Rc<dyn Disk>) -> F + Send + 'static,
) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + 'static,
{
    let failed = |what: &'static str| move |e: &dyn std::fmt::Display| Failure::new(what, e);
    let file = open_disk(store, OpenMode::Create { bytes }).map_err(|e| failed("making a store")(&e))?;
    let seat = mesh(1).map_err(|e| failed("starting a core")(&e))?.remove(0);
    let remote = seat.remote();
    let mut core = CoreConfig::new(CoreId::new(0));
    core.pin_cpu = available_cpus().first().copied();
    core.park = ParkPolicy::Spin { limit: LOOK_TIME };
    let thread = start_core(core, seat, move |world, reactor| async move {
        let disk = file.attach(&reactor);
        let id = || Uuid::random(&*world.rng);
        let options = FormatOptions::new(id(), id(), id());
        let superblock = cfs_device::format(&*disk, &options, &mut |_, _| {}).await;
        let superblock = superblock.map_err(|e| Failure::new("formatting", e))?;
        let pool = Pool::alone(disk.clone(), superblock).expect("few regions");
        let (promise, door) = io();
        let served =
            serve_core(world.clone(), Devices::fixed(pool), config(memory), RootOwner::default(), move |door| {
                promise.complete(door)
            });
        let (ended, end): (_, Io<Result<(), Failure>>) = io();
        let serving = async move { ended.complete(served.await.map_err(|e| Failure::new("serving", e))) };
        spawn(&world.tasks, Class::Foreground, serving).detach();
        let client = Client::inside(&world, door.await).await?;
        let done = work(client, disk).await;
        let stop = Envelope::Outside(CoreRequest::Stop, Box::new(|_: CoreReply| ()));
        let _sent = remote.send(CoreId::new(0), Box::new(stop));
        end.await.and(done)
    });
    let thread = thread.map_err(|e| failed("starting a core")(&e))?;
    thread.join().map_err(|e| failed("the core")(&e))?
}

fn config(memory: MemoryLimits) -> ServerConfig {
    ServerConfig {
        cores: 1,
        cluster: [7; 16],
        incarnation: 1,
        listen: vec![Vec::new()],
        advertised: vec![String::new()],
        admission: Admission { secret: Secret::new(&[7; 32]).expect("long enough"), unix_uid: None },
        lease_term: Duration::from_secs(2),
        session_life: Duration::from_secs(600),
        deadline: Duration::from_secs(30),
        discard: true,
        memory,
        map_epoch: MapEpoch::new(1),
        scrub: None,
        notices: Notices::none(),
    }
}
