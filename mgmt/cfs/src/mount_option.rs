//! Options of a mount, as after `-o`.

use crate::args::parse_size;
use cfs_volume::{Patience, VolumeOptions};
use std::time::Duration;

/// How long a soft mount tries, where nothing else is said.
const SOFT_TIME: Duration = Duration::from_secs(30);

/// What `cfs mount --help` says of options.
pub const HELP: &str = "\
Mount options (-o a,b=c):
  ro                 no changes through this mount
  allow_other        other users may enter (default for root; ordinary users need user_allow_other in /etc/fuse.conf)
  suid, dev          honour setuid bits, device nodes (root only; off by default)
  hard               wait for a lost server until it is back (default)
  soft               give up with an error after 30 seconds
  timeout=SECONDS    give up with an error after so many seconds
  sync               write through: no byte waits in the client
  dirty=SIZE         most bytes that wait to be written
  cache=SIZE         most bytes of file data kept in the client
  readahead=SIZE     how far sequential reads run ahead
  rw, nosuid, nodev, defaults    as they are anyway

Examples:
  cfs mount 127.0.0.1:7400 /mnt/cfs
  cfs mount 127.0.0.1:7400 /mnt/cfs -o ro,soft --foreground";

/// One option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountOption {
    /// What holds anyway.
    Default,
    /// `ro`.
    ReadOnly,
    /// `allow_other`.
    AllowOther,
    /// `suid`.
    SetUid,
    /// `dev`.
    Devices,
    /// `hard`.
    Hard,
    /// `soft`, `timeout`.
    Soft(Duration),
    /// `dirty`, `sync`.
    Dirty(usize),
    /// `cache`.
    Cache(usize),
    /// `readahead`.
    ReadAhead(usize),
}

/// Reads one option.
pub fn parse(text: &str) -> Result<MountOption, String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let size = |value| parse_size(value).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    Ok(match (name, value) {
        ("defaults" | "rw" | "nosuid" | "nodev", None) => MountOption::Default,
        ("ro", None) => MountOption::ReadOnly,
        ("allow_other", None) => MountOption::AllowOther,
        ("suid", None) => MountOption::SetUid,
        ("dev", None) => MountOption::Devices,
        ("hard", None) => MountOption::Hard,
        ("soft", None) => MountOption::Soft(SOFT_TIME),
        ("sync", None) => MountOption::Dirty(0),
        ("timeout", Some(value)) => {
            let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
            let seconds = seconds.ok_or_else(|| format!("'{value}' is not a number of seconds"))?;
            MountOption::Soft(Duration::from_secs(seconds))
        }
        ("dirty", Some(value)) => MountOption::Dirty(size(value)?),
        ("cache", Some(value)) => MountOption::Cache(size(value)?),
        ("readahead", Some(value)) => MountOption::ReadAhead(size(value)?),
        ("timeout" | "dirty" | "cache" | "readahead", None) => {
            return Err(format!("'{name}' needs a value: {name}=..."));
        }
        _ => return Err("unknown mount option: see cfs mount --help".to_string()),
    })
}

impl MountOption {
    /// Puts it into force; of contradicting options the last one counts.
    pub fn apply(self, volume: &mut VolumeOptions, mount: &mut cfs_fuse::MountOptions) {
        match self {
            MountOption::Default => {}
            MountOption::ReadOnly => mount.read_only = true,
            MountOption::AllowOther => mount.allow_other = Some(true),
            MountOption::SetUid => mount.set_uid = true,
            MountOption::Devices => mount.devices = true,
            MountOption::Hard => volume.patience = Patience::Hard,
            MountOption::Soft(time) => volume.patience = Patience::Soft(time),
            MountOption::Dirty(bytes) => volume.dirty_bytes_max = bytes,
            MountOption::Cache(bytes) => volume.data_cache_bytes = bytes,
            MountOption::ReadAhead(bytes) => volume.read_ahead_bytes = bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_take_values_where_they_need_them_and_only_there() {
        assert_eq!(parse("ro"), Ok(MountOption::ReadOnly));
        assert_eq!(parse("timeout=5"), Ok(MountOption::Soft(Duration::from_secs(5))));
        assert_eq!(parse("dirty=4MiB"), Ok(MountOption::Dirty(4 << 20)));
        for wrong in ["ro=1", "timeout", "timeout=0", "timeout=x", "dirty=4 parsecs", "wombat", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_option_is_in_the_help() {
        for name in
            ["ro", "rw", "allow_other", "suid", "dev", "hard", "soft", "timeout", "sync", "dirty", "cache", "readahead"]
        {
            assert!(HELP.contains(name), "{name}");
        }
    }
}
