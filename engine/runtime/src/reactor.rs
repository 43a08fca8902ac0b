//! One core's ring and the operations in flight on it.
//!
//! Invariants: an operation owns every byte its submission entry points to, and stays in its slot
//! until its last completion; so a dropped future frees nothing the kernel still uses. A slot's
//! key carries a generation: cancelling an operation that has ended cancels nothing else.
//! No borrow of the reactor's state is held while an operation handles its completion.
#![allow(unsafe_code)]

mod disk_buffers;
mod receive_buffers;
mod setup;
mod slots;

use crate::wake::WakeCell;
use crate::{CoreConfig, RuntimeError};
use cfs_seam::{InstalledPool, Io, IoBuf, io};
use disk_buffers::DiskBuffers;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use receive_buffers::ReceiveBuffers;
pub(crate) use slots::OpKey;
use slots::Slots;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// 128-byte submission entries (NVMe passthrough and FUSE need them) and 32-byte completions (NVMe passthrough does).
pub(crate) type Ring = IoUring<squeue::Entry128, cqueue::Entry32>;

/// Completions that nobody waits for: cancellations, and wake-ups by MSG_RING.
const NOBODY: u64 = u64::MAX;
/// How long a stopping core waits before it cancels again what a cancellation may have missed.
const CANCEL_AGAIN: Duration = Duration::from_millis(50);

/// What the kernel said of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// Not negative: success; negative: an errno.
    pub result: i32,
    flags: u32,
}

impl Completion {
    /// That of an operation which failed.
    pub fn failed(errno: i32) -> Self {
        Completion { result: -errno, flags: 0 }
    }
    /// Whether the operation goes on and will complete again.
    pub fn more(self) -> bool {
        cqueue::more(self.flags)
    }
    /// Bytes done, or the errno.
    pub fn bytes(self) -> Result<usize, i32> {
        usize::try_from(self.result).map_err(|_| self.result.saturating_neg())
    }
}

/// What becomes of an operation after a completion.
pub(crate) enum Next {
    /// It is over.
    Done,
    /// The kernel will complete it again (multishot).
    More(Box<dyn Operation>),
    /// It goes to the kernel again with this entry. Never the answer to ECANCELED.
    Again(Box<dyn Operation>, squeue::Entry128),
}

/// An operation in flight.
pub(crate) trait Operation {
    /// Handles a completion. The entry of [`Next::Again`] obeys the contract of
    /// [`Reactor::start`].
    fn complete(self: Box<Self>, completion: Completion, reactor: &Rc<Reactor>) -> Next;
}

/// Work put off to the end of a turn, so that what gathers until then goes out together.
pub(crate) trait Deferred {
    /// Does it: starts operations, completes none, or the core could sleep on a ready task.
    fn run(self: Rc<Self>);
}

/// How long to wait for a completion.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// Until one comes.
    Forever,
    /// Until one comes or this long.
    For(Duration),
}

/// A core's ring: what disks, streams and the FUSE transport submit to.
pub struct Reactor {
    ring: RefCell<Ring>,
    slots: RefCell<Slots>,
    backlog: RefCell<VecDeque<squeue::Entry128>>,
    deferred: RefCell<Vec<Rc<dyn Deferred>>>,
    receive_buffers: RefCell<ReceiveBuffers>,
    disk_buffers: Option<DiskBuffers>,
    free_files: RefCell<Vec<u32>>,
    stopping: Cell<bool>,
    /// What was queued is not to wait for other tasks.
    urgent: Cell<bool>,
    config: CoreConfig,
}

