//! `cfs mount` and `cfs umount`: a client executor and its kernel mount.

use crate::args::{MountOptions, UmountOptions};
use crate::place::read_secret;
use crate::stop_sign::StopSign;
use crate::system::leave_output;
use crate::{Failure, registry};
use cfs_fuse::{Host, MountedAt, Negotiated, Session, Unmounted, VolumeFront, WhenInUse};
use cfs_rpc::RpcError;
use cfs_runtime::{CoreConfig, Reactor, run as run_core};
use cfs_seam::{Address, Class, NetError, World, spawn};
use cfs_types::{CoreId, SessionId};
use cfs_volume::{Volume, VolumeError, VolumeOptions};
use std::cell::RefCell;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long programs that use a mount have to leave it when it is stopped.
const LEAVE_TIME: Duration = Duration::from_secs(5);
/// Longest that a mount is waited for to deliver what it holds back before it is taken away, or before it is said that
/// one does not end because of it.
const DELIVERY_TIME: Duration = Duration::from_secs(5);
/// Longest wait for a port that has just refused us.
const PROBE_TIME: Duration = Duration::from_secs(1);
/// Between two looks at a mount that begins.
const START_LOOK: Duration = Duration::from_millis(20);

/// A mount served by this process.
pub struct Mount {
    ended: Receiver<Result<(), Failure>>,
    result: RefCell<Option<Result<(), Failure>>>,
    path: PathBuf,
    at: MountedAt,
    served: Receiver<Served>,
    cut: oneshot::Sender<()>,
    /// Its session.
    pub session: SessionId,
}

/// Nothing is ever sent: that nobody is left who could says it.
#[derive(PartialEq, Eq, Debug)]
enum Served {}

impl Mount {
    /// Unmounts, writes back what is held, and waits. Programs that still use it have a moment to
    /// leave; then they get errors.
    pub fn stop(self) -> Result<(), Failure> {
        let has_ended = self.has_ended();
        let Mount { ended, result, path, at, served, cut, .. } = self;
        let mut unmounted = Ok(Unmounted::Gone);
        if !has_ended {
            unmounted = at.unmount();
            // Also where nobody used it here, or it is not here any more: a container or a service that began
            // while it was mounted has it in a mount namespace of its own, and may not hear of this.
            let time = if unmounted.is_ok() { LEAVE_TIME } else { Duration::ZERO };
            if served.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                if unmounted.is_ok() {
                    let place = path.display();
                    complain!(
                        "cfs: {place} is still in use, perhaps in another mount namespace: whoever uses it gets errors now"
                    );
                }
                let _ended = cut.send(());
            }
        }
        let delivered = result.take().unwrap_or_else(|| delivered(&ended, &path));
        unmounted.map_err(Failure::plain).and(delivered)
    }

    /// Whether it was unmounted.
    pub fn has_ended(&self) -> bool {
        let mut result = self.result.borrow_mut();
        if result.is_none() {
            *result = match self.ended.try_recv() {
                Ok(ended) => Some(ended),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(lost()),
            };
        }
        result.is_some()
    }
}

/// Waits until all that a mount holds is written back, and says so where that takes long.
fn delivered(ended: &Receiver<Result<(), Failure>>, path: &Path) -> Result<(), Failure> {
    match ended.recv_timeout(DELIVERY_TIME) {
        Err(RecvTimeoutError::Timeout) => {
            complain!(
                "cfs: {} waits for its server, to write back what it holds; another signal gives that up",
                path.display()
            );
            ended.recv().unwrap_or_else(|_| lost())
        }
        Err(RecvTimeoutError::Disconnected) => lost(),
        Ok(ended) => ended,
    }
}

fn lost() -> Result<(), Failure> {
    Err(Failure::plain("what served the mount ended"))
}

