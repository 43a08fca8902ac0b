//! How long an idle core looks for work before it sleeps.
//!
//! Sleeping costs whoever brings work a wake-up of 20 to 30 us; looking costs this CPU. So the
//! core looks only while the gaps it has seen lately are short enough for that to pay, and at
//! most twice the usual gap.

use crate::ParkPolicy;
use cfs_seam::Instant;
use std::time::Duration;

pub(crate) struct Idle {
    limit: Duration,
    /// Moving average of the gaps between work, an eighth new.
    usual_gap: Duration,
    since: Option<Instant>,
}

impl Idle {
    pub(crate) fn new(policy: ParkPolicy) -> Self {
        let limit = match policy {
            ParkPolicy::Sleep => Duration::ZERO,
            ParkPolicy::Spin { limit } => limit,
        };
        Idle { limit, usual_gap: limit / 2, since: None }
    }

    /// The core ran out of work: how long to look for more.
    pub(crate) fn begin(&mut self, now: Instant) -> Duration {
        self.since.get_or_insert(now);
        if self.usual_gap > self.limit { Duration::ZERO } else { self.limit.min(self.usual_gap * 2) }
    }

    /// The core has work.
    pub(crate) fn end(&mut self, now: Instant) {
        let Some(since) = self.since.take() else { return };
        // A long sleep says 'not now', not 'never again': eight short gaps after it still count.
        let gap = now.since(since).min(self.limit * 8);
        self.usual_gap = (self.usual_gap * 7 + gap) / 8;
    }

    /// False where the core always sleeps at once, so that gaps need no clock.
    pub(crate) fn looks(&self) -> bool {
        !self.limit.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);

    fn gap(idle: &mut Idle, at: &mut Instant, gap: Duration) -> Duration {
        let look = idle.begin(*at);
        *at = at.after(gap);
        idle.end(*at);
        look
    }

    #[test]
    fn short_gaps_are_looked_through_and_long_ones_slept_through() {
        let (mut idle, mut at) = (Idle::new(ParkPolicy::Spin { limit: LIMIT }), Instant::new(0));
        for _ in 0..40 {
            gap(&mut idle, &mut at, Duration::from_micros(10));
        }
        let look = gap(&mut idle, &mut at, Duration::from_micros(10));
        assert!(look >= Duration::from_micros(20) && look <= Duration::from_micros(24), "{look:?}");
        for _ in 0..40 {
            gap(&mut idle, &mut at, Duration::from_secs(1));
        }
        assert_eq!(gap(&mut idle, &mut at, Duration::from_secs(1)), Duration::ZERO);
        for _ in 0..40 {
            gap(&mut idle, &mut at, Duration::from_micros(10));
        }
        assert!(!gap(&mut idle, &mut at, Duration::ZERO).is_zero(), "it looks again when load returns");
    }

    #[test]
    fn a_shared_cpu_is_never_spun_on() {
        let mut idle = Idle::new(ParkPolicy::Sleep);
        assert!(!idle.looks());
        assert_eq!(idle.begin(Instant::new(0)), Duration::ZERO);
    }
}
