//! Parts of the device that are blank when a store that was stopped is started again.

use crate::history::{ME, name};
use crate::pressure::open_new;
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_seam::sleep;
use cfs_sim::Crash;
use cfs_types::InodeId;
use cfs_volume::{Lookup, WriteFlags};
use std::time::Duration;

const BLOCK: usize = 4096;
const ANCHORS_AT: u64 = 1 << 20;
const LOG_AT: u64 = 17 << 20;
/// Both copies of every group's manifest.
const MANIFEST_BYTES: usize = 257 * (32 << 10);

/// In a life: longer than it takes until old streams are freed.
const IDLE: Duration = Duration::from_secs(60);
const SMALL_WRITE: usize = 32 << 10;

/// A store with a file, written in `writes` pieces, that was stopped `stops` times.
fn stopped(stops: u32, writes: u64) -> Stage {
    let setup = Setup::default();
    let stage = Stage::new(1, setup, &formatted(&setup));
    for stop in 0..stops {
        stage.start(1);
        stage.client(move |world, volume| async move {
            if stop == 0 {
                let handle = open_new(&volume, "file").await;
                for n in 0..writes {
                    let piece = vec![b'a'; SMALL_WRITE];
                    volume.write(handle, n * SMALL_WRITE as u64, &piece, WriteFlags::default()).await.expect("written");
                    volume.fsync(handle).await.expect("durable");
                }
                volume.release(handle);
            } else {
                let found = volume.lookup(&ME, InodeId::ROOT, &name("file")).await;
                assert!(matches!(found, Ok(Lookup::Found(_))));
                sleep(&world.clock, IDLE).await;
            }
            volume.shutdown().await.expect("a clean end");
        });
        stage.stop();
    }
    assert!(stage.check().is_sound());
    stage
}

fn is_refused(stage: &Stage) {
    let ready = stage.launch(1);
    assert!(stage.await_end(LIMIT) && !ready.get(), "it serves");
    assert!(stage.ended.take().iter().all(|(_, result)| result.is_err()));
    stage.crash(Crash::Process);
    assert!(!stage.check().is_sound());
}

#[test]
fn a_stopped_store_that_lost_the_end_of_its_log_is_refused() {
    for stops in [1, 2] {
        let stage = stopped(stops, 1);
        let (device, bytes) = (stage.device(), usize::try_from(stage.setup.log_bytes).expect("small"));
        let log = device.peek(LOG_AT, bytes);
        let newest = |block: &&[u8]| block.starts_with(b"cfsL") && block[16] == u8::try_from(stops).expect("few");
        let last = log.chunks(BLOCK).rposition(|block| newest(&block)).expect("it was used");
        device.poke(LOG_AT + ((last - 2) * BLOCK) as u64, &[0; 3 * BLOCK]);
        is_refused(&stage);
    }
}

#[test]
fn a_store_that_lost_its_manifests_does_not_start_empty() {
    // More than a start writes again as a whole: later everything was flushed, and the log lacks what came first.
    let stage = stopped(4, 2 * Setup::default().log_slot_bytes / SMALL_WRITE as u64);
    let manifests = stage.device().peek(ANCHORS_AT, MANIFEST_BYTES);
    assert!(manifests.chunks(BLOCK).any(|block| block.starts_with(b"cfsA")));
    stage.device().poke(ANCHORS_AT, &vec![0; MANIFEST_BYTES]);
    is_refused(&stage);
}
