//! Random histories of one writer against an array, while connections break, the server restarts
//! and leases come and go.

use crate::fake::{Fake, ino, stage};
use cfs_seam::{Class, World, sleep, spawn};
use cfs_sim::{NetConfig, Sim, SimConfig};
use cfs_volume::{Handle, OpenFlags, Volume, WriteFlags};
use cfs_wire::{AttrChange, Identity, LeaseKind};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const STEPS: u32 = 120;
const FILE_BYTES: u64 = 20_000;

struct History {
    world: World,
    fake: Rc<Fake>,
    volume: Rc<Volume>,
    handle: Handle,
    model: Vec<u8>,
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("small")
}

impl History {
    fn below(&self, limit: u64) -> u64 {
        self.world.rng.next_u64() % limit
    }

    async fn write(&mut self, append: bool) {
        let len = index(1 + self.below(4000));
        let byte = self.below(256).to_le_bytes()[0];
        let at = if append { self.model.len() } else { index(self.below(FILE_BYTES)) };
        let flags = WriteFlags { append: Some(append), ..WriteFlags::default() };
        let offset = if append { 0 } else { u64::try_from(at).expect("small") };
        let written = self.volume.write(self.handle, offset, &vec![byte; len], flags).await;
        assert_eq!(written, Ok(len));
        self.model.resize(self.model.len().max(at + len), 0);
        self.model[at..at + len].fill(byte);
    }

    async fn read(&self) {
        let (at, len) = (self.below(FILE_BYTES), 1 + self.below(9000));
        let read = self.volume.read(self.handle, at, u32::try_from(len).expect("small")).await.expect("read");
        let from = index(at).min(self.model.len());
        let to = (from + index(len)).min(self.model.len());
        assert!(*read == self.model[from..to], "{} bytes at {at}, {} expected", read.len(), to - from);
    }

    async fn truncate(&mut self) {
        let size = self.below(FILE_BYTES);
        let change = AttrChange { size: Some(size), ..AttrChange::default() };
        let (attr, _) = self.volume.setattr(&Identity::default(), ino(1), change).await.expect("cut");
        assert_eq!(attr.size, size);
        self.model.resize(index(size), 0);
    }

    async fn step(&mut self) {
        match self.below(100) {
            0..35 => self.write(false).await,
            35..45 => self.write(true).await,
            45..65 => self.read().await,
            65..72 => {
                let (attr, _) = self.volume.getattr(ino(1)).await.expect("known");
                assert_eq!(index(attr.size), self.model.len());
            }
            72..77 => self.truncate().await,
            // What follows meets bytes in flight.
            77..80 => {
                let (volume, handle) = (self.volume.clone(), self.handle);
                let sync = async move { volume.fsync(handle).await.expect("durable") };
                spawn(&self.world.tasks, Class::Foreground, sync).detach();
                sleep(&self.world.clock, Duration::from_micros(self.below(60))).await;
            }
            80..82 => {
                self.volume.fsync(self.handle).await.expect("durable");
                assert!(self.fake.files.borrow()[&ino(1)].bytes == self.model, "fsync returned too early");
            }
            82..86 => self.fake.restart(),
            86..90 => self.fake.lose_replies.set(1),
            90..94 => self.fake.try_revoke(ino(1)).await,
            94..97 => {
                let kinds = [None, Some(LeaseKind::Shared), Some(LeaseKind::Exclusive)];
                self.fake.lease.set(kinds[index(self.below(3))]);
            }
            _ => sleep(&self.world.clock, Duration::from_millis(self.below(3000))).await,
        }
    }
}

async fn play(world: World) {
    let (fake, volume) = stage(&world).await;
    fake.lease.set(Some(LeaseKind::Exclusive));
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let handle = volume.open(&Identity::default(), ino(1), flags).await.expect("open");
    let mut history = History { world, fake, volume, handle, model: b"old content".to_vec() };
    for _ in 0..STEPS {
        history.step().await;
    }
    history.volume.fsync(handle).await.expect("durable");
    assert!(history.fake.files.borrow()[&ino(1)].bytes == history.model);
}

#[test]
fn a_writer_never_sees_or_leaves_anything_but_what_it_wrote() {
    for seed in 0..60 {
        let net = NetConfig { reset_per_million: 2_000, ..NetConfig::default() };
        let sim = Sim::new(seed, SimConfig { net, ..SimConfig::default() });
        let done = Rc::new(Cell::new(false));
        let flag = done.clone();
        sim.start_core(sim.node(1), 0, |world| async move {
            play(world).await;
            flag.set(true);
        });
        assert!(sim.run_until(Duration::from_secs(24 * 3600), || done.get()), "seed {seed} never ends");
    }
}
