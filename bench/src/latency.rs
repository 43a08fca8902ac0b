//! Latencies of one load, and what is said of them.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest latency that is told apart, nanoseconds: 1,000 seconds.
const NANOS_MAX: u64 = 1_000_000_000_000;

/// Latencies that one loop has seen, nanoseconds, three digits.
pub struct Latencies {
    histogram: Histogram<u64>,
    errors: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies { histogram: Histogram::new_with_bounds(1, NANOS_MAX, 3).expect("the bounds are allowed"), errors: 0 }
    }
}

impl Latencies {
    /// One operation took this long.
    pub fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos.max(1));
    }
    /// One operation failed.
    pub fn fail(&mut self) {
        self.errors += 1;
    }
    /// What is to be said after `elapsed`.
    pub fn summary(&self, elapsed: Duration) -> Summary {
        let quantile = |q: f64| Duration::from_nanos(self.histogram.value_at_quantile(q));
        Summary {
            operations: self.histogram.len(),
            errors: self.errors,
            elapsed,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: Duration::from_nanos(self.histogram.max()),
        }
    }
}

/// One load in figures.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that failed.
    pub errors: u64,
    /// How long the load ran.
    pub elapsed: Duration,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// 99.9th percentile.
    pub p999: Duration,
    /// Slowest.
    pub max: Duration,
}

impl Summary {
    /// Operations a second.
    pub fn rate(&self) -> f64 {
        per_second(self.operations, self.elapsed)
    }

    /// For the JSON.
    pub fn json(&self) -> Value {
        json!({
            "operations": self.operations,
            "errors": self.errors,
            "seconds": self.elapsed.as_secs_f64(),
            "per_second": self.rate(),
            "p50_us": micros(self.p50),
            "p99_us": micros(self.p99),
            "p999_us": micros(self.p999),
            "max_us": micros(self.max),
        })
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99, p999) = (micros(self.p50), micros(self.p99), micros(self.p999));
        write!(f, "{:>9.0}/s  p50 {p50:>8.1} us  p99 {p99:>8.1} us  p99.9 {p999:>8.1} us", self.rate())?;
        match self.errors {
            0 => Ok(()),
            errors => write!(f, "  {errors} ERRORS"),
        }
    }
}

/// Microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// `count` in `elapsed`, a second.
pub fn per_second(count: u64, elapsed: Duration) -> f64 {
    real(count) / elapsed.as_secs_f64().max(1e-9)
}

/// A count as a real number; exact up to 2^53.
pub fn real(count: u64) -> f64 {
    count as f64
}

/// The middle value; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_errors_are_those_recorded() {
        let mut seen = Latencies::default();
        (1..=100).for_each(|us| seen.record(Duration::from_micros(us)));
        seen.fail();
        let said = seen.summary(Duration::from_secs(2));
        assert_eq!((said.operations, said.errors), (100, 1));
        assert!((micros(said.p50) - 50.0).abs() < 1.0 && (micros(said.p99) - 99.0).abs() < 1.0);
        assert!((said.rate() - 50.0).abs() < 1e-6);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
