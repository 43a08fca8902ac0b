//! The folder of one run: stores, mounts, files; and its end, whatever ends the run.
//!
//! Invariant: a watcher in a process of its own holds a pipe to us. When the pipe closes, because
//! the run is over or was killed, it ends the recorded processes, unmounts what is mounted below
//! the folder and removes it.

use crate::Failure;
use crate::process::{Running, Server};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Size of the stores that are formatted.
const STORE_SIZE: &str = "6GiB";

/// A folder that is removed when dropped.
pub struct Workplace {
    folder: PathBuf,
    watcher: Child,
}

impl Workplace {
    /// A new folder below `dir`.
    pub fn new(dir: &Path) -> Result<Self, Failure> {
        let folder = dir.join(format!("cfs-bench-{}", std::process::id()));
        let folder = std::path::absolute(&folder).map_err(|e| Failure::new("finding the folder", e))?;
        let failed = |e| Failure::new(format!("making {}", folder.display()), e);
        std::fs::create_dir_all(folder.join("pids")).map_err(failed)?;
        let own = std::env::current_exe().map_err(failed)?;
        let watcher = Command::new(own)
            .arg("clean")
            .arg(&folder)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| Failure::new("starting the watcher", e))?;
        Ok(Workplace { folder, watcher })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new folder in it.
    pub fn make(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(&path).map_err(|e| Failure::new(format!("making {}", path.display()), e))?;
        Ok(path)
    }

    fn records(&self) -> PathBuf {
        self.folder.join("pids")
    }

    /// A program that says `ready`.
    pub fn start(&self, command: Command) -> Result<Running, Failure> {
        Running::start(command, &self.records())
    }

    /// Formats a store where there is none.
    pub fn format(&self, cfs: &Path, store: &Path, size: &str) -> Result<(), Failure> {
        if store.join("store").exists() {
            return Ok(());
        }
        let done = Command::new(cfs).arg("format").arg(store).args(["--size", size]).stdout(Stdio::null()).status();
        match done {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure(format!("cfs format ended with {status}"))),
            Err(error) => Err(Failure::new("starting cfs format", error)),
        }
    }

    /// Serves a store, formatted where it is new.
    pub fn serve(&self, cfs: &Path, store: &Path, cores: u16) -> Result<Server, Failure> {
        self.format(cfs, store, STORE_SIZE)?;
        Server::start(cfs, store, cores, None, &self.records())
    }

    /// Serves and mounts a store, formatted where it is new.
    pub fn mount(&self, cfs: &Path, store: &Path, cores: u16, at: &Path) -> Result<Server, Failure> {
        self.format(cfs, store, STORE_SIZE)?;
        Server::start(cfs, store, cores, Some(at), &self.records())
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _cleaned = self.watcher.wait();
    }
}

/// The watcher: waits until standard input ends, then cleans up.
pub fn clean_after(folder: &Path) -> Result<(), Failure> {
    let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    let named = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if !named.starts_with("cfs-bench-") {
        return Err(Failure(format!("{} is no folder of a run", folder.display())));
    }
    let records = std::fs::read_dir(folder.join("pids")).into_iter().flatten().filter_map(Result::ok);
    for pid in records.filter_map(|r| r.file_name().into_string().ok()) {
        let _killed = Command::new("kill").args(["-KILL", &pid]).stderr(Stdio::null()).status();
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    for path in mounted.filter(|path| path.starts_with(folder)) {
        let _unmounted = Command::new("umount").arg("-l").arg(path).status();
    }
    std::fs::remove_dir_all(folder).map_err(|e| Failure::new(format!("removing {}", folder.display()), e))
}
