//! Execution of committed entries, and the bytes of small writes.

use super::{Executed, Replica};
use crate::entry::{self, Batch, DATA_OFFSET};
use crate::view::StoreView;
use bytes::Bytes;
use cfs_consensus::Committed;
use cfs_device::DeviceError;
use cfs_kv::{Fetch, KvError, Pins};
use cfs_log::LogError;
use cfs_namespace::data::DataEffect;
use cfs_namespace::{Effect, EntryContext, NeedMore};
use cfs_seam::sleep;
use cfs_segment::SpaceError;
use cfs_types::{FsError, LogIndex, Term};
use std::ops::Range;
use std::time::Duration;

/// How often a read that the device has failed is tried again for an entry, without which the group cannot go on.
const ENTRY_TRIES: u32 = 8;
/// As often for a query: a tenth of a second in all, then whoever asks is told.
const QUERY_TRIES: u32 = 3;
/// Before the first of them; each one waits twice as long as the one before, so two and a half seconds in all for an
/// entry, well below the deadline of requests.
const READ_PAUSE: Duration = Duration::from_millis(10);

/// Reads that are tried again.
struct Tries {
    left: u32,
    pause: Duration,
    damaged: bool,
}

impl Tries {
    fn new(tries: u32) -> Self {
        Tries { left: tries, pause: READ_PAUSE, damaged: false }
    }

    /// How long to wait before the next try. None: it is no use, or was tried often enough.
    fn pause_after(&mut self, error: &KvError) -> Option<Duration> {
        match error {
            KvError::Space(SpaceError::Read { .. }) if self.left > 0 => {
                self.left -= 1;
                let pause = self.pause;
                self.pause *= 2;
                Some(pause)
            }
            // The bytes may have been changed on their way.
            KvError::Damaged { .. } if !self.damaged => {
                self.damaged = true;
                Some(Duration::ZERO)
            }
            _ => None,
        }
    }
}

/// An entry's data area to keep: a part of the entry's bytes, unless most of those are something else.
fn area_of(entry: &Bytes, data: &[u8]) -> Bytes {
    if data.len() > entry.len() / 2 { entry.slice_ref(data) } else { Bytes::copy_from_slice(data) }
}

impl Replica {
    /// Executes one committed entry and answers those who wait for it.
    pub(super) async fn execute(&self, committed: Committed) -> Result<(), FsError> {
        let log_entry = committed.entry;
        let (index, term) = (log_entry.index, log_entry.term);
        if log_entry.data.is_empty() {
            // What a new leader begins its term with.
            self.taken_over_at.set(self.executed_at.get());
        } else {
            let decoded = entry::decode(&log_entry.data);
            let (batch, data) =
                decoded.map_err(|e| self.damaged(format!("entry {index} of group {}: {e}", self.id)))?;
            self.clock.restore(batch.timestamp);
            let context = self.machine.context(term, index, &batch);
            self.data.inline.put(self.id, index, area_of(&log_entry.data, data));
            let executed = self.execute_batch(&context, &batch).await?;
            self.executed_at.set(batch.timestamp);
            self.data.unpacked.add(data.len() as u64);
            self.note_effects(term, &executed);
            let promises = self.waiting.borrow_mut().remove(&index).unwrap_or_default();
            for (promise, executed) in promises.into_iter().zip(executed) {
                promise.complete(Ok(Some(executed)));
            }
        }
        let mut mark = self.mark.get();
        mark.applied = (index.get(), term.get());
        self.mark.set(mark);
        self.group.borrow_mut().executed(index, term);
        self.executed.notify_all();
        Ok(())
    }

    /// Executes the commands of an entry; nothing is written before all reads have succeeded. Other groups go on
    /// meanwhile.
    async fn execute_batch(&self, context: &EntryContext, batch: &Batch) -> Result<Vec<Executed>, FsError> {
        self.patiently(ENTRY_TRIES, async || self.machine.execute_batch(&self.store, context, batch).await).await
    }

    /// Does again what a failed read has ended, `tries` times at most.
    async fn patiently<T>(&self, tries: u32, read: impl AsyncFn() -> Result<T, KvError>) -> Result<T, FsError> {
        let mut tries = Tries::new(tries);
        loop {
            match read().await {
                Ok(done) => return Ok(done),
                Err(error) => match tries.pause_after(&error) {
                    Some(pause) => sleep(self.clock.source(), pause).await,
                    None => return Err(self.unread(&error)),
                },
            }
        }
    }

