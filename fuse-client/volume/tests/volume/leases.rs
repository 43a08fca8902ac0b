//! What is kept under leases, and what a revocation takes away.

use crate::fake::{Kernel, ino, name, stage};
use cfs_seam::{Class, sleep, spawn};
use cfs_types::{FsError, InodeId};
use cfs_volume::{Creation, Lookup, OpenFlags, Volume};
use cfs_wire::{FileKind, Identity, LeaseKind, Op, XattrMode};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

async fn lookup(volume: &Volume, text: &str) -> Lookup {
    volume.lookup(&Identity::default(), InodeId::ROOT, &name(text)).await.expect("answered")
}

fn is_getattr(op: &Op) -> bool {
    matches!(op, Op::Getattr { .. })
}
fn is_lookup(op: &Op) -> bool {
    matches!(op, Op::Lookup { .. })
}

#[test]
fn without_a_lease_nothing_is_kept() {
    cfs_sim::run(1, |world| async move {
        let (fake, volume) = stage(&world).await;
        for _ in 0..3 {
            let Lookup::Found(entry) = lookup(&volume, "a").await else { panic!("exists") };
            assert_eq!((entry.entry_ttl, entry.attr_ttl), (Duration::ZERO, Duration::ZERO));
            assert_eq!(lookup(&volume, "b").await, Lookup::Missing { ttl: Duration::ZERO });
        }
        assert_eq!(fake.count(is_lookup), 6);
    });
}

#[test]
fn names_present_and_absent_and_attributes_are_answered_from_memory() {
    cfs_sim::run(2, |world| async move {
        let (fake, volume) = stage(&world).await;
        fake.lease.set(Some(LeaseKind::Shared));
        for _ in 0..3 {
            let Lookup::Found(entry) = lookup(&volume, "a").await else { panic!("exists") };
            assert!(entry.entry_ttl > Duration::ZERO && entry.entry_ttl <= Duration::from_secs(2));
            assert!(entry.attr_ttl > Duration::ZERO && entry.attr_ttl <= Duration::from_secs(2));
            assert!(matches!(lookup(&volume, "b").await, Lookup::Missing { ttl } if ttl > Duration::ZERO));
            volume.getattr(ino(1)).await.expect("answered");
        }
        assert_eq!(fake.count(is_lookup), 2);
        assert_eq!(fake.count(|op| matches!(op, Op::Getattr { ino: asked } if *asked == ino(1))), 0);
    });
}

#[test]
fn a_lease_in_use_is_renewed_and_one_that_is_not_ends() {
    cfs_sim::run(3, |world| async move {
        let (fake, volume) = stage(&world).await;
        fake.lease.set(Some(LeaseKind::Shared));
        lookup(&volume, "a").await;
        for _ in 0..50 {
            sleep(&world.clock, Duration::from_millis(200)).await;
            lookup(&volume, "a").await;
        }
        assert_eq!(fake.count(is_lookup), 1, "ten seconds under one grant");
        sleep(&world.clock, Duration::from_secs(10)).await;
        lookup(&volume, "a").await;
        assert_eq!(fake.count(is_lookup), 2);
    });
}

#[test]
fn a_revocation_takes_everything_and_names_what_the_kernel_may_know() {
    cfs_sim::run(4, |world| async move {
        let (fake, volume) = stage(&world).await;
        let kernel = Kernel::of(&volume);
        fake.lease.set(Some(LeaseKind::Shared));
        lookup(&volume, "a").await;
        lookup(&volume, "b").await;
        assert!(!fake.revoke(InodeId::ROOT).await.pinned);
        assert_eq!(*kernel.inodes.borrow(), [InodeId::ROOT]);
        let mut told = kernel.entries.borrow().clone();
        told.sort();
        assert_eq!(told, [(InodeId::ROOT, name("a")), (InodeId::ROOT, name("b"))]);
        lookup(&volume, "a").await;
        assert_eq!(fake.count(is_lookup), 3);
        let flags = OpenFlags::default();
        let handle = volume.open(&Identity::default(), ino(1), flags).await.expect("open");
        assert!(fake.revoke(ino(1)).await.pinned);
        volume.release(handle);
        assert!(!fake.revoke(ino(1)).await.pinned);
    });
}

