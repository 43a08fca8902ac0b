//! Bytes held back: when they are sent, seen, given up and lost.

use crate::fake::{Fake, Kernel, ino, stage};
use cfs_seam::{Class, World, sleep, spawn};
use cfs_types::FsError;
use cfs_volume::{Handle, OpenFlags, Volume, WriteFlags};
use cfs_wire::{AttrChange, Identity, LeaseKind, Op};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const WRITER: OpenFlags = OpenFlags { write: true, append: false, direct: false, sync: false };

async fn exclusive(world: &World) -> (Rc<Fake>, Rc<Volume>, Handle) {
    let (fake, volume) = stage(world).await;
    fake.lease.set(Some(LeaseKind::Exclusive));
    let handle = volume.open(&Identity::default(), ino(1), WRITER).await.expect("open");
    (fake, volume, handle)
}

async fn write(volume: &Volume, handle: Handle, offset: u64, data: &[u8]) {
    let written = volume.write(handle, offset, data, WriteFlags::default()).await;
    assert_eq!(written, Ok(data.len()));
}

fn writes(fake: &Fake) -> usize {
    fake.count(|op| matches!(op, Op::Write { .. }))
}
fn stored(fake: &Fake) -> Vec<u8> {
    fake.files.borrow()[&ino(1)].bytes.clone()
}

#[test]
fn without_an_exclusive_lease_writes_go_through() {
    cfs_sim::run(1, |world| async move {
        let (fake, volume) = stage(&world).await;
        fake.lease.set(Some(LeaseKind::Shared));
        let handle = volume.open(&Identity::default(), ino(1), WRITER).await.expect("open");
        write(&volume, handle, 0, b"new").await;
        assert_eq!(stored(&fake), b"new content");
        fake.write_error.set(Some(FsError::NoSpace));
        let refused = volume.write(handle, 0, b"x", WriteFlags::default()).await;
        assert_eq!(refused, Err(FsError::NoSpace));
        assert_eq!(volume.fsync(handle).await, Ok(()), "the writer was told");
    });
}

/// The bound of docs/OPERATIONS.md.
#[test]
fn no_byte_waits_longer_than_half_a_second_however_busy_its_file_is() {
    cfs_sim::run(11, |world| async move {
        let (fake, volume, handle) = exclusive(&world).await;
        for tick in 0..100_u8 {
            write(&volume, handle, 0, &[tick]).await;
            sleep(&world.clock, Duration::from_millis(20)).await;
            let seen = stored(&fake)[0];
            assert!(tick < 25 || (tick - 25..=tick).contains(&seen), "{tick} was written, {seen} has arrived");
        }
        assert!(writes(&fake) < 20, "and yet they wait for each other: {} requests", writes(&fake));
    });
}

#[test]
fn held_back_bytes_are_seen_and_leave_together() {
    cfs_sim::run(2, |world| async move {
        let (fake, volume, handle) = exclusive(&world).await;
        for i in 0..64 {
            write(&volume, handle, 11 + i * 100, &[b'a' + u8::try_from(i % 26).expect("small"); 100]).await;
        }
        assert_eq!(writes(&fake), 0);
        let (attr, _) = volume.getattr(ino(1)).await.expect("known");
        assert_eq!(attr.size, 11 + 6400);
        let read = volume.read(handle, 4, 57).await.expect("read");
        assert_eq!(&read[..7], b"content");
        assert_eq!(&read[7..], &[b'a'; 50]);
        volume.fsync(handle).await.expect("durable");
        assert_eq!(writes(&fake), 1);
        assert_eq!(stored(&fake).len(), 11 + 6400);
        let (attr, _) = volume.getattr(ino(1)).await.expect("known");
        assert_eq!(attr.size, 11 + 6400);
    });
}

#[test]
fn what_nobody_syncs_is_written_soon() {
    cfs_sim::run(3, |world| async move {
        let (fake, volume, handle) = exclusive(&world).await;
        write(&volume, handle, 0, b"new").await;
        sleep(&world.clock, Duration::from_secs(1)).await;
        assert_eq!(stored(&fake), b"new content");
        write(&volume, handle, 0, b"NEW").await;
        volume.release(handle);
        sleep(&world.clock, Duration::from_millis(100)).await;
        assert_eq!(stored(&fake), b"NEW content", "a release does not wait for company");
    });
}

#[test]
fn a_revocation_is_answered_after_the_bytes_are_written() {
    for seed in 0..20 {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume, handle) = exclusive(&world).await;
            write(&volume, handle, 0, b"new").await;
            assert!(fake.revoke(ino(1)).await.pinned);
            assert_eq!(stored(&fake), b"new content");
            fake.lease.set(None);
            write(&volume, handle, 0, b"NEW").await;
            assert_eq!(stored(&fake), b"NEW content", "no lease: through");
        });
    }
}

