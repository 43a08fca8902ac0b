//! Time and timers.

use cfs_types::Nanos;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Nanoseconds on a clock that never steps and runs during suspend (CLOCK_BOOTTIME).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// Wraps nanoseconds since an arbitrary origin.
    pub const fn new(nanos: u64) -> Self {
        Instant(nanos)
    }
    /// Nanoseconds since the origin.
    pub const fn nanos(self) -> u64 {
        self.0
    }
    /// Saturates at the end of the range.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Instant(self.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }
    /// Time since `earlier`, zero if that lies ahead.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Names an armed timer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId(pub u64);

/// The core's clock. `arm` and `disarm` are for [`Sleep`].
pub trait Clock {
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Wall time; may step.
    fn wall(&self) -> Nanos;
    /// Wakes `waker` once at or after `at`.
    fn arm(&self, at: Instant, waker: Waker) -> TimerId;
    /// Forgets a timer; one that has fired is no error.
    fn disarm(&self, timer: TimerId);
}

/// Resolves at its instant; dropping it disarms the timer.
pub struct Sleep {
    clock: Rc<dyn Clock>,
    at: Instant,
    armed: Option<TimerId>,
}

/// Sleeps until `at`.
pub fn sleep_until(clock: &Rc<dyn Clock>, at: Instant) -> Sleep {
    Sleep { clock: clock.clone(), at, armed: None }
}

/// Sleeps for `wait`.
pub fn sleep(clock: &Rc<dyn Clock>, wait: Duration) -> Sleep {
    sleep_until(clock, clock.now().after(wait))
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.at {
            return Poll::Ready(());
        }
        if let Some(timer) = self.armed.take() {
            self.clock.disarm(timer);
        }
        self.armed = Some(self.clock.arm(self.at, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.armed.take() {
            self.clock.disarm(timer);
        }
    }
}

/// Runs `work` until `at`; None if it was not done by then (`work` is dropped, so it must be
/// safe to cancel).
pub async fn timeout<F: Future>(clock: &Rc<dyn Clock>, at: Instant, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut sleep = pin!(sleep_until(clock, at));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(out) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(out));
        }
        sleep.as_mut().poll(cx).map(|()| None)
    })
    .await
}
