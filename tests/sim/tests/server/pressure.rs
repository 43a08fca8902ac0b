//! Load that fills the log, its entries and the count of small writes.

use crate::stage::{Setup, Stage, formatted};
use cfs_seam::{Class, World, io, spawn};
use cfs_types::{InodeId, Name};
use cfs_volume::{Creation, OpenFlags, Volume, WriteFlags};
use cfs_wire::Identity;
use std::rc::Rc;

const ROOT: InodeId = InodeId::ROOT;
const SMALL_WRITE: usize = 64 << 10;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

async fn open_new(volume: &Volume, text: &str) -> cfs_volume::Handle {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags };
    volume.create(&Identity::default(), ROOT, &name(text), &how).await.expect("created").1
}

async fn write_durably(volume: &Volume, handle: cfs_volume::Handle, at: u64, bytes: &[u8]) {
    assert_eq!(volume.write(handle, at, bytes, WriteFlags::default()).await, Ok(bytes.len()));
    volume.fsync(handle).await.expect("durable");
}

/// Many files of one directory, so of one shard, written at the same time.
async fn write_together(world: World, volume: Rc<Volume>) {
    let mut writers = Vec::new();
    for i in 0..40_u8 {
        let handle = open_new(&volume, &format!("f{i}")).await;
        let volume = volume.clone();
        let (done, written) = io();
        let write = async move {
            for at in 0..4 {
                write_durably(&volume, handle, at * SMALL_WRITE as u64, &[i; SMALL_WRITE]).await;
            }
            volume.release(handle);
            done.complete(());
        };
        spawn(&world.tasks, Class::Foreground, write).detach();
        writers.push(written);
    }
    for written in writers {
        written.await;
    }
    volume.shutdown().await.expect("a clean end");
}

#[test]
fn writes_that_wait_together_fit_into_the_log() {
    let setup = Setup { log_slot_bytes: 256 << 10, ..Setup::default() };
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(1);
    stage.client(write_together);
    stage.stop();
}

/// More bytes than the device has, all to the same place.
async fn overwrite(_world: World, volume: Rc<Volume>) {
    let handle = open_new(&volume, "again").await;
    for round in 0..9_000_u32 {
        write_durably(&volume, handle, 0, &[round.to_le_bytes()[0]; SMALL_WRITE]).await;
    }
    volume.shutdown().await.expect("a clean end");
}

#[test]
fn what_was_overwritten_does_not_fill_the_store() {
    let setup = Setup::default();
    let stage = Stage::new(2, setup, &formatted(&setup));
    stage.start(1);
    stage.client(overwrite);
    stage.stop();
}
