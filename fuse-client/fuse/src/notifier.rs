//! Telling the kernel to forget what it caches.
//!
//! A notification can wait in the kernel: INVAL_ENTRY for the directory's lock, which a create that
//! waits for our answer may hold, and INVAL_INODE for pages that a read of ours is to fill. So a
//! thread of its own writes them, in order, and whoever needs to know waits with
//! [`Notifier::settled`] (bounded by a time-out where [`Notifier::waits_for_lock`], whose holder may wait for
//! him in turn; what [`Notifier::distrust`] says needs no lock and then makes up for the rest, but for mappings).
//!
//! Names are expired, not dropped, where the kernel can (protocol 7.38): it looks them up again at
//! the next use, and a working directory stays what it is.

use crate::abi::{InvalEntryOut, InvalInodeOut, MINOR_INC_EPOCH, notify};
use crate::capability::Negotiated;
use crate::device::Device;
use cfs_types::{InodeId, Name};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use zerocopy::IntoBytes;

/// Notifications that wait to be written. More than a volume caches with its default limits, so
/// that a server's restart, which voids everything, fits.
const NOTICES_MAX: usize = 1 << 18;
/// `InvalEntryOut::flags`: expire the name instead of dropping it.
const EXPIRE_ONLY: u32 = 1 << 0;

#[derive(Debug)]
enum Notice {
    Inode(InodeId),
    Pages(InodeId, u64, u64),
    Entry(InodeId, Name),
    /// Some were left out: all names must be looked up again.
    Names,
}

#[derive(Default)]
struct Queue {
    notices: VecDeque<Notice>,
    /// Notices ever queued and ever dealt with.
    queued: u64,
    written: u64,
    waiters: Vec<(u64, Waker)>,
    overflowed: u64,
    closed: bool,
}

impl Queue {
    /// One more is written; who waited for it.
    fn advance(&mut self) -> Vec<(u64, Waker)> {
        self.written += 1;
        let written = self.written;
        self.waiters.extract_if(.., |(target, _)| *target <= written).collect()
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// What the kernel says of the thread that writes (proc_pid_stat(5)); unset until it has run.
    state: OnceLock<PathBuf>,
}

impl Shared {
    /// The queue is consistent after each statement, also where a thread panicked.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends notifications for one session. Dropping it drops what waits.
pub struct Notifier {
    shared: Arc<Shared>,
    device: Device,
    negotiated: Negotiated,
}

impl Notifier {
    /// Starts the thread that writes to `device`.
    pub fn start(device: Device, negotiated: Negotiated) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (of_thread, writer) = (shared.clone(), device.clone());
        let work = move || write_notices(&of_thread, &writer, negotiated);
        std::thread::Builder::new().name("cfs-notify".into()).spawn(work)?;
        Ok(Notifier { shared, device, negotiated })
    }

    /// Has the kernel forget pages and attributes.
    pub fn forget_inode(&self, ino: InodeId) {
        self.push(Notice::Inode(ino));
    }

    /// Has the kernel forget the pages there (and the attributes).
    pub fn forget_pages(&self, ino: InodeId, offset: u64, bytes: u64) {
        self.push(Notice::Pages(ino, offset, bytes));
    }

    /// Has the kernel look a name up again, present or absent.
    pub fn forget_entry(&self, dir: InodeId, name: &Name) {
        self.push(Notice::Entry(dir, name.clone()));
    }

    /// Has the kernel ask again for the attributes of these inodes, and for all names where it can (protocol
    /// 7.44). Neither waits for a lock that an operation holds: it may be called on the executor.
    pub fn distrust(&self, inodes: &[InodeId]) {
        for ino in inodes {
            // An error says that the inode is not known or the session over: nothing is trusted then.
            let _unknown = self.device.notify(notify::INVAL_INODE, &[attributes_of(*ino).as_bytes()]);
        }
        let _over = write(&self.device, &Notice::Names, self.negotiated);
    }

    /// Resolves when everything queued until now has reached the kernel. Cancel-safe.
    pub fn settled(&self) -> Settled {
        Settled { target: self.shared.lock().queued, shared: self.shared.clone() }
    }

    /// Notifications left out because too many waited; names were then expired all at once, and
    /// attributes hold until their time is over.
    pub fn overflowed(&self) -> u64 {
        self.shared.lock().overflowed
    }

