//! Loops of POSIX calls on a directory: metadata, and single calls whose latency matters.

use crate::Failure;
use crate::latency::{Latencies, Summary};
use clap::Args;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A small file's bytes.
const BYTES: [u8; 4096] = [0x5a; 4096];

/// `cfs-bench meta`.
#[derive(Args, Debug)]
pub struct MetaOptions {
    /// A directory on the file system in question; it is left as it was.
    pub dir: PathBuf,
    /// Processes.
    #[arg(long, default_value_t = 2)]
    pub processes: u64,
    /// Files of each process.
    #[arg(long, default_value_t = 1000)]
    pub files: u64,
    /// One process's part: print figures for the parent.
    #[arg(long, hide = true)]
    pub part: bool,
}

/// The phases, in order.
pub const PHASES: [&str; 5] = ["create 4 KiB", "stat", "readdir", "rename", "unlink"];

/// Runs the loop and prints its phases.
pub fn run(options: &MetaOptions) -> Result<(), Failure> {
    if options.part {
        let rates = part(&options.dir, options.files)?;
        println!("{}", rates.map(|r| r.to_string()).join(" "));
        return Ok(());
    }
    let rates = meta(&options.dir, options.processes, options.files)?;
    for (phase, rate) in PHASES.iter().zip(rates) {
        println!("{phase:<14} {rate:>10.0}/s  ({} processes)", options.processes);
    }
    Ok(())
}

/// Operations a second of each phase, of all processes together. A listing counts its entries.
pub fn meta(dir: &Path, processes: u64, files: u64) -> Result<[f64; 5], Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::new("finding this program", e))?;
    let mut parts = Vec::new();
    for number in 0..processes.max(1) {
        let mine = dir.join(format!("meta-{number}"));
        let child = Command::new(&own)
            .args(["meta", "--part", "--files", &files.to_string()])
            .arg(&mine)
            .stdout(Stdio::piped())
            .spawn();
        parts.push(child.map_err(|e| Failure::new("starting a process", e))?);
    }
    let mut sum = [0.0; 5];
    for child in parts {
        let output = child.wait_with_output().map_err(|e| Failure::new("waiting for a process", e))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let rates: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if !output.status.success() || rates.len() != sum.len() {
            return Err(Failure("a process of the metadata loop failed".into()));
        }
        sum.iter_mut().zip(rates).for_each(|(all, one)| *all += one);
    }
    Ok(sum)
}

fn part(dir: &Path, files: u64) -> Result<[f64; 5], Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("metadata loop in {}", dir.display()), e);
    std::fs::create_dir(dir).map_err(failed)?;
    let path = |number: u64| dir.join(format!("file-{number}"));
    let moved = |number: u64| dir.join(format!("moved-{number}"));
    let rate = |phase: &dyn Fn(u64) -> std::io::Result<()>| -> std::io::Result<f64> {
        let start = Instant::now();
        (0..files).try_for_each(phase)?;
        Ok(crate::latency::per_second(files, start.elapsed()))
    };
    let create = rate(&|n| File::create_new(path(n))?.write_all(&BYTES)).map_err(failed)?;
    let stat = rate(&|n| std::fs::metadata(path(n)).map(drop)).map_err(failed)?;
    let start = Instant::now();
    let listed = std::fs::read_dir(dir).map_err(failed)?.filter_map(Result::ok).count();
    let list = crate::latency::per_second(u64::try_from(listed).unwrap_or(0), start.elapsed());
    if u64::try_from(listed) != Ok(files) {
        return Err(Failure(format!("{} lists {listed} of {files} files", dir.display())));
    }
    let rename = rate(&|n| std::fs::rename(path(n), moved(n))).map_err(failed)?;
    let unlink = rate(&|n| std::fs::remove_file(moved(n))).map_err(failed)?;
    std::fs::remove_dir(dir).map_err(failed)?;
    Ok([create, stat, list, rename, unlink])
}

/// Repeats a call for `time` and keeps its latencies.
fn repeat(time: Duration, mut call: impl FnMut(u64) -> std::io::Result<()>) -> std::io::Result<Summary> {
    let mut seen = Latencies::default();
    let start = Instant::now();
    for turn in 0.. {
        let begun = Instant::now();
        if begun.duration_since(start) >= time {
            break;
        }
        call(turn)?;
        seen.record(begun.elapsed());
    }
    Ok(seen.summary(start.elapsed()))
}

/// Overwrites 4 KiB blocks of a small file, each followed by fsync.
pub fn write_and_fsync(dir: &Path, time: Duration) -> Result<Summary, Failure> {
    let path = dir.join("write-and-fsync");
    let work = || -> std::io::Result<Summary> {
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        (0..256).try_for_each(|block| file.write_all_at(&BYTES, block * 4096))?;
        file.sync_all()?;
        let done = repeat(time, |turn| {
            file.write_all_at(&BYTES, turn * 37 % 256 * 4096)?;
            file.sync_all()
        });
        std::fs::remove_file(&path)?;
        done
    };
    work().map_err(|e| Failure::new(format!("write and fsync in {}", dir.display()), e))
}

/// Creates files, writes 4 KiB to each and closes it.
pub fn create_write_close(dir: &Path, time: Duration) -> Result<Summary, Failure> {
    let mine = dir.join(format!("create-{}", std::process::id()));
    let work = || -> std::io::Result<Summary> {
        std::fs::create_dir(&mine)?;
        let done = repeat(time, |turn| File::create_new(mine.join(format!("file-{turn}")))?.write_all(&BYTES));
        std::fs::remove_dir_all(&mine)?;
        done
    };
    work().map_err(|e| Failure::new(format!("creating in {}", dir.display()), e))
}

/// Asks for a file's attributes again and again.
pub fn stat(path: &Path, time: Duration) -> Result<Summary, Failure> {
    let file = File::open(path).map_err(|e| Failure::new(format!("opening {}", path.display()), e))?;
    let done = repeat(time, |_| file.metadata().map(drop));
    done.map_err(|e| Failure::new(format!("stat of {}", path.display()), e))
}

/// Fills a file with `mib` MiB of bytes, on disk when it returns.
pub fn fill(path: &Path, mib: u64) -> Result<(), Failure> {
    let work = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        let piece = vec![0x5a; 1 << 20];
        (0..mib).try_for_each(|_| file.write_all(&piece))?;
        file.sync_all()
    };
    work().map_err(|e| Failure::new(format!("filling {}", path.display()), e))
}
