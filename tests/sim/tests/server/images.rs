//! Devices that histories begin with, made once and shared copy-on-write.

use crate::history::{ME, name};
use crate::stage::{Setup, Stage, formatted};
use cfs_sim::MemoryDisk;
use cfs_types::InodeId;
use cfs_volume::{Creation, OpenFlags, Volume, WriteFlags};

/// Files that fill a small device, and bytes of each: every second one goes again.
const BALLAST_FILES: u32 = 600;
const BALLAST_BYTES: usize = 256 << 10;

/// Setups with their device.
pub struct Images {
    plain: (Setup, MemoryDisk),
    tight: (Setup, MemoryDisk),
    short_log: (Setup, MemoryDisk),
    crowded: (Setup, MemoryDisk),
}

impl Images {
    /// Makes all of them.
    pub fn new() -> Self {
        let empty = |setup: Setup| (setup, formatted(&setup));
        Images {
            plain: empty(Setup::default()),
            tight: empty(Setup::tight()),
            short_log: empty(Setup::short_log()),
            crowded: (Setup::small_device(), crowded(Setup::small_device(), BALLAST_FILES)),
        }
    }

    /// A stage for the history of a seed.
    pub fn stage(&self, seed: u64) -> Stage {
        let (setup, device) = match seed % 8 {
            0..3 => &self.plain,
            3..6 => &self.tight,
            6 => &self.short_log,
            _ => &self.crowded,
        };
        Stage::new(seed, *setup, device)
    }
}

/// A device with so many files, of which every second one is gone: so full that the cleaner has to work.
pub fn crowded(setup: Setup, files: u32) -> MemoryDisk {
    let stage = Stage::new(1, setup, &formatted(&setup));
    stage.start(1);
    stage.client(move |_, volume| async move {
        fill(&volume, files).await;
        volume.shutdown().await.expect("a clean end");
    });
    stage.stop();
    stage.device()
}

/// Writes so many files and deletes every second one.
pub async fn fill(volume: &Volume, files: u32) {
    let ballast = volume.mkdir(&ME, InodeId::ROOT, &name("ballast"), 0o755).await.expect("made").attr.ino;
    let flags = OpenFlags { write: true, direct: true, ..OpenFlags::default() };
    let how = Creation { mode: 0o644, exclusive: true, truncate: false, flags };
    for number in 0..files {
        let at = name(&format!("{number}"));
        let (_, handle) = volume.create(&ME, ballast, &at, &how).await.expect("created");
        let bytes = vec![number.to_le_bytes()[0] | 1; BALLAST_BYTES];
        assert_eq!(volume.write(handle, 0, &bytes, WriteFlags::default()).await, Ok(BALLAST_BYTES));
        volume.release(handle);
    }
    for number in (0..files).step_by(2) {
        volume.unlink(&ME, ballast, &name(&format!("{number}"))).await.expect("unlinked");
    }
}
