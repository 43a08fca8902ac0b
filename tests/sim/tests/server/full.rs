//! Requests whose answers were lost, asked again when the store is full.

use crate::raw::Peer;
use crate::stage::{Setup, Stage, formatted};
use cfs_seam::{IoBuf, World, sleep};
use cfs_types::{FsError, InodeId, Name, RANGE_BYTES};
use cfs_volume::VolumeOptions;
use cfs_wire::{Op, Reply, XattrMode};
use std::time::Duration;

const DIR: InodeId = InodeId::ROOT;
const REFUSED: Result<Reply, FsError> = Err(FsError::NoSpace);

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn create(text: &str) -> Op {
    Op::Create { dir: DIR, name: name(text), mode: 0o644, exclusive: true, truncate: false }
}

fn write(ino: InodeId, offset: u64, len: u32, append: bool) -> Op {
    Op::Write { ino, offset, len, append, kill_privileges: false, held: None }
}

fn xattr(ino: InodeId, text: &str, len: usize) -> Op {
    let name = format!("user.{text}").into_bytes();
    Op::SetXattr { ino, name, value: vec![1; len], mode: XattrMode::Create }
}

async fn ask(peer: &Peer, op: &Op) -> Result<Reply, FsError> {
    let payload = match op {
        Op::Write { len, .. } => Some(IoBuf::copy_of(&vec![7; *len as usize])),
        _ => None,
    };
    peer.call(DIR.shard(), op.clone(), payload).await
}

async fn make(peer: &Peer, text: &str) -> InodeId {
    match ask(peer, &create(text)).await {
        Ok(Reply::Entry(entry)) => entry.ino,
        other => panic!("{text}: {other:?}"),
    }
}

async fn size_of(peer: &Peer, ino: InodeId) -> u64 {
    match ask(peer, &Op::Getattr { ino }).await {
        Ok(Reply::Attr(attr)) => attr.size,
        other => panic!("{other:?}"),
    }
}

/// Until neither data nor metadata fit any more, also not in what was packed closer meanwhile.
async fn fill(peer: &Peer, ino: InodeId) {
    let (mut end, mut kept, mut more) = (0, 0, true);
    while std::mem::take(&mut more) {
        for len in [1 << 20, 32 << 10, 1] {
            loop {
                match ask(peer, &write(ino, end, len, false)).await {
                    Ok(_) => (end, more) = (end + u64::from(len), true),
                    full => break assert_eq!(full, REFUSED),
                }
            }
        }
        while ask(peer, &xattr(ino, &kept.to_string(), 60_000)).await != REFUSED {
            (kept, more) = (kept + 1, true);
        }
    }
}

/// One request of each kind that needs space.
fn requests(ino: InodeId, text: &str) -> Vec<Op> {
    let name = name(text);
    vec![
        Op::Mkdir { dir: DIR, name: self::name(&format!("{text}-dir")), mode: 0o755 },
        Op::Symlink { dir: DIR, name, target: b"elsewhere".to_vec() },
        create(&format!("{text}-file")),
        xattr(ino, text, 100),
        write(ino, 0, 100, true),
        write(ino, 0, 200 << 10, true),
        write(ino, RANGE_BYTES + 4096, 100, false),
        write(ino, RANGE_BYTES + 4096, 100 << 10, false),
    ]
}

async fn repeat(world: World, options: VolumeOptions) {
    let peer = Peer::connect(&world, &options).await;
    peer.go_on(1, Some(1));
    let (ino, filler) = (make(&peer, "file").await, make(&peer, "filler").await);
    // The last two requests overwrite a range of another shard.
    ask(&peer, &write(ino, RANGE_BYTES, 1 << 20, false)).await.expect("there is room");
    let (first, early) = (10, requests(ino, "early"));
    peer.go_on(first, Some(1));
    let mut answers = Vec::new();
    for op in &early {
        let answer = ask(&peer, op).await;
        assert!(answer.is_ok(), "{op:?}: {answer:?}");
        answers.push(answer);
    }
    let size = size_of(&peer, ino).await;
    peer.go_on(1_000, Some(1));
    fill(&peer, filler).await;
    let (second, late) = (50_000, requests(ino, "late"));
    peer.go_on(second, Some(1));
    for op in &late {
        assert_eq!(ask(&peer, op).await, REFUSED, "{op:?}: the store is not full");
    }
    peer.go_on(first, Some(1));
    for (op, answer) in early.iter().zip(&answers) {
        assert_eq!(ask(&peer, op).await, *answer, "{op:?}");
    }
    assert_eq!(size_of(&peer, ino).await, size, "each was executed once");

    peer.go_on(60_000, Some(1));
    ask(&peer, &Op::Unlink { dir: DIR, name: name("filler") }).await.expect("deleting works");
    ask(&peer, &Op::Close { ino: filler }).await.expect("closed");
    for attempt in 0.. {
        sleep(&world.clock, Duration::from_secs(1)).await;
        if ask(&peer, &write(ino, RANGE_BYTES, 1 << 20, false)).await.is_ok() {
            break;
        }
        assert!(attempt < 60, "no space comes back");
    }
    peer.go_on(second, Some(1));
    for op in &late {
        assert_eq!(ask(&peer, op).await, REFUSED, "{op:?}: an attempt that was late is executed");
    }
    assert_eq!(size_of(&peer, ino).await, size);
}

#[test]
fn what_was_executed_is_answered_as_then_and_what_was_refused_stays_so() {
    let setup = Setup { device_bytes: 256 << 20, log_bytes: 32 << 20, ..Setup::default() };
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(1);
    let options = stage.options();
    stage.client(|world, _| repeat(world, options));
    stage.stop();
    let report = stage.check();
    assert!(report.is_sound(), "{report}");
}
