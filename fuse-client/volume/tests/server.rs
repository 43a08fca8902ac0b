//! The volume against the real server, two cores, in the simulator.

use cfs_device::{FormatOptions, Pool, Uuid, format, open};
use cfs_rpc::{Admission, Connection, RpcError, connect_handshake};
use cfs_seam::{Address, World, sleep};
use cfs_server::{Devices, MemoryLimits, Notices, RootOwner, ServerConfig, serve_core};
use cfs_sim::{Crash, DiskFaults, NodeId, Sim, SimConfig};
use cfs_types::{FsError, InodeId, MapEpoch, Name, SessionId};
use cfs_volume::{Creation, Lookup, OpenFlags, Volume, VolumeOptions, WriteFlags};
use cfs_wire::frame::PROTOCOL_VERSION;
use cfs_wire::{Hello, Identity, Secret};
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn secret() -> Secret {
    Secret::new(b"the secret of the tests").expect("long enough")
}

async fn connect(world: &World, options: &VolumeOptions) -> Rc<Volume> {
    loop {
        // The server is still starting.
        if let Ok(volume) = Volume::connect(world.clone(), options.clone()).await {
            return volume;
        }
        sleep(&world.clock, Duration::from_millis(500)).await;
    }
}

async fn work(world: World, address: Address) {
    let options = VolumeOptions::new(vec![address], Some(secret()));
    let volume = connect(&world, &options).await;
    let who = Identity::default();
    let dir = volume.mkdir(&who, InodeId::ROOT, &name("dir"), 0o755).await.expect("made").attr.ino;
    let other = Volume::connect(world.clone(), options.clone()).await.expect("connected");
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags };
    for i in 0..20_u8 {
        let name = name(&format!("f{i}"));
        assert!(matches!(volume.lookup(&who, dir, &name).await, Ok(Lookup::Missing { .. })));
        let (_, handle) = volume.create(&who, dir, &name, &how).await.expect("made");
        // What was concluded is what the server says.
        let (known, _) = volume.getattr(dir).await.expect("answered");
        if i % 4 == 3 {
            assert_eq!(other.getattr(dir).await.expect("answered").0, known);
        }
        let data = vec![i; 10_000 * (usize::from(i) + 1)];
        assert_eq!(volume.write(handle, 0, &data, WriteFlags::default()).await, Ok(data.len()));
        volume.fsync(handle).await.expect("durable");
        let read = volume.read(handle, 0, 1 << 20).await.expect("read");
        assert!(*read == data[..], "file {i}: {} of {}", read.len(), data.len());
        volume.release(handle);
    }
    let listing = volume.readdir(&who, dir, 0, 100_000, true).await.expect("listed");
    assert_eq!(listing.entries.len(), 20);
    assert!(listing.entries.iter().all(|line| line.entry.is_some()));
    other.shutdown().await.expect("clean");
    across_ranges(&world, &volume, dir, options).await;
    volume.shutdown().await.expect("clean");
}

/// A file of two ranges, seen by a second client.
async fn across_ranges(world: &World, volume: &Volume, dir: InodeId, options: VolumeOptions) {
    let who = Identity::default();
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags };
    let (entry, handle) = volume.create(&who, dir, &name("big"), &how).await.expect("made");
    let data: Vec<u8> = (0..3_u32 << 20).map(|i| (i / 1000).to_le_bytes()[0]).collect();
    let at = (64 << 20) - (1 << 20) - 77;
    assert_eq!(volume.write(handle, at, &data, WriteFlags::default()).await, Ok(data.len()));
    volume.fsync(handle).await.expect("durable");
    let read = volume.read(handle, at, 3 << 20).await.expect("read");
    assert!(*read == data[..]);
    let other = Volume::connect(world.clone(), options.clone()).await.expect("connected");
    let Lookup::Found(seen) = other.lookup(&who, dir, &name("big")).await.expect("found") else { panic!("exists") };
    assert_eq!(seen.attr.ino, entry.attr.ino);
    assert_eq!(seen.attr.size, at + (3 << 20));
    volume.write(handle, 0, b"held back", WriteFlags::default()).await.expect("taken");
    let theirs = other.open(&who, seen.attr.ino, OpenFlags::default()).await.expect("open");
    assert_eq!(&*other.read(theirs, 0, 9).await.expect("read"), b"held back");
    let read = other.read(theirs, at, 3 << 20).await.expect("read");
    assert!(*read == data[..]);
    volume.unlink(&who, dir, &name("big")).await.expect("removed");
    assert!(matches!(other.lookup(&who, dir, &name("big")).await, Ok(Lookup::Missing { .. })));
    assert_eq!(&*other.read(theirs, 0, 9).await.expect("still open"), b"held back");
    other.release(theirs);
    other.shutdown().await.expect("clean");
}

