//! Temporary directories, processes and mounts that are gone after a test, also after one that
//! failed.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest wait for anything: these tests share the machine with builds.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(5);
/// Ports for tests, below those that the kernel gives away by itself.
const PORTS_FROM: u16 = 10_000;
const PORTS_COUNT: u32 = 10_000;
/// Between the first ports that two processes try.
const PORTS_APART: u32 = 499;
const PORTS_TRIED_MAX: u32 = 1_000;
/// Cores that servers are started with.
pub const CORES: u16 = 2;

/// A directory of its own for each test.
pub struct Stage {
    pub dir: PathBuf,
}

impl Stage {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cli-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).expect("a writable target directory");
        Stage { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `cfs` with this stage's home and registry. It heeds SIGHUP, also where whoever runs the tests does not (nohup).
    pub fn cfs<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new("env");
        command
            .args(["--default-signal=HUP", env!("CARGO_BIN_EXE_cfs")])
            .args(arguments)
            .env("HOME", self.path("home"))
            .env("CFS_RUNTIME_DIR", self.path("run"));
        command.env("CFS_STATE_DIR", self.path("state"));
        command.current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    /// Runs `cfs` to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.cfs(arguments).output().expect("the binary runs")
    }

    /// `cfs dev` on `store` and `mnt`, ready.
    pub fn dev(&self) -> Running {
        self.start(&["dev", "store", "mnt", "--size", "512MiB"], CORES)
    }

    /// Starts a server on free ports and waits until it says that it is ready. Where somebody took
    /// a port in between, tries others.
    pub fn start(&self, arguments: &[&str], cores: u16) -> Running {
        for _ in 0..10 {
            let listen = free_ports(cores);
            let cores = cores.to_string();
            let serving = ["--cores", cores.as_str(), "--listen", listen.as_str(), "--http", "127.0.0.1:0"];
            let command = self.cfs(&[arguments, &serving].concat());
            match Running::start(command, listen) {
                Ok(running) => return running,
                Err(output) => assert!(output.contains("in use"), "{output}"),
            }
        }
        panic!("no free ports");
    }

    /// `cfs mount` at `place`, which need not exist, mounted.
    pub fn mount(&self, listen: &str, place: &str) -> Running {
        fs::create_dir_all(self.path(place)).expect("a directory");
        let command = self.cfs(&["mount", listen, place, "--foreground"]);
        Running::start(command, listen.into()).expect("it mounts")
    }

    /// Formats `store` and serves it.
    pub fn server(&self) -> Running {
        let formatted = self.run(&["format", "store", "--size", "512MiB"]);
        assert!(formatted.status.success(), "{}", said(&formatted));
        self.start(&["server", "store"], CORES)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let here = self.dir.to_string_lossy().into_owned();
        for place in mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|place| place.starts_with(&here)) {
            let _gone = Command::new("umount").args(["-l", place]).status();
        }
        let _left = fs::remove_dir_all(&self.dir);
    }
}

/// A process that serves; killed when dropped. Its mount is its stage's to remove.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    /// What it said until it was ready.
    pub said: Vec<String>,
    /// Address of core 0.
    pub listen: String,
}

impl Running {
    /// Waits for the line that begins with `ready`; what it said instead, where it ended.
    pub fn start(mut command: Command, listen: String) -> Result<Self, String> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let (to, lines) = channel();
        let output = child.stdout.take().expect("piped");
        let errors = child.stderr.take().expect("piped");
        for lines in [Box::new(output) as Box<dyn Read + Send>, Box::new(errors)] {
            let to = to.clone();
            std::thread::spawn(move || {
                BufReader::new(lines).lines().map_while(Result::ok).try_for_each(|line| to.send(line))
            });
        }
        drop(to);
        let mut running = Running { child, lines, said: Vec::new(), listen };
        let end = Instant::now() + PATIENCE;
        loop {
            match running.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let ready = line.starts_with("ready");
                    running.said.push(line);
                    if ready {
                        return Ok(running);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(running.said.join("\n")),
                Err(RecvTimeoutError::Timeout) => panic!("not ready in time: {:?}", running.said),
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Address of its HTTP API, as it printed it.
    pub fn http(&self) -> String {
        let line = self.said.iter().find(|line| line.contains("/metrics")).expect("it says where its metrics are");
        let (_, rest) = line.split_once("http://").expect("an URL");
        rest.trim_end_matches("/metrics").to_string()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// The next line that it says.
    pub fn hear(&mut self) -> &str {
        self.said.push(self.lines.recv_timeout(PATIENCE).expect("it says something"));
        self.said.last().expect("just pushed")
    }

    /// Waits until it has ended.
    pub fn wait(self) -> ExitStatus {
        self.wait_and_hear().0
    }

    /// Waits until it has ended; also all that it said.
    pub fn wait_and_hear(mut self) -> (ExitStatus, Vec<String>) {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:?}", self.said),
            }
        }
        // Whose terminal has gone says nothing more and may yet run.
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return (status, std::mem::take(&mut self.said));
            }
            assert!(Instant::now() < end, "it does not end: {:?}", self.said);
            std::thread::sleep(LOOK);
        }
    }

    /// GET over HTTP/1.0: code and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.0\r\n\r\n"))
    }

    /// POST of JSON, with more header lines.
    pub fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        let bytes = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n{headers}\r\n{body}"
        ))
    }

    fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code"), body.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Sends a process a signal.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(sent.is_ok_and(|s| s.success()), "kill");
}

/// The first of as many free ports in a row as there are cores. The kernel gives none of these to those who connect,
/// so that they are there again after a restart.
pub fn free_ports(cores: u16) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id() * PORTS_APART;
    for _ in 0..PORTS_TRIED_MAX {
        let offset = begin.wrapping_add(NEXT.fetch_add(u32::from(cores), Ordering::Relaxed)) % PORTS_COUNT;
        let port = PORTS_FROM + u16::try_from(offset).expect("below PORTS_COUNT");
        if (port..port + cores).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return format!("127.0.0.1:{port}");
        }
    }
    panic!("no free ports");
}

/// Whether something is mounted exactly there, without touching it.
pub fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc");
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

/// What a process wrote, for messages of failed assertions.
pub fn said(output: &Output) -> String {
    format!("{}: {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
