//! The signals that ask this process to stop. They wait in a queue from the first moment on, so that
//! none of them ends a process that has mounted something: whoever does long work looks at the queue
//! between two steps.
//!
//! Invariants: made before any other thread, which all leave these signals in the queue; some time after
//! the first one SIGINT and SIGTERM end the process at once, for whoever does not want to wait.

use crate::Failure;
use crate::system::{self, Asked};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks at whether what somebody waits for has ended by itself.
const LOOK: Duration = Duration::from_millis(200);
/// From the first signal until the next one ends the process: `timeout` and shells send one to the
/// process and one to its group.
const SAME_WISH: Duration = Duration::from_secs(1);

/// Whether somebody asked this process to stop.
pub struct StopSign {
    queue: File,
    asked: AtomicBool,
}

impl StopSign {
    /// From now on SIGINT, SIGTERM and SIGHUP wait to be looked at. A SIGHUP that is ignored
    /// (nohup) stays so.
    pub fn catch() -> Result<Self, Failure> {
        let queue = system::queue_of_stop_signals().map_err(|e| Failure::new("listening for signals", e))?;
        Ok(StopSign { queue, asked: AtomicBool::new(false) })
    }

    /// Whether one came; never waits.
    pub fn is_asked(&self) -> bool {
        if !self.asked.load(Ordering::Acquire)
            && let Some(signal) = system::next_stop_signal(&self.queue)
        {
            self.heed(signal);
        }
        self.asked.load(Ordering::Acquire)
    }

    fn heed(&self, signal: Asked) {
        self.asked.store(true, Ordering::Release);
        if signal == Asked::HungUp {
            // The terminal is gone, and writing to it would fail.
            let _stays = system::leave_output(None);
        }
        let Ok(queue) = self.queue.try_clone() else { return };
        let impatience = move || {
            std::thread::sleep(SAME_WISH);
            while system::next_stop_signal(&queue).is_some() {}
            system::end_at_next_signal();
            loop {
                std::thread::park();
            }
        };
        // Without it a second signal ends nothing; the stop goes on.
        let _other = std::thread::Builder::new().name("cfs-signals".into()).spawn(impatience);
    }

    /// Waits until one came or `ended` says so.
    pub async fn wait(&self, ended: impl Fn() -> bool) -> Result<(), Failure> {
        let queue = system::until_readable(&self.queue).map_err(|e| Failure::new("listening for signals", e))?;
        let mut look = tokio::time::interval(LOOK);
        while !self.is_asked() && !ended() {
            tokio::select! {
                asked = queue.readable() => asked.map_err(|e| Failure::new("listening for signals", e))?.clear_ready(),
                _ = look.tick() => {}
            }
        }
        Ok(())
    }
}
