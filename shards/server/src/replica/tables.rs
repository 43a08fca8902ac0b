//! The replica's tables and their manifest: flush, compaction, and what the log may then forget.
//!
//! Invariants: the log is released only after both copies of the anchor are durable; one change of
//! a store's tables at a time; releasing needs no room in the log.

use super::transfer::{AREA_SPACE, area_key};
use super::{Mark, Replica};
use crate::manifest::GroupManifest;
use cfs_device::{AnchorId, DeviceError};
use cfs_exec::{Pass, Permit};
use cfs_kv::{Change, KvError, Pins, Root, Scan};
use cfs_segment::{CellRef, SpaceError};
use cfs_types::{FsError, LogIndex, Timestamp};

/// Data areas forgotten at once.
const AREAS_AT_ONCE: usize = 16;
/// Bytes of data areas that are copied into the memtable before it is flushed.
const COPIED_AT_ONCE: u64 = 4 << 20;

type Covered = (Mark, Timestamp);

impl Replica {
    /// Nobody begins to change the store's tables from the call on; resolves when nobody does.
    pub fn close_tables(&self) -> impl Future<Output = ()> + use<> {
        self.table_gate.close()
    }

    /// A turn to change the store's tables. `Interrupted` once they were closed.
    pub(super) async fn table_turn(&self) -> Result<(Pass, Permit), FsError> {
        let pass = self.table_gate.enter().ok_or(FsError::Interrupted)?;
        Ok((pass, self.maintenance.acquire(1).await))
    }

    /// Makes what is executed so far durable in tables, and lets the log forget what they cover and
    /// no small write needs. True at most once: the group needs nothing of old streams any more.
    pub async fn checkpoint(&self) -> Result<bool, FsError> {
        let _turn = self.table_turn().await?;
        self.flush_tables().await?;
        self.release().await
    }

    /// As [`Replica::checkpoint`], but first copies the small writes that only the log holds into the
    /// tables, so that the log may forget everything. It writes nothing to the log. Returns the bytes
    /// copied too.
    pub async fn evacuate(&self) -> Result<(bool, u64), FsError> {
        let _turn = self.table_turn().await?;
        if self.frozen.get().is_some() {
            // It was frozen without the copies that follow.
            self.flush_tables().await?;
        }
        let (mut gone, mut bytes) = (false, 0);
        loop {
            let copied = self.copy_areas().await?;
            self.flush_tables().await?;
            self.areas_through.set(self.areas_through.get().max(copied.through));
            gone |= self.release().await?;
            bytes += copied.bytes;
            if !copied.more {
                return Ok((gone, bytes));
            }
        }
    }

    /// Copies data areas that rows name into the store, a bounded number of bytes.
    async fn copy_areas(&self) -> Result<Copied, FsError> {
        let last = self.mark.get().applied.0;
        let mut copied = Copied { through: self.areas_through.get(), bytes: 0, more: false };
        loop {
            let next = self.log_ref_from(copied.through + 1, Timestamp::MAX).await?;
            let Some(index) = next.filter(|index| index.get() <= last) else {
                copied.through = copied.through.max(last);
                return Ok(copied);
            };
            if copied.bytes >= COPIED_AT_ONCE {
                copied.more = true;
                return Ok(copied);
            }
            self.has_areas.set(true);
            if self.kept_area(index).await?.is_none() {
                let area = self.data_area(index).await?;
                copied.bytes += area.len() as u64;
                self.store.apply(vec![(area_key(index.get()), Some(area.into()))], self.clock.tick());
            }
            copied.through = index.get();
        }
    }

    async fn flush_tables(&self) -> Result<(), FsError> {
        let now = (self.mark.get(), self.clock.last());
        if self.frozen.get().is_none() && self.store.freeze() {
            self.frozen.set(Some(now));
        }
        let covered = self.frozen.get().unwrap_or(now);
        match self.store.flush().await.map_err(store_error)? {
            Some(change) => self.commit(change, covered).await?,
            None => self.write_anchor(self.store.manifest().root(), covered).await?,
        }
        self.frozen.set(None);
        Ok(())
    }

