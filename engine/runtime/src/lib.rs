//! The door in production: one io_uring ring a core under the scheduler.
//!
//! [`start_core`] starts a pinned thread with a ring, a scheduler and its seat in the mesh, and
//! runs a future there; [`run`] does the same on the calling thread, without a mesh. What they
//! hand to that future, a [`cfs_seam::World`] and a [`Reactor`], never leaves the core.
//!
//! Invariants: buffers in flight belong to the ring until the kernel completed the operation,
//! whatever becomes of the future, also when a core stops; one system call a turn submits and
//! waits; no wake-up of a sleeping core is lost; no core spins unless it was told that the CPU is
//! its own.

mod clock;
mod config;
mod core;
mod disk;
mod error;
mod idle;
mod mesh;
mod net;
mod reactor;
mod rng;
mod system;
mod wake;

pub use config::{CoreConfig, ParkPolicy, TaskRun};
pub use core::{CoreThread, available_cpus, run, start_core};
pub use disk::{DiskFile, NvmeIdentity, NvmeWear, OpenMode, open_disk};
pub use error::{Holder, KERNEL_MIN, RuntimeError};
pub use mesh::{MESH_RING_MESSAGES, MeshSeat, OUTSIDE, Remote, mesh};
pub use net::LocalNet;
pub use reactor::Reactor;
