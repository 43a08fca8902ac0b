//! `cfs format`.

use crate::args::FormatOptions;
use crate::place::Place;
use crate::{Failure, registry};
use cfs_device::{DeviceError, Superblock, Uuid};
use cfs_runtime::{CoreConfig, DiskFile, OpenMode, RuntimeError, open_disk, run as run_core};
use cfs_types::CoreId;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

/// Size of a new store, bytes, where none is given.
const STORE_BYTES: u64 = 8 << 30;
/// Bytes at the beginning that are blank until the superblocks are written, last.
const GUARD_BYTES: u64 = 1 << 20;
/// How long a lock outlives its process at most: the kernel takes milliseconds, seconds under load.
const DEAD_LOCK_TIME: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// Formats and says what was made.
pub fn run(options: &FormatOptions) -> Result<(), Failure> {
    for target in &options.targets {
        let place = Place::of(target);
        let superblock = format(&place, options.size, options.force)?;
        let layout = superblock.layout;
        let log_mib = (layout.log_slots * layout.log_slot_bytes) >> 20;
        println!("formatted {}", place.target.display());
        println!("  cluster {}, device {}", superblock.cluster, superblock.device);
        println!("  {} MiB: log {log_mib} MiB, {} regions of 64 MiB", layout.device_bytes >> 20, layout.regions);
        println!("next: cfs server {}", place.target.display());
    }
    Ok(())
}

/// Whether a store still has to be laid out: it is missing, or its formatting was interrupted,
/// which leaves its first MiB blank.
pub fn is_needed(store: &Path) -> Result<bool, Failure> {
    let failed = |e| Failure::new(format!("reading {}", store.display()), e);
    match std::fs::File::open(store) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed(error)),
        Ok(file) => {
            let mut head = Vec::new();
            file.take(GUARD_BYTES).read_to_end(&mut head).map_err(failed)?;
            Ok(head.iter().all(|byte| *byte == 0))
        }
    }
}

/// How to open what is to be formatted. A store that is not to be destroyed keeps its size; any
/// other gets the wanted one, or keeps its own where none is wanted.
fn mode_for(place: &Place, size: Option<u64>, force: bool) -> Result<OpenMode, Failure> {
    if place.is_device || !(force || is_needed(&place.store)?) {
        return Ok(OpenMode::ReadWrite);
    }
    let held = std::fs::metadata(&place.store).map_or(0, |metadata| metadata.len());
    let bytes = size.unwrap_or(if held > 0 { held } else { STORE_BYTES });
    Ok(OpenMode::Create { bytes })
}

/// Lays out the store of a place, with a progress bar.
pub fn format(place: &Place, size: Option<u64>, force: bool) -> Result<Superblock, Failure> {
    place.prepare()?;
    refuse_foreign_files(place, force)?;
    let doing = || format!("formatting {}", place.target.display());
    let file = open_locked(&place.store, mode_for(place, size, force)?).map_err(|e| Failure::new(doing(), e))?;
    if file.is_sparse() {
        eprintln!(
            "cfs: warning: the file system of {} keeps no space for the store: when it is full, the store fails",
            place.target.display()
        );
    }
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
        let formatted = cfs_device::format(&*disk, &options, &mut show).await;
        bar.finish_and_clear();
        formatted
    });
    let superblock = match done.map_err(|e| Failure::new(doing(), e))? {
        Ok(superblock) => superblock,
        Err(error @ DeviceError::NotEmpty { .. }) => {
            return Err(Failure::new(doing(), format!("{error}; --force destroys what is there")));
        }
        Err(error) => return Err(Failure::new(doing(), error)),
    };
    place.secret()?;
    Ok(superblock)
}

/// A data directory must hold nothing but a store of ours.
fn refuse_foreign_files(place: &Place, force: bool) -> Result<(), Failure> {
    if place.is_device || force {
        return Ok(());
    }
    let files =
        std::fs::read_dir(&place.state).map_err(|e| Failure::new(format!("reading {}", place.state.display()), e))?;
    // A directory at the root of a file system has lost+found.
    let ours = |name: &str| ["secret", "store", "dev-session", "lost+found"].contains(&name) || name.ends_with(".sock");
    for file in files.filter_map(Result::ok) {
        let name = file.file_name().to_string_lossy().into_owned();
        if !ours(&name) {
            let what =
                format!("{} is not empty (it holds {name}); --force uses it all the same", place.state.display());
            return Err(Failure::plain(what));
        }
    }
    Ok(())
}

/// Opens and locks a store. The kernel gives up the rings of a process, and with them its lock, a
/// moment after the process has ended: the lock of one that is gone is waited for.
pub fn open_locked(store: &Path, mode: OpenMode) -> Result<DiskFile, RuntimeError> {
    let end = Instant::now() + DEAD_LOCK_TIME;
    loop {
        match open_disk(store, mode) {
            Err(RuntimeError::Locked { holder, .. })
                if holder.as_ref().is_none_or(|h| registry::start_time(h.pid).is_none()) && Instant::now() < end =>
            {
                std::thread::sleep(LOCK_LOOK);
            }
            opened => return opened,
        }
    }
}

/// Opens a formatted store and reads its superblock.
pub fn open(store: &Path) -> Result<(DiskFile, Superblock), Failure> {
    let doing = || format!("opening {}", store.display());
    let file = open_locked(store, OpenMode::ReadWrite).map_err(Failure::plain)?;
    let same = file.clone();
    let superblock = run_core(CoreConfig::new(CoreId::new(0)), move |_, reactor| async move {
        let disk = same.attach(&reactor);
        cfs_device::open(&*disk).await
    });
    let superblock = superblock.map_err(|e| Failure::new(doing(), e))?.map_err(|e| Failure::new(doing(), e))?;
    Ok((file, superblock))
}
