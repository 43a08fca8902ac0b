//! One damaged byte, anywhere: the check names it or nothing needs it, and a server refuses to
//! start or serves right bytes and errors, never wrong bytes.

use crate::stage::{Stage, check, check_through, formatted};
use crate::workload::{self, Seen};
use cfs_seam::{Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime};
use cfs_server::{Report, Site};
use cfs_sim::{MemoryDisk, Stream};
use cfs_types::FsError;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const BLOCK: u64 = 4096;
/// Flips of one image, unless `CFS_FLIPS` says otherwise.
const FLIPS: u64 = 1000;

fn flips() -> u64 {
    std::env::var("CFS_FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(FLIPS)
}

/// Blocks of one kind.
struct Area {
    name: &'static str,
    blocks: Vec<u64>,
    /// How often a flip falls here, in comparison.
    weight: u64,
}

/// Where cells lie that something names.
const IN_USE: &str = "cells in use";
/// Where nothing lies, or what was given back.
const GIVEN_BACK: &str = "rest of the regions";
/// The log area.
const LOG: &str = "log";

/// Remembers the blocks that are read.
struct Recorder {
    device: MemoryDisk,
    read: RefCell<BTreeSet<u64>>,
}

impl Disk for Recorder {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        let end = offset + u64::try_from(buf.len()).expect("short");
        self.read.borrow_mut().extend((offset / BLOCK..end.div_ceil(BLOCK)).map(|n| n * BLOCK));
        self.device.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        self.device.write(offset, buf, durability, lifetime)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.device.flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.device.discard(offset, bytes)
    }
}

/// Blocks that hold something. What the check reads of the regions is in use.
fn areas(device: &MemoryDisk) -> Vec<Area> {
    let recorder = Rc::new(Recorder { device: device.clone(), read: RefCell::default() });
    check_through(recorder.clone()).expect("a store");
    let read = recorder.read.take();
    let is_used = |block: &u64| {
        let bytes = device.peek(*block, usize::try_from(BLOCK).expect("small"));
        bytes.iter().any(|byte| *byte != 0)
    };
    let used = |from: u64, to: u64| (from..to).step_by(4096).filter(is_used).collect::<Vec<u64>>();
    let (in_use, given_back) = used(64 << 20, 320 << 20).into_iter().partition(|block| read.contains(block));
    let areas = [
        ("superblocks", used(0, 1 << 20), 1),
        ("group anchors", used(1 << 20, 13 << 20), 2),
        ("stream anchors", used(13 << 20, 17 << 20), 1),
        (LOG, used(17 << 20, 49 << 20), 5),
        (IN_USE, in_use, 8),
        (GIVEN_BACK, given_back, 1),
    ];
    let areas = areas.into_iter().map(|(name, blocks, weight)| Area { name, blocks, weight });
    areas.filter(|area| !area.blocks.is_empty()).collect()
}

fn pick_area<'a>(areas: &'a [Area], random: &Stream) -> &'a Area {
    let mut lot = random.below(areas.iter().map(|area| area.weight).sum());
    let found = areas.iter().find(|area| {
        let here = lot < area.weight;
        lot = lot.saturating_sub(area.weight);
        here
    });
    found.expect("a lot is below the sum")
}

/// What a server makes of the device.
fn serve(seed: u64, device: &MemoryDisk) -> Result<Vec<Seen>, String> {
    let stage = Stage::new(seed, 2, device);
    stage.start()?;
    match stage.client(workload::read) {
        Ok(seen) => Ok(seen),
        Err(error) => Ok(vec![Seen::Refused(match error {
            cfs_volume::VolumeError::Root(error) => error,
            other => panic!("no client gets in: {other}"),
        })]),
    }
}

fn names_a_place(error: &str) -> bool {
    ["offset", "group", "superblock", "anchor"].iter().any(|word| error.contains(word))
}

