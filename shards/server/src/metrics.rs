//! Counters of one core, and the picture of it that the management plane asks for.
//!
//! Plain cells: only this core touches them; others get a copy by message.

use cfs_wire::Opcode;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

/// Buckets of a latency histogram: powers of two of a microsecond, the last one open.
pub const LATENCY_BUCKETS: usize = 26;

/// A number that only rises.
#[derive(Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// One more.
    pub fn bump(&self) {
        self.add(1);
    }
    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.set(self.0.get() + n);
    }
    /// `n` fewer: for gauges.
    pub fn sub(&self, n: u64) {
        self.0.set(self.0.get().saturating_sub(n));
    }
    /// The number.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Latencies of one kind of operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Latencies {
    /// Bucket i counts latencies under 2^i microseconds that fit no smaller one.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Sum, nanoseconds.
    pub sum_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies { buckets: [0; LATENCY_BUCKETS], sum_ns: 0 }
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bits = usize::try_from(u64::BITS - micros.leading_zeros()).expect("at most 64");
        self.buckets[bits.min(LATENCY_BUCKETS - 1)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The counters of a core.
#[derive(Default)]
pub struct Metrics {
    /// Connections open.
    pub connections: Counter,
    /// Connections refused for want of the secret, or for bytes that are no handshake.
    pub refused: Counter,
    /// Requests in service.
    pub in_service: Counter,
    /// Requests that came to the wrong core and crossed the mesh.
    pub forwarded: Counter,
    /// Bytes of file data read and written by clients.
    pub read_bytes: Counter,
    /// Bytes of file data written by clients.
    pub written_bytes: Counter,
    /// Leases revoked because another session wanted the object.
    pub revocations: Counter,
    /// Stores flushed to tables.
    pub flushes: Counter,
    /// Steps of compaction.
    pub compactions: Counter,
    /// Small writes packed into chunks, bytes.
    pub packed_bytes: Counter,
    /// Cells moved by the cleaner, bytes.
    pub cleaned_bytes: Counter,
    /// Reads that failed their checksum.
    pub damage: Counter,
    requests: RefCell<BTreeMap<Opcode, Latencies>>,
}

impl Metrics {
    /// Counts an answered request.
    pub fn request(&self, opcode: Opcode, took: Duration) {
        self.requests.borrow_mut().entry(opcode).or_default().record(took);
    }
    /// Latencies by operation.
    pub fn requests(&self) -> Vec<(u16, Latencies)> {
        self.requests.borrow().iter().map(|(op, l)| (op.get(), l.clone())).collect()
    }
}

/// One core as the management plane sees it.
#[derive(Clone, Debug, Default)]
pub struct CoreStatus {
    /// Which core.
    pub core: u16,
    /// Groups it serves.
    pub groups: u64,
    /// Groups that stopped serving because of damage.
    pub failed_groups: Vec<u16>,
    /// Plain numbers: (name, help, value, whether it only rises). Units are in the name.
    pub numbers: Vec<(&'static str, &'static str, u64, bool)>,
    /// Latencies by opcode.
    pub requests: Vec<(u16, Latencies)>,
    /// Units of 4 KiB: total, live, garbage, free.
    pub space_units: [u64; 4],
    /// Units kept back from file data.
    pub floor_units: u64,
    /// Inodes in use in this core's shards.
    pub inodes: u64,
    /// Sessions connected here.
    pub sessions: u64,
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
        assert_eq!(l.count(), 3);
    }
}
