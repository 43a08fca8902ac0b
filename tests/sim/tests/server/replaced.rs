//! A name that is replaced while somebody looks at what it led to: what is shown of the new file is whole.

use crate::history::{ME, name, new_file};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_seam::sleep;
use cfs_types::InodeId;
use cfs_volume::{Handle, Lookup, RenameMode, Volume, WriteFlags};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// The rename comes so much later in each round.
const STEP: Duration = Duration::from_micros(100);
const ROUNDS: u32 = 60;
/// Bytes of the file that is replaced: to write them back takes longer than a rename.
const LONG: usize = 1 << 20;
const SHORT: usize = 5;

/// A file whose bytes are held back: it stays open.
async fn hold(volume: &Volume, text: &str, bytes: usize) -> Handle {
    let (_, handle) = volume.create(&ME, InodeId::ROOT, &name(text), &new_file()).await.expect("made");
    volume.write(handle, 0, &vec![7; bytes], WriteFlags::default()).await.expect("written");
    handle
}

#[test]
fn a_file_that_took_a_name_during_a_lookup_is_shown_with_what_its_writer_holds_back() {
    let setup = Setup::default();
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(1);
    let (ready, looked) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (told, seen) = (ready.clone(), looked.clone());
    let writer = stage.begin_client(stage.options(), move |world, volume| async move {
        for round in 1..=ROUNDS {
            let open = [hold(&volume, "x", LONG).await, hold(&volume, "y", SHORT).await];
            told.set(round);
            sleep(&world.clock, STEP * round).await;
            let (from, to) = ((InodeId::ROOT, &name("y")), (InodeId::ROOT, &name("x")));
            volume.rename(&ME, from, to, RenameMode::Replace).await.expect("renamed");
            while seen.get() < round {
                sleep(&world.clock, STEP).await;
            }
            open.into_iter().for_each(|handle| volume.release(handle));
            volume.unlink(&ME, InodeId::ROOT, &name("x")).await.expect("removed");
        }
    });
    let replaced = stage.client(move |world, volume| async move {
        let mut replaced = 0;
        for round in 1..=ROUNDS {
            while ready.get() < round {
                sleep(&world.clock, STEP / 4).await;
            }
            let Ok(Lookup::Found(entry)) = volume.lookup(&ME, InodeId::ROOT, &name("x")).await else { panic!("lost") };
            let size = usize::try_from(entry.attr.size).expect("small");
            assert!([LONG, SHORT].contains(&size), "round {round}: {size} bytes");
            replaced += u32::from(size == SHORT);
            looked.set(round);
        }
        replaced
    });
    assert!(stage.sim.run_until(LIMIT, || writer.borrow().is_some()));
    assert!((1..ROUNDS).contains(&replaced), "{replaced} of {ROUNDS} lookups met the rename");
}
