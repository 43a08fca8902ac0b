//! Checkpoints of a shard: its memtable becomes tables, its manifest names them, and the log
//! forgets what they cover.

use crate::core::Core;
use crate::messages::CoreRequest;
use crate::pack;
use crate::shard::Shard;
use cfs_segment::CellRef;
use cfs_types::{CoreId, FsError};
use std::rc::Rc;

/// Flushes a shard, having packed its small writes so far, and releases the log.
pub async fn checkpoint(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<(), FsError> {
    shard.replica.ready().await?;
    // Where there is no room to pack, the tables are flushed all the same.
    match pack::pack_all(core, shard).await {
        Ok(()) | Err(FsError::NoSpace) => {}
        Err(error) => return Err(error),
    }
    let gone = shard.replica.checkpoint().await?;
    core.metrics.flushes.bump();
    if gone {
        core.peers.call(CoreId::new(0), CoreRequest::OldReleased(shard.group())).await;
    }
    Ok(())
}

/// One step of compaction. False where there is nothing to do.
pub async fn compact(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<bool, FsError> {
    let compacted = shard.replica.compact().await?;
    if compacted {
        core.metrics.compactions.bump();
    }
    Ok(compacted)
}

/// Moves one table's cell elsewhere, for the cleaner.
pub async fn relocate_table(shard: &Rc<Shard>, cell: CellRef) -> Result<(), FsError> {
    shard.replica.relocate_table(cell).await
}
