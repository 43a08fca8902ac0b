//! Operations between shards wait for leases before they hold anything: others read on meanwhile.

use crate::history::{ME, name, whole};
use crate::raw::Peer;
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_seam::sleep;
use cfs_types::{InodeId, ShardId};
use cfs_volume::{Lookup, RenameMode, Volume};
use cfs_wire::Op;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const LEASE_TERM: Duration = Duration::from_secs(4);
/// Longest that two lookups may take, the client's connecting included.
const PROMPT: Duration = Duration::from_millis(500);

/// A directory whose shard is none of these.
async fn apart(volume: &Volume, dir: InodeId, text: &str, shards: &[ShardId]) -> InodeId {
    loop {
        let made = volume.mkdir(&ME, dir, &name(text), 0o755).await.expect("made").attr.ino;
        if !shards.contains(&made.shard()) {
            return made;
        }
        volume.rmdir(&ME, dir, &name(text)).await.expect("removed");
    }
}

/// Three directories of different shards, `source` with a directory `moved`, `target` with an empty one.
#[derive(Clone, Copy)]
struct Places {
    source: InodeId,
    target: InodeId,
    replaced: InodeId,
}

async fn make(volume: Rc<Volume>) -> Places {
    let source = apart(&volume, InodeId::ROOT, "source", &[]).await;
    let target = apart(&volume, InodeId::ROOT, "target", &[source.shard()]).await;
    let replaced = apart(&volume, target, "replaced", &[source.shard(), target.shard()]).await;
    apart(&volume, source, "moved", &[source.shard(), target.shard(), replaced.shard()]).await;
    volume.shutdown().await.expect("a clean end");
    Places { source, target, replaced }
}

/// A client that looked at a directory, keeps its lease and does not answer any more.
fn begin_silent(stage: &Stage, dir: InodeId) {
    let looked = Rc::new(Cell::new(false));
    let (node, done) = (stage.sim.node(1), looked.clone());
    stage.begin_client_on(node, stage.options(), move |world, volume| async move {
        whole(&volume, dir, 4096, false).await.expect("listed");
        done.set(true);
        cfs_seam::sleep(&world.clock, LIMIT).await;
        drop(volume);
    });
    assert!(stage.sim.run_until(LIMIT, || looked.get()));
    stage.cut_off(node);
}

async fn leads_to(volume: &Volume, dir: InodeId, text: &str) -> Option<InodeId> {
    match volume.lookup(&ME, dir, &name(text)).await.expect("answered") {
        Lookup::Found(entry) => Some(entry.attr.ino),
        Lookup::Missing { .. } => None,
    }
}

/// While a rename waits for the lease on `kept`, both names of it can be read.
fn rename_waits_alone(kept: impl Fn(Places) -> InodeId) {
    let setup = Setup { lease_term: LEASE_TERM, ..Setup::default() };
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(2);
    let places = stage.client(|_, volume| make(volume));
    begin_silent(&stage, kept(places));
    let renamed = stage.begin_client(stage.options(), move |_, volume| async move {
        let (from, to) = ((places.source, &name("moved")), (places.target, &name("replaced")));
        volume.rename(&ME, from, to, RenameMode::Replace).await
    });
    stage.sim.run_for(Duration::from_millis(500));
    let begun = stage.sim.now();
    let look = move |volume: Rc<Volume>| async move {
        let found = leads_to(&volume, places.source, "moved").await.is_some();
        (found, leads_to(&volume, places.target, "replaced").await)
    };
    let seen = stage.client(move |_, volume| look(volume));
    let took = stage.sim.now() - begun;
    assert!(renamed.borrow().is_none(), "nobody was waited for: this shows nothing");
    assert_eq!(seen, (true, Some(places.replaced)));
    assert!(took < PROMPT, "readers waited {took:?} for somebody else's lease");
    assert!(stage.sim.run_until(LIMIT, || renamed.borrow().is_some()));
    assert_eq!(renamed.take(), Some(Ok(())));
    let (found, there) = stage.client(move |_, volume| look(volume));
    assert!(!found && there.is_some_and(|ino| ino != places.replaced));
    stage.stop();
    let report = stage.check();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn nothing_is_held_while_the_coordinators_shard_waits_for_a_lease() {
    rename_waits_alone(|places| places.source);
}

#[test]
fn nothing_is_held_while_another_shard_waits_for_a_lease() {
    rename_waits_alone(|places| places.replaced);
}

#[test]
fn a_passing_connection_of_a_session_leaves_its_callbacks_to_the_one_that_stays() {
    let setup = Setup { lease_term: LEASE_TERM, ..Setup::default() };
    let stage = Stage::new(7, setup, &formatted(&setup));
    stage.start(1);
    let (options, ready) = (stage.options(), Rc::new(Cell::new(false)));
    let done = ready.clone();
    stage.begin_client(stage.options(), move |world, volume| async move {
        let peer = Peer::connect(&world, &options).await;
        let look = || peer.call(InodeId::ROOT.shard(), Op::Getattr { ino: InodeId::ROOT }, None);
        look().await.expect("answered");
        drop(peer.connect_again(&world, &options).await);
        for _ in 0..10_000 {
            sleep(&world.clock, Duration::from_millis(10)).await;
            look().await.expect("answered");
            done.set(true);
        }
        drop(volume);
    });
    assert!(stage.sim.run_until(LIMIT, || ready.get()));
    let took = stage.client(|world, volume| async move {
        let since = world.clock.now();
        volume.mkdir(&ME, InodeId::ROOT, &name("beside"), 0o755).await.expect("made");
        world.clock.now().since(since)
    });
    assert!(took < LEASE_TERM / 4, "nobody was asked: {took:?}");
    stage.stop();
}
