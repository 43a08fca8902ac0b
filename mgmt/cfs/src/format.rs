//! `cfs format`.
//!
//! Invariants: a first format of a data directory works on `store.new`, which gets its name when it is done, so a
//! `store` is never half made; what is formatted anew in its place carries the mark of `cfs_device::format`
//! until it is done. A format that fails leaves nothing behind that was not there before.

mod leftover;

use crate::Failure;
use crate::args::FormatOptions;
use crate::place::Target;
use crate::registry;
use crate::stop_sign::StopSign;
use crate::system;
use cfs_device::{DeviceError, Layout, Mended, Superblock, Uuid};
use cfs_runtime::{CoreConfig, DiskFile, OpenMode, RuntimeError, open_disk, run as run_core};
use cfs_types::CoreId;
use indicatif::{ProgressBar, ProgressStyle};
use leftover::Leftover;
use std::fs::{self, File, TryLockError};
use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Size of a new store, bytes, where none is given.
const STORE_BYTES: u64 = 8 << 30;
/// Bytes that a file system keeps for others when a store is allocated in it.
const KEPT_FREE_BYTES: u64 = 32 << 20;
/// How long a lock outlives its process at most: the kernel takes milliseconds, seconds under load.
const DEAD_LOCK_TIME: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// Formats and says what was made.
pub fn run(options: &FormatOptions) -> Result<(), Failure> {
    let stop = Arc::new(StopSign::catch()?);
    for target in &options.targets {
        let target = Target::of(target)?;
        let superblock = format(&target, options.size, options.force, &stop).map_err(Failure::that_counts)?;
        let layout = superblock.layout;
        let log_mib = (layout.log_slots * layout.log_slot_bytes) >> 20;
        say!("formatted {}", target.path.display());
        say!("  cluster {}, device {}", superblock.cluster, superblock.device);
        say!("  {} MiB: log {log_mib} MiB, {} regions of 64 MiB", layout.device_bytes >> 20, layout.regions);
        say!("next: cfs server {}", target.path.display());
    }
    Ok(())
}

/// Whether a data directory still has to be laid out: its store is missing, or marked as half made.
pub fn is_needed(store: &Path) -> Result<bool, Failure> {
    match fs::metadata(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Failure::new(format!("reading {}", store.display()), error)),
        Ok(_) => Ok(matches!(
            read_superblock(&open_locked(store, OpenMode::ReadOnly).map_err(Failure::plain)?)?,
            Err(DeviceError::Unfinished)
        )),
    }
}

/// Lays out a store, with a progress bar, and makes its secret.
pub fn format(target: &Target, size: Option<u64>, force: bool, stop: &Arc<StopSign>) -> Result<Superblock, Failure> {
    let formatted = match target.is_device {
        true => format_device(target, force, stop),
        false => format_directory(target, size, force, stop),
    };
    let superblock = formatted.map_err(|failure| failure.within(format!("formatting {}", target.path.display())))?;
    let place = target.place(superblock.device);
    place.prepare()?;
    place.secret()?;
    Ok(superblock)
}

/// The folder of the store that was there stays: it goes by what was written on the device, which may be a copy of
/// another one that is still used.
fn format_device(target: &Target, force: bool, stop: &Arc<StopSign>) -> Result<Superblock, Failure> {
    let file = open_locked(&target.store, OpenMode::ReadWrite).map_err(Failure::plain)?;
    lay_out(file, force, stop)
}

