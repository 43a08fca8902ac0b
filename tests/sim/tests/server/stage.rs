//! A server and its clients, each on simulated machines.
//!
//! The server's device outlives it; it runs on one of several machines of one to three cores that
//! reach the same device, so that it can come back with another number of cores.

use cfs_device::{FormatOptions, Member, Pool, PoolError, Uuid, open_zones};
use cfs_observe::CoreStatus;
use cfs_rpc::Admission;
use cfs_seam::{Address, Disk, World, Zones};
use cfs_server::{
    Attach, CoreReply, CoreRequest, Devices, Envelope, MemoryLimits, NewDevice, NotAdded, Notices, Report, Retiring,
    RootOwner, ScrubConfig, ServerConfig, fsck, serve_core,
};
use cfs_sim::{Crash, DiskFaults, MemoryDisk, NodeId, Sim, SimConfig, SimDiskId, Stream};
use cfs_types::{CoreId, MapEpoch};
use cfs_volume::{Volume, VolumeOptions};
use cfs_wire::Secret;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Machines that reach the device have one core, two cores, up to this.
const CORES_MAX: u16 = 3;
/// Longest a start, a stop or a whole history may take, virtual time.
pub const LIMIT: Duration = Duration::from_secs(600);
/// How long a silent session lives.
pub const SESSION_LIFE: Duration = Duration::from_secs(30);
const PORT: u16 = 7400;
/// A crash waits for more unflushed sectors than one of these: for anything, or for a batch that can be torn
/// at many places. Most batches are a block whose records fill one sector.
const BUSY_SECTORS: [usize; 2] = [0, 24];
/// Longest it waits for them.
const BUSY_TIME_MAX: Duration = Duration::from_millis(200);
/// Decisions from there to the crash, at most.
const BUSY_STEPS_MAX: u64 = 4;

/// How the server is set up.
#[derive(Clone, Copy)]
pub struct Setup {
    /// Memory of each core.
    pub memory: MemoryLimits,
    /// Bytes of a log slot: also bounds the longest log record.
    pub log_slot_bytes: u64,
    /// Bytes of the log area.
    pub log_bytes: u64,
    /// Bytes of the device.
    pub device_bytes: u64,
    /// Most cores a server is started with.
    pub cores_max: u16,
    /// How long a silent client's leases last.
    pub lease_term: Duration,
    /// The zones of the device, where it is made of some; then `device_bytes` and `log_bytes` say nothing.
    pub zones: Option<Zones>,
    /// What the device does wrong.
    pub faults: DiskFaults,
    /// How everything that is stored is read and verified.
    pub scrub: Option<ScrubConfig>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            memory: MemoryLimits::default(),
            log_slot_bytes: 1 << 20,
            log_bytes: 64 << 20,
            device_bytes: 512 << 20,
            cores_max: CORES_MAX,
            lease_term: Duration::from_secs(20),
            zones: None,
            faults: DiskFaults::default(),
            scrub: None,
        }
    }
}

impl Setup {
    /// Memory so small that checkpoints, packing and compaction go on all the time.
    pub fn tight() -> Self {
        Setup {
            memory: MemoryLimits {
                memtables: 64 << 10,
                block_cache: 64 << 10,
                inline_cache: 16 << 10,
                ..MemoryLimits::default()
            },
            ..Setup::default()
        }
    }

    /// A log so small that it is reclaimed all the time.
    pub fn short_log() -> Self {
        Setup { log_slot_bytes: 256 << 10, log_bytes: 8 << 20, ..Setup::tight() }
    }

    /// A device of zones of so many regions, of which few may be written at a time.
    pub fn zoned(regions: u64, zones: u32) -> Self {
        let capacity_bytes = ((regions * 64) << 20) + (1 << 20);
        let zones = Zones { count: zones, stride_bytes: 2 * capacity_bytes, capacity_bytes, active_max: Some(13) };
        Setup { zones: Some(zones), ..Setup::tight() }
    }

