//! A device as one core uses it.
#![allow(unsafe_code)]

use super::{DiskFile, nvme};
use crate::reactor::{Completion, Next, Operation, Reactor};
use crate::system::boot_time;
use cfs_seam::{Disk, DiskError, DiskUsage, Durability, Geometry, Instant, Io, IoBuf, IoDone, Lifetime, Promise, io};
use cfs_types::Latencies;
use io_uring::types::{Fd, Fixed, FsyncFlags, Timespec};
use io_uring::{opcode, squeue};
use std::cell::RefCell;
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// Most bytes of one submission; longer transfers continue. The kernel's own limit is 2 GiB.
const TRANSFER_BYTES_MAX: usize = 1 << 30;
/// How often a transfer is tried again after an error that may pass ([`may_pass`]).
pub(super) const RETRIES_MAX: u8 = 16;
/// Pause before it is tried again: memory that the kernel lacked takes a moment to come back.
pub(super) static RETRY_PAUSE: Timespec = Timespec::new().nsec(10_000_000);

/// The device and its place in the ring's table of files.
pub(super) struct Attached {
    pub file: DiskFile,
    pub slot: Option<u32>,
    pub reactor: Rc<Reactor>,
    usage: RefCell<DiskUsage>,
}

/// A file or block device as the core holds it.
struct RingDisk(Rc<Attached>);

pub(super) fn attach(file: DiskFile, reactor: Rc<Reactor>) -> Rc<dyn Disk> {
    let slot = reactor.register_file(file.fd());
    let is_namespace = file.namespace().is_some();
    let attached = Attached { file, slot, reactor, usage: RefCell::default() };
    if is_namespace { nvme::attach(attached) } else { Rc::new(RingDisk(Rc::new(attached))) }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.reactor.unregister_file(slot);
        }
    }
}

/// Builds an entry for the registered file where there is one, else for the descriptor.
macro_rules! on_file {
    ($attached:expr, |$target:ident| $build:expr) => {
        match $attached.slot {
            Some(slot) => {
                let $target = Fixed(slot);
                $build
            }
            None => {
                let $target = Fd($attached.file.fd().as_raw_fd());
                $build
            }
        }
    };
}

pub(super) use on_file;

pub(super) fn disk_error(errno: i32) -> DiskError {
    match errno {
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        libc::EOPNOTSUPP => DiskError::NotSupported,
        _ => DiskError::Device(errno),
    }
}

/// Whether an error says nothing of the device.
pub(super) fn may_pass(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN | libc::ENOMEM)
}

impl Attached {
    pub fn in_range(&self, offset: u64, bytes: u64) -> bool {
        offset.checked_add(bytes).is_some_and(|end| end <= self.file.geometry().bytes)
    }

    /// Counts an operation that begins.
    pub fn begin(&self) -> Instant {
        self.usage.borrow_mut().in_flight += 1;
        boot_time()
    }

    /// Counts one that is over.
    fn end(&self, began: Instant, failed: bool, of: impl FnOnce(&mut DiskUsage) -> &mut Latencies) {
        let mut usage = self.usage.borrow_mut();
        usage.in_flight -= 1;
        usage.errors += u64::from(failed);
        of(&mut usage).record(boot_time().since(began));
    }

    /// Counts a read or write that is over.
    pub fn end_transfer(&self, began: Instant, direction: Direction, bytes: usize, result: Result<(), DiskError>) {
        let bytes = u64::try_from(bytes).expect("64-bit lengths");
        self.end(began, result.is_err(), |usage| match direction {
            Direction::Read => {
                usage.read_bytes += bytes;
                &mut usage.reads
            }
            Direction::Write(_, lifetime) => {
                usage.written_bytes[lifetime.index()] += bytes;
                &mut usage.writes
            }
        });
    }
    pub fn note_discard(&self, bytes: u64) {
        self.usage.borrow_mut().discarded_bytes += bytes;
    }
    pub fn usage(&self) -> DiskUsage {
        *self.usage.borrow()
    }

