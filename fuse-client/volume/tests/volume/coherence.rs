//! What another client changed is not hidden by an answer that was on its way meanwhile.

use crate::fake::{Fake, Kernel, ino, name, stage};
use cfs_seam::{Class, World, sleep, spawn};
use cfs_types::{InodeId, Nanos};
use cfs_volume::{Creation, Entry, Lookup, OpenFlags, Volume};
use cfs_wire::{Identity, LeaseKind, Op, Opcode};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// Two answers that arrive together are worked on in either order.
const SEEDS: u64 = 200;
const ME: Identity = Identity { uid: 0, gid: 0 };

async fn lookup(volume: &Volume, text: &str) -> Lookup {
    volume.lookup(&ME, InodeId::ROOT, &name(text)).await.expect("answered")
}

fn found(lookup: &Lookup) -> &Entry {
    let Lookup::Found(entry) = lookup else { panic!("missing") };
    entry
}

fn lookup_opcode() -> Opcode {
    Op::Lookup { dir: InodeId::ROOT, name: name("a") }.opcode()
}
fn getattr_opcode() -> Opcode {
    Op::Getattr { ino: ino(1) }.opcode()
}
fn read_opcode() -> Opcode {
    Op::Read { ino: ino(1), offset: 0, len: 1, epoch: 0, sequence: 0 }.opcode()
}

fn is_read(op: &Op) -> bool {
    matches!(op, Op::Read { .. })
}

/// Begins `work`, whose request of this kind is executed and answered when [`Fake::release`] says so.
async fn begin<T: 'static>(
    world: &World,
    fake: &Fake,
    opcode: Opcode,
    work: impl Future<Output = T> + 'static,
) -> Rc<RefCell<Option<T>>> {
    let (before, done) = (fake.held(), Rc::new(RefCell::new(None)));
    let result = done.clone();
    fake.hold.set(Some(opcode));
    spawn(&world.tasks, Class::Foreground, async move {
        let value = work.await;
        *result.borrow_mut() = Some(value);
    })
    .detach();
    while fake.held() == before {
        sleep(&world.clock, Duration::from_micros(100)).await;
    }
    done
}

async fn finish<T>(world: &World, done: &Rc<RefCell<Option<T>>>) -> T {
    while done.borrow().is_none() {
        sleep(&world.clock, Duration::from_micros(100)).await;
    }
    done.take().expect("it is there")
}

/// Another client changes the content of file 1.
fn rewrite(fake: &Fake, bytes: &[u8]) {
    let mut files = fake.files.borrow_mut();
    let file = files.get_mut(&ino(1)).expect("exists");
    file.bytes = bytes.to_vec();
    file.attr.size = bytes.len() as u64;
    file.attr.change += 1;
    file.attr.mtime = Nanos::new(file.attr.mtime.get() + 1);
}

/// A lookup is answered without a lease because `change` is under way, the next of the same directory
/// after it with one; both answers come together.
fn around_a_change(first: &'static str, change: fn(&Fake), check: fn(Lookup)) {
    for seed in 0..SEEDS {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume) = stage(&world).await;
            let asking = volume.clone();
            let one = begin(&world, &fake, lookup_opcode(), async move { lookup(&asking, first).await }).await;
            change(&fake);
            fake.lease.set(Some(LeaseKind::Shared));
            let asking = volume.clone();
            let two = begin(&world, &fake, lookup_opcode(), async move { lookup(&asking, "z").await }).await;
            fake.release();
            finish(&world, &one).await;
            finish(&world, &two).await;
            check(lookup(&volume, first).await);
        });
    }
}

#[test]
fn a_name_told_during_a_change_is_not_kept_under_the_lease_that_follows() {
    let rename = |fake: &Fake| {
        let gone = fake.names.borrow_mut().remove(&(InodeId::ROOT, name("a"))).expect("exists");
        fake.enter(InodeId::ROOT, &name("b"), gone);
    };
    around_a_change("a", rename, |seen| assert!(matches!(seen, Lookup::Missing { .. }), "{seen:?}"));
}

