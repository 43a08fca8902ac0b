//! The receiving side of a stream.
//!
//! `recv` arms a multishot receive into the core's shared buffers; it stays armed until the queue
//! of received bytes is full. `recv_exact` first takes what is queued, then receives straight into
//! the caller's buffer; for that a multishot receive is cancelled, unless so little is missing that
//! copying it is cheaper.
//!
//! Invariant: at most one receive is in flight on a socket, so bytes keep their order.
#![allow(unsafe_code)]

use super::net_error;
use super::stream::Connection;
use crate::reactor::{Completion, Next, OpKey, Operation, Reactor};
use cfs_seam::{Chunk, Io, IoBuf, NetError, Promise, io};
use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// Where so little is missing, a multishot receive in flight is left to bring it.
const COPY_BYTES_MAX: usize = 32 << 10;

type ChunkResult = Result<Chunk, NetError>;
type ExactResult = (Result<(), NetError>, IoBuf);

#[derive(Default)]
enum Armed {
    #[default]
    No,
    /// A multishot receive; `ending` once its cancellation was asked for.
    Multishot { key: OpKey, ending: bool },
    /// A receive straight into a caller's buffer, which is in the operation.
    Direct(OpKey),
}

/// A buffer that is being filled.
struct Exact {
    buf: IoBuf,
    filled: usize,
    promise: Promise<ExactResult>,
}

impl Exact {
    fn missing(&self) -> usize {
        self.buf.len() - self.filled
    }
    fn finish(self, result: Result<(), NetError>) {
        self.promise.complete((result, self.buf));
    }
}

#[derive(Default)]
enum Want {
    #[default]
    Nothing,
    Chunk(Promise<ChunkResult>),
    Exact(Exact),
}

/// State of the receiving side.
#[derive(Default)]
pub(super) struct Receiving {
    queue: VecDeque<Chunk>,
    queued_bytes: usize,
    end: Option<NetError>,
    armed: Armed,
    want: Want,
}

impl Receiving {
    fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.queue.pop_front()?;
        self.queued_bytes -= chunk.len();
        Some(chunk)
    }

    fn push(&mut self, chunk: Chunk) {
        self.queued_bytes += chunk.len();
        self.queue.push_back(chunk);
    }

    /// Moves queued bytes into a buffer.
    fn fill(&mut self, exact: &mut Exact) {
        while exact.missing() > 0
            && let Some(mut chunk) = self.pop()
        {
            let bytes = exact.missing().min(chunk.len());
            exact.buf[exact.filled..exact.filled + bytes].copy_from_slice(&chunk[..bytes]);
            exact.filled += bytes;
            if bytes < chunk.len() {
                chunk.drain(..bytes);
                self.queued_bytes += chunk.len();
                self.queue.push_front(chunk);
            }
        }
    }

    /// Whether a receive may begin on behalf of the caller: 'one task receives'.
    fn is_free(&self) -> bool {
        match &self.want {
            Want::Nothing => !matches!(self.armed, Armed::Direct(_)),
            Want::Chunk(promise) => promise.is_abandoned(),
            Want::Exact(_) => false,
        }
    }

    /// What can be answered now.
    fn answer(&mut self) -> Answer {
        match std::mem::take(&mut self.want) {
            Want::Nothing => Answer::None,
            Want::Chunk(promise) if promise.is_abandoned() => Answer::None,
            Want::Chunk(promise) => {
                if let Some(chunk) = self.pop() {
                    Answer::Chunk(promise, Ok(chunk))
                } else if let Some(end) = self.end.clone() {
                    Answer::Chunk(promise, Err(end))
                } else {
                    self.want = Want::Chunk(promise);
                    Answer::None
                }
            }
            Want::Exact(mut exact) => {
                self.fill(&mut exact);
                if exact.missing() == 0 {
                    Answer::Exact(exact, Ok(()))
                } else if let Some(end) = self.end.clone() {
                    Answer::Exact(exact, Err(end))
                } else {
                    self.want = Want::Exact(exact);
                    Answer::None
                }
            }
        }
    }
}

/// An answer, to be given when the state is not borrowed.
enum Answer {
    None,
    Chunk(Promise<ChunkResult>, ChunkResult),
    Exact(Exact, Result<(), NetError>),
}

impl Connection {
    pub(super) fn receive(self: &Rc<Self>) -> Io<ChunkResult> {
        let mut state = self.receiving.borrow_mut();
        if !state.is_free() {
            return Io::ready(Err(NetError::Os(libc::EBUSY)));
        }
        let (promise, future) = io();
        state.want = Want::Chunk(promise);
        drop(state);
        self.proceed();
        future
    }

    pub(super) fn receive_exact(self: &Rc<Self>, buf: IoBuf, from: usize) -> Io<ExactResult> {
        let mut state = self.receiving.borrow_mut();
        if from > buf.len() {
            return Io::ready((Err(NetError::Os(libc::EINVAL)), buf));
        }
        if !state.is_free() {
            return Io::ready((Err(NetError::Os(libc::EBUSY)), buf));
        }
        let (promise, future) = io();
        state.want = Want::Exact(Exact { buf, filled: from, promise });
        drop(state);
        self.proceed();
        future
    }