    /// Why no write is begun any more.
    pub fn refuses_write(&self, durability: Durability) -> Option<DiskError> {
        match (durability, self.file.poisoned()) {
            (Durability::Through, Some(errno)) => Some(DiskError::Device(errno)),
            _ => self.file.is_shortened().then_some(DiskError::OutOfRange),
        }
    }
    /// What a transfer comes to that needs not be begun.
    pub fn settled(&self, offset: u64, bytes: u64) -> Option<Result<(), DiskError>> {
        let is_outside = !self.in_range(offset, bytes);
        is_outside.then_some(Err(DiskError::OutOfRange)).or_else(|| (bytes == 0).then_some(Ok(())))
    }

    /// Has `entry` flush the device, unless it needs no flush or takes none any more; `outcome` reads its completion.
    pub fn flush(
        self: &Rc<Self>,
        entry: impl FnOnce() -> squeue::Entry128,
        outcome: FlushOutcome,
    ) -> Io<Result<(), DiskError>> {
        if let Some(errno) = self.file.poisoned() {
            return Io::ready(Err(DiskError::Device(errno)));
        }
        if self.file.is_shortened() {
            return Io::ready(Err(DiskError::OutOfRange));
        }
        if !self.file.geometry().volatile_cache {
            return Io::ready(Ok(()));
        }
        self.reactor.hurry();
        let (promise, future) = io();
        let operation = Box::new(Flush { disk: self.clone(), outcome, began: self.begin(), promise });
        // SAFETY: the entry has no addresses; the operation owns the file.
        unsafe { self.reactor.start(operation, entry()) };
        future
    }

    fn transfer(self: &Rc<Self>, direction: Direction, offset: u64, buf: IoBuf) -> Io<IoDone> {
        let bytes = u64::try_from(buf.len()).expect("64-bit lengths");
        if let Some(result) = self.settled(offset, bytes) {
            return Io::ready(IoDone { result, buf });
        }
        let (promise, future) = io();
        let mut operation = Box::new(Transfer::new(self, direction, offset, buf, promise));
        let entry = operation.entry();
        // SAFETY: the entry points into `buf`, on the heap and owned by the operation, as is the
        // file by its disk.
        unsafe { self.reactor.start(operation, entry) };
        future
    }
}

impl Disk for RingDisk {
    fn geometry(&self) -> Geometry {
        self.0.file.geometry()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        self.0.transfer(Direction::Read, offset, buf)
    }

    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        if let Some(error) = self.0.refuses_write(durability) {
            return Io::ready(IoDone { result: Err(error), buf });
        }
        self.0.reactor.hurry();
        self.0.transfer(Direction::Write(durability, lifetime), offset, buf)
    }

    fn flush(&self) -> Io<Result<(), DiskError>> {
        let entry = || on_file!(self.0, |file| opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build()).into();
        self.0
            .flush(entry, |completion| completion.bytes().map(drop).map_err(|errno| (errno, DiskError::Device(errno))))
    }

    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        if !self.0.in_range(offset, bytes) {
            return Io::ready(Err(DiskError::OutOfRange));
        }
        if !self.0.file.0.punch_holes || bytes == 0 {
            return Io::ready(Ok(()));
        }
        self.0.note_discard(bytes);
        let (promise, future) = io();
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let entry = on_file!(self.0, |file| opcode::Fallocate::new(file, bytes).offset(offset).mode(mode).build());
        let operation = Box::new(Discard { _disk: self.0.clone(), promise });
        // SAFETY: the entry has no addresses; the operation owns the file.
        unsafe { self.0.reactor.start(operation, entry) };
        future
    }

    fn usage(&self) -> DiskUsage {
        self.0.usage()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write(Durability, Lifetime),
}

impl Direction {
    /// A write that holds a flush.
    pub fn is_through(self) -> bool {
        matches!(self, Direction::Write(Durability::Through, _))
    }
}

/// A read or write, continued until it is whole.
struct Transfer {
    disk: Rc<Attached>,
    direction: Direction,
    offset: u64,
    buf: IoBuf,
    /// The buffer's place in the ring's table, if it is registered.
    index: Option<u16>,
    done: usize,
    retries: u8,
    /// The entry under way is the pause before a retry.
    pauses: bool,
    began: Instant,
    promise: Promise<IoDone>,
}