/// Starts a server of two cores; its addresses.
fn start_server(sim: &Sim) -> Vec<Address> {
    let server = sim.node(2);
    let disk = sim.disk(2 << 30, DiskFaults::default());
    let addresses: Vec<Address> = (0..2).map(|i| sim.address(server, 7400 + i)).collect();
    let config = ServerConfig {
        cores: 2,
        cluster: [3; 16],
        incarnation: 1,
        listen: addresses.iter().map(|a| vec![a.clone()]).collect(),
        advertised: addresses.iter().map(ToString::to_string).collect(),
        admission: Admission { secret: secret(), unix_uid: None },
        lease_term: Duration::from_secs(2),
        session_life: Duration::from_secs(600),
        deadline: Duration::from_secs(30),
        discard: false,
        memory: MemoryLimits::default(),
        map_epoch: MapEpoch::new(1),
        scrub: None,
        notices: Notices::none(),
    };
    let formatted = Rc::new(Cell::new(false));
    for core in 0..2 {
        let (disk, config, formatted) = (sim.open_disk(server, disk), config.clone(), formatted.clone());
        sim.start_core(server, core, |world| async move {
            if core == 0 {
                let ids = [3, 4, 5].map(|byte| Uuid::new([byte; 16]));
                let options = FormatOptions::new(ids[0], ids[1], ids[2]);
                format(&*disk, &options, &mut |_, _| ()).await.expect("formatted");
                formatted.set(true);
            }
            while !formatted.get() {
                sleep(&world.clock, Duration::from_millis(1)).await;
            }
            let superblock = open(&*disk).await.expect("a store");
            let pool = Pool::alone(disk, superblock).expect("few regions");
            serve_core(world, Devices::fixed(pool), config, RootOwner::default(), |_| ()).await.expect("serves");
        });
    }
    addresses
}

/// Runs a client whose wall clock is off by `off_ns`.
fn run_client<F>(sim: &Sim, client: NodeId, off_ns: i64, work: impl FnOnce(World) -> F + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let done = Rc::new(Cell::new(false));
    let flag = done.clone();
    sim.start_core(client, 0, |world| async move {
        work(world).await;
        flag.set(true);
    });
    sim.step_wall(client, off_ns);
    assert!(sim.run_until(Duration::from_secs(3600), || done.get()), "the client never ends");
}

#[test]
fn files_and_directories_on_two_cores() {
    for seed in 0..3 {
        let sim = Sim::new(seed, SimConfig::default());
        let address = start_server(&sim)[1].clone();
        run_client(&sim, sim.node(1), 0, |world| work(world, address));
    }
}

async fn new_session(world: &World, address: &Address) -> Result<SessionId, RpcError> {
    let stream = world.net.connect(address).await?;
    let connection = Connection::new(world, stream);
    let (session, instance) = (SessionId::default(), 1);
    let hello = Hello { version: PROTOCOL_VERSION, nonce: [0; 32], session, instance, bulk: true };
    let welcome = connect_handshake(&connection, &world.clock, &*world.rng, Some(&secret()), hello).await;
    connection.close();
    welcome.map(|welcome| welcome.session)
}

#[test]
fn sessions_are_bounded_and_the_silent_make_room() {
    let sim = Sim::new(9, SimConfig::default());
    let address = start_server(&sim)[0].clone();
    run_client(&sim, sim.node(1), 0, |world| async move {
        let options = VolumeOptions::new(vec![address.clone()], Some(secret()));
        let alive = connect(&world, &options).await;
        for _ in 1..4096 {
            new_session(&world, &address).await.expect("room");
        }
        assert!(matches!(new_session(&world, &address).await, Err(RpcError::Refused(FsError::Busy))));
        sleep(&world.clock, Duration::from_secs(200)).await;
        new_session(&world, &address).await.expect("in place of a silent one");
        alive.mkdir(&Identity::default(), InodeId::ROOT, &name("dir"), 0o755).await.expect("still there");
    });
}

/// Whoever proves nothing takes nobody's place.
#[test]
fn silent_connections_keep_nobody_out() {
    let sim = Sim::new(8, SimConfig::default());
    let address = start_server(&sim)[0].clone();
    run_client(&sim, sim.node(1), 0, |world| async move {
        let options = VolumeOptions::new(vec![address.clone()], Some(secret()));
        connect(&world, &options).await.shutdown().await.expect("clean");
        let mut silent = Vec::new();
        for _ in 0..1100 {
            silent.push(world.net.connect(&address).await.expect("connected"));
        }
        let volume = Volume::connect(world.clone(), options).await.expect("let in");
        volume.shutdown().await.expect("clean");
        drop(silent);
    });
}

const HOUR_NS: i64 = 3_600_000_000_000;

/// The wall clock may have been set back since the predecessor ran.
#[test]
fn the_successor_of_a_crashed_mount_works_whatever_its_clock_says() {
    let sim = Sim::new(7, SimConfig::default());
    let options = VolumeOptions::new(vec![start_server(&sim)[0].clone()], Some(secret()));
    let client = sim.node(1);
    let crashed = Rc::new(Cell::new(None));
    for (nth, off_ns) in [0, 0, -HOUR_NS].into_iter().enumerate() {
        let options = VolumeOptions { predecessor: crashed.get(), ..options.clone() };
        let left = crashed.clone();
        run_client(&sim, client, off_ns, move |world| async move {
            let volume = connect(&world, &options).await;
            let begun = world.clock.now();
            let dir = name(&format!("dir{nth}"));
            volume.mkdir(&Identity::default(), InodeId::ROOT, &dir, 0o755).await.expect("made");
            let took = world.clock.now().since(begun);
            assert!(took < Duration::from_secs(1), "{took:?}: the predecessor's leases are gone");
            left.set(Some(volume.session()));
        });
        sim.crash(client, Crash::Process);
    }
}