#[test]
fn an_absence_told_during_a_change_is_not_kept_under_the_lease_that_follows() {
    let link = |fake: &Fake| fake.enter(InodeId::ROOT, &name("b"), ino(1));
    around_a_change("b", link, |seen| assert!(matches!(seen, Lookup::Found(_)), "{seen:?}"));
}

#[test]
fn attributes_told_during_a_change_are_not_kept_under_the_lease_that_follows() {
    for seed in 0..SEEDS {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume) = stage(&world).await;
            let handle = volume.open(&ME, ino(1), OpenFlags::default()).await.expect("open");
            let asking = volume.clone();
            let one = begin(&world, &fake, lookup_opcode(), async move { lookup(&asking, "a").await }).await;
            rewrite(&fake, b"what is there now");
            fake.lease.set(Some(LeaseKind::Shared));
            let asking = volume.clone();
            let two = begin(&world, &fake, read_opcode(), async move { asking.read(handle, 0, 100).await }).await;
            fake.release();
            finish(&world, &one).await;
            finish(&world, &two).await.expect("read");
            assert_eq!(volume.getattr(ino(1)).await.expect("answered").0.size, 17);
        });
    }
}

#[test]
fn answers_that_bring_their_lease_are_kept_in_whichever_order_they_come() {
    for seed in 0..SEEDS {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume) = stage(&world).await;
            fake.lease.set(Some(LeaseKind::Shared));
            let mut running = Vec::new();
            for text in ["a", "y", "z"] {
                let asking = volume.clone();
                let work = async move { lookup(&asking, text).await };
                running.push(begin(&world, &fake, lookup_opcode(), work).await);
            }
            fake.release();
            for one in &running {
                finish(&world, one).await;
            }
            let asked = fake.log.borrow().len();
            for text in ["a", "y", "z"] {
                lookup(&volume, text).await;
            }
            volume.getattr(ino(1)).await.expect("answered");
            assert_eq!(fake.log.borrow().len(), asked);
        });
    }
}

/// Something of which the last question is held, while the directory is revoked: the name holds for no time.
fn revoked_while_waiting<F: Future<Output = Entry> + 'static>(opcode: Opcode, work: fn(Rc<Volume>) -> F) {
    cfs_sim::run(1, |world| async move {
        let (fake, volume) = stage(&world).await;
        fake.bare_entries.set(opcode == getattr_opcode());
        fake.lease.set(Some(LeaseKind::Shared));
        let waiting = begin(&world, &fake, opcode, work(volume.clone())).await;
        fake.revoke(InodeId::ROOT).await;
        fake.release();
        assert_eq!(finish(&world, &waiting).await.entry_ttl, Duration::ZERO);
    });
}

#[test]
fn a_name_revoked_while_its_attributes_are_asked_for_holds_for_no_time() {
    revoked_while_waiting(getattr_opcode(), |volume| async move { found(&lookup(&volume, "a").await).clone() });
}

fn creation(truncate: bool) -> Creation {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    Creation { mode: 0o644, exclusive: false, truncate, flags }
}

#[test]
fn a_name_made_and_revoked_while_its_attributes_are_asked_for_holds_for_no_time() {
    revoked_while_waiting(getattr_opcode(), |volume| async move {
        lookup(&volume, "new").await;
        volume.create(&ME, InodeId::ROOT, &name("new"), &creation(false)).await.expect("made").0
    });
}

#[test]
fn a_read_that_another_change_overtakes_asks_again() {
    for seed in 0..20 {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume) = stage(&world).await;
            fake.lease.set(Some(LeaseKind::Shared));
            let handle = volume.open(&ME, ino(1), OpenFlags::default()).await.expect("open");
            let asking = volume.clone();
            let read = begin(&world, &fake, read_opcode(), async move { asking.read(handle, 0, 100).await }).await;
            fake.revoke(ino(1)).await;
            rewrite(&fake, b"new content");
            fake.release();
            assert_eq!(&finish(&world, &read).await.expect("read")[..], b"new content");
        });
    }
}

