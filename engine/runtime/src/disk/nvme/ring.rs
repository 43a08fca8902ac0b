//! A namespace as one core uses it.
//!
//! Invariant: the buffer of a transfer is the transfer's until the last of its commands has completed.
#![allow(unsafe_code)]

use super::command::{BLOCKS_MAX, Blocks, Command, RANGE_BYTES, Status, URING_CMD_IO, range};
use super::namespace::Namespace;
use super::zones;
use crate::disk::attached::{Attached, Direction, RETRIES_MAX, RETRY_PAUSE, disk_error, may_pass, on_file};
use crate::reactor::{Completion, Next, Operation, Reactor};
use cfs_seam::{
    Disk, DiskError, DiskUsage, Durability, Geometry, Instant, Io, IoBuf, IoDone, Lifetime, Promise, Zone, ZoneAction,
    ZonedDevice, Zones, io,
};
use io_uring::types::{Fd, Fixed};
use io_uring::{opcode, squeue};
use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// Bytes of a report of zones, of which there may be thousands.
const REPORT_BYTES: usize = 64 << 10;

/// What the core holds.
struct NvmeDisk(Rc<Attached>);

pub(in crate::disk) fn attach(attached: Attached) -> Rc<dyn Disk> {
    Rc::new(NvmeDisk(Rc::new(attached)))
}

/// Whether any command of a namespace completes as the kernel says (errno) or as the controller does (a status).
fn outcome(completion: Completion) -> Result<(), Failed> {
    match completion.result {
        0 => Ok(()),
        errno if errno < 0 => Err(Failed::Kernel(errno.saturating_neg())),
        status => Err(Failed::Device(Status(u16::try_from(status).unwrap_or(u16::MAX)))),
    }
}

/// Who refused a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failed {
    Kernel(i32),
    Device(Status),
}

impl Failed {
    fn may_pass(self) -> bool {
        match self {
            Failed::Kernel(errno) => may_pass(errno),
            Failed::Device(status) => status.may_pass(),
        }
    }
    fn is_cancelled(self) -> bool {
        self == Failed::Kernel(libc::ECANCELED)
    }
}

impl From<Failed> for DiskError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Kernel(errno) => disk_error(errno),
            Failed::Device(status) if status.is_out_of_range() => DiskError::OutOfRange,
            Failed::Device(status) if status.is_no_space() => DiskError::NoSpace,
            Failed::Device(status) => DiskError::Nvme(status.code()),
        }
    }
}

impl Attached {
    fn namespace(&self) -> &Namespace {
        self.file.namespace().expect("attached as a namespace")
    }

    /// The entry that carries a command; `index` names the registered buffer that the command's data lies in.
    fn carry(&self, command: Command, index: Option<u16>) -> squeue::Entry128 {
        let bytes = command.to_bytes();
        on_file!(self, |file| opcode::UringCmd80::new(file, URING_CMD_IO).cmd(bytes).buf_index(index).build())
    }
}

impl NvmeDisk {
    fn transfer(&self, direction: Direction, offset: u64, mut buf: IoBuf) -> Io<IoDone> {
        let disk = &self.0;
        let bytes = u64::try_from(buf.len()).expect("64-bit lengths");
        let block = 1u64 << disk.namespace().block_shift;
        assert!(offset.is_multiple_of(block) && bytes.is_multiple_of(block), "transfers are of whole blocks");
        if let Some(result) = disk.settled(offset, bytes) {
            return Io::ready(IoDone { result, buf });
        }
        let (promise, future) = io();
        let address = buf.as_mut_ptr().addr();
        let index = disk.reactor.buffer_index(&buf);
        let began = disk.begin();
        let longest = disk.namespace().transfer_bytes_max.min(usize::try_from(BLOCKS_MAX * block).expect("small"));
        let total = usize::try_from(bytes).expect("64-bit lengths");
        // A zone takes one write after the other.
        let in_turn = disk.namespace().zones().is_some() && direction != Direction::Read;
        let most = if in_turn { total } else { longest };
        let (left, error) = (Cell::new(total.div_ceil(most)), Cell::new(None));
        let done = RefCell::new(Some((buf, promise)));
        let whole = Rc::new(Whole { disk: disk.clone(), direction, left, error, began, done });
        for at in (0..total).step_by(most) {
            let all = most.min(total - at);
            let now = all.min(longest);
            let part = Part {
                whole: whole.clone(),
                offset: offset + u64::try_from(at).expect("64-bit lengths"),
                address: address + at,
                bytes: now,
                later: all - now,
                index,
                retries: 0,
                pauses: false,
            };
            let entry = part.entry();
            // SAFETY: the entry points into the buffer, on the heap and owned by `whole`, which every part keeps, as it does
            // the file by its disk.
            unsafe { disk.reactor.start(Box::new(part), entry) };
        }
        future
    }
}

