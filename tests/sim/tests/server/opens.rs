//! What is open while others remove it, and requests of sessions that are over.

use crate::history::{ME, name};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use crate::takeover;
use cfs_seam::{Class, World, spawn};
use cfs_sim::Crash;
use cfs_types::{FsError, InodeId};
use cfs_volume::{Creation, Handle, Lookup, OpenFlags, RenameMode, Volume, WriteFlags};
use cfs_wire::AttrChange;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const ROOT: InodeId = InodeId::ROOT;
const WRITER: OpenFlags = OpenFlags { write: true, append: false, direct: false, sync: false };
const ROUNDS: usize = 150;

async fn create(volume: &Volume, dir: InodeId, text: &str) -> Result<(InodeId, Handle), FsError> {
    let how = Creation { mode: 0o644, exclusive: false, truncate: false, flags: WRITER };
    let made = volume.create(&ME, dir, &name(text), &how).await;
    made.map(|(entry, handle)| (entry.attr.ino, handle))
}

/// What is open can be written and read, whatever became of its name.
async fn use_open(volume: &Volume, handle: Handle) {
    assert_eq!(volume.write(handle, 0, b"mine", WriteFlags::default()).await, Ok(4));
    assert_eq!(volume.fsync(handle).await, Ok(()));
    assert_eq!(volume.read(handle, 0, 4).await.expect("it is open").to_vec(), b"mine");
}

