//! Devices that retire while clients write, with the power cut at any point of that.

use crate::history::Announce;
use crate::pool::{FILE_BYTES, Written, crowded, read_files, setup, stage_of, two, write_files};
use crate::seeds::{run_all, seeds};
use crate::stage::{LIMIT, Stage};
use cfs_device::{DeviceError, MemberState, read_list};
use cfs_seam::Disk;
use cfs_sim::{Crash, MemoryDisk, Stream};
use std::ops::Range;
use std::rc::Rc;

/// Histories that CI runs.
const SEEDS: u64 = 48;
/// Files that are there before: on both devices, and not too many for one.
const FILES: u32 = 200;
/// And meanwhile.
const MORE: Range<u32> = 1000..1030;
/// Operations of the device that retires: while it is being emptied, and about when it is empty.
const OPERATIONS: u64 = 150;
const LAST_OPERATIONS: u64 = 130;
/// Decisions from there to the cut, at most; and from the beginning.
const STEPS_MAX: u64 = 300;
const STEPS_FIRST_MAX: u64 = 60;

/// Two devices with files on both.
fn filled() -> (MemoryDisk, MemoryDisk) {
    let stage = stage_of(1, setup(), &two(&setup()));
    stage.start(2);
    let written = Written::default();
    let files = written.clone();
    stage.client(move |_, volume| async move {
        write_files(volume.clone(), 0..FILES, files).await.expect("there is room");
        volume.shutdown().await.expect("a clean end");
    });
    let live = live_on(&stage, 1);
    assert!(live > 16 << 20, "{} MiB lie on the further device", live >> 20);
    stage.stop();
    (stage.device(), stage.sim.media(stage.others.borrow()[0]))
}

/// Bytes that are live on a device.
fn live_on(stage: &Stage, number: u16) -> u64 {
    let status = stage.status();
    let devices = status.iter().flat_map(|status| &status.devices).filter(|used| used.number == number);
    devices.map(|used| used.live_units * 4096).sum()
}

/// How far the other device is, by the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Active,
    Retiring,
    Gone,
}

fn step(stage: &Stage) -> Step {
    let device: Rc<dyn Disk> = Rc::new(stage.device());
    cfs_sim::run(1, |_| async move {
        let superblock = cfs_device::recover(&*device).await.expect("a sound device").0;
        let list = read_list(&device, &superblock).await.expect("a sound device");
        match list.members.get(1).map(|member| member.state) {
            Some(MemberState::Active) => Step::Active,
            Some(MemberState::Retiring) => Step::Retiring,
            None => Step::Gone,
        }
    })
}

/// What the other device says of itself.
fn has_left(stage: &Stage) -> bool {
    let device = stage.sim.media(stage.others.borrow()[0]);
    cfs_sim::run(1, |_| async move {
        match cfs_device::open(&device).await {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error, DeviceError::Left);
                true
            }
        }
    })
}

/// Retires a device under a client that writes, cuts the power at some point of it, and has the next start go on.
/// Where it was cut.
fn retire_and_cut(seed: u64, image: &(MemoryDisk, MemoryDisk)) -> Step {
    let (_announce, chance) = (Announce(seed), Stream::new(seed ^ 0x7265_7469));
    let stage = stage_of(seed, setup(), image);
    stage.start(1 + u16::try_from(chance.below(2)).expect("small"));
    let written = Written::default();
    written.borrow_mut().extend(0..FILES);
    let files = written.clone();
    let _client = stage.begin_client(stage.options(), move |_, volume| write_files(volume, MORE, files));
    let before = chance.index(4);
    stage.sim.run_until(LIMIT, || written.borrow().len() >= FILES as usize + before);
    let answer = stage.begin_retire("1");
    let media = stage.sim.media(stage.others.borrow()[0]);
    if chance.below(4) == 0 {
        stage.sim.run_steps(chance.below(STEPS_FIRST_MAX));
    } else {
        let first = if chance.below(2) == 0 { LAST_OPERATIONS } else { 0 };
        let wanted = media.operations() + first + chance.below(OPERATIONS);
        assert!(stage.sim.run_until(LIMIT, || media.operations() >= wanted || !stage.left.borrow().is_empty()));
        stage.sim.run_steps(chance.below(STEPS_MAX));
    }
    let answered = answer.lock().expect("not poisoned").is_some();
    stage.crash(if chance.below(4) == 0 { Crash::Process } else { Crash::Power });
    let step = step(&stage);
    stage.say(&format!("cut at {step:?}; answered: {answered}"));
    assert!(step != Step::Active || !answered, "what was answered is known");
    assert!(step == Step::Gone || stage.left.borrow().is_empty() && !has_left(&stage));
    let report = stage.check();
    assert!(report.is_sound(), "{report}");

    stage.start(1 + u16::try_from(chance.below(2)).expect("small"));
    if step == Step::Active {
        stage.retire("1").expect("there is room");
    }
    if step != Step::Gone {
        let gone = stage.sim.run_until(LIMIT, || *stage.left.borrow() == [1]);
        assert!(gone, "{} bytes stay on it", live_on(&stage, 1));
        assert!(has_left(&stage));
    }
    let files = written.clone();
    stage.client(move |_, volume| async move {
        write_files(volume.clone(), 2000..2010, files).await.expect("there is room");
        volume.shutdown().await.expect("a clean end");
    });
    // What it held is of no concern any more.
    stage.others.take();
    let files = written.borrow().clone();
    assert!(files.len() * FILE_BYTES > 50 << 20);
    stage.client(move |world, volume| read_files(world, volume, files));
    stage.stop();
    let report = stage.check();
    assert!(report.is_sound(), "{report}");
    step
}

#[test]
fn a_device_that_retires_while_clients_write_takes_nothing_with_it_wherever_the_power_is_cut() {
    let seeds = seeds(SEEDS);
    let (results, failed) = run_all(seeds.clone(), 4, filled, retire_and_cut);
    assert!(failed.is_empty(), "wrong histories of seeds {failed:?}");
    let count = |step| results.iter().filter(|result| **result == step).count();
    let counts = [count(Step::Active), count(Step::Retiring), count(Step::Gone)];
    println!("not begun, retiring, gone: {counts:?}");
    if seeds.end - seeds.start >= SEEDS {
        assert!(counts.iter().all(|count| *count > 0), "cuts at each step: {counts:?}");
    }
}

#[test]
fn a_device_does_not_retire_where_the_others_have_no_room_nor_the_one_with_the_log() {
    let stage = stage_of(1, setup(), &crowded());
    stage.start(2);
    let refused = stage.retire("1").expect_err("it would not fit");
    assert!(refused.contains("lack") && refused.contains("bytes"), "{refused}");
    let refused = stage.retire("0").expect_err("it has the log");
    assert!(refused.contains("log"), "{refused}");
    let refused = stage.retire("/dev/none").expect_err("it is not there");
    assert!(refused.contains("/dev/none"), "{refused}");
    stage.stop();
    assert_eq!(step(&stage), Step::Active);
}