impl Disk for NvmeDisk {
    fn geometry(&self) -> Geometry {
        self.0.file.geometry()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        self.transfer(Direction::Read, offset, buf)
    }

    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        if let Some(error) = self.0.refuses_write(durability) {
            return Io::ready(IoDone { result: Err(error), buf });
        }
        self.0.reactor.hurry();
        self.transfer(Direction::Write(durability, lifetime), offset, buf)
    }

    fn flush(&self) -> Io<Result<(), DiskError>> {
        let entry = || self.0.carry(Command::flush(self.0.namespace().number), None);
        self.0.flush(entry, |completion| {
            outcome(completion).map_err(|failed| {
                let errno = if failed.is_cancelled() { libc::ECANCELED } else { libc::EIO };
                (errno, failed.into())
            })
        })
    }

    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        if !self.0.in_range(offset, bytes) {
            return Io::ready(Err(DiskError::OutOfRange));
        }
        let namespace = self.0.namespace();
        if namespace.zones().is_some() {
            return Io::ready(Err(DiskError::NotSupported));
        }
        let blocks = u32::try_from(bytes >> namespace.block_shift);
        let (false, true, Ok(blocks)) = (bytes == 0, namespace.deallocates, blocks) else {
            return Io::ready(Ok(()));
        };
        self.0.note_discard(bytes);
        let (promise, future) = io();
        let range = Box::new(range(blocks, offset >> namespace.block_shift));
        let entry = self.0.carry(Command::deallocate(namespace.number, range.as_ptr().addr()), None);
        let operation = Box::new(Discard { _disk: self.0.clone(), _range: range, promise });
        // SAFETY: the entry points to the range, on the heap and owned by the operation, as is the file.
        unsafe { self.0.reactor.start(operation, entry) };
        future
    }

    fn zoned(self: Rc<Self>) -> Option<Rc<dyn ZonedDevice>> {
        if self.0.namespace().zones().is_some() { Some(self) } else { None }
    }

    fn usage(&self) -> DiskUsage {
        let (namespace, core) = (self.0.namespace(), self.0.reactor.core());
        DiskUsage { placements: Lifetime::ALL.map(|class| namespace.placement_of(class, core)), ..self.0.usage() }
    }
}

impl NvmeDisk {
    fn zones_of(&self) -> Zones {
        self.0.namespace().zones().expect("only asked of a namespace with zones")
    }

    fn first_block(&self, zone: u32) -> u64 {
        (u64::from(zone) * self.zones_of().stride_bytes) >> self.0.namespace().block_shift
    }
}

impl ZonedDevice for NvmeDisk {
    fn zones(&self) -> Zones {
        self.zones_of()
    }

    fn report(&self) -> Io<Result<Vec<Zone>, DiskError>> {
        let (promise, future) = io();
        let bytes = REPORT_BYTES.min(self.0.namespace().transfer_bytes_max);
        let mut report = Box::new(Report {
            disk: self.0.clone(),
            zones: self.zones_of(),
            buf: IoBuf::zeroed(bytes),
            found: Vec::new(),
            promise,
        });
        let entry = report.entry();
        // SAFETY: the entry points into the buffer, on the heap and owned by the operation, as is the file by its disk.
        unsafe { self.0.reactor.start(report, entry) };
        future
    }

    fn manage(&self, zone: u32, action: ZoneAction) -> Io<Result<(), DiskError>> {
        let (promise, future) = io();
        let command = Command::manage_zone(self.0.namespace().number, self.first_block(zone), action);
        let entry = self.0.carry(command, None);
        // SAFETY: the entry has no addresses; the operation owns the file.
        unsafe { self.0.reactor.start(Box::new(Manage { _disk: self.0.clone(), promise }), entry) };
        future
    }
}

/// Asks for one part of the zones after the other.
struct Report {
    disk: Rc<Attached>,
    zones: Zones,
    buf: IoBuf,
    found: Vec<Zone>,
    promise: Promise<Result<Vec<Zone>, DiskError>>,
}

impl Report {
    fn next(&self) -> u32 {
        u32::try_from(self.found.len()).expect("as many as are counted in 32 bits")
    }

    fn entry(&mut self) -> squeue::Entry128 {
        let namespace = self.disk.namespace();
        let first = (u64::from(self.next()) * self.zones.stride_bytes) >> namespace.block_shift;
        let address = self.buf.as_mut_ptr().addr();
        self.disk.carry(Command::report_zones(namespace.number, first, address, self.buf.len()), None)
    }
}

