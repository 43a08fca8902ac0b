//! The atomics and the mutex of the remote wake path: the standard library's, or loom's models of
//! them when the protocol is being checked (`--cfg loom`).

#[cfg(loom)]
pub use loom::sync::Mutex;
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom))]
pub use std::sync::Mutex;
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicBool, Ordering};