impl Transfer {
    fn new(disk: &Rc<Attached>, direction: Direction, offset: u64, buf: IoBuf, promise: Promise<IoDone>) -> Self {
        let (began, index) = (disk.begin(), disk.reactor.buffer_index(&buf));
        let disk = disk.clone();
        Transfer { disk, direction, offset, buf, index, done: 0, retries: 0, pauses: false, began, promise }
    }

    fn entry(&mut self) -> squeue::Entry {
        let offset = self.offset + u64::try_from(self.done).expect("64-bit lengths");
        let rest = &mut self.buf[self.done..];
        let length = u32::try_from(rest.len().min(TRANSFER_BYTES_MAX)).expect("below 2^32");
        let address = rest.as_mut_ptr();
        let through = self.direction.is_through();
        let flags = if through { libc::RWF_DSYNC } else { 0 };
        on_file!(self.disk, |file| match (self.direction, self.index) {
            (Direction::Read, None) => opcode::Read::new(file, address, length).offset(offset).build(),
            (Direction::Read, Some(index)) => {
                opcode::ReadFixed::new(file, address, length, index).offset(offset).build()
            }
            (Direction::Write(..), None) => {
                opcode::Write::new(file, address, length).offset(offset).rw_flags(flags).build()
            }
            (Direction::Write(..), Some(index)) => {
                opcode::WriteFixed::new(file, address, length, index).offset(offset).rw_flags(flags).build()
            }
        })
    }

    /// Whether it may be tried again: the same bytes go to the same place, and nothing was acknowledged. A
    /// write-through is not: its error may be that of the flush in it.
    fn tries_again(&self, errno: i32) -> bool {
        may_pass(errno) && self.retries < RETRIES_MAX && !self.direction.is_through()
    }

    fn finish(self, result: Result<(), DiskError>) -> Next {
        let Transfer { disk, direction, began, promise, buf, .. } = self;
        disk.end_transfer(began, direction, buf.len(), result);
        promise.complete(IoDone { result, buf });
        Next::Done
    }
}

impl Operation for Transfer {
    fn complete(mut self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        let paused = std::mem::take(&mut self.pauses);
        match completion.bytes() {
            // The end of a pause is an error too (ETIME).
            Err(errno) if paused && errno != libc::ECANCELED => {}
            Ok(0) => return self.finish(Err(DiskError::OutOfRange)),
            Ok(bytes) => {
                self.done += bytes;
                if self.done >= self.buf.len() {
                    return self.finish(Ok(()));
                }
            }
            Err(errno) if self.tries_again(errno) => {
                (self.retries, self.pauses) = (self.retries + 1, true);
                return Next::Again(self, opcode::Timeout::new(&raw const RETRY_PAUSE).build().into());
            }
            Err(errno) => {
                // What a write-through leaves behind is as unknown as after a failed flush.
                if self.direction.is_through() && errno != libc::ECANCELED {
                    self.disk.file.poison(errno);
                }
                return self.finish(Err(disk_error(errno)));
            }
        }
        let entry = self.entry();
        Next::Again(self, entry.into())
    }
}

/// What a completed flush came to; where it failed, the errno that sticks to the file and what its caller is told.
type FlushOutcome = fn(Completion) -> Result<(), (i32, DiskError)>;

struct Flush {
    disk: Rc<Attached>,
    outcome: FlushOutcome,
    began: Instant,
    promise: Promise<Result<(), DiskError>>,
}

impl Operation for Flush {
    fn complete(self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        let outcome = (self.outcome)(completion);
        if let Err((errno, _)) = outcome
            && errno != libc::ECANCELED
        {
            self.disk.file.poison(errno);
        }
        // Also where another core's flush failed meanwhile: the kernel tells of a lost write once.
        let result = match (outcome, self.disk.file.poisoned()) {
            (Err((_, error)), _) => Err(error),
            (Ok(()), Some(errno)) => Err(DiskError::Device(errno)),
            (Ok(()), None) => Ok(()),
        };
        self.disk.end(self.began, result.is_err(), |usage| &mut usage.flushes);
        self.promise.complete(result);
        Next::Done
    }
}

