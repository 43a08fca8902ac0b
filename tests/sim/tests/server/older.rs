//! An answer that left the server before a write of ours got there is old when it comes after that write's: what a
//! client sees of its own file never goes back.

use crate::history::{ME, name, new_file};
use crate::stage::{Setup, Stage, formatted};
use cfs_seam::{World, gather, sleep};
use cfs_sim::Stream;
use cfs_types::InodeId;
use cfs_volume::{Handle, Lookup, Volume, WriteFlags};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

const SEEDS: u64 = 6;
const FILES: u64 = 4;
const STEPS: u32 = 120;

/// Extends a file, has its attributes put in doubt, and looks at once, while what was written is on its way.
async fn extend_and_look(world: World, volume: Rc<Volume>, file: u64, chance: Stream) {
    let (text, other) = (format!("file{file}"), format!("other{file}"));
    let (entry, handle) = volume.create(&ME, InodeId::ROOT, &name(&text), &new_file()).await.expect("made");
    let (ino, mut size) = (entry.attr.ino, 0_u64);
    for _ in 0..STEPS {
        let (hole, len) = (chance.below(2_000_000), 1 + chance.index(1 << chance.index(21)));
        let at = size + if chance.chance(500_000) { hole } else { 0 };
        let written = volume.write(handle, at, &vec![7; len], WriteFlags::default()).await;
        assert_eq!(written, Ok(len));
        size = at + len as u64;
        let flush = async {
            volume.fsync(handle).await.expect("durable");
        };
        let looking = async {
            sleep(&world.clock, Duration::from_micros(chance.below(4_000))).await;
            match chance.below(3) {
                0 => drop(volume.link(&ME, ino, InodeId::ROOT, &name(&other)).await),
                1 => drop(volume.unlink(&ME, InodeId::ROOT, &name(&other)).await),
                _ => {}
            }
            look(&volume, (ino, &text, handle), (size, len), &chance).await;
        };
        let both: [Pin<Box<dyn Future<Output = ()>>>; 2] = [Box::pin(flush), Box::pin(looking)];
        gather(both, 2).await;
        if chance.chance(500_000) {
            drop(volume.link(&ME, ino, InodeId::ROOT, &name(&other)).await);
        }
        look(&volume, (ino, &text, handle), (size, len), &chance).await;
    }
    volume.release(handle);
}

/// Looks at a file of this size, the last `len` bytes of which were just written.
async fn look(
    volume: &Volume,
    (ino, text, handle): (InodeId, &str, Handle),
    (size, len): (u64, usize),
    chance: &Stream,
) {
    match chance.below(5) {
        0 => {
            // In order, so that what follows is read ahead; then to the end.
            let mut at = size.saturating_sub(len as u64 + chance.below(1_500_000));
            loop {
                let read = volume.read(handle, at, 128 << 10).await.expect("read");
                at += read.len() as u64;
                if read.is_empty() {
                    break;
                }
            }
            assert_eq!(at, size, "{text} was read to its end");
        }
        1 => {
            let found = volume.lookup(&ME, InodeId::ROOT, &name(text)).await.expect("answered");
            let Lookup::Found(found) = found else { panic!("{text} is missing") };
            assert_eq!(found.attr.size, size, "{text} was found");
        }
        2 => {
            let attr = volume.getattr(ino).await.expect("answered").0;
            assert_eq!(attr.size, size, "{text} was asked for");
        }
        _ => {
            let from = size.saturating_sub(len as u64 + chance.below(300_000));
            let read = volume.read(handle, from, 4 << 20).await.expect("read");
            assert_eq!(read.len() as u64, size - from, "{text} was read from {from}");
            assert!(read[read.len() - len..].iter().all(|byte| *byte == 7), "{text}");
        }
    }
}

#[test]
fn what_a_client_sees_of_its_own_file_never_goes_back() {
    for seed in 0..SEEDS {
        let setup = Setup::default();
        let stage = Stage::new(seed, setup, &formatted(&setup));
        stage.start(2);
        stage.client(move |world, volume| async move {
            let files = (0..FILES)
                .map(|file| extend_and_look(world.clone(), volume.clone(), file, Stream::new(seed * FILES + file)));
            gather(files, 4).await;
            volume.shutdown().await.expect("a clean end");
        });
        stage.stop();
    }
}
