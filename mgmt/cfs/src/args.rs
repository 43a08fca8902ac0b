//! The command line. Usage errors exit 2 (clap).

use crate::mount_option::{self, MountOption};
use clap::{Args, Parser, Subcommand};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// CoreFS: a distributed POSIX file system for NVMe servers.
#[derive(Parser, Debug)]
#[command(name = "cfs", version, about, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Format on first use, serve and mount: a whole one-node file system in the foreground.
    #[command(
        after_help = "Example:\n  cfs dev /var/tmp/cfs /mnt/cfs --size 8GiB\n\nCtrl-C unmounts and stops. After a crash the same command recovers and mounts again."
    )]
    Dev(DevOptions),
    /// Lay out a data directory or a block device.
    #[command(
        after_help = "Examples:\n  cfs format /srv/cfs --size 100GiB\n  cfs format --pool /dev/nvme0n1 /dev/nvme1n1"
    )]
    Format(FormatOptions),
    /// Serve a formatted data directory or device in the foreground.
    #[command(after_help = "Example:\n  cfs server /srv/cfs --listen 127.0.0.1:7400")]
    Server(ServerOptions),
    /// Mount a served file system.
    #[command(after_help = mount_option::HELP)]
    Mount(MountOptions),
    /// Unmount. A mount in use stays and the exit status is 1.
    Umount(UmountOptions),
    /// Check a store that is not being served. Changes nothing, but for --return-to-service.
    #[command(
        after_help = "Exit status: 0 clean, or only space that leaked; 1 damage, out of service, or the check could not be made.\n\nExample:\n  cfs fsck /srv/cfs"
    )]
    Fsck(FsckOptions),
    /// Show what reading and verifying everything has found on running servers, or start it.
    #[command(
        after_help = "A server does so by itself, see its --scrub-period.\n\nExit status: 0 nothing is damaged, as far as known; 1 damage, or a server that does not answer.\n\nExamples:\n  cfs scrub\n  cfs scrub --start --wait /srv/cfs"
    )]
    Scrub(ScrubOptions),
    /// Change the devices of a store while it is served.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Show the servers that this user runs on this machine.
    #[command(after_help = "Exit status: 0 if every server serves, 1 if one is critical or does not answer.")]
    Status(StatusOptions),
    /// Show what each core of these servers does, again and again.
    #[command(after_help = "\
A row a core and server, over the time since the last look:
  DEV READS/S, ...   operations of the device, and the time that 50 and 99 of 100 took less than (a power of two)
  IN FLIGHT          operations under way at the device
  BATCH              log records made durable with one write and flush
  LOG, DATA, META, DEV/USER
                     bytes written to the log, to segments of file data (moved by the cleaner too), to sorted tables,
                     and to the device in all, for each byte that users wrote: its write amplification
  GARBAGE            what the cleaner could give back")]
    Top(TopOptions),
}

/// Most cores of a server.
pub const CORES_MAX: u16 = 64;

/// Least rate of a scrub, bytes a second.
const RATE_MIN: u64 = 64 << 10;

/// Where and how to serve.
#[derive(Args, Debug, Clone)]
pub struct Serving {
    /// Cores to serve with; default: all this process may use, or as many as a small store has room for. More than the CPUs run unpinned.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(CORES_MAX)))]
    pub cores: Option<u16>,
    /// Memory of the server, divided among its cores, at least 32 MiB each; default: 256 MiB a core.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Address of core 0; core i listens on the port plus i.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Address of the HTTP API (/metrics, /health, /v1/status, /v1/scrub, /v1/devices); port 0 for a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7480", value_parser = parse_address)]
    pub http: SocketAddr,
    /// Read and verify everything stored once in so long (7d, 12h, 30m); 0: only when cfs scrub --start asks.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_time)]
    pub scrub_period: Duration,
    /// Most that each core reads for that, a second.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = parse_rate)]
    pub scrub_rate: u64,
    /// Flush after each write of the log instead of forcing it through (FUA), for devices that do not heed that.
    #[arg(long)]
    pub no_fua: bool,
    /// Serve clear text on addresses that are not loopback. Anyone on the path can read the data.
    #[arg(long)]
    pub allow_plaintext: bool,
}

