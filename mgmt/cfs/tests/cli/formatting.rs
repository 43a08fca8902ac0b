//! What `format` and the first start of `dev` make, keep, and leave behind where they fail.

use crate::refusals::refused;
use crate::stage::{CORES, Stage, said, signal};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

#[test]
fn format_touches_nothing_that_is_not_empty_without_force() {
    let stage = Stage::new();
    fs::create_dir(stage.path("full")).expect("a directory");
    fs::write(stage.path("full/precious"), "data").expect("written");
    refused(&stage.run(&["format", "full", "--size", "512MiB"]), 1, &["not empty", "precious", "--force"]);
    assert!(!stage.path("full/store").exists());
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    refused(&stage.run(&["format", "store", "--size", "600MiB"]), 1, &["--force"]);
    assert_eq!(size(&stage), 512 << 20);
    assert!(stage.run(&["fsck", "store"]).status.success());
}

fn size(stage: &Stage) -> u64 {
    fs::metadata(stage.path("store/store")).expect("a store").len()
}

#[test]
fn a_store_formatted_again_keeps_its_size_or_gets_the_one_that_is_said() {
    let stage = Stage::new();
    for (arguments, bytes) in [
        (&["--size", "600MiB"][..], 600 << 20),
        (&["--force"], 600 << 20),
        (&["--force", "--size", "512MiB"], 512 << 20),
        (&["--force"], 512 << 20),
    ] {
        let formatted = stage.run(&[&["format", "store"], arguments].concat());
        assert!(formatted.status.success(), "{}", said(&formatted));
        assert_eq!(size(&stage), bytes, "{arguments:?}");
        assert!(stage.run(&["fsck", "store"]).status.success());
    }
}

/// Names in a directory, sorted; none where it is missing.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_store_that_lost_its_head_is_damage_and_is_not_formatted() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::write(stage.path("mnt/file"), "precious").expect("written");
    dev.signal("TERM");
    assert_eq!(dev.wait().code(), Some(0));
    let store = OpenOptions::new().read(true).write(true).open(stage.path("store/store")).expect("the store");
    let mut head = vec![0; 1 << 20];
    store.read_exact_at(&mut head, 0).expect("read");
    store.write_all_at(&vec![0; 1 << 20], 0).expect("written");
    let serving = ["--listen", "127.0.0.1:1", "--http", "127.0.0.1:0", "--cores", "1"];
    refused(
        &stage.run(&[&["dev", "store", "mnt"], &serving[..]].concat()),
        1,
        &["blank", "lost", "nothing was changed"],
    );
    refused(&stage.run(&[&["server", "store"], &serving[..]].concat()), 1, &["blank", "lost", "nothing was changed"]);
    refused(&stage.run(&["fsck", "store"]), 1, &["blank", "lost"]);
    refused(&stage.run(&["format", "store"]), 1, &["--force"]);
    store.write_all_at(&head, 0).expect("written");
    let _dev = stage.dev();
    assert_eq!(fs::read_to_string(stage.path("mnt/file")).expect("read"), "precious");
}

#[test]
fn a_start_mends_a_copy_of_the_superblock_and_says_so() {
    let stage = Stage::new();
    drop(stage.server());
    let store = OpenOptions::new().write(true).open(stage.path("store/store")).expect("the store");
    for offset in [0, 64 << 10] {
        store.write_all_at(&[0xaa; 4096], offset).expect("written");
        refused(&stage.run(&["fsck", "store"]), 1, &["this copy of the superblock is overwritten"]);
        let server = stage.start(&["server", "store"], CORES);
        let says = format!("the copy of the superblock at offset {offset} was overwritten");
        assert!(server.said.iter().any(|line| line.contains(&says)), "{:?}", server.said);
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
        let checked = stage.run(&["fsck", "store"]);
        assert!(checked.status.success() && !said(&checked).contains("superblock"), "{}", said(&checked));
    }
    let server = stage.start(&["server", "store"], CORES);
    assert!(!server.said.iter().any(|line| line.contains("superblock")), "{:?}", server.said);
}

#[test]
fn a_first_format_that_was_killed_is_begun_again() {
    let stage = Stage::new();
    fs::create_dir(stage.path("store")).expect("a directory");
    let half = File::create(stage.path("store/store.new")).expect("a file");
    half.set_len(8 << 20).expect("a blank beginning");
    half.write_all_at(b"what a format before wrote", 5 << 20).expect("written");
    let dev = stage.dev();
    assert!(dev.said[0].starts_with("formatting"), "{:?}", dev.said);
    assert!(stage.path("store/store").exists() && !stage.path("store/store.new").exists());
}

#[test]
fn a_format_in_place_that_was_killed_is_begun_again() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    let store = OpenOptions::new().write(true).open(stage.path("store/store")).expect("the store");
    let mut head = vec![0; 1 << 20];
    head[..8].copy_from_slice(b"CfsHalf\n");
    store.write_all_at(&head, 0).expect("written");
    refused(&stage.run(&["server", "store"]), 1, &["half formatted", "cfs format"]);
    refused(&stage.run(&["fsck", "store"]), 1, &["half formatted", "cfs format"]);
    assert!(stage.run(&["format", "store"]).status.success());
    store.write_all_at(&head, 0).expect("written");
    let dev = stage.dev();
    assert!(dev.said[0].starts_with("formatting"), "{:?}", dev.said);
}

#[test]
fn a_format_that_cannot_be_leaves_nothing_behind() {
    let stage = Stage::new();
    let (too_large, too_small) = (["--size", "15TiB"], ["--size", "1MiB"]);
    let fit = ["15728640 MiB", "MiB are free", "--size"];
    refused(&stage.run(&[&["format", "new/store"], &too_large[..]].concat()), 1, &fit);
    refused(&stage.run(&[&["format", "new/store"], &too_small[..]].concat()), 1, &["1048576 bytes", "--size"]);
    refused(&stage.run(&[&["dev", "new/store", "mnt"], &too_large[..]].concat()), 1, &fit);
    refused(&stage.run(&[&["dev", "new/store", "mnt"], &too_small[..]].concat()), 1, &["1048576 bytes", "--size"]);
    assert!(!stage.path("new").exists() && !stage.path("mnt").exists());
    fs::create_dir(stage.path("there")).expect("a directory");
    refused(&stage.run(&[&["format", "there"], &too_large[..]].concat()), 1, &fit);
    assert_eq!(names(&stage.path("there")), [""; 0]);
    // What is there keeps its size.
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    refused(&stage.run(&[&["format", "store", "--force"], &too_large[..]].concat()), 1, &fit);
    assert_eq!(size(&stage), 512 << 20);
    assert!(stage.run(&["fsck", "store"]).status.success());
}

#[test]
fn a_format_that_is_stopped_or_killed_leaves_a_whole_store_or_none() {
    let stage = Stage::new();
    for name in ["TERM", "INT", "TERM", "KILL"] {
        let mut format = stage.cfs(&["format", "store", "--size", "2GiB"]).spawn().expect("the binary runs");
        while !stage.path("store/store.new").exists() && format.try_wait().expect("our own child").is_none() {
            std::thread::yield_now();
        }
        signal(format.id(), name);
        let ended = format.wait().expect("our own child");
        if ended.success() {
            assert!(stage.run(&["fsck", "store"]).status.success(), "{name}");
        } else {
            assert!(!stage.path("store/store").exists(), "{name}");
            assert_eq!(stage.path("store").exists(), name == "KILL", "{name}: {ended}");
        }
        let _gone = fs::remove_dir_all(stage.path("store"));
    }
}
