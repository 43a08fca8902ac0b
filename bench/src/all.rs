//! `cfs-bench all`: every row of the table, one step after the other, in one run.

mod engine;
mod many;
mod mount;
mod rpc;
mod space;

use crate::fio::{self, Job};
use crate::latency::{Summary, micros};
use crate::process::{Running, binary};
use crate::report::{Aim, Report, Row};
use crate::workplace::Workplace;
use crate::{Failure, machine, mesh};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `cfs-bench all`.
#[derive(Args, Debug)]
pub struct AllOptions {
    /// Where stores and files go; ext4 there is the baseline.
    #[arg(long)]
    pub dir: PathBuf,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2)]
    pub seconds: u64,
    /// Rounds of what is compared directly; the median counts.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Also fill a store with this many small files, kill the server and start it again.
    #[arg(long, value_name = "N")]
    pub files: Option<u64>,
    /// Only these steps: disk, mesh, rpc, engine, space, mount, many. 'disk' is the baseline of most.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// The `cfs` binary; default: beside this one.
    #[arg(long)]
    pub cfs: Option<PathBuf>,
    /// The built programs of bench/baselines.
    #[arg(long, value_name = "DIR")]
    pub baselines: Option<PathBuf>,
    /// Where the JSON goes.
    #[arg(long, default_value = "bench/results")]
    pub results: PathBuf,
}

/// What fio said of the bare disk.
#[derive(Clone, Copy, Debug, Default)]
struct Disk {
    fdatasync: fio::Result,
    randread: fio::Result,
    seqwrite: fio::Result,
    seqwrite_sync: fio::Result,
    seqread: fio::Result,
}

struct Run<'a> {
    options: &'a AllOptions,
    place: Workplace,
    cfs: PathBuf,
    /// Folder of the peers, where they are built.
    peers: Option<PathBuf>,
    report: Report,
    disk: Disk,
    time: Duration,
}

type Step = (&'static str, fn(&mut Run) -> Result<(), Failure>);

const STEPS: [Step; 7] = [
    ("disk", |run| run.disk()),
    ("mesh", |run| run.mesh()),
    ("rpc", rpc::run),
    ("engine", engine::run),
    ("space", space::run),
    ("mount", mount::run),
    ("many", many::run),
];

/// Runs the steps; a step that fails is said in the table and the others go on.
pub fn run(options: &AllOptions) -> Result<(), Failure> {
    let machine = machine::describe(&options.dir);
    println!("{machine:#}");
    let peers = options.baselines.clone().unwrap_or_else(|| PathBuf::from("bench/baselines/target/release"));
    let peers = std::path::absolute(&peers).ok().filter(|dir| dir.join("ring-echo").exists());
    if peers.is_none() {
        println!("the peers are not built: rows that need them have no ratio");
        println!("  cargo build --release --manifest-path bench/baselines/Cargo.toml");
    }
    let mut run = Run {
        options,
        place: Workplace::new(&options.dir)?,
        cfs: binary(options.cfs.as_deref(), "cfs")?,
        peers,
        report: Report::default(),
        disk: Disk::default(),
        time: Duration::from_secs(options.seconds.max(1)),
    };
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        println!("{name}:");
        if let Err(error) = step(&mut run) {
            eprintln!("  {name} failed: {error}");
            run.report.row(Row::figure(name, format!("FAILED: {error}")));
            failed.push(name);
        }
    }
    println!("\n{}", run.report.table());
    let path = run.report.write(&options.results, &machine)?;
    println!("written {}", path.display());
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure(format!("steps failed: {}", failed.join(", ")))),
    }
}

impl Run<'_> {
    /// Runs a job on a file for the usual time and keeps its figures under `name`.
    fn fio(&mut self, name: &str, job: Job, target: &Path) -> Result<fio::Result, Failure> {
        let done = fio::run(job, target, self.time, self.place.folder())?;
        self.report.figure(name, done.json());
        Ok(done)
    }

    fn keep(&mut self, name: &str, summary: &Summary) {
        self.report.figure(name, summary.json());
    }

    /// Starts a peer that says `ready`; None where the peers are not built.
    fn peer(&self, name: &str, arguments: &[&Path]) -> Result<Option<Running>, Failure> {
        let Some(folder) = &self.peers else { return Ok(None) };
        let mut command = Command::new(folder.join(name));
        command.args(arguments);
        self.place.start(command).map(Some)
    }

    /// The disk itself: files of ext4 on it, the random reads past the page cache.
    fn disk(&mut self) -> Result<(), Failure> {
        let raw = self.place.make("raw")?;
        let (small, large) = (raw.join("small"), raw.join("large"));
        crate::posix::fill(&small, 64)?;
        crate::posix::fill(&large, 512)?;
        self.disk.fdatasync = self.fio("ext4 fdatasync", fio::FDATASYNC, &small)?;
        self.disk.randread = self.fio("raw randread", fio::RANDREAD, &large)?;
        self.disk.seqwrite = self.fio("ext4 seqwrite", fio::SEQWRITE, &raw.join("seq"))?;
        self.disk.seqwrite_sync = self.fio("ext4 seqwrite-sync", fio::SEQWRITE_SYNC, &raw.join("sync"))?;
        machine::drop_page_cache();
        self.disk.seqread = self.fio("ext4 seqread", fio::SEQREAD, &raw.join("seq"))?;
        let d = self.disk;
        let rows = [
            (
                "disk: 4 KiB write + fdatasync, qd 1",
                format!("{:.0}/s, p50 {:.0} + {:.0} us", d.fdatasync.iops, d.fdatasync.p50_us, d.fdatasync.sync_p50_us),
            ),
            (
                "disk: 4 KiB random read, qd 32",
                format!("{:.0}/s, fio {:.1} us CPU each", d.randread.iops, d.randread.cpu_us),
            ),
            ("disk: sequential write / read", format!("{:.0} / {:.0} MiB/s", d.seqwrite.mib, d.seqread.mib)),
        ];
        rows.into_iter().for_each(|(what, measured)| self.report.row(Row::figure(what, measured)));
        std::fs::remove_dir_all(&raw).map_err(|e| Failure::new("removing the raw files", e))
    }

    fn mesh(&mut self) -> Result<(), Failure> {
        let Some(done) = mesh::round_trips(self.time)? else {
            self.report.row(Row::figure("cross-core round trip", "one CPU only".into()));
            return Ok(());
        };
        self.keep("cross-core round trip", &done);
        let p50 = micros(done.p50);
        let measured = format!("p50 {p50:.2} us, p99 {:.1}", micros(done.p99));
        self.report.row(Row::new(
            "cross-core round trip, both busy",
            measured,
            "15 us".into(),
            Some(p50 / 15.0),
            Aim::AtMost(1.0),
            "under 15 us",
        ));
        Ok(())
    }

    /// CPU seconds of the server and of this program since they began.
    fn keep_cpu(&mut self, name: &str, server: u32) {
        use crate::process::{Cpu, resident_bytes};
        let value = json!({
            "server_cpu_seconds": Cpu::of(server).seconds(),
            "bench_cpu_seconds": Cpu::own().seconds(),
            "server_resident_bytes": resident_bytes(server),
        });
        self.report.figure(name, value);
    }
}
