//! Settings of one core, with units in the types; checked before anything opens.

use crate::{LocalNet, RuntimeError};
use cfs_types::CoreId;
use std::time::Duration;

/// How the kernel hands completions to the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskRun {
    /// DEFER_TASKRUN: only when the core asks for completions. Helps pure FUSE and disk work.
    Deferred,
    /// COOP_TASKRUN: at the core's next system call. Best measured with sockets.
    Cooperative,
}

/// What a core does when it has nothing to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParkPolicy {
    /// Sleeps in the kernel at once: for a CPU that another of our executors shares.
    Sleep,
    /// Looks for work for a time that adapts to recent gaps, at most `limit`, then sleeps. Only
    /// for a CPU that this executor has to itself.
    Spin {
        /// Longest time it looks for work before it sleeps.
        limit: Duration,
    },
}

/// Settings of one core.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The core's number in its process.
    pub core: CoreId,
    /// The CPU to pin the thread to.
    pub pin_cpu: Option<usize>,
    /// Entries of the submission queue, a power of two; the completion queue has four times as many.
    pub ring_entries: u32,
    /// How completions arrive.
    pub task_run: TaskRun,
    /// What an idle core does.
    pub park: ParkPolicy,
    /// Memory for disk buffers that the kernel keeps pinned, so that it need not look up their
    /// pages for every transfer; 0 for none. Counts against memlock, which is 8 MiB for all
    /// processes of an ordinary user: there a core takes at most a 64th of it, or runs without.
    pub registered_buffer_bytes: usize,
    /// Buffers the kernel receives into, shared by the core's streams, a power of two.
    pub recv_buffers: u16,
    /// Bytes of each of them.
    pub recv_buffer_bytes: u32,
    /// Received bytes that a stream holds before it stops reading from its socket. What the
    /// completion queue already holds comes on top.
    pub recv_queue_bytes_max: usize,
    /// Bytes of unfinished sends a stream holds; a send beyond that fails and closes the stream,
    /// because its peer does not read.
    pub send_queue_bytes_max: usize,
    /// Joins the cores of this process that share it: streams between them do not pass the kernel.
    pub local: Option<LocalNet>,
}

impl CoreConfig {
    /// Defaults for core `core`: not pinned, 256 entries, sleeps at once, 2 MiB of receive
    /// buffers, 1 MiB of registered disk buffers.
    pub fn new(core: CoreId) -> Self {
        CoreConfig {
            core,
            pin_cpu: None,
            ring_entries: 256,
            task_run: TaskRun::Cooperative,
            park: ParkPolicy::Sleep,
            registered_buffer_bytes: 1 << 20,
            recv_buffers: 128,
            recv_buffer_bytes: 16 << 10,
            recv_queue_bytes_max: 256 << 10,
            send_queue_bytes_max: 64 << 20,
            local: None,
        }
    }

    /// Says which setting is out of range.
    pub(crate) fn check(&self) -> Result<(), RuntimeError> {
        let refuse = |what| Err(RuntimeError::Config { what });
        if !self.ring_entries.is_power_of_two() || !(8..=16 << 10).contains(&self.ring_entries) {
            return refuse("ring_entries must be a power of two between 8 and 16384");
        }
        if !self.recv_buffers.is_power_of_two() || self.recv_buffers > 1 << 14 {
            return refuse("recv_buffers must be a power of two up to 16384");
        }
        if !(256..=1 << 20).contains(&self.recv_buffer_bytes) {
            return refuse("recv_buffer_bytes must be between 256 bytes and 1 MiB");
        }
        if self.registered_buffer_bytes > 1 << 29 {
            return refuse("registered_buffer_bytes must be at most 512 MiB");
        }
        if self.recv_queue_bytes_max == 0 || self.send_queue_bytes_max == 0 {
            return refuse("the queues of a stream must hold at least one byte");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused() {
        let good = CoreConfig::new(CoreId::new(0));
        assert!(good.check().is_ok());
        assert!(CoreConfig { ring_entries: 100, ..good.clone() }.check().is_err());
        assert!(CoreConfig { recv_buffers: 0, ..good.clone() }.check().is_err());
        assert!(CoreConfig { recv_buffer_bytes: 1, ..good }.check().is_err());
    }
}
