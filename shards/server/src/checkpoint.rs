//! Checkpoints of a shard: its memtable becomes tables, its manifest names them, and the log
//! forgets what they cover.
//!
//! Invariant: the log is released only after both copies of the anchor are durable; one change of
//! a store's tables at a time.

use crate::core::Core;
use crate::file_data::settle;
use crate::manifest::GroupManifest;
use crate::messages::CoreRequest;
use crate::pack;
use crate::replica::Mark;
use crate::shard::Shard;
use cfs_device::AnchorId;
use cfs_kv::{Change, KvError, Manifest};
use cfs_segment::{CellRef, SpaceError};
use cfs_types::{CoreId, FsError, LogIndex, Timestamp};
use std::rc::Rc;

/// Flushes a shard, having packed its small writes so far, and releases the log.
pub async fn checkpoint(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<(), FsError> {
    shard.replica.ready().await?;
    // Where there is no room to pack, the tables are flushed all the same.
    match pack::pack_all(core, shard).await {
        Ok(()) | Err(FsError::NoSpace) => {}
        Err(error) => return Err(error),
    }
    let _turn = shard.maintenance.acquire(1).await;
    let store = shard.replica.store().clone();
    let now = (shard.replica.mark(), core.clock.last());
    if shard.frozen.get().is_none() && store.freeze() {
        shard.frozen.set(Some(now));
    }
    let covered = shard.frozen.get().unwrap_or(now);
    match store.flush().await.map_err(store_error)? {
        Some(change) => commit(core, shard, change, covered).await?,
        None => write_anchor(core, shard, store.manifest(), covered).await?,
    }
    shard.frozen.set(None);
    core.metrics.flushes.bump();
    release(core, shard, covered.0).await
}

/// One step of compaction. False where there is nothing to do.
pub async fn compact(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<bool, FsError> {
    let _turn = shard.maintenance.acquire(1).await;
    let Some(change) = shard.replica.store().compact_step().await.map_err(store_error)? else {
        return Ok(false);
    };
    commit(core, shard, change, shard.flushed.get()).await?;
    core.metrics.compactions.bump();
    Ok(true)
}

/// Moves one table's cell elsewhere, for the cleaner.
pub async fn relocate_table(core: &Rc<Core>, shard: &Rc<Shard>, cell: CellRef) -> Result<(), FsError> {
    let _turn = shard.maintenance.acquire(1).await;
    match shard.replica.store().relocate(cell).await.map_err(store_error)? {
        Some(change) => commit(core, shard, change, shard.flushed.get()).await,
        None => Ok(()),
    }
}

type Covered = (Mark, Timestamp);

/// Makes a change of the tables durable; with it they cover `covered`.
async fn commit(core: &Rc<Core>, shard: &Rc<Shard>, mut change: Change, covered: Covered) -> Result<(), FsError> {
    let store = shard.replica.store().clone();
    let manifest = store.propose(&mut change).map_err(store_error)?;
    write_anchor(core, shard, manifest, covered).await?;
    store.install(change).map_err(store_error)
}

async fn write_anchor(core: &Rc<Core>, shard: &Rc<Shard>, tables: Manifest, covered: Covered) -> Result<(), FsError> {
    let (mark, timestamp) = covered;
    let (vote, epoch) = (shard.replica.vote(), shard.replica.epoch());
    let manifest = GroupManifest { mark, vote, epoch, timestamp, tables };
    let id = AnchorId::group(shard.group());
    core.anchors.write(id, &manifest.encode()).await.map_err(|_| FsError::Device)?;
    shard.flushed.set(covered);
    Ok(())
}

/// Tells the log what it may forget: what the tables cover and no small write needs.
async fn release(core: &Rc<Core>, shard: &Rc<Shard>, mark: Mark) -> Result<(), FsError> {
    let oldest = shard.read(|view, _| settle(cfs_namespace::data::oldest_log_ref(view))).await??;
    let needed_from = oldest.map_or(u64::MAX, LogIndex::get);
    let through = mark.applied.0.min(needed_from.saturating_sub(1));
    if core.log.release(shard.group(), LogIndex::new(through), mark.locals) {
        core.peers.call(CoreId::new(0), CoreRequest::OldReleased(shard.group())).await;
    }
    Ok(())
}

fn store_error(error: KvError) -> FsError {
    match error {
        KvError::Damaged { .. } | KvError::Space(SpaceError::Damaged { .. }) => FsError::Corrupt,
        KvError::Space(SpaceError::NoSpace) | KvError::TooManyTables => FsError::NoSpace,
        KvError::Busy => FsError::Busy,
        KvError::Space(_) => FsError::Device,
    }
}