#[test]
fn a_read_begun_under_a_lease_is_answered_while_that_is_given_up() {
    cfs_sim::run(1, |world| async move {
        let (fake, volume) = stage(&world).await;
        let kernel = Kernel::of(&volume);
        fake.lease.set(Some(LeaseKind::Shared));
        let handle = volume.open(&ME, ino(1), OpenFlags::default()).await.expect("open");
        let asking = volume.clone();
        let read = begin(&world, &fake, read_opcode(), async move { asking.read(handle, 0, 100).await }).await;
        // The kernel forgets the page only when it has been filled.
        kernel.stuck.set(true);
        let (revoking, over) = (fake.clone(), Rc::new(Cell::new(false)));
        let ended = over.clone();
        spawn(&world.tasks, Class::Foreground, async move {
            revoking.revoke(ino(1)).await;
            ended.set(true);
        })
        .detach();
        while kernel.inodes.borrow().is_empty() {
            sleep(&world.clock, Duration::from_micros(100)).await;
        }
        fake.release();
        assert_eq!(&finish(&world, &read).await.expect("read")[..], b"old content");
        assert!(!over.get());
        assert_eq!(fake.count(is_read), 1);
    });
}

#[test]
fn pages_filled_while_the_kernel_forgets_are_forgotten_before_it_hears_of_newer_attributes() {
    cfs_sim::run(1, |world| async move {
        let (fake, volume) = stage(&world).await;
        let kernel = Kernel::of(&volume);
        fake.lease.set(Some(LeaseKind::Shared));
        let handle = volume.open(&ME, ino(1), OpenFlags::default()).await.expect("open");
        kernel.stuck.set(true);
        let (revoking, over) = (fake.clone(), Rc::new(Cell::new(false)));
        let ended = over.clone();
        spawn(&world.tasks, Class::Foreground, async move {
            // As long as the client has not answered, no lease is given.
            revoking.lease.set(None);
            revoking.revoke(ino(1)).await;
            rewrite(&revoking, b"new content");
            revoking.lease.set(Some(LeaseKind::Shared));
            ended.set(true);
        })
        .detach();
        while kernel.inodes.borrow().is_empty() {
            sleep(&world.clock, Duration::from_micros(100)).await;
        }
        assert_eq!(&volume.read(handle, 4, 7).await.expect("read")[..], b"content");
        assert!(!over.get());
        while kernel.pages.borrow().is_empty() {
            sleep(&world.clock, Duration::from_micros(10)).await;
        }
        assert_eq!(*kernel.pages.borrow(), [(ino(1), 4, 7)]);
        while !over.get() {
            sleep(&world.clock, Duration::from_micros(100)).await;
        }
        let (entry, asked) = (lookup(&volume, "a").await, world.clock.now());
        assert_eq!(found(&entry).attr_ttl, Duration::ZERO);
        volume.getattr(ino(1)).await.expect("answered");
        assert!(world.clock.now().since(asked) >= Duration::from_millis(250));
        assert_eq!(&volume.read(handle, 0, 100).await.expect("read")[..], b"new content");
    });
}

#[test]
fn what_is_read_with_a_lease_of_its_own_stays_in_the_kernel() {
    cfs_sim::run(1, |world| async move {
        let (fake, volume) = stage(&world).await;
        let kernel = Kernel::of(&volume);
        let handle = volume.open(&ME, ino(1), OpenFlags::default()).await.expect("open");
        fake.lease.set(Some(LeaseKind::Shared));
        volume.read(handle, 0, 100).await.expect("read");
        assert!(kernel.inodes.borrow().is_empty());
        assert_eq!(fake.count(is_read), 1);
    });
}

#[test]
fn what_no_lease_can_be_had_for_is_read_and_kept_out_of_the_kernel() {
    cfs_sim::run(1, |world| async move {
        let (fake, volume) = stage(&world).await;
        let kernel = Kernel::of(&volume);
        let handle = volume.open(&ME, ino(1), OpenFlags::default()).await.expect("open");
        assert_eq!(&volume.read(handle, 0, 100).await.expect("read")[..], b"old content");
        assert_eq!(*kernel.inodes.borrow(), [ino(1)]);
        // To try again each time would be in vain.
        let asked = fake.count(is_read);
        volume.read(handle, 0, 100).await.expect("read");
        assert_eq!((kernel.inodes.borrow().len(), fake.count(is_read)), (2, asked + 1));
    });
}
