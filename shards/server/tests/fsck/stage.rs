//! A server on one simulated device, its clients, and the check of what it leaves.

use cfs_device::{FormatOptions, Pool, Uuid};
use cfs_rpc::Admission;
use cfs_seam::{Address, Disk, World};
use cfs_server::{
    CoreReply, CoreRequest, Devices, Envelope, FsckError, MemoryLimits, Notices, Report, RootOwner, ServerConfig, fsck,
    serve_core,
};
use cfs_sim::{Crash, MemoryDisk, NodeId, Sim, SimConfig, SimDiskId, disk};
use cfs_types::{CoreId, MapEpoch};
use cfs_volume::{Patience, Volume, VolumeError, VolumeOptions};
use cfs_wire::Secret;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// Longest a start, a stop or a client may take, virtual time.
const LIMIT: Duration = Duration::from_secs(600);
const DEVICE_BYTES: u64 = 320 << 20;
const PORT: u16 = 7400;

fn secret() -> Secret {
    Secret::new(b"a secret for the simulator").expect("long enough")
}

/// A formatted device.
pub fn formatted() -> MemoryDisk {
    let device = disk(DEVICE_BYTES);
    let mut options = FormatOptions::new(Uuid::new([1; 16]), Uuid::new([2; 16]), Uuid::new([3; 16]));
    options.log_slot_bytes = Some(1 << 20);
    options.log_bytes = Some(32 << 20);
    let work = device.clone();
    cfs_sim::run(1, |_| async move {
        cfs_device::format(&work, &options, &mut |_, _| {}).await.expect("a sound device");
    });
    device
}

/// Checks a device.
pub fn check(device: &MemoryDisk) -> Result<Report, FsckError> {
    check_through(Rc::new(device.clone()))
}

/// Checks a device that is read through `disk`.
pub fn check_through(disk: Rc<dyn Disk>) -> Result<Report, FsckError> {
    cfs_sim::run(1, |world| async move { fsck(&world, disk, Vec::new(), |_| ()).await })
}

/// What a client gave, once it has ended.
pub type Ended<T> = Rc<RefCell<Option<Result<T, VolumeError>>>>;

/// One server with its device.
pub struct Stage {
    sim: Sim,
    cores: u16,
    disk: SimDiskId,
    machine: NodeId,
    clients: RefCell<Vec<NodeId>>,
    ended: Rc<RefCell<Vec<Result<(), String>>>>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.close();
    }
}

impl Stage {
    /// A machine with a copy of the device; nothing runs yet.
    pub fn new(seed: u64, cores: u16, device: &MemoryDisk) -> Self {
        let sim = Sim::new(seed, SimConfig::default());
        let machine = sim.node(cores);
        let disk = sim.copy_disk(device);
        Stage { sim, cores, disk, machine, clients: RefCell::default(), ended: Rc::default() }
    }

    /// The device as it is now.
    pub fn device(&self) -> MemoryDisk {
        self.sim.media(self.disk)
    }

    fn config(&self) -> ServerConfig {
        let addresses: Vec<Address> = (0..self.cores).map(|core| self.sim.address(self.machine, PORT + core)).collect();
        ServerConfig {
            cores: self.cores,
            cluster: [1; 16],
            incarnation: 1,
            listen: addresses.iter().map(|a| vec![a.clone()]).collect(),
            advertised: addresses.iter().map(ToString::to_string).collect(),
            admission: Admission { secret: secret(), unix_uid: None },
            lease_term: Duration::from_secs(2),
            session_life: Duration::from_secs(600),
            deadline: Duration::from_secs(30),
            discard: false,
            memory: MemoryLimits {
                memtables: 16 << 10,
                block_cache: 64 << 10,
                inline_cache: 16 << 10,
                ..MemoryLimits::default()
            },
            map_epoch: MapEpoch::new(1),
            scrub: None,
            notices: Notices::none(),
        }
    }

    /// Starts the server and waits until it serves, or says why not.
    pub fn start(&self) -> Result<(), String> {
        let (config, ready) = (self.config(), Rc::new(Cell::new(false)));
        for core in 0..self.cores {
            let disk = self.sim.open_disk(self.machine, self.disk);
            let (config, ready, ended) = (config.clone(), ready.clone(), self.ended.clone());
            self.sim.start_core(self.machine, core, |world| async move {
                let result = match cfs_device::open(&*disk).await {
                    Ok(superblock) => {
                        let told = move |_| ready.set(true);
                        let pool = Pool::alone(disk, superblock).expect("few regions");
                        serve_core(world, Devices::fixed(pool), config, RootOwner::default(), told)
                            .await
                            .map_err(|e| e.to_string())
                    }
                    Err(error) => Err(error.to_string()),
                };
                ended.borrow_mut().push(result);
            });
        }
        let over = || ready.get() || self.ended.borrow().iter().any(Result::is_err);
        assert!(self.sim.run_until(LIMIT, over), "the start never ends");
        match self.ended.borrow().iter().find_map(|r| r.clone().err()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Stops the server cleanly.
    pub fn stop(&self) {
        let world = self.sim.world(self.machine, 0).expect("it runs");
        let stop = Envelope::Outside(CoreRequest::Stop, Box::new(|_: CoreReply| ()));
        assert!(world.mesh.send(CoreId::new(0), Box::new(stop)).is_ok());
        let over = self.sim.run_until(LIMIT, || self.ended.borrow().len() == usize::from(self.cores));
        assert!(over, "the server does not stop");
        assert!(self.ended.take().iter().all(Result::is_ok));
        self.sim.crash(self.machine, Crash::Process);
    }

    /// Cuts the power.
    pub fn crash(&self) {
        self.sim.crash(self.machine, Crash::Power);
        self.ended.take();
    }

    /// Ends everything: tasks and what they hold refer to each other.
    fn close(&self) {
        self.sim.crash(self.machine, Crash::Process);
        self.clients.take().into_iter().for_each(|client| self.sim.crash(client, Crash::Process));
    }

    /// Lets everybody work for a while.
    pub fn run_for(&self, span: Duration) {
        self.sim.run_for(span);
    }

    /// Begins a client on a machine of its own.
    pub fn begin<T, F>(&self, work: impl FnOnce(World, Rc<Volume>) -> F + 'static) -> Ended<T>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let mut options = VolumeOptions::new(vec![self.sim.address(self.machine, PORT)], Some(secret()));
        options.patience = Patience::Soft(Duration::from_secs(60));
        let done = Ended::default();
        let result = done.clone();
        let client = self.sim.node(1);
        self.clients.borrow_mut().push(client);
        self.sim.start_core(client, 0, |world| async move {
            let ended = match Volume::connect(world.clone(), options).await {
                Ok(volume) => Ok(work(world, volume).await),
                Err(error) => Err(error),
            };
            *result.borrow_mut() = Some(ended);
        });
        done
    }

    /// Runs a client until it ends.
    pub fn client<T, F>(&self, work: impl FnOnce(World, Rc<Volume>) -> F + 'static) -> Result<T, VolumeError>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let done = self.begin(work);
        assert!(self.sim.run_until(LIMIT, || done.borrow().is_some()), "the client never ends");
        done.take().expect("it has ended")
    }
}
