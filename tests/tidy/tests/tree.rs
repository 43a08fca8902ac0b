//! Runs every rule over the checkout.

use cfs_tidy::{
    Crate, FormatPage, Package, Policy, SourceFile, files, forbidden_names, forbidden_words, layer_violations,
    long_files, long_functions, misplaced_kernel_names, misplaced_unsafe, missing_docs, own_declarations, read_crate,
    stale_formats, unexplained_dependencies, unfuzzed_decoders,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    let manifests = files(&root, "toml").into_iter().filter(|p| p.ends_with("Cargo.toml"));
    let members = manifests.filter(|p| p.parent() != Some(&root) && !p.starts_with(root.join("bench/baselines")));
    none("members", members.flat_map(|p| own_declarations(&p.to_string_lossy(), &read(&p))).collect());
}

/// The packages that are built here, as cargo knows them.
fn packages() -> Vec<Package> {
    let cargo = |arguments: &[&str]| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let run = Command::new(cargo).current_dir(root()).args(arguments).output().expect("cargo runs");
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).expect("text")
    };
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo knows its host");
    let known = ["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", host];
    let metadata: serde_json::Value = serde_json::from_str(&cargo(&known)).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_string);
    let package = |package: &serde_json::Value| Package {
        name: format!("{} {}", text(&package["name"]).expect("a name"), text(&package["version"]).expect("a version")),
        licence: text(&package["license"]),
    };
    metadata["packages"].as_array().expect("packages").iter().map(package).collect()
}

#[test]
fn dependencies_are_what_deny_toml_allows() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("readable");
    let policy = Policy::read(&read("deny.toml")).expect("a policy");
    none("bans and sources", policy.refused_packages(&read("Cargo.lock")));
    let packages = packages();
    assert!(packages.len() > 100, "the packages were found");
    none("licences", policy.refused_licences(&packages));
}

#[test]
fn errno_and_the_fuse_abi_stay_in_their_crate() {
    none("kernel names", misplaced_kernel_names(&sources()));
}

/// The pages of docs/formats.
fn format_pages() -> Vec<FormatPage> {
    let root = root();
    let pages: Vec<FormatPage> = files(&root.join("docs/formats"), "md")
        .into_iter()
        .map(|p| FormatPage {
            path: p.strip_prefix(&root).expect("below root").to_string_lossy().into_owned(),
            text: std::fs::read_to_string(&p).expect("readable page"),
        })
        .collect();
    assert!(pages.len() > 5, "the pages were found");
    pages
}

#[test]
fn every_format_is_described_as_it_is() {
    none("formats", stale_formats(&format_pages(), |path| std::fs::read_to_string(root().join(path)).ok()));
}

#[test]
fn every_decoder_of_a_format_is_fuzzed() {
    let targets: Vec<SourceFile> = sources().into_iter().filter(|f| f.path.starts_with("tests/fuzz/tests/")).collect();
    let read = |path: &str| std::fs::read_to_string(root().join(path)).ok();
    none("fuzzing", unfuzzed_decoders(&format_pages(), read, &targets));
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
