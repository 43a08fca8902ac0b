//! The text of metrics, read by a strict reader of its own.

use cfs_observe::{
    Bounded, CorePicture, CoreStatus, Kind, Number, Process, Snapshot, ThreadTime, Unit, families, openmetrics,
};
use cfs_types::Latencies;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn latencies(micros: &[u64]) -> Latencies {
    let mut l = Latencies::default();
    micros.iter().for_each(|us| l.record(Duration::from_micros(*us)));
    l
}

/// A snapshot with something in every place.
fn snapshot() -> Snapshot {
    let status = |core: u16| CoreStatus {
        core,
        groups: 128,
        failed_groups: vec![7],
        numbers: vec![
            Number::counter("log_written", Unit::Bytes, "Bytes of log batches", 1 << 20),
            Number::gauge("open", Unit::Of("connections"), "Client connections", 3),
            Number::gauge("oldest_request_age", Unit::Seconds, "Age of the oldest request", 1_500_000_000),
        ],
        requests: vec![("lookup", latencies(&[1, 5, 900])), ("write", latencies(&[20_000_000]))],
        log_writes: latencies(&[100, 200]),
        log_flushes: latencies(&[30]),
        memory: vec![Bounded { name: "memtables", used: 5, limit: 10 }],
        queues: vec![Bounded { name: "mesh", used: 0, limit: 1024 }],
        space_units: [100, 40, 20, 30],
        floor_units: 10,
        inodes: 12,
        sessions: 1,
        ..CoreStatus::default()
    };
    let threads = vec![ThreadTime { name: "cfs-core-0".into(), cpu_seconds: 1.25 }];
    let process = Process { cpu_seconds: 2.5, open_fds: 9, thread_times: threads, ..Process::default() };
    let answered = |core| CorePicture::Answered(Box::new(status(core)));
    Snapshot { cores: vec![answered(0), answered(1), CorePicture::Silent(2)], process, store_gone: false }
}

#[derive(Default, Debug)]
struct Read {
    help: String,
    kind: String,
    unit: String,
    /// (name, labels) and value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads OpenMetrics text; panics on whatever is not exactly that.
fn read(text: &str) -> BTreeMap<String, Read> {
    let mut families = BTreeMap::<String, Read>::new();
    let mut current = String::new();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.last(), Some(&"# EOF"));
    for line in &lines[..lines.len() - 1] {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) = (words.next(), words.next().expect("a name"), words.next().unwrap_or_default());
            if what == Some("HELP") {
                assert!(!families.contains_key(name), "{name} comes in one piece");
                current = name.to_string();
            }
            assert_eq!(name, current, "{line}");
            let family = families.entry(current.clone()).or_default();
            match what {
                Some("HELP") => family.help = rest.to_string(),
                Some("TYPE") => family.kind = rest.to_string(),
                Some("UNIT") => family.unit = rest.to_string(),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').map_or((series, ""), |(n, l)| (n, l.trim_end_matches('}')));
        assert!(name.starts_with(&current) && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
        let labels = labels.split_terminator(',').map(|pair| {
            let (key, value) = pair.split_once('=').expect("a label");
            (key.to_string(), value.trim_matches('"').to_string())
        });
        let value: f64 = value.parse().expect("a number");
        families.get_mut(&current).expect("after its help").samples.push((name.into(), labels.collect(), value));
    }
    families
}

#[test]
fn every_metric_has_help_a_unit_at_its_end_and_a_core_where_it_is_a_cores() {
    let families = read(&openmetrics(&snapshot()));
    assert!(families.len() > 20, "{}", families.len());
    for (name, family) in &families {
        assert!(family.help.len() > 10 && !family.help.ends_with('.'), "{name}: {}", family.help);
        assert!(!family.unit.is_empty() && name.ends_with(&format!("_{}", family.unit)), "{name}: {}", family.unit);
        for (series, labels, _) in &family.samples {
            let is_process = name.starts_with("process_") || name.starts_with("cfs_thread_");
            assert_eq!(labels.contains_key("core"), !is_process, "{series}");
            let total = series.ends_with("_total");
            assert_eq!(total, family.kind == "counter", "{series}");
        }
    }
}

#[test]
fn numbers_arrive_as_they_were_counted() {
    let families = read(&openmetrics(&snapshot()));
    let value = |family: &str, name: &str, labels: &[(&str, &str)]| {
        let samples = &families[family].samples;
        let wanted: BTreeMap<String, String> = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        samples.iter().find(|(n, l, _)| n == name && *l == wanted).unwrap_or_else(|| panic!("{name} {labels:?}")).2
    };
    let one = [("core", "1")];
    assert_eq!(value("cfs_log_written_bytes", "cfs_log_written_bytes_total", &one), 1_048_576.0);
    assert_eq!(value("cfs_oldest_request_age_seconds", "cfs_oldest_request_age_seconds", &one), 1.5);
    assert_eq!(value("cfs_answering_cores", "cfs_answering_cores", &[("core", "2")]), 0.0);
    assert_eq!(
        value("cfs_memory_limit_bytes", "cfs_memory_limit_bytes", &[("core", "0"), ("pool", "memtables")]),
        10.0
    );
    assert_eq!(value("cfs_space_bytes", "cfs_space_bytes", &[("core", "0"), ("state", "live")]), 163_840.0);
    assert_eq!(value("cfs_thread_cpu_seconds", "cfs_thread_cpu_seconds_total", &[("thread", "cfs-core-0")]), 1.25);
}

#[test]
fn histograms_are_cumulative_and_end_in_their_count() {
    let families = read(&openmetrics(&snapshot()));
    let samples = &families["cfs_request_duration_seconds"].samples;
    let of = |name: &str| -> Vec<(String, f64)> {
        let is_lookup = |l: &BTreeMap<String, String>| l["core"] == "0" && l["operation"] == "lookup";
        let found = samples.iter().filter(|(n, l, _)| n.ends_with(name) && is_lookup(l));
        found.map(|(_, l, v)| (l.get("le").cloned().unwrap_or_default(), *v)).collect()
    };
    let buckets = of("_bucket");
    assert!(buckets.windows(2).all(|w| w[0].1 <= w[1].1));
    assert_eq!(buckets.last(), Some(&("+Inf".to_string(), 3.0)));
    let bounds: Vec<f64> = buckets[..buckets.len() - 1].iter().map(|(le, _)| le.parse().expect("a bound")).collect();
    assert_eq!((bounds[0], bounds[1]), (1e-6, 2e-6));
    assert!(bounds.windows(2).all(|w| w[0] < w[1]));
    assert_eq!((of("_count")[0].1, of("_sum")[0].1), (3.0, 0.000906));
    assert_eq!(buckets[9].1, 2.0, "two took less than 512 us");
}

#[test]
fn names_are_unique_and_numbers_of_all_cores_share_a_family() {
    let all = families(&snapshot());
    let names: BTreeSet<String> = all.iter().map(|f| f.full_name()).collect();
    assert_eq!(names.len(), all.len());
    let written = all.iter().find(|f| f.name == "cfs_log_written").expect("it is there");
    assert_eq!((written.samples.len(), written.kind), (2, Kind::Counter));
}
