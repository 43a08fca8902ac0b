//! `cfs server`: the cores of one store, and the threads around them.

use crate::args::{CORES_MAX, ServerOptions, Serving};
use crate::mounting::Guest;
use crate::notices::{NoticeBoard, notices};
use crate::place::{Place, Target};
use crate::pool::{self, Purpose};
use crate::registry::{self, Entry, Registered};
use crate::stop_sign::StopSign;
use crate::store_watch::StoreWatch;
use crate::{Failure, device};
use cfs_api::{About, Api};
use cfs_device::Layout;
use cfs_rpc::Admission;
use cfs_runtime::{CoreConfig, CoreThread, DiskFile, LocalNet, ParkPolicy, Reactor, Remote, mesh, start_core};
use cfs_seam::{Address, Class, World, spawn};
use cfs_server::{
    CoreReply, CoreRequest, Devices, Envelope, MemoryLimits, Notices, RootOwner, ScrubConfig, ServerConfig, StartError,
    serve_core,
};
use cfs_types::{CoreId, MapEpoch};
use indicatif::{ProgressBar, ProgressStyle};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a core whose machine also runs the programs that use a mount looks for work before it
/// sleeps: as long as being woken takes.
const LOOK_BESIDE_PROGRAMS: Duration = Duration::from_micros(25);

/// Between two looks at cores that start.
const START_LOOK: Duration = Duration::from_millis(20);

/// A start that is done sooner says nothing of its recovery.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// How long a port may stay with a process that has ended.
const PORT_TIME: Duration = Duration::from_secs(2);

/// Said where a core runs without registered buffers, which it does as well, a little slower.
const NO_REGISTERED_BUFFERS: &str = "cfs: the limit of locked memory (ulimit -l) leaves no room for registered buffers: each read and write of the device pins its pages anew";

/// Whether this process is root's.
pub fn is_root() -> bool {
    user_id() == 0
}

/// The effective user id, from /proc.
pub fn user_id() -> u32 {
    ids("Uid:")
}

/// The effective group id, from /proc.
pub fn group_id() -> u32 {
    ids("Gid:")
}

fn ids(label: &str) -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(label)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|id| id.parse().ok()).unwrap_or(u32::MAX)
}

/// How the cores share the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// The cores have their CPUs to themselves.
    Alone,
    /// Core 0 serves a mount too, and programs that use it want the CPUs.
    WithMount,
}

/// A server that serves.
pub struct Server {
    threads: Vec<CoreThread<Result<(), StartError>>>,
    /// Reaches the cores from other threads.
    pub remote: Remote,
    /// Unix sockets of the cores, where paths allow them.
    pub addresses: Vec<Address>,
    /// Address of the HTTP API, with the port that the system chose where 0 was asked for.
    pub http: SocketAddr,
    /// Where its files lie.
    pub place: Place,
    /// Looks whether the store is whole and in its place.
    pub store: StoreWatch,
    /// What the cores have to say.
    pub notices: NoticeBoard,
    _registered: Registered,
}

impl Server {
    /// Stops every core and waits; what is acknowledged is durable in any case.
    pub fn stop(self) -> Result<(), Failure> {
        let stop = Envelope::Outside(CoreRequest::Stop, Box::new(|_: CoreReply| ()));
        let _ended = self.remote.send(CoreId::new(0), Box::new(stop));
        let mut failed = Vec::new();
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push(error.to_string()),
                Err(error) => failed.push(error.to_string()),
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Failure::plain(failed.join("; "))) }
    }

    /// Whether a core has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(CoreThread::is_finished)
    }
}

/// A server, its HTTP API, which has its address and is still to be served, and the way to have core 0
/// do something beside its own work.
pub type Started = (Server, Api, oneshot::Sender<Guest>);