/// A byte of the block: half the time any, else one that is not zero or a little behind it.
fn pick(device: &MemoryDisk, block: u64, random: &Stream) -> u64 {
    let bytes = device.peek(block, usize::try_from(BLOCK).expect("small"));
    let some: Vec<u64> = (0..).zip(bytes).filter(|(_, b)| *b != 0).map(|(at, _)| at).collect();
    if random.chance(500_000) || some.is_empty() {
        return block + random.below(BLOCK);
    }
    block + (some[random.index(some.len())] + random.below(4)).min(BLOCK - 1)
}

fn byte_at(device: &MemoryDisk, offset: u64) -> u8 {
    let within = usize::try_from(offset % BLOCK).expect("small");
    device.peek(offset - offset % BLOCK, within + 1)[within]
}

/// The batch with which a stream ends is taken for one that was never acknowledged: its place.
fn torn_at(report: &Report, offset: u64) -> Option<u64> {
    let torn = report.findings.iter().filter(|f| f.what.contains("torn"));
    torn.filter_map(|f| match f.place {
        Site::Device(at) if (at..at + (1 << 20)).contains(&offset) => Some(at),
        _ => None,
    })
    .max()
}

/// Flips bytes of `device`, one at a time. `right` is what a client reads of the whole
/// one, which was stopped or `crashed`.
fn flip_all(seed: u64, device: &MemoryDisk, right: &[Seen], crashed: bool) {
    let areas = areas(device);
    let random = Stream::new(seed);
    let mut tally: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut torn = BTreeSet::new();
    for flip in 0..flips() {
        let Area { name: area, blocks, .. } = pick_area(&areas, &random);
        let offset = pick(device, blocks[random.index(blocks.len())], &random);
        let bit = u8::try_from(random.below(8)).expect("small");
        let at = format!("seed {seed}, flip {flip}: bit {bit} of byte {offset} ({area})");
        let before = byte_at(device, offset);
        device.flip_bit(offset, bit);
        let report = check(device).expect("one copy of the superblock is left");
        let served = serve(seed + flip, device);
        device.flip_bit(offset, bit);
        let last_batch = torn_at(&report, offset).filter(|_| crashed);
        torn.extend(last_batch);
        let outcome = match &served {
            Ok(_) if last_batch.is_some() => "cut",
            Err(error) => {
                assert!(names_a_place(error), "{at}: {error}");
                assert!(!report.is_sound(), "{at}: the start is refused ({error}), the check says {report}");
                "refused"
            }
            Ok(seen) if seen == right => "served",
            Ok(seen) => {
                for one in seen {
                    let sound = matches!(one, Seen::Right | Seen::Refused(FsError::Corrupt)) || right.contains(one);
                    assert!(sound, "{at}: {one:?}, the check says {report}");
                }
                assert!(!report.is_sound(), "{at}: {seen:?}, the check says {report}");
                "errors"
            }
        };
        *tally.entry((area, outcome)).or_default() += 1;
        *tally.entry((area, if report.is_clean() { "unseen" } else { "seen" })).or_default() += 1;
        // Every byte counts that is neither padding nor given back; the log also holds what it has let go of.
        let counts = *area == "superblocks" || (![GIVEN_BACK, LOG].contains(area) && !crashed && before != 0);
        assert!(!(counts && report.is_clean()), "{at}: the check says {report}");
    }
    assert!(torn.len() <= 2, "seed {seed}: only the last batch of each stream may go unnoticed: {torn:?}");
    println!("seed {seed}: {tally:?}");
}

#[test]
fn a_flipped_byte_of_a_store_that_was_stopped_never_gives_wrong_data() {
    for seed in [11, 12] {
        let stage = Stage::new(seed, 2, &formatted());
        stage.start().expect("it starts");
        stage.client(workload::write).expect("it serves");
        stage.stop();
        flip_all(seed, &stage.device(), &vec![Seen::Right; workload::expected().len()], false);
    }
}

#[test]
fn a_flipped_byte_after_a_power_cut_never_gives_wrong_data() {
    for seed in [21, 22] {
        let stage = Stage::new(seed, 2, &formatted());
        stage.start().expect("it starts");
        let _client = stage.begin(workload::write);
        stage.run_for(Duration::from_millis(100 + seed));
        stage.crash();
        let right = serve(seed, &stage.device()).expect("it starts again");
        flip_all(seed, &stage.device(), &right, true);
    }
}
