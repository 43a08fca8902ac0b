//! A pool of simulated devices as one disk.

use cfs_device::{DeviceError, PoolDisk, flush, read_at, write_at};
use cfs_seam::{
    BLOCK_BYTES, Class, Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime, Promise, io, spawn,
};
use cfs_sim::MemoryDisk;
use cfs_types::member_offset;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

const BYTES: u64 = 1 << 20;

fn block(fill: u8) -> IoBuf {
    let mut buf = IoBuf::zeroed(BLOCK_BYTES);
    buf.fill(fill);
    buf
}

/// Members 0, 1 and 5.
fn pool() -> (Rc<PoolDisk>, [MemoryDisk; 3]) {
    let disks = [(); 3].map(|()| cfs_sim::disk(BYTES));
    let pool = PoolDisk::new(Rc::new(disks[0].clone()));
    pool.add(5, Rc::new(disks[2].clone()));
    pool.add(1, Rc::new(disks[1].clone()));
    (pool, disks)
}

#[test]
fn an_offset_leads_to_its_member_and_nowhere_else() {
    let (pool, disks) = pool();
    assert_eq!(pool.geometry().bytes, 3 * BYTES);
    cfs_sim::run(1, |_| async move {
        for (n, member) in [0, 1, 5].into_iter().enumerate() {
            let fill = u8::try_from(n + 1).expect("small");
            write_at(&*pool, member_offset(member) + 8192, block(fill)).await.expect("a sound device");
            assert_eq!(disks[n].peek(8192, BLOCK_BYTES), vec![fill; BLOCK_BYTES]);
            let read = read_at(&*pool, member_offset(member) + 8192, BLOCK_BYTES).await.expect("a sound device");
            assert_eq!(&read[..], &block(fill)[..]);
        }
        for nowhere in [BYTES, member_offset(2), member_offset(1) + BYTES, member_offset(127)] {
            let read = read_at(&*pool, nowhere, BLOCK_BYTES).await;
            assert!(matches!(read, Err(DeviceError::Read { source: DiskError::OutOfRange, .. })), "{nowhere}");
            let written = write_at(&*pool, nowhere, block(9)).await;
            assert!(matches!(written, Err(DeviceError::Write { source: DiskError::OutOfRange, .. })), "{nowhere}");
            assert_eq!(pool.discard(nowhere, 4096).await, Err(DiskError::OutOfRange), "{nowhere}");
        }
    });
}

#[test]
fn a_flush_asks_those_that_were_written_and_one_that_fails_is_an_error() {
    let (pool, disks) = pool();
    cfs_sim::run(1, |_| async move {
        let asked = |disks: &[MemoryDisk; 3]| disks.each_ref().map(MemoryDisk::operations);
        write_at(&*pool, member_offset(1), block(1)).await.expect("a sound device");
        write_at(&*pool, member_offset(5), block(1)).await.expect("a sound device");
        let before = asked(&disks);
        flush(&*pool).await.expect("a sound device");
        assert_eq!(asked(&disks), [before[0], before[1] + 1, before[2] + 1]);
        assert!(disks.iter().all(|disk| disk.unflushed_sectors() == 0));
        flush(&*pool).await.expect("a sound device");
        assert_eq!(asked(&disks), [before[0], before[1] + 1, before[2] + 1]);
        write_at(&*pool, member_offset(0), block(1)).await.expect("a sound device");
        write_at(&*pool, member_offset(5), block(2)).await.expect("a sound device");
        disks[2].fail_flushes(1);
        assert!(flush(&*pool).await.is_err());
    });
}

/// Completes nothing by itself.
#[derive(Default)]
struct Held {
    writes: RefCell<Vec<Promise<IoDone>>>,
    flushes: RefCell<Vec<Promise<Result<(), DiskError>>>>,
    flushed: Cell<u32>,
}

impl Disk for Held {
    fn geometry(&self) -> Geometry {
        Geometry { bytes: BYTES, block_bytes: 4096, volatile_cache: true, fua: false, zoning: None }
    }
    fn read(&self, _: u64, buf: IoBuf) -> Io<IoDone> {
        Io::ready(IoDone { result: Ok(()), buf })
    }
    fn write(&self, _: u64, _: IoBuf, _: Durability, _: Lifetime) -> Io<IoDone> {
        let (promise, done) = io();
        self.writes.borrow_mut().push(promise);
        done
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.flushed.set(self.flushed.get() + 1);
        let (promise, done) = io();
        self.flushes.borrow_mut().push(promise);
        done
    }
    fn discard(&self, _: u64, _: u64) -> Io<Result<(), DiskError>> {
        Io::ready(Ok(()))
    }
}

fn is_ready<T>(io: &mut Io<T>) -> bool {
    matches!(Pin::new(io).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
}

#[test]
fn a_write_that_completes_while_a_flush_runs_is_flushed_by_the_next_one() {
    let (first, second) = (Rc::new(Held::default()), Rc::new(Held::default()));
    let pool = PoolDisk::new(first.clone());
    pool.add(1, second.clone());
    let end = |disk: &Held| {
        let promise = disk.writes.borrow_mut().pop().expect("a write");
        promise.complete(IoDone { result: Ok(()), buf: block(0) });
    };
    for offset in [0, member_offset(1), member_offset(1)] {
        drop(pool.write(offset, block(1), Durability::Flush, Lifetime::Hot));
    }
    assert!(is_ready(&mut pool.flush()), "nothing has completed");
    end(&first);
    end(&second);
    let mut flush = pool.flush();
    assert_eq!((first.flushed.get(), second.flushed.get()), (1, 1));
    end(&second);
    // A second one that is asked meanwhile answers for the same writes, so it waits as well.
    let mut meanwhile = pool.flush();
    assert_eq!((first.flushed.get(), second.flushed.get()), (2, 2));
    let end_flush = |disk: &Held| disk.flushes.borrow_mut().remove(0).complete(Ok(()));
    end_flush(&first);
    assert!(!is_ready(&mut flush), "the other member is not flushed yet");
    end_flush(&second);
    assert!(is_ready(&mut flush) && !is_ready(&mut meanwhile));
    let mut next = pool.flush();
    assert_eq!((first.flushed.get(), second.flushed.get()), (2, 3), "one write came after the first flush");
    end_flush(&first);
    end_flush(&second);
    assert!(is_ready(&mut meanwhile));
    end_flush(&second);
    assert!(is_ready(&mut next) && is_ready(&mut pool.flush()));
    assert_eq!((first.flushed.get(), second.flushed.get()), (2, 3));
}

#[test]
fn with_one_member_every_flush_is_its_own() {
    let disk = cfs_sim::disk(BYTES);
    let pool = PoolDisk::new(Rc::new(disk.clone()));
    cfs_sim::run(1, |world| async move {
        write_at(&*pool, 0, block(1)).await.expect("a sound device");
        let both = [pool.flush(), pool.flush()];
        let before = disk.operations();
        let wait = async move {
            for flush in both {
                flush.await.expect("a sound device");
            }
        };
        spawn(&world.tasks, Class::Foreground, wait).detach();
        flush(&*pool).await.expect("a sound device");
        assert_eq!(disk.operations(), before + 1);
    });
}
