//! Clients that come and go: what is left of them, and what a start makes of it.

use crate::history::{ME, name, new_file};
use crate::raw::Peer;
use crate::stage::{SESSION_LIFE, Setup, Stage, formatted};
use cfs_namespace::{Command, CommandBody};
use cfs_seam::{World, sleep};
use cfs_server::{CoreReply, CoreRequest, Envelope, Report};
use cfs_types::{CoreId, InodeId, SessionId, ShardId};
use cfs_volume::{Lookup, Volume, VolumeOptions};
use cfs_wire::{AttrChange, Op, Reply};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const ROOT: InodeId = InodeId::ROOT;
/// Directories that each client looks after: about as many shards.
const DIRS: u32 = 24;
/// Time for what a start finds to be settled.
const SETTLE_TIME: Duration = Duration::from_secs(20);
/// What upkeep may write more after one start than after another.
const UPKEEP_RECORDS: u64 = 40;
/// More than the server has open at once.
const MANY_SESSIONS: u64 = 4200;

/// Log records made durable since the start.
fn records(stage: &Stage) -> u64 {
    let status = stage.status();
    let numbers = status.iter().flat_map(|core| &core.numbers);
    let made = numbers.filter(|number| number.help == "Log records made durable").map(|number| number.value);
    made.reduce(|all, of_core| all + of_core).expect("counted")
}

async fn make_dirs(_world: World, volume: Rc<Volume>) {
    for number in 0..DIRS {
        volume.mkdir(&ME, ROOT, &name(&format!("dir-{number}")), 0o755).await.expect("made");
    }
    volume.shutdown().await.expect("a clean end");
}

/// A client's life: something in every directory, and nothing of it stays.
async fn visit(_world: World, volume: Rc<Volume>) {
    for number in 0..DIRS {
        let Ok(Lookup::Found(dir)) = volume.lookup(&ME, ROOT, &name(&format!("dir-{number}"))).await else {
            panic!("it was made");
        };
        let (_, handle) = volume.create(&ME, dir.attr.ino, &name("file"), &new_file()).await.expect("made");
        volume.release(handle);
        volume.unlink(&ME, dir.attr.ino, &name("file")).await.expect("removed");
    }
    volume.shutdown().await.expect("a clean end");
}

/// Restarts the server. Returns the check of the store, and the log records of the start.
fn restart(stage: &Stage, cores: u16) -> (Report, u64) {
    stage.stop();
    let report = stage.check();
    assert!(report.is_sound(), "{report}");
    stage.start(cores);
    stage.sim.run_for(SETTLE_TIME);
    (report, records(stage))
}

#[test]
fn of_clients_that_have_gone_nothing_stays_and_no_start_writes_it_again() {
    let setup = Setup::default();
    let stage = Stage::new(21, setup, &formatted(&setup));
    stage.start(2);
    stage.client(make_dirs);
    let lives = [3, 12, 12].map(|lives| {
        (0..lives).for_each(|_| stage.client(visit));
        let (report, records) = restart(&stage, 2);
        (report.checked.rows, records)
    });
    stage.say(&format!("rows and records: {lives:?}"));
    let [(rows, records), _, (rows_after, records_after)] = lives;
    assert!(rows_after <= rows + 8, "the rows grow: {lives:?}");
    assert!(records_after <= records + UPKEEP_RECORDS, "a start writes again what was over before: {lives:?}");
    stage.stop();
}

/// Has a shard keep records of sessions that are over, as earlier versions did.
fn keep_records(stage: &Stage, sessions: u64, shards: u8) {
    let (asked, answered) = (sessions * u64::from(shards), Arc::new(AtomicU64::new(0)));
    let world = stage.sim.world(stage.machine(1), 0).expect("it runs");
    for shard in (0..shards).map(ShardId::new) {
        for session in (1..=sessions).map(SessionId::new) {
            let command = Box::new(Command::internal(CommandBody::ExpireSession { session }));
            let answered = answered.clone();
            let note = move |reply| {
                assert!(matches!(reply, CoreReply::Executed(remote) if remote.result.is_ok()));
                answered.fetch_add(1, Ordering::Relaxed);
            };
            let ask = Envelope::Outside(CoreRequest::Execute(shard, command, Vec::new()), Box::new(note));
            assert!(world.mesh.send(CoreId::new(0), Box::new(ask)).is_ok());
        }
        let all = || answered.load(Ordering::Relaxed) == sessions * (u64::from(shard.get()) + 1);
        assert!(stage.sim.run_until(SETTLE_TIME, all), "shard {shard} does not answer");
    }
    assert_eq!(answered.load(Ordering::Relaxed), asked);
}

