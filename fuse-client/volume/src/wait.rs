//! How long to wait before trying again.

use cfs_seam::{World, sleep};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(2);

/// Doubling waits with jitter: half to the whole of the current step.
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub fn new() -> Self {
        Backoff(FIRST)
    }

    pub async fn wait(&mut self, world: &World) {
        let half = u64::try_from(self.0.as_nanos() / 2).expect("seconds fit");
        let wait = Duration::from_nanos(half + world.rng.next_u64() % half.max(1));
        self.0 = (self.0 * 2).min(LONGEST);
        sleep(&world.clock, wait).await;
    }
}
