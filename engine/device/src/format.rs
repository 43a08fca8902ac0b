//! Laying out a device.

use crate::superblock::{choose, inspect, store, unfinished};
use crate::transfer::{flush, read_at, write_at};
use crate::{DeviceError, LOG_AT, Layout, REGION_BYTES, SUPERBLOCK_BYTES, Superblock, SuperblockCopy, Uuid};
use cfs_seam::{Disk, IoBuf};

/// Bytes of one zero write.
const STRIDE_BYTES: u64 = 4 << 20;
/// Bytes at the beginning that both superblocks lie in.
const GUARD_BYTES: u64 = 1 << 20;
/// Regions that are looked into on a device that should be empty; those of a device that has more are looked
/// into at equal distances.
const PROBES_MAX: u64 = 1024;

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

/// Lays out the only or first device of a node and returns its superblock. Anchors and log area are zero-written, so that
/// nothing an earlier owner left is ever taken for ours; a mark that says so goes first and the superblock
/// last, so that an interrupted format leaves no device that opens, and one that is known for what it is.
/// `progress` hears bytes done and bytes in all.
pub async fn format(
    disk: &dyn Disk,
    options: &FormatOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Superblock, DeviceError> {
    let geometry = disk.geometry();
    let layout = match geometry.zoning {
        Some(zoning) => Layout::of_zones(geometry.bytes, zoning, options.log_slot_bytes)?,
        None => Layout::derive(geometry.bytes, options.log_slot_bytes, options.log_bytes)?,
    };
    let superblock = Superblock {
        cluster: options.cluster,
        node: options.node,
        device: options.device,
        generation: 1,
        failed: false,
        left: false,
        layout,
        place: None,
    };
    lay_out(disk, superblock, options.force, progress).await
}

/// As [`format`], whatever the place of the device.
pub(crate) async fn lay_out(
    disk: &dyn Disk,
    superblock: Superblock,
    force: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Superblock, DeviceError> {
    let layout = &superblock.layout;
    if !force {
        refuse_non_empty(disk).await?;
    }
    let total = layout.zeroed_end();
    let mut head = IoBuf::zeroed(usize::try_from(GUARD_BYTES).expect("one MiB"));
    head[..SUPERBLOCK_BYTES].copy_from_slice(&unfinished());
    write_at(disk, 0, head).await?;
    progress(GUARD_BYTES, total);
    flush(disk).await?;
    zero(disk, GUARD_BYTES, total, &mut |done| progress(done, total)).await?;
    flush(disk).await?;
    if layout.zone_bytes > 0 {
        empty_zones(disk, layout).await?;
    }
    store(disk, &superblock).await?;
    Ok(superblock)
}

/// Resets every zone behind the head.
async fn empty_zones(disk: &dyn Disk, layout: &Layout) -> Result<(), DeviceError> {
    let (offset, end) = (layout.log_at, disk.geometry().bytes);
    let reset = disk.discard(offset, end - offset).await;
    reset.map_err(|source| DeviceError::Write { offset, bytes: 0, source })
}

/// A device that an interrupted format marked counts as empty: whoever began it wanted it so. So does one that was
/// retired.
async fn refuse_non_empty(disk: &dyn Disk) -> Result<(), DeviceError> {
    let copies = inspect(disk).await?;
    if copies == [SuperblockCopy::Unfinished, SuperblockCopy::Blank] || choose(&copies).is_ok_and(|found| found.left) {
        return Ok(());
    }
    match first_in_use(disk, disk.geometry().bytes).await? {
        Some(offset) => Err(DeviceError::NotEmpty { offset }),
        None => Ok(()),
    }
}

/// Looks for a byte that is not zero where a store, or another owner, would have some: in everything
/// before the log, at the beginning of log slots and regions, and at the end. Not in all of `bytes`: that
/// takes hours on a large device.
pub(crate) async fn first_in_use(disk: &dyn Disk, bytes: u64) -> Result<Option<u64>, DeviceError> {
    let block = u64::try_from(SUPERBLOCK_BYTES).expect("4 KiB");
    let whole = (0..LOG_AT.min(bytes) / GUARD_BYTES).map(|n| (n * GUARD_BYTES, GUARD_BYTES));
    let zoning = disk.geometry().zoning;
    // A zone that was written to begins with something.
    let slots = if zoning.is_some() { None } else { Layout::derive(bytes, None, None).ok() };
    let slots = slots.iter().flat_map(|l| (0..l.log_slots).map(|slot| l.log_at + slot * l.log_slot_bytes));
    let (from, unit) = zoning.map_or((0, REGION_BYTES), |zoning| (zoning.head_bytes, zoning.zone_bytes));
    let stride = unit.max((bytes / PROBES_MAX).next_multiple_of(unit));
    let regions = (u64::from(from == 0)..(bytes - from.min(bytes)) / stride).map(move |n| from + n * stride);
    let last = (bytes / block).checked_sub(1).map(|n| n * block);
    let blocks = slots.chain(regions).chain(last).map(|at| (at, block));
    for (at, length) in whole.chain(blocks) {
        let read = read_at(disk, at, usize::try_from(length).expect("at most one MiB")).await?;
        if let Some(found) = read.iter().position(|byte| *byte != 0) {
            return Ok(Some(at + u64::try_from(found).expect("below one MiB")));
        }
    }
    Ok(None)
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