/// One client opens `f` by its name or makes it, again and again, while others make and remove it.
fn race(seed: u64, cores: u16) -> usize {
    let setup = Setup::default();
    let stage = Stage::new(seed, setup, &formatted(&setup));
    stage.start(cores);
    let over = Rc::new(Cell::new(false));
    for makes in [true, false] {
        let done = over.clone();
        stage.begin_client(stage.options(), move |world, volume| async move {
            while !done.get() {
                if !makes {
                    let _missing = volume.unlink(&ME, ROOT, &name("f")).await;
                } else if let Ok((_, handle)) = create(&volume, ROOT, "f").await {
                    volume.release(handle);
                }
                cfs_seam::sleep(&world.clock, Duration::from_micros(world.rng.next_u64() % 1500)).await;
            }
        });
    }
    let opened = stage.client(move |world, volume| async move {
        let mut opened = 0;
        for round in 0..ROUNDS {
            if round % 3 == 0
                && let Ok((_, made)) = create(&volume, ROOT, "f").await
            {
                use_open(&volume, made).await;
                volume.release(made);
            }
            cfs_seam::sleep(&world.clock, Duration::from_micros(world.rng.next_u64() % 500)).await;
            let Ok(Lookup::Found(entry)) = volume.lookup(&ME, ROOT, &name("f")).await else { continue };
            match volume.open(&ME, entry.attr.ino, WRITER).await {
                Ok(handle) => {
                    use_open(&volume, handle).await;
                    volume.release(handle);
                    opened += 1;
                }
                Err(FsError::Stale | FsError::NotFound) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        opened
    });
    over.set(true);
    opened
}

#[test]
fn a_file_that_was_opened_outlives_its_last_name() {
    let opened: usize = (0..6).map(|seed| race(seed, 1 + u16::try_from(seed % 2).expect("small"))).sum();
    assert!(opened > ROUNDS / 4, "only {opened} times was it there to be opened");
}

/// Another client puts a new file in the place of `f` all the time, while `work` runs.
fn while_replaced<T: 'static, F: Future<Output = T> + 'static>(
    seed: u64,
    work: impl FnOnce(World, Rc<Volume>) -> F + 'static,
) -> T {
    let setup = Setup::default();
    let stage = Stage::new(seed, setup, &formatted(&setup));
    stage.start(1 + u16::try_from(seed % 2).expect("small"));
    let (begun, over) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let (first, done) = (begun.clone(), over.clone());
    stage.begin_client(stage.options(), move |world, volume| async move {
        while !done.get() {
            let (_, made) = create(&volume, ROOT, "new").await.expect("made");
            volume.release(made);
            volume.rename(&ME, (ROOT, &name("new")), (ROOT, &name("f")), RenameMode::Replace).await.expect("renamed");
            first.set(true);
            cfs_seam::sleep(&world.clock, Duration::from_micros(world.rng.next_u64() % 300)).await;
        }
    });
    assert!(stage.sim.run_until(LIMIT, || begun.get()));
    let result = stage.client(work);
    over.set(true);
    result
}

#[test]
fn what_was_looked_up_to_be_opened_is_not_gone_at_the_open() {
    for seed in 0..6 {
        let files = while_replaced(seed, |_, volume| async move {
            let mut files = BTreeSet::new();
            for round in 0..ROUNDS {
                let found = volume.lookup_to_open(&ME, ROOT, &name("f")).await;
                let Ok(Lookup::Found(entry)) = found else { panic!("round {round}: {found:?}") };
                let handle = volume.open(&ME, entry.attr.ino, WRITER).await.expect("it was there");
                use_open(&volume, handle).await;
                volume.release(handle);
                files.insert(entry.attr.ino);
            }
            files.len()
        });
        assert!(files > ROUNDS / 10, "it was replaced only {files} times");
    }
}

#[test]
fn what_two_open_at_once_is_open_for_both_or_for_neither() {
    let opened: usize = (0..6).map(|seed| while_replaced(seed, two_at_once)).sum();
    assert!(opened > ROUNDS / 4, "only {opened} times was it there to be opened");
}

/// Two open the same file, and use it if they could; how often.
async fn two_at_once(world: World, volume: Rc<Volume>) -> usize {
    let (running, opened) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    for _ in 0..ROUNDS {
        let Ok(Lookup::Found(entry)) = volume.lookup(&ME, ROOT, &name("f")).await else { continue };
        running.set(2);
        for _ in 0..2 {
            let (volume, running, opened) = (volume.clone(), running.clone(), opened.clone());
            let task = async move {
                if let Ok(handle) = volume.open(&ME, entry.attr.ino, WRITER).await {
                    use_open(&volume, handle).await;
                    volume.release(handle);
                    opened.set(opened.get() + 1);
                }
                running.set(running.get() - 1);
            };
            spawn(&world.tasks, Class::Foreground, task).detach();
        }
        while running.get() > 0 {
            cfs_seam::sleep(&world.clock, Duration::from_micros(50)).await;
        }
    }
    opened.get()
}

#[test]
fn a_file_that_lives_in_another_shard_is_pinned_there_by_create() {
    let setup = Setup::default();
    let stage = Stage::new(3, setup, &formatted(&setup));
    stage.start(3);
    stage.client(move |_, volume| async move {
        let other = volume.mkdir(&ME, ROOT, &name("other"), 0o755).await.expect("made").attr.ino;
        let (_, made) = create(&volume, other, "f").await.expect("made");
        volume.release(made);
        let (from, to) = (name("f"), name("g"));
        volume.rename(&ME, (other, &from), (ROOT, &to), RenameMode::Replace).await.expect("moved");
        let (ino, handle) = create(&volume, ROOT, "g").await.expect("opened");
        assert_ne!(ino.shard(), ROOT.shard());
        volume.unlink(&ME, ROOT, &to).await.expect("unlinked");
        use_open(&volume, handle).await;
    });
}

#[test]
fn two_names_that_go_at_once_leave_the_open_file() {
    for seed in 0..4 {
        let setup = Setup::default();
        let stage = Stage::new(seed, setup, &formatted(&setup));
        stage.start(1);
        stage.client(|world, volume| async move {
            for round in 0..40 {
                let (first, second) = (format!("a{round}"), format!("b{round}"));
                let (ino, handle) = create(&volume, ROOT, &first).await.expect("made");
                volume.link(&ME, ino, ROOT, &name(&second)).await.expect("linked");
                let left = Rc::new(Cell::new(2));
                for text in [first, second] {
                    let (volume, left) = (volume.clone(), left.clone());
                    let task = async move {
                        volume.unlink(&ME, ROOT, &name(&text)).await.expect("unlinked");
                        left.set(left.get() - 1);
                    };
                    spawn(&world.tasks, Class::Foreground, task).detach();
                }
                while left.get() > 0 {
                    cfs_seam::sleep(&world.clock, Duration::from_micros(100)).await;
                }
                use_open(&volume, handle).await;
                volume.release(handle);
            }
        });
    }
}

#[test]
fn what_a_session_asked_for_is_not_done_after_its_end() {
    let stage = takeover::stage(11);
    // Its lease delays whoever changes the file.
    let (silent, _node) = takeover::begin_silent(&stage, 0);
    let ino = silent.held.get().expect("it holds bytes of a file back");
    stage.client(move |world, volume| async move {
        let asking = volume.clone();
        let task = async move {
            let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
            let _unanswered = asking.setattr(&ME, ino, change).await;
        };
        spawn(&world.tasks, Class::Foreground, task).detach();
        cfs_seam::sleep(&world.clock, Duration::from_secs(1)).await;
        volume.shutdown().await.expect("a clean end");
    });
    stage.sim.run_for(LIMIT / 10);
    let mode = stage.client(|_, volume| async move {
        let found = volume.lookup(&ME, ROOT, &name("f")).await;
        let Ok(Lookup::Found(entry)) = found else { panic!("{found:?}") };
        entry.attr.mode
    });
    assert_eq!(mode, 0o644, "a request was executed after its session's end");
}

/// The link count of a file as a client knows it.
async fn links(volume: &Volume, ino: InodeId) -> u32 {
    volume.getattr(ino).await.expect("it is there").0.nlink
}

/// A link between shards is decided, the server dies at about this time and comes back, and another
/// client looks at the file all the while.
fn link_over_a_crash(seed: u64, crash_at: Duration) {
    let setup = Setup::default();
    let stage = Stage::new(seed, setup, &formatted(&setup));
    stage.start(2);
    let (dir, ino) = stage.client(|_, volume| async move {
        let dir = volume.mkdir(&ME, ROOT, &name("other"), 0o755).await.expect("made").attr.ino;
        let (ino, handle) = create(&volume, ROOT, "f").await.expect("made");
        volume.release(handle);
        volume.shutdown().await.expect("a clean end");
        (dir, ino)
    });
    let (begin, linked) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let (begun, done) = (begin.clone(), linked.clone());
    let looking = stage.begin_client(stage.options(), move |world, volume| async move {
        while !done.get() {
            links(&volume, ino).await;
            begun.set(true);
            cfs_seam::sleep(&world.clock, Duration::from_micros(20)).await;
        }
        links(&volume, ino).await
    });
    assert!(stage.sim.run_until(LIMIT, || begin.get()));
    let writing = stage.begin_client(stage.options(), move |_, volume| async move {
        volume.link(&ME, ino, dir, &name("g")).await.expect("linked");
        linked.set(true);
    });
    stage.sim.run_for(crash_at);
    stage.crash(Crash::Process);
    stage.start(2);
    assert!(stage.sim.run_until(LIMIT, || writing.borrow().is_some() && looking.borrow().is_some()));
    assert_eq!(looking.take(), Some(2), "crashed after {crash_at:?}, seed {seed}");
}

#[test]
fn a_commit_that_comes_after_a_restart_is_not_hidden_by_leases() {
    for step in 0..16 {
        link_over_a_crash(step, Duration::from_micros(500 + 220 * step));
    }
}

#[test]
fn opening_with_truncation_empties_what_another_client_has_just_written() {
    let setup = Setup::default();
    let stage = Stage::new(7, setup, &formatted(&setup));
    stage.start(2);
    let (written, over) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let (wrote, done) = (written.clone(), over.clone());
    stage.begin_client(stage.options(), move |world, volume| async move {
        let (_, handle) = create(&volume, ROOT, "f").await.expect("made");
        assert_eq!(volume.write(handle, 0, b"old", WriteFlags::default()).await, Ok(3));
        wrote.set(true);
        while !done.get() {
            cfs_seam::sleep(&world.clock, Duration::from_millis(1)).await;
        }
        volume.release(handle);
    });
    // The first client exists before the second one, which finds its bytes still held back.
    let content = stage.client(move |world, volume| async move {
        while !written.get() {
            cfs_seam::sleep(&world.clock, Duration::from_micros(50)).await;
        }
        let how = Creation { mode: 0o644, exclusive: false, truncate: true, flags: WRITER };
        let (_, handle) = volume.create(&ME, ROOT, &name("f"), &how).await.expect("opened");
        volume.read(handle, 0, 10).await.expect("read").to_vec()
    });
    over.set(true);
    assert_eq!(content, b"");
}
