//! Clients that ask for much and take no answers.

use crate::history::{ME, name, new_file};
use crate::raw::Peer;
use crate::stage::{Setup, Stage, formatted};
use cfs_seam::sleep;
use cfs_server::MemoryLimits;
use cfs_types::{InodeId, ShardId};
use cfs_volume::WriteFlags;
use cfs_wire::{Op, Reply, XattrMode};
use std::time::Duration;

const SLOW_CLIENTS: u64 = 6;
/// Room for requests, of which a quarter is for small payloads, and one client may have half of each part.
const ROOM_BYTES: usize = 8 << 20;
/// What each sends.
const FLOOD_BYTES: u64 = 24 << 20;
const SMALL_ROOM_BYTES: usize = ROOM_BYTES / 4;

fn used(stage: &Stage, pool: &str) -> u64 {
    let status = stage.status();
    let mut pools = status.iter().flat_map(|core| &core.memory).filter(|bounded| bounded.name == pool);
    let bounded = pools.next().unwrap_or_else(|| panic!("no {pool}"));
    assert!(bounded.used <= bounded.limit, "{bounded:?}");
    bounded.used
}

/// A stage whose slow clients have taken all the room there is for payloads of this size.
fn flooded(payload_bytes: usize, taken: usize) -> Stage {
    let memory = MemoryLimits { requests: ROOM_BYTES, answers: ROOM_BYTES, ..MemoryLimits::default() };
    let setup = Setup { memory, ..Setup::default() };
    let stage = Stage::new(5, setup, &formatted(&setup));
    stage.start(1);
    for _ in 0..SLOW_CLIENTS {
        let options = stage.options();
        stage.begin_client(stage.options(), move |world, volume| async move {
            let peer = Peer::connect(&world, &options).await;
            peer.flood(ShardId::new(0), &Op::Echo, &vec![7; payload_bytes], FLOOD_BYTES / payload_bytes as u64).await;
            // Somebody has to answer when its leases are revoked.
            sleep(&world.clock, Duration::from_secs(90)).await;
            drop((peer, volume));
        });
    }
    stage.sim.run_for(Duration::from_secs(3));
    assert_eq!(used(&stage, "requests"), taken as u64, "they have it all");
    stage
}

/// How long a client takes to write a few bytes and make them durable.
fn small_write(stage: &Stage) -> Duration {
    stage.client(|world, volume| async move {
        let since = world.clock.now();
        let (_, handle) = volume.create(&ME, InodeId::ROOT, &name("beside"), &new_file()).await.expect("made");
        assert_eq!(volume.write(handle, 0, &[5; 4096], WriteFlags::default()).await, Ok(4096));
        volume.fsync(handle).await.expect("durable");
        world.clock.now().since(since)
    })
}

fn assert_cut_off(stage: &Stage) {
    stage.sim.run_for(Duration::from_secs(60));
    assert!(stage.number(0, "stuck") > 0, "they are closed");
    assert_eq!(used(stage, "requests"), 0, "and hold nothing");
}

#[test]
fn clients_that_take_no_long_answers_hold_a_bounded_room_hold_up_no_small_writes_and_are_cut_off() {
    let stage = flooded(2 << 20, ROOM_BYTES - SMALL_ROOM_BYTES);
    let took = small_write(&stage);
    assert!(took < Duration::from_secs(1), "another client waits for {took:?}");
    assert_cut_off(&stage);
    stage.stop();
}

#[test]
fn beside_clients_that_take_no_small_answers_a_small_write_waits_until_they_are_cut_off_and_no_longer() {
    let stage = flooded(32 << 10, SMALL_ROOM_BYTES);
    let took = small_write(&stage);
    assert!(took < Duration::from_secs(60), "another client waits for {took:?}");
    assert_cut_off(&stage);
    stage.stop();
}

#[test]
fn requests_that_are_long_without_a_payload_have_a_bounded_room_too() {
    let memory = MemoryLimits { requests: ROOM_BYTES, answers: ROOM_BYTES, ..MemoryLimits::default() };
    let setup = Setup { memory, ..Setup::default() };
    let stage = Stage::new(6, setup, &formatted(&setup));
    stage.start(1);
    let options = stage.options();
    let held = stage.begin_client(stage.options(), |world, volume| async move {
        let peer = Peer::connect(&world, &options).await;
        let how = Op::Create { dir: InodeId::ROOT, name: name("held"), mode: 0o644, exclusive: true, truncate: false };
        let made = peer.call(InodeId::ROOT.shard(), how, None).await;
        let Ok(Reply::Entry(entry)) = made else { panic!("{made:?}") };
        (entry.ino, peer, volume)
    });
    stage.sim.run_until(Duration::from_secs(5), || held.borrow().is_some());
    let (ino, _silent, _volume) = held.take().expect("made");
    for _ in 0..SLOW_CLIENTS {
        let options = stage.options();
        stage.begin_client(stage.options(), move |world, volume| async move {
            let peer = Peer::connect(&world, &options).await;
            let set = Op::SetXattr { ino, name: b"user.a".to_vec(), value: vec![7; 60_000], mode: XattrMode::Set };
            // Each waits until the silent one's lease has ended.
            peer.flood(ino.shard(), &set, &[], FLOOD_BYTES / 60_000).await;
            sleep(&world.clock, Duration::from_secs(90)).await;
            drop((peer, volume));
        });
    }
    stage.sim.run_for(Duration::from_secs(3));
    let taken = used(&stage, "requests");
    assert!(taken > SMALL_ROOM_BYTES as u64 / 10 * 9, "they wait, and take {taken}");
    let took = stage.client(|world, volume| async move {
        let since = world.clock.now();
        volume.mkdir(&ME, InodeId::ROOT, &name("beside"), 0o755).await.expect("made");
        world.clock.now().since(since)
    });
    assert!(took < Duration::from_secs(1), "a short request waits for {took:?}");
    stage.sim.run_for(Duration::from_secs(60));
    assert_eq!(used(&stage, "requests"), 0, "and hold nothing");
    stage.stop();
}