    /// What an entry of an earlier term asks for, whoever leads finds in the state: after a start nothing of what
    /// the log still holds is done twice. Only that messages wait is said again: it costs nothing, and they go out before
    /// all shards were looked at. Another leader does what followers must not.
    fn note_effects(&self, term: Term, executed: &[Executed]) {
        let effects = || executed.iter().flat_map(|e| &e.effects);
        if effects().any(|effect| *effect == Effect::Unlocked) {
            self.unlocked.notify_all();
        }
        for effect in effects() {
            if let Effect::Data(DataEffect::Thinned(id, record)) = effect {
                self.data.thin.note(*id, *record);
            }
        }
        if let Some(leading) = self.leading.get() {
            let is_due = |effect: &&Effect| match effect {
                Effect::Unlocked | Effect::Data(DataEffect::Thinned(..)) => false,
                Effect::Sent { .. } => true,
                _ => leading == term,
            };
            self.effects.borrow_mut().extend(effects().filter(is_due).cloned());
            self.effected.notify_all();
        }
    }

    /// Loads what a query missed; it stays in memory while the pins live.
    pub async fn load(&self, need: NeedMore) -> Result<Pins, FsError> {
        self.load_from(&StoreView::new(&self.store), need).await
    }

    /// [`Replica::load`] of another time.
    pub(super) async fn load_from(&self, view: &StoreView<'_>, need: NeedMore) -> Result<Pins, FsError> {
        self.patiently(QUERY_TRIES, async || view.load(need.clone()).await).await
    }

    /// Brings blocks of tables into memory for as long as the pins live.
    pub async fn fetch(&self, fetch: &Fetch) -> Result<Pins, FsError> {
        self.patiently(QUERY_TRIES, async || self.store.fetch(fetch).await).await
    }

    /// Counts damage, and notes it for whoever asks what an error was about.
    pub(super) fn damaged(&self, what: String) -> FsError {
        self.damaged_reads.set(self.damaged_reads.get() + 1);
        self.damage.borrow_mut().get_or_insert(what);
        FsError::Corrupt
    }

    /// Notes why a read of the tables was given up. What the device refuses says nothing of the bytes; the space counts it.
    fn unread(&self, error: &KvError) -> FsError {
        if matches!(error, KvError::Space(SpaceError::Read { .. })) {
            self.damage.borrow_mut().get_or_insert(error.to_string());
            return FsError::Device;
        }
        self.damaged(error.to_string())
    }

    /// An error of this group in words: with the place, where it is damage or a failure of the device.
    pub fn describe(&self, error: FsError) -> String {
        match (error, &*self.damage.borrow(), self.log.failed()) {
            (FsError::Corrupt, Some(what), _) => format!("{error}: {what}"),
            (FsError::Device, _, Some(failure)) => format!("{error}: {failure}"),
            (FsError::Device, Some(what), None) => format!("{error}: {what}"),
            _ => error.to_string(),
        }
    }

    /// Reads `bytes` bytes at `offset` of an entry's data area; what goes wrong is counted. `Stale`: the log has it no more.
    pub async fn read_data(&self, index: LogIndex, offset: u32, bytes: u32) -> Result<Vec<u8>, FsError> {
        let (from, len) = (offset as usize, bytes as usize);
        if let Some(area) = self.data.inline.get(self.id, index) {
            return self.part_of(index, &area, from..from + len);
        }
        if let Some(area) = self.kept_area(index).await? {
            return self.part_of(index, &area, from..from + len);
        }
        let range = DATA_OFFSET + from..DATA_OFFSET + from + len;
        match self.log.read_payload_range(self.id, index, range).await {
            Ok(bytes) => Ok(bytes),
            // It was packed and released meanwhile, or never existed.
            Err(LogError::NotFound { .. }) => Err(FsError::Stale),
            Err(LogError::Device(DeviceError::Read { .. })) => {
                self.refused_reads.set(self.refused_reads.get() + 1);
                Err(FsError::Device)
            }
            Err(error) => Err(self.damaged(error.to_string())),
        }
    }

    fn part_of(&self, index: LogIndex, area: &[u8], bytes: Range<usize>) -> Result<Vec<u8>, FsError> {
        let part = area.get(bytes).map(<[u8]>::to_vec);
        part.ok_or_else(|| self.damaged(format!("entry {index} of group {} is shorter than its small writes", self.id)))
    }
}