/// A hint: what the device answers is passed on and changes nothing.
struct Discard {
    _disk: Rc<Attached>,
    promise: Promise<Result<(), DiskError>>,
}

impl Operation for Discard {
    fn complete(self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        self.promise.complete(completion.bytes().map(drop).map_err(disk_error));
        Next::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CoreConfig, OpenMode, open_disk, run};
    use cfs_seam::BLOCK_BYTES;
    use cfs_types::CoreId;

    /// Runs `body` with a small device and its core's reactor.
    fn with_disk<F: Future<Output = ()>>(name: &str, body: impl FnOnce(Rc<Attached>, Rc<Reactor>) -> F + 'static) {
        let path = std::env::temp_dir().join(format!("cfs-{name}-{}", std::process::id()));
        let file = open_disk(&path, OpenMode::Create { bytes: 1 << 20 }).expect("creates");
        drop(std::fs::remove_file(&path));
        run(CoreConfig::new(CoreId::new(0)), |_, reactor| async move {
            let usage = RefCell::default();
            body(Rc::new(Attached { file, slot: None, reactor: reactor.clone(), usage }), reactor).await;
        })
        .expect("runs");
    }

    fn transfer(disk: &Rc<Attached>, direction: Direction, fill: u8) -> (Box<Transfer>, Io<IoDone>) {
        let (promise, future) = io();
        let mut buf = IoBuf::zeroed(BLOCK_BYTES);
        buf.fill(fill);
        (Box::new(Transfer::new(disk, direction, 0, buf, promise)), future)
    }

    #[test]
    fn a_write_that_met_a_passing_error_is_tried_again_after_a_pause() {
        with_disk("passing", |disk, reactor| async move {
            for (at, errno) in (1..).zip([libc::EINTR, libc::EAGAIN, libc::ENOMEM]) {
                let (write, done) = transfer(&disk, Direction::Write(Durability::Flush, Lifetime::Hot), at);
                let Next::Again(write, entry) = write.complete(Completion::failed(errno), &reactor) else {
                    panic!("given up at errno {errno}");
                };
                // SAFETY: the entry is the pause, which points to a static.
                unsafe { reactor.start(write, entry) };
                done.await.result.expect("written in the end");
                let (read, done) = transfer(&disk, Direction::Read, 0);
                let Next::Again(read, entry) = read.complete(Completion::failed(errno), &reactor) else {
                    panic!("given up at errno {errno}");
                };
                // SAFETY: as above.
                unsafe { reactor.start(read, entry) };
                assert!(done.await.buf.iter().all(|byte| *byte == at));
            }
        });
    }

    #[test]
    fn what_does_not_pass_and_what_holds_a_flush_is_final() {
        with_disk("final", |disk, reactor| async move {
            let (write, done) = transfer(&disk, Direction::Write(Durability::Flush, Lifetime::Hot), 1);
            assert!(matches!(write.complete(Completion::failed(libc::EIO), &reactor), Next::Done));
            assert_eq!(done.await.result, Err(DiskError::Device(libc::EIO)));

            let (write, done) = transfer(&disk, Direction::Write(Durability::Flush, Lifetime::Hot), 1);
            let (mut next, mut tries) = (write.complete(Completion::failed(libc::ENOMEM), &reactor), 0);
            while let Next::Again(paused, _) = next {
                let Next::Again(write, _) = paused.complete(Completion::failed(libc::ETIME), &reactor) else {
                    panic!("a pause ends nothing");
                };
                (next, tries) = (write.complete(Completion::failed(libc::ENOMEM), &reactor), tries + 1);
            }
            assert_eq!((tries, done.await.result), (RETRIES_MAX, Err(DiskError::Device(libc::ENOMEM))));
            assert_eq!(disk.file.poisoned(), None);

            let (write, done) = transfer(&disk, Direction::Write(Durability::Through, Lifetime::Hot), 1);
            assert!(matches!(write.complete(Completion::failed(libc::ENOMEM), &reactor), Next::Done));
            assert_eq!(done.await.result, Err(DiskError::Device(libc::ENOMEM)));
            assert_eq!(disk.file.poisoned(), Some(libc::ENOMEM), "it fails like the flush that it holds");
        });
    }
}
