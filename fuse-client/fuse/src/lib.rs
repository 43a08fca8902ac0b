//! The kernel's FUSE protocol, raw: /dev/fuse, mount, errno.
//!
//! Purpose: CoreFS's own front to Linux. [`mount()`] attaches a file system, a [`Session`] serves it on
//! one executor, [`FileSystem`] is what it serves. Invariants: only this crate knows the FUSE ABI and
//! errno; bytes from the kernel are checked like any others; nothing here blocks an executor.

pub mod abi;
mod caller;
pub mod capability;
mod device;
mod dispatch;
mod errno;
mod file_system;
mod listing;
pub mod mount;
mod notifier;
pub mod payload;
mod reply;
pub mod request;
mod session;
mod volume_front;

pub use capability::{Capabilities, Negotiated};
pub use device::Device;
pub use errno::Errno;
pub use file_system::{Caching, FileSystem, Opened};
pub use mount::{
    Mount, MountError, MountOptions, MountedAt, Unmounted, WhenInUse, check_place, mend_dead_mount, mount, unmount,
};
pub use notifier::{Notifier, Settled};
pub use session::{Host, Readable, Session, SessionError};
pub use volume_front::VolumeFront;
