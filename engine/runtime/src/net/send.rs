//! The sending side of a stream.
//!
//! Sends queue in call order; one SEND or SENDMSG is in flight. What gathers in a turn, or while one is in
//! flight, goes out together in the next, so small sends share a system call and a packet.
//!
//! Invariants: bytes leave in the order of the calls, nothing between a head and its payload;
//! queued and unfinished bytes stay below the configured limit, beyond which the stream is closed.
#![allow(unsafe_code)]

use super::net_error;
use super::stream::Connection;
use crate::reactor::{Completion, Deferred, Next, Operation, Reactor};
use cfs_seam::{Io, IoBuf, NetError, Promise, SendDone, io};
use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// Sends that share a SENDMSG: two pieces each, and the kernel takes 1,024 pieces.
const BATCH_SENDS_MAX: usize = 128;

struct Outgoing {
    head: Vec<u8>,
    payload: Option<IoBuf>,
    promise: Promise<SendDone>,
}

impl Outgoing {
    fn pieces(&self) -> [&[u8]; 2] {
        [&self.head, self.payload.as_deref().unwrap_or(&[])]
    }
    fn bytes(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }
    fn finish(self, result: Result<(), NetError>) {
        self.promise.complete(SendDone { result, payload: self.payload });
    }
}

/// State of the sending side.
#[derive(Default)]
pub(super) struct Sending {
    queue: VecDeque<Outgoing>,
    /// Bytes queued and in flight.
    unfinished_bytes: usize,
    in_flight: bool,
    deferred: bool,
    end: Option<NetError>,
}

impl Connection {
    pub(super) fn send(self: &Rc<Self>, head: Vec<u8>, payload: Option<IoBuf>) -> Io<SendDone> {
        let (promise, future) = io();
        let outgoing = Outgoing { head, payload, promise };
        let bytes = outgoing.bytes();
        let mut state = self.sending.borrow_mut();
        let refusal = match &state.end {
            Some(end) => Some(end.clone()),
            None if state.unfinished_bytes.saturating_add(bytes) > self.reactor.config().send_queue_bytes_max => {
                Some(NetError::Os(libc::ENOBUFS))
            }
            None => None,
        };
        if let Some(error) = refusal {
            drop(state);
            outgoing.finish(Err(error));
            self.close();
            return future;
        }
        if bytes == 0 {
            drop(state);
            outgoing.finish(Ok(()));
            return future;
        }
        state.unfinished_bytes += bytes;
        state.queue.push_back(outgoing);
        if !state.in_flight && !state.deferred {
            state.deferred = true;
            self.reactor.defer(self.clone());
        }
        future
    }

    /// Sends what is queued, unless a send is in flight: its completion comes here again.
    fn start_sending(self: &Rc<Self>) {
        let mut state = self.sending.borrow_mut();
        if state.in_flight || state.queue.is_empty() {
            return;
        }
        let count = state.queue.len().min(BATCH_SENDS_MAX);
        let batch: Vec<Outgoing> = state.queue.drain(..count).collect();
        state.in_flight = true;
        drop(state);
        let mut operation =
            Box::new(Send { connection: self.clone(), batch, sent: 0, pieces: Vec::new(), message: Vec::new() });
        let entry = operation.entry();
        // SAFETY: the entry points into the batch, or to the message header, that to the pieces and
        // those into the batch: all on the heap, owned by the operation and untouched until it
        // completes, as is the socket.
        unsafe { self.reactor.start(operation, entry) };
    }

    pub(super) fn close_sending(&self) {
        let mut state = self.sending.borrow_mut();
        state.end.get_or_insert(NetError::Closed);
        let queue = std::mem::take(&mut state.queue);
        state.unfinished_bytes -= queue.iter().map(Outgoing::bytes).sum::<usize>();
        drop(state);
        for outgoing in queue {
            outgoing.finish(Err(NetError::Closed));
        }
    }
}

impl Deferred for Connection {
    fn run(self: Rc<Self>) {
        self.sending.borrow_mut().deferred = false;
        self.start_sending();
    }
}

struct Send {
    connection: Rc<Connection>,
    batch: Vec<Outgoing>,
    /// Bytes of the batch that the kernel has taken.
    sent: usize,
    pieces: Vec<libc::iovec>,
    /// One header, on the heap.
    message: Vec<libc::msghdr>,
}

impl Send {
    /// An entry for what is left of the batch. One piece needs no header, which the kernel would
    /// have to copy.
    fn entry(&mut self) -> squeue::Entry {
        let (socket, flags) = (Fd(self.connection.socket.as_raw_fd()), libc::MSG_NOSIGNAL | libc::MSG_WAITALL);
        if let [Outgoing { head, payload: None, .. }] = self.batch.as_slice()
            && let Ok(length) = u32::try_from(head.len() - self.sent)
        {
            return opcode::Send::new(socket, head[self.sent..].as_ptr(), length).flags(flags).build();
        }
        self.pieces.clear();
        let mut skip = self.sent;
        for piece in self.batch.iter().flat_map(Outgoing::pieces) {
            let rest = &piece[skip.min(piece.len())..];
            skip -= piece.len() - rest.len();
            if !rest.is_empty() {
                self.pieces.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            }
        }
        self.message = vec![libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: self.pieces.as_mut_ptr(),
            msg_iovlen: self.pieces.len(),
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        }];
        opcode::SendMsg::new(socket, self.message.as_ptr()).flags(flags.cast_unsigned()).build()
    }
}

impl Operation for Send {
    fn complete(mut self: Box<Self>, completion: Completion, _: &Rc<Reactor>) -> Next {
        let total: usize = self.batch.iter().map(Outgoing::bytes).sum();
        let outcome = match completion.bytes() {
            Ok(0) => Err(NetError::Closed),
            Ok(bytes) => {
                self.sent += bytes;
                Ok(())
            }
            Err(libc::EINTR | libc::EAGAIN) => Ok(()),
            Err(errno) => Err(net_error(errno)),
        };
        if outcome.is_ok() && self.sent < total {
            let entry = self.entry();
            return Next::Again(self, entry.into());
        }
        let Send { connection, batch, .. } = *self;
        {
            let mut state = connection.sending.borrow_mut();
            state.in_flight = false;
            state.unfinished_bytes -= total;
            if let Err(error) = &outcome {
                state.end.get_or_insert(error.clone());
            }
        }
        for outgoing in batch {
            outgoing.finish(outcome.clone());
        }
        match outcome {
            Ok(()) => connection.start_sending(),
            Err(_) => connection.close(),
        }
        Next::Done
    }
}
