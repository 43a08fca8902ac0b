//! fio, run from the job files of `bench/fio`.

use crate::Failure;
use crate::latency::micros;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A job file: its name and text. They travel inside the program.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    name: &'static str,
    text: &'static str,
}

macro_rules! job {
    ($(#[$doc:meta])* $constant:ident, $name:literal) => {
        $(#[$doc])*
        pub const $constant: Job = Job { name: $name, text: include_str!(concat!("../fio/", $name, ".fio")) };
    };
}

job!(/** 4 KiB write and fdatasync, one at a time. */ FDATASYNC, "fdatasync");
job!(/** 4 KiB direct reads, 32 in flight. */ RANDREAD, "randread");
job!(/** 4 KiB direct reads, four processes. */ MOUNT_RANDREAD, "mount-randread");
job!(/** 1 MiB writes, one fsync. */ SEQWRITE, "seqwrite");
job!(/** 1 MiB writes, fsync after each. */ SEQWRITE_SYNC, "seqwrite-sync");
job!(/** 1 MiB reads. */ SEQREAD, "seqread");

/// What a job did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Result {
    /// Operations.
    pub operations: u64,
    /// Operations a second.
    pub iops: f64,
    /// MiB a second.
    pub mib: f64,
    /// Median latency of the read or write, microseconds.
    pub p50_us: f64,
    /// Median latency of its sync, microseconds; 0 where there is none.
    pub sync_p50_us: f64,
    /// CPU of fio an operation, microseconds, user and system.
    pub cpu_us: f64,
}

impl Result {
    /// For the JSON.
    pub fn json(&self) -> Value {
        json!({
            "operations": self.operations, "iops": self.iops, "mib_per_second": self.mib,
            "p50_us": self.p50_us, "sync_p50_us": self.sync_p50_us, "cpu_us_per_operation": self.cpu_us,
        })
    }
}

/// Runs a job on a file. Its bytes must exist where the job reads.
pub fn run(job: Job, target: &Path, time: Duration, scratch: &Path) -> std::result::Result<Result, Failure> {
    let doing = || format!("fio {} on {}", job.name, target.display());
    let file = scratch.join(format!("{}.fio", job.name));
    std::fs::write(&file, job.text).map_err(|e| Failure::new(doing(), e))?;
    let output = Command::new("fio")
        .args(["--output-format=json", "--eta=never"])
        .arg(&file)
        .env("TARGET", target)
        .env("SECONDS", time.as_secs().max(1).to_string())
        .current_dir(scratch)
        .output()
        .map_err(|e| Failure::new(doing(), e))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text.find('{').map(|at| &text[at..]).unwrap_or_default();
    let said: Value = serde_json::from_str(json)
        .map_err(|e| Failure::new(doing(), format!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr))))?;
    let first = &said["jobs"][0];
    if !output.status.success() || first["error"].as_u64() != Some(0) {
        return Err(Failure::new(doing(), String::from_utf8_lossy(&output.stderr)));
    }
    Ok(parse(first))
}

fn parse(job: &Value) -> Result {
    let real = |v: &Value| v.as_f64().unwrap_or(0.0);
    let side = if job["read"]["total_ios"].as_u64().unwrap_or(0) > 0 { &job["read"] } else { &job["write"] };
    let operations = side["total_ios"].as_u64().unwrap_or(0);
    let seconds = real(&side["runtime"]) / 1e3;
    let busy = (real(&job["usr_cpu"]) + real(&job["sys_cpu"])) / 100.0;
    let iops = real(&side["iops"]);
    Result {
        operations,
        iops,
        mib: real(&side["bw_bytes"]) / f64::from(1 << 20),
        p50_us: real(&side["clat_ns"]["percentile"]["50.000000"]) / 1e3,
        sync_p50_us: real(&job["sync"]["lat_ns"]["percentile"]["50.000000"]) / 1e3,
        cpu_us: if iops > 0.0 && seconds > 0.0 { busy * micros(Duration::from_secs(1)) / iops } else { 0.0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_figures_are_read_from_its_side() {
        let job = json!({
            "read": {"total_ios": 0},
            "write": {"total_ios": 1000, "runtime": 2000, "iops": 500.0, "bw_bytes": 2_097_152,
                      "clat_ns": {"percentile": {"50.000000": 5000}}},
            "sync": {"lat_ns": {"percentile": {"50.000000": 90000}}},
            "usr_cpu": 10.0, "sys_cpu": 15.0,
        });
        let said = parse(&job);
        assert_eq!(said.operations, 1000);
        assert!((said.mib - 2.0).abs() < 1e-9 && (said.p50_us - 5.0).abs() < 1e-9);
        assert!((said.sync_p50_us - 90.0).abs() < 1e-9 && (said.cpu_us - 500.0).abs() < 1e-9);
    }
}
