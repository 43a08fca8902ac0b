//! The process's own figures, from /proc/self (proc(5)).
//!
//! What cannot be read counts as zero: figures of the process are no reason to answer nothing.

use std::collections::BTreeMap;
use std::path::Path;

/// Clock ticks a second in /proc: the kernel's USER_HZ, 100 on every architecture CoreFS runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Threads whose names begin so are ours; the kernel's workers for the ring come and go.
const OUR_THREADS: &str = "cfs";

/// CPU time of the threads of one name.
#[derive(Clone, PartialEq, Debug)]
pub struct ThreadTime {
    /// Their name.
    pub name: String,
    /// User and system time, seconds.
    pub cpu_seconds: f64,
}

/// Figures of the process.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Process {
    /// User and system time, seconds.
    pub cpu_seconds: f64,
    /// Seconds since the epoch.
    pub start_time_seconds: f64,
    /// Memory in RAM, bytes.
    pub resident_bytes: u64,
    /// Address space, bytes.
    pub virtual_bytes: u64,
    /// Open descriptors.
    pub open_fds: u64,
    /// Most descriptors.
    pub max_fds: u64,
    /// Threads, the kernel's workers included.
    pub threads: u64,
    /// CPU time of our own threads.
    pub thread_times: Vec<ThreadTime>,
}

impl Process {
    /// This process now.
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (stat, status) = (text("/proc/self/stat"), text("/proc/self/status"));
        let boot = field(&text("/proc/stat"), "btime").unwrap_or_default();
        let (cpu_seconds, since_boot) = stat_times(&stat).unwrap_or_default();
        Process {
            cpu_seconds,
            start_time_seconds: boot as f64 + since_boot,
            resident_bytes: field(&status, "VmRSS:").unwrap_or_default() << 10,
            virtual_bytes: field(&status, "VmSize:").unwrap_or_default() << 10,
            open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64),
            max_fds: field(&text("/proc/self/limits"), "Max open files").unwrap_or_default(),
            threads: field(&status, "Threads:").unwrap_or_default(),
            thread_times: thread_times(Path::new("/proc/self/task")),
        }
    }
}

/// The number after a label at the beginning of a line.
fn field(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

/// (CPU time, start since boot), seconds. The name in parentheses may hold anything.
fn stat_times(stat: &str) -> Option<(f64, f64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, ticks(19)? / TICKS_PER_SECOND))
}

fn thread_times(tasks: &Path) -> Vec<ThreadTime> {
    let mut times = BTreeMap::<String, f64>::new();
    for task in std::fs::read_dir(tasks).into_iter().flatten().filter_map(Result::ok) {
        let text = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let name = text("comm").trim().to_string();
        if let Some((cpu, _)) = stat_times(&text("stat")).filter(|_| name.starts_with(OUR_THREADS)) {
            *times.entry(name).or_default() += cpu;
        }
    }
    times.into_iter().map(|(name, cpu_seconds)| ThreadTime { name, cpu_seconds }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 12345 1 1 1";
        assert_eq!(stat_times(stat), Some((3.0, 123.45)));
        assert_eq!(stat_times("7 (cut"), None);
        assert_eq!(stat_times("7 (cut) S 1"), None);
    }

    #[test]
    fn labels_are_found_at_the_beginning_of_a_line() {
        assert_eq!(field("Name: x\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(field("Max open files            1024                 4096   files", "Max open files"), Some(1024));
        assert_eq!(field("Max open files            unlimited", "Max open files"), None);
    }

    #[test]
    fn this_process_has_memory_descriptors_and_threads() {
        let me = Process::read();
        assert!(me.resident_bytes > 1 << 16 && me.virtual_bytes >= me.resident_bytes);
        assert!(me.open_fds > 0 && me.threads > 0 && me.start_time_seconds > 1e9);
    }
}
