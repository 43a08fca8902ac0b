//! Checks of the tree itself: the rules of docs/STYLE that a machine can hold.
//!
//! The rules are pure functions over file texts; `tests/tree.rs` runs them over the checkout.

use std::path::{Path, PathBuf};

mod dependencies;
mod formats;
mod kernel_names;
mod layers;
mod policy;
mod text;

pub use dependencies::{own_declarations, unexplained_dependencies};
pub use formats::{FormatPage, stale_formats, unfuzzed_decoders};
pub use kernel_names::misplaced_kernel_names;
pub use layers::{Crate, layer_violations, read_crate};
pub use policy::{Package, Policy};
pub use text::{
    SourceFile, forbidden_names, forbidden_words, long_files, long_functions, misplaced_unsafe, missing_docs,
};

/// Every file below `root` with this extension, build output and version control left out.
pub fn files(root: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|e| e.ok().map(|e| e.path())) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
