//! `cfs format`.
//!
//! Invariants: a first format of a data directory works on `store.new`, which gets its name when it is done, so a
//! `store` is never half made; what is formatted anew in its place carries the mark of `cfs_device::format`
//! until it is done. A format that fails leaves nothing behind that was not there before.

mod draft;
mod leftover;

use crate::Failure;
use crate::args::FormatOptions;
use crate::place::Target;
use crate::pool::{self, Purpose};
use crate::registry;
use crate::stop_sign::StopSign;
use cfs_device::{DeviceError, Joining, Layout, Roles, Superblock, Uuid, open_zones};
use cfs_runtime::{CoreConfig, DiskFile, OpenMode, RuntimeError, open_disk, run as run_core};
use cfs_types::CoreId;
pub use draft::Draft;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Size of a new store, bytes, where none is given.
const STORE_BYTES: u64 = 8 << 30;
/// How long a lock outlives its process at most: the kernel takes milliseconds, seconds under load.
const DEAD_LOCK_TIME: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// Formats and says what was made.
pub fn run(options: &FormatOptions) -> Result<(), Failure> {
    let stop = Arc::new(StopSign::catch()?);
    let (stores, members) = match options.pool {
        true => options.targets.split_at(1),
        false => (&options.targets[..], &[][..]),
    };
    for target in stores {
        let target = Target::of(target)?;
        let superblock = format(&target, options.size, options.force, &stop).map_err(Failure::that_counts)?;
        let layout = superblock.layout;
        let log_mib = (layout.log_slots * layout.log_slot_bytes) >> 20;
        say!("formatted {}", target.path.display());
        say!("  cluster {}, device {}", superblock.cluster, superblock.device);
        say!("  {} MiB: log {log_mib} MiB, {} regions of 64 MiB", layout.device_bytes >> 20, layout.regions);
        if members.is_empty() {
            say!("next: cfs server {}", target.path.display());
        }
    }
    for member in members {
        let (target, store) = (Target::of(member)?, Target::of(&stores[0])?);
        join(&store, &target, options, &stop)
            .map_err(|failure| failure.within(format!("formatting {}", target.path.display())).that_counts())?;
    }
    if !members.is_empty() {
        say!("next: cfs server {}", stores[0].display());
    }
    Ok(())
}

/// Makes a target the next device of a store that was just formatted.
fn join(store: &Target, target: &Target, options: &FormatOptions, stop: &Arc<StopSign>) -> Result<(), Failure> {
    let first = pool::open(std::slice::from_ref(&store.path), Purpose::Serve, &|_, error| Failure::plain(error))?;
    let mut draft = Draft::open(target, options.size, options.force)?;
    let (file, stop) = (draft.file.clone(), stop.clone());
    let (superblock, list, force) = (first.first.superblock, first.list, draft.is_ours || options.force);
    let seen_at = target.path.as_os_str().as_bytes().to_vec();
    let joined = run_core(CoreConfig::new(CoreId::new(0)), move |world, reactor| async move {
        let disk = open_zones(file.attach(&reactor), &world.tasks, 0).await?;
        let joining = Joining { device: Uuid::random(&*world.rng), roles: Roles::ALL_BUT_LOG, force, seen_at };
        Ok(until_stopped(cfs_device::prepare_member(&superblock, &list, &*disk, &joining), &stop).await)
    });
    let joined = joined.map_err(Failure::plain)?.map_err(|e: DeviceError| not_empty(&e))?;
    let joined = joined.ok_or_else(Failure::stopped)?.map_err(|e| not_empty(&e))?;
    draft.name()?;
    draft.keep();
    let member = joined.member.clone();
    let admitted = pool::on_disk(&first.first.file, move |disk| async move {
        cfs_device::admit_member(&disk, &superblock, &joined).await
    })?;
    admitted.map_err(Failure::plain)?;
    say!("formatted {} as device {} of {}", target.path.display(), member.number, store.path.display());
    say!("  device {}, {} regions of 64 MiB", member.device, member.regions);
    Ok(())
}

fn not_empty(error: &DeviceError) -> Failure {
    match error {
        DeviceError::NotEmpty { .. } => Failure::plain(format!("{error}; --force destroys what is there")),
        _ => Failure::plain(error),
    }
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
    let bytes = size_of(target, size);
    Layout::derive(bytes, None, None).map_err(|e| Failure::plain(format!("{e}: choose another --size")))?;
    let mut draft = Draft::open(target, size, force)?;
    // What is in a draft is ours, whatever a format before this one left there.
    let superblock = lay_out(draft.file.clone(), true, stop)?;
    draft.name()?;
    draft.keep();
    Ok(superblock)
}

/// Bytes that a data directory's store is to have.
fn size_of(target: &Target, size: Option<u64>) -> u64 {
    let held = fs::metadata(&target.store).map_or(0, |found| found.len());
    size.unwrap_or(if held > 0 { held } else { STORE_BYTES })
}

/// Formats an open device until it is done or a stop is asked for.
fn lay_out(file: DiskFile, force: bool, stop: &Arc<StopSign>) -> Result<Superblock, Failure> {
    let stop = stop.clone();
    let done = run_core(CoreConfig::new(CoreId::new(0)), move |world, reactor| async move {
        let disk = match open_zones(file.attach(&reactor), &world.tasks, 0).await {
            Ok(disk) => disk,
            Err(error) => return Some(Err(error)),
        };
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
        Some(Err(error)) => Err(not_empty(&error)),
    }
}

/// None where a stop is asked for first.
async fn until_stopped<T>(work: impl Future<Output = T>, stop: &StopSign) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| if stop.is_asked() { Poll::Ready(None) } else { work.as_mut().poll(cx).map(Some) }).await
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
    pool::on_disk(file, async |disk| cfs_device::open(&*disk).await)
}
