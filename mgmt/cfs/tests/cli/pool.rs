//! A store of several devices: made, served, checked, moved, and refused where one is missing or of somewhere else.

use crate::refusals::refused;
use crate::stage::{CORES, Running, Stage, said};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Of a device: three regions of 64 MiB beside log or superblock.
const SIZE: &str = "256MiB";
/// More than one of them holds, less than two.
const MIB: u32 = 220;

fn pool(stage: &Stage) {
    let made = stage.run(&["format", "--pool", "one", "two", "--size", SIZE]);
    assert!(made.status.success(), "{}", said(&made));
    assert!(said(&made).contains("as device 1 of"), "{}", said(&made));
}

/// The block that a file has at a place.
fn block(number: u32) -> Vec<u8> {
    let mut block = vec![0x5a; 1 << 20];
    block.chunks_mut(4096).for_each(|unit| unit[..4].copy_from_slice(&number.to_le_bytes()));
    block
}

fn write(path: &Path, blocks: u32) {
    let mut file = File::create(path).expect("created");
    (0..blocks).for_each(|number| file.write_all(&block(number)).expect("written"));
    file.sync_all().expect("durable");
}

fn read(path: &Path, blocks: u32) {
    let mut file = File::open(path).expect("there");
    for number in 0..blocks {
        let mut found = vec![0; 1 << 20];
        file.read_exact(&mut found).expect("read");
        assert!(found == block(number), "block {number}");
    }
}

/// How many units of a store's file were written for a file of [`write`].
fn units_in(store: &Path) -> usize {
    let mut file = File::open(store).expect("there");
    let (mut units, mut found) = (0, vec![0; 1 << 20]);
    while file.read_exact(&mut found).is_ok() {
        units += found.chunks(4096).filter(|unit| unit[4..] == [0x5a; 4092]).count();
    }
    units
}

#[test]
fn a_store_of_two_devices_holds_more_than_one_and_finds_them_again_where_they_are() {
    let stage = Stage::new();
    pool(&stage);
    let server = stage.start(&["server", "one"], CORES);
    let mount = stage.mount(&server.listen, "mnt");
    write(&stage.path("mnt/file"), MIB);
    mount.signal("TERM");
    assert_eq!(mount.wait().code(), Some(0));
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    for store in ["one/store", "two/store"] {
        assert!(units_in(&stage.path(store)) > 30 << 8, "{store} has a share of the file");
    }
    let checked = stage.run(&["fsck", "one"]);
    assert!(checked.status.success() && said(&checked).contains("no damage"), "{}", said(&checked));

    fs::rename(stage.path("two"), stage.path("three")).expect("moved");
    let words = ["device 1", "is missing", "two", "name it"];
    refused(&stage.run(&["server", "one"]), 1, &words);
    refused(&stage.run(&["fsck", "one"]), 1, &words);
    let checked = stage.run(&["fsck", "one", "three"]);
    assert!(checked.status.success(), "{}", said(&checked));
    // The order is of no concern, and where it is now is known from then on.
    let server = stage.start(&["server", "three", "one"], CORES);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let server = stage.start(&["server", "one"], CORES);
    let _mount = stage.mount(&server.listen, "mnt");
    read(&stage.path("mnt/file"), MIB);
}

#[test]
fn devices_that_do_not_belong_together_are_refused_by_path() {
    let stage = Stage::new();
    pool(&stage);
    refused(&stage.run(&["server", "two"]), 1, &["two is device 1 of node", "first device"]);
    refused(&stage.run(&["fsck", "two"]), 1, &["two is device 1 of node", "first device"]);
    assert!(stage.run(&["format", "other", "--size", SIZE]).status.success());
    refused(&stage.run(&["server", "one", "other"]), 2, &["one", "other", "stores of their own"]);
    let made = stage.run(&["format", "--pool", "third", "fourth", "--size", SIZE]);
    assert!(made.status.success(), "{}", said(&made));
    refused(&stage.run(&["server", "one", "fourth"]), 1, &["fourth is a device of another node"]);
    // Another device in the place of one that is gone is not taken for it.
    fs::rename(stage.path("two"), stage.path("away")).expect("moved");
    fs::rename(stage.path("fourth"), stage.path("two")).expect("moved");
    refused(&stage.run(&["server", "one"]), 1, &["device 1", "is missing", "is now"]);
    fs::create_dir(stage.path("copy")).expect("made");
    fs::copy(stage.path("away/store"), stage.path("copy/store")).expect("copied");
    refused(&stage.run(&["server", "one", "away", "copy"]), 1, &["copy of device 1"]);
    let again = stage.run(&["format", "--pool", "fifth", "away", "--size", SIZE]);
    refused(&again, 1, &["away", "--force"]);
}

