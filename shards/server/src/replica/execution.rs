//! Execution of committed entries, and the bytes of small writes.

use super::{Executed, Replica};
use crate::entry::{self, DATA_OFFSET};
use crate::view::StoreView;
use bytes::Bytes;
use cfs_consensus::Committed;
use cfs_kv::Pins;
use cfs_log::LogError;
use cfs_namespace::{Effect, NeedMore};
use cfs_types::{FsError, LogIndex};

/// An entry's data area to keep: a part of the entry's bytes, unless most of those are something else.
fn area_of(entry: &Bytes, data: &[u8]) -> Bytes {
    if data.len() > entry.len() / 2 { entry.slice_ref(data) } else { Bytes::copy_from_slice(data) }
}

impl Replica {
    /// Executes one committed entry and answers those who wait for it.
    pub(super) async fn execute(&self, committed: Committed) -> Result<(), FsError> {
        let log_entry = committed.entry;
        let (index, term) = (log_entry.index, log_entry.term);
        if !log_entry.data.is_empty() {
            let decoded = entry::decode(&log_entry.data);
            let (batch, data) =
                decoded.map_err(|e| self.damaged(format!("entry {index} of group {}: {e}", self.id)))?;
            self.clock.restore(batch.timestamp);
            let context = self.machine.context(term, index, &batch);
            self.inline.put(self.id, index, area_of(&log_entry.data, data));
            let executed = self.machine.execute_batch(&self.store, &context, &batch).await;
            let executed = executed.map_err(|e| self.damaged(e.to_string()))?;
            self.executed_at.set(batch.timestamp);
            self.unpacked.add(data.len() as u64);
            self.note_effects(&executed);
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

    fn note_effects(&self, executed: &[Executed]) {
        let effects = || executed.iter().flat_map(|e| &e.effects);
        if effects().any(|effect| *effect == Effect::Unlocked) {
            self.unlocked.notify_all();
        }
        // Another leader does what followers must not; whoever leads next finds it in the state.
        if self.leading.get().is_some() {
            self.effects.borrow_mut().extend(effects().filter(|e| **e != Effect::Unlocked).cloned());
            self.effected.notify_all();
        }
    }

    /// Loads what the state machine missed; it stays in memory while the pins live.
    pub async fn load(&self, need: NeedMore) -> Result<Pins, FsError> {
        StoreView::new(&self.store).load(need).await.map_err(|e| self.damaged(e.to_string()))
    }

    /// Notes damage for whoever asks what an error was about.
    pub(super) fn damaged(&self, what: String) -> FsError {
        self.damage.borrow_mut().get_or_insert(what);
        FsError::Corrupt
    }

    /// An error of this group in words: with the place, where it is damage or a failure of the device.
    pub fn describe(&self, error: FsError) -> String {
        match (error, &*self.damage.borrow(), self.log.failed()) {
            (FsError::Corrupt, Some(what), _) => format!("{error}: {what}"),
            (FsError::Device, _, Some(failure)) => format!("{error}: {failure}"),
            _ => error.to_string(),
        }
    }

    /// Reads `bytes` bytes at `offset` of an entry's data area. `Stale`: the log has it no more.
    pub async fn read_data(&self, index: LogIndex, offset: u32, bytes: u32) -> Result<Vec<u8>, FsError> {
        let (from, len) = (offset as usize, bytes as usize);
        if let Some(area) = self.inline.get(self.id, index) {
            return area.get(from..from + len).map(<[u8]>::to_vec).ok_or(FsError::Corrupt);
        }
        if let Some(area) = self.kept_area(index).await? {
            return area.get(from..from + len).map(<[u8]>::to_vec).ok_or(FsError::Corrupt);
        }
        let range = DATA_OFFSET + from..DATA_OFFSET + from + len;
        match self.log.read_payload_range(self.id, index, range).await {
            Ok(bytes) => Ok(bytes),
            // It was packed and released meanwhile, or never existed.
            Err(LogError::NotFound { .. }) => Err(FsError::Stale),
            Err(error) => Err(self.damaged(error.to_string())),
        }
    }
}