/// `cfs dev`.
#[derive(Args, Debug)]
pub struct DevOptions {
    /// Data directory; default: ~/.local/share/cfs/dev.
    pub dir: Option<PathBuf>,
    /// Where to mount; default: ~/cfs.
    pub mountpoint: Option<PathBuf>,
    /// Size of the store on first use.
    #[arg(long, default_value = "8GiB", value_parser = parse_size)]
    pub size: u64,
    /// Serving.
    #[command(flatten)]
    pub serving: Serving,
}

/// `cfs format`.
#[derive(Args, Debug)]
pub struct FormatOptions {
    /// Data directories or block devices; each becomes a store of its own, unless --pool.
    #[arg(required = true, value_name = "DIR|DEVICE")]
    pub targets: Vec<PathBuf>,
    /// Size of a data directory's store (a device is used whole); default: the size it has, or 8GiB.
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Destroy what is there; an empty file where a store would be is something too.
    #[arg(long)]
    pub force: bool,
    /// One store of all of them; the first has the log, and the store is named after it.
    #[arg(long)]
    pub pool: bool,
}

/// `cfs server`.
#[derive(Args, Debug)]
pub struct ServerOptions {
    /// Data directory or block device; of a store with several devices the first, and those that have moved since
    /// the last start.
    #[arg(required = true, value_name = "DIR|DEVICE")]
    pub targets: Vec<PathBuf>,
    /// Serving.
    #[command(flatten)]
    pub serving: Serving,
}

/// `cfs mount`.
#[derive(Args, Debug)]
pub struct MountOptions {
    /// Address of any core of the server.
    #[arg(value_parser = parse_address)]
    pub address: SocketAddr,
    /// Where.
    pub mountpoint: PathBuf,
    /// Options, separated by commas; see below.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',', value_parser = mount_option::parse)]
    pub options: Vec<MountOption>,
    /// The server's secret; by default found for a server of the same user on this machine.
    #[arg(long, value_name = "FILE")]
    pub secret: Option<PathBuf>,
    /// Stay in the foreground.
    #[arg(long)]
    pub foreground: bool,
    /// Print what the kernel's FUSE offers and what was agreed.
    #[arg(long)]
    pub show_capabilities: bool,
    /// We are the background half of ourselves.
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// `cfs umount`.
#[derive(Args, Debug)]
pub struct UmountOptions {
    /// Where.
    pub mountpoint: PathBuf,
    /// Detach also while programs use it; it ends when the last one leaves it.
    #[arg(long)]
    pub lazy: bool,
}

/// `cfs fsck`.
#[derive(Args, Debug)]
pub struct FsckOptions {
    /// Data directory or block device; of a store with several devices the first, and those that have moved since
    /// the last start.
    #[arg(required = true, value_name = "DIR|DEVICE")]
    pub targets: Vec<PathBuf>,
    /// If the check finds no damage, let a store that a failed write or flush took out of service be served again.
    #[arg(long)]
    pub return_to_service: bool,
}

/// `cfs top`.
#[derive(Args, Debug)]
pub struct TopOptions {
    /// Time between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub every: f64,
    /// End after so many.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// A tenth of a second to an hour.
fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("between 0.1 and 3600 seconds".into()),
    }
}

/// `cfs scrub`.
#[derive(Args, Debug)]
pub struct ScrubOptions {
    /// The data directory or block device that is served; default: all that this user serves on this machine.
    #[arg(value_name = "DIR|DEVICE")]
    pub target: Option<PathBuf>,
    /// Begin to read and verify everything now.
    #[arg(long)]
    pub start: bool,
    /// As fast as the device reads, whatever --scrub-rate says.
    #[arg(long, requires = "start")]
    pub unpaced: bool,
    /// Wait until nothing is left to be verified.
    #[arg(long)]
    pub wait: bool,
    /// For programs.
    #[arg(long)]
    pub json: bool,
}

