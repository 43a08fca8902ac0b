//! Servers of this user on this machine: where they listen and where their secret lies, so that
//! `cfs mount` and `cfs status` need not be told.

use crate::Failure;
use serde::{Deserialize, Serialize};
use std::fs::canonicalize;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// PF_EXITING (include/linux/sched.h).
const FLAG_EXITING: u64 = 4;
/// Number of the signal (signal(7)).
const SIGKILL: u32 = 9;

/// A running server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its process.
    pub pid: u32,
    /// When that began, clock ticks since boot: numbers of processes are used again.
    pub started: u64,
    /// Data directory or device.
    pub target: PathBuf,
    /// Address of core 0.
    pub listen: String,
    /// Unix sockets of its cores.
    pub sockets: Vec<PathBuf>,
    /// Address of the HTTP API.
    pub http: String,
    /// Its secret.
    pub secret: PathBuf,
    /// Cores it serves with.
    pub cores: u16,
}

impl Entry {
    /// Whether the process still runs: one that was killed serves nobody, waited for by its parent or not.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started) && !is_ending(self.pid)
    }

    /// Whether one of its cores listens there. One that listens everywhere does so on loopback too.
    pub fn listens_on(&self, address: SocketAddr) -> bool {
        let Ok(first) = self.listen.parse::<SocketAddr>() else { return false };
        let core = address.port().checked_sub(first.port());
        let everywhere = first.ip().is_unspecified() && address.ip().is_loopback();
        core.is_some_and(|core| core < self.cores) && (address.ip() == first.ip() || everywhere)
    }
}

/// The server of this user that serves a store.
pub fn serving(target: &Path) -> Result<Entry, Failure> {
    let real = canonicalize(target).map_err(|e| Failure::new(target.display(), e))?;
    let found = servers().into_iter().find(|entry| canonicalize(&entry.target).is_ok_and(|served| served == real));
    let target = target.display();
    found.ok_or_else(|| Failure::plain(format!("no server of this user serves {target}; offline: cfs fsck {target}")))
}

/// The server of one store, or all of this user.
pub fn serving_or_all(target: Option<&Path>) -> Result<Vec<Entry>, Failure> {
    target.map_or_else(|| Ok(servers()), |target| serving(target).map(|entry| vec![entry]))
}

/// When a process began, clock ticks since boot; None if there is none (proc_pid_stat(5), field 22).
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a process is gone or on its way out: killed and not ended yet, or ended and not waited for by its parent.
pub fn is_ending(pid: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else { return true };
    has_ended(&stat).unwrap_or(false) || is_killed(&status)
}

/// State and flags, fields 3 and 9 of proc_pid_stat(5).
fn has_ended(stat: &str) -> Option<bool> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let (state, flags) = (fields.next()?, fields.nth(5)?.parse::<u64>().ok()?);
    Some(matches!(state, "Z" | "X") || flags & FLAG_EXITING != 0)
}

/// Whether SIGKILL waits for the process or its first thread: `SigPnd` and `ShdPnd` of proc_pid_status(5), bit 0
/// being signal 1.
fn is_killed(status: &str) -> bool {
    let pending = |line: &str| {
        let set = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(set.trim(), 16).ok()
    };
    status.lines().filter_map(pending).any(|set| set & 1 << (SIGKILL - 1) != 0)
}

/// Removes the entry when dropped.
pub struct Registered(PathBuf);

impl Drop for Registered {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// Where servers announce themselves instead of in the user's usual place.
const FOLDER_VARIABLE: &str = "CFS_RUNTIME_DIR";

/// Characters of a mountpoint that its log is named after; at most four bytes each.
const NAME_CHARACTERS_MAX: usize = 60;

/// The folder, private to this user.
fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return PathBuf::from(folder);
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) if !crate::serving::is_root() => PathBuf::from(dir).join("cfs"),
        _ if crate::serving::is_root() => PathBuf::from("/run/cfs"),
        _ => home().join(".cache/cfs/run"),
    }
}

/// The user's home directory.
pub fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// The folder, made where it is missing.
fn prepared_folder() -> Result<PathBuf, Failure> {
    let folder = folder();
    let failed = |e| Failure::new(format!("writing to {}", folder.display()), e);
    std::fs::create_dir_all(&folder).map_err(failed)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    Ok(folder)
}

/// Where a mount in the background writes what it has to say.
pub fn mount_log(mountpoint: &Path) -> Result<PathBuf, Failure> {
    let name = mountpoint.to_string_lossy().replace('/', "_");
    // Names of files end at 255 bytes; the end of the path tells more than its beginning.
    let start = name.char_indices().rev().nth(NAME_CHARACTERS_MAX).map_or(0, |(at, _)| at);
    Ok(prepared_folder()?.join(format!("mount{}.log", &name[start..])))
}

/// Announces a server until the result is dropped.
pub fn register(entry: &Entry) -> Result<Registered, Failure> {
    let folder = prepared_folder()?;
    let failed = |e| Failure::new(format!("writing to {}", folder.display()), e);
    let path = folder.join(format!("{}.json", entry.listen.replace([':', '[', ']'], "_")));
    let text = serde_json::to_string_pretty(entry).map_err(|e| Failure::new("describing the server", e))?;
    std::fs::write(&path, text).map_err(failed)?;
    Ok(Registered(path))
}

/// All servers that are alive; files of dead ones are ignored.
pub fn servers() -> Vec<Entry> {
    let Ok(files) = std::fs::read_dir(folder()) else { return Vec::new() };
    let texts = files.filter_map(|f| std::fs::read(f.ok()?.path()).ok());
    let mut found: Vec<Entry> = texts.filter_map(|t| serde_json::from_slice(&t).ok()).collect();
    found.retain(Entry::is_alive);
    found.sort_by(|a, b| a.listen.cmp(&b.listen));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_beginning() {
        let pid = std::process::id();
        let started = start_time(pid).expect("we run");
        assert_eq!(start_time(pid), Some(started));
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn a_process_that_is_ending_is_told_from_one_that_lives() {
        assert!(!is_ending(std::process::id()) && is_ending(u32::MAX));
        assert_eq!(has_ended("7 (a) b) S 1 7 7 0 -1 4194560 0"), Some(false));
        assert_eq!(has_ended("7 (a) b) R 1 7 7 0 -1 4194564 0"), Some(true), "it is exiting");
        assert_eq!(has_ended("7 (a) b) Z 1 7 7 0 -1 4194560 0"), Some(true), "nobody has waited for it");
        assert!(is_killed("Name:\tx\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(is_killed("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\nSigBlk:\t0\n"));
        assert!(!is_killed("SigPnd:\t0000000000004000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000100\n"));
    }
}
