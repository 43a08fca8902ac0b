//! Runs every rule over the checkout.

use cfs_tidy::{
    Crate, FormatPage, SourceFile, files, forbidden_names, forbidden_words, foreign_sources, layer_violations,
    long_files, long_functions, misplaced_unsafe, missing_docs, own_declarations, read_crate, stale_formats,
    unexplained_dependencies,
};
use std::collections::BTreeSet;
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
fn dependencies_are_declared_once_with_a_reason() {
    let root = root();
    let read = |path: &Path| std::fs::read_to_string(path).expect("readable manifest");
    none("reasons", unexplained_dependencies(&read(&root.join("Cargo.toml"))));
    none("sources", foreign_sources(&read(&root.join("Cargo.lock"))));
    let manifests = files(&root, "toml").into_iter().filter(|p| p.ends_with("Cargo.toml"));
    let members = manifests.filter(|p| p.parent() != Some(&root) && !p.starts_with(root.join("bench/baselines")));
    none("members", members.flat_map(|p| own_declarations(&p.to_string_lossy(), &read(&p))).collect());
}

#[test]
fn every_format_is_described_as_it_is() {
    let root = root();
    let pages: Vec<FormatPage> = files(&root.join("docs/formats"), "md")
        .into_iter()
        .map(|p| FormatPage {
            path: p.strip_prefix(&root).expect("below root").to_string_lossy().into_owned(),
            text: std::fs::read_to_string(&p).expect("readable page"),
        })
        .collect();
    assert!(pages.len() > 5, "the pages were found");
    none("formats", stale_formats(&pages, |path| std::fs::read_to_string(root.join(path)).ok()));
}

#[test]
fn every_folder_of_the_house_has_a_page() {
    let root = root();
    let crates = files(&root, "toml").into_iter().filter(|p| p.ends_with("Cargo.toml"));
    let crates = crates.filter_map(|p| p.parent().map(Path::to_path_buf)).collect::<Vec<_>>();
    let houses = crates.iter().filter_map(|folder| folder.parent().map(Path::to_path_buf));
    let inside = |folder: &PathBuf| folder.starts_with(&root);
    let missing: BTreeSet<String> = houses
        .filter(inside)
        .chain(crates.iter().cloned())
        .filter(|folder| !folder.join("README.md").exists())
        .map(|folder| folder.to_string_lossy().into_owned())
        .collect();
    none("README.md", missing.into_iter().collect());
}