/// `cfs device`.
#[derive(Subcommand, Debug)]
pub enum DeviceCommand {
    /// Add a device to a store that a server of this user serves. What is stored from now on goes there too.
    #[command(
        after_help = "From then on the store needs all its devices: a server, fsck or an older cfs refuses it without one of them.\n\nExample:\n  cfs device add /dev/nvme0n1 /dev/nvme1n1"
    )]
    Add(DeviceAddOptions),
    /// Show the devices of the stores that this user's servers serve, and how they are. Exit status 1 where one is suspect.
    #[command(
        after_help = "A device is suspect where an operation of it ended in an error since the server started, or where it says so itself\n(NVMe namespaces served by passthrough: SMART critical warning, media errors, endurance used up).\n\nExample:\n  cfs device list --json"
    )]
    List(DeviceListOptions),
    /// Take a device out of a store that a server of this user serves: what lies there is moved to the others, then the
    /// store needs it no more.
    #[command(
        after_help = "Refused for the first device, which has the log, and where the others have too little room. What cannot be moved\nbecause it is damaged keeps the device: cfs scrub names the files, and deleting them lets it go on. It goes on after a\nrestart too.\n\nExample:\n  cfs device retire /dev/nvme0n1 /dev/nvme1n1 --wait"
    )]
    Retire(DeviceRetireOptions),
}

/// `cfs device retire`.
#[derive(Args, Debug)]
pub struct DeviceRetireOptions {
    /// The data directory or block device that is served: the first device of the store.
    #[arg(value_name = "STORE")]
    pub store: PathBuf,
    /// Which: its number in `cfs device list`, its UUID or its path.
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// Return once nothing of the store is there any more.
    #[arg(long)]
    pub wait: bool,
}

/// `cfs device list`.
#[derive(Args, Debug)]
pub struct DeviceListOptions {
    /// The data directory or first device of one store; default: all that are served.
    #[arg(value_name = "STORE")]
    pub store: Option<PathBuf>,
    /// For programs.
    #[arg(long)]
    pub json: bool,
}

/// `cfs device add`.
#[derive(Args, Debug)]
pub struct DeviceAddOptions {
    /// The data directory or block device that is served: the first device of the store.
    #[arg(value_name = "STORE")]
    pub store: PathBuf,
    /// The new one: a block device, which is used whole, or a data directory. It must be blank.
    #[arg(value_name = "DIR|DEVICE")]
    pub device: PathBuf,
    /// Size of a data directory's store; default: the size it has, or 8GiB.
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Destroy what is there.
    #[arg(long)]
    pub force: bool,
}

/// `cfs status`.
#[derive(Args, Debug)]
pub struct StatusOptions {
    /// For programs.
    #[arg(long)]
    pub json: bool,
}

/// Bytes, with an optional unit: K, M, G, T (powers of 1024), also KiB, MiB, GiB, TiB.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        unit => return Err(format!("unknown unit '{unit}': use KiB, MiB, GiB or TiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("'{text}' is not a size like 8GiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is too large"))
}

/// A time, with a unit: s, m, h, d. 0 needs none.
fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match (digits, &text[digits.len()..]) {
        ("0", "") | (_, "s") => 1,
        (_, "m") => 60,
        (_, "h") => 3600,
        (_, "d") => 86_400,
        (_, unit) => return Err(format!("unknown unit '{unit}': use s, m, h or d")),
    };
    let number: u32 = digits.parse().map_err(|_| format!("'{text}' is not a time like 7d"))?;
    Ok(Duration::from_secs(u64::from(number) * unit))
}

/// Bytes a second.
fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        rate if rate < RATE_MIN => Err("less than 64KiB never gets anywhere; --scrub-period 0 turns it off".into()),
        rate => Ok(rate),
    }
}

/// HOST:PORT. Of the addresses that a name has, one of IPv4 is taken if there is one: it is where a server
/// listens unless it is told otherwise.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map_err(|e| format!("{e}: an address is HOST:PORT, like 127.0.0.1:7400"))?;
    let found: Vec<SocketAddr> = found.collect();
    let best = found.iter().find(|address| address.is_ipv4()).or(found.first());
    best.copied().ok_or_else(|| format!("'{text}' has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_take_binary_units_and_times_theirs() {
        assert_eq!(parse_size("8GiB"), Ok(8 << 30));
        assert_eq!(parse_size("512m"), Ok(512 << 20));
        assert_eq!(parse_time("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!((parse_time("0"), parse_time("90m")), (Ok(Duration::ZERO), Ok(Duration::from_secs(5400))));
        assert!(["7", "d", "", "-1d", "7w", "99999999999d"].iter().all(|text| parse_time(text).is_err()));
        assert!(parse_rate("1MiB").is_ok() && parse_rate("0").is_err());
        assert!(parse_size("8 parsecs").is_err() && parse_size("99999999T").is_err());
    }
}
