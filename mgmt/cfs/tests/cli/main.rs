//! The built binary as its users run it: real processes, real mounts, real signals.

mod documents;
mod life;
mod observing;
mod refusals;
mod stage;