    /// A device of three regions, too few to be divided.
    pub fn small_device() -> Self {
        Setup { device_bytes: 256 << 20, log_bytes: 32 << 20, cores_max: 1, ..Setup::tight() }
    }
}

fn secret() -> Secret {
    Secret::new(b"a secret for the simulator").expect("long enough")
}

/// A formatted device.
pub fn formatted(setup: &Setup) -> MemoryDisk {
    let disk = match setup.zones {
        Some(zones) => MemoryDisk::with_zones(zones, DiskFaults::default(), 1),
        None => MemoryDisk::new(setup.device_bytes, DiskFaults::default(), 1),
    };
    let mut options = FormatOptions::new(Uuid::new([1; 16]), Uuid::new([2; 16]), Uuid::new([3; 16]));
    options.log_slot_bytes = Some(setup.log_slot_bytes);
    options.log_bytes = Some(setup.log_bytes);
    let work = disk.clone();
    cfs_sim::run(1, |world| async move {
        let work = open_zones(Rc::new(work), &world.tasks, 0).await.expect("zones of use");
        cfs_device::format(&*work, &options, &mut |_, _| {}).await.expect("a sound device");
    });
    disk.set_faults(setup.faults);
    disk
}

/// The devices of the server, of those that its machine reaches.
async fn assemble(world: &World, core: u16, first: Rc<dyn Disk>, others: Vec<Rc<dyn Disk>>) -> Result<Pool, PoolError> {
    let first = open_zones(first, &world.tasks, core).await?;
    let superblock = cfs_device::open(&*first).await?;
    let mut found = Vec::new();
    for other in others {
        // One that never became a member is of no concern.
        if let Ok(superblock) = cfs_device::open(&*other).await {
            found.push((superblock, other));
        }
    }
    Pool::assemble(first, superblock, found).await
}

/// What becomes of a device that is being added.
pub type Adding = Arc<Mutex<Option<Result<Member, NotAdded>>>>;

/// What becomes of a device that is to retire.
pub type Retirement = Arc<Mutex<Option<Result<Retiring, String>>>>;

/// A core's number, and how its service ended.
type Ended = (u16, Result<(), String>);

type Disks = Rc<dyn Fn(Rc<dyn Disk>) -> Rc<dyn Disk>>;

/// One server with its device, and the machines of its clients.
pub struct Stage {
    pub sim: Rc<Sim>,
    pub setup: Setup,
    pub disk: SimDiskId,
    /// Further devices that the machines reach.
    pub others: RefCell<Vec<SimDiskId>>,
    /// Machines of one core, two cores, …
    machines: Vec<NodeId>,
    running: Cell<Option<u16>>,
    starts: Cell<u64>,
    /// How each core's service ended.
    pub ended: Rc<RefCell<Vec<Ended>>>,
    wrap: Disks,
    /// What the cores had to say.
    pub said: Arc<Mutex<Vec<String>>>,
    /// Numbers of devices that have left.
    pub left: Rc<RefCell<Vec<u16>>>,
}

impl Stage {
    /// Nothing runs yet.
    pub fn new(seed: u64, setup: Setup, device: &MemoryDisk) -> Self {
        let sim = Rc::new(Sim::new(seed, SimConfig::default()));
        let machines = (1..=CORES_MAX).map(|cores| sim.node(cores)).collect();
        Stage {
            disk: sim.copy_disk(device),
            others: RefCell::default(),
            sim,
            setup,
            machines,
            running: Cell::new(None),
            starts: Cell::new(0),
            ended: Rc::default(),
            wrap: Rc::new(|disk| disk),
            said: Arc::default(),
            left: Rc::default(),
        }
    }

    /// The same, but the server reaches its device through what `wrap` makes of it.
    pub fn with_disks(self, wrap: impl Fn(Rc<dyn Disk>) -> Rc<dyn Disk> + 'static) -> Self {
        Stage { wrap: Rc::new(wrap), ..self }
    }

