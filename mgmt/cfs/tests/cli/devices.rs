//! Block devices, by whatever name: loop devices over files of the test.

use crate::refusals::refused;
use crate::stage::{CORES, Stage, is_mounted, said};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device; gone when dropped.
struct Loop(String);

impl Loop {
    fn new(stage: &Stage, name: &str) -> Self {
        let file = stage.path(name);
        if !file.exists() {
            File::create(&file).and_then(|file| file.set_len(512 << 20)).expect("a sparse file");
        }
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().expect("losetup");
        assert!(made.status.success(), "{}", said(&made));
        Loop(String::from_utf8(made.stdout).expect("text").trim().to_owned())
    }

    /// Another device that holds the same.
    fn copy(&self, stage: &Stage, name: &str) -> Self {
        run("dd", &["bs=1M", &format!("if={}", self.0), &format!("of={}", stage.path(name).display())]);
        Loop::new(stage, name)
    }

    /// The same device under another name.
    fn alias(&self, stage: &Stage, name: &str) -> PathBuf {
        let device = fs::metadata(&self.0).expect("it is there").rdev();
        let (major, minor) = (major_of(device), minor_of(device));
        run("mknod", &[stage.path(name).to_str().expect("text"), "b", &major.to_string(), &minor.to_string()]);
        stage.path(name)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _gone = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

// makedev(3), for numbers below 256.
fn major_of(device: u64) -> u64 {
    device >> 8 & 0xfff
}
fn minor_of(device: u64) -> u64 {
    device & 0xff | device >> 12 & 0xf_ff00
}

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output().expect("it is installed");
    assert!(ran.status.success(), "{program}: {}", said(&ran));
}

fn is_root() -> bool {
    let is_root = fs::metadata("/proc/self").expect("/proc").uid() == 0;
    if !is_root {
        eprintln!("not tested: only root makes loop devices");
    }
    is_root
}

#[test]
fn a_device_is_served_once_under_whatever_name_and_keeps_its_secret() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    let device = Loop::new(&stage, "disk");
    let alias = device.alias(&stage, "alias");
    let alias = alias.to_str().expect("text");
    let formatted = stage.run(&["format", &device.0]);
    assert!(formatted.status.success(), "{}", said(&formatted));
    let again = stage.run(&["format", &device.0]);
    refused(&again, 1, &["not empty"]);
    assert_eq!(said(&again).matches("--force").count(), 1, "{}", said(&again));

    let server = stage.start(&["server", &device.0], CORES);
    let holder = format!("in use by process {} (cfs)", server.pid());
    let serving = ["--listen", "127.0.0.1:1", "--http", "127.0.0.1:0", "--cores", "1"];
    for name in [device.0.as_str(), alias] {
        refused(&stage.run(&[&["server", name], &serving[..]].concat()), 1, &[&holder]);
        refused(&stage.run(&["format", name, "--force"]), 1, &[&holder]);
        refused(&stage.run(&["fsck", name]), 1, &[&holder]);
    }
    let folders = || {
        let entries = fs::read_dir(stage.path("state")).expect("the folder of devices").flatten();
        entries
            .map(|entry| (entry.path(), fs::read(entry.path().join("secret")).expect("a secret")))
            .collect::<Vec<_>>()
    };
    let before = folders();
    assert_eq!(before.len(), 1);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));

    let server = stage.start(&["server", alias], CORES);
    assert_eq!(folders(), before, "the disk is the same");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    // A disk from another machine has no folder here.
    fs::remove_dir_all(stage.path("state")).expect("removed");
    let server = stage.start(&["server", &device.0], CORES);
    fs::create_dir(stage.path("mnt")).expect("a directory");
    let mounted = stage.run(&["mount", &server.listen, "mnt"]);
    assert!(mounted.status.success(), "{}", said(&mounted));
    assert!(stage.run(&["umount", "mnt"]).status.success());
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let checked = stage.run(&["fsck", alias]);
    assert!(checked.status.success(), "{}", said(&checked));
}

#[test]
fn a_copy_that_is_formatted_anew_takes_nothing_from_its_original() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    let device = Loop::new(&stage, "disk");
    let formatted = stage.run(&["format", &device.0]);
    assert!(formatted.status.success(), "{}", said(&formatted));
    let secret = |entry: fs::DirEntry| fs::read(entry.path().join("secret")).expect("a secret");
    let secrets = || fs::read_dir(stage.path("state")).expect("a folder").flatten().map(secret).collect::<Vec<_>>();
    let before = secrets();
    let copy = device.copy(&stage, "copy");
    let formatted = stage.run(&["format", &copy.0, "--force"]);
    assert!(formatted.status.success(), "{}", said(&formatted));
    let after = secrets();
    assert!(after.len() == 2 && after.contains(&before[0]), "the original's secret is gone");
}

#[test]
fn a_device_that_is_mounted_is_left_alone_also_with_force() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    let device = Loop::new(&stage, "disk");
    let alias = device.alias(&stage, "alias");
    run("mkfs.ext4", &["-q", &device.0]);
    let place = stage.path("ext4");
    fs::create_dir(&place).expect("a directory");
    let place = place.to_str().expect("text");
    run("mount", &[&device.0, place]);
    fs::write(stage.path("ext4/file"), "precious").expect("written");
    for name in [device.0.as_str(), alias.to_str().expect("text")] {
        refused(&stage.run(&["format", name, "--force"]), 1, &["in use: it is mounted at", place]);
        refused(&stage.run(&["fsck", name]), 1, &["in use: it is mounted at", place]);
    }
    run("umount", &[place]);
    assert!(!is_mounted(Path::new(place)));
    run("mount", &[&device.0, place]);
    assert_eq!(fs::read_to_string(stage.path("ext4/file")).expect("read"), "precious");
    run("umount", &[place]);
}
