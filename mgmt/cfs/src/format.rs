//! `cfs format`.

use crate::Failure;
use crate::args::FormatOptions;
use crate::place::Place;
use cfs_device::{DeviceError, Superblock, Uuid};
use cfs_runtime::{CoreConfig, DiskFile, OpenMode, open_disk, run as run_core};
use cfs_types::CoreId;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;

/// Formats and says what was made.
pub fn run(options: &FormatOptions) -> Result<(), Failure> {
    let place = Place::of(&options.target);
    let superblock = format(&place, options.size, options.force)?;
    let layout = superblock.layout;
    println!("formatted {}", place.target.display());
    println!("  cluster {}, device {}", superblock.cluster, superblock.device);
    println!("  {} MiB: log {} MiB, {} regions of 64 MiB", layout.device_bytes >> 20, (layout.log_slots * layout.log_slot_bytes) >> 20, layout.regions);
    println!("next: cfs server {}", place.target.display());
    Ok(())
}

/// Lays out the store of a place, with a progress bar.
pub fn format(place: &Place, size: u64, force: bool) -> Result<Superblock, Failure> {
    place.prepare()?;
    refuse_foreign_files(place, force)?;
    let doing = || format!("formatting {}", place.target.display());
    let mode = if place.is_device { OpenMode::ReadWrite } else { OpenMode::Create { bytes: size } };
    let file = open_disk(&place.store, mode).map_err(|e| Failure::new(doing(), e))?;
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
    let files = std::fs::read_dir(&place.state).map_err(|e| Failure::new(format!("reading {}", place.state.display()), e))?;
    let ours = |name: &str| name == "secret" || name == "store" || name.ends_with(".sock");
    for file in files.filter_map(Result::ok) {
        let name = file.file_name().to_string_lossy().into_owned();
        if !ours(&name) {
            let what = format!("{} is not empty (it holds {name}); --force uses it all the same", place.state.display());
            return Err(Failure(what));
        }
    }
    Ok(())
}

/// Opens a formatted store and reads its superblock.
pub fn open(store: &Path) -> Result<(DiskFile, Superblock), Failure> {
    let doing = || format!("opening {}", store.display());
    let file = open_disk(store, OpenMode::ReadWrite).map_err(|e| Failure::new(doing(), e))?;
    let same = file.clone();
    let superblock = run_core(CoreConfig::new(CoreId::new(0)), move |_, reactor| async move {
        let disk = same.attach(&reactor);
        cfs_device::open(&*disk).await
    });
    let superblock = superblock.map_err(|e| Failure::new(doing(), e))?.map_err(|e| Failure::new(doing(), e))?;
    Ok((file, superblock))
}