    /// The machine with so many cores.
    pub fn machine(&self, cores: u16) -> NodeId {
        self.machines[usize::from(cores - 1)]
    }

    fn config(&self, cores: u16) -> ServerConfig {
        let machine = self.machine(cores);
        let addresses: Vec<Address> = (0..cores).map(|core| self.sim.address(machine, PORT + core)).collect();
        ServerConfig {
            cores,
            cluster: [1; 16],
            incarnation: self.starts.get(),
            listen: addresses.iter().map(|a| vec![a.clone()]).collect(),
            advertised: addresses.iter().map(ToString::to_string).collect(),
            admission: Admission { secret: secret(), unix_uid: None },
            lease_term: self.setup.lease_term,
            session_life: SESSION_LIFE,
            deadline: Duration::from_secs(30),
            discard: false,
            memory: self.setup.memory,
            map_epoch: MapEpoch::new(u32::try_from(self.starts.get()).expect("few starts")),
            scrub: self.setup.scrub,
            notices: self.notices(),
        }
    }

    fn notices(&self) -> Notices {
        let said = self.said.clone();
        Notices::new(move |line| said.lock().expect("not poisoned").push(line))
    }

    /// A line for whoever looks at one history: with CFS_SIM_VERBOSE.
    pub fn say(&self, what: &str) {
        if std::env::var_os("CFS_SIM_VERBOSE").is_some() {
            eprintln!("{:?} {what}", self.sim.now());
        }
    }

    /// Begins to start the server with so many cores.
    pub fn launch(&self, cores: u16) -> Rc<Cell<bool>> {
        assert!(self.running.get().is_none(), "it runs already");
        self.starts.set(self.starts.get() + 1);
        self.running.set(Some(cores));
        let (machine, config, ready) = (self.machine(cores), self.config(cores), Rc::new(Cell::new(false)));
        for core in 0..cores {
            let disk = (self.wrap)(self.sim.open_disk(machine, self.disk));
            let others = self.others.borrow();
            let others = others.iter().map(|other| (self.wrap)(self.sim.open_disk(machine, *other))).collect();
            let (config, ready, ended) = (config.clone(), ready.clone(), self.ended.clone());
            let (attach, left) = (self.attach(machine), self.left.clone());
            self.sim.start_core(machine, core, |world| async move {
                let result = match assemble(&world, core, disk, others).await {
                    Ok(pool) => {
                        let ready = move |_| ready.set(true);
                        let gone = Rc::new(move |number| left.borrow_mut().push(number));
                        let devices = Devices { pool, attach, gone };
                        let served = serve_core(world, devices, config, RootOwner::default(), ready);
                        served.await.map_err(|error| error.to_string())
                    }
                    Err(error) => Err(format!("opening the device: {error}")),
                };
                ended.borrow_mut().push((core, result));
            });
        }
        ready
    }

    /// How the cores of a machine get at a device that they are told of.
    fn attach(&self, machine: NodeId) -> Attach {
        let (sim, wrap) = (Rc::downgrade(&self.sim), self.wrap.clone());
        Rc::new(move |device| {
            let (sim, device) = (sim.upgrade()?, device.downcast_ref::<SimDiskId>()?);
            Some(wrap(sim.open_disk(machine, *device)))
        })
    }

    /// Begins to add a device to those of the server, which then has to be told to [`Stage::others`] at a start.
    pub fn begin_add(&self, disk: SimDiskId, force: bool) -> Adding {
        let cores = self.running.get().expect("it runs");
        let world = self.sim.world(self.machine(cores), 0).expect("it runs");
        let added = Arc::new(Mutex::new(None));
        let keep = added.clone();
        let reply = move |reply| {
            if let CoreReply::Added(result) = reply {
                *keep.lock().expect("not poisoned") = Some(result.map(|member| *member));
            }
        };
        let new = NewDevice { device: Arc::new(disk), seen_at: b"/dev/other".to_vec(), force };
        let add = Envelope::Outside(CoreRequest::AddDevice(Box::new(new)), Box::new(reply));
        assert!(world.mesh.send(CoreId::new(0), Box::new(add)).is_ok());
        added
    }

