//! The task scheduler of one core: classes with shares, timers, gates; no I/O.
//!
//! An [`Executor`] lives under a reactor: `engine/runtime` (io_uring) or `tests/sim` (virtual
//! time). The reactor completes I/O, which wakes tasks, and calls [`Executor::run_turn`], which
//! fires due timers and polls a bounded number of tasks, so that the reactor is never starved.
//!
//! Invariants: single-threaded but for wakers, which any thread may use; a wake is never lost (a
//! task woken while it is polled runs again); no borrow is held while foreign code (a future, its
//! drop, a waker) runs; any number of executors may live in one thread; dropping an executor drops
//! every task, wherever it waits.

pub mod channel;
mod event;
mod executor;
mod gate;
mod ready;
mod remote;
mod semaphore;
mod shares;
mod sync;
mod tasks;
mod timers;
mod waiters;
mod waker;

pub use event::{Event, Wait};
pub use executor::{ExecConfig, Executor, TimeSource, Turn};
pub use gate::{Gate, Pass};
pub use semaphore::{Acquire, Permit, Semaphore};
pub use shares::share_of;
