//! A digest of the replicated state: the same on all replicas that have executed the same entries.

use super::Replica;
use crate::cells::LOCAL_SPACE;
use cfs_kv::{DatedScan, Pins};
use cfs_types::{FsError, Timestamp};

/// Rows read at once.
const PAGE: usize = 256;

impl Replica {
    /// BLAKE3 of every replicated row with the time of its newest version, and the index through
    /// which they are executed. `Busy` where entries were executed meanwhile.
    pub async fn digest(&self) -> Result<(u64, [u8; 32]), FsError> {
        let applied = self.mark().applied;
        let mut hasher = blake3::Hasher::new();
        let (mut from, mut pins) = (Vec::new(), Pins::default());
        loop {
            match self.store.scan_dated(&from, &[LOCAL_SPACE], Timestamp::MAX, PAGE) {
                DatedScan::Miss(fetch) => pins.merge(self.fetch(&fetch).await?),
                DatedScan::Rows(rows, more) => {
                    pins = Pins::default();
                    for (key, time, value) in &rows {
                        hasher.update(&(key.len() as u64).to_le_bytes()).update(key);
                        hasher.update(&time.get().to_le_bytes());
                        hasher.update(&(value.len() as u64).to_le_bytes()).update(value);
                    }
                    let Some((last, ..)) = rows.last().filter(|_| more) else { break };
                    from = [last, &[0][..]].concat();
                }
            }
        }
        let settled = self.mark().applied == applied;
        settled.then(|| (applied.0, *hasher.finalize().as_bytes())).ok_or(FsError::Busy)
    }
}