#[test]
fn what_earlier_versions_kept_of_sessions_is_forgotten_once_and_in_few_steps() {
    const SESSIONS: u64 = 100;
    const SHARDS: u8 = 16;
    let setup = Setup::default();
    let stage = Stage::new(22, setup, &formatted(&setup));
    stage.start(1);
    let options = stage.options();
    stage.client(|world, volume| async move {
        volume.shutdown().await.expect("a clean end");
        come_and_go(&world, &options, SESSIONS).await;
    });
    let (_, earlier) = restart(&stage, 1);
    let (_, usual) = restart(&stage, 1);
    // A start writes what the log holds again, and adds an entry or two of each group.
    let added = usual - earlier;
    keep_records(&stage, SESSIONS, SHARDS);
    let (before, first) = restart(&stage, 1);
    let (after, second) = restart(&stage, 1);
    let gone = before.checked.rows - after.checked.rows;
    assert!(gone >= SESSIONS * u64::from(SHARDS), "{gone} rows of {} are gone", before.checked.rows);
    let steps = SESSIONS.div_ceil(24) * u64::from(SHARDS);
    let (_, third) = restart(&stage, 1);
    stage.say(&format!("records of the starts: {earlier}, {usual}, {first}, {second}, {third}"));
    // At most two log records for a command: its entry and the group's state beside it.
    let first_max = usual + added + 2 * steps + UPKEEP_RECORDS;
    assert!(first <= first_max, "{usual} records at a start, {first} to forget them: more than {first_max}");
    assert!(second <= first + added, "{first} records to forget them, {second} at the next start");
    assert!(third <= second + added, "{second} records at a start that has nothing to forget, {third} at the next");
    stage.stop();
}

/// Sessions that are opened, heard of and ended, one after another.
async fn come_and_go(world: &World, options: &VolumeOptions, sessions: u64) {
    for _ in 0..sessions {
        let peer = Peer::connect(world, options).await;
        let _nothing_held = peer.call(ShardId::new(0), Op::Renew, None).await;
        peer.call(ShardId::new(0), Op::CloseSession, None).await.expect("ended");
    }
}

#[test]
fn sessions_that_have_ended_are_in_nobodys_way() {
    let setup = Setup::default();
    let stage = Stage::new(23, setup, &formatted(&setup));
    stage.start(1);
    let options = stage.options();
    let took = stage.client(|world, open_all_the_time| async move {
        let since = world.clock.now();
        come_and_go(&world, &options, MANY_SESSIONS).await;
        open_all_the_time.shutdown().await.expect("a clean end");
        world.clock.now().since(since)
    });
    assert!(took < Duration::from_secs(100), "none of them was silent for long: {took:?}");
    stage.stop();
}

/// A request that waits for another client while its session ends.
async fn ask_late(world: World, options: VolumeOptions) {
    let shard = ROOT.shard();
    let holder = Peer::connect(&world, &options).await;
    let make = Op::Create { dir: ROOT, name: name("held"), mode: 0o644, exclusive: true, truncate: false };
    let made = holder.call(shard, make, None).await;
    let Ok(Reply::Entry(entry)) = made else { panic!("{made:?}") };
    let ino = entry.ino;
    let late = Peer::connect(&world, &options).await;
    let also = late.connect_again(&world, &options).await;
    let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
    late.flood(shard, &Op::Setattr { ino, change }, &[], 1).await;
    sleep(&world.clock, Duration::from_secs(1)).await;
    assert_eq!(also.call(shard, Op::CloseSession, None).await, Ok(Reply::Done));
    // By then nobody stands in its way any more.
    sleep(&world.clock, Duration::from_secs(40)).await;
    let other = Peer::connect(&world, &options).await;
    let shown = other.call(shard, Op::Getattr { ino }, None).await;
    assert!(matches!(&shown, Ok(Reply::Attr(attr)) if attr.mode == 0o644), "{shown:?}");
    other.call(shard, Op::CloseSession, None).await.expect("ended");
    drop(holder);
}

#[test]
fn a_request_that_is_late_is_refused_and_leaves_nothing_of_its_session() {
    let setup = Setup::default();
    let stage = Stage::new(24, setup, &formatted(&setup));
    stage.start(1);
    let options = stage.options();
    stage.client(|world, volume| async move {
        ask_late(world, options).await;
        volume.shutdown().await.expect("a clean end");
    });
    // The silent one's session ends too.
    stage.sim.run_for(SESSION_LIFE + SETTLE_TIME);
    let (report, _) = restart(&stage, 1);
    assert!(report.is_clean(), "{report}");
    stage.stop();
}
