//! Which crate may depend on which (ARCHITECTURE, The house).

/// A crate's name, folder and dependencies on crates of the workspace and outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crate {
    /// Package name.
    pub name: String,
    /// Folder relative to the root.
    pub folder: String,
    /// Names under `[dependencies]`.
    pub dependencies: Vec<String>,
}

/// Reads the few lines of a manifest that matter here.
pub fn read_crate(folder: &str, manifest: &str) -> Crate {
    let mut section = String::new();
    let (mut name, mut dependencies) = (String::new(), Vec::new());
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line.to_string();
        } else if section == "[package]" && line.starts_with("name") {
            name = line.split('"').nth(1).unwrap_or_default().to_string();
        } else if section == "[dependencies]" && line.contains('=') {
            let key = line.split(['.', '=', ' ']).next().unwrap_or_default();
            dependencies.push(key.to_string());
        }
    }
    Crate { name, folder: folder.to_string(), dependencies }
}

/// Layer of a crate: imports go to a lower layer, or to the same one where `same` allows it.
fn layer(name: &str) -> Option<u8> {
    Some(match name {
        "cfs-types" => 0,
        "cfs-seam" | "cfs-wire" => 1,
        "cfs-exec" | "cfs-device" | "cfs-consensus" | "cfs-namespace" | "cfs-observe" => 2,
        "cfs-sim" | "cfs-cluster" | "cfs-log" | "cfs-segment" | "cfs-rpc" | "cfs-runtime" => 3,
        "cfs-kv" => 4,
        "cfs-server" | "cfs-volume" => 5,
        "cfs-fuse" | "cfs-api" => 6,
        "cfs" | "cfs-bench" | "cfs-fault" | "cfs-fuzz" => 7,
        "cfs-model" | "cfs-tidy" => 2,
        _ => return None,
    })
}

/// Crates that must not meet: logic never sees `runtime`, clients never see the store.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("cfs-server", &["cfs-runtime", "cfs-volume"]),
    ("cfs-log", &["cfs-runtime"]),
    ("cfs-segment", &["cfs-runtime"]),
    ("cfs-kv", &["cfs-runtime"]),
    ("cfs-namespace", &["cfs-runtime", "cfs-seam", "cfs-exec"]),
    ("cfs-consensus", &["cfs-runtime", "cfs-seam", "cfs-exec"]),
    ("cfs-runtime", &["cfs-log", "cfs-kv", "cfs-segment", "cfs-namespace", "cfs-server", "cfs-volume"]),
    ("cfs-volume", &["cfs-log", "cfs-kv", "cfs-segment", "cfs-runtime", "cfs-namespace"]),
    ("cfs-fuse", &["cfs-log", "cfs-kv", "cfs-segment", "cfs-namespace"]),
    ("cfs-api", &["cfs-log", "cfs-kv", "cfs-segment"]),
    ("cfs-observe", &["cfs-log", "cfs-kv", "cfs-segment"]),
];

/// Only these may name a dependency of the machine.
const ONLY: &[(&str, &[&str])] = &[
    ("io-uring", &["cfs-runtime"]),
    ("libc", &["cfs-runtime", "cfs-fuse", "cfs"]),
    ("tokio", &["cfs-api", "cfs"]),
    ("axum", &["cfs-api"]),
    ("raft", &["cfs-consensus"]),
];

/// What is wrong with the imports, one line each.
pub fn layer_violations(crates: &[Crate]) -> Vec<String> {
    let mut wrong = Vec::new();
    for c in crates {
        let Some(mine) = layer(&c.name) else {
            wrong.push(format!("{}: give it a layer in tests/tidy", c.name));
            continue;
        };
        for d in &c.dependencies {
            if layer(d).is_some_and(|theirs| theirs >= mine) {
                wrong.push(format!("{} must not import {d}", c.name));
            }
            let forbidden = FORBIDDEN.iter().any(|(name, list)| *name == c.name && list.contains(&d.as_str()));
            let reserved = ONLY.iter().any(|(dep, list)| dep == d && !list.contains(&c.name.as_str()));
            if forbidden || reserved {
                wrong.push(format!("{} must not import {d}", c.name));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_points_up_is_found() {
        let manifest = "[package]\nname = \"cfs-types\"\n[dependencies]\ncfs-seam.workspace = true\n";
        let c = read_crate("engine/types", manifest);
        assert_eq!(c.dependencies, ["cfs-seam"]);
        assert_eq!(layer_violations(&[c]), ["cfs-types must not import cfs-seam"]);
    }

    #[test]
    fn the_ring_belongs_to_the_runtime() {
        let manifest = "[package]\nname = \"cfs-server\"\n[dependencies]\nio-uring = \"0.7\"\n";
        assert_eq!(layer_violations(&[read_crate("x", manifest)]), ["cfs-server must not import io-uring"]);
    }
}
