//! Serving one device: reading requests, running each as a task, answering, giving up.
//!
//! Invariants: every request that the kernel waits for is answered once; at most
//! [`REQUESTS_MAX`] are in work and at most [`LONG_BUFFERS`] megabytes of payload are held (reading
//! pauses there and the kernel queues); the executor never waits for the kernel.
//!
//! A request whose caller is dying (see [`crate::caller`]) is answered EINTR, so that its process
//! can end while the server is away. Its operation runs on: a mutation that was sent may still
//! happen, as with any request whose caller was killed, and what it opened is released.

mod late;
mod table;
mod watch;

use crate::capability::{InitAnswer, Negotiated, negotiate};
use crate::device::{Device, REST_BYTES, Received};
use crate::dispatch::dispatch;
use crate::file_system::FileSystem;
use crate::payload::BufferPool;
use crate::reply::Answer;
use crate::request::{FileOperation, HEAD_BYTES, Operation, Refusal, Request, decode};
use cfs_exec::{Event, Gate, Pass, Permit, Semaphore};
use cfs_runtime::Reactor;
use cfs_seam::{Class, Clock, Io, Spawn, World, timeout};
use cfs_types::FsError;
use cfs_wire::Identity;
use late::Late;
use std::cell::Cell;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use table::{Table, Waiting};
use zerocopy::IntoBytes;

/// Requests in work. The kernel sends at most [`crate::capability::BACKGROUND_MAX`] asynchronous ones
/// and one for each thread that waits.
pub const REQUESTS_MAX: u64 = 4096;
/// Buffers of 1 MiB: one to read into, the others hold payloads of long writes.
const LONG_BUFFERS: usize = 64;
/// Requests read before others get the core.
const READS_PER_TURN: usize = 32;
/// How long the session waits at its end for operations that still run.
const DRAIN: Duration = Duration::from_secs(5);

/// Resolves when a descriptor is readable or hung up.
pub type Readable = Rc<dyn Fn(&Arc<OwnedFd>) -> Io<std::io::Result<()>>>;

/// What a session needs of its core.
#[derive(Clone)]
pub struct Host {
    /// Timers.
    pub clock: Rc<dyn Clock>,
    /// New tasks.
    pub tasks: Rc<dyn Spawn>,
    /// Waits for a descriptor.
    pub readable: Readable,
}

impl Host {
    /// A core of the production runtime. With `shared`, several cores serve clones of one device,
    /// and the kernel wakes one of them for a request.
    pub fn new(world: &World, reactor: &Rc<Reactor>, shared: bool) -> Self {
        let reactor = reactor.clone();
        let readable: Readable = Rc::new(move |fd| reactor.readable(fd, shared));
        Host { clock: world.clock.clone(), tasks: world.tasks.clone(), readable }
    }
}

/// Why a session ended other than by unmount.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Reading the device failed.
    #[error("reading requests from the kernel failed: {0}")]
    Read(std::io::Error),
    /// Waiting for the device failed.
    #[error("waiting for requests from the kernel failed: {0}")]
    Wait(std::io::Error),
}

/// One device served on one executor.
pub struct Session<F> {
    host: Host,
    device: Device,
    fs: Rc<F>,
    table: Table,
    late: Late,
    gate: Gate,
    room: Semaphore,
    watching: Cell<bool>,
    negotiated: Cell<Option<Negotiated>>,
    started: Event,
}

/// What to do after a request was looked at.
enum Next {
    Go,
    End,
}

impl<F: FileSystem> Session<F> {
    /// A session that begins with [`Session::serve`].
    pub fn new(host: Host, device: Device, fs: Rc<F>) -> Rc<Self> {
        Rc::new(Session {
            host,
            device,
            fs,
            table: Table::default(),
            late: Late::default(),
            gate: Gate::new(),
            room: Semaphore::new(REQUESTS_MAX),
            watching: Cell::new(false),
            negotiated: Cell::new(None),
            started: Event::new(),
        })
    }

    /// Resolves once the kernel and this session have agreed (on a cloned queue: never).
    pub async fn started(&self) -> Negotiated {
        loop {
            if let Some(negotiated) = self.negotiated.get() {
                return negotiated;
            }
            self.started.wait().await;
        }
    }

    /// Requests in work.
    pub fn in_work(&self) -> usize {
        self.table.len()
    }

    /// Serves until the file system is unmounted, then waits a little for what still runs.
    pub async fn serve(self: &Rc<Self>) -> Result<(), SessionError> {
        let ended = self.read_requests().await;
        let deadline = self.host.clock.now().after(DRAIN);
        timeout(&self.host.clock, deadline, self.gate.close()).await;
        self.table.clear();
        ended
    }

