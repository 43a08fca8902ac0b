//! Which metrics there are, and what they say of a snapshot.
//!
//! Invariants: a family's name ends in its unit; a family of cores has the label `core` on each
//! sample; families come in a fixed order.

use crate::snapshot::{CorePicture, Snapshot};
use crate::status::{Bounded, ClassUsage, CoreStatus, DeviceUse, Number, Unit};
use cfs_types::{Latencies, UNIT_BYTES};
use serde::{Serialize, Serializer};

/// How a metric behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Only rises while the process lives.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts durations in buckets.
    Histogram,
}

/// What a sample says.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// A number of seconds.
    Real(f64),
    /// Durations.
    Histogram(Box<Latencies>),
}

/// One series now.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, String)>,
    /// Its value.
    pub value: Value,
}

/// A metric with all its series.
#[derive(Clone, PartialEq, Debug)]
pub struct Family {
    /// Name without unit.
    pub name: String,
    /// Unit.
    pub unit: Unit,
    /// What it says.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its series.
    pub samples: Vec<Sample>,
}

impl Family {
    fn new(name: &str, unit: Unit, kind: Kind, help: &'static str) -> Self {
        Family { name: name.to_string(), unit, help, kind, samples: Vec::new() }
    }

    fn push(&mut self, labels: Vec<(&'static str, String)>, value: Value) {
        self.samples.push(Sample { labels, value });
    }

    /// Name and unit; counters are read under this name and `_total`.
    pub fn full_name(&self) -> String {
        format!("{}_{}", self.name, self.unit.name())
    }
}

/// Every metric of a snapshot, families without a sample left out.
pub fn families(snapshot: &Snapshot) -> Vec<Family> {
    let mut all = vec![answering(snapshot), requests(snapshot)];
    numbers(snapshot, &mut all);
    all.extend(log(snapshot));
    all.extend(devices(snapshot));
    all.extend(bounded(snapshot));
    all.extend(space(snapshot));
    all.extend(groups(snapshot));
    all.extend(process(snapshot));
    all.retain(|family| !family.samples.is_empty());
    all
}

fn core_label(core: u16) -> (&'static str, String) {
    ("core", core.to_string())
}

/// A family with one sample a core that answered.
fn per_core(
    snapshot: &Snapshot,
    (name, unit, help): (&str, Unit, &'static str),
    value: impl Fn(&CoreStatus) -> u64,
) -> Family {
    let mut family = Family::new(name, unit, Kind::Gauge, help);
    for status in snapshot.answered() {
        family.push(vec![core_label(status.core)], Value::Count(value(status)));
    }
    family
}

fn answering(snapshot: &Snapshot) -> Family {
    let help = "1 where the core answered this scrape in time, 0 where it did not";
    let mut family = Family::new("cfs_answering", Unit::Of("cores"), Kind::Gauge, help);
    for core in &snapshot.cores {
        let (core, up) = match core {
            CorePicture::Answered(status) => (status.core, 1),
            CorePicture::Silent(core) => (*core, 0),
        };
        family.push(vec![core_label(core)], Value::Count(up));
    }
    family
}

fn requests(snapshot: &Snapshot) -> Family {
    let help =
        "Requests answered to clients by operation, from the whole request to the reply handed to the connection";
    let mut family = Family::new("cfs_request_duration", Unit::Seconds, Kind::Histogram, help);
    for status in snapshot.answered() {
        for (operation, latencies) in &status.requests {
            let labels = vec![core_label(status.core), ("operation", (*operation).to_string())];
            family.push(labels, Value::Histogram(Box::new(*latencies)));
        }
    }
    family
}

/// Families of the cores' plain numbers, in the order in which the cores name them.
fn numbers(snapshot: &Snapshot, all: &mut Vec<Family>) {
    for status in snapshot.answered() {
        for number in &status.numbers {
            let name = format!("cfs_{}", number.name);
            let known = all.iter().position(|f| f.name == name && f.unit == number.unit);
            let index = known.unwrap_or_else(|| {
                all.push(Family::new(&name, number.unit, number.kind, number.help));
                all.len() - 1
            });
            all[index].push(vec![core_label(status.core)], value_of(number));
        }
    }
}

fn value_of(number: &Number) -> Value {
    match number.unit {
        Unit::Seconds => Value::Real(number.value as f64 / 1e9),
        Unit::Bytes | Unit::Of(_) => Value::Count(number.value),
    }
}

fn log(snapshot: &Snapshot) -> [Family; 2] {
    let of = |name, help, latencies: fn(&CoreStatus) -> Latencies| {
        let mut family = Family::new(name, Unit::Seconds, Kind::Histogram, help);
        for status in snapshot.answered() {
            family.push(vec![core_label(status.core)], Value::Histogram(Box::new(latencies(status))));
        }
        family
    };
    [
        of("cfs_log_write_duration", "Writes of log batches; durable with the write where the device has FUA", |s| {
            s.log_writes
        }),
        of("cfs_log_flush_duration", "Flushes after writes of log batches; none where the device has FUA", |s| {
            s.log_flushes
        }),
    ]
}

/// What cores did with each device: a sample a core and device.
fn devices(snapshot: &Snapshot) -> Vec<Family> {
    let labels =
        |status: &CoreStatus, device: &DeviceUse| vec![core_label(status.core), ("device", device.number.to_string())];
    let of = |name, unit, kind, help, value: fn(&DeviceUse) -> u64| {
        let mut family = Family::new(name, unit, kind, help);
        for status in snapshot.answered() {
            for device in &status.devices {
                family.push(labels(status, device), Value::Count(value(device)));
            }
        }
        family
    };
    let help = "Operations of a device, from the request to its completion";
    let mut durations = Family::new("cfs_device_operation_duration", Unit::Seconds, Kind::Histogram, help);
    for status in snapshot.answered() {
        for device in &status.devices {
            for (operation, latencies) in &device.operations {
                let mut labels = labels(status, device);
                labels.push(("operation", (*operation).to_string()));
                durations.push(labels, Value::Histogram(Box::new(*latencies)));
            }
        }
    }
    let (bytes, counter, operations) = (Unit::Bytes, Kind::Counter, Unit::Of("operations"));
    vec![
        of("cfs_device_read", bytes, counter, "Bytes read from a device", |d| d.read_bytes),
        of("cfs_device_written", bytes, counter, "Bytes written to a device", |d| d.written_bytes),
        of("cfs_device_discarded", bytes, counter, "Bytes given back to a device", |d| d.discarded_bytes),
        of("cfs_device_zone", Unit::Of("resets"), counter, "Zones of a device that were reset", |d| d.zone_resets),
        of("cfs_device_in_flight", operations, Kind::Gauge, "Operations under way at a device", |d| d.in_flight),
        of("cfs_device", Unit::Of("errors"), counter, "Operations that a device answered with an error", |d| d.errors),
        of("cfs_device_live", bytes, Kind::Gauge, "Live bytes in segments on a device", |d| {
            d.live_units * u64::from(UNIT_BYTES)
        }),
        durations,
    ]
}

fn bounded(snapshot: &Snapshot) -> [Family; 4] {
    let of = |name, unit, help, label, list: fn(&CoreStatus) -> &[Bounded], value: fn(&Bounded) -> u64| {
        let mut family = Family::new(name, unit, Kind::Gauge, help);
        for status in snapshot.answered() {
            for bounded in list(status) {
                let labels = vec![core_label(status.core), (label, bounded.name.to_string())];
                family.push(labels, Value::Count(value(bounded)));
            }
        }
        family
    };
    let entries = Unit::Of("entries");
    [
        of("cfs_memory", Unit::Bytes, "Memory that the core holds for a purpose", "pool", |s| &s.memory, |b| b.used),
        of("cfs_memory_limit", Unit::Bytes, "Most memory for a purpose", "pool", |s| &s.memory, |b| b.limit),
        of("cfs_queue", entries, "Entries in a queue of the core", "queue", |s| &s.queues, |b| b.used),
        of("cfs_queue_limit", entries, "Most entries in a queue of the core", "queue", |s| &s.queues, |b| b.limit),
    ]
}

fn space(snapshot: &Snapshot) -> Vec<Family> {
    let unit = u64::from(UNIT_BYTES);
    let capacity = ("cfs_space_capacity", Unit::Bytes, "Device space of the core for file data and metadata");
    let kept =
        ("cfs_space_reserve", Unit::Bytes, "Free space that is kept back from file data, for metadata and cleaning");
    let help = "Device space by state: live, garbage that cleaning gives back, and free; the rest is lost at the ends of segments";
    let mut states = Family::new("cfs_space", Unit::Bytes, Kind::Gauge, help);
    for status in snapshot.answered() {
        for (state, units) in ["live", "garbage", "free"].iter().zip(&status.space_units[1..]) {
            states.push(vec![core_label(status.core), ("state", (*state).to_string())], Value::Count(units * unit));
        }
    }
    vec![
        per_core(snapshot, capacity, |s| s.space_units[0] * unit),
        states,
        by_class(snapshot, ("cfs_class_live", Kind::Gauge, "Live bytes in segments of a lifetime class"), |class| {
            class.live_units
        }),
        by_class(
            snapshot,
            ("cfs_class_written", Kind::Counter, "Bytes written to segments of a lifetime class"),
            |class| class.written_units,
        ),
        device_by_class(snapshot),
        per_core(snapshot, kept, |s| s.floor_units * unit),
    ]
}

/// What went to the device, by class and by the placement handle that it was written to.
fn device_by_class(snapshot: &Snapshot) -> Family {
    let help = "Bytes written to the device by lifetime class, and the placement handle (FDP) that they went to";
    let mut family = Family::new("cfs_device_class_written", Unit::Bytes, Kind::Counter, help);
    for status in snapshot.answered() {
        for class in &status.classes {
            let handle = class.placement.map_or_else(|| "none".to_owned(), |handle| handle.to_string());
            let labels = vec![core_label(status.core), ("class", class.name.to_string()), ("placement", handle)];
            family.push(labels, Value::Count(class.device_bytes));
        }
    }
    family
}

/// Bytes with the label `class`.
fn by_class(
    snapshot: &Snapshot,
    (name, kind, help): (&str, Kind, &'static str),
    units: fn(&ClassUsage) -> u64,
) -> Family {
    let mut family = Family::new(name, Unit::Bytes, kind, help);
    for status in snapshot.answered() {
        for class in &status.classes {
            let labels = vec![core_label(status.core), ("class", class.name.to_string())];
            family.push(labels, Value::Count(units(class) * u64::from(UNIT_BYTES)));
        }
    }
    family
}

fn groups(snapshot: &Snapshot) -> Vec<Family> {
    let served = ("cfs_served", Unit::Of("groups"), "Raft groups that the core holds");
    let failed =
        ("cfs_failed", Unit::Of("groups"), "Raft groups that stopped serving because of damage or refused reads");
    let inodes = ("cfs_used", Unit::Of("inodes"), "Inodes in the core's shards");
    let sessions = ("cfs_connected", Unit::Of("sessions"), "Client sessions with a connection to the core");
    vec![
        per_core(snapshot, served, |s| s.groups),
        per_core(snapshot, failed, |s| s.failed_groups.len() as u64),
        per_core(snapshot, inodes, |s| s.inodes),
        per_core(snapshot, sessions, |s| s.sessions),
    ]
}

/// Figures of the process, under the names that Prometheus' own clients use.
fn process(snapshot: &Snapshot) -> Vec<Family> {
    let p = &snapshot.process;
    let of = |name, unit, kind, help, value| {
        let mut family = Family::new(name, unit, kind, help);
        family.push(Vec::new(), value);
        family
    };
    let fds = Unit::Of("fds");
    let help = "CPU time of the process's own threads by name";
    let mut threads = Family::new("cfs_thread_cpu", Unit::Seconds, Kind::Counter, help);
    for thread in &p.thread_times {
        threads.push(vec![("thread", thread.name.clone())], Value::Real(thread.cpu_seconds));
    }
    vec![
        of(
            "process_cpu",
            Unit::Seconds,
            Kind::Counter,
            "User and system CPU time of the process",
            Value::Real(p.cpu_seconds),
        ),
        threads,
        of(
            "process_resident_memory",
            Unit::Bytes,
            Kind::Gauge,
            "Memory of the process in RAM",
            Value::Count(p.resident_bytes),
        ),
        of(
            "process_virtual_memory",
            Unit::Bytes,
            Kind::Gauge,
            "Address space of the process",
            Value::Count(p.virtual_bytes),
        ),
        of("process_open", fds, Kind::Gauge, "Open file descriptors", Value::Count(p.open_fds)),
        of("process_max", fds, Kind::Gauge, "Most open file descriptors", Value::Count(p.max_fds)),
        of(
            "process",
            Unit::Of("threads"),
            Kind::Gauge,
            "Threads, the kernel's workers for the ring included",
            Value::Count(p.threads),
        ),
        of(
            "process_start_time",
            Unit::Seconds,
            Kind::Gauge,
            "When the process started, since 1970",
            Value::Real(p.start_time_seconds),
        ),
    ]
}

#[derive(Serialize)]
struct JsonFamily<'a> {
    name: String,
    kind: Kind,
    unit: &'static str,
    help: &'static str,
    samples: &'a [Sample],
}

impl Serialize for Family {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, unit) = (self.full_name(), self.unit.name());
        JsonFamily { name, kind: self.kind, unit, help: self.help, samples: &self.samples }.serialize(serializer)
    }
}

impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let labels: std::collections::BTreeMap<_, _> = self.labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("labels", &labels)?;
        match &self.value {
            Value::Count(count) => map.serialize_entry("value", count)?,
            Value::Real(real) => map.serialize_entry("value", real)?,
            Value::Histogram(latencies) => {
                map.serialize_entry("count", &latencies.count())?;
                map.serialize_entry("sum", &(latencies.sum_ns as f64 / 1e9))?;
                map.serialize_entry("max", &(latencies.max_ns as f64 / 1e9))?;
                map.serialize_entry("buckets", &latencies.buckets.as_slice())?;
            }
        }
        map.end()
    }
}
