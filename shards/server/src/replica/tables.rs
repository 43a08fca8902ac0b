//! The replica's tables and their manifest: flush, compaction, and what the log may then forget.
//!
//! Invariants: the log is released only after both copies of the anchor are durable; one change of
//! a store's tables at a time; releasing needs no room in the log; an entry that cannot be read holds up only what
//! names it.

use super::transfer::{AREA_SPACE, LOST_AREA, area_key};
use super::{Mark, Replica};
use crate::manifest::GroupManifest;
use cfs_device::{AnchorId, DeviceError};
use cfs_exec::{Pass, Permit};
use cfs_kv::{Change, KvError, Pins, Root, Scan};
use cfs_segment::{CellRef, SpaceError};
use cfs_types::{FsError, LogIndex, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;

/// Data areas forgotten at once.
const AREAS_AT_ONCE: usize = 16;
/// Bytes of data areas that are copied into the memtable before it is flushed.
const COPIED_AT_ONCE: u64 = 4 << 20;

/// An entry that cannot be read for so long is given up: longer than a device takes to come back that still
/// writes, shorter than a request waits for room in the log.
const UNREADABLE_MAX: Duration = Duration::from_secs(2);

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
    /// tables, so that the log may forget everything; what stays unreadable is lost, and the tables say so.
    /// It writes nothing to the log. Returns the bytes copied too.
    pub async fn evacuate(&self) -> Result<(bool, u64), FsError> {
        let _turn = self.table_turn().await?;
        if self.frozen.get().is_some() {
            // It was frozen without the copies that follow.
            self.flush_tables().await?;
        }
        let (mut gone, mut bytes) = (false, 0);
        loop {
            let copied = match self.copy_areas().await {
                // It is said once only that the group needs nothing of old streams.
                Err(_) if gone => return Ok((gone, bytes)),
                copied => copied?,
            };
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
                let area = self.area_or_lost(index).await?;
                copied.bytes += area.len() as u64;
                self.store.apply(vec![(area_key(index.get()), Some(area.into()))], self.clock.tick());
            }
            copied.through = index.get();
        }
    }

    /// The data area of an entry, or that it is lost, once it could not be read for long enough.
    async fn area_or_lost(&self, index: LogIndex) -> Result<Vec<u8>, FsError> {
        let read = self.data_area(index).await;
        if read != Err(FsError::Corrupt) {
            return read;
        }
        let now = self.clock.source().now();
        let since = self.unreadable.get().filter(|(known, _)| *known == index).map_or(now, |(_, since)| since);
        self.unreadable.set(Some((index, since)));
        if now.since(since) < UNREADABLE_MAX {
            return read;
        }
        self.lost.set(self.lost.get() + 1);
        self.damaged(format!("entry {index} of group {} cannot be read: what it wrote is lost", self.id));
        Ok(LOST_AREA.to_vec())
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
    pub async fn relocate_table(&self, cell: CellRef) -> Result<bool, FsError> {
        let _turn = self.table_turn().await?;
        match self.store.relocate(cell).await.map_err(store_error)? {
            Some(change) => self.commit(change, self.flushed.get()).await.map(|()| true),
            None => Ok(false),
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
        let (named, lost) = self.named_areas().await?;
        let unnamed = mark.applied.0.min(named.saturating_sub(1));
        self.data.inline.forget(self.id, LogIndex::new(unnamed));
        if self.has_areas.get() {
            self.forget_areas(unnamed, &lost).await?;
        }
        let only_in_log = self.log_ref_from(self.areas_through.get() + 1, Timestamp::MAX).await?;
        let needed_from = only_in_log.map_or(u64::MAX, LogIndex::get);
        let through = mark.applied.0.min(needed_from.saturating_sub(1));
        Ok(self.log.release(self.id, LogIndex::new(through), mark.locals))
    }

    /// The first entry that rows name and that is not lost, and the keys of lost ones before it.
    async fn named_areas(&self) -> Result<(u64, BTreeSet<Box<[u8]>>), FsError> {
        let (mut from, mut lost) = (0, BTreeSet::new());
        while let Some(index) = self.log_ref_from(from, Timestamp::MAX).await? {
            if !self.is_lost(index).await? {
                return Ok((index.get(), lost));
            }
            lost.insert(area_key(index.get()));
            from = index.get() + 1;
        }
        Ok((u64::MAX, lost))
    }

    /// Deletes data areas through `through` from the store, but for `kept`, and notes when none is left.
    /// Where a crash undoes it, the next checkpoint does it again.
    async fn forget_areas(&self, through: u64, kept: &BTreeSet<Box<[u8]>>) -> Result<(), FsError> {
        let mut pins = Pins::default();
        let beyond = area_key(through.saturating_add(1));
        let (mut from, mut is_left) = (vec![AREA_SPACE], false);
        loop {
            match self.store.scan(&from, &[AREA_SPACE + 1], Timestamp::MAX, AREAS_AT_ONCE) {
                Scan::Miss(fetch) => pins.merge(self.fetch(&fetch).await?),
                Scan::Rows { rows, more } => {
                    let last = rows.last().map(|(key, _)| key.clone()).filter(|key| more && *key < beyond);
                    let keys = rows.into_iter().map(|(key, _)| key);
                    let (gone, left): (Vec<_>, Vec<_>) = keys.partition(|key| *key < beyond && !kept.contains(key));
                    is_left |= !left.is_empty();
                    self.store.apply(gone.into_iter().map(|key| (key, None)).collect(), self.clock.tick());
                    let Some(last) = last else { break };
                    from = [&last[..], &[0]].concat();
                }
            }
        }
        self.has_areas.set(is_left || self.peers.is_some());
        Ok(())
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
