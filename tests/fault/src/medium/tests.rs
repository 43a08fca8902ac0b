//! What a disk keeps and loses.

use super::*;

const SECTORS: u64 = 64;

fn disk(seed: u64) -> Medium {
    let path = std::env::temp_dir().join(format!("cfs-medium-{}-{seed}", std::process::id()));
    let options = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    std::fs::remove_file(&path).expect("it was made");
    Medium::new(options.expect("a file"), SECTORS * SECTOR, seed).expect("sized")
}

/// Each sector's first byte.
fn content(disk: &mut Medium) -> Vec<u8> {
    let all = disk.read(0, u32::try_from(SECTORS * SECTOR).expect("small")).expect("read");
    all.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()
}

fn fill(disk: &mut Medium, byte: u8) {
    disk.write(0, &vec![byte; index(SECTORS * SECTOR)]).expect("written");
}

#[test]
fn what_was_flushed_survives_and_of_the_rest_a_subset() {
    let mut parts = 0;
    for seed in 0..40 {
        let mut disk = disk(seed);
        fill(&mut disk, 1);
        disk.flush().expect("flushed");
        fill(&mut disk, 2);
        assert_eq!(content(&mut disk), [2; 64]);
        let (unflushed, left) = disk.cut(seed).expect("cut");
        assert!(matches!(disk.read(0, 512), Err(Refused::Dark)));
        assert!(matches!(disk.write(0, &[3; 512]), Err(Refused::Dark)));
        assert!(matches!(disk.flush(), Err(Refused::Dark)));
        disk.restore();
        let found = content(&mut disk);
        assert_eq!((unflushed, found.iter().filter(|byte| **byte == 2).count()), (64, left));
        assert!(found.iter().all(|byte| *byte == 1 || *byte == 2), "nothing else, nor what came after the cut");
        parts += usize::from(left > 0 && left < 64);
        assert_eq!(disk.unflushed(), 0);
    }
    assert!((10..40).contains(&parts), "{parts} of 40 cuts tore");
}

#[test]
fn the_same_seed_is_the_same_cut() {
    let play = |seed| {
        let mut disk = disk(seed);
        fill(&mut disk, 1);
        fill(&mut disk, 2);
        disk.cut(7).expect("cut");
        disk.restore();
        content(&mut disk)
    };
    assert_eq!(play(100), play(100));
}

#[test]
fn a_sector_written_twice_may_survive_in_its_older_form() {
    let found = (200..240).flat_map(|seed| {
        let mut disk = disk(seed);
        fill(&mut disk, 1);
        fill(&mut disk, 2);
        disk.cut(seed).expect("cut");
        disk.restore();
        content(&mut disk)
    });
    let found: Vec<u8> = found.collect();
    assert!([0, 1, 2].iter().all(|byte| found.contains(byte)));
}

#[test]
fn a_flush_that_lies_or_fails_makes_nothing_sure() {
    let mut disk = disk(300);
    fill(&mut disk, 1);
    disk.lie(true);
    disk.flush().expect("answered");
    assert_eq!((disk.unflushed(), disk.counts().lies), (64, 1));
    disk.lie(false);
    disk.fail(Request::Flush, 1);
    disk.flush().expect("the first does not fail");
    assert_eq!(disk.unflushed(), 0);
    let lost = (0..20).any(|_| {
        fill(&mut disk, 2);
        disk.fail(Request::Flush, 0);
        assert!(matches!(disk.flush(), Err(Refused::Told)));
        disk.flush().expect("only one fails");
        content(&mut disk) != [2; 64]
    });
    assert!(lost, "what a failed flush lost does not come back");
}

#[test]
fn one_request_fails_and_a_failed_write_tears() {
    let mut disk = disk(400);
    disk.fail(Request::Write, 0);
    assert!(disk.read(0, 512).is_ok(), "another kind");
    assert!(matches!(disk.write(0, &[1; 32 * 512]), Err(Refused::Told)));
    let found = content(&mut disk);
    assert!(found.contains(&1) && found[..32].contains(&0));
    disk.fail(Request::Read, 0);
    assert!(matches!(disk.read(0, 512), Err(Refused::Told)));
    assert!(disk.read(0, 512).is_ok());
}

#[test]
fn the_power_goes_at_the_request_that_was_named() {
    let mut disk = disk(500);
    disk.cut_after(2, 1);
    disk.write(0, &[1; 512]).expect("the first");
    disk.flush().expect("the second");
    assert!(matches!(disk.write(0, &[2; 512]), Err(Refused::Dark)));
    assert!(!disk.has_power());
    disk.restore();
    assert_eq!(content(&mut disk)[0], 1);
    assert!(matches!(disk.write(1, &[2; 512]), Err(Refused::Misplaced)));
    assert!(matches!(disk.write(SECTORS * SECTOR, &[2; 512]), Err(Refused::Misplaced)));
}
