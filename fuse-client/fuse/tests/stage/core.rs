//! An executor under poll(2), woken by other threads through a socket.
#![allow(unsafe_code)]

use cfs_exec::{ExecConfig, Executor, TimeSource};
use cfs_fuse::Host;
use cfs_seam::{Class, Instant, Promise, io, spawn};
use cfs_types::Nanos;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

struct Time(std::time::Instant);

impl TimeSource for Time {
    fn now(&self) -> Instant {
        Instant::new(u64::try_from(self.0.elapsed().as_nanos()).expect("a short test"))
    }
    fn wall(&self) -> Nanos {
        Nanos::new(0)
    }
}

type Waiting = Rc<RefCell<Vec<(Arc<OwnedFd>, Promise<std::io::Result<()>>)>>>;

/// Runs the future that `start` makes on this thread, to its end.
pub fn run<F: Future<Output = ()> + 'static>(start: impl FnOnce(Host) -> F) {
    let executor = Executor::new(Rc::new(Time(std::time::Instant::now())), ExecConfig::default());
    let waiting = Waiting::default();
    let polled = waiting.clone();
    let readable = Rc::new(move |fd: &Arc<OwnedFd>| {
        let (promise, future) = io();
        polled.borrow_mut().push((fd.clone(), promise));
        future
    });
    let (bell, rings) = UnixStream::pair().expect("sockets");
    executor.set_remote_notify(Arc::new(move || (&bell).write_all(b"!").expect("room for a byte")));
    let host = Host { clock: executor.clock(), tasks: executor.tasks(), readable };
    let done = Rc::new(Cell::new(false));
    let (work, ended) = (start(host), done.clone());
    let _task = spawn(&executor.tasks(), Class::Foreground, async move {
        work.await;
        ended.set(true);
    });
    while !done.get() {
        let turn = executor.run_turn();
        let now = executor.clock().now();
        let wait_ms = match turn.next_timer {
            _ if turn.more_ready || done.get() => 0,
            Some(at) => i32::try_from(at.since(now).as_millis() + 1).expect("a short test"),
            None => -1,
        };
        poll(&waiting, &rings, wait_ms);
    }
}

fn poll(waiting: &Waiting, rings: &UnixStream, wait_ms: i32) {
    let entry = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut entries: Vec<libc::pollfd> = waiting.borrow().iter().map(|(fd, _)| entry(fd.as_raw_fd())).collect();
    entries.push(entry(rings.as_raw_fd()));
    // SAFETY: the pointer and the count are of one vector.
    unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, wait_ms) };
    if entries.pop().is_some_and(|bell| bell.revents != 0) {
        (&*rings).read_exact(&mut [0]).expect("it rang");
    }
    let all = std::mem::take(&mut *waiting.borrow_mut());
    for (held, entry) in all.into_iter().zip(entries) {
        if entry.revents == 0 {
            waiting.borrow_mut().push(held);
        } else {
            held.1.complete(Ok(()));
        }
    }
}
