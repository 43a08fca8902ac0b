//! The replica's tables and their manifest: flush, compaction, and what the log may then forget.
//!
//! Invariant: the log is released only after both copies of the anchor are durable; one change of
//! a store's tables at a time.

use super::transfer::{AREA_SPACE, area_key};
use super::{Mark, Replica};
use crate::manifest::GroupManifest;
use crate::view::StoreView;
use cfs_device::AnchorId;
use cfs_exec::Permit;
use cfs_kv::{Change, KvError, Manifest, Pins, Scan};
use cfs_namespace::{Stop, data};
use cfs_segment::{CellRef, SpaceError};
use cfs_types::{FsError, LogIndex, Timestamp};

/// Data areas forgotten at once.
const AREAS_AT_ONCE: usize = 256;

type Covered = (Mark, Timestamp);

impl Replica {
    /// Waits until the store's tables are not being changed, and keeps them so while it lives.
    pub async fn rest_tables(&self) -> Permit {
        self.maintenance.acquire(1).await
    }

    /// Makes what is executed so far durable in tables, and lets the log forget what they cover and
    /// no small write needs. True at most once: the group needs nothing of old streams any more.
    pub async fn checkpoint(&self) -> Result<bool, FsError> {
        let _turn = self.maintenance.acquire(1).await;
        let now = (self.mark.get(), self.clock.last());
        if self.frozen.get().is_none() && self.store.freeze() {
            self.frozen.set(Some(now));
        }
        let covered = self.frozen.get().unwrap_or(now);
        match self.store.flush().await.map_err(store_error)? {
            Some(change) => self.commit(change, covered).await?,
            None => self.write_anchor(self.store.manifest(), covered).await?,
        }
        self.frozen.set(None);
        self.release(covered.0).await
    }

    /// One step of compaction. False where there is nothing to do.
    pub async fn compact(&self) -> Result<bool, FsError> {
        let _turn = self.maintenance.acquire(1).await;
        let Some(change) = self.store.compact_step().await.map_err(store_error)? else {
            return Ok(false);
        };
        self.commit(change, self.flushed.get()).await?;
        Ok(true)
    }

    /// Moves one table's cell elsewhere, for the cleaner.
    pub async fn relocate_table(&self, cell: CellRef) -> Result<(), FsError> {
        let _turn = self.maintenance.acquire(1).await;
        match self.store.relocate(cell).await.map_err(store_error)? {
            Some(change) => self.commit(change, self.flushed.get()).await,
            None => Ok(()),
        }
    }

    /// Makes a change of the tables durable; with it they cover `covered`.
    pub(super) async fn commit(&self, mut change: Change, covered: Covered) -> Result<(), FsError> {
        let manifest = self.store.propose(&mut change).map_err(store_error)?;
        self.write_anchor(manifest, covered).await?;
        self.store.install(change).map_err(store_error)
    }

    async fn write_anchor(&self, tables: Manifest, covered: Covered) -> Result<(), FsError> {
        let (mark, timestamp) = covered;
        let (vote, epoch) = (self.vote(), self.epoch.get());
        let manifest = GroupManifest { mark, vote, epoch, timestamp, tables };
        let id = AnchorId::group(self.id);
        self.anchors.write(id, &manifest.encode()).await.map_err(|_| FsError::Device)?;
        self.flushed.set(covered);
        Ok(())
    }

    /// Tells the log what it may forget. Followers that need an older entry are sent the state.
    async fn release(&self, mark: Mark) -> Result<bool, FsError> {
        if self.is_serving() {
            return Ok(false);
        }
        let needed_from = self.oldest_log_ref().await?.map_or(u64::MAX, LogIndex::get);
        let through = mark.applied.0.min(needed_from.saturating_sub(1));
        if self.peers.is_some() {
            self.forget_areas(through).await?;
        }
        Ok(self.log.release(self.id, LogIndex::new(through), mark.locals))
    }

    async fn oldest_log_ref(&self) -> Result<Option<LogIndex>, FsError> {
        let mut pins = Pins::default();
        loop {
            let view = StoreView::new(&self.store);
            match data::oldest_log_ref(&view) {
                Ok(found) => return Ok(found),
                Err(Stop::Need(need)) => pins.merge(view.load(need).await.map_err(|_| FsError::Corrupt)?),
                Err(Stop::Fail(error)) => return Err(error),
                Err(Stop::Blocked(_)) => return Err(FsError::Blocked),
            }
        }
    }

    /// Deletes data areas through `through` that came with a state. Where a crash undoes it, the
    /// next checkpoint does it again.
    async fn forget_areas(&self, through: u64) -> Result<(), FsError> {
        let mut pins = Pins::default();
        loop {
            match self.store.scan(&[AREA_SPACE], &area_key(through.saturating_add(1)), Timestamp::MAX, AREAS_AT_ONCE) {
                Scan::Miss(fetch) => pins.merge(self.fetch(&fetch).await?),
                Scan::Rows { rows, more } => {
                    let gone = rows.into_iter().map(|(key, _)| (key, None)).collect();
                    self.store.apply(gone, self.clock.tick());
                    if !more {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// The answer to a failure of the store.
pub(super) fn store_error(error: KvError) -> FsError {
    match error {
        KvError::Damaged { .. } | KvError::Space(SpaceError::Damaged { .. }) => FsError::Corrupt,
        KvError::Space(SpaceError::NoSpace) | KvError::TooManyTables => FsError::NoSpace,
        KvError::Busy => FsError::Busy,
        KvError::Space(_) => FsError::Device,
    }
}
