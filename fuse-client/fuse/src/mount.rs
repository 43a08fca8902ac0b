//! Mounting, unmounting and mending.
//!
//! Root mounts by mount(2); an ordinary user through fusermount3. The kernel always checks
//! permissions itself (`default_permissions`), because it alone knows supplementary groups.
//!
//! Invariants: a [`Mount`] that is dropped is unmounted, and nobody waits for it any more; only mounts of CoreFS (type [`FS_TYPE`]) are
//! ever unmounted. Everything here may block, also on the session that serves the mount: never
//! call it on the executor that does.

mod fusermount;
mod guard;
mod syscall;
pub mod table;

use crate::capability::TRANSFER_BYTES_MAX;
use crate::device::Device;
use guard::Guard;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use table::{MountPoint, mount_at};

/// What /proc/mounts shows as the type.
pub const FS_TYPE: &str = "fuse.cfs";
/// What /proc/mounts shows as the source.
pub const FS_NAME: &str = "corefs";
const SUBTYPE: &str = "cfs";
/// As many as the kernel follows.
const SYMLINKS_MAX: usize = 40;
const FUSE_CONF: &str = "/etc/fuse.conf";

/// How to mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MountOptions {
    /// Other users may enter. None: yes for root, no for others, whom /etc/fuse.conf must allow it.
    pub allow_other: Option<bool>,
    /// No changes through this mount.
    pub read_only: bool,
    /// Honour setuid and setgid bits of programs (root only).
    pub set_uid: bool,
    /// Honour device nodes (root only).
    pub devices: bool,
}

/// Why mounting or unmounting failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The place cannot be used.
    #[error("{}: {error}", path.display())]
    Place { path: PathBuf, error: io::Error },
    /// It is no directory.
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// A CoreFS is mounted there and alive.
    #[error("{} is already mounted", .0.display())]
    AlreadyMounted(PathBuf),
    /// Nothing, or no CoreFS, is mounted there.
    #[error("no CoreFS is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// A dead mount of another file system is in the way.
    #[error("{} is a dead mount of {fs_type}: unmount it first", path.display())]
    DeadForeign { path: PathBuf, fs_type: String },
    /// /dev/fuse cannot be opened.
    #[error("/dev/fuse cannot be opened ({0}): is the fuse module loaded?")]
    NoDevice(io::Error),
    /// An ordinary user asked for `allow_other` and the administrator has not allowed it.
    #[error("allow_other needs a line `user_allow_other` in {FUSE_CONF}")]
    AllowOtherRefused,
    /// The kernel refused.
    #[error("mount at {}: {error}", path.display())]
    Refused { path: PathBuf, error: io::Error },
    /// Programs use it, and it was not to be taken from them.
    #[error("{} is in use: leave it, or detach it all the same with --lazy", .0.display())]
    InUse(PathBuf),
    /// fusermount3 could not be started.
    #[error("fusermount3 cannot be started ({0}): install the package fuse3, or mount as root")]
    NoFusermount(io::Error),
    /// fusermount3 refused.
    #[error("fusermount3: {0}")]
    Fusermount(String),
}

/// What unmounting does while programs use the mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenInUse {
    /// It fails with [`MountError::InUse`] and nothing has changed.
    Refuse,
    /// The place is free at once, the file system goes with its last user.
    Detach,
}

/// How a mount came off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmounted {
    /// Nobody used it: everything was written back first.
    Clean,
    /// Somebody still uses it: the place is free, the file system goes with its last user.
    Lazy,
    /// It was not mounted any more.
    Gone,
}

/// A mounted file system; unmounted (lazily) and its connection ended when dropped.
#[derive(Debug)]
pub struct Mount {
    at: MountedAt,
    mounted: bool,
    /// None where the system has no shell to start.
    guard: Option<Guard>,
}

/// Where a file system is mounted, and which: not what is mounted there later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountedAt {
    path: PathBuf,
    device_number: String,
}

/// Mounts at `path`; the calling thread must live as long as the session: its end is taken for that of the
/// process, and ends the mount. The device must be served at once: programs that look at `path` wait for it.
pub fn mount(path: &Path, options: &MountOptions) -> Result<(Device, Mount), MountError> {
    mend_dead_mount(path)?;
    check_place(path)?;
    let path = path.canonicalize().map_err(|error| place_error(path, error))?;
    let device = if syscall::is_root() { mount_as_root(&path, options)? } else { mount_as_user(&path, options)? };
    match mount_at(&path) {
        Ok(Some(MountPoint { device_number, fs_type })) if fs_type == FS_TYPE => {
            raise_readahead(&device_number);
            let guard = Guard::start(&device_number).ok();
            Ok((device, Mount { at: MountedAt { path, device_number }, mounted: true, guard }))
        }
        Ok(_) => Err(MountError::NotMounted(path)),
        Err(error) => Err(place_error(&path, error)),
    }
}