#[test]
fn a_kernel_that_cannot_forget_is_told_to_ask_again() {
    cfs_sim::run(4, |world| async move {
        let (fake, volume) = stage(&world).await;
        let kernel = Kernel::of(&volume);
        fake.lease.set(Some(LeaseKind::Shared));
        lookup(&volume, "a").await;
        fake.revoke(InodeId::ROOT).await;
        assert!(kernel.distrusted.borrow().is_empty());
        kernel.stuck.set(true);
        fake.revoke(InodeId::ROOT).await;
        assert_eq!(*kernel.distrusted.borrow(), [InodeId::ROOT]);
    });
}

/// Revokes inode 1 while what tells the kernel gets no CPU for so long; when that was answered.
fn answered_while_starved(starved: Duration) -> Duration {
    let answered = Rc::new(Cell::new(Duration::ZERO));
    let told = answered.clone();
    cfs_sim::run(4, |world| async move {
        let (fake, volume) = stage(&world).await;
        let kernel = Kernel::of(&volume);
        fake.lease.set(Some(LeaseKind::Shared));
        let who = Identity::default();
        let _handle = volume.open(&who, ino(1), OpenFlags::default()).await.expect("open");
        *kernel.starved.borrow_mut() = Some((world.clone(), starved));
        let begun = world.clock.now();
        fake.revoke(ino(1)).await;
        told.set(world.clock.now().since(begun));
    });
    answered.get()
}

#[test]
fn a_revocation_is_answered_once_a_kernel_that_waits_for_no_lock_has_forgotten() {
    let starved = Duration::from_millis(200);
    assert!(answered_while_starved(starved) >= starved);
    let answered = answered_while_starved(Duration::from_secs(60));
    assert!(answered < Duration::from_secs(2), "longer than a lease: {answered:?}");
}

#[test]
fn a_reply_that_was_asked_for_before_a_revocation_is_not_kept() {
    for seed in 0..20 {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume) = stage(&world).await;
            fake.lease.set(Some(LeaseKind::Shared));
            fake.hold.set(Some(Op::Getattr { ino: ino(1) }.opcode()));
            let asking = volume.clone();
            spawn(&world.tasks, Class::Foreground, async move {
                let (_, ttl) = asking.getattr(ino(1)).await.expect("answered");
                assert_eq!(ttl, Duration::ZERO, "the lease in the reply is void");
            })
            .detach();
            while fake.held() == 0 {
                sleep(&world.clock, Duration::from_millis(1)).await;
            }
            fake.revoke(ino(1)).await;
            fake.files.borrow_mut().get_mut(&ino(1)).expect("exists").attr.size = 77;
            fake.release();
            sleep(&world.clock, Duration::from_millis(50)).await;
            let (attr, _) = volume.getattr(ino(1)).await.expect("answered");
            assert_eq!(attr.size, 77);
        });
    }
}

#[test]
fn a_restart_of_the_server_voids_leases() {
    cfs_sim::run(6, |world| async move {
        let (fake, volume) = stage(&world).await;
        let kernel = Kernel::of(&volume);
        fake.lease.set(Some(LeaseKind::Shared));
        lookup(&volume, "a").await;
        let reopened = || fake.count(|op| matches!(op, Op::Reopen { .. }));
        let before = reopened();
        fake.restart();
        while reopened() == before {
            sleep(&world.clock, Duration::from_micros(10)).await;
        }
        assert!(kernel.distrusted.borrow().contains(&InodeId::ROOT), "before others are let in");
        assert_eq!(*kernel.entries.borrow(), [(InodeId::ROOT, name("a"))]);
        lookup(&volume, "a").await;
        assert_eq!(fake.count(is_lookup), 2);
    });
}

#[test]
fn own_changes_of_names_are_seen_at_once() {
    cfs_sim::run(7, |world| async move {
        let (fake, volume) = stage(&world).await;
        fake.lease.set(Some(LeaseKind::Shared));
        assert!(matches!(lookup(&volume, "a").await, Lookup::Found(_)));
        volume.unlink(&Identity::default(), InodeId::ROOT, &name("a")).await.expect("removed");
        assert!(matches!(lookup(&volume, "a").await, Lookup::Missing { .. }));
        let getattrs = fake.count(is_getattr);
        volume.getattr(ino(1)).await.expect("still there in this server");
        assert_eq!(fake.count(is_getattr), getattrs + 1, "its link count has changed");
    });
}