impl Reactor {
    /// Builds the ring on the calling thread, which alone may use it.
    pub(crate) fn new(config: &CoreConfig) -> Result<Rc<Self>, RuntimeError> {
        let ring = setup::build(config)?;
        let receive_buffers = ReceiveBuffers::register(&ring, config.recv_buffers, config.recv_buffer_bytes)?;
        let disk_buffers = DiskBuffers::register(&ring, config.registered_buffer_bytes);
        let free_files = setup::register_files(&ring);
        Ok(Rc::new(Reactor {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            backlog: RefCell::default(),
            deferred: RefCell::default(),
            receive_buffers: RefCell::new(receive_buffers),
            disk_buffers,
            free_files: RefCell::new(free_files),
            stopping: Cell::new(false),
            urgent: Cell::new(false),
            config: config.clone(),
        }))
    }

    /// The core's number in its process.
    pub(crate) fn core(&self) -> usize {
        self.config.core.get().into()
    }

    /// The core's settings.
    pub(crate) fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// Publishes the ring to the other cores.
    pub(crate) fn publish(&self, cell: &WakeCell) -> Result<(), RuntimeError> {
        let ring = self.ring.borrow();
        // SAFETY: the descriptor is the ring's own and is open while `ring` is borrowed.
        cell.publish_ring(unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) })
    }

    /// Queues an operation; it goes to the kernel at the end of the turn. None on a core that is
    /// stopping: the operation is dropped then.
    ///
    /// # Safety
    /// Every address in `entry` points to memory that `operation` owns and that neither moves nor
    /// is freed or touched until the operation's last completion; every descriptor in it is
    /// owned by `operation`.
    pub(crate) unsafe fn start(
        &self,
        operation: Box<dyn Operation>,
        entry: impl Into<squeue::Entry128>,
    ) -> Option<OpKey> {
        if self.stopping.get() {
            return None;
        }
        let key = self.slots.borrow_mut().insert(operation);
        self.push(entry.into().user_data(key.raw()));
        Some(key)
    }

    /// Asks the kernel to end an operation early; it completes with ECANCELED or as it would have.
    pub(crate) fn cancel(&self, key: OpKey) {
        self.push(opcode::AsyncCancel::new(key.raw()).build().user_data(NOBODY));
    }

    /// Has `work` run at the end of this turn.
    pub(crate) fn defer(&self, work: Rc<dyn Deferred>) {
        self.deferred.borrow_mut().push(work);
    }

    /// Ends the turn after the poll under way: what that queues goes to the kernel at once. For what a
    /// device is idle without.
    pub(crate) fn hurry(&self) {
        self.urgent.set(true);
    }

    /// Whether the turn is to end.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.get()
    }

    fn push(&self, entry: impl Into<squeue::Entry128>) {
        self.backlog.borrow_mut().push_back(entry.into());
    }

    /// Wakes another core that sleeps.
    pub(crate) fn wake_core(&self, cell: Arc<WakeCell>) {
        let Some(ring) = cell.ring() else {
            cell.signal();
            return;
        };
        let entry = opcode::MsgRingData::new(Fd(ring), 0, NOBODY, None).build();
        let operation = Box::new(WakeUp { cell: cell.clone() });
        // SAFETY: the entry has no addresses; `operation` keeps the cell and so the descriptor.
        if unsafe { self.start(operation, entry) }.is_none() {
            cell.signal();
        }
    }

    /// Has threads without a ring wake this core through `cell`.
    pub(crate) fn watch(&self, cell: Arc<WakeCell>) {
        let mut operation = Box::new(EventRead { cell, count: vec![0] });
        let entry = operation.entry();
        // SAFETY: the entry points to `count`, on the heap and owned by the operation, as is the
        // descriptor by its cell.
        unsafe { self.start(operation, entry) };
    }

    /// Resolves when `fd` is readable. With `exclusive`, of several rings that wait on one file
    /// the kernel wakes one (EPOLLEXCLUSIVE): its task must then look, so a future that is
    /// dropped before it resolves may swallow a wake-up.
    pub fn readable(&self, fd: &Arc<OwnedFd>, exclusive: bool) -> Io<std::io::Result<()>> {
        let (promise, future) = io();
        let events = libc::POLLIN.unsigned_abs().into();
        let events = if exclusive { events | libc::EPOLLEXCLUSIVE.cast_unsigned() } else { events };
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), events).build();
        let operation = Box::new(Poll { _fd: fd.clone(), promise });
        // SAFETY: the entry has no addresses; `operation` keeps the descriptor open.
        unsafe { self.start(operation, entry) };
        future
    }

    /// Puts a file into the ring's table, which saves the kernel a look-up an operation. None
    /// where the table is full or not supported.
    pub(crate) fn register_file(&self, file: BorrowedFd<'_>) -> Option<u32> {
        let slot = self.free_files.borrow_mut().pop()?;
        let updated = self.ring.borrow().submitter().register_files_update(slot, &[file.as_raw_fd()]);
        if updated.is_err() {
            self.free_files.borrow_mut().push(slot);
            return None;
        }
        Some(slot)
    }

    /// Takes a file out of the table. No operation on it may be in flight or queued.
    pub(crate) fn unregister_file(&self, slot: u32) {
        if self.ring.borrow().submitter().register_files_update(slot, &[-1]).is_ok() {
            self.free_files.borrow_mut().push(slot);
        }
    }

    /// Bytes of disk buffers that are registered with the ring; 0 where memlock forbade it or the
    /// configuration asked for none. To be said to the user once.
    pub fn registered_buffer_bytes(&self) -> usize {
        self.disk_buffers.as_ref().map_or(0, DiskBuffers::bytes)
    }

    /// Has buffers that this thread makes come from the registered ones while the guard lives.
    pub(crate) fn install_buffers(&self) -> Option<InstalledPool> {
        self.disk_buffers.as_ref().map(DiskBuffers::install)
    }

    /// The index of a registered buffer.
    pub(crate) fn buffer_index(&self, buf: &IoBuf) -> Option<u16> {
        self.disk_buffers.as_ref()?.index_of(buf)
    }

    /// The group number of the receive buffers.
    pub(crate) fn receive_group(&self) -> u16 {
        receive_buffers::GROUP
    }

    /// Copies what a receive put into a shared buffer and gives the buffer back.
    pub(crate) fn take_received(&self, completion: Completion) -> Option<Vec<u8>> {
        let buffer = cqueue::buffer_select(completion.flags)?;
        let bytes = completion.bytes().unwrap_or(0);
        Some(self.receive_buffers.borrow_mut().take(buffer, bytes))
    }

    /// Whether completions can be had without waiting.
    pub(crate) fn has_completions(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let (_, queue, completions) = ring.split();
        !completions.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Runs deferred work, hands everything queued to the kernel and waits as told, all in one
    /// system call where the queue has room. An error means the ring is unusable.
    pub(crate) fn submit(&self, wait: Wait) -> std::io::Result<()> {
        self.urgent.set(false);
        let deferred = std::mem::take(&mut *self.deferred.borrow_mut());
        for work in deferred {
            work.run();
        }
        loop {
            let last = self.fill();
            let entered = self.enter(if last { wait } else { Wait::No });
            match entered.as_ref().map_err(std::io::Error::raw_os_error) {
                Ok(_) if last => return Ok(()),
                Ok(_) => {}
                // A signal, the end of the wait, or completions to be taken first.
                Err(Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)) => return Ok(()),
                Err(_) => return entered,
            }
        }
    }

    /// Moves entries from the backlog to the kernel's queue; true if all went.
    fn fill(&self) -> bool {
        let (mut ring, mut backlog) = (self.ring.borrow_mut(), self.backlog.borrow_mut());
        let mut queue = ring.submission();
        while let Some(entry) = backlog.front() {
            // SAFETY: the caller of `start` answers for the entry's addresses and descriptors; all
            // other entries have none, or those of the reactor itself.
            if unsafe { queue.push(entry) }.is_err() {
                return false;
            }
            backlog.pop_front();
        }
        true
    }

    fn enter(&self, wait: Wait) -> std::io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        let (submitter, queue, _) = ring.split();
        let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        match wait {
            Wait::No if idle => Ok(()),
            Wait::No => submitter.submit().map(drop),
            Wait::Forever => submitter.submit_and_wait(1).map(drop),
            Wait::For(limit) => {
                let limit = Timespec::from(limit);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&limit)).map(drop)
            }
        }
    }

    /// Handles every completion there is; returns how many.
    pub(crate) fn reap(self: &Rc<Self>) -> usize {
        let mut handled = 0;
        loop {
            let next = self.ring.borrow_mut().completion().next();
            let Some(entry) = next else { return handled };
            handled += 1;
            if entry.user_data() != NOBODY {
                self.settle(entry.user_data(), Completion { result: entry.result(), flags: entry.flags() });
            }
        }
    }

    fn settle(self: &Rc<Self>, key: u64, completion: Completion) {
        let Some((key, operation)) = self.slots.borrow_mut().take(key) else { return };
        let mut next = operation.complete(completion, self);
        if self.stopping.get()
            && let Next::Again(operation, _) = next
        {
            next = operation.complete(Completion::failed(libc::ECANCELED), self);
        }
        match next {
            Next::Done => self.slots.borrow_mut().free(key),
            Next::More(operation) => self.slots.borrow_mut().put(key, operation),
            Next::Again(operation, entry) => {
                self.slots.borrow_mut().put(key, operation);
                self.push(entry.user_data(key.raw()));
            }
        }
    }

    /// Ends every operation and waits for the kernel to let go of all buffers. Operations that
    /// cannot be cancelled (a flush) are waited for.
    pub(crate) fn stop(self: &Rc<Self>) -> std::io::Result<()> {
        self.stopping.set(true);
        self.deferred.borrow_mut().clear();
        while self.slots.borrow().in_use() > 0 {
            let all = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
            self.push(all.user_data(NOBODY));
            self.submit(Wait::For(CANCEL_AGAIN))?;
            while self.reap() > 0 {
                self.submit(Wait::No)?;
            }
        }
        self.receive_buffers.borrow_mut().unregister(&self.ring.borrow());
        if self.disk_buffers.is_some() {
            self.ring.borrow().submitter().unregister_buffers()?;
        }
        Ok(())
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        // Unwinding from a panic may get here with operations in flight: their memory is leaked
        // rather than freed under the kernel's hands.
        if self.slots.get_mut().in_use() > 0 {
            self.slots.get_mut().leak();
            self.receive_buffers.get_mut().leak();
        }
    }
}