#[test]
fn a_lost_write_is_told_once_to_every_handle() {
    cfs_sim::run(4, |world| async move {
        let (fake, volume, first) = exclusive(&world).await;
        let second = volume.open(&Identity::default(), ino(1), WRITER).await.expect("open");
        write(&volume, first, 0, b"new").await;
        fake.write_error.set(Some(FsError::NoSpace));
        sleep(&world.clock, Duration::from_secs(1)).await;
        fake.write_error.set(None);
        for handle in [first, second] {
            assert_eq!(volume.fsync(handle).await, Err(FsError::NoSpace));
            assert_eq!(volume.fsync(handle).await, Ok(()));
        }
        let later = volume.open(&Identity::default(), ino(1), WRITER).await.expect("open");
        assert_eq!(volume.fsync(later).await, Ok(()));
        let (attr, _) = volume.getattr(ino(1)).await.expect("known");
        assert_eq!(attr.size, 11);
    });
}

#[test]
fn overwrites_of_bytes_in_flight_arrive_after_them() {
    for seed in 0..30 {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume, handle) = exclusive(&world).await;
            for round in 0..20_u8 {
                write(&volume, handle, u64::from(round % 3), &[b'a' + round; 5]).await;
                let syncing = volume.clone();
                let task = async move { syncing.fsync(handle).await.expect("durable") };
                spawn(&world.tasks, Class::Foreground, task).detach();
                if round % 4 == 0 {
                    sleep(&world.clock, Duration::from_micros(30)).await;
                }
            }
            volume.fsync(handle).await.expect("durable");
            let mut model = b"old content".to_vec();
            for round in 0..20_u8 {
                let at = usize::from(round % 3);
                model[at..at + 5].fill(b'a' + round);
            }
            assert_eq!(stored(&fake), model);
        });
    }
}

#[test]
fn un_acknowledged_writes_survive_a_restart_of_the_server() {
    for seed in 0..20 {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume, handle) = exclusive(&world).await;
            for i in 0..10_u8 {
                write(&volume, handle, u64::from(i) * 500_000, &[i + 1; 500_000]).await;
            }
            fake.lose_replies.set(3);
            let syncing = volume.clone();
            let done = Rc::new(Cell::new(false));
            let flag = done.clone();
            spawn(&world.tasks, Class::Foreground, async move {
                syncing.fsync(handle).await.expect("durable");
                flag.set(true);
            })
            .detach();
            sleep(&world.clock, Duration::from_millis(seed)).await;
            fake.restart();
            while !done.get() {
                sleep(&world.clock, Duration::from_millis(1)).await;
            }
            let bytes = stored(&fake);
            assert_eq!(bytes.len(), 5_000_000);
            assert!(bytes.chunks(500_000).zip(1..).all(|(chunk, byte)| chunk.iter().all(|b| *b == byte)));
        });
    }
}

#[test]
fn bytes_held_for_a_file_that_others_took_are_lost_and_said_to_be() {
    cfs_sim::run(5, |world| async move {
        let (fake, volume, handle) = exclusive(&world).await;
        write(&volume, handle, 0, b"new").await;
        let taken = |file: &mut crate::fake::File| {
            file.attr.epoch += 1;
            file.taken_at = file.attr.epoch;
        };
        taken(fake.files.borrow_mut().get_mut(&ino(1)).expect("exists"));
        fake.restart();
        assert_eq!(volume.fsync(handle).await, Err(FsError::Stale));
        assert_eq!(stored(&fake), b"old content");
    });
}

#[test]
fn writers_wait_when_too_much_is_held_back() {
    cfs_sim::run(6, |world| async move {
        let (fake, volume, handle) = exclusive(&world).await;
        fake.hold.set(Some(cfs_wire::Opcode::new(0x0202)));
        let written = Rc::new(Cell::new(0_u64));
        let (writer, count) = (volume.clone(), written.clone());
        spawn(&world.tasks, Class::Foreground, async move {
            for i in 0..100 {
                write(&writer, handle, i << 20, &vec![1; 1 << 20]).await;
                count.set(i + 1);
            }
        })
        .detach();
        sleep(&world.clock, Duration::from_secs(1)).await;
        assert_eq!(written.get(), 64, "64 MiB and no more");
        fake.release();
        sleep(&world.clock, Duration::from_secs(60)).await;
        assert_eq!(written.get(), 100);
        volume.syncfs().await.expect("durable");
        assert_eq!(stored(&fake).len(), 100 << 20);
    });
}

