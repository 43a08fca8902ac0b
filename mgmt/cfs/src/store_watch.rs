//! Looks whether somebody shortens or removes the store while it is served. Writes behind the new end would make a file
//! grow again, with holes where acknowledged data was, and nobody would see it; a removed one takes everything, and is
//! gone when the server ends.

use crate::Failure;
use cfs_runtime::DiskFile;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// A store that is served.
pub struct StoreWatch {
    file: DiskFile,
    bytes: u64,
}

impl StoreWatch {
    /// Of a store that has `bytes` bytes by its superblock.
    pub fn new(file: DiskFile, bytes: u64) -> Self {
        StoreWatch { file, bytes }
    }

    /// Ends, and says why, once the store is shorter than it must be: by then it takes no more writes. A store that
    /// cannot be asked for its size is asked again; reads and writes tell what is wrong with it. One that was removed is
    /// served on, so that it can still be copied.
    pub async fn shortened(&self) -> Failure {
        let mut removed = false;
        loop {
            tokio::time::sleep(LOOK).await;
            if !removed && self.file.is_removed() {
                removed = true;
                complain!(
                    "cfs: {} was removed or replaced while it is served: all of it is gone when this process ends. \
                     Stop what writes to it, and copy it from /proc/{}/fd first",
                    self.file.path().display(),
                    std::process::id()
                );
            }
            if let Ok(Some(actual)) = self.file.take_out_if_shorter(self.bytes) {
                return Failure::plain(format!(
                    "{} was shortened while it is served: it has {actual} bytes, and {} by its superblock. It takes no \
                     more writes, and the server stops; restore it whole",
                    self.file.path().display(),
                    self.bytes
                ));
            }
        }
    }
}