/// MSG_RING to a core that sleeps; where the kernel refuses, its event descriptor does it.
struct WakeUp {
    cell: Arc<WakeCell>,
}

impl Operation for WakeUp {
    fn complete(self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        if completion.result < 0 {
            self.cell.signal();
        }
        Next::Done
    }
}

/// Reads the event counter: its completion is what ends a wait.
struct EventRead {
    cell: Arc<WakeCell>,
    count: Vec<u64>,
}

impl EventRead {
    fn entry(&mut self) -> squeue::Entry {
        let fd = Fd(self.cell.event().as_fd().as_raw_fd());
        opcode::Read::new(fd, self.count.as_mut_ptr().cast(), 8).build()
    }
}

impl Operation for EventRead {
    fn complete(mut self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        if completion.result == -libc::ECANCELED {
            return Next::Done;
        }
        let entry = self.entry();
        Next::Again(self, entry.into())
    }
}

/// Waits for a descriptor.
struct Poll {
    _fd: Arc<OwnedFd>,
    promise: cfs_seam::Promise<std::io::Result<()>>,
}

impl Operation for Poll {
    fn complete(self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        let result = completion.bytes().map(drop).map_err(std::io::Error::from_raw_os_error);
        self.promise.complete(result);
        Next::Done
    }
}