/// Opens the store and starts its cores; returns once they serve, or are asked to stop.
pub fn start(targets: &[PathBuf], options: &Serving, sharing: Sharing, stop: &StopSign) -> Result<Started, Failure> {
    check_listen(options)?;
    let recovery = Recovery::new(targets.first().map(PathBuf::as_path).unwrap_or(Path::new("")));
    let devices = pool::open(targets, Purpose::Serve, &|_, error| Failure::plain(error))?;
    let (target, superblock) = (&devices.first.target, devices.first.superblock);
    if options.no_fua {
        devices.all().for_each(|device| device.file.distrust_fua());
    }
    let place = &target.place(superblock.device);
    place.prepare()?;
    let api = cfs_api::bind(options.http, about(target, options)).map_err(Failure::plain)?;
    devices.all().for_each(|device| say_of(&device.file));
    let cpus = cfs_runtime::available_cpus();
    let cores = cores_for(options, &superblock.layout)?;
    check_ports(options, cores)?;
    let (say, notices) = notices();
    let config = server_config(place, options, cores, superblock.cluster.bytes(), say)?;
    let seats = mesh(cores).map_err(|e| Failure::new("starting the cores", e))?;
    let remote = seats[0].remote();
    let store = watch_over(&devices);
    let (ready, wait) = channel();
    let (mut threads, local) = (Vec::new(), LocalNet::default());
    let (guest, invitation) = oneshot::channel();
    let mut invitation = Some(invitation);
    for (index, seat) in seats.into_iter().enumerate() {
        let (devices, config, ready, watch) = (devices.clone(), config.clone(), ready.clone(), store.clone());
        let root = RootOwner { uid: user_id(), gid: group_id() };
        let number = seat.core().get();
        let mut core = CoreConfig::new(seat.core());
        core.local = Some(local.clone());
        // More cores than CPUs: the kernel places them.
        let has_cpu = usize::from(cores) <= cpus.len();
        core.pin_cpu = cpus.get(index).copied().filter(|_| has_cpu);
        let limit = match sharing {
            Sharing::Alone => Duration::from_micros(50),
            Sharing::WithMount => LOOK_BESIDE_PROGRAMS,
        };
        if has_cpu {
            core.park = ParkPolicy::Spin { limit };
        }
        let guests = invitation.take();
        let thread = start_core(core, seat, move |world, reactor| async move {
            let _guests = guests
                .map(|guests| spawn(&world.tasks, Class::Foreground, host(guests, world.clone(), reactor.clone())));
            if index == 0 && reactor.registered_buffer_bytes() == 0 {
                complain!("{NO_REGISTERED_BUFFERS}");
            }
            let pool = devices.attach(&world, &reactor, number).await;
            let pool = pool.map_err(|error| StartError(format!("opening the device: {error}")))?;
            // One that leaves is to be closed.
            drop(devices);
            let gone = Rc::new(move |number| watch.remove(number));
            let devices = Devices { pool, attach: device::attach(reactor), gone };
            serve_core(world, devices, config, root, move |_| {
                let _gone = ready.send(());
            })
            .await
        });
        threads.push(thread.map_err(|e| Failure::new("starting a core", e))?);
    }
    drop(ready);
    wait_ready(&wait, &mut threads, &remote, recovery, stop)?;
    let http = api.address().map_err(|e| Failure::new("listening for HTTP", e))?;
    let entry = Entry { http: http.to_string(), ..entry(place, options, &config, cores) };
    let addresses = config.listen.iter().filter_map(|a| a.first().cloned()).collect();
    let (place, registered) = (place.clone(), registry::register(&entry)?);
    Ok((Server { threads, remote, addresses, http, place, store, notices, _registered: registered }, api, guest))
}

/// Begins to watch all of them.
fn watch_over(devices: &pool::Devices) -> StoreWatch {
    let store = StoreWatch::new();
    for device in devices.all() {
        let superblock = device.superblock;
        store.add(device.file.clone(), (superblock.number(), superblock.device), superblock.layout.device_bytes);
    }
    store
}

/// What is to be known of a device that is served.
fn say_of(file: &DiskFile) {
    if !file.is_direct() {
        complain!("cfs: {} refuses direct I/O: serving through the page cache", file.path().display());
    }
    if file.is_sparse() {
        complain!("cfs: {} has holes: when its file system is full, the store fails", file.path().display());
    }
}

/// Waits for a guest of this core and serves it.
async fn host(guest: oneshot::Receiver<Guest>, world: World, reactor: Rc<Reactor>) {
    if let Ok(guest) = guest.await {
        guest(world, reactor).await;
    }
}

fn about(target: &Target, options: &Serving) -> About {
    About {
        version: env!("CARGO_PKG_VERSION").to_string(),
        pid: std::process::id(),
        target: target.path.display().to_string(),
        listen: options.listen.to_string(),
    }
}

