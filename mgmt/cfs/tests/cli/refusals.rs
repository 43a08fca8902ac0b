//! What is refused, with which exit status, and whether the words help.

use crate::stage::{Stage, free_ports, is_mounted, said};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Output;
use std::time::{Duration, Instant};

/// Serves the store that `Stage::dev` serves, where nothing else listens.
const SERVE: [&str; 6] = ["server", "store", "--listen", "127.0.0.1:1", "--http", "127.0.0.1:0"];

/// Where the log begins.
const LOG_AT: u64 = 17 << 20;

pub fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "no '{word}' in: {text}");
    }
}

#[test]
fn a_store_in_use_names_its_holder() {
    let stage = Stage::new();
    let server = stage.server();
    let holder = format!("in use by process {} (cfs)", server.pid());
    let listen = ["--listen", "127.0.0.1:1", "--http", "127.0.0.1:0"];
    let began = Instant::now();
    refused(&stage.run(&[&["server", "store"], &listen[..]].concat()), 1, &[&holder]);
    refused(&stage.run(&[&["dev", "store", "mnt"], &listen[..]].concat()), 1, &[&holder]);
    refused(&stage.run(&["fsck", "store"]), 1, &[&holder, "cfs scrub --start --wait"]);
    refused(&stage.run(&["format", "store", "--force"]), 1, &[&holder]);
    // Only the lock of a dead process is waited for, up to ten seconds each time.
    assert!(began.elapsed() < Duration::from_secs(20), "they wait for a living process: {:?}", began.elapsed());
}

#[test]
fn without_the_secret_there_is_no_entry() {
    let stage = Stage::new();
    let server = stage.server();
    fs::create_dir(stage.path("mnt")).expect("a directory");
    let wrong = stage.path("wrong");
    fs::write(&wrong, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef").expect("written");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).expect("set");
    refused(&stage.run(&["mount", &server.listen, "mnt", "--secret", "wrong"]), 1, &["others may read it"]);
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).expect("set");
    refused(&stage.run(&["mount", &server.listen, "mnt", "--secret", "wrong"]), 1, &["connecting"]);
    let text = server.get("/metrics").1;
    let refusals = text.lines().filter(|l| l.starts_with("cfs_refused_connections_total") && !l.ends_with(" 0"));
    assert!(refusals.count() > 0, "{text}");
    let right = stage.run(&["mount", &server.listen, "mnt", "--secret", "store/secret"]);
    assert!(right.status.success(), "{}", said(&right));
    assert!(stage.run(&["umount", "mnt"]).status.success());
}

#[test]
fn what_cannot_be_meant_exits_2() {
    let stage = Stage::new();
    refused(&stage.run(&["mount", "127.0.0.1:1", "mnt", "-o", "wombat"]), 2, &["wombat", "cfs mount --help"]);
    refused(&stage.run(&["format", "x", "--size", "8 parsecs"]), 2, &["parsecs", "GiB"]);
    refused(&stage.run(&["dance"]), 2, &["dance"]);
    refused(&stage.run(&["dev", "--cores", "0"]), 2, &["--cores"]);
    refused(&stage.run(&["mount", "nowhere", "mnt"]), 2, &["HOST:PORT"]);
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    let server =
        |listen: &str| stage.run(&["server", "store", "--cores", "2", "--http", "127.0.0.1:0", "--listen", listen]);
    refused(&server("127.0.0.1:0"), 2, &["--listen needs a port"]);
    refused(&server("127.0.0.1:65535"), 2, &["no port for core 1"]);
}

#[test]
fn ports_in_use_and_open_networks_are_refused_with_advice() {
    let stage = Stage::new();
    let server = stage.server();
    assert!(stage.run(&["format", "two", "--size", "512MiB"]).status.success());
    let run = |listen: &str, http: &str| stage.run(&["server", "two", "--listen", listen, "--http", http]);
    refused(&run(&server.listen, "127.0.0.1:0"), 1, &[&server.listen, "--listen"]);
    refused(&run("127.0.0.1:1", &server.http()), 1, &[&server.http(), "--http"]);
    refused(&run("0.0.0.0:7400", "127.0.0.1:0"), 1, &["not loopback", "--allow-plaintext"]);
    refused(&run("127.0.0.1:1", "0.0.0.0:0"), 1, &["not loopback", "--allow-plaintext"]);
}

