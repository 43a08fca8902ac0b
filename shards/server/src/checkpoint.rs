//! Checkpoints of a shard: its memtable becomes tables, its manifest names them, and the log
//! forgets what they cover.
//!
//! Invariant: the last step never needs room in the log, so a full log always comes free.

use crate::core::Core;
use crate::log_room::LogRoom;
use crate::messages::CoreRequest;
use crate::pack;
use crate::shard::Shard;
use cfs_seam::{Class, io, spawn, timeout};
use cfs_segment::CellRef;
use cfs_types::{CoreId, FsError};
use std::rc::Rc;
use std::time::Duration;

/// Between two looks at the log while small writes are being packed.
const PATIENCE: Duration = Duration::from_millis(20);

/// Flushes a shard, having packed its small writes so far, and releases the log.
pub async fn checkpoint(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<(), FsError> {
    shard.replica.ready().await?;
    // Too many tables would make reads slow, and fill the manifest.
    while shard.replica.store().is_stalled() && compact(core, shard).await? {}
    let packed = match pack(core, shard).await {
        Some(Ok(all)) => Some(all),
        // Where there is no space to pack, the tables are flushed all the same.
        Some(Err(FsError::NoSpace)) => Some(true),
        Some(Err(error)) => return Err(error),
        None => None,
    };
    if packed.is_some() {
        let gone = shard.replica.checkpoint().await?;
        note_flush(core, shard, gone).await;
    }
    // The log would wait for ever for what cannot be read.
    if packed != Some(true) {
        let (gone, bytes) = shard.replica.evacuate().await?;
        core.metrics.evacuated_bytes.add(bytes);
        note_flush(core, shard, gone).await;
    }
    Ok(())
}

/// After a flush: the shard may need nothing of old log streams any more.
async fn note_flush(core: &Rc<Core>, shard: &Rc<Shard>, gone: bool) {
    core.metrics.flushes.bump();
    if gone {
        core.peers.call(CoreId::new(0), CoreRequest::OldReleased(shard.group())).await;
    }
}

/// Packs the shard's small writes. None where the log has no room for that, before or meanwhile: it
/// is then finished when there is room again, and nobody waits for it. False where some cannot be read.
async fn pack(core: &Rc<Core>, shard: &Rc<Shard>) -> Option<Result<bool, FsError>> {
    if LogRoom::is_short(&core.log) || shard.packing.replace(true) {
        return None;
    }
    let (promise, mut done) = io();
    let (owner, packed) = (core.clone(), shard.clone());
    let task = async move {
        promise.complete(pack::pack_all(&owner, &packed).await);
        packed.packing.set(false);
    };
    spawn(&core.world.tasks, Class::Background, task).detach();
    loop {
        let until = core.world.clock.now().after(PATIENCE);
        if let Some(result) = timeout(&core.world.clock, until, &mut done).await {
            return Some(result);
        }
        if LogRoom::is_short(&core.log) {
            return None;
        }
    }
}

/// One step of compaction. False where there is nothing to do.
pub async fn compact(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<bool, FsError> {
    let compacted = shard.replica.compact().await?;
    if compacted {
        core.metrics.compactions.bump();
    }
    Ok(compacted)
}

/// Moves one table's cell elsewhere, for the cleaner. False where it is not there any more.
pub async fn relocate_table(shard: &Rc<Shard>, cell: CellRef) -> Result<bool, FsError> {
    shard.replica.relocate_table(cell).await
}
