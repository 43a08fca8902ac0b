//! The state machine's view of a shard's store.

use cfs_kv::{KvError, Lookup, Pins, Scan, Store};
use cfs_namespace::{Key, NeedMore, Rows, Value, View};
use cfs_seam::gather;
use cfs_types::Timestamp;

/// Keys that are looked for on the device at the same time.
const LOADS_AT_ONCE: usize = 32;

/// Reads the newest versions, or those of one moment.
pub struct StoreView<'a> {
    store: &'a Store,
    time: Timestamp,
}

impl<'a> StoreView<'a> {
    /// A view of everything executed so far.
    pub fn new(store: &'a Store) -> Self {
        StoreView { store, time: Timestamp::MAX }
    }

    /// A view as of `time`, whose versions the store must have kept.
    pub fn as_of(store: &'a Store, time: Timestamp) -> Self {
        StoreView { store, time }
    }

    /// Brings what was missing into memory, for as long as the pins live. Errors mean damage, or
    /// a device that fails reads.
    pub async fn load(&self, need: NeedMore) -> Result<Pins, KvError> {
        match need {
            NeedMore::Key(key) => self.load_key(&key).await,
            NeedMore::Keys(keys) => self.load_keys(&keys).await,
            NeedMore::Range { from, to, limit } => match self.store.scan(&from, &to, self.time, limit) {
                Scan::Miss(fetch) => self.store.fetch(&fetch).await,
                Scan::Rows { .. } => Ok(Pins::default()),
            },
        }
    }

    /// Brings these keys into memory, many at the same time. The pins hold what was missing.
    pub async fn load_keys(&self, keys: &[Key]) -> Result<Pins, KvError> {
        let mut pins = Pins::default();
        for loaded in gather(keys.iter().map(|key| self.load_key(key)), LOADS_AT_ONCE).await {
            pins.merge(loaded?);
        }
        Ok(pins)
    }

    async fn load_key(&self, key: &[u8]) -> Result<Pins, KvError> {
        match self.store.get(key, self.time) {
            Lookup::Miss(fetch) => self.store.fetch(&fetch).await,
            Lookup::Found(_) | Lookup::Absent => Ok(Pins::default()),
        }
    }
}

impl View for StoreView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, NeedMore> {
        match self.store.get(key, self.time) {
            Lookup::Found(value) => Ok(Some(value)),
            Lookup::Absent => Ok(None),
            Lookup::Miss(_) => Err(NeedMore::Key(key.into())),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, NeedMore> {
        match self.store.scan(from, to, self.time, limit) {
            Scan::Rows { rows, .. } => Ok(rows),
            Scan::Miss(_) => Err(NeedMore::Range { from: from.into(), to: to.into(), limit }),
        }
    }
}
