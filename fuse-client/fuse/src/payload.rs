//! Long buffers that requests are read into, bounded in number.

use cfs_exec::{Permit, Semaphore};
use cfs_seam::IoBuf;
use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

/// Buffers of one length; clones share them.
#[derive(Clone)]
pub struct BufferPool {
    free: Rc<RefCell<Vec<IoBuf>>>,
    room: Semaphore,
    bytes_each: usize,
}

impl BufferPool {
    /// At most `count` buffers of `bytes_each`, made when first needed.
    pub fn new(count: usize, bytes_each: usize) -> Self {
        let room = Semaphore::new(u64::try_from(count).expect("a length fits 64 bits"));
        BufferPool { free: Rc::default(), room, bytes_each }
    }
    /// A whole buffer; waits while all are in use. Cancel-safe.
    pub async fn take(&self) -> Pooled {
        let permit = self.room.acquire(1).await;
        let reused = self.free.borrow_mut().pop();
        let mut buf = reused.unwrap_or_else(|| IoBuf::zeroed(self.bytes_each));
        buf.set_len(self.bytes_each);
        Pooled { buf, free: self.free.clone(), _permit: permit }
    }
}

/// A buffer that returns to its pool when dropped.
pub struct Pooled {
    buf: IoBuf,
    free: Rc<RefCell<Vec<IoBuf>>>,
    _permit: Permit,
}

impl Pooled {
    /// All of it.
    pub fn buf_mut(&mut self) -> &mut IoBuf {
        &mut self.buf
    }
}

impl Deref for Pooled {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buf
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let buf = std::mem::replace(&mut self.buf, IoBuf::zeroed(0));
        self.free.borrow_mut().push(buf);
    }
}

impl std::fmt::Debug for Pooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pooled({} bytes)", self.buf.len())
    }
}

/// The data of a WRITE: short ones are copied, so that the long buffer takes the next request.
#[derive(Debug)]
pub enum Payload {
    /// A copy.
    Short(Vec<u8>),
    /// The first bytes of the buffer it was read into, page-aligned.
    Long(Pooled, usize),
}

impl Deref for Payload {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Payload::Short(bytes) => bytes,
            Payload::Long(pooled, len) => &pooled[..*len],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    trait NowOrNever: Future + Sized {
        fn now_or_never(self) -> Option<Self::Output> {
            match pin!(self).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(value) => Some(value),
                Poll::Pending => None,
            }
        }
    }
    impl<F: Future> NowOrNever for F {}

    #[test]
    fn a_pool_lends_no_more_than_it_has_and_lends_again() {
        let pool = BufferPool::new(2, 8192);
        let take = || pool.take().now_or_never();
        let (first, second) = (take(), take());
        assert!(first.is_some() && second.is_some() && take().is_none());
        let address = first.as_deref().map(<[u8]>::as_ptr);
        drop(first);
        let again = take();
        assert_eq!(again.as_deref().map(<[u8]>::as_ptr), address);
        assert_eq!(again.as_deref().map(<[u8]>::len), Some(8192));
    }
}
