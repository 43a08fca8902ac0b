//! Space that a crash would leak: chunks nothing names, truncations cut short.

use crate::pressure::{name, open_new};
use crate::stage::{Setup, Stage, formatted};
use cfs_seam::{Class, World, sleep, spawn};
use cfs_server::Severity;
use cfs_sim::{Crash, Stream};
use cfs_types::{InodeId, RANGE_BYTES};
use cfs_volume::{Volume, WriteFlags};
use cfs_wire::{AttrChange, Identity};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const ME: Identity = Identity { uid: 0, gid: 0 };
const LONG_WRITE: usize = 100 << 10;
const WRITERS: u64 = 6;
/// Time for what a start found to be delivered, swept and trimmed.
const SETTLE_TIME: Duration = Duration::from_secs(20);

/// Writes of chunks in both cores' ranges, until told to stop.
async fn write_chunks(volume: Rc<Volume>, number: u64, stop: Rc<Cell<bool>>) {
    let handle = open_new(&volume, &format!("chunks-{number}")).await;
    let mut round = 0;
    while !stop.get() {
        let at = (round % 3) * RANGE_BYTES + (round % 5) * LONG_WRITE as u64;
        let bytes = vec![u8::try_from(round % 251).expect("small"); LONG_WRITE];
        let flags = WriteFlags { sync: true, ..WriteFlags::default() };
        assert_eq!(volume.write(handle, at, &bytes, flags).await, Ok(LONG_WRITE));
        round += 1;
    }
    volume.release(handle);
}

/// Many small extents, and their truncation.
async fn grow_and_cut(volume: Rc<Volume>, stop: Rc<Cell<bool>>) {
    let handle = open_new(&volume, "cut").await;
    let Ok(cfs_volume::Lookup::Found(entry)) = volume.lookup(&ME, InodeId::ROOT, &name("cut")).await else {
        panic!("it was made just now");
    };
    while !stop.get() {
        for block in 0..1500 {
            assert_eq!(volume.write(handle, block * 8192, &[7; 100], WriteFlags::default()).await, Ok(100));
        }
        volume.fsync(handle).await.expect("durable");
        let change = AttrChange { size: Some(0), ..AttrChange::default() };
        volume.setattr(&ME, entry.attr.ino, change).await.expect("cut");
    }
    volume.release(handle);
}

async fn churn(world: World, volume: Rc<Volume>, stop: Rc<Cell<bool>>) {
    let over = Rc::new(Cell::new(0));
    for number in 0..=WRITERS {
        let (volume, stop, over) = (volume.clone(), stop.clone(), over.clone());
        let work = async move {
            if number == WRITERS {
                grow_and_cut(volume, stop).await;
            } else {
                write_chunks(volume, number, stop).await;
            }
            over.set(over.get() + 1);
        };
        spawn(&world.tasks, Class::Foreground, work).detach();
    }
    while over.get() <= WRITERS {
        sleep(&world.clock, Duration::from_millis(5)).await;
    }
    volume.shutdown().await.expect("a clean end");
}

#[test]
fn what_nothing_names_after_a_crash_is_given_back() {
    let setup = Setup::default();
    let device = formatted(&setup);
    for seed in 0..6 {
        let stage = Stage::new(seed, setup, &device);
        let (chance, stop) = (Stream::new(seed), Rc::new(Cell::new(false)));
        stage.start(2);
        let until = stop.clone();
        let over = stage.begin_client(stage.options(), move |world, volume| churn(world, volume, until));
        for _ in 0..4 {
            stage.sim.run_for(Duration::from_millis(50 + chance.below(400)));
            stage.crash(if chance.below(2) == 0 { Crash::Process } else { Crash::Power });
            stage.start(2);
        }
        stop.set(true);
        assert!(stage.sim.run_until(Duration::from_secs(300), || over.borrow().is_some()), "seed {seed}: no end");
        stage.crash(Crash::Power);
        stage.start(2);
        stage.sim.run_for(SETTLE_TIME);
        stage.stop();
        let report = stage.check();
        assert!(report.is_sound(), "seed {seed}: {report}");
        let leaks: Vec<_> = report.findings.iter().filter(|f| f.severity == Severity::Leak).collect();
        assert!(leaks.is_empty(), "seed {seed}: {leaks:?}");
    }
}
