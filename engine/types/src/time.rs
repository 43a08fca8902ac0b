//! Wall time of files and the hybrid logical clock of commits.

use serde::{Deserialize, Serialize};

/// Wall time, nanoseconds since 1970-01-01 UTC; negative before it (utimensat accepts that).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Nanos(i64);

impl Nanos {
    /// Wraps nanoseconds since the epoch.
    pub const fn new(nanos: i64) -> Self {
        Nanos(nanos)
    }
    /// Nanoseconds since the epoch.
    pub const fn get(self) -> i64 {
        self.0
    }
    /// (seconds, nanoseconds 0..1e9) as `timespec` has them.
    pub fn to_timespec(self) -> (i64, u32) {
        let nanos = self.0.rem_euclid(1_000_000_000);
        (self.0.div_euclid(1_000_000_000), u32::try_from(nanos).expect("below 1e9"))
    }
    /// Saturates at the ends of the range (years 1677 and 2262).
    pub fn from_timespec(seconds: i64, nanos: u32) -> Self {
        Nanos(seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanos)))
    }
}

/// Commit timestamp: hybrid logical clock, 44 bits of milliseconds and 20 of counter.
///
/// Source: Kulkarni et al., "Logical Physical Clocks" (2014). Carried in every request and reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Reads at this time see everything.
    pub const MAX: Timestamp = Timestamp(u64::MAX);
    /// Wraps the raw 64 bits.
    pub const fn new(raw: u64) -> Self {
        Timestamp(raw)
    }
    /// The raw 64 bits.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// The earliest timestamp of a wall-clock millisecond.
    pub fn from_wall_ms(ms: u64) -> Self {
        Timestamp(ms << 20)
    }
    /// The next timestamp after `self` and at or after `wall_ms`: what a new commit takes.
    #[must_use]
    pub fn tick(self, wall_ms: u64) -> Self {
        Timestamp(self.0.saturating_add(1)).max(Self::from_wall_ms(wall_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_round_trip() {
        let t = Nanos::new(-1);
        assert_eq!(t.to_timespec(), (-1, 999_999_999));
        assert_eq!(Nanos::from_timespec(-1, 999_999_999), t);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_move_commits_back() {
        let t = Timestamp::from_wall_ms(1000);
        assert!(t.tick(900) > t);
        assert_eq!(t.tick(2000), Timestamp::from_wall_ms(2000));
    }
}
