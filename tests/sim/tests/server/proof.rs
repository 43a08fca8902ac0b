//! The suite notices what it is there for: the same histories fail on a device that acknowledges
//! flushes without carrying them out, and where replies leave before the flush.

use crate::history::{Plan, run};
use crate::seeds::run_all;
use crate::stage::{Setup, Stage, formatted};
use cfs_seam::{Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime};
use cfs_sim::DiskFaults;
use std::cell::Cell;
use std::rc::Rc;

const PLAN: Plan = Plan { volumes: 2, tasks: 2, steps: 40, crashes: 4, pause_us: 150_000 };
/// Histories in which a violation must be found.
const SEEDS: u64 = 64;

/// A device whose flushes end before they have had an effect: what waits for one goes on at once, and so
/// does every reply. Every second one is carried out with the next only, so that a crash may come between.
struct Hasty(Rc<dyn Disk>, Cell<bool>);

impl Disk for Hasty {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        self.0.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        self.0.write(offset, buf, durability, lifetime)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        if self.1.replace(!self.1.get()) {
            // It goes on without being waited for.
            drop(self.0.flush());
        }
        Io::ready(Ok(()))
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.0.discard(offset, bytes)
    }
}

/// How many of the histories are wrong: the first of them, and what runs beside it.
fn wrong(setup: Setup, stage: impl Fn(Stage) -> Stage + Sync) -> usize {
    let prepare = || formatted(&setup);
    let (_, failed) =
        run_all(0..SEEDS, 1, prepare, |seed, device| run(seed, PLAN, &stage(Stage::new(seed, setup, device))));
    println!("wrong histories of the first: {failed:?}");
    failed.len()
}

#[test]
fn the_same_histories_are_right_on_an_honest_device() {
    assert_eq!(wrong(Setup::default(), |stage| stage), 0);
}

#[test]
fn a_device_that_acknowledges_flushes_without_doing_them_is_noticed() {
    let faults = DiskFaults { flushes_lie: true, ..DiskFaults::default() };
    assert!(wrong(Setup { faults, ..Setup::default() }, |stage| stage) > 0);
}

#[test]
fn replies_before_the_flush_are_noticed() {
    let hasty = |stage: Stage| stage.with_disks(|disk| Rc::new(Hasty(disk, Cell::default())));
    assert!(wrong(Setup::default(), hasty) > 0);
}