    /// Begins to empty a device, which then leaves.
    pub fn begin_retire(&self, which: &str) -> Retirement {
        let cores = self.running.get().expect("it runs");
        let world = self.sim.world(self.machine(cores), 0).expect("it runs");
        let answer = Retirement::default();
        let keep = answer.clone();
        let reply = move |reply| {
            if let CoreReply::Retiring(result) = reply {
                *keep.lock().expect("not poisoned") = Some(result.map(|retiring| *retiring));
            }
        };
        let ask = Envelope::Outside(CoreRequest::RetireDevice(which.into()), Box::new(reply));
        assert!(world.mesh.send(CoreId::new(0), Box::new(ask)).is_ok());
        answer
    }

    /// The same, until that is answered.
    pub fn retire(&self, which: &str) -> Result<Retiring, String> {
        let answer = self.begin_retire(which);
        assert!(self.sim.run_until(LIMIT, || answer.lock().expect("not poisoned").is_some()), "no answer");
        answer.lock().expect("not poisoned").take().expect("it is there")
    }

    /// Starts the server and waits until it serves.
    pub fn start(&self, cores: u16) {
        let ready = self.launch(cores);
        let failed = || self.ended.borrow().iter().any(|(_, result)| result.is_err());
        self.sim.run_until(LIMIT, || ready.get() || failed());
        assert!(ready.get(), "the server does not start: {:?}", self.ended.borrow());
    }

    /// The offline check of the store. The server must be down.
    pub fn check(&self) -> Report {
        assert!(self.running.get().is_none(), "it runs");
        let device = self.sim.media(self.disk);
        let others: Vec<Rc<dyn Disk>> =
            self.others.borrow().iter().map(|disk| Rc::new(self.sim.media(*disk)) as Rc<dyn Disk>).collect();
        let checked = cfs_sim::run(1, |world| async move {
            let mut members = Vec::new();
            for other in others {
                // One that never became a member is of no concern.
                if cfs_device::newest(&*other).await.is_ok_and(|found| !found.left) {
                    members.push(other);
                }
            }
            let device = open_zones(Rc::new(device), &world.tasks, 0).await.expect("zones of use");
            fsck(&world, device, members, |_| ()).await
        });
        checked.expect("a store")
    }

    /// What every core says of itself; nothing of a core whose service has ended.
    pub fn status(&self) -> Vec<CoreStatus> {
        let cores = self.running.get().expect("it runs");
        let answers = Arc::new(Mutex::new(Vec::new()));
        for core in 0..cores {
            let answers = answers.clone();
            let keep = move |reply| {
                if let CoreReply::Status(status) = reply {
                    answers.lock().expect("not poisoned").push(*status);
                }
            };
            let world = self.sim.world(self.machine(cores), core).expect("it runs");
            let ask = Envelope::Outside(CoreRequest::Status, Box::new(keep));
            assert!(world.mesh.send(CoreId::new(core), Box::new(ask)).is_ok());
        }
        let all = || answers.lock().expect("not poisoned").len() + self.ended.borrow().len() >= usize::from(cores);
        assert!(self.sim.run_until(LIMIT, all), "no status");
        let mut answers = answers.lock().expect("not poisoned");
        std::mem::take(&mut *answers)
    }

    /// The device as it is now.
    pub fn device(&self) -> MemoryDisk {
        self.sim.media(self.disk)
    }

    /// Tells the server to stop.
    pub fn tell_to_stop(&self) {
        let cores = self.running.get().expect("it runs");
        let world = self.sim.world(self.machine(cores), 0).expect("it runs");
        let stop = Envelope::Outside(CoreRequest::Stop, Box::new(|_: CoreReply| ()));
        assert!(world.mesh.send(CoreId::new(0), Box::new(stop)).is_ok());
    }

