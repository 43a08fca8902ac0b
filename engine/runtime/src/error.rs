//! Why a core did not start, or a device did not open.

use std::io;
use std::path::PathBuf;

/// Oldest kernel the runtime supports; it has every operation and flag used here.
pub const KERNEL_MIN: &str = "6.1";

/// The process that holds a device's lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Process id, in our own process namespace.
    pub pid: u32,
    /// Its command name, where `/proc` shows it.
    pub command: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.command {
            Some(command) => write!(f, "process {} ({command})", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

fn name(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "another process, which is not to be seen from here".to_owned(), Holder::to_string)
}

/// Why the runtime cannot do what was asked. None of these is worth a retry without a change
/// from outside.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A setting is out of range.
    #[error("{what}")]
    Config {
        /// Which one, and what it may be.
        what: &'static str,
    },
    /// The kernel is too old.
    #[error("this kernel has no {missing}: CoreFS needs Linux {KERNEL_MIN} or newer")]
    Kernel {
        /// What it lacks.
        missing: String,
    },
    /// io_uring exists but this process may not use it.
    #[error("io_uring is forbidden here: {why} (CoreFS needs it, on Linux {KERNEL_MIN} or newer)")]
    Forbidden {
        /// Which setting forbids it and what to change.
        why: String,
    },
    /// Another process uses the device.
    #[error("{} is in use by {}", path.display(), name(holder.as_ref()))]
    Locked {
        /// The device or file.
        path: PathBuf,
        /// Who holds it, where `/proc/locks` says so.
        holder: Option<Holder>,
    },
    /// The system itself uses the device.
    #[error("{} is in use: {user}", path.display())]
    Claimed {
        /// The device.
        path: PathBuf,
        /// As what.
        user: String,
    },
    /// The path is no regular file, block device or NVMe namespace.
    #[error("{} is neither a regular file nor a block device nor an NVMe namespace (/dev/ngXnY)", path.display())]
    NotADisk {
        /// What was to be opened.
        path: PathBuf,
    },
    /// A device could not be opened or prepared.
    #[error("{operation} {}: {source}", path.display())]
    Open {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The CPU does not exist or this process may not run there.
    #[error("cannot pin the core's thread to CPU {cpu}")]
    Pin {
        /// The CPU asked for.
        cpu: usize,
    },
    /// A system call that a core needs failed.
    #[error("{operation}: {source}")]
    System {
        /// What was being done.
        operation: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The core's thread ended by a panic.
    #[error("the core's thread panicked")]
    Panicked,
}

impl RuntimeError {
    pub(crate) fn system(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| RuntimeError::System { operation, source }
    }
}