/// Work that a core of the server does beside its own.
pub type Guest = Box<dyn FnOnce(World, Rc<Reactor>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Where the tasks of a mount run.
pub enum Seat {
    /// A thread of their own.
    Thread,
    /// A core of this process's server.
    Core(oneshot::Sender<Guest>),
}

/// Connects and mounts; returns once the kernel and we have agreed, and on what. A stop that comes before
/// ends it, unmounted.
pub fn start(
    seat: Seat,
    volume: VolumeOptions,
    mountpoint: &Path,
    mount: cfs_fuse::MountOptions,
    stop: &StopSign,
) -> Result<(Mount, Negotiated), Failure> {
    let (ready, wait) = channel();
    let (cut, end) = oneshot::channel();
    let (done, ended) = channel();
    let (serving, served) = channel();
    let place = Place { path: mountpoint.to_path_buf(), mount };
    let ties = Ties { ready, serving, end };
    match seat {
        Seat::Core(core) => {
            let guest: Guest = Box::new(move |world, reactor| {
                Box::pin(async move {
                    let _gone = done.send(serve(world, reactor, volume, place, ties).await);
                })
            });
            core.send(guest).map_err(|_| Failure::plain("the server's core ended before it could mount"))?;
        }
        Seat::Thread => {
            let main = move |world, reactor| serve(world, reactor, volume, place, ties);
            let body = move || {
                let ran = run_core(CoreConfig::new(CoreId::new(0)), main);
                let _gone = done.send(ran.map_err(Failure::plain).and_then(|served| served));
            };
            let thread = std::thread::Builder::new().name("cfs-mount".into()).spawn(body);
            thread.map_err(|e| Failure::new("starting the mount's thread", e))?;
        }
    }
    loop {
        match wait.recv_timeout(START_LOOK) {
            Ok(Begun { session, agreed, at }) => {
                let (result, path) = (RefCell::new(None), mountpoint.to_path_buf());
                return Ok((Mount { ended, result, path, at, served, cut, session }, agreed));
            }
            Err(RecvTimeoutError::Timeout) if !stop.is_asked() => {}
            Err(RecvTimeoutError::Timeout) => {
                let _ended = cut.send(());
                let _unmounted = ended.recv();
                return Err(Failure::stopped());
            }
            Err(RecvTimeoutError::Disconnected) => {
                let ended = ended.recv().unwrap_or_else(|_| lost());
                return Err(ended.err().unwrap_or_else(|| Failure::plain("the mount ended at once")));
            }
        }
    }
}

/// Where and how to mount.
struct Place {
    path: PathBuf,
    mount: cfs_fuse::MountOptions,
}

/// A mount that the kernel and we have agreed on.
struct Begun {
    session: SessionId,
    agreed: Negotiated,
    at: MountedAt,
}

/// How a mount hears from who started it, and the other way round.
struct Ties {
    ready: Sender<Begun>,
    /// Dropped when the kernel has let go of it, or it was cut off.
    serving: Sender<Served>,
    end: oneshot::Receiver<()>,
}

/// Serves a mount until it is unmounted or `end` comes.
async fn serve(
    world: World,
    reactor: Rc<Reactor>,
    options: VolumeOptions,
    place: Place,
    ties: Ties,
) -> Result<(), Failure> {
    let Ties { ready, serving, mut end } = ties;
    let connected = or_end(Volume::connect(world.clone(), options), &mut end).await;
    let volume = connected.ok_or_else(Failure::stopped)?.map_err(not_connected)?;
    let (device, mounted) = cfs_fuse::mount(&place.path, &place.mount).map_err(Failure::plain)?;
    let front = Rc::new(VolumeFront::new(volume.clone()));
    let session = Session::new(Host::new(&world, &reactor, false), device.clone(), front);
    let (begun, owner, at) = (session.clone(), volume.clone(), mounted.at().clone());
    let announce = async move {
        let agreed = begun.started().await;
        if let Ok(notifier) = cfs_fuse::Notifier::start(device, agreed) {
            owner.set_kernel_cache(Rc::new(notifier));
        }
        let _gone = ready.send(Begun { session: owner.session(), agreed, at });
    };
    let _announcing = spawn(&world.tasks, Class::Foreground, announce);
    let _telling = spawn(&world.tasks, Class::Foreground, tell_of_another_store(volume.clone(), place.path));
    let served = or_end(session.serve(), &mut end).await.unwrap_or(Ok(()));
    drop((mounted, serving));
    let left = volume.shutdown().await;
    served.map_err(Failure::plain)?;
    left.map_err(|e| Failure::new("ending the mount: writing back what it held, or leaving the server", e))
}

/// Says why everything fails now.
async fn tell_of_another_store(volume: Rc<Volume>, mountpoint: PathBuf) {
    volume.broken().await;
    let path = mountpoint.display();
    complain!(
        "cfs: the store behind {path} is another one, or an older copy of what this mount has used: everything on it \
         fails now (\"Stale file handle\"). Unmount it (cfs umount {path}) and mount it again"
    );
}

/// Says where nobody listens, and what to do then.
fn not_connected(error: VolumeError) -> Failure {
    match &error {
        VolumeError::Connect { address: Address::Tcp(address), error: RpcError::Net(NetError::Closed) }
            if TcpStream::connect_timeout(address, PROBE_TIME)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused) =>
        {
            Failure::plain(format!(
                "no server listens on {address}: start one there (cfs server DIR --listen {address}), or look for the \
                 address of one with `cfs status` on its machine"
            ))
        }
        _ => Failure::new("connecting", error),
    }
}