/// Refuses a place where no CoreFS can be mounted; one that is missing may still be made.
pub fn check_place(path: &Path) -> Result<(), MountError> {
    let place = match place_of(path) {
        Err(MountError::Place { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        place => place?,
    };
    if mount_at(&place).map_err(|error| place_error(&place, error))?.is_some_and(|at| at.fs_type == FS_TYPE) {
        return Err(MountError::AlreadyMounted(place));
    }
    match place.metadata() {
        Ok(found) if !found.is_dir() => Err(MountError::NotDirectory(place)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(place_error(&place, error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Unmounts the CoreFS at `path`, also one that another process serves, or one that is dead.
pub fn unmount(path: &Path, when_in_use: WhenInUse) -> Result<Unmounted, MountError> {
    let place = place_of(path)?;
    match mount_at(&place).map_err(|error| place_error(&place, error))? {
        Some(at) if at.fs_type == FS_TYPE => detach(&place, when_in_use),
        _ => Err(MountError::NotMounted(place)),
    }
}

/// Takes a CoreFS mount away whose server died ('Transport endpoint is not connected'). True if
/// there was one.
pub fn mend_dead_mount(path: &Path) -> Result<bool, MountError> {
    match syscall::ask(path) {
        // The second where the server died while it was asked.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {}
        _ => return Ok(false),
    }
    let place = place_of(path)?;
    match mount_at(&place).map_err(|error| place_error(&place, error))? {
        Some(at) if at.fs_type == FS_TYPE => {
            detach_lazily(&place)?;
            Ok(true)
        }
        Some(at) => Err(MountError::DeadForeign { path: place, fs_type: at.fs_type }),
        None => Err(MountError::NotMounted(place)),
    }
}

impl Mount {
    /// Its place.
    pub fn at(&self) -> &MountedAt {
        &self.at
    }

    /// Takes it off, as [`MountedAt::unmount`] does.
    pub fn unmount(mut self) -> Result<Unmounted, MountError> {
        self.mounted = false;
        self.at.unmount()
    }
}

impl MountedAt {
    /// Takes it off. Programs' mapped pages are written back first, so the session must be served
    /// meanwhile. It may live on in the mount namespaces of other processes, whatever is answered.
    pub fn unmount(&self) -> Result<Unmounted, MountError> {
        if self.is_there() { detach(&self.path, WhenInUse::Detach) } else { Ok(Unmounted::Gone) }
    }

    /// Whether it is this very mount that is at its place.
    fn is_there(&self) -> bool {
        matches!(mount_at(&self.path), Ok(Some(at)) if at.fs_type == FS_TYPE && at.device_number == self.device_number)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted && self.at.is_there() {
            // Nobody is left to tell; the mount is then found dead and mended by the next one.
            let _ = detach_lazily(&self.at.path);
        }
        if let Some(guard) = self.guard.as_mut().filter(|_| self.mounted) {
            guard.abort();
        }
    }
}

fn place_error(path: &Path, error: io::Error) -> MountError {
    MountError::Place { path: path.to_owned(), error }
}

/// The absolute path of a mount point without touching what is mounted there. A symlink is followed: reading
/// it asks only the directory that it lies in.
fn place_of(path: &Path) -> Result<PathBuf, MountError> {
    let mut path = path.to_owned();
    for _ in 0..SYMLINKS_MAX {
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Ok(path),
        };
        let Some(name) = path.file_name() else {
            return path.canonicalize().map_err(|error| place_error(&path, error));
        };
        let parent = parent.canonicalize().map_err(|error| place_error(parent, error))?;
        let place = parent.join(name);
        match place.read_link() {
            Ok(target) => path = parent.join(target),
            // The root of a mount is no symlink, whether its server is alive or not.
            Err(_) => return Ok(place),
        }
    }
    Err(place_error(&path, io::Error::from_raw_os_error(libc::ELOOP)))
}

fn mount_as_root(path: &Path, options: &MountOptions) -> Result<Device, MountError> {
    let device = Device::open().map_err(MountError::NoDevice)?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read={TRANSFER_BYTES_MAX}",
        device.fd().as_raw_fd()
    );
    if options.allow_other.unwrap_or(true) {
        data.push_str(",allow_other");
    }
    let mut flags = 0;
    for (set, flag) in
        [(options.read_only, libc::MS_RDONLY), (!options.set_uid, libc::MS_NOSUID), (!options.devices, libc::MS_NODEV)]
    {
        flags |= if set { flag } else { 0 };
    }
    syscall::mount(FS_NAME, path, FS_TYPE, flags, &data)
        .map_err(|error| MountError::Refused { path: path.to_owned(), error })?;
    Ok(device)
}

fn mount_as_user(path: &Path, options: &MountOptions) -> Result<Device, MountError> {
    let mut data = format!("fsname={FS_NAME},subtype={SUBTYPE},default_permissions,max_read={TRANSFER_BYTES_MAX}");
    if options.allow_other == Some(true) {
        let conf = std::fs::read_to_string(FUSE_CONF).unwrap_or_default();
        if !users_may_allow_other(&conf) {
            return Err(MountError::AllowOtherRefused);
        }
        data.push_str(",allow_other");
    }
    if options.read_only {
        data.push_str(",ro");
    }
    let fd = fusermount::mount(path, &data)?;
    Device::from_fd(fd).map_err(MountError::NoDevice)
}

/// INIT can only lower the kernel's window of 128 KiB; /sys raises it to a whole transfer. Without the
/// right to write there (ordinary users) sequential reads are smaller, and that is all.
fn raise_readahead(device_number: &str) {
    let window = format!("/sys/class/bdi/{device_number}/read_ahead_kb");
    let _ = std::fs::write(window, (TRANSFER_BYTES_MAX >> 10).to_string());
}

fn users_may_allow_other(conf: &str) -> bool {
    conf.lines().any(|line| line.trim() == "user_allow_other")
}

/// Unmounts; lazily if somebody still uses it and that is wanted.
fn detach(path: &Path, when_in_use: WhenInUse) -> Result<Unmounted, MountError> {
    let refused = if syscall::is_root() {
        match syscall::unmount(path, 0) {
            Ok(()) => return Ok(Unmounted::Clean),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Unmounted::Gone),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => MountError::InUse(path.to_owned()),
            Err(error) => MountError::Refused { path: path.to_owned(), error },
        }
    } else {
        match fusermount::unmount(path, false) {
            Ok(()) => return Ok(Unmounted::Clean),
            Err(refused) => refused,
        }
    };
    match when_in_use {
        WhenInUse::Refuse => Err(refused),
        WhenInUse::Detach => detach_lazily(path),
    }
}

fn detach_lazily(path: &Path) -> Result<Unmounted, MountError> {
    if syscall::is_root() {
        syscall::unmount(path, libc::MNT_DETACH)
            .map_err(|error| MountError::Refused { path: path.to_owned(), error })?;
    } else {
        fusermount::unmount(path, true)?;
    }
    Ok(Unmounted::Lazy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_allow_others_only_by_a_line_of_its_own() {
        assert!(users_may_allow_other("# x\n  user_allow_other \n"));
        assert!(!users_may_allow_other("#user_allow_other\nmount_max = 9\n"));
    }

    #[test]
    fn a_place_is_named_without_touching_what_is_there() {
        let place = place_of(Path::new("/tmp/../tmp/not-there-at-all")).expect("/tmp is there");
        assert_eq!(place, Path::new("/tmp").canonicalize().expect("/tmp").join("not-there-at-all"));
        assert!(matches!(place_of(Path::new("/no/such/parent/x")), Err(MountError::Place { .. })));
    }

    #[test]
    fn a_place_behind_symlinks_is_where_they_lead() {
        let dir = std::env::temp_dir().join(format!("cfs-place-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("real")).expect("made");
        for (link, target) in [("one", "real"), ("two", "./one"), ("loop", "loop")] {
            std::os::unix::fs::symlink(target, dir.join(link)).expect("made");
        }
        let real = dir.canonicalize().expect("it is there").join("real");
        assert_eq!(place_of(&dir.join("two")).expect("it leads somewhere"), real);
        assert!(place_of(&dir.join("loop")).is_err());
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn what_is_no_corefs_is_not_unmounted() {
        assert!(matches!(unmount(Path::new("/proc"), WhenInUse::Detach), Err(MountError::NotMounted(_))));
        assert!(matches!(mend_dead_mount(Path::new("/proc")), Ok(false)));
    }
}
