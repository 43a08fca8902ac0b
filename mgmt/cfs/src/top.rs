//! `cfs top`: what each core of the local servers does now, from two looks at its metrics.

use crate::args::TopOptions;
use crate::registry::{self, Entry};
use crate::status::size;
use crate::{Failure, http};
use cfs_types::Latencies;
use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

/// Homes the cursor and clears what is below it.
const CLEAR: &str = "\x1b[H\x1b[J";

const LOAD: [&str; 14] = [
    "CORE",
    "CPU",
    "REQ/S",
    "READ/S",
    "WRITE/S",
    "DEV READS/S",
    "P50",
    "P99",
    "DEV WRITES/S",
    "P50",
    "P99",
    "FLUSHES/S",
    "P99",
    "IN FLIGHT",
];
const STORE: [&str; 12] = [
    "CORE",
    "BATCH",
    "LOG/USER",
    "DATA/USER",
    "META/USER",
    "DEV/USER",
    "CACHE HITS",
    "LIVE",
    "GARBAGE",
    "FREE",
    "CLEANED/S",
    "PACKED/S",
];

/// What /metrics/json says.
#[derive(Deserialize)]
struct Family {
    name: String,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    value: f64,
    #[serde(default)]
    buckets: Vec<u64>,
}

/// All metrics of a server at a moment.
struct Look {
    at: Instant,
    families: BTreeMap<String, Vec<Sample>>,
}

impl Look {
    fn at(entry: &Entry) -> Result<Self, String> {
        let families: Vec<Family> = http::get(&entry.http, "/metrics/json")?;
        let families = families.into_iter().map(|family| (family.name, family.samples)).collect();
        Ok(Look { at: Instant::now(), families })
    }

    /// The samples of a metric that have all these labels.
    fn samples<'a>(&'a self, name: &str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let has = |sample: &&Sample| labels.iter().all(|(k, v)| sample.labels.get(*k).is_some_and(|own| own == v));
        self.families.get(name).into_iter().flatten().filter(has)
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name, labels).map(|sample| sample.value).sum()
    }

    fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<u64> {
        let mut sums = Vec::new();
        for sample in self.samples(name, labels) {
            sums.resize(sums.len().max(sample.buckets.len()), 0);
            sums.iter_mut().zip(&sample.buckets).for_each(|(sum, count)| *sum += count);
        }
        sums
    }
}

/// A core between two looks.
struct Core<'a> {
    before: &'a Look,
    now: &'a Look,
    core: &'a str,
}

impl Core<'_> {
    /// These labels and the core's.
    fn own<'a>(&'a self, labels: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [labels, &[("core", self.core)]].concat()
    }

    /// How much a counter rose.
    fn rise(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = self.own(labels);
        self.now.sum(name, &labels) - self.before.sum(name, &labels)
    }

    fn seconds(&self) -> f64 {
        self.now.at.duration_since(self.before.at).as_secs_f64()
    }

    fn rate(&self, name: &str) -> f64 {
        self.rise(name, &[]) / self.seconds()
    }

    fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.now.sum(name, &self.own(labels))
    }

    /// What was timed meanwhile, by bucket.
    fn timed(&self, name: &str, labels: &[(&str, &str)]) -> Vec<u64> {
        let labels = self.own(labels);
        let mut buckets = self.now.buckets(name, &labels);
        buckets.iter_mut().zip(self.before.buckets(name, &labels)).for_each(|(now, then)| *now -= then.min(*now));
        buckets
    }

    fn load(&self) -> Vec<String> {
        let thread = format!("cfs-core-{}", self.core);
        let cpu = |look: &Look| look.sum("cfs_thread_cpu_seconds", &[("thread", &thread)]);
        let cpu = cpu(self.now) - cpu(self.before);
        let requests: u64 = self.timed("cfs_request_duration_seconds", &[]).iter().sum();
        let device = |operation| self.timed("cfs_device_operation_duration_seconds", &[("operation", operation)]);
        let (reads, writes, flushes) = (device("read"), device("write"), device("flush"));
        let per_second = |buckets: &[u64]| count(buckets.iter().sum::<u64>() as f64 / self.seconds());
        vec![
            self.core.to_string(),
            format!("{:.0}%", cpu / self.seconds() * 100.0),
            count(requests as f64 / self.seconds()),
            bytes(self.rate("cfs_read_bytes")),
            bytes(self.rate("cfs_written_bytes")),
            per_second(&reads),
            percentile(&reads, 50),
            percentile(&reads, 99),
            per_second(&writes),
            percentile(&writes, 50),
            percentile(&writes, 99),
            per_second(&flushes),
            percentile(&flushes, 99),
            count(self.gauge("cfs_device_in_flight_operations", &[])),
        ]
    }

    fn store(&self) -> Vec<String> {
        let written = self.rise("cfs_written_bytes", &[]);
        let per_user = |bytes: f64| ratio(bytes, written);
        let class = |class| self.rise("cfs_class_written_bytes", &[("class", class)]);
        let hits = self.rise("cfs_block_cache_hits", &[]);
        let looked = hits + self.rise("cfs_block_cache_misses", &[]);
        let space = |state| bytes(self.gauge("cfs_space_bytes", &[("state", state)]));
        vec![
            self.core.to_string(),
            ratio(self.rise("cfs_log_records", &[]), self.rise("cfs_log_batches", &[])),
            per_user(self.rise("cfs_log_written_bytes", &[])),
            per_user(class("hot") + class("cold") + class("relocated") + class("parity")),
            per_user(class("metadata")),
            per_user(self.rise("cfs_device_written_bytes", &[])),
            if looked > 0.0 { format!("{:.1}%", hits / looked * 100.0) } else { "-".into() },
            space("live"),
            space("garbage"),
            space("free"),
            bytes(self.rate("cfs_cleaned_bytes")),
            bytes(self.rate("cfs_packed_bytes")),
        ]
    }
}

