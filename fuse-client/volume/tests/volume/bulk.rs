//! Long payloads and the connection that they have to themselves.

use crate::fake::{Fake, ino, stage};
use cfs_seam::{Class, World, sleep, spawn};
use cfs_volume::{Handle, OpenFlags, Volume, WriteFlags};
use cfs_wire::{FileKind, Identity, Op};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const DIRECT: OpenFlags = OpenFlags { write: true, append: false, direct: true, sync: false };
const SMALL: usize = 64 << 10;
const LONG: usize = 128 << 10;
const PLAIN: WriteFlags = WriteFlags { sync: false, kill_privileges: false, append: None };

/// A volume with an empty file open.
async fn begin(world: &World) -> (Rc<Fake>, Rc<Volume>, Handle) {
    let (fake, volume) = stage(world).await;
    fake.add(ino(2), FileKind::File, b"");
    let handle = volume.open(&Identity::default(), ino(2), DIRECT).await.expect("open");
    (fake, volume, handle)
}

/// The same, with the second connection up.
async fn begin_with_bulk(world: &World) -> (Rc<Fake>, Rc<Volume>, Handle) {
    let (fake, volume, handle) = begin(world).await;
    write(&volume, handle, 0, 0, LONG).await;
    sleep(&world.clock, Duration::from_millis(50)).await;
    assert!(fake.bulk_log.borrow().is_empty(), "nobody waits for the second connection");
    (fake, volume, handle)
}

async fn write(volume: &Volume, handle: Handle, offset: u64, byte: u8, len: usize) {
    assert_eq!(volume.write(handle, offset, &vec![byte; len], PLAIN).await, Ok(len));
}

#[test]
fn long_payloads_have_a_connection_of_their_own_and_short_ones_do_not() {
    cfs_sim::run(1, |world| async move {
        let (fake, volume, handle) = begin_with_bulk(&world).await;
        for len in [SMALL, SMALL + 1, 1] {
            write(&volume, handle, 0, 1, len).await;
            let read = volume.read(handle, 0, u32::try_from(len).expect("short")).await.expect("read");
            assert!(read.len() == len && read.iter().all(|byte| *byte == 1));
        }
        let log = fake.bulk_log.borrow();
        assert!(matches!(log[..], [Op::Write { .. }, Op::Read { .. }]), "{log:?}");
    });
}

#[test]
fn what_is_short_does_not_wait_behind_what_is_long() {
    cfs_sim::run(2, |world| async move {
        let (fake, volume, handle) = begin_with_bulk(&world).await;
        fake.stall_bulk.set(true);
        let written = Rc::new(Cell::new(0));
        for n in 0..8_u8 {
            let (volume, written) = (volume.clone(), written.clone());
            spawn(&world.tasks, Class::Foreground, async move {
                write(&volume, handle, u64::from(n) << 20, n, 1 << 20).await;
                written.set(written.get() + 1);
            })
            .detach();
        }
        sleep(&world.clock, Duration::from_millis(5)).await;
        for round in 0..20 {
            write(&volume, handle, 100 << 20, round, 100).await;
            assert_eq!(volume.read(handle, 100 << 20, 1).await.expect("read").to_vec(), [round]);
            volume.getattr(ino(2)).await.expect("answered");
        }
        assert_eq!(written.get(), 0, "nothing of them was even read");
        fake.stall_bulk.set(false);
        while written.get() < 8 {
            sleep(&world.clock, Duration::from_millis(1)).await;
        }
        let files = fake.files.borrow();
        let mut pieces = files[&ino(2)].bytes[..8 << 20].chunks(1 << 20).zip(0..);
        assert!(pieces.all(|(piece, n)| piece.iter().all(|byte| *byte == n)));
    });
}