/// Flips bits of some units of a file of [`write`] that the store's file has: one that nothing names any more may be
/// among them.
fn rot(store: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(store).expect("there");
    let mut unit = [0; 4096];
    let (mut at, mut met) = (0, 0);
    while file.read_exact_at(&mut unit, at).is_ok() {
        if unit[4..] == [0x5a; 4092] {
            met += 1;
            if met % 1000 == 1 {
                file.write_all_at(&[0x5b], at + 100).expect("written");
            }
        }
        at += 4096;
    }
    file.sync_all().expect("durable");
    assert!(met > 0, "nothing lies there");
}

/// Both devices with their paths, healthy, with data on each.
fn lists(stage: &Stage) {
    let listed = stage.run(&["device", "list", "--json", "one"]);
    assert!(listed.status.success(), "{}", said(&listed));
    let seen: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let devices = seen[0]["devices"].as_array().expect("a list");
    let paths: Vec<&str> = devices.iter().filter_map(|device| device["path"].as_str()).collect();
    assert!(matches!(paths[..], [one, two] if one.ends_with("one/store") && two.ends_with("two/store")), "{seen}");
    for device in devices {
        let (live, written) = (device["live_bytes"].as_u64(), device["written_bytes"].as_u64());
        assert!(live > Some(8 << 20) && written >= live && device["health"] == "healthy", "{device}");
    }
    let shown = stage.run(&["device", "list"]);
    assert!(said(&shown).contains("two/store") && said(&shown).contains("healthy"), "{}", said(&shown));
}

/// Ends a mount and its server in order, and finds the store sound.
fn stop_and_check(stage: &Stage, mount: Running, server: Running) {
    for running in [mount, server] {
        running.signal("TERM");
        assert_eq!(running.wait().code(), Some(0));
    }
    let checked = stage.run(&["fsck", "one"]);
    assert!(checked.status.success() && said(&checked).contains("no damage"), "{}", said(&checked));
}

#[test]
fn a_device_that_is_added_while_the_store_is_served_takes_what_comes_and_is_scrubbed() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "one", "--size", SIZE]).status.success());
    let server = stage.start(&["server", "one"], CORES);
    let mount = stage.mount(&server.listen, "mnt");
    write(&stage.path("mnt/before"), 60);
    let added = stage.run(&["device", "add", "one", "two", "--size", SIZE]);
    assert!(added.status.success() && said(&added).contains("two is device 1 of"), "{}", said(&added));
    write(&stage.path("mnt/after"), 160);
    read(&stage.path("mnt/before"), 60);
    assert!(units_in(&stage.path("two/store")) > 30 << 8, "it has a share");
    refused(&stage.run(&["device", "add", "one", "two"]), 1, &["two"]);
    lists(&stage);
    // Whoever watches the stores' names knows the one that it was given.
    assert_eq!(server.get("/health").0, 200, "{}", server.get("/health").1);
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("cfs_device_written_bytes_total{core=\"1\",device=\"1\"}"), "{metrics}");
    stop_and_check(&stage, mount, server);

    let server = stage.start(&["server", "one"], CORES);
    let mount = stage.mount(&server.listen, "mnt");
    read(&stage.path("mnt/after"), 160);
    mount.signal("TERM");
    assert_eq!(mount.wait().code(), Some(0));
    rot(&stage.path("two/store"));
    let found = stage.run(&["scrub", "--start", "--unpaced", "--wait", "one"]);
    assert_eq!(found.status.code(), Some(1), "{}", said(&found));
    assert!(said(&found).contains("fails its checksum (device 1 offset "), "{}", said(&found));
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    refused(&stage.run(&["fsck", "one"]), 1, &["damage: ", "device 1 offset ", "DAMAGED"]);
}