#[test]
fn what_is_no_store_is_said_to_be_none() {
    let stage = Stage::new();
    refused(&stage.run(&["server", "nothing"]), 1, &["nothing is no CoreFS store", "cfs format"]);
    refused(&stage.run(&["fsck", "nothing"]), 1, &["nothing is no CoreFS store", "cfs format"]);
    refused(&stage.run(&["umount", "nothing"]), 1, &["nothing"]);
    fs::write(stage.path("file"), "precious").expect("written");
    for (command, target) in [("format", "file"), ("format", "/dev/null"), ("server", "file"), ("fsck", "file")] {
        refused(&stage.run(&[command, target]), 1, &[target, "nor a block device nor an NVMe namespace"]);
    }
    assert_eq!(fs::read_to_string(stage.path("file")).expect("read"), "precious");
}

#[test]
fn a_place_that_cannot_be_mounted_on_and_a_port_in_use_are_told_before_anything_is_laid_out() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::write(stage.path("file"), "text").expect("written");
    let run = |mountpoint: &str, listen: &str, http: &str| {
        stage.run(&["dev", "two", mountpoint, "--size", "512MiB", "--cores", "1", "--listen", listen, "--http", http])
    };
    refused(&run("file", "127.0.0.1:1", "127.0.0.1:0"), 1, &["file is not a directory"]);
    refused(&run("mnt", "127.0.0.1:1", "127.0.0.1:0"), 1, &["mnt is already mounted"]);
    refused(&run("mnt2", &dev.listen, "127.0.0.1:0"), 1, &[&dev.listen, "--listen"]);
    refused(&run("mnt2", "127.0.0.1:1", &dev.http()), 1, &[&dev.http(), "--http"]);
    assert!(!stage.path("two").exists() && !stage.path("mnt2").exists());
}

#[test]
fn more_cores_than_the_log_has_room_for_are_refused_with_advice() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "store", "--size", "256MiB"]).status.success());
    let server = |cores: &str| {
        stage.cfs(&["server", "store", "--listen", "127.0.0.1:1", "--http", "127.0.0.1:0", "--cores", cores])
    };
    refused(&server("8").output().expect("the binary runs"), 1, &["room for 5 cores", "--cores 5", "larger store"]);
}

#[test]
fn fsck_finds_a_flipped_byte_and_says_where() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::write(stage.path("mnt/file"), "text").expect("written");
    dev.signal("TERM");
    assert_eq!(dev.wait().code(), Some(0));
    assert!(stage.run(&["fsck", "store"]).status.success());
    // The log begins at 17 MiB; the cores write to its first slots.
    let store = OpenOptions::new().read(true).write(true).open(stage.path("store/store")).expect("the store");
    for place in 0..8 {
        let at = (17 << 20) + place * (256 << 10) + 100;
        let mut byte = [0];
        store.read_exact_at(&mut byte, at).expect("read");
        store.write_all_at(&[byte[0] ^ 0x10], at).expect("written");
    }
    refused(&stage.run(&["fsck", "store"]), 1, &["damage", "DAMAGED"]);
}

#[test]
fn a_store_that_was_cut_is_refused_with_both_lengths_and_not_formatted() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    let store = OpenOptions::new().write(true).open(stage.path("store/store")).expect("the store");
    let cuts =
        [(300 << 20, "536870912 by its superblock"), (8192, "536870912"), (100, "superblock"), (0, "superblock")];
    for (bytes, words) in cuts {
        store.set_len(bytes).expect("cut");
        let words = [&format!("it has {bytes} bytes"), words, "restore it"];
        refused(&stage.run(&SERVE), 1, &words);
        refused(&stage.run(&["fsck", "store"]), 1, &words);
        refused(&stage.run(&["dev", "store", "mnt", "--size", "512MiB"]), 1, &words);
    }
    refused(&stage.run(&["format", "store", "--size", "512MiB"]), 1, &["is an empty file", "--force"]);
    assert_eq!(fs::metadata(stage.path("store/store")).expect("it is there").len(), 0);
    assert!(stage.run(&["format", "store", "--size", "512MiB", "--force"]).status.success());
}