#[test]
fn a_second_connection_that_dies_again_and_again_loses_and_repeats_nothing() {
    for seed in 0..10 {
        cfs_sim::run(seed, |world| async move {
            let (fake, volume) = stage(&world).await;
            fake.add(ino(2), FileKind::File, b"");
            let flags = OpenFlags { append: true, ..DIRECT };
            let handle = volume.open(&Identity::default(), ino(2), flags).await.expect("open");
            let left = Rc::new(Cell::new(4));
            for writer in 0..4_u8 {
                let (volume, left, world) = (volume.clone(), left.clone(), world.clone());
                let tasks = world.tasks.clone();
                spawn(&tasks, Class::Foreground, async move {
                    for round in 0..16 {
                        write(&volume, handle, 0, writer * 16 + round, LONG).await;
                        sleep(&world.clock, Duration::from_micros(world.rng.next_u64() % 100_000)).await;
                    }
                    left.set(left.get() - 1);
                })
                .detach();
            }
            while left.get() > 0 {
                sleep(&world.clock, Duration::from_micros(world.rng.next_u64() % 400_000)).await;
                match world.rng.next_u64() % 2 {
                    0 => fake.close_bulk(),
                    _ => fake.lose_replies.set(1),
                }
            }
            assert!(fake.bulk_log.borrow().len() > 16, "{} went there", fake.bulk_log.borrow().len());
            let files = fake.files.borrow();
            let mut found: Vec<u8> = files[&ino(2)].bytes.chunks(LONG).map(|piece| piece[0]).collect();
            assert!(files[&ino(2)].bytes.chunks(LONG).all(|piece| piece.iter().all(|byte| *byte == piece[0])));
            found.sort_unstable();
            assert_eq!(found, (0..64).collect::<Vec<u8>>());
        });
    }
}

#[test]
fn where_a_second_connection_is_refused_everything_goes_on_the_first() {
    cfs_sim::run(3, |world| async move {
        let (fake, volume, handle) = begin(&world).await;
        fake.refuse_bulk.set(true);
        for byte in 0..20 {
            write(&volume, handle, 0, byte, LONG).await;
            sleep(&world.clock, Duration::from_millis(200)).await;
        }
        assert!(fake.bulk_log.borrow().is_empty());
        fake.refuse_bulk.set(false);
        for byte in 0..20 {
            write(&volume, handle, 0, byte, LONG).await;
            sleep(&world.clock, Duration::from_millis(200)).await;
        }
        assert!(fake.bulk_log.borrow().len() > 10, "it is asked for again");
    });
}

#[test]
fn a_silent_second_connection_ends_at_the_deadline_and_the_first_stays() {
    cfs_sim::run(4, |world| async move {
        let (fake, volume, handle) = begin_with_bulk(&world).await;
        let reopened = fake.count(|op| matches!(op, Op::Reopen { .. }));
        fake.stall_bulk.set(true);
        write(&volume, handle, 0, 7, LONG).await;
        assert!(fake.files.borrow()[&ino(2)].bytes.iter().all(|byte| *byte == 7));
        assert_eq!(fake.count(|op| matches!(op, Op::Reopen { .. })), reopened);
        volume.getattr(ino(2)).await.expect("answered");
    });
}

#[test]
fn a_server_that_has_started_anew_is_told_what_is_open_before_it_gets_payload() {
    cfs_sim::run(5, |world| async move {
        let (fake, volume, handle) = begin_with_bulk(&world).await;
        // The first connection is not known to be dead.
        fake.incarnation.set(2);
        fake.close_bulk();
        fake.log.borrow_mut().clear();
        sleep(&world.clock, Duration::from_secs(2)).await;
        write(&volume, handle, 0, 1, LONG).await;
        sleep(&world.clock, Duration::from_secs(2)).await;
        write(&volume, handle, 0, 2, LONG).await;
        sleep(&world.clock, Duration::from_secs(2)).await;
        assert_eq!(fake.count(|op| matches!(op, Op::Reopen { .. })), 1);
        assert!(fake.bulk_log.borrow().is_empty(), "on a link to the server of before");
        write(&volume, handle, 0, 3, LONG).await;
        assert_eq!(fake.bulk_log.borrow().len(), 1);
    });
}
