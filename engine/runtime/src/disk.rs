//! Devices: opened and locked once a process, attached by each core that uses them.
//!
//! Invariants: a [`DiskFile`] holds the device's lock as long as any clone or attached disk lives. A block
//! device is claimed as well (O_EXCL), because the lock is that of one name in /dev: the claim is refused where
//! anybody has the device under another name, also its whole disk or a partition, or has it mounted.
//! A flush that failed is never followed by one that claims success (the kernel reports a lost
//! write once only; Rebello et al., ATC 2020): the failure sticks to the file.

mod attached;
mod holder;
mod nvme;

use crate::reactor::Reactor;
use crate::{RuntimeError, system};
use cfs_seam::{BLOCK_BYTES, Disk, Geometry};
use holder::User;
use nvme::Namespace;
pub use nvme::{NvmeIdentity, NvmeWear};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

/// How to open a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Reads only, under a shared lock: `fsck`.
    ReadOnly,
    /// Reads and writes, under an exclusive lock.
    ReadWrite,
    /// As `ReadWrite`; a missing file is made, and a regular file is cut or allocated to this many
    /// bytes. What it contained below that stays.
    Create {
        /// Size of the file, bytes.
        bytes: u64,
    },
}

struct Inner {
    file: File,
    path: PathBuf,
    /// Where it is since it was given another name.
    renamed: OnceLock<PathBuf>,
    geometry: Geometry,
    direct: bool,
    sparse: bool,
    punch_holes: bool,
    /// What it is where NVMe commands go to it.
    namespace: Option<Namespace>,
    /// Somebody has shortened it: no write or flush succeeds any more.
    shortened: AtomicBool,
    /// A write-through is not believed to be one.
    fua_distrusted: AtomicBool,
    /// errno of the first failed flush, 0 while there was none.
    flush_failed: AtomicI32,
}

/// An open, locked device or file, shared by the cores.
#[derive(Clone)]
pub struct DiskFile(Arc<Inner>);

/// Opens and locks a regular file, a block device or an NVMe namespace (`/dev/ngXnY`) for direct I/O. Where the file system refuses
/// O_DIRECT (tmpfs) it is opened buffered, and [`DiskFile::is_direct`] says so.
pub fn open_disk(path: &Path, mode: OpenMode) -> Result<DiskFile, RuntimeError> {
    let (file, direct) = open(path, mode)?;
    let failed = |operation| move |source| RuntimeError::Open { operation, path: path.to_owned(), source };
    let metadata = file.metadata().map_err(failed("stat"))?;
    if let Err(source) = system::flock(file.as_fd(), mode != OpenMode::ReadOnly) {
        return Err(match source.raw_os_error() {
            Some(libc::EWOULDBLOCK) => RuntimeError::Locked { path: path.to_owned(), holder: holder::of(&metadata) },
            _ => failed("lock")(source),
        });
    }
    let namespace = metadata.file_type().is_char_device().then(|| Namespace::identify(&file)).transpose();
    let namespace = namespace.map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => RuntimeError::Claimed { path: path.to_owned(), user: "its block device is".to_owned() },
        _ => failed("asking the controller about")(source),
    })?;
    let geometry = if let Some(namespace) = &namespace {
        namespace.geometry()
    } else if metadata.file_type().is_block_device() {
        let (bytes, block_bytes) = system::block_device_geometry(file.as_fd()).map_err(failed("geometry of"))?;
        let queue = Queue::of(metadata.rdev());
        // Without O_DIRECT the page cache is a volatile cache whatever the device says.
        Geometry {
            bytes,
            block_bytes,
            volatile_cache: queue.volatile_cache || !direct,
            fua: queue.fua && direct,
            zoning: None,
        }
    } else {
        if let OpenMode::Create { bytes } = mode {
            resize(&file, path, metadata.len(), bytes).map_err(failed("allocate"))?;
        }
        let bytes = file.metadata().map_err(failed("stat"))?.len();
        let block_bytes = u32::try_from(BLOCK_BYTES).expect("4 KiB");
        Geometry {
            bytes,
            block_bytes,
            volatile_cache: true,
            fua: direct && Queue::of(metadata.dev()).fua,
            zoning: None,
        }
    };
    let metadata = file.metadata().map_err(failed("stat"))?;
    let sparse = metadata.is_file() && metadata.blocks().saturating_mul(512) < metadata.len();
    let punch_holes = metadata.file_type().is_block_device() || sparse;
    let (path, flush_failed) = (path.to_owned(), AtomicI32::new(0));
    let (shortened, fua_distrusted) = (AtomicBool::new(false), AtomicBool::new(false));
    let inner = Inner {
        file,
        path,
        renamed: OnceLock::new(),
        geometry,
        direct,
        sparse,
        punch_holes,
        namespace,
        shortened,
        fua_distrusted,
        flush_failed,
    };
    Ok(DiskFile(Arc::new(inner)))
}