    /// One step of compaction. False where there is nothing to do.
    pub async fn compact(&self) -> Result<bool, FsError> {
        let _turn = self.table_turn().await?;
        let Some(change) = self.store.compact_step().await.map_err(store_error)? else {
            return Ok(false);
        };
        self.commit(change, self.flushed.get()).await?;
        Ok(true)
    }

    /// Moves one table's cell elsewhere, for the cleaner.
    pub async fn relocate_table(&self, cell: CellRef) -> Result<(), FsError> {
        let _turn = self.table_turn().await?;
        match self.store.relocate(cell).await.map_err(store_error)? {
            Some(change) => self.commit(change, self.flushed.get()).await,
            None => Ok(()),
        }
    }

    /// Makes a change of the tables durable; with it they cover `covered`.
    pub(super) async fn commit(&self, mut change: Change, covered: Covered) -> Result<(), FsError> {
        let root = self.store.propose(&mut change).await.map_err(store_error)?;
        self.write_anchor(root, covered).await?;
        self.store.install(change).map_err(store_error)
    }

    async fn write_anchor(&self, tables: Root, covered: Covered) -> Result<(), FsError> {
        let (mark, timestamp) = covered;
        let (vote, epoch) = (self.vote(), self.epoch.get());
        let manifest = GroupManifest { mark, vote, epoch, timestamp, tables };
        let id = AnchorId::group(self.id);
        if let Err(error) = self.anchors.write(id, &manifest.encode()).await {
            return Err(self.manifest_failed(error).await);
        }
        self.flushed.set(covered);
        Ok(())
    }

    /// A write or flush that failed ends the core's log, as any other does: what the device holds is not
    /// known.
    async fn manifest_failed(&self, error: DeviceError) -> FsError {
        match error {
            DeviceError::Write { .. } | DeviceError::Flush { .. } => {
                self.log.fail(error).await;
                FsError::Device
            }
            DeviceError::AnchorDamaged { .. } => self.damaged(error.to_string()),
            _ => FsError::Device,
        }
    }

    /// Tells the log what it may forget of what the tables cover. Followers that need an older entry
    /// are sent the state.
    async fn release(&self) -> Result<bool, FsError> {
        if self.is_serving() {
            return Ok(false);
        }
        let (mark, _) = self.flushed.get();
        let named = self.log_ref_from(0, Timestamp::MAX).await?.map_or(u64::MAX, LogIndex::get);
        let unnamed = mark.applied.0.min(named.saturating_sub(1));
        self.inline.forget(self.id, LogIndex::new(unnamed));
        if self.has_areas.get() {
            self.forget_areas(unnamed).await?;
        }
        let only_in_log = self.log_ref_from(self.areas_through.get() + 1, Timestamp::MAX).await?;
        let needed_from = only_in_log.map_or(u64::MAX, LogIndex::get);
        let through = mark.applied.0.min(needed_from.saturating_sub(1));
        Ok(self.log.release(self.id, LogIndex::new(through), mark.locals))
    }

    /// Deletes data areas through `through` from the store, and notes when none is left. Where a crash
    /// undoes it, the next checkpoint does it again.
    async fn forget_areas(&self, through: u64) -> Result<(), FsError> {
        let mut pins = Pins::default();
        let through = area_key(through.saturating_add(1));
        loop {
            match self.store.scan(&[AREA_SPACE], &[AREA_SPACE + 1], Timestamp::MAX, AREAS_AT_ONCE) {
                Scan::Miss(fetch) => pins.merge(self.fetch(&fetch).await?),
                Scan::Rows { rows, more } => {
                    let found = rows.len();
                    let gone: Vec<_> = rows
                        .into_iter()
                        .map(|(key, _)| key)
                        .filter(|key| *key < through)
                        .map(|key| (key, None))
                        .collect();
                    let all = gone.len() == found;
                    self.store.apply(gone, self.clock.tick());
                    if !more || !all {
                        self.has_areas.set(!all || self.peers.is_some());
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// How far small writes were copied from the log into the store.
struct Copied {
    /// Those of entries through this index.
    through: u64,
    bytes: u64,
    /// There are more.
    more: bool,
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
