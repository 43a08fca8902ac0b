//! One core as the management plane sees it: plain data that crosses threads.

use crate::families::Kind;
use crate::scrub::ScrubStatus;
use cfs_types::Latencies;

/// What a number counts; the last part of its metric's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds; the number itself is in nanoseconds.
    Seconds,
    /// Things, in the plural.
    Of(&'static str),
}

impl Unit {
    /// As it stands in names.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Seconds => "seconds",
            Unit::Of(things) => things,
        }
    }
}

/// A number that a core counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number {
    /// Name without prefix and unit, for example `log_written`.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// What it says, in a sentence without a full stop.
    pub help: &'static str,
    /// Whether it only rises.
    pub kind: Kind,
    /// The number.
    pub value: u64,
}

impl Number {
    /// A number that only rises while the process lives.
    pub fn counter(name: &'static str, unit: Unit, help: &'static str, value: u64) -> Self {
        Number { name, unit, help, kind: Kind::Counter, value }
    }
    /// A number that rises and falls.
    pub fn gauge(name: &'static str, unit: Unit, help: &'static str, value: u64) -> Self {
        Number { name, unit, help, kind: Kind::Gauge, value }
    }
}

/// A queue, cache or buffer, and how large it may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounded {
    /// Its name, the value of a label.
    pub name: &'static str,
    /// What is in it.
    pub used: u64,
    /// The most that may be.
    pub limit: u64,
}

/// What a lifetime class holds and was written, units of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassUsage {
    /// Its name, the value of a label.
    pub name: &'static str,
    /// Live in segments now.
    pub live_units: u64,
    /// Written to segments since start.
    pub written_units: u64,
    /// Written to the device since start, bytes: also the logs, headers and tables.
    pub device_bytes: u64,
    /// The placement handle that they were written to, where the device has some.
    pub placement: Option<u16>,
}

/// What one core has done with one device of the store since start, and has on it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceUse {
    /// Its number in the store.
    pub number: u16,
    /// Latencies of reads, writes and flushes, by operation.
    pub operations: Vec<(&'static str, Latencies)>,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes given back.
    pub discarded_bytes: u64,
    /// Zones reset.
    pub zone_resets: u64,
    /// Operations under way.
    pub in_flight: u64,
    /// Operations that ended in an error.
    pub errors: u64,
    /// Units of 4 KiB that are live in segments there.
    pub live_units: u64,
    /// Nothing new is written there, and what lies there is moved.
    pub is_retiring: bool,
}

/// One core as the management plane sees it.
#[derive(Clone, Debug, Default)]
pub struct CoreStatus {
    /// Which core.
    pub core: u16,
    /// Groups it serves.
    pub groups: u64,
    /// Groups that stopped serving because of damage, or because the device refused reads.
    pub failed_groups: Vec<u16>,
    /// Why the log takes nothing more, if so.
    pub log_failure: Option<String>,
    /// Reads whose bytes failed their checksum.
    pub damaged_reads: u64,
    /// Reads that the device answered with an error.
    pub refused_reads: u64,
    /// Plain numbers.
    pub numbers: Vec<Number>,
    /// Latencies of answered requests, by operation.
    pub requests: Vec<(&'static str, Latencies)>,
    /// Latencies of writes of log batches.
    pub log_writes: Latencies,
    /// Latencies of flushes after them.
    pub log_flushes: Latencies,
    /// What it has done with each device.
    pub devices: Vec<DeviceUse>,
    /// Memory, bytes.
    pub memory: Vec<Bounded>,
    /// Queues, entries.
    pub queues: Vec<Bounded>,
    /// Units of 4 KiB: total, live, garbage, free.
    pub space_units: [u64; 4],
    /// What each lifetime class has of that.
    pub classes: Vec<ClassUsage>,
    /// Units kept back from file data.
    pub floor_units: u64,
    /// Inodes in use in this core's shards.
    pub inodes: u64,
    /// Sessions connected here.
    pub sessions: u64,
    /// What reading and verifying everything came to.
    pub scrub: ScrubStatus,
}

impl CoreStatus {
    /// Requests answered since start.
    pub fn requests_total(&self) -> u64 {
        self.requests.iter().map(|(_, latencies)| latencies.count()).sum()
    }
}