    /// Waits until every core's service has ended; false where one goes on for longer than `limit`.
    pub fn await_end(&self, limit: Duration) -> bool {
        let (cores, ended) = (self.running.get().expect("it runs"), self.ended.clone());
        self.sim.run_until(limit, || ended.borrow().len() == usize::from(cores))
    }

    /// Stops the server cleanly.
    pub fn stop(&self) {
        self.tell_to_stop();
        assert!(self.await_end(LIMIT), "the server does not stop: {:?}", self.ended.borrow());
        for (core, result) in self.ended.take() {
            assert_eq!(result, Ok(()), "core {core}");
        }
        self.crash(Crash::Process);
    }

    /// Takes the server down wherever it is.
    pub fn crash(&self, how: Crash) {
        let cores = self.running.take().expect("it runs");
        self.sim.crash(self.machine(cores), how);
        self.ended.take();
    }

    /// Takes the server down, most times in the middle of what it writes: the device is idle for most of the
    /// time, and a power cut that finds it idle tears nothing.
    pub fn crash_by_chance(&self, chance: &Stream) {
        if chance.below(4) > 0 {
            let sectors = BUSY_SECTORS[chance.index(BUSY_SECTORS.len())];
            self.sim.run_until(BUSY_TIME_MAX, || self.device().unflushed_sectors() > sectors);
            self.sim.run_steps(chance.below(BUSY_STEPS_MAX));
        }
        self.crash(if chance.below(3) == 0 { Crash::Process } else { Crash::Power });
    }

    /// A figure of a core, by its name among the numbers of its status.
    pub fn number(&self, core: u16, name: &str) -> u64 {
        let status = self.status();
        let mut numbers = status.iter().filter(|status| status.core == core).flat_map(|status| &status.numbers);
        numbers.find(|number| number.name == name).unwrap_or_else(|| panic!("no {name}")).value
    }

    /// Options of a client.
    pub fn options(&self) -> VolumeOptions {
        let addresses = (1..=CORES_MAX).map(|cores| self.sim.address(self.machine(cores), PORT)).collect();
        VolumeOptions::new(addresses, Some(secret()))
    }

    /// Runs a client on a machine of its own until it ends.
    pub fn client<T, F>(&self, work: impl FnOnce(World, Rc<Volume>) -> F + 'static) -> T
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let done = self.begin_client(self.options(), work);
        let over = self.sim.run_until(LIMIT, || done.borrow().is_some());
        assert!(over, "the client does not end; server: {:?}", self.ended.borrow());
        done.take().expect("it has ended")
    }

    /// The machines that the server may run on.
    pub fn machines(&self) -> &[NodeId] {
        &self.machines
    }

    /// Begins a client on a machine of its own.
    pub fn begin_client<T, F>(
        &self,
        options: VolumeOptions,
        work: impl FnOnce(World, Rc<Volume>) -> F + 'static,
    ) -> Rc<RefCell<Option<T>>>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        self.begin_client_on(self.sim.node(1), options, work)
    }

    /// Cuts a client's machine off from every machine of the server.
    pub fn cut_off(&self, client: NodeId) {
        self.machines.iter().for_each(|machine| self.sim.partition(client, *machine));
    }

    /// Begins a client on a machine where nothing runs.
    pub fn begin_client_on<T, F>(
        &self,
        node: NodeId,
        options: VolumeOptions,
        work: impl FnOnce(World, Rc<Volume>) -> F + 'static,
    ) -> Rc<RefCell<Option<T>>>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let done = Rc::new(RefCell::new(None));
        let result = done.clone();
        self.sim.start_core(node, 0, |world| async move {
            let volume = loop {
                match Volume::connect(world.clone(), options.clone()).await {
                    Ok(volume) => break volume,
                    Err(_) => cfs_seam::sleep(&world.clock, Duration::from_millis(10)).await,
                }
            };
            let value = work(world, volume).await;
            *result.borrow_mut() = Some(value);
        });
        done
    }
}
