//! Laying out a device.

use crate::superblock::{inspect, store};
use crate::transfer::{flush, read_at, write_at};
use crate::{DeviceError, Layout, Superblock, SuperblockCopy, Uuid};
use cfs_seam::{Disk, IoBuf};

/// Bytes of one zero write.
const STRIDE_BYTES: u64 = 4 << 20;
/// Bytes at the beginning that must be zero on an empty device.
const GUARD_BYTES: u64 = 1 << 20;

/// How to lay out a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FormatOptions {
    /// Destroy what is there.
    pub force: bool,
    /// The cluster.
    pub cluster: Uuid,
    /// The node.
    pub node: Uuid,
    /// The device.
    pub device: Uuid,
    /// Bytes of a log slot, a power of two from 64 KiB; a quarter of it is the longest record.
    /// None: 4 MiB, or 1 MiB where the log area is small, so that several cores can share it.
    pub log_slot_bytes: Option<u64>,
    /// Bytes of the log area; None: a sixteenth of the device, 32 MiB to 1 GiB.
    pub log_bytes: Option<u64>,
}

impl FormatOptions {
    /// The defaults, for an empty device.
    pub fn new(cluster: Uuid, node: Uuid, device: Uuid) -> Self {
        FormatOptions { force: false, cluster, node, device, log_slot_bytes: None, log_bytes: None }
    }
}

/// Lays out the device and returns its superblock. Anchors and log area are zero-written, so that
/// nothing an earlier owner left is ever taken for ours; the superblock goes last, so that an
/// interrupted format leaves no device that opens. `progress` hears bytes done and bytes in all.
pub async fn format(
    disk: &dyn Disk,
    options: &FormatOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Superblock, DeviceError> {
    let layout = Layout::derive(disk.geometry().bytes, options.log_slot_bytes, options.log_bytes)?;
    if !options.force {
        refuse_non_empty(disk).await?;
    }
    let total = layout.zeroed_end();
    zero(disk, 0, GUARD_BYTES, &mut |done| progress(done, total)).await?;
    flush(disk).await?;
    zero(disk, GUARD_BYTES, total, &mut |done| progress(done, total)).await?;
    flush(disk).await?;
    let superblock = Superblock {
        cluster: options.cluster,
        node: options.node,
        device: options.device,
        generation: 1,
        failed: false,
        layout,
    };
    store(disk, &superblock).await?;
    Ok(superblock)
}

async fn refuse_non_empty(disk: &dyn Disk) -> Result<(), DeviceError> {
    let head = read_at(disk, 0, usize::try_from(GUARD_BYTES).expect("one MiB")).await?;
    if let Some(at) = head.iter().position(|b| *b != 0) {
        return Err(DeviceError::NotEmpty { offset: u64::try_from(at).expect("below one MiB") });
    }
    let copies = inspect(disk).await?;
    assert!(copies.iter().all(|copy| *copy == SuperblockCopy::Blank), "both lie in the first MiB");
    Ok(())
}

async fn zero(disk: &dyn Disk, from: u64, to: u64, done: &mut dyn FnMut(u64)) -> Result<(), DeviceError> {
    let mut buf = IoBuf::zeroed(usize::try_from(STRIDE_BYTES.min(to - from)).expect("a few MiB"));
    let mut at = from;
    while at < to {
        buf.set_len(usize::try_from(STRIDE_BYTES.min(to - at)).expect("a few MiB"));
        buf = write_at(disk, at, buf).await?;
        at = to.min(at + STRIDE_BYTES);
        done(at);
    }
    Ok(())
}
