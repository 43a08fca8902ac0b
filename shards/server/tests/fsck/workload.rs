//! What a client writes, and what it must read afterwards.

use cfs_seam::World;
use cfs_types::{FsError, InodeId, Name};
use cfs_volume::{Creation, Handle, Lookup, OpenFlags, RenameMode, Volume, WriteFlags};
use cfs_wire::Identity;
use std::rc::Rc;

const ROOT: InodeId = InodeId::ROOT;
const RANGE: u64 = cfs_types::RANGE_BYTES;

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

pub fn me() -> Identity {
    Identity::default()
}

/// A piece of a file that must read as written.
pub struct Expected {
    path: &'static str,
    offset: u64,
    bytes: Vec<u8>,
}

/// Bytes that differ from place to place.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(31) ^ n >> 8 ^ seed).to_le_bytes()[0]).collect()
}

/// Files with bytes in the log, in chunks, and in two ranges.
pub fn expected() -> Vec<Expected> {
    let piece = |path, offset, seed, len| Expected { path, offset, bytes: pattern(seed, len) };
    vec![
        piece("small", 0, 1, 100),
        piece("a/medium", 0, 2, 20_000),
        piece("a/b/large", 0, 3, 700_000),
        piece("a/b/sparse", 5000, 4, 3000),
        piece("a/b/sparse", RANGE + 4096, 5, 10_000),
        piece("a/b/sparse", 2 * RANGE + 8192, 6, 200_000),
        piece("second", 0, 2, 20_000),
        piece("moved", 0, 7, 5000),
    ]
}

async fn put(volume: &Volume, dir: InodeId, text: &str, pieces: &[(u64, u64, usize)]) -> (InodeId, Handle) {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags };
    let (entry, handle) = volume.create(&me(), dir, &name(text), &how).await.expect("created");
    for (offset, seed, len) in pieces {
        let bytes = pattern(*seed, *len);
        assert_eq!(volume.write(handle, *offset, &bytes, WriteFlags::default()).await, Ok(*len));
    }
    volume.fsync(handle).await.expect("durable");
    (entry.attr.ino, handle)
}

/// Writes it all, and leaves nothing under way.
pub async fn write(_world: World, volume: Rc<Volume>) {
    write_files(&volume).await;
    volume.shutdown().await.expect("a clean end");
}

/// Writes it all.
pub async fn write_files(volume: &Volume) {
    let a = volume.mkdir(&me(), ROOT, &name("a"), 0o755).await.expect("made").attr.ino;
    let b = volume.mkdir(&me(), a, &name("b"), 0o755).await.expect("made").attr.ino;
    let mut handles = vec![put(volume, ROOT, "small", &[(0, 1, 100)]).await.1];
    let (medium, handle) = put(volume, a, "medium", &[(0, 2, 20_000)]).await;
    handles.push(handle);
    handles.push(put(volume, b, "large", &[(0, 3, 700_000)]).await.1);
    let pieces = [(5000, 4, 3000), (RANGE + 4096, 5, 10_000), (2 * RANGE + 8192, 6, 200_000)];
    handles.push(put(volume, b, "sparse", &pieces).await.1);
    volume.link(&me(), medium, ROOT, &name("second")).await.expect("linked");
    handles.push(put(volume, b, "old", &[(0, 7, 5000)]).await.1);
    volume.rename(&me(), (b, &name("old")), (ROOT, &name("moved")), RenameMode::Replace).await.expect("renamed");
    let (gone, handle) = put(volume, b, "gone", &[(0, 8, 150_000)]).await;
    handles.push(handle);
    volume.setxattr(&me(), gone, b"user.x", b"value", cfs_wire::XattrMode::Create).await.expect("set");
    volume.setxattr(&me(), medium, b"user.kept", b"value", cfs_wire::XattrMode::Create).await.expect("set");
    handles.into_iter().for_each(|handle| volume.release(handle));
    volume.unlink(&me(), b, &name("gone")).await.expect("unlinked");
    volume.symlink(&me(), b, &name("link"), b"../medium").await.expect("made");
    volume.mkdir(&me(), b, &name("empty"), 0o755).await.expect("made");
    volume.rmdir(&me(), b, &name("empty")).await.expect("removed");
    for n in 0..40 {
        volume.mkdir(&me(), b, &name(&format!("directory-{n}")), 0o700).await.expect("made");
    }
}

/// What became of a piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Right,
    Refused(FsError),
    Wrong(String),
}

async fn find(volume: &Volume, path: &str) -> Result<InodeId, Seen> {
    let mut at = ROOT;
    for part in path.split('/') {
        match volume.lookup(&me(), at, &name(part)).await {
            Ok(Lookup::Found(entry)) => at = entry.attr.ino,
            Ok(Lookup::Missing { .. }) => return Err(Seen::Wrong(format!("{path}: {part} is missing"))),
            Err(error) => return Err(Seen::Refused(error)),
        }
    }
    Ok(at)
}

async fn see(volume: &Volume, piece: &Expected) -> Seen {
    let ino = match find(volume, piece.path).await {
        Ok(ino) => ino,
        Err(seen) => return seen,
    };
    let handle = match volume.open(&me(), ino, OpenFlags::default()).await {
        Ok(handle) => handle,
        Err(error) => return Seen::Refused(error),
    };
    let len = u32::try_from(piece.bytes.len()).expect("short");
    let read = volume.read(handle, piece.offset, len).await;
    volume.release(handle);
    match read {
        Ok(bytes) if *bytes == *piece.bytes => Seen::Right,
        Ok(bytes) => Seen::Wrong(format!("{} at {}: {} bytes of {len}", piece.path, piece.offset, bytes.len())),
        Err(error) => Seen::Refused(error),
    }
}

/// Reads it all.
pub async fn read(_world: World, volume: Rc<Volume>) -> Vec<Seen> {
    let mut seen = Vec::new();
    for piece in expected() {
        seen.push(see(&volume, &piece).await);
    }
    seen
}