#[test]
fn a_port_where_nobody_listens_is_named() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    fs::create_dir(stage.path("mnt")).expect("a directory");
    let nobody = free_ports(1);
    let mount = stage.run(&["mount", &nobody, "mnt", "--secret", "store/secret"]);
    refused(&mount, 1, &[&format!("no server listens on {nobody}"), "cfs server", "cfs status"]);
}

#[test]
fn a_store_that_is_shortened_while_it_is_served_ends_the_server() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::write(stage.path("mnt/file"), "text").expect("written");
    let store = OpenOptions::new().write(true).open(stage.path("store/store")).expect("the store");
    store.set_len(400 << 20).expect("cut");
    let (status, said) = dev.wait_and_hear();
    assert_eq!(status.code(), Some(1), "{said:?}");
    let words = ["was shortened", "it has 419430400 bytes", "536870912 by its superblock", "restore it"];
    assert!(said.iter().any(|line| words.iter().all(|word| line.contains(word))), "{said:?}");
    assert!(!is_mounted(&stage.path("mnt")), "it is still mounted");
    // Nothing has made it grow again or called it failed: whole again, it serves again.
    refused(&stage.run(&["fsck", "store"]), 1, &["it has 419430400 bytes", "restore it"]);
    store.set_len(512 << 20).expect("grown");
    drop(stage.dev());
}

#[test]
fn a_store_that_is_removed_while_it_is_served_is_missed() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::write(stage.path("mnt/file"), "text").expect("written");
    fs::remove_file(stage.path("store/store")).expect("removed");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(fs::read_to_string(stage.path("mnt/file")).expect("served on"), "text");
    let (code, body) = dev.get("/health");
    assert!(code == 503 && body.contains("was removed, moved or replaced"), "{code} {body}");
    dev.signal("TERM");
    let (status, said) = dev.wait_and_hear();
    assert!(said.iter().any(|line| line.contains("was removed or replaced") && line.contains("/proc/")), "{said:?}");
    assert!(said.iter().any(|line| line.contains("what nobody copied is gone")), "{said:?}");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_store_that_is_moved_while_it_is_served_is_missed_and_lost_to_nobody() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::write(stage.path("mnt/file"), "text").expect("written");
    fs::rename(stage.path("store/store"), stage.path("store/moved")).expect("moved");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(dev.get("/health").0, 503);
    dev.signal("TERM");
    let (status, said) = dev.wait_and_hear();
    assert!(said.iter().any(|line| line.contains("was moved or replaced")), "{said:?}");
    assert_eq!(status.code(), Some(0));
    fs::rename(stage.path("store/moved"), stage.path("store/store")).expect("moved back");
    let dev = stage.dev();
    assert_eq!(fs::read_to_string(stage.path("mnt/file")).expect("it is there"), "text");
    assert_eq!(dev.get("/health").0, 200);
}

/// The blocks of the first MiBs of the log that begin a batch.
fn batches(store: &File) -> Vec<u64> {
    let mut log = vec![0; 8 << 20];
    store.read_exact_at(&mut log, LOG_AT).expect("read");
    let blocks = (LOG_AT..).step_by(4096).zip(log.chunks(4096));
    blocks.filter(|(_, block)| block.starts_with(b"cfsL")).map(|(at, _)| at).collect()
}

