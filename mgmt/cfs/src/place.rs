//! Where things lie: the store, its secret, its sockets.

use crate::Failure;
use cfs_device::Uuid;
use cfs_wire::Secret;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket that the kernel takes, less a margin.
const SOCKET_PATH_MAX: usize = 100;
/// Where the folders of block devices lie instead of in the usual place.
const STATE_VARIABLE: &str = "CFS_STATE_DIR";

/// What the user named.
#[derive(Clone, Debug)]
pub struct Target {
    /// Absolute.
    pub path: PathBuf,
    /// The store: a file in the data directory, or the device.
    pub store: PathBuf,
    /// It is a device.
    pub is_device: bool,
}

impl Target {
    /// A data directory, which need not exist yet, a block device or the character device of an NVMe namespace.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        match std::fs::metadata(&absolute).map(|found| found.file_type()) {
            Ok(found) if found.is_block_device() || found.is_char_device() => {
                Ok(Target { path: absolute.clone(), store: absolute, is_device: true })
            }
            Ok(found) if !found.is_dir() => Err(Failure::plain(format!(
                "{} is neither a directory nor a block device nor an NVMe namespace",
                absolute.display()
            ))),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                Err(Failure::new(absolute.display(), error))
            }
            Ok(_) | Err(_) => Ok(Target { store: absolute.join("store"), path: absolute, is_device: false }),
        }
    }

    /// A target that should have a store.
    pub fn with_store(path: &Path) -> Result<Self, Failure> {
        let target = Target::of(path)?;
        match std::fs::metadata(&target.store) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (place, store) = (target.path.display(), target.store.display());
                let what = format!("{place} is no CoreFS store: there is no {store}; `cfs format {place}` makes one");
                Err(Failure::plain(what))
            }
            Ok(_) | Err(_) => Ok(target),
        }
    }

    /// The files beside the store: in the data directory, or in a folder of the device, which goes by what is
    /// written on it: its name in /dev may be another one after the next start.
    pub fn place(&self, device: Uuid) -> Place {
        let state = if self.is_device { devices_state().join(device.to_string()) } else { self.path.clone() };
        Place { target: self.clone(), state }
    }
}

fn devices_state() -> PathBuf {
    match std::env::var_os(STATE_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None if crate::serving::is_root() => PathBuf::from("/var/lib/cfs"),
        None => crate::registry::home().join(".local/share/cfs/devices"),
    }
}

/// The files of one store.
#[derive(Clone, Debug)]
pub struct Place {
    /// What the user named, and the store.
    pub target: Target,
    /// Where secret, sockets and the like lie.
    pub state: PathBuf,
}

impl Place {
    /// Makes the state directory, private to this user.
    pub fn prepare(&self) -> Result<(), Failure> {
        let failed = |e| Failure::new(format!("making {}", self.state.display()), e);
        if !self.state.exists() {
            std::fs::create_dir_all(&self.state).map_err(failed)?;
            std::fs::set_permissions(&self.state, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Ok(())
    }

    /// The file of the shared secret.
    pub fn secret_file(&self) -> PathBuf {
        self.state.join("secret")
    }

    /// The file that keeps the session of `cfs dev`'s mount.
    pub fn session_file(&self) -> PathBuf {
        self.state.join("dev-session")
    }

    /// The socket of a core; None where the path is too long for the kernel.
    pub fn socket(&self, core: u16) -> Option<PathBuf> {
        let path = self.state.join(format!("core-{core}.sock"));
        (path.as_os_str().len() <= SOCKET_PATH_MAX).then_some(path)
    }

    /// Reads the secret, or makes one of mode 0600.
    pub fn secret(&self) -> Result<Secret, Failure> {
        let path = self.secret_file();
        if !path.exists() {
            write_new_secret(&path)?;
        }
        read_secret(&path)
    }
}

/// Reads a secret; refuses a file that others may read.
pub fn read_secret(path: &Path) -> Result<Secret, Failure> {
    let doing = || format!("reading the secret {}", path.display());
    let mode = std::fs::metadata(path).map_err(|e| Failure::new(doing(), e))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Failure::new(doing(), "others may read it: chmod 600 it and make a new one"));
    }
    let bytes = std::fs::read(path).map_err(|e| Failure::new(doing(), e))?;
    Secret::new(&bytes).ok_or_else(|| Failure::new(doing(), "it is too short"))
}

fn write_new_secret(path: &Path) -> Result<(), Failure> {
    let failed = |e| Failure::new(format!("writing {}", path.display()), e);
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).map_err(failed)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    file.write_all(hex.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}