fn count(value: f64) -> String {
    format!("{value:.0}")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast of a float saturates")]
fn bytes(value: f64) -> String {
    size(value as u64)
}

fn ratio(of: f64, to: f64) -> String {
    if to > 0.0 { format!("{:.2}", of / to) } else { "-".into() }
}

/// The bound of the bucket in which the share lies: it took less than that.
fn percentile(buckets: &[u64], percent: u64) -> String {
    let all: u64 = buckets.iter().sum();
    let rank = (all * percent).div_ceil(100).max(1);
    let mut below = 0;
    let bucket = buckets.iter().position(|in_it| {
        below += in_it;
        below >= rank
    });
    match bucket.map(Latencies::bound_us) {
        None => "-".into(),
        Some(None) => "longer".into(),
        Some(Some(us)) if us < 1_000 => format!("{us} us"),
        Some(Some(us)) if us < 1_000_000 => format!("{} ms", us / 1_000),
        Some(Some(us)) => format!("{} s", us / 1_000_000),
    }
}

/// `cfs top`.
pub fn run(options: &TopOptions) -> Result<(), Failure> {
    let every = Duration::from_secs_f64(options.every);
    let mut before = look();
    let mut shown = 0;
    while options.count.is_none_or(|count| shown < count) {
        std::thread::sleep(every);
        let now = look();
        let text = frame(&before, &now);
        let clear = if stdout().is_terminal() { CLEAR } else { "" };
        if writeln!(stdout(), "{clear}{text}").is_err() {
            // Nobody reads it any more.
            break;
        }
        (before, shown) = (now, shown + 1);
    }
    Ok(())
}

type Looks = BTreeMap<u32, (Entry, Result<Look, String>)>;

/// All servers of this user by process.
fn look() -> Looks {
    let seen = registry::servers().into_iter().map(|entry| {
        let look = Look::at(&entry);
        (entry.pid, (entry, look))
    });
    seen.collect()
}

fn frame(before: &Looks, now: &Looks) -> String {
    if now.is_empty() {
        return "no server of this user runs on this machine\n".into();
    }
    let mut text = String::new();
    for (pid, (entry, look)) in now {
        let target = entry.target.display();
        text.push_str(&format!("{target}  {}  pid {pid}\n", entry.listen));
        match (before.get(pid), look) {
            (_, Err(error)) => text.push_str(&format!("http://{} does not answer: {error}\n", entry.http)),
            (Some((_, Ok(before))), Ok(now)) => text.push_str(&tables(before, now)),
            _ => text.push_str("just started\n"),
        }
        text.push('\n');
    }
    text
}

fn tables(before: &Look, now: &Look) -> String {
    let (answering, silent): (Vec<&Sample>, Vec<&Sample>) =
        now.samples("cfs_answering_cores", &[]).partition(|core| core.value > 0.0);
    let named =
        |samples: Vec<&'_ Sample>| samples.iter().filter_map(|s| s.labels.get("core").cloned()).collect::<Vec<_>>();
    let (answering, silent) = (named(answering), named(silent));
    let cores: Vec<Core> = answering.iter().map(|core| Core { before, now, core }).collect();
    let load = table(&LOAD, cores.iter().map(Core::load));
    let mut text = format!("{load}\n\n{}\n", table(&STORE, cores.iter().map(Core::store)));
    if !silent.is_empty() {
        text.push_str(&format!("cores that do not answer: {}\n", silent.join(", ")));
    }
    text
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    rows.for_each(|row| {
        table.add_row(row);
    });
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_bound_of_its_bucket() {
        let buckets = [0, 0, 98, 1, 0, 1];
        assert_eq!([50, 98, 99, 100].map(|p| percentile(&buckets, p)), ["4 us", "4 us", "8 us", "32 us"]);
        assert_eq!(percentile(&[], 99), "-");
        let mut late = [0; cfs_types::LATENCY_BUCKETS];
        late[10] = 1;
        assert_eq!(percentile(&late, 50), "1 ms");
        late[cfs_types::LATENCY_BUCKETS - 1] = 9;
        assert_eq!(percentile(&late, 50), "longer");
    }
}
