//! The simulator: one thread, virtual time, seeded faults.
//!
//! The second implementation of `cfs_seam`, beside `engine/runtime`. A [`Sim`] holds nodes of
//! cores, each core an executor of its own, devices that outlive crashes, and a network. Every
//! decision comes from one seed, split in independent streams for schedule, disks, network,
//! workload and each core: one seed is one history, and [`Sim::trace`] proves it.
//!
//! For unit tests of one core: [`run`] or [`kill`] a future, with a [`disk`] that can
//! [`MemoryDisk::crash`].
//!
//! Invariants: no real time, thread, socket or file; iteration only over ordered collections;
//! everything bounded by what the workload keeps in flight.

mod disk;
mod faults;
mod immediate;
mod media;
mod mesh;
mod net;
mod rng;
mod sim;
mod timeline;
mod zones;

pub use disk::{MemoryDisk, disk};
pub use faults::{DiskFaults, Injected};
pub use immediate::{SkipsZeros, at_once, now};
pub use media::SECTOR_BYTES;
pub use net::NetConfig;
pub use rng::Stream;
pub use sim::{Crash, NodeId, Sim, SimConfig, SimDiskId};

use cfs_seam::World;
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// Virtual time after which [`run`] gives up.
const RUN_LIMIT: Duration = Duration::from_secs(3600);

/// Runs one future on a machine of one core until it ends, and returns its result; the tasks it
/// leaves behind are dropped. Panics where it can never end, with the seed.
pub fn run<T, F>(seed: u64, main: impl FnOnce(World) -> F) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let (sim, result) = start(seed, main);
    let ended = sim.run_until(RUN_LIMIT, || result.borrow().is_some());
    assert!(ended, "the future never ends (seed {seed})");
    drop(sim);
    result.take().expect("it has ended")
}

/// Like [`run`], but drops everything after `steps` decisions, wherever it waits: None then. With
/// [`MemoryDisk::crash`] it cuts the power at any point; 10,000 steps are a lot.
pub fn kill<T, F>(seed: u64, steps: u64, main: impl FnOnce(World) -> F) -> Option<T>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let (sim, result) = start(seed, main);
    for _ in 0..steps {
        if result.borrow().is_some() || !sim.step() {
            break;
        }
    }
    drop(sim);
    result.take()
}

type Outcome<T> = Rc<RefCell<Option<T>>>;

fn start<T, F>(seed: u64, main: impl FnOnce(World) -> F) -> (Sim, Outcome<T>)
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let sim = Sim::new(seed, SimConfig::default());
    let result = Outcome::default();
    let out = result.clone();
    sim.start_core(sim.node(1), 0, |world| {
        let work = main(world);
        async move {
            let value = work.await;
            *out.borrow_mut() = Some(value);
        }
    });
    (sim, result)
}
