//! A store whose whole content is replaced: what a replica that was sent a snapshot installs.
//!
//! The rows come in order and become tables of the deepest level, beside the tables in use. The
//! change that names them drops everything else, so a crash leaves the old content or the new one.

use super::merge::Output;
use super::{Change, DatedRow, KvError, Store};
use crate::manifest::LEVELS;
use cfs_types::Timestamp;
use std::collections::BTreeSet;

/// New content under construction. Dropping it gives its cells back.
pub struct Replacement {
    output: Output,
}

impl Store {
    /// Begins new content; the store goes on with the old one meanwhile.
    pub fn replacement(&self) -> Replacement {
        let change = Change::begin(&self.inner, BTreeSet::new(), false);
        Replacement { output: Output::new(change, LEVELS - 1, false) }
    }
}

impl Replacement {
    /// Adds a row. Keys rise from call to call.
    pub async fn push(&mut self, key: &[u8], time: Timestamp, value: &[u8]) -> Result<(), KvError> {
        self.output.push(key, !time.get(), Some(value)).await
    }

    /// Adds rows whose keys lie anywhere but among those pushed, in rising order, and makes
    /// everything durable. Installing the change drops what the store holds then, in memory too,
    /// so nothing may be applied and no other change be under way from this call on: `Busy`
    /// otherwise.
    pub async fn finish(self, more: &[DatedRow]) -> Result<Change, KvError> {
        let change = self.output.finish().await?;
        let store = change.store.clone();
        let mut output = Output::new(change, 0, true);
        for (key, time, value) in more {
            output.push(key, !time.get(), Some(value)).await?;
        }
        let mut change = output.finish().await?;
        store.space.sync().await?;
        let mut state = store.state.borrow_mut();
        if !state.locked.is_empty() || state.flushing || state.committing.is_some() {
            return Err(KvError::Busy);
        }
        change.removed = state.version.tables().map(|t| t.id).collect();
        change.replaces_all = true;
        state.locked.extend(&change.removed);
        drop(state);
        Ok(change)
    }
}