/// What comes first: the output, or None at the end.
async fn or_end<T>(work: impl Future<Output = T>, end: &mut oneshot::Receiver<()>) -> Option<T> {
    let cut = async move {
        if end.await.is_err() {
            // Nobody is left who could end it early.
            std::future::pending::<()>().await;
        }
    };
    let (mut work, mut cut) = (pin!(work), pin!(cut));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => cut.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// `cfs mount`.
pub fn run(options: &MountOptions) -> Result<(), Failure> {
    if !options.foreground {
        return detach();
    }
    let stop = StopSign::catch()?;
    let (volume, mount) = parse(options)?;
    let mountpoint = absolute(&options.mountpoint);
    let (thread, agreed) = start(Seat::Thread, volume, &mountpoint, mount, &stop)?;
    if options.show_capabilities {
        show(&agreed);
    }
    if options.detached {
        std::env::set_current_dir("/").map_err(|e| Failure::new("leaving the working directory", e))?;
    }
    say!("ready {}", options.mountpoint.display());
    if options.detached {
        leave_output(registry::mount_log(&mountpoint).ok().as_deref())
            .map_err(|e| Failure::new("leaving the terminal", e))?;
    }
    crate::management::wait_for_stop(&stop, || thread.has_ended())?;
    thread.stop()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// What the kernel offers, and what is in force.
fn show(agreed: &Negotiated) {
    say!("FUSE 7.{}, read-ahead {} KiB", agreed.minor, agreed.readahead_bytes >> 10);
    for name in agreed.offered.names() {
        say!("  {:8} {name}", if agreed.agreed.has(name) { "agreed" } else { "offered" });
    }
}

/// Starts ourselves again in the foreground, without a terminal, and waits until it is mounted.
fn detach() -> Result<(), Failure> {
    let failed = |e| Failure::new("starting the mount in the background", e);
    let own = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(own)
        .args(std::env::args_os().skip(1))
        .args(["--foreground", "--detached"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let output = child.stdout.take().ok_or_else(|| Failure::plain("the background mount has no output"))?;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        match line.strip_prefix("ready ") {
            Some(mountpoint) => {
                say!("mounted {mountpoint}");
                match registry::mount_log(&absolute(Path::new(mountpoint))) {
                    Ok(log) => say!("  log   {}", log.display()),
                    Err(failure) => complain!("cfs: what it has to say is lost: {failure}"),
                }
                return Ok(());
            }
            None => say!("{line}"),
        }
    }
    let status = child.wait().map_err(failed)?;
    Err(Failure::plain(format!("the mount did not start ({status})")))
}

/// Has a mount deliver what it holds back: it hears of its end only afterwards, when nobody waits for it any more.
/// One that cannot be asked (its process is dead, its root closed to us) is taken away as it is. False where it did
/// not answer in time: it waits for its server, and this thread for it.
fn deliver(mountpoint: &Path) -> Result<bool, Failure> {
    let (done, delivered) = channel();
    let place = mountpoint.to_path_buf();
    let work = move || {
        let synced = File::open(&place).map(|root| root.sync_all());
        let _nobody_waits = done.send(synced);
    };
    let thread = std::thread::Builder::new().name("cfs-deliver".into()).spawn(work);
    thread.map_err(|e| Failure::new("starting a thread", e))?;
    match delivered.recv_timeout(DELIVERY_TIME) {
        Ok(Ok(Err(error))) => complain!("cfs: not all that was written could be delivered: {error}"),
        Ok(Ok(Ok(())) | Err(_)) => {}
        Err(_) => return Ok(false),
    }
    Ok(true)
}

/// `cfs umount`.
pub fn unmount(options: &UmountOptions) -> Result<(), Failure> {
    let path = options.mountpoint.display();
    if !deliver(&options.mountpoint)? {
        if !options.lazy {
            return Err(Failure::plain(format!(
                "{path} holds written data back, and its server does not take it: it stays mounted. Bring the server back \
                 and try again, or detach it with --lazy: it delivers once the server is there, if its process lives so long"
            )));
        }
        complain!("cfs: {path} does not answer: what it holds back is delivered later, if it can be");
    }
    let when_in_use = if options.lazy { WhenInUse::Detach } else { WhenInUse::Refuse };
    let unmounted = cfs_fuse::unmount(&options.mountpoint, when_in_use).map_err(Failure::plain)?;
    if unmounted == Unmounted::Lazy {
        say!("{path} was in use: detached, it ends when its last user leaves it");
    }
    Ok(())
}

fn parse(options: &MountOptions) -> Result<(VolumeOptions, cfs_fuse::MountOptions), Failure> {
    let (addresses, secret) = find_server(options.address, options.secret.as_deref())?;
    let mut volume = VolumeOptions::new(addresses, secret);
    let mut mount = cfs_fuse::MountOptions::default();
    for option in &options.options {
        option.apply(&mut volume, &mut mount);
    }
    Ok((volume, mount))
}

type Found = (Vec<Address>, Option<cfs_wire::Secret>);

/// The addresses and secret of a server: told, or found for this user on this machine.
fn find_server(address: SocketAddr, secret: Option<&Path>) -> Result<Found, Failure> {
    let tcp = Address::Tcp(address);
    if let Some(path) = secret {
        return Ok((vec![tcp], Some(read_secret(path)?)));
    }
    let servers = registry::servers();
    let Some(server) = servers.iter().find(|server| server.listens_on(address)) else {
        let others: Vec<&str> = servers.iter().map(|server| server.listen.as_str()).collect();
        let others = if others.is_empty() { String::new() } else { format!(" (servers: {})", others.join(", ")) };
        return Err(Failure::plain(format!(
            "no server of this user listens on {address} here{others}: start one, or pass --secret FILE"
        )));
    };
    let sockets = server.sockets.iter().cloned().map(Address::Unix);
    Ok((sockets.take(1).chain([tcp]).collect(), Some(read_secret(&server.secret)?)))
}
