//! Counters of one core.
//!
//! Plain cells: only this core touches them; others get a copy by message.

use cfs_types::Latencies;
use cfs_wire::Opcode;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

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

/// The counters of a core.
#[derive(Default)]
pub struct Metrics {
    /// Connections refused for want of the secret, or for bytes that are no handshake.
    pub refused: Counter,
    /// Connections closed because their answers did not leave.
    pub stuck: Counter,
    /// Requests in service.
    pub in_service: Counter,
    /// Requests that came to the wrong core and crossed the mesh.
    pub forwarded: Counter,
    /// Bytes of file data read and written by clients.
    pub read_bytes: Counter,
    /// Bytes of file data written by clients.
    pub written_bytes: Counter,
    /// Overwrites committed in ranges of this core.
    pub overwrites: Counter,
    /// Leases revoked because another session wanted the object.
    pub revocations: Counter,
    /// Exclusive leases that were broken: their holders did not give way in time.
    pub leases_broken: Counter,
    /// Stores flushed to tables.
    pub flushes: Counter,
    /// Steps of compaction.
    pub compactions: Counter,
    /// Small writes packed into chunks, bytes.
    pub packed_bytes: Counter,
    /// Cells moved by the cleaner, bytes.
    pub cleaned_bytes: Counter,
    /// Chunks that nothing named, given back after the start.
    pub swept: Counter,
    /// Small writes that went from a full log into tables, bytes.
    pub evacuated_bytes: Counter,
    /// Checkpoints and other upkeep that failed.
    pub upkeep_failures: Counter,
    /// Reads that failed their checksum.
    pub damage: Counter,
    requests: RefCell<BTreeMap<Opcode, Latencies>>,
}

impl Metrics {
    /// Counts an answered request.
    pub fn request(&self, opcode: Opcode, took: Duration) {
        self.requests.borrow_mut().entry(opcode).or_default().record(took);
    }
    /// Latencies by the operation's name.
    pub fn requests(&self) -> Vec<(&'static str, Latencies)> {
        self.requests.borrow().iter().filter_map(|(op, l)| Some((op.name()?, *l))).collect()
    }
}
