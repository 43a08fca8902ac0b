//! Streams whose anchor is gone.
//!
//! A stream has its anchor before its first batch, and keeps it until a later start, whose streams have
//! theirs by then, frees it. So what lies in the log is of a stream that has an anchor, or of a start before
//! the newest of those. A group writes its manifest after that, and a store that was ever started has at
//! least one stream.

use super::newest_boot;
use super::walk::{READS_AT_ONCE, Walked};
use crate::{LogError, batch};
use cfs_device::{AnchorId, Anchors, Layout, read_at};
use cfs_seam::{BLOCK_BYTES, Disk, gather};
use cfs_types::GroupId;

/// An error where a stream has lost its anchor, or all have.
pub(super) async fn refuse(
    disk: &dyn Disk,
    layout: &Layout,
    anchors: &Anchors,
    streams: &[(u16, Walked)],
) -> Result<(), LogError> {
    let newest = newest_boot(streams);
    let slots: Vec<u32> = (0..).take_while(|slot| u64::from(*slot) < layout.log_slots).collect();
    let reads = slots.iter().map(|slot| read_at(disk, layout.slot_at(*slot), BLOCK_BYTES));
    for (slot, block) in slots.iter().zip(gather(reads, READS_AT_ONCE).await) {
        let Some(header) = batch::parse_header(&block?) else { continue };
        let stream = header.stream;
        let is_known = streams.iter().any(|(_, walked)| walked.head.stream == stream);
        if stream.boot >= newest && !is_known {
            let offset = layout.slot_at(*slot);
            return Err(LogError::AnchorLost { boot: stream.boot, core: stream.core, slot: *slot, offset });
        }
    }
    if streams.is_empty() { refuse_manifests(anchors).await } else { Ok(()) }
}

async fn refuse_manifests(anchors: &Anchors) -> Result<(), LogError> {
    for group in (0..).take(GroupId::COUNT).map(GroupId::new) {
        let id = AnchorId::group(group);
        if anchors.read(id).await?.is_some() {
            return Err(LogError::NoStream { group, offset: anchors.offsets(id)[0] });
        }
    }
    Ok(())
}
