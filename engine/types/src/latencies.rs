//! A histogram of durations in plain numbers, so that it can be copied to another thread.

use std::time::Duration;

/// Buckets: powers of two of a microsecond up to 16.8 s, and one for what is longer.
pub const LATENCY_BUCKETS: usize = 26;

/// How long something took, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latencies {
    /// Bucket i counts what took less than 2^i microseconds and fits no smaller one; the last one
    /// counts the rest.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Sum, nanoseconds.
    pub sum_ns: u64,
    /// The longest, nanoseconds.
    pub max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies { buckets: [0; LATENCY_BUCKETS], sum_ns: 0, max_ns: 0 }
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bits = usize::try_from(u64::BITS - micros.leading_zeros()).expect("at most 64");
        self.buckets[bits.min(LATENCY_BUCKETS - 1)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(nanos);
        self.max_ns = self.max_ns.max(nanos);
    }

    /// Those counted here and there.
    pub fn merge(&mut self, others: &Latencies) {
        self.buckets.iter_mut().zip(others.buckets).for_each(|(all, more)| *all += more);
        self.sum_ns = self.sum_ns.saturating_add(others.sum_ns);
        self.max_ns = self.max_ns.max(others.max_ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Bound of a bucket, microseconds; None for the last one, which has none.
    pub fn bound_us(bucket: usize) -> Option<u64> {
        (bucket + 1 < LATENCY_BUCKETS).then(|| 1 << bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_powers_of_two() {
        let mut l = Latencies::default();
        l.record(Duration::from_nanos(500));
        l.record(Duration::from_micros(3));
        l.record(Duration::from_secs(3600));
        assert_eq!((l.buckets[0], l.buckets[2], l.buckets[LATENCY_BUCKETS - 1]), (1, 1, 1));
        assert_eq!((l.count(), l.max_ns, l.sum_ns), (3, 3_600_000_000_000, 3_600_000_003_500));
        let mut both = Latencies::default();
        both.record(Duration::from_micros(3));
        both.merge(&l);
        assert_eq!((both.buckets[2], both.count(), both.max_ns, both.sum_ns), (2, 4, l.max_ns, l.sum_ns + 3000));
    }

    #[test]
    fn a_duration_lies_below_the_bound_of_its_bucket_and_above_the_one_before() {
        for micros in [0, 1, 2, 3, 4, 1000, 1024, (1 << 24) - 1, 1 << 24, u64::MAX / 2] {
            let mut l = Latencies::default();
            l.record(Duration::from_micros(micros));
            let bucket = l.buckets.iter().position(|n| *n == 1).expect("counted");
            assert!(Latencies::bound_us(bucket).is_none_or(|bound| micros < bound));
            assert!(bucket == 0 || Latencies::bound_us(bucket - 1).is_some_and(|bound| micros >= bound));
        }
    }
}