#[test]
fn a_truncation_follows_what_was_written_before_it() {
    cfs_sim::run(7, |world| async move {
        let (fake, volume, handle) = exclusive(&world).await;
        write(&volume, handle, 0, b"new content and more").await;
        let change = AttrChange { size: Some(5), ..AttrChange::default() };
        let (attr, _) = volume.setattr(&Identity::default(), ino(1), change).await.expect("cut");
        assert_eq!(attr.size, 5);
        assert_eq!(stored(&fake), b"new c");
        write(&volume, handle, 8, b"x").await;
        assert_eq!(&*volume.read(handle, 0, 100).await.expect("read"), b"new c\0\0\0x");
    });
}

#[test]
fn a_sequential_reader_is_read_ahead_of() {
    cfs_sim::run(8, |world| async move {
        let (fake, volume, handle) = exclusive(&world).await;
        let content: Vec<u8> = (0..3_u32 << 20).map(|i| (i / 4096).to_le_bytes()[0]).collect();
        fake.add(ino(1), cfs_wire::FileKind::File, &content);
        volume.setattr(&Identity::default(), ino(1), AttrChange::default()).await.expect("asked");
        let mut read = Vec::new();
        while read.len() < content.len() {
            let part = volume.read(handle, read.len() as u64, 128 << 10).await.expect("read");
            assert!(!part.is_empty());
            read.extend_from_slice(&part);
            sleep(&world.clock, Duration::from_millis(5)).await;
        }
        assert_eq!(read, content);
        // What was read ahead is given as it lies, to everybody who asks for it.
        let parts = [volume.read_parts(handle, 2 << 20, 1 << 20), volume.read_parts(handle, 2 << 20, 4096)];
        let [whole, first] = parts.map(|read| async { read.await.expect("read") });
        let (whole, first) = (whole.await, first.await);
        let address = |read: &cfs_volume::Parts| read.slices().map(<[u8]>::as_ptr).collect::<Vec<_>>();
        assert_eq!((whole.len(), first.len(), address(&whole)), (1 << 20, 4096, address(&first)));
        assert!(volume.read(handle, 3 << 20, 10).await.expect("read").is_empty());
        let asked = fake.count(|op| matches!(op, Op::Read { .. }));
        assert!(asked <= 2 + 12, "{asked} reads of 24 reached the server");
        write(&volume, handle, 1 << 20, b"fresh").await;
        volume.fsync(handle).await.expect("durable");
        assert_eq!(&*volume.read(handle, 1 << 20, 5).await.expect("read"), b"fresh");
    });
}

#[test]
fn a_kernel_that_saw_a_setuid_file_asks_again_after_a_write_or_fallocate_of_others() {
    cfs_sim::run(9, |world| async move {
        let (fake, volume, handle) = exclusive(&world).await;
        let kernel = Kernel::of(&volume);
        let kill = WriteFlags { kill_privileges: true, ..WriteFlags::default() };
        volume.write(handle, 0, b"new", kill).await.expect("written");
        assert!(kernel.distrusted.borrow().is_empty());
        fake.files.borrow_mut().get_mut(&ino(1)).expect("exists").attr.mode = 0o4755;
        volume.setattr(&Identity::default(), ino(1), AttrChange::default()).await.expect("asked");
        volume.write(handle, 0, b"new", kill).await.expect("written");
        assert_eq!(*kernel.distrusted.borrow(), [ino(1)]);
    });
}

#[test]
fn an_extended_attribute_follows_what_was_written_before_it() {
    cfs_sim::run(10, |world| async move {
        let (fake, volume, handle) = exclusive(&world).await;
        write(&volume, handle, 0, b"new").await;
        let _unknown_here = volume.removexattr(&Identity::default(), ino(1), b"security.capability").await;
        assert_eq!(stored(&fake), b"new content");
    });
}

#[test]
fn the_time_of_a_write_does_not_move_when_it_is_sent() {
    cfs_sim::run(11, |world| async move {
        let (_fake, volume, handle) = exclusive(&world).await;
        sleep(&world.clock, Duration::from_millis(300)).await;
        write(&volume, handle, 0, b"new").await;
        let told = volume.getattr(ino(1)).await.expect("known").0;
        assert!(world.clock.wall().get() - told.mtime.get() < 1_000_000);
        sleep(&world.clock, Duration::from_millis(100)).await;
        volume.fsync(handle).await.expect("durable");
        sleep(&world.clock, Duration::from_millis(100)).await;
        let after = volume.getattr(ino(1)).await.expect("known").0;
        assert_eq!((after.mtime, after.ctime), (told.mtime, told.ctime));
    });
}