fn format_directory(
    target: &Target,
    size: Option<u64>,
    force: bool,
    stop: &Arc<StopSign>,
) -> Result<Superblock, Failure> {
    refuse_foreign_files(&target.path, force)?;
    let exists = fs::exists(&target.store).unwrap_or(false);
    let held = if exists { fs::metadata(&target.store).map_or(0, |found| found.len()) } else { 0 };
    let bytes = size.unwrap_or(if held > 0 { held } else { STORE_BYTES });
    Layout::derive(bytes, None, None).map_err(|e| Failure::plain(format!("{e}: choose another --size")))?;
    let draft = if exists { target.store.clone() } else { target.path.join("store.new") };
    check_room(&draft, bytes)?;
    let mut leftover = Leftover::default();
    leftover.make_dirs(&target.path)?;
    let _alone = lock_directory(&target.path)?;
    // Looked at again: somebody may have formatted it meanwhile.
    let is_there = fs::exists(&target.store).unwrap_or(false);
    if is_there != exists || is_there && !force && !is_needed(&target.store)? {
        return Err(occupied(&target.store));
    }
    let opened = open_locked(&draft, OpenMode::Create { bytes });
    if !exists && !matches!(opened, Err(RuntimeError::Locked { .. })) {
        leftover.file(&draft);
    }
    let file = opened.map_err(Failure::plain)?;
    if file.is_sparse() {
        complain!(
            "cfs: warning: the file system of {} keeps no space for the store: when it is full, the store fails",
            target.path.display()
        );
    }
    // What is in a draft is ours, whatever a format before this one left there.
    let superblock = lay_out(file, true, stop)?;
    if !exists {
        let renamed = fs::rename(&draft, &target.store).and_then(|()| File::open(&target.path)?.sync_all());
        renamed.map_err(|e| Failure::new(format!("naming {}", target.store.display()), e))?;
    }
    leftover.keep();
    Ok(superblock)
}

/// Why a file where the store would be is left alone without `--force`.
fn occupied(store: &Path) -> Failure {
    let what = match fs::metadata(store).map(|found| found.len()) {
        Ok(0) => "is an empty file, perhaps a store that was cut; --force makes a new one of it",
        _ => "is not empty: it is a store already; --force destroys what is there",
    };
    Failure::plain(format!("{} {what}", store.display()))
}

/// Formats an open device until it is done or a stop is asked for.
fn lay_out(file: DiskFile, force: bool, stop: &Arc<StopSign>) -> Result<Superblock, Failure> {
    let stop = stop.clone();
    let done = run_core(CoreConfig::new(CoreId::new(0)), move |world, reactor| async move {
        let disk = file.attach(&reactor);
        let uuid = || Uuid::random(&*world.rng);
        let options = cfs_device::FormatOptions { force, ..cfs_device::FormatOptions::new(uuid(), uuid(), uuid()) };
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("formatting {bar:40} {bytes}/{total_bytes} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let mut show = |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        let formatted = until_stopped(cfs_device::format(&*disk, &options, &mut show), &stop).await;
        bar.finish_and_clear();
        formatted
    });
    match done.map_err(Failure::plain)? {
        None => Err(Failure::stopped()),
        Some(Ok(superblock)) => Ok(superblock),
        Some(Err(error @ DeviceError::NotEmpty { .. })) => {
            Err(Failure::plain(format!("{error}; --force destroys what is there")))
        }
        Some(Err(error)) => Err(Failure::plain(error)),
    }
}

/// None where a stop is asked for first.
async fn until_stopped<T>(work: impl Future<Output = T>, stop: &StopSign) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| if stop.is_asked() { Poll::Ready(None) } else { work.as_mut().poll(cx).map(Some) }).await
}

