//! Where things lie: the store, its secret, its sockets.

use crate::Failure;
use cfs_wire::Secret;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket that the kernel takes, less a margin.
const SOCKET_PATH_MAX: usize = 100;
/// State of block devices, which have no directory of their own.
const DEVICE_STATE: &str = "/var/lib/cfs";

/// The files of one store.
#[derive(Clone, Debug)]
pub struct Place {
    /// What the user named.
    pub target: PathBuf,
    /// The store: a file in the data directory, or the device.
    pub store: PathBuf,
    /// Where secret, sockets and the like lie.
    pub state: PathBuf,
    /// The target is a block device.
    pub is_device: bool,
}

impl Place {
    /// The place of a data directory or block device, which need not exist yet.
    pub fn of(target: &Path) -> Self {
        let is_device = std::fs::metadata(target).is_ok_and(|m| m.file_type().is_block_device());
        let absolute = std::path::absolute(target).unwrap_or_else(|_| target.to_path_buf());
        if is_device {
            let name = target.file_name().unwrap_or_default();
            let state = Path::new(DEVICE_STATE).join(name);
            return Place { target: absolute.clone(), store: absolute, state, is_device };
        }
        Place { target: absolute.clone(), store: absolute.join("store"), state: absolute, is_device }
    }

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