impl Operation for Report {
    fn complete(mut self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        let shift = self.disk.namespace().block_shift;
        let parsed = outcome(completion).map_err(DiskError::from).and_then(|()| {
            let parsed = zones::parse(&self.buf, &self.zones, shift, self.next());
            // One that differs from the others cannot be used as they are.
            parsed.filter(|zones| !zones.is_empty()).ok_or(DiskError::NotSupported)
        });
        match parsed {
            Err(error) => self.promise.complete(Err(error)),
            Ok(more) => {
                self.found.extend(more);
                if self.next() < self.zones.count {
                    let entry = self.entry();
                    return Next::Again(self, entry);
                }
                self.promise.complete(Ok(self.found));
            }
        }
        Next::Done
    }
}

/// Does something to a zone.
struct Manage {
    _disk: Rc<Attached>,
    promise: Promise<Result<(), DiskError>>,
}

impl Operation for Manage {
    fn complete(self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        self.promise.complete(outcome(completion).map_err(DiskError::from));
        Next::Done
    }
}

/// A read or write, of one command or several at the same time.
struct Whole {
    disk: Rc<Attached>,
    direction: Direction,
    /// Commands that are not over. A core that stops drops some: then nobody hears of the transfer.
    left: Cell<usize>,
    /// The first that a command of it met.
    error: Cell<Option<DiskError>>,
    began: Instant,
    /// Taken when its last command is over.
    done: RefCell<Option<(IoBuf, Promise<IoDone>)>>,
}

impl Whole {
    /// A command of it is over.
    fn end_part(&self, failed: Option<DiskError>) {
        self.error.set(self.error.get().or(failed));
        self.left.set(self.left.get() - 1);
        if self.left.get() > 0 {
            return;
        }
        let (buf, promise) = self.done.take().expect("the last command ends once");
        let result = self.error.get().map_or(Ok(()), Err);
        self.disk.end_transfer(self.began, self.direction, buf.len(), result);
        promise.complete(IoDone { result, buf });
    }
}

/// One command of a transfer.
struct Part {
    whole: Rc<Whole>,
    offset: u64,
    address: usize,
    bytes: usize,
    /// Bytes behind these that are sent when they are over.
    later: usize,
    /// The buffer's place in the ring's table, if it is registered.
    index: Option<u16>,
    retries: u8,
    /// The entry under way is the pause before a retry.
    pauses: bool,
}

impl Part {
    fn entry(&self) -> squeue::Entry128 {
        let disk = &self.whole.disk;
        let namespace = disk.namespace();
        let count = u32::try_from(self.bytes >> namespace.block_shift).expect("at most BLOCKS_MAX");
        let blocks = Blocks { first: self.offset >> namespace.block_shift, count };
        let command = match self.whole.direction {
            Direction::Read => Command::read(namespace.number, blocks, self.address, self.bytes),
            Direction::Write(durability, lifetime) => {
                let through = durability == Durability::Through;
                let placement = namespace.placement_of(lifetime, disk.reactor.core());
                Command::write(namespace.number, blocks, self.address, self.bytes, through, placement)
            }
        };
        disk.carry(command, self.index)
    }
}

impl Operation for Part {
    fn complete(mut self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        let through = self.whole.direction.is_through();
        match outcome(completion) {
            // The end of a pause is an error too (ETIME).
            Err(failed) if std::mem::take(&mut self.pauses) && !failed.is_cancelled() => {
                let entry = self.entry();
                Next::Again(self, entry)
            }
            Ok(()) if self.later > 0 => {
                self.offset += u64::try_from(self.bytes).expect("64-bit lengths");
                self.address += self.bytes;
                self.bytes = self.bytes.min(self.later);
                self.later -= self.bytes;
                let entry = self.entry();
                Next::Again(self, entry)
            }
            Ok(()) => {
                self.whole.end_part(None);
                Next::Done
            }
            // The same bytes go to the same place, and nothing was acknowledged. The error of a write-through may be that of the flush in it.
            Err(failed) if failed.may_pass() && self.retries < RETRIES_MAX && !through => {
                (self.retries, self.pauses) = (self.retries + 1, true);
                Next::Again(self, opcode::Timeout::new(&raw const RETRY_PAUSE).build().into())
            }
            Err(failed) => {
                if through && !failed.is_cancelled() {
                    self.whole.disk.file.poison(libc::EIO);
                }
                self.whole.end_part(Some(failed.into()));
                Next::Done
            }
        }
    }
}

/// A hint: what the device answers is passed on and changes nothing.
struct Discard {
    _disk: Rc<Attached>,
    _range: Box<[u8; RANGE_BYTES]>,
    promise: Promise<Result<(), DiskError>>,
}

impl Operation for Discard {
    fn complete(self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        self.promise.complete(outcome(completion).map_err(DiskError::from));
        Next::Done
    }
}