/// A data directory must hold nothing but a store of ours.
fn refuse_foreign_files(directory: &Path, force: bool) -> Result<(), Failure> {
    let files = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files.map_err(|e| Failure::new(format!("reading {}", directory.display()), e))?,
    };
    // A directory at the root of a file system has lost+found.
    let ours = |name: &str| {
        ["secret", "store", "store.new", "dev-session", "lost+found"].contains(&name) || name.ends_with(".sock")
    };
    let mut names = files.filter_map(Result::ok).map(|file| file.file_name().to_string_lossy().into_owned());
    match names.find(|name| !ours(name)) {
        Some(name) if !force => Err(Failure::plain(format!(
            "{} is not empty (it holds {name}); --force uses it all the same",
            directory.display()
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Refuses what would fill the file system: allocating takes all there is before it fails.
fn check_room(store: &Path, bytes: u64) -> Result<(), Failure> {
    let held = fs::metadata(store).map_or(0, |found| found.blocks() * 512);
    let there = store.ancestors().find(|place| fs::exists(place).unwrap_or(false)).unwrap_or(Path::new("/"));
    let free = system::free_bytes(there).map_err(|e| Failure::new(format!("looking at {}", there.display()), e))?;
    if bytes.saturating_sub(held) > free.saturating_sub(KEPT_FREE_BYTES) {
        return Err(Failure::plain(format!(
            "a store of {} MiB does not fit: {} MiB are free at {}, {} of which stay so; choose a smaller one with --size",
            bytes >> 20,
            free >> 20,
            there.display(),
            KEPT_FREE_BYTES >> 20
        )));
    }
    Ok(())
}

/// Keeps others from formatting the same directory. Where the file system has no locks there is none.
fn lock_directory(directory: &Path) -> Result<File, Failure> {
    let opened = File::open(directory).map_err(|e| Failure::new(format!("opening {}", directory.display()), e))?;
    match opened.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Failure::plain(format!("{} is being formatted by another process", directory.display())))
        }
        Ok(()) | Err(TryLockError::Error(_)) => Ok(opened),
    }
}

/// Opens and locks a store. The kernel gives up the rings of a process, and with them its lock, a
/// moment after the process has ended: the lock of one that is gone, or on its way out, is waited for.
pub fn open_locked(store: &Path, mode: OpenMode) -> Result<DiskFile, RuntimeError> {
    let end = Instant::now() + DEAD_LOCK_TIME;
    loop {
        match open_disk(store, mode) {
            Err(RuntimeError::Locked { holder, .. })
                if holder.as_ref().is_none_or(|h| registry::is_ending(h.pid)) && Instant::now() < end =>
            {
                std::thread::sleep(LOCK_LOOK);
            }
            opened => return opened,
        }
    }
}

/// Opens a formatted store to serve it, and reads its superblock; a copy of that which is not intact is mended.
pub fn open(target: &Target) -> Result<(DiskFile, Superblock), Failure> {
    let file = open_locked(&target.store, OpenMode::ReadWrite).map_err(Failure::plain)?;
    let same = file.clone();
    let recovered = run_core(CoreConfig::new(CoreId::new(0)), move |_, reactor| async move {
        let disk = same.attach(&reactor);
        cfs_device::recover(&*disk).await
    });
    let recovered = recovered.map_err(|e| Failure::new(format!("opening {}", file.path().display()), e))?;
    let (superblock, mended) = recovered.map_err(|error| refusal(target, &error))?;
    if let Some(Mended { offset, was }) = mended {
        complain!("cfs: the copy of the superblock at offset {offset} was {was}: it is mended from the other one");
    }
    Ok((file, superblock))
}

/// Why a store is not opened, and what to do where that is clear.
pub fn refusal(target: &Target, error: &DeviceError) -> Failure {
    let advice = match error {
        DeviceError::Blank | DeviceError::Unfinished => format!(": cfs format {}", target.path.display()),
        DeviceError::Foreign => " (cfs format --force would destroy it)".to_owned(),
        DeviceError::HeadLost { .. } => "; nothing was changed".to_owned(),
        DeviceError::OutOfService => format!("; once the cause is gone: {}", crate::fsck::way_back(target)),
        DeviceError::Shrunk { .. } | DeviceError::NoRoom { .. } => {
            "; what was cut off is gone: restore it whole, nothing was changed".to_owned()
        }
        _ => String::new(),
    };
    Failure::plain(format!("opening {}: {error}{advice}", target.store.display()))
}

fn read_superblock(file: &DiskFile) -> Result<Result<Superblock, DeviceError>, Failure> {
    let same = file.clone();
    let read = run_core(CoreConfig::new(CoreId::new(0)), move |_, reactor| async move {
        let disk = same.attach(&reactor);
        cfs_device::open(&*disk).await
    });
    read.map_err(|e| Failure::new(format!("opening {}", file.path().display()), e))
}