#[test]
fn a_stopped_store_that_lost_the_end_of_its_log_or_its_anchors_is_refused() {
    let stage = Stage::new();
    let dev = stage.dev();
    for n in 0..200 {
        fs::write(stage.path(&format!("mnt/file{n}")), "text").expect("written");
    }
    dev.signal("TERM");
    assert_eq!(dev.wait().code(), Some(0));
    let store = OpenOptions::new().read(true).write(true).open(stage.path("store/store")).expect("the store");
    let end = batches(&store).last().expect("it was used") + 4096;
    let tail = end - (32 << 10);
    assert!(batches(&store).iter().filter(|at| **at >= tail).count() > 2, "batches that are needed lie there");
    // The tail, the first MiB, every anchor.
    let lost = [(tail, 32 << 10, "had been flushed"), (LOG_AT, 1 << 20, "had been flushed")];
    for (at, bytes, words) in lost.into_iter().chain([(1 << 20, 16 << 20, "no anchor names stream")]) {
        let mut before = vec![0; bytes];
        store.read_exact_at(&mut before, at).expect("read");
        store.write_all_at(&vec![0; bytes], at).expect("written");
        let damaged = ["the log is damaged", "at offset", words];
        refused(&stage.run(&SERVE), 1, &damaged);
        refused(&stage.run(&["fsck", "store"]), 1, &[&damaged[..], &["DAMAGED"]].concat());
        store.write_all_at(&before, at).expect("written");
    }
    assert!(stage.run(&["fsck", "store"]).status.success());
    let dev = stage.dev();
    assert_eq!(fs::read_to_string(stage.path("mnt/file199")).expect("read"), "text");
    drop(dev);
}

/// As a server that has seen a flush fail leaves it: the flag and the next generation in the first `copies` superblocks
/// (docs/formats/device.md); the failing device may have taken one only.
fn take_out_of_service(store: &File, copies: usize) {
    const FLAGS_AT: usize = 12;
    const GENERATION_AT: usize = 64;
    for at in cfs_device::SUPERBLOCK_COPIES_AT.into_iter().take(copies) {
        let mut copy = vec![0; cfs_device::SUPERBLOCK_BYTES];
        store.read_exact_at(&mut copy, at).expect("read");
        copy[FLAGS_AT] |= 1;
        copy[GENERATION_AT] += 1;
        let sum_at = copy.len() - 4;
        let sum = cfs_device::crc32c(&copy[..sum_at]).to_le_bytes();
        copy[sum_at..].copy_from_slice(&sum);
        store.write_all_at(&copy, at).expect("written");
    }
}

#[test]
fn a_store_out_of_service_is_refused_until_a_check_has_found_it_sound() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::write(stage.path("mnt/file"), "text").expect("written");
    dev.signal("TERM");
    assert_eq!(dev.wait().code(), Some(0));
    let store = OpenOptions::new().read(true).write(true).open(stage.path("store/store")).expect("the store");
    take_out_of_service(&store, 2);
    let way = ["out of service", "cfs fsck --return-to-service"];
    refused(&stage.run(&SERVE), 1, &way);
    let checked = stage.run(&["fsck", "store"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(way.iter().all(|words| String::from_utf8_lossy(&checked.stdout).contains(words)), "{checked:?}");

    // Damage, and it stays out of service. The last batch ends the log and holds nothing else.
    let at = *batches(&store).iter().nth_back(2).expect("it was used") + 100;
    let mut byte = [0];
    store.read_exact_at(&mut byte, at).expect("read");
    store.write_all_at(&[byte[0] ^ 0x10], at).expect("written");
    assert_eq!(stage.run(&["fsck", "--return-to-service", "store"]).status.code(), Some(1));
    store.write_all_at(&byte, at).expect("written");
    refused(&stage.run(&SERVE), 1, &way);

    assert!(stage.run(&["fsck", "--return-to-service", "store"]).status.success());
    assert!(stage.run(&["fsck", "--return-to-service", "store"]).status.success(), "nothing to do");
    take_out_of_service(&store, 1);
    refused(&stage.run(&SERVE), 1, &way);
    assert!(stage.run(&["fsck", "--return-to-service", "store"]).status.success());
    assert!(stage.run(&["fsck", "store"]).status.success());
    let dev = stage.dev();
    assert_eq!(fs::read_to_string(stage.path("mnt/file")).expect("read"), "text");
    drop(dev);
}
