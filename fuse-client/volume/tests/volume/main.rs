//! The volume against a small server of its own, in the simulator.

mod bulk;
mod coherence;
mod fake;
mod history;
mod leases;
mod retry;
mod write_behind;
