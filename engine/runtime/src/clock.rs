//! The kernel's clocks as the scheduler's source of time.

use cfs_exec::TimeSource;
use cfs_seam::Instant;
use cfs_types::Nanos;

/// CLOCK_BOOTTIME and CLOCK_REALTIME, both read without a system call.
pub(crate) struct KernelTime;

impl TimeSource for KernelTime {
    fn now(&self) -> Instant {
        crate::system::boot_time()
    }
    fn wall(&self) -> Nanos {
        crate::system::wall_time()
    }
}