    /// Answers what can be answered and arms what the rest needs.
    fn proceed(self: &Rc<Self>) {
        let answer = self.receiving.borrow_mut().answer();
        match answer {
            Answer::None => {}
            Answer::Chunk(promise, result) => promise.complete(result),
            Answer::Exact(exact, result) => exact.finish(result),
        }
        let mut state = self.receiving.borrow_mut();
        let state = &mut *state;
        if self.closed.get() {
            return;
        }
        match (&mut state.armed, &state.want) {
            (Armed::No, Want::Chunk(_)) => {
                if let Some(key) = self.start_multishot() {
                    state.armed = Armed::Multishot { key, ending: false };
                }
            }
            (Armed::No, Want::Exact(_)) => {
                let Want::Exact(exact) = std::mem::take(&mut state.want) else { return };
                if let Some(key) = self.start_direct(exact) {
                    state.armed = Armed::Direct(key);
                }
            }
            (Armed::Multishot { key, ending: ending @ false }, Want::Exact(exact))
                if exact.missing() > COPY_BYTES_MAX =>
            {
                *ending = true;
                self.reactor.cancel(*key);
            }
            (Armed::Multishot { key, ending: ending @ false }, Want::Nothing)
                if state.queued_bytes >= self.reactor.config().recv_queue_bytes_max =>
            {
                *ending = true;
                self.reactor.cancel(*key);
            }
            _ => {}
        }
    }

    fn start_multishot(self: &Rc<Self>) -> Option<OpKey> {
        let entry = opcode::RecvMulti::new(Fd(self.socket.as_raw_fd()), self.reactor.receive_group()).build();
        // SAFETY: the entry has no addresses, the kernel picks from the reactor's buffers; the
        // operation keeps the socket open.
        unsafe { self.reactor.start(Box::new(Multishot(self.clone())), entry) }
    }

    fn start_direct(self: &Rc<Self>, exact: Exact) -> Option<OpKey> {
        let mut operation = Box::new(Direct { connection: self.clone(), exact });
        let entry = operation.entry();
        // SAFETY: the entry points into the operation's buffer, which is on the heap; the operation
        // keeps the socket open.
        unsafe { self.reactor.start(operation, entry) }
    }

    pub(super) fn close_receiving(&self) {
        let mut state = self.receiving.borrow_mut();
        state.queue.clear();
        state.queued_bytes = 0;
        state.end = Some(NetError::Closed);
        match state.armed {
            Armed::Multishot { key, .. } | Armed::Direct(key) => self.reactor.cancel(key),
            Armed::No => {}
        }
        let answer = state.answer();
        drop(state);
        match answer {
            Answer::None => {}
            Answer::Chunk(promise, result) => promise.complete(result),
            Answer::Exact(exact, result) => exact.finish(result),
        }
    }

    fn end_receiving(&self, error: NetError) {
        let mut state = self.receiving.borrow_mut();
        state.end.get_or_insert(error);
    }
}

struct Multishot(Rc<Connection>);

impl Operation for Multishot {
    fn complete(self: Box<Self>, completion: Completion, reactor: &Rc<Reactor>) -> Next {
        let connection = self.0.clone();
        let chunk = reactor.take_received(completion);
        match completion.bytes() {
            Ok(0) => connection.end_receiving(NetError::Closed),
            Ok(_) => {
                if let Some(chunk) = chunk.filter(|chunk| !chunk.is_empty() && !connection.closed.get()) {
                    connection.receiving.borrow_mut().push(chunk);
                }
            }
            // Cancelled by us, all buffers were out, or a signal: armed again if still wanted.
            Err(libc::ECANCELED | libc::ENOBUFS | libc::EINTR | libc::EAGAIN) => {}
            Err(errno) => connection.end_receiving(net_error(errno)),
        }
        if !completion.more() {
            connection.receiving.borrow_mut().armed = Armed::No;
        }
        connection.proceed();
        if completion.more() { Next::More(self) } else { Next::Done }
    }
}

/// A receive into the caller's buffer, continued until it is full.
struct Direct {
    connection: Rc<Connection>,
    exact: Exact,
}

impl Direct {
    fn entry(&mut self) -> squeue::Entry {
        let rest = &mut self.exact.buf[self.exact.filled..];
        let length = u32::try_from(rest.len()).unwrap_or(1 << 30);
        opcode::Recv::new(Fd(self.connection.socket.as_raw_fd()), rest.as_mut_ptr(), length)
            .flags(libc::MSG_WAITALL)
            .build()
    }
}

impl Operation for Direct {
    fn complete(mut self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        let outcome = match completion.bytes() {
            Ok(0) => Err(NetError::Closed),
            Ok(bytes) => {
                self.exact.filled += bytes;
                Ok(())
            }
            Err(libc::EINTR | libc::EAGAIN) => Ok(()),
            Err(errno) => Err(net_error(errno)),
        };
        if outcome.is_ok() && self.exact.missing() > 0 {
            let entry = self.entry();
            return Next::Again(self, entry.into());
        }
        let Direct { connection, exact } = *self;
        connection.receiving.borrow_mut().armed = Armed::No;
        if let Err(error) = &outcome {
            connection.end_receiving(error.clone());
        }
        exact.finish(outcome);
        Next::Done
    }
}
