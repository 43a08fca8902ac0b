//! What a running server says of itself.

use crate::stage::{CORES, Stage, said};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Sums of each series over its cores, and how many cores have it.
fn scrape(text: &str) -> BTreeMap<String, (f64, usize)> {
    let mut sums = BTreeMap::<String, (f64, usize)>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let name = series.split('{').next().expect("a name").to_string();
        let sum = sums.entry(name).or_default();
        sum.0 += value.parse::<f64>().expect("a number");
        sum.1 += usize::from(series.contains("core="));
    }
    sums
}

#[test]
fn counters_rise_on_all_cores_while_a_load_runs() {
    let stage = Stage::new();
    let dev = stage.dev();
    let before = scrape(&dev.get("/metrics").1);
    // Directories are spread over the shards, and so over the cores.
    for i in 0..64 {
        let folder = stage.path(&format!("mnt/d{i}"));
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("file"), vec![7; 10_000]).expect("written");
        assert_eq!(fs::read(folder.join("file")).expect("read").len(), 10_000);
    }
    let text = dev.get("/metrics").1;
    let after = scrape(&text);
    for name in [
        "cfs_log_batches_total",
        "cfs_log_written_bytes_total",
        "cfs_log_flush_duration_seconds_count",
        "cfs_used_inodes",
        "cfs_mesh_sent_messages_total",
        "cfs_device_written_bytes_total",
    ] {
        assert!(after[name].0 > before[name].0, "{name}: {:?} to {:?}", before[name], after[name]);
        assert_eq!(after[name].1, usize::from(CORES), "{name}");
    }
    assert!(after["cfs_request_duration_seconds_count"].0 >= 128.0 && text.contains("operation=\"mkdir\""));
    for core in 0..CORES {
        assert!(
            text.contains(&format!("cfs_request_duration_seconds_count{{core=\"{core}\"")),
            "core {core} has served"
        );
    }
    assert!(after["cfs_used_inodes"].0 >= 129.0);
}

/// The numbers of a column in the tables of `cfs top`, a row each.
fn column(text: &str, name: &str) -> Vec<String> {
    let mut at = None;
    let mut values = Vec::new();
    // Titles have single spaces, columns two between them.
    let split =
        |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(String::from).collect();
    for line in text.lines() {
        let cells: Vec<String> = split(line);
        match cells.first().map(String::as_str) {
            Some("CORE") => at = cells.iter().position(|cell| cell == name),
            Some(core) if core.parse::<u16>().is_ok() => values.extend(at.and_then(|at| cells.get(at)).cloned()),
            _ => {}
        }
    }
    values
}

#[test]
fn top_shows_what_each_core_does_meanwhile() {
    let stage = Stage::new();
    let dev = stage.dev();
    for i in 0..32 {
        fs::create_dir(stage.path(&format!("mnt/d{i}"))).expect("made");
    }
    let mut top = stage.cfs(&["top", "--count", "1", "--every", "3"]);
    let mut top = top.stdout(std::process::Stdio::piped()).spawn().expect("the binary runs");
    // What was written before its first look does not count, what is written until it ends does.
    let mut round = 0;
    while top.try_wait().expect("our own child").is_none() {
        let mut file = fs::File::create(stage.path(&format!("mnt/d{}/file", round % 32))).expect("made");
        file.write_all(&[7; 20_000]).and_then(|()| file.sync_all()).expect("durable");
        round += 1;
    }
    let text = std::io::read_to_string(top.stdout.take().expect("piped")).expect("text");
    let sum = |name: &str| column(&text, name).iter().filter_map(|n| n.parse::<f64>().ok()).sum::<f64>();
    assert_eq!(column(&text, "REQ/S").len(), usize::from(CORES), "{text}");
    for name in ["REQ/S", "DEV WRITES/S", "FLUSHES/S"] {
        assert!(sum(name) > 0.0, "{name}: {text}");
    }
    let amplified: Vec<f64> = column(&text, "DEV/USER").iter().filter_map(|n| n.parse().ok()).collect();
    assert!(
        !amplified.is_empty() && amplified.iter().all(|of| *of > 1.0),
        "each byte is written once at least: {text}"
    );
    assert!(text.contains(&dev.listen), "{text}");
    drop(dev);
    let nobody = stage.run(&["top", "--count", "1", "--every", "0.1"]);
    assert!(nobody.status.success() && said(&nobody).contains("no server"), "{}", said(&nobody));
}

#[test]
fn a_server_in_order_is_healthy_and_ready() {
    let stage = Stage::new();
    let server = stage.server();
    let (code, body) = server.get("/health");
    assert!(code == 200 && body.contains("\"healthy\""), "{code} {body}");
    assert_eq!(server.get("/ready"), (200, "ready\n".to_string()));
}

#[test]
fn half_requests_keep_nobody_from_the_health() {
    let stage = Stage::new();
    let server = stage.server();
    let mut halves = Vec::new();
    for _ in 0..128 {
        let mut half = TcpStream::connect(server.http()).expect("it listens");
        half.write_all(b"GET /hea").expect("sent");
        halves.push(half);
    }
    let asked = Instant::now();
    assert_eq!(server.get("/ready"), (200, "ready\n".to_string()));
    assert_eq!(server.get("/health").0, 200);
    // Less than an unfinished request may take.
    assert!(asked.elapsed() < Duration::from_millis(1800), "{:?}", asked.elapsed());
    drop(halves);
}

#[test]
fn status_shows_each_server_that_runs_and_none_that_does_not() {
    let stage = Stage::new();
    let server = stage.server();
    let json = stage.run(&["status", "--json"]);
    assert!(json.status.success(), "{}", said(&json));
    let seen: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(seen.as_array().map(Vec::len), Some(1));
    assert_eq!(seen[0]["pid"], server.pid());
    assert_eq!(seen[0]["status"]["health"]["status"], "healthy");
    assert_eq!(seen[0]["status"]["cores"].as_array().map(Vec::len), Some(usize::from(CORES)));
    assert!(seen[0]["status"]["space"]["available_bytes"].as_u64() > Some(64 << 20));
    let table = said(&stage.run(&["status"]));
    assert!(table.contains("HEALTH") && table.contains("healthy") && table.contains(&server.listen), "{table}");
    server.signal("KILL");
    server.wait();
    let gone = stage.run(&["status"]);
    assert!(gone.status.success() && said(&gone).contains("no server"), "{}", said(&gone));
}

#[test]
fn a_server_that_does_not_answer_is_critical() {
    let stage = Stage::new();
    let server = stage.server();
    server.signal("STOP");
    let status = stage.run(&["status"]);
    server.signal("CONT");
    assert_eq!(status.status.code(), Some(1), "{}", said(&status));
    assert!(said(&status).contains("does not answer"), "{}", said(&status));
}