fn creation() -> Creation {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    Creation { mode: 0o644, exclusive: true, truncate: false, flags }
}

#[test]
fn of_a_directory_seen_empty_every_name_is_known() {
    cfs_sim::run(8, |world| async move {
        let (fake, volume) = stage(&world).await;
        let kernel = Kernel::of(&volume);
        let (who, dir) = (Identity::default(), ino(2));
        fake.add(dir, FileKind::Directory, b"");
        fake.lease.set(Some(LeaseKind::Shared));
        volume.getattr(dir).await.expect("answered");
        for text in ["x", "y"] {
            let absent = volume.lookup(&who, dir, &name(text)).await.expect("answered");
            assert!(matches!(absent, Lookup::Missing { ttl } if ttl > Duration::ZERO));
            volume.create(&who, dir, &name(text), &creation()).await.expect("made");
            let found = volume.lookup(&who, dir, &name(text)).await.expect("answered");
            assert!(matches!(found, Lookup::Found(_)), "{text}");
        }
        assert!(matches!(volume.lookup(&who, dir, &name("z")).await, Ok(Lookup::Missing { .. })));
        assert_eq!(fake.count(is_lookup), 0);
        // The kernel was told of z too: it has to forget it, and the next look asks.
        fake.revoke(dir).await;
        assert!(kernel.entries.borrow().contains(&(dir, name("z"))));
        fake.add(ino(3), FileKind::File, b"");
        fake.enter(dir, &name("z"), ino(3));
        assert!(matches!(volume.lookup(&who, dir, &name("z")).await, Ok(Lookup::Found(_))));
    });
}

#[test]
fn a_directory_that_lost_a_name_is_asked_again() {
    cfs_sim::run(9, |world| async move {
        let (fake, volume) = stage(&world).await;
        let (who, dir) = (Identity::default(), ino(2));
        fake.add(dir, FileKind::Directory, b"");
        fake.lease.set(Some(LeaseKind::Shared));
        volume.getattr(dir).await.expect("answered");
        volume.create(&who, dir, &name("x"), &creation()).await.expect("made");
        volume.unlink(&who, dir, &name("x")).await.expect("removed");
        assert!(matches!(volume.lookup(&who, dir, &name("x")).await, Ok(Lookup::Missing { .. })));
        assert_eq!(fake.count(is_lookup), 1);
    });
}

#[test]
fn own_creates_change_what_is_known_of_their_directory_as_the_server_does() {
    cfs_sim::run(10, |world| async move {
        let (fake, volume) = stage(&world).await;
        let (who, dir) = (Identity::default(), ino(2));
        fake.add(dir, FileKind::Directory, b"");
        fake.lease.set(Some(LeaseKind::Shared));
        volume.getattr(dir).await.expect("answered");
        let asked = fake.count(is_getattr);
        for text in ["x", "y"] {
            volume.lookup(&who, dir, &name(text)).await.expect("answered");
            volume.create(&who, dir, &name(text), &creation()).await.expect("made");
            let (attr, _) = volume.getattr(dir).await.expect("answered");
            assert_eq!(attr, fake.files.borrow()[&dir].attr);
        }
        assert_eq!(fake.count(is_getattr), asked);
    });
}

#[test]
fn a_new_file_has_no_extended_attributes_until_it_is_given_one() {
    cfs_sim::run(11, |world| async move {
        let (fake, volume) = stage(&world).await;
        let who = Identity::default();
        fake.lease.set(Some(LeaseKind::Exclusive));
        let (entry, _) = volume.create(&who, InodeId::ROOT, &name("new"), &creation()).await.expect("made");
        let file = entry.attr.ino;
        assert_eq!(volume.getxattr(file, b"security.capability").await, Err(FsError::NoAttribute));
        assert_eq!(volume.listxattr(file).await, Ok(Vec::new()));
        let is_asked = |op: &Op| matches!(op, Op::GetXattr { .. } | Op::ListXattr { .. });
        assert_eq!(fake.count(is_asked), 0);
        volume.setxattr(&who, file, b"user.a", b"1", XattrMode::Set).await.expect("set");
        assert_eq!(volume.getxattr(file, b"user.b").await, Err(FsError::NoAttribute));
        assert_eq!(fake.count(is_asked), 1);
    });
}