fn open(path: &Path, mode: OpenMode) -> Result<(File, bool), RuntimeError> {
    let failed = |operation| move |source| RuntimeError::Open { operation, path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(mode != OpenMode::ReadOnly).mode(0o600);
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => return open_device(path, &options, found.rdev()),
        Ok(found) if is_namespace(path, &found) => {
            // Commands never pass the page cache; the kernel knows no O_DIRECT here.
            return options.open(path).map(|file| (file, true)).map_err(failed("open"));
        }
        Ok(found) if !found.is_file() => return Err(RuntimeError::NotADisk { path: path.to_owned() }),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            options.create(matches!(mode, OpenMode::Create { .. }));
        }
        Ok(_) | Err(_) => {}
    }
    open_direct(path, &options, 0).map_err(failed("open"))
}

/// Whether it is a character device of the kernel's class of NVMe namespaces.
fn is_namespace(path: &Path, found: &Metadata) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = found.rdev();
    let class = || fs::read_link(format!("/sys/dev/char/{}:{}/subsystem", libc::major(number), libc::minor(number)));
    let of_class = || class().is_ok_and(|class| class.file_name().is_some_and(|class| class == "nvme-generic"));
    found.file_type().is_char_device() && (of_class() || name.starts_with("ng"))
}

/// Opens and claims a block device, so that nobody mounts it either.
fn open_device(path: &Path, options: &OpenOptions, device: u64) -> Result<(File, bool), RuntimeError> {
    open_direct(path, options, libc::O_EXCL).map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => match holder::of_device(device) {
            User::Process(holder) => RuntimeError::Locked { path: path.to_owned(), holder: Some(holder) },
            User::Kernel(user) => RuntimeError::Claimed { path: path.to_owned(), user },
            User::Unknown => RuntimeError::Locked { path: path.to_owned(), holder: None },
        },
        _ => RuntimeError::Open { operation: "open", path: path.to_owned(), source },
    })
}

/// Opens for direct I/O, or buffered where that is refused; and says which.
fn open_direct(path: &Path, options: &OpenOptions, flags: libc::c_int) -> io::Result<(File, bool)> {
    let mut options = options.clone();
    match options.custom_flags(libc::O_DIRECT | flags).open(path) {
        Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => {
            options.custom_flags(flags).open(path).map(|file| (file, false))
        }
        opened => opened.map(|file| (file, true)),
    }
}