    /// Whether the thread that writes sleeps in the kernel, for a lock then, rather than waits for a CPU. Reads /proc,
    /// which does not wait for devices.
    pub fn waits_for_lock(&self) -> bool {
        let Some(state) = self.shared.state.get() else { return false };
        std::fs::read_to_string(state).map_or(true, |stat| sleeps_deaf(&stat))
    }

    fn push(&self, notice: Notice) {
        let mut queue = self.shared.lock();
        if queue.notices.len() < NOTICES_MAX {
            queue.notices.push_back(notice);
            queue.queued += 1;
        } else {
            queue.overflowed += 1;
            if !matches!(queue.notices.back(), Some(Notice::Names)) {
                queue.notices.push_back(Notice::Names);
                queue.queued += 1;
            }
        }
        drop(queue);
        self.shared.work.notify_one();
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
    }
}

/// The future of [`Notifier::settled`].
pub struct Settled {
    target: u64,
    shared: Arc<Shared>,
}

impl Future for Settled {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.shared.lock();
        if queue.written >= self.target || queue.closed {
            return Poll::Ready(());
        }
        let target = self.target;
        queue.waiters.retain(|(at, waker)| *at != target || !waker.will_wake(cx.waker()));
        queue.waiters.push((target, cx.waker().clone()));
        Poll::Pending
    }
}

/// The thread: writes until the notifier is dropped or the session is over.
fn write_notices(shared: &Shared, device: &Device, negotiated: Negotiated) {
    if let Ok(own) = std::fs::read_link("/proc/thread-self") {
        let _first = shared.state.set(Path::new("/proc").join(own).join("stat"));
    }
    let mut over = false;
    loop {
        let notice = {
            let mut queue = shared.lock();
            loop {
                if queue.closed {
                    return;
                }
                match queue.notices.pop_front() {
                    Some(notice) => break notice,
                    None => queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                }
            }
        };
        // Other errors say that the kernel does not know the inode or name: nothing to forget.
        let result = if over { Ok(()) } else { write(device, &notice, negotiated) };
        over |= result.is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV));
        for (_, waker) in shared.lock().advance() {
            waker.wake();
        }
    }
}

/// State D, behind the name in parentheses, which may hold any bytes.
fn sleeps_deaf(stat: &str) -> bool {
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('D'))
}

/// A negative offset leaves pages alone; the next read drops them where the attributes moved.
fn attributes_of(ino: InodeId) -> InvalInodeOut {
    InvalInodeOut { ino: ino.get(), off: -1, len: 0 }
}

fn write(device: &Device, notice: &Notice, negotiated: Negotiated) -> io::Result<()> {
    match notice {
        // From offset 0, length 0: to the end.
        Notice::Inode(ino) => {
            device.notify(notify::INVAL_INODE, &[InvalInodeOut { ino: ino.get(), off: 0, len: 0 }.as_bytes()])
        }
        Notice::Pages(ino, offset, bytes) => {
            // A length of 0 would be the rest of the file, and a negative offset none of it.
            let (off, len) = (i64::try_from(*offset).unwrap_or(0), i64::try_from(*bytes).unwrap_or(0));
            device.notify(notify::INVAL_INODE, &[InvalInodeOut { ino: ino.get(), off, len }.as_bytes()])
        }
        Notice::Entry(dir, name) => {
            let flags = if negotiated.offered.has("HAS_EXPIRE_ONLY") { EXPIRE_ONLY } else { 0 };
            let namelen = u32::try_from(name.as_bytes().len()).map_err(io::Error::other)?;
            let entry = InvalEntryOut { parent: dir.get(), namelen, flags };
            device.notify(notify::INVAL_ENTRY, &[entry.as_bytes(), name.as_bytes(), b"\0"])
        }
        Notice::Names if negotiated.minor >= MINOR_INC_EPOCH => device.notify(notify::INC_EPOCH, &[]),
        Notice::Names => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_waits_for_a_lock_where_it_sleeps_deaf_or_nothing_is_known() {
        assert!(sleeps_deaf("7 (cfs-notify) D 1 7 7 0"));
        assert!(!sleeps_deaf("7 (cfs) D) R 1 7 7 0"));
        assert!(!sleeps_deaf("7 (cfs-notify) S 1 7 7 0"));
        assert!(sleeps_deaf(""));
    }
}
