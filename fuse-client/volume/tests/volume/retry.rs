//! Lost replies, restarts, expired sessions.

use crate::fake::{Fake, address, ino, name, secret, stage};
use cfs_seam::{Class, sleep, spawn};
use cfs_types::{FsError, InodeId, ShardId, Timestamp};
use cfs_volume::{Creation, OpenFlags, Patience, Volume, VolumeError, VolumeOptions, WriteFlags};
use cfs_wire::{AttrChange, Identity, Op, Secret};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const WRITER: OpenFlags = OpenFlags { write: true, append: false, direct: false, sync: false };

fn creation() -> Creation {
    Creation { mode: 0o600, exclusive: true, truncate: false, flags: WRITER }
}

#[test]
fn a_lost_reply_is_asked_for_again_under_the_same_number() {
    cfs_sim::run(1, |world| async move {
        let (fake, volume) = stage(&world).await;
        fake.lose_replies.set(2);
        let who = Identity { uid: 5, gid: 6 };
        let (entry, handle) = volume.create(&who, InodeId::ROOT, &name("new"), &creation()).await.expect("made");
        let creates: Vec<_> = fake.log.borrow().iter().filter(|r| matches!(r.op, Op::Create { .. })).cloned().collect();
        assert_eq!(creates.len(), 3);
        assert!(creates.iter().all(|r| r.context.number == creates[0].context.number && r.context.identity == who));
        assert_eq!(entry.attr.ino, ino(100), "made once");
        let number = creates[0].context.number;
        volume.write(handle, 0, b"x", WriteFlags::default()).await.expect("written");
        let log = fake.log.borrow();
        let write = log.iter().find(|r| matches!(r.op, Op::Write { .. })).expect("sent");
        assert!(write.context.number > number);
        assert!(write.context.oldest > number, "the create's result may be forgotten");
    });
}

#[test]
fn an_append_whose_reply_is_lost_is_written_once() {
    for seed in 0..20 {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume) = stage(&world).await;
            let flags = OpenFlags { append: true, ..WRITER };
            let handle = volume.open(&Identity::default(), ino(1), flags).await.expect("open");
            fake.lose_replies.set(1);
            volume.write(handle, 0, b"+one", WriteFlags::default()).await.expect("written");
            assert_eq!(fake.files.borrow()[&ino(1)].bytes, b"old content+one");
        });
    }
}

#[test]
fn after_a_restart_open_files_are_pinned_before_anything_else() {
    cfs_sim::run(2, |world| async move {
        let (fake, volume) = stage(&world).await;
        let handle = volume.open(&Identity::default(), ino(1), WRITER).await.expect("open");
        fake.log.borrow_mut().clear();
        fake.restart();
        volume.getattr(ino(1)).await.expect("answered");
        let first: Vec<Op> = fake.log.borrow().iter().take(2).map(|request| request.op.clone()).collect();
        let seen = [0, 1, 7].map(|shard| (ShardId::new(shard), 1, Timestamp::new(1)));
        assert_eq!(first[0], Op::Reopen { inodes: vec![ino(1)], last: true, seen: seen.to_vec() });
        assert!(matches!(first[1], Op::Open { ino: opened, .. } if opened == ino(1)), "{first:?}");
        volume.release(handle);
        sleep(&world.clock, Duration::from_secs(1)).await;
        assert_eq!(fake.count(|op| matches!(op, Op::Close { .. })), 1);
    });
}

#[test]
fn a_mutation_of_unknown_outcome_in_an_expired_session_fails_and_others_go_on() {
    cfs_sim::run(3, |world| async move {
        let (fake, volume) = stage(&world).await;
        let before = volume.session();
        fake.hold.set(Some(Op::Unlink { dir: InodeId::ROOT, name: name("a") }.opcode()));
        let outcome = Rc::new(RefCell::new(None));
        let (slow, out) = (volume.clone(), outcome.clone());
        spawn(&world.tasks, Class::Foreground, async move {
            let result = slow.unlink(&Identity::default(), InodeId::ROOT, &name("a")).await;
            *out.borrow_mut() = Some(result);
        })
        .detach();
        while fake.held() == 0 {
            sleep(&world.clock, Duration::from_millis(1)).await;
        }
        fake.hold.set(None);
        fake.expire_sessions();
        volume.getattr(ino(1)).await.expect("a read may be asked twice");
        let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
        volume.setattr(&Identity::default(), ino(1), change).await.expect("under the new session");
        assert_ne!(volume.session(), before);
        while outcome.borrow().is_none() {
            sleep(&world.clock, Duration::from_millis(1)).await;
        }
        assert_eq!(outcome.take(), Some(Err(FsError::SessionExpired)));
    });
}

#[test]
fn a_soft_volume_gives_up_and_a_hard_one_waits() {
    cfs_sim::run(4, |world| async move {
        let fake = Fake::start(&world);
        fake.add(ino(1), cfs_wire::FileKind::File, b"");
        let mut options = VolumeOptions::new(vec![address()], Some(secret()));
        let hard = Volume::connect(world.clone(), options.clone()).await.expect("connected");
        options.patience = Patience::Soft(Duration::from_secs(3));
        let soft = Volume::connect(world.clone(), options).await.expect("connected");
        fake.hold.set(Some(Op::Getattr { ino: ino(1) }.opcode()));
        let start = world.clock.now();
        assert_eq!(soft.getattr(ino(1)).await, Err(FsError::TimedOut));
        let waited = world.clock.now().since(start);
        assert!(waited >= Duration::from_secs(3) && waited < Duration::from_secs(4));
        let done = Rc::new(RefCell::new(false));
        let flag = done.clone();
        spawn(&world.tasks, Class::Foreground, async move {
            hard.getattr(ino(1)).await.expect("in the end");
            *flag.borrow_mut() = true;
        })
        .detach();
        sleep(&world.clock, Duration::from_secs(300)).await;
        assert!(!*done.borrow());
        fake.release();
        sleep(&world.clock, Duration::from_secs(60)).await;
        assert!(*done.borrow());
    });
}

#[test]
fn without_the_secret_there_is_no_volume() {
    cfs_sim::run(5, |world| async move {
        let _fake = Fake::start(&world);
        for secret in [None, Secret::new(b"another secret altogether")] {
            let options = VolumeOptions::new(vec![address()], secret);
            let refused = Volume::connect(world.clone(), options).await.err();
            assert!(matches!(refused, Some(VolumeError::Connect { .. })), "{refused:?}");
        }
    });
}

#[test]
fn shutdown_writes_back_and_closes_the_session() {
    cfs_sim::run(6, |world| async move {
        let (fake, volume) = stage(&world).await;
        fake.lease.set(Some(cfs_wire::LeaseKind::Exclusive));
        let handle = volume.open(&Identity::default(), ino(1), WRITER).await.expect("open");
        volume.write(handle, 0, b"NEW", WriteFlags::default()).await.expect("held back");
        assert_eq!(fake.count(|op| matches!(op, Op::Write { .. })), 0);
        volume.shutdown().await.expect("clean");
        assert_eq!(fake.files.borrow()[&ino(1)].bytes, b"NEW content");
        assert_eq!(fake.count(|op| *op == Op::CloseSession), 1);
        assert_eq!(volume.getattr(ino(1)).await, Err(FsError::Stale));
    });
}
