//! Processes that the bench starts: their output, their CPU and memory, their end.

use crate::Failure;
use crate::latency::{micros, real};
use crate::native::Target;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ticks of the CPU times in /proc/PID/stat a second: fixed for user space on Linux.
const TICKS_PER_SECOND: u32 = 100;
/// How long a process may take to stop before it is killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

/// CPU time of a process.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cpu(Duration);

impl Cpu {
    /// Used so far, user and system, of all threads. Zero where the process is gone.
    pub fn of(pid: u32) -> Self {
        Cpu::read(&format!("/proc/{pid}/stat"))
    }
    /// Of this process.
    pub fn own() -> Self {
        Cpu::read("/proc/self/stat")
    }

    fn read(path: &str) -> Self {
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        // The command's name may hold blanks: the fields begin after its bracket.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let ticks: u32 = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u32>().ok()).sum();
        Cpu(Duration::from_secs(1) * ticks / TICKS_PER_SECOND)
    }

    /// Used between two looks.
    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu(self.0.saturating_sub(earlier.0))
    }
    /// As seconds.
    pub fn seconds(self) -> f64 {
        self.0.as_secs_f64()
    }
    /// Microseconds for each of `operations`.
    pub fn micros_each(self, operations: u64) -> f64 {
        micros(self.0) / real(operations.max(1))
    }
}

/// Resident memory of a process, bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A program beside this one, or the one that was named.
pub fn binary(named: Option<&Path>, name: &str) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path.to_path_buf());
    }
    let own = std::env::current_exe().map_err(|e| Failure::new("finding this program", e))?;
    let path = own.with_file_name(name);
    match path.exists() {
        true => Ok(path),
        false => Err(Failure(format!("{} is missing: build it first, or name it", path.display()))),
    }
}

/// A process in the foreground that says `ready`. Killed when dropped.
pub struct Running {
    child: Child,
    /// Where the workplace remembers it.
    record: PathBuf,
    /// What it was called to do, for messages.
    what: String,
}

impl Running {
    /// Starts it and waits for a line that begins with `ready`. `records` is the folder of pids.
    pub fn start(mut command: Command, records: &Path) -> Result<Self, Failure> {
        let what = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| Failure::new(format!("starting {what}"), e))?;
        let record = records.join(child.id().to_string());
        let _unrecorded = std::fs::write(&record, "");
        let output = child.stdout.take();
        let running = Running { child, record, what };
        let Some(output) = output else { return Err(Failure("a child without output".into())) };
        let mut lines = BufReader::new(output).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("ready"));
        // What it says later must not fill the pipe.
        let drain = std::thread::Builder::new().spawn(move || lines.for_each(drop));
        drain.map_err(|e| Failure::new("starting a thread", e))?;
        match ready {
            true => Ok(running),
            false => Err(Failure(format!("{} ended before it was ready", running.what))),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and waits. It must end well.
    pub fn stop(mut self) -> Result<(), Failure> {
        let pid = self.pid().to_string();
        let _sent = Command::new("kill").args(["-TERM", &pid]).status();
        let end = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < end {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(Failure(format!("{} ended with {status}", self.what))),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        Err(Failure(format!("{} did not stop in {STOP_TIME_MAX:?}", self.what)))
    }

    /// SIGKILL, as a crash.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _waited = self.child.wait();
        let _forgotten = std::fs::remove_file(&self.record);
    }
}

/// A CoreFS server, with or without a mount.
pub struct Server {
    process: Running,
    /// Core 0.
    pub address: SocketAddr,
    /// Its secret.
    secret: PathBuf,
}

impl Server {
    /// `cfs server` or `cfs dev` of a formatted store.
    pub fn start(cfs: &Path, store: &Path, cores: u16, mount: Option<&Path>, records: &Path) -> Result<Self, Failure> {
        let (address, http) = free_addresses(cores)?;
        let mut command = Command::new(cfs);
        match mount {
            Some(mount) => command.arg("dev").arg(store).arg(mount),
            None => command.arg("server").arg(store),
        };
        command.args(["--cores", &cores.to_string()]);
        command.args(["--listen", &address.to_string(), "--http", &http.to_string()]);
        let process = Running::start(command, records)?;
        Ok(Server { process, address, secret: store.join("secret") })
    }
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
    /// For the load generator.
    pub fn target(&self) -> Result<Target, Failure> {
        Target::new(self.address, &self.secret)
    }
    /// Stops it cleanly.
    pub fn stop(self) -> Result<(), Failure> {
        self.process.stop()
    }
    /// As a crash.
    pub fn kill(self) {
        self.process.kill();
    }
}

/// An address whose next `cores` ports are free, and one for HTTP.
fn free_addresses(cores: u16) -> Result<(SocketAddr, SocketAddr), Failure> {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let first = first.map_err(|e| Failure::new("finding a port", e))?;
        let Some(last) = first.port().checked_add(cores) else { continue };
        let free = (first.port()..=last).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        if free {
            return Ok((first, SocketAddr::new(first.ip(), last)));
        }
    }
    Err(Failure("no ports are free".into()))
}
