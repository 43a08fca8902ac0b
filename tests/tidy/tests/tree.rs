//! Runs every rule over the checkout.

use cfs_tidy::{
    Crate, SourceFile, files, forbidden_names, forbidden_words, layer_violations, long_files, long_functions,
    misplaced_unsafe, missing_docs, read_crate,
};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the checkout exists")
}

fn sources() -> Vec<SourceFile> {
    let root = root();
    let found: Vec<SourceFile> = files(&root, "rs")
        .into_iter()
        .map(|p| SourceFile {
            path: p.strip_prefix(&root).expect("below root").to_string_lossy().into_owned(),
            text: std::fs::read_to_string(&p).expect("readable source"),
        })
        .collect();
    assert!(found.len() > 20, "the sources were found");
    found
}

fn none(rule: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}

#[test]
fn files_are_short_named_and_documented() {
    let all = sources();
    none("long files", long_files(&all));
    none("names", forbidden_names(&all));
    none("module docs", missing_docs(&all));
}

#[test]
fn functions_are_short() {
    none("long functions", long_functions(&sources()));
}

#[test]
fn nothing_unfinished_is_hidden() {
    none("words", forbidden_words(&sources()));
}

#[test]
fn unsafe_code_stays_where_it_is_argued_for() {
    none("unsafe", misplaced_unsafe(&sources()));
}

#[test]
fn imports_point_one_way() {
    let root = root();
    let crates: Vec<Crate> = files(&root, "toml")
        .into_iter()
        .filter(|p| {
            p.ends_with("Cargo.toml") && p.parent() != Some(&root) && !p.starts_with(root.join("bench/baselines"))
        })
        .map(|p| {
            let folder = p.parent().expect("a folder").strip_prefix(&root).expect("below root");
            read_crate(&folder.to_string_lossy(), &std::fs::read_to_string(&p).expect("readable manifest"))
        })
        .filter(|c| !c.name.is_empty())
        .collect();
    assert!(crates.len() > 15, "the crates were found");
    none("imports", layer_violations(&crates));
}

#[test]
fn every_crate_has_a_page() {
    let root = root();
    let missing: Vec<String> = files(&root, "toml")
        .into_iter()
        .filter(|p| p.ends_with("Cargo.toml"))
        .filter_map(|p| p.parent().map(Path::to_path_buf))
        .filter(|folder| !folder.join("README.md").exists())
        .map(|folder| folder.to_string_lossy().into_owned())
        .collect();
    none("README.md", missing);
}
