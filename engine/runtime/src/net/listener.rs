//! Listening sockets. A connection is accepted when somebody asks for one: until then it waits in
//! the kernel's backlog, which is the bound. One task accepts: a second gets EBUSY.
#![allow(unsafe_code)]

use super::local::Registration;
use super::{RingNet, address, net_error, os_error, stream};
use crate::reactor::{Completion, Next, OpKey, Operation, Reactor};
use cfs_seam::{Accepted, Address, Class, Io, Listener, NetError, Promise, Spawn, TaskHandle, io, spawn};
use io_uring::opcode;
use io_uring::types::Fd;
use std::cell::{Cell, RefCell};
use std::fs;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;

/// Connections that wait to be accepted.
const BACKLOG: libc::c_int = 1024;

type Answer = Result<Accepted, NetError>;

struct Listening {
    socket: OwnedFd,
    address: Address,
    /// Device and inode of a Unix socket's path, so that only our own is removed.
    file: Option<(u64, u64)>,
    waiting: RefCell<Option<Promise<Answer>>>,
    /// A connection that came when nobody waited any more.
    spare: RefCell<Option<Accepted>>,
    accepting: Cell<Option<OpKey>>,
    closed: Cell<bool>,
    reactor: Rc<Reactor>,
    /// Where streams of this process come in.
    local: Option<Registration>,
    tasks: Rc<dyn Spawn>,
}

/// What the core holds: dropping it closes the socket.
struct RingListener {
    listening: Rc<Listening>,
    _local: Option<TaskHandle>,
}

pub(super) fn listen(net: &RingNet, address: &Address) -> Result<Rc<dyn Listener>, NetError> {
    let (socket, address, file) = match address {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address).map_err(|error| os_error(&error))?;
            let bound = listener.local_addr().map_err(|error| os_error(&error))?;
            (OwnedFd::from(listener), Address::Tcp(bound), None)
        }
        Address::Unix(path) => {
            remove_dead(path)?;
            let socket = address::listen_unix(path, BACKLOG).map_err(|error| os_error(&error))?;
            let file = fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
            (socket, Address::Unix(path.clone()), file)
        }
    };
    let local = net.local.as_ref().map(|hub| hub.register(address.clone()));
    let listening = Rc::new(Listening {
        socket,
        address,
        file,
        waiting: RefCell::default(),
        spare: RefCell::default(),
        accepting: Cell::new(None),
        closed: Cell::new(false),
        reactor: net.reactor.clone(),
        local,
        tasks: net.tasks.clone(),
    });
    let pump = |listening: Rc<Listening>| spawn(&net.tasks, Class::Foreground, hand_over(listening));
    let _local = listening.local.is_some().then(|| pump(listening.clone()));
    Ok(Rc::new(RingListener { listening, _local }))
}

/// Gives streams of this process to whoever waits for one, until it is dropped.
async fn hand_over(listening: Rc<Listening>) {
    poll_fn(|cx| {
        if let Some(local) = &listening.local {
            local.wake_me(cx.waker());
        }
        let wanted = listening.waiting.borrow().as_ref().is_some_and(|promise| !promise.is_abandoned());
        if let Some(stream) = wanted.then(|| listening.take_local()).flatten()
            && let Some(promise) = listening.waiting.take()
        {
            promise.complete(Ok(stream));
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Removes a socket that nobody serves; refuses one that is served, and anything else.
fn remove_dead(path: &Path) -> Result<(), NetError> {
    let in_use = NetError::Os(libc::EADDRINUSE);
    match fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(os_error(&error)),
        Ok(found) if !found.file_type().is_socket() => return Err(in_use),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(refused) if refused.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| os_error(&error))
        }
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => Err(in_use),
    }
}

impl Listening {
    /// A stream of this process that waits to be accepted.
    fn take_local(&self) -> Option<Accepted> {
        let end = self.local.as_ref()?.accept()?;
        Some(end.open(&self.tasks, self.reactor.config().send_queue_bytes_max))
    }

    fn accept(self: &Rc<Self>) {
        if self.accepting.get().is_some() {
            return;
        }
        let entry = opcode::Accept::new(Fd(self.socket.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build();
        // SAFETY: the entry's addresses are null; the operation keeps the socket open.
        let key = unsafe { self.reactor.start(Box::new(Accept(self.clone())), entry) };
        self.accepting.set(key);
    }

    fn close(&self) {
        self.closed.set(true);
        if let Some(key) = self.accepting.get() {
            self.reactor.cancel(key);
        }
        address::shutdown(self.socket.as_fd());
        if let (Address::Unix(path), Some(own)) = (&self.address, self.file) {
            let now = fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
            if now == Some(own) {
                // A path that stays is replaced by the next listener.
                drop(fs::remove_file(path));
            }
        }
        let waiting = self.waiting.take();
        if let Some(promise) = waiting {
            promise.complete(Err(NetError::Closed));
        }
    }
}

impl Listener for RingListener {
    fn accept(&self) -> Io<Answer> {
        let spare = self.listening.spare.take();
        if let Some(stream) = spare.or_else(|| self.listening.take_local()) {
            return Io::ready(Ok(stream));
        }
        if self.listening.waiting.borrow().as_ref().is_some_and(|promise| !promise.is_abandoned()) {
            return Io::ready(Err(NetError::Os(libc::EBUSY)));
        }
        let (promise, future) = io();
        self.listening.waiting.replace(Some(promise));
        self.listening.accept();
        future
    }
    fn address(&self) -> Address {
        self.listening.address.clone()
    }
}

impl Drop for RingListener {
    fn drop(&mut self) {
        self.listening.close();
    }
}

struct Accept(Rc<Listening>);

impl Operation for Accept {
    fn complete(self: Box<Self>, completion: Completion, reactor: &Rc<Reactor>) -> Next {
        let listening = &self.0;
        listening.accepting.set(None);
        let answer = match completion.result {
            // The peer left again before it was accepted, or a signal came: the next one.
            result if [-libc::EINTR, -libc::EAGAIN, -libc::ECONNABORTED].contains(&result) => {
                if !listening.closed.get() {
                    listening.accept();
                }
                return Next::Done;
            }
            errno if errno < 0 => Err(net_error(errno.saturating_neg())),
            fd => {
                // SAFETY: the kernel just made this descriptor and nobody else knows it.
                stream::open(unsafe { OwnedFd::from_raw_fd(fd) }, reactor)
            }
        };
        let waiting = listening.waiting.take();
        match (waiting, answer) {
            (Some(promise), answer) if !promise.is_abandoned() => promise.complete(answer),
            (_, Ok(stream)) if !listening.closed.get() => drop(listening.spare.replace(Some(stream))),
            (_, Ok(_) | Err(_)) => {}
        }
        Next::Done
    }
}