/// Overwrites a file in turns and reads it back until it is told to stop; how often.
fn load(path: &Path, blocks: u32, stop: &AtomicBool) -> u32 {
    let mut turns = 0;
    while !stop.load(Ordering::Relaxed) {
        write(path, blocks);
        read(path, blocks);
        turns += 1;
    }
    turns
}

#[test]
fn a_device_that_is_retired_under_load_leaves_everything_with_the_others() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "one", "--size", "512MiB"]).status.success());
    let server = stage.start(&["server", "one"], CORES);
    let mount = stage.mount(&server.listen, "mnt");
    let added = stage.run(&["device", "add", "one", "two", "--size", SIZE]);
    assert!(added.status.success(), "{}", said(&added));
    write(&stage.path("mnt/before"), 100);
    assert!(units_in(&stage.path("two/store")) > 10 << 8, "it has a share");
    refused(&stage.run(&["device", "retire", "one", "0"]), 1, &["retiring 0", "log"]);
    refused(&stage.run(&["device", "retire", "one", "7"]), 1, &["no device 7"]);
    let (_, body) = server.post("/v1/devices/change", "", "{\"at_seconds\":0,\"device\":\"1\",\"change\":\"retire\"}");
    assert!(body.contains("proof"), "{body}");
    let stop = Arc::new(AtomicBool::new(false));
    let (path, told) = (stage.path("mnt/busy"), stop.clone());
    let loader = thread::spawn(move || load(&path, 20, &told));
    let retired = stage.run(&["device", "retire", "one", "two", "--wait"]);
    assert!(retired.status.success() && said(&retired).contains("no part of the store"), "{}", said(&retired));
    let listed = stage.run(&["device", "list"]);
    assert!(said(&listed).contains("one") && !said(&listed).contains("two"), "{}", said(&listed));
    fs::rename(stage.path("two"), stage.path("away")).expect("moved");
    read(&stage.path("mnt/before"), 100);
    stop.store(true, Ordering::Relaxed);
    assert!(loader.join().expect("no panic") > 0);
    assert_eq!(server.get("/health").0, 200, "{}", server.get("/health").1);
    refused(&stage.run(&["server", "away"]), 1, &["away", "retired"]);
    refused(&stage.run(&["fsck", "one", "away"]), 1, &["is in use"]);
    stop_and_check(&stage, mount, server);
    let server = stage.start(&["server", "one"], CORES);
    let _mount = stage.mount(&server.listen, "mnt");
    read(&stage.path("mnt/before"), 100);
    read(&stage.path("mnt/busy"), 20);
    let again = stage.run(&["device", "add", "one", "away", "--force"]);
    assert!(again.status.success() && said(&again).contains("device 1 of"), "{}", said(&again));
}

#[test]
fn what_is_no_blank_device_is_not_added_and_who_proves_nothing_adds_none() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "one", "--size", SIZE]).status.success());
    assert!(stage.run(&["format", "other", "--size", SIZE]).status.success());
    fs::create_dir(stage.path("full")).expect("made");
    fs::write(stage.path("full/text"), "text").expect("written");
    refused(&stage.run(&["device", "add", "one", "two"]), 1, &["no server of this user serves"]);
    let server = stage.start(&["server", "one"], CORES);
    refused(&stage.run(&["device", "add", "one", "full", "--size", SIZE]), 1, &["not empty", "text"]);
    refused(&stage.run(&["device", "add", "one", "other"]), 1, &["it is a store already", "--force"]);
    refused(&stage.run(&["device", "add", "one", "one"]), 1, &["one"]);
    refused(&stage.run(&["device", "add", "one", "two", "--size", "64MiB"]), 1, &["at least"]);
    assert!(!stage.path("two").exists(), "what could not be added leaves nothing behind");
    let path = stage.path("two").display().to_string();
    let body = format!("{{\"at_seconds\":0,\"path\":{path:?},\"size\":268435456,\"force\":false}}");
    for proof in ["", "X-CoreFS-Proof: 00ff\r\n"] {
        let (code, _) = server.post("/v1/devices", proof, &body);
        assert_eq!(code, 403);
    }
    assert!(!stage.path("two").exists());
    let added = stage.run(&["device", "add", "one", "other", "--force"]);
    assert!(added.status.success(), "{}", said(&added));
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let checked = stage.run(&["fsck", "one"]);
    assert!(checked.status.success(), "{}", said(&checked));
}