/// Says that a start takes long, and on a terminal how long.
struct Recovery {
    what: String,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Recovery {
    fn new(target: &Path) -> Self {
        let what = format!("recovering {}: reading its log and tables", target.display());
        Recovery { what, began: Instant::now(), bar: None }
    }

    fn show(&mut self) {
        if self.bar.is_none() && self.began.elapsed() >= SAY_AFTER {
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
            let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            let bar = bar.with_message(self.what.clone()).with_elapsed(self.began.elapsed());
            if bar.is_hidden() {
                complain!("cfs: {}", self.what);
            }
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.tick();
        }
    }
}

impl Drop for Recovery {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waits until core 0 says that all serve; a core that ends before says why. A stop does not wait: what
/// recovers holds nothing that the next start would miss, and ends with the process.
fn wait_ready(
    wait: &std::sync::mpsc::Receiver<()>,
    threads: &mut Vec<CoreThread<Result<(), StartError>>>,
    remote: &Remote,
    mut recovery: Recovery,
    stop: &StopSign,
) -> Result<(), Failure> {
    loop {
        recovery.show();
        match wait.recv_timeout(START_LOOK) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if stop.is_asked() => return Err(Failure::stopped()),
            Err(RecvTimeoutError::Timeout) if !threads.iter().any(CoreThread::is_finished) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    for core in 0..remote.cores() {
        let stop = Envelope::Outside(CoreRequest::Stop, Box::new(|_: CoreReply| ()));
        let _ended = remote.send(CoreId::new(core), Box::new(stop));
    }
    let mut why = "a core ended before it served".to_string();
    for thread in threads.drain(..) {
        match thread.join() {
            Ok(Err(error)) => why = error.to_string(),
            Err(error) => why = error.to_string(),
            Ok(Ok(())) => {}
        }
    }
    Err(Failure::plain(why))
}

/// The cores to serve with: as many as are wanted, or as the CPUs and the log allow.
pub fn cores_for(options: &Serving, layout: &Layout) -> Result<u16, Failure> {
    let most = u16::try_from(layout.log_slots / cfs_log::SLOTS_PER_CORE_MIN).unwrap_or(u16::MAX);
    let most = if layout.zone_bytes > 0 { most.min(cfs_device::JOURNALS) } else { most };
    match options.cores {
        Some(cores) if cores > most => Err(Failure::plain(format!(
            "the log of a store of {} MiB has room for {most} cores, not for {cores}: --cores {most}, or a larger store",
            layout.device_bytes >> 20
        ))),
        Some(cores) => Ok(cores),
        None => {
            let cpus = u16::try_from(cfs_runtime::available_cpus().len()).unwrap_or(u16::MAX);
            Ok(cpus.clamp(1, most.min(CORES_MAX)))
        }
    }
}

/// Refuses addresses that cannot be meant.
fn check_listen(options: &Serving) -> Result<(), Failure> {
    if options.listen.port() == 0 {
        return Err(Failure::usage(
            "--listen needs a port: each core takes one, from there upwards, and mounts must know them",
        ));
    }
    let open = [options.listen, options.http].into_iter().find(|address| !address.ip().is_loopback());
    match open {
        Some(address) if !options.allow_plaintext => Err(Failure::plain(format!(
            "{address} is not loopback, and there is no TLS yet: what is said there would cross the network in the clear; pass --allow-plaintext if that is meant"
        ))),
        _ => Ok(()),
    }
}

/// The address of a core.
fn address_of(options: &Serving, core: u16) -> Result<SocketAddr, Failure> {
    let port = options.listen.port().checked_add(core);
    let port = port.ok_or_else(|| Failure::usage(format!("{} leaves no port for core {core}", options.listen)))?;
    Ok(SocketAddr::new(options.listen.ip(), port))
}

/// Looks at the addresses before anything is begun.
pub fn check_addresses(options: &Serving, cores: u16) -> Result<(), Failure> {
    check_listen(options)?;
    check_ports(options, cores)?;
    if options.http.port() != 0 && stays_taken(options.http)? {
        return Err(Failure::plain(cfs_api::ApiError::InUse(options.http)));
    }
    Ok(())
}

/// Says which port is taken and what to do, which a core that fails to listen cannot. Whoever takes
/// one after this look is met by the core.
fn check_ports(options: &Serving, cores: u16) -> Result<(), Failure> {
    for core in 0..cores {
        let address = address_of(options, core)?;
        if stays_taken(address)? {
            return Err(Failure::plain(format!(
                "{address} is in use, perhaps by another server: choose another address with --listen (each core takes one port, from there upwards)"
            )));
        }
    }
    Ok(())
}

/// Whether an address is taken, and not only by a process that has just ended: the kernel takes its ring apart,
/// which holds its sockets, after nobody waits for it any more.
fn stays_taken(address: SocketAddr) -> Result<bool, Failure> {
    let end = Instant::now() + PORT_TIME;
    while is_taken(address)? {
        if Instant::now() >= end {
            return Ok(true);
        }
        std::thread::sleep(START_LOOK);
    }
    Ok(false)
}

fn is_taken(address: SocketAddr) -> Result<bool, Failure> {
    match TcpListener::bind(address) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(true),
        Err(error) => Err(Failure::new(format!("listening on {address}"), error)),
        Ok(_) => Ok(false),
    }
}

fn server_config(
    place: &Place,
    options: &Serving,
    cores: u16,
    cluster: [u8; 16],
    notices: Notices,
) -> Result<ServerConfig, Failure> {
    let (mut listen, mut advertised) = (Vec::new(), Vec::new());
    for core in 0..cores {
        let tcp = Address::Tcp(address_of(options, core)?);
        let unix = place.socket(core).map(Address::Unix);
        let best = unix.clone().filter(|_| options.listen.ip().is_loopback()).unwrap_or_else(|| tcp.clone());
        advertised.push(best.to_string());
        listen.push(unix.into_iter().chain([tcp]).collect());
    }
    Ok(ServerConfig {
        cores,
        cluster,
        incarnation: incarnation(),
        listen,
        advertised,
        admission: Admission { secret: place.secret()?, unix_uid: Some(user_id()) },
        lease_term: Duration::from_secs(2),
        session_life: Duration::from_secs(600),
        deadline: Duration::from_secs(30),
        discard: true,
        memory: memory(options, cores)?,
        map_epoch: MapEpoch::new(1),
        scrub: Some(ScrubConfig {
            period: Some(options.scrub_period).filter(|period| !period.is_zero()),
            bytes_per_second: options.scrub_rate,
        }),
        notices,
    })
}

/// Each core's share of the memory that the options give.
fn memory(options: &Serving, cores: u16) -> Result<MemoryLimits, Failure> {
    let each = options.memory.map_or(MemoryLimits::CORE_BYTES, |bytes| bytes / u64::from(cores));
    if each < MemoryLimits::CORE_BYTES_MIN {
        let least = MemoryLimits::CORE_BYTES_MIN >> 20;
        return Err(Failure::usage(format!(
            "--memory leaves {} MiB for each of {cores} cores: at least {least} MiB are needed",
            each >> 20
        )));
    }
    Ok(MemoryLimits::of_core(each))
}

/// Differs from start to start: the wall clock, nanoseconds.
#[expect(clippy::disallowed_methods, reason = "names this start; nothing is timed with it")]
fn incarnation() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn entry(place: &Place, options: &Serving, config: &ServerConfig, cores: u16) -> Entry {
    let sockets = config.listen.iter().flatten().filter_map(|a| match a {
        Address::Unix(path) => Some(path.clone()),
        Address::Tcp(_) => None,
    });
    Entry {
        pid: std::process::id(),
        started: registry::start_time(std::process::id()).unwrap_or_default(),
        target: place.target.path.clone(),
        listen: options.listen.to_string(),
        sockets: sockets.collect(),
        http: options.http.to_string(),
        secret: place.secret_file(),
        cores,
    }
}

/// `cfs server`.
pub fn run(options: &ServerOptions) -> Result<(), Failure> {
    let stop = StopSign::catch()?;
    let (server, api, _no_guest) = start(&options.targets, &options.serving, Sharing::Alone, &stop)?;
    say!("serving {} with {} cores", server.place.target.path.display(), server.remote.cores());
    for words in server.store.device_words() {
        say!("  nvme  {words}");
    }
    say!("  rpc   {}", options.serving.listen);
    say!("  http  http://{}/metrics", server.http);
    say!("  mount cfs mount {} MOUNTPOINT", options.serving.listen);
    say!("ready");
    let managed = crate::management::manage(api, &server, &stop, || server.has_ended());
    server.stop().and(managed)
}