    async fn read_requests(self: &Rc<Self>) -> Result<(), SessionError> {
        let pool = BufferPool::new(LONG_BUFFERS, REST_BYTES);
        let mut head = [0; HEAD_BYTES];
        let mut rest = None;
        let mut reads = 0;
        loop {
            let permit = self.room.acquire(1).await;
            let mut buffer = match rest.take() {
                Some(buffer) => buffer,
                None => pool.take().await,
            };
            let received = self.device.receive(&mut head, buffer.buf_mut()).map_err(SessionError::Read)?;
            rest = Some(buffer);
            match received {
                Received::Request(bytes) => {
                    let request = decode(&head, &mut rest, bytes);
                    let mut request = Some((request, permit));
                    let accepted = poll_fn(|cx| {
                        let (request, permit) = request.take().expect("polled once");
                        Poll::Ready(self.accept(request, permit, cx))
                    });
                    if let Next::End = accepted.await {
                        return Ok(());
                    }
                }
                Received::Nothing => {
                    drop(permit);
                    reads = 0;
                    (self.host.readable)(self.device.fd()).await.map_err(SessionError::Wait)?;
                }
                Received::Vanished => {}
                Received::Ended => return Ok(()),
            }
            reads += 1;
            if reads == READS_PER_TURN {
                reads = 0;
                self.host.tasks.yield_now().await;
            }
        }
    }

    /// Starts a request, or answers it at once.
    fn accept(self: &Rc<Self>, request: Result<Request, Refusal>, permit: Permit, cx: &mut Context<'_>) -> Next {
        let request = match request {
            Ok(request) => request,
            Err(Refusal { unique, errno }) => {
                if let Some(unique) = unique {
                    self.device.reply(unique, Err(errno));
                }
                return Next::Go;
            }
        };
        match request.operation {
            Operation::Init(init) => self.begin(request.unique, negotiate(&init)),
            Operation::Destroy => {
                self.device.reply(request.unique, Ok(&[]));
                return Next::End;
            }
            Operation::Forget => {}
            Operation::Interrupt { unique } => self.interrupt(unique),
            Operation::File(operation) => {
                let caller = (request.pid, request.identity);
                self.start(request.unique, caller, operation, permit, cx);
            }
        }
        Next::Go
    }

    fn begin(&self, unique: u64, answer: Result<InitAnswer, FsError>) {
        match answer {
            Ok(InitAnswer::AskAgain(out)) => {
                self.device.reply(unique, Ok(&[out.as_bytes()]));
            }
            Ok(InitAnswer::Agreed(out, negotiated)) => {
                self.device.reply(unique, Ok(&[out.as_bytes()]));
                self.negotiated.set(Some(negotiated));
                self.started.notify_all();
            }
            Err(error) => {
                self.device.reply(unique, Err(error.into()));
            }
        }
    }

    /// An operation that needs nothing but memory is answered before the next request is read; others
    /// go on in a task of their own.
    fn start(
        self: &Rc<Self>,
        unique: u64,
        (pid, who): (u32, Identity),
        mut operation: FileOperation,
        permit: Permit,
        cx: &mut Context<'_>,
    ) {
        let Some(pass) = self.gate.enter() else { return };
        let waiting = Rc::new(Waiting::new(pid));
        let session = self.clone();
        self.late.mark(pid, &mut operation, self.host.clock.now());
        let mut task = Box::pin(session.run(unique, (pid, who), operation, waiting.clone(), (permit, pass)));
        if task.as_mut().poll(cx).is_ready() {
            return;
        }
        let handle = self.host.tasks.spawn_boxed(Class::Foreground, task);
        self.table.insert(unique, waiting, handle);
        self.watch();
    }

    async fn run(
        self: Rc<Self>,
        unique: u64,
        (pid, who): (u32, Identity),
        operation: FileOperation,
        waiting: Rc<Waiting>,
        _held: (Permit, Pass),
    ) {
        let mut work = std::pin::pin!(dispatch(&*self.fs, &who, operation));
        let answer = match waiting.unless_given_up(work.as_mut()).await {
            Some(answer) => {
                if answer.result.as_ref().is_err_and(|errno| *errno == FsError::Stale.into()) {
                    self.late.told(pid, self.host.clock.now());
                }
                let taken = self.answer(unique, &answer);
                if taken { None } else { answer.opened }
            }
            None => {
                self.device.reply(unique, Err(FsError::Interrupted.into()));
                work.await.opened
            }
        };
        if let Some(handle) = answer {
            self.fs.release(handle);
        }
        self.table.remove(unique, &waiting);
    }

    fn answer(&self, unique: u64, answer: &Answer<F::Data>) -> bool {
        match &answer.result {
            Ok(body) => self.device.reply(unique, Ok(&body.slices())),
            Err(errno) => self.device.reply(unique, Err(*errno)),
        }
    }
}