/// Gives a file `bytes` bytes, allocated, and makes its size and name durable; where that fails the file has
/// no more than before. A file system without fallocate gets a sparse file: writes may then meet its end of
/// space ([`DiskFile::is_sparse`]).
fn resize(file: &File, path: &Path, now: u64, bytes: u64) -> io::Result<()> {
    if now > bytes {
        file.set_len(bytes)?;
    }
    match system::allocate(file.as_fd(), bytes) {
        Err(refused) if refused.raw_os_error() == Some(libc::EOPNOTSUPP) => file.set_len(bytes)?,
        Err(error) => {
            // What was allocated before the space ran out would stay. The first error is the one to tell.
            let _given_back = file.set_len(now.min(bytes));
            return Err(error);
        }
        Ok(()) => {}
    }
    file.sync_all()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// What the block layer says of a device; where it is silent the cautious answer.
struct Queue {
    volatile_cache: bool,
    fua: bool,
}

impl Queue {
    fn of(device: u64) -> Queue {
        let base = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
        // A partition's queue is its parent's.
        let read = |name: &str| {
            let own = fs::read_to_string(format!("{base}/queue/{name}"));
            own.or_else(|_| fs::read_to_string(format!("{base}/../queue/{name}"))).unwrap_or_default()
        };
        Queue { volatile_cache: read("write_cache").trim() != "write through", fua: read("fua").trim() == "1" }
    }
}

impl DiskFile {
    /// Where it was opened, or what it was called since.
    pub fn path(&self) -> &Path {
        self.0.renamed.get().unwrap_or(&self.0.path)
    }
    /// Whoever opened it has given it another name, once.
    pub fn note_renamed(&self, path: &Path) {
        assert!(self.0.renamed.set(path.to_owned()).is_ok(), "{} was renamed before", path.display());
    }
    /// What the device is.
    pub fn geometry(&self) -> Geometry {
        let geometry = self.0.geometry;
        Geometry { fua: geometry.fua && !self.0.fua_distrusted.load(Ordering::Relaxed), ..geometry }
    }
    /// For a device that takes forced unit access and does not heed it: has everybody flush instead. To be said before
    /// it is attached.
    pub fn distrust_fua(&self) {
        self.0.fua_distrusted.store(true, Ordering::Relaxed);
    }
    /// False where the file system refused O_DIRECT: reads and writes then go through the page
    /// cache and cost a copy. To be said to the user once.
    pub fn is_direct(&self) -> bool {
        self.0.direct
    }
    /// Whether it is a file with holes: a full file system refuses writes into them, which the store
    /// takes for a failed device. To be said to the user once.
    pub fn is_sparse(&self) -> bool {
        self.0.sparse
    }
    /// Looks how long the file or device is now. Where that is less than `bytes`, no write or flush of any core
    /// succeeds from then on, and the answer is its length.
    pub fn take_out_if_shorter(&self, bytes: u64) -> io::Result<Option<u64>> {
        let metadata = self.0.file.metadata()?;
        let is_device = metadata.file_type().is_block_device();
        let now = match self.namespace() {
            Some(namespace) => namespace.bytes_now(&self.0.file)?,
            None if is_device => system::block_device_geometry(self.fd())?.0,
            None => metadata.len(),
        };
        if now < bytes {
            self.0.shortened.store(true, Ordering::Release);
        }
        Ok((now < bytes).then_some(now))
    }
    /// Whether it is a file that has lost its last name: it is gone when it is closed.
    pub fn is_removed(&self) -> bool {
        self.0.file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 0)
    }
    /// Whether it is a file, and its path leads nowhere or to another one by now.
    pub fn is_elsewhere(&self) -> bool {
        let Some(ours) = self.0.file.metadata().ok().filter(Metadata::is_file) else { return false };
        match fs::metadata(self.path()) {
            Ok(there) => (there.dev(), there.ino()) != (ours.dev(), ours.ino()),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
    /// The device for use by one core. Registered with the core's ring where it has room.
    pub fn attach(&self, reactor: &Rc<Reactor>) -> Rc<dyn Disk> {
        attached::attach(self.clone(), reactor.clone())
    }

    /// Whether it is made of zones: then `cfs_device::open_zones` makes a disk of what is attached.
    pub fn has_zones(&self) -> bool {
        self.namespace().is_some_and(|namespace| namespace.zones().is_some())
    }
    /// Who the device says it is, where NVMe commands go to it.
    pub fn nvme(&self) -> Option<&NvmeIdentity> {
        self.namespace().map(Namespace::identity)
    }
    /// What such a device has counted of its wear: asks it, and waits.
    pub fn nvme_wear(&self) -> Option<io::Result<NvmeWear>> {
        self.namespace().map(|namespace| namespace.wear(&self.0.file))
    }
    fn namespace(&self) -> Option<&Namespace> {
        self.0.namespace.as_ref()
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
    fn is_shortened(&self) -> bool {
        self.0.shortened.load(Ordering::Acquire)
    }
    /// Remembers the first failed flush of any core.
    fn poison(&self, errno: i32) {
        let first = self.0.flush_failed.compare_exchange(0, errno, Ordering::AcqRel, Ordering::Acquire);
        debug_assert!(first.is_ok_and(|was| was == 0) || self.poisoned().is_some(), "a failure sticks");
    }
    /// errno of the flush that failed, if one did.
    fn poisoned(&self) -> Option<i32> {
        Some(self.0.flush_failed.load(Ordering::Acquire)).filter(|errno| *errno != 0)
    }
}
