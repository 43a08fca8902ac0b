//! A device, or the file of a data directory, that is about to be laid out.

use super::leftover::Leftover;
use super::{is_needed, open_locked, size_of};
use crate::place::Target;
use crate::{Failure, system};
use cfs_runtime::{DiskFile, OpenMode, RuntimeError};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes that a file system keeps for others when a store is allocated in it.
const KEPT_FREE_BYTES: u64 = 32 << 20;

/// Open and locked. Dropped before [`Draft::keep`], what was made for it is taken away again.
pub struct Draft {
    /// It.
    pub file: DiskFile,
    /// It is a file that nobody else had anything in, or whose owner said `--force`.
    pub is_ours: bool,
    /// Its name until it is done, and then.
    rename: Option<(PathBuf, PathBuf)>,
    leftover: Leftover,
    _alone: Option<File>,
}

impl Draft {
    /// Opens a device as it is, or makes the file of a data directory.
    pub fn open(target: &Target, size: Option<u64>, force: bool) -> Result<Self, Failure> {
        if !target.is_device {
            return Draft::in_directory(target, size, force);
        }
        let file = open_locked(&target.store, OpenMode::ReadWrite).map_err(Failure::plain)?;
        Ok(Draft { file, is_ours: false, rename: None, leftover: Leftover::default(), _alone: None })
    }

    fn in_directory(target: &Target, size: Option<u64>, force: bool) -> Result<Self, Failure> {
        refuse_foreign_files(&target.path, force)?;
        let exists = fs::exists(&target.store).unwrap_or(false);
        let bytes = size_of(target, size);
        let draft = if exists { target.store.clone() } else { target.path.join("store.new") };
        check_room(&draft, bytes)?;
        let mut leftover = Leftover::default();
        leftover.make_dirs(&target.path)?;
        let alone = lock_directory(&target.path)?;
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
        let rename = (!exists).then(|| (draft, target.store.clone()));
        Ok(Draft { file, is_ours: true, rename, leftover, _alone: Some(alone) })
    }

    /// It gets its name, durably.
    pub fn name(&mut self) -> Result<(), Failure> {
        let Some((draft, store)) = self.rename.take() else { return Ok(()) };
        let failed = |e| Failure::new(format!("naming {}", store.display()), e);
        fs::rename(&draft, &store).map_err(failed)?;
        self.file.note_renamed(&store);
        self.leftover.file(&store);
        let directory = store.parent().unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }

    /// It stays.
    pub fn keep(self) {
        self.leftover.keep();
    }
}

/// Why a file where the store would be is left alone without `--force`.
fn occupied(store: &Path) -> Failure {
    let what = match fs::metadata(store).map(|found| found.len()) {
        Ok(0) => "is an empty file, perhaps a store that was cut; --force makes a new one of it",
        _ => "is not empty: it is a store already; --force destroys what is there",
    };
    Failure::plain(format!("{} {what}", store.display()))
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
