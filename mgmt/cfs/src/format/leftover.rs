//! What a command has made so far, and takes away again where it fails.

use crate::Failure;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Files and directories of a work that is not done. Dropped, it removes them.
#[derive(Default)]
pub struct Leftover {
    file: Option<PathBuf>,
    /// The outermost first.
    dirs: Vec<PathBuf>,
}

impl Leftover {
    /// Makes a directory, private to this user, and those above it.
    pub fn make_dirs(&mut self, path: &Path) -> Result<(), Failure> {
        let missing = path.ancestors().take_while(|place| !fs::exists(place).unwrap_or(true));
        let missing: Vec<&Path> = missing.collect();
        for dir in missing.into_iter().rev() {
            let failed = |e| Failure::new(format!("making {}", dir.display()), e);
            fs::create_dir(dir).map_err(failed)?;
            self.dirs.push(dir.to_path_buf());
            if dir == path {
                fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A file that is about to be made.
    pub fn file(&mut self, path: &Path) {
        self.file = Some(path.to_path_buf());
    }

    /// The work is done.
    pub fn keep(mut self) {
        self.file = None;
        self.dirs.clear();
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _gone = fs::remove_file(file);
        }
        for dir in self.dirs.iter().rev() {
            // One that somebody has put something into stays.
            let _gone = fs::remove_dir(dir);
        }
    }
}
