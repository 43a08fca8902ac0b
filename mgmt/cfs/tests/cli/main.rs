//! The built binary as its users run it: real processes, real mounts, real signals.

#![allow(clippy::disallowed_methods, reason = "real processes are waited for in real time")]

mod devices;
mod documents;
mod formatting;
mod life;
mod observing;
mod pool;
mod refusals;
mod scrub;
mod stage;
