//! The first write or flush that failed, and who waits to hear of it.

use cfs_seam::{DiskError, Io, Promise, io};

#[derive(Default)]
pub(crate) struct Failure {
    error: Option<DiskError>,
    watchers: Vec<Promise<()>>,
}

impl Failure {
    pub fn get(&self) -> Option<DiskError> {
        self.error
    }

    /// The first one counts.
    pub fn set(&mut self, error: DiskError) {
        self.error.get_or_insert(error);
        for watcher in self.watchers.drain(..) {
            watcher.complete(());
        }
    }

    pub fn wait(&mut self) -> Io<()> {
        if self.error.is_some() {
            return Io::ready(());
        }
        let (promise, failed) = io();
        self.watchers.push(promise);
        failed
    }
}
