//! Rot under a server that runs: what `cfs scrub`, the metrics, `/health` and standard error say of it.

use crate::stage::{CORES, PATIENCE, Running, Stage, said};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

/// Of blocks that are looked for in the store.
const MARK: u8 = 0xa7;

fn scrub(stage: &Stage) -> Output {
    stage.run(&["scrub", "--start", "--unpaced", "--wait", "store"])
}

/// Writes a file of marked blocks, each with its number, durably.
fn write_marked(path: &Path, blocks: u32) {
    let mut file = File::create(path).expect("created");
    for number in 0..blocks {
        let mut block = [MARK; 4096];
        block[..4].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block).expect("written");
    }
    file.sync_all().expect("durable");
}

/// Flips a bit of a marked block wherever the store has it.
fn flip(stage: &Stage, number: u32) {
    let store = OpenOptions::new().read(true).write(true).open(stage.path("store/store")).expect("the store");
    let mut flipped = 0;
    let mut buf = vec![0; 1 << 20];
    for at in (0..512_u64 << 20).step_by(buf.len()) {
        store.read_exact_at(&mut buf, at).expect("read");
        for (block, offset) in buf.chunks(4096).zip((at..).step_by(4096)) {
            if block[..4] == number.to_le_bytes() && block[4..].iter().all(|byte| *byte == MARK) {
                store.write_all_at(&[MARK ^ 0x10], offset + 1000).expect("written");
                flipped += 1;
            }
        }
    }
    store.sync_all().expect("durable");
    assert!(flipped > 0, "block {number} is nowhere");
}

/// The sum of a metric over the cores, whole.
fn metric(server: &Running, name: &str) -> u64 {
    let text = server.get("/metrics").1;
    let series = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let whole = |line: &str| {
        let (_, value) = line.rsplit_once(' ').expect("a value");
        value.split('.').next().and_then(|value| value.parse::<u64>().ok()).expect("a number")
    };
    let values: Vec<u64> = series.map(whole).collect();
    assert!(!values.is_empty(), "no {name}");
    values.iter().sum()
}

#[test]
fn a_sound_store_is_verified_without_a_finding() {
    let stage = Stage::new();
    let dev = stage.dev();
    write_marked(&stage.path("mnt/file"), 700);
    let found = scrub(&stage);
    assert!(found.status.success() && said(&found).contains("no damage known"), "{}", said(&found));
    assert!(said(&found).contains("idle; everything was verified in the last"), "{}", said(&found));
    assert!(metric(&dev, "cfs_scrubbed_bytes_total") >= 700 * 4096);
    assert_eq!(metric(&dev, "cfs_scrub_due_groups"), 0);
    assert_eq!(dev.get("/health").0, 200);
}

#[test]
fn rot_under_a_running_server_is_found_named_and_forgotten_with_its_file() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::create_dir(stage.path("mnt/a dir")).expect("made");
    let path = stage.path("mnt/a dir/file");
    write_marked(&path, 700);
    let inode = fs::metadata(&path).expect("it is there").ino();
    flip(&stage, 600);
    flip(&stage, 601);
    for _ in 0..2 {
        let found = scrub(&stage);
        let words = format!("/a dir/file, bytes {}..{}", 600 * 4096, 602 * 4096);
        assert_eq!(found.status.code(), Some(1), "{}", said(&found));
        assert!(said(&found).contains(&words) && said(&found).contains("fails its checksum"), "{}", said(&found));
    }
    let json = stage.run(&["scrub", "store", "--json"]);
    let seen: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let cores = seen[0]["scrub"]["cores"].as_array().expect("cores");
    let found: Vec<_> = cores.iter().flat_map(|core| core["findings"].as_array().expect("a list")).collect();
    assert_eq!((found.len(), &found[0]["files"][0]["inode"]), (1, &inode.into()), "{seen}");
    let (code, health) = dev.get("/health");
    assert!(code == 202 && health.contains("/a dir/file, bytes") && health.contains("from a copy"), "{code} {health}");
    assert_eq!((metric(&dev, "cfs_scrub_findings_total"), metric(&dev, "cfs_scrub_open_findings")), (1, 1));
    // Nothing else is touched by it.
    fs::write(stage.path("mnt/other"), "text").expect("written");
    fs::remove_file(&path).expect("removed");
    let found = scrub(&stage);
    assert!(found.status.success() && said(&found).contains("no damage known"), "{}", said(&found));
    assert_eq!((metric(&dev, "cfs_scrub_findings_total"), metric(&dev, "cfs_scrub_open_findings")), (1, 0));
    assert_eq!(dev.get("/health").0, 200);
    dev.signal("TERM");
    let (_, lines) = dev.wait_and_hear();
    let told: Vec<_> = lines.iter().filter(|line| line.contains("scrub: damage: /a dir/file, bytes")).collect();
    assert_eq!(told.len(), 1, "{lines:?}");
}

#[test]
fn a_server_verifies_by_itself_once_a_period_and_not_where_that_is_off() {
    let stage = Stage::new();
    let serve = |period: &str| stage.start(&["server", "store", "--scrub-period", period], 2);
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    let server = serve("1s");
    let end = Instant::now() + PATIENCE;
    while metric(&server, "cfs_scrub_verified_since_seconds") == 0 {
        assert!(Instant::now() < end, "{}", server.get("/v1/scrub").1);
        std::thread::sleep(Duration::from_millis(50));
    }
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    // What was verified is known after a restart.
    let server = serve("0");
    assert!(metric(&server, "cfs_scrub_verified_since_seconds") > 0);
    assert_eq!(metric(&server, "cfs_scrub_due_groups"), 0);
    assert!(scrub(&stage).status.success());
    let nowhere = stage.run(&["scrub", "elsewhere"]);
    assert_eq!(nowhere.status.code(), Some(1), "{}", said(&nowhere));
}

#[test]
fn a_server_that_does_not_answer_hides_no_other() {
    let stage = Stage::new();
    let server = stage.server();
    assert!(stage.run(&["format", "other", "--size", "512MiB"]).status.success());
    let other = stage.start(&["server", "other"], CORES);
    server.signal("STOP");
    let seen = stage.run(&["scrub", "--start", "--wait"]);
    server.signal("CONT");
    assert_eq!(seen.status.code(), Some(1), "{}", said(&seen));
    let said = said(&seen);
    assert!(said.contains("does not answer"), "{said}");
    assert!(said.lines().any(|line| line.contains("other: idle") && line.contains("no damage known")), "{said}");
    drop(other);
}
