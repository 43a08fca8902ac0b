//! What the figures were measured on.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// CPU, kernel, memory, and the disk below `dir`.
pub fn describe(dir: &Path) -> Value {
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or_default();
    let found = Command::new("findmnt").args(["-n", "-o", "SOURCE,FSTYPE,OPTIONS", "-T"]).arg(dir).output();
    let disk = found.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default();
    json!({
        "cpu": model.trim_start_matches(['\t', ' ', ':']),
        "cpus": cfs_runtime::available_cpus().len(),
        "memory": kib.trim(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "disk": disk,
        "load_average": read("/proc/loadavg").trim(),
        "date": std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs(),
        "durability": "every write and create of the native loads is durable before its answer; \
                       files are written with fsync where the row says so",
    })
}

/// Drops clean pages of every file system, so that the next read is cold. Root only; else nothing.
pub fn drop_page_cache() {
    let _synced = Command::new("sync").status();
    let _refused = std::fs::write("/proc/sys/vm/drop_caches", "1");
}
