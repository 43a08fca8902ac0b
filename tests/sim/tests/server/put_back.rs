//! A store that is put back to an older copy of itself while clients are connected: numbers of inodes that they
//! know are given out again. They must end, not meet the files of others.

use crate::history::{ME, name, new_file};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_seam::{World, sleep};
use cfs_sim::Crash;
use cfs_types::{FsError, InodeId};
use cfs_volume::Volume;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(1);

/// Where a history is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum Stand {
    /// Nothing has been made.
    Empty,
    /// The copy has been taken.
    Copied,
    /// A file has been made that is not in it.
    Made,
    /// The copy is in the store's place, and another client has made files in it.
    PutBack,
}

type Shared = Rc<Cell<Stand>>;

async fn until(world: &World, stand: &Shared, wanted: Stand) {
    while stand.get() < wanted {
        sleep(&world.clock, LOOK).await;
    }
}

async fn make(volume: &Volume, text: &str) -> InodeId {
    let (entry, handle) = volume.create(&ME, InodeId::ROOT, &name(text), &new_file()).await.expect("made");
    volume.release(handle);
    entry.attr.ino
}

/// How the store goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// As it is.
    Honest,
    /// The older copy takes its place.
    PutBack,
    /// So it does; its clients are cut off, others write until every shard is further than it was, and the server
    /// starts once more before they are back.
    PutBackUnseen,
}

/// What clients meet afterwards: one that made the file, one that has only looked at it, one whose session began
/// after the copy.
fn met(seed: u64, fate: Fate) -> [Result<(), FsError>; 3] {
    let setup = Setup::default();
    let mut stage = Stage::new(seed, setup, &formatted(&setup));
    stage.start(2);
    let stand: Shared = Rc::new(Cell::new(Stand::Empty));
    let made = Rc::new(Cell::new(InodeId::ROOT));
    let (shared, tell) = (stand.clone(), made.clone());
    let clients = [0; 3].map(|_| stage.sim.node(1));
    let maker = stage.begin_client_on(clients[0], stage.options(), move |world, volume| async move {
        until(&world, &shared, Stand::Copied).await;
        tell.set(make(&volume, "new").await);
        shared.set(Stand::Made);
        until(&world, &shared, Stand::PutBack).await;
        volume.getattr(tell.get()).await.map(|_| ())
    });
    let looks = |client: usize| {
        let (shared, made) = (stand.clone(), made.clone());
        let options = stage.options();
        stage.begin_client_on(clients[client], options, move |world, volume| async move {
            until(&world, &shared, Stand::Made).await;
            volume.getattr(made.get()).await.expect("it is there");
            until(&world, &shared, Stand::PutBack).await;
            volume.getattr(made.get()).await.map(|_| ())
        })
    };
    let looker = looks(1);
    stage.client(|_, volume| async move { make(&volume, "old").await });
    let copy = stage.sim.copy_disk(&stage.device());
    stand.set(Stand::Copied);
    let late = looks(2);
    assert!(stage.sim.run_until(LIMIT, || stand.get() == Stand::Made));
    stage.sim.run_for(Duration::from_secs(1));
    stage.crash(Crash::Process);
    if fate != Fate::Honest {
        stage.disk = copy;
    }
    let unseen = fate == Fate::PutBackUnseen;
    if unseen {
        clients.iter().for_each(|client| stage.cut_off(*client));
    }
    stage.start(2);
    stage.client(move |_, volume| async move {
        for n in 0..if unseen { 600 } else { 1 } {
            make(&volume, &format!("another {n}")).await;
        }
    });
    if unseen {
        stage.stop();
        stage.start(2);
        stage.sim.heal_all();
    }
    stand.set(Stand::PutBack);
    let over = stage.sim.run_until(LIMIT, || [&maker, &looker, &late].iter().all(|client| client.borrow().is_some()));
    assert!(over, "seed {seed}: they do not end");
    [maker, looker, late].map(|client| client.take().expect("it has ended"))
}

#[test]
fn clients_of_a_newer_store_end_where_an_older_copy_is_put_in_its_place() {
    for seed in 0..8 {
        assert_eq!(met(seed, Fate::PutBack), [Err(FsError::Stale); 3], "seed {seed}");
    }
}

#[test]
fn so_do_those_that_come_back_only_after_another_start() {
    for seed in 0..4 {
        assert_eq!(met(seed, Fate::PutBackUnseen), [Err(FsError::Stale); 3], "seed {seed}");
    }
}

#[test]
fn clients_of_a_store_that_only_started_anew_go_on() {
    for seed in 0..8 {
        assert_eq!(met(seed, Fate::Honest), [Ok(()); 3], "seed {seed}");
    }
}
