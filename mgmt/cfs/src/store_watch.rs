//! Looks whether somebody shortens or removes the store while it is served. Writes behind the new end would make a file
//! grow again, with holes where acknowledged data was, and nobody would see it; a removed one takes everything, and is
//! gone when the server ends.

use crate::Failure;
use cfs_runtime::DiskFile;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// A store that is served.
pub struct StoreWatch {
    file: DiskFile,
    bytes: u64,
    /// It was removed, moved or replaced; for the API.
    pub gone: Arc<AtomicBool>,
}

impl StoreWatch {
    /// Of a store that has `bytes` bytes by its superblock.
    pub fn new(file: DiskFile, bytes: u64) -> Self {
        StoreWatch { file, bytes, gone: Arc::default() }
    }

    /// Who the device says it is, where NVMe commands go to it.
    pub fn device_words(&self) -> Option<String> {
        let device = self.file.nvme()?;
        let placed = match device.placement_handles {
            0 => "no placement handles".to_owned(),
            1 => "1 placement handle".to_owned(),
            several => format!("{several} placement handles"),
        };
        Some(format!("{} ({}), {placed}", device.model, device.serial))
    }

    fn what_is_gone(&self) -> String {
        if self.file.is_removed() {
            let pid = std::process::id();
            format!(
                "was removed or replaced while it is served: all of it is gone when this process ends. Stop what writes \
                 to it, and copy it from /proc/{pid}/fd first"
            )
        } else {
            "was moved or replaced while it is served: this server goes on with the one it opened, which has another \
             name by now"
                .into()
        }
    }

    /// At the end of a process: a store without a name ends with it.
    pub fn survives(&self) -> Result<(), Failure> {
        if self.file.is_removed() {
            let path = self.file.path().display();
            return Err(Failure::plain(format!("{path} was removed while it was served: what nobody copied is gone")));
        }
        Ok(())
    }

    /// Ends, and says why, once the store is shorter than it must be: by then it takes no more writes. A store that
    /// cannot be asked for its size is asked again; reads and writes tell what is wrong with it. One that was removed or
    /// moved is served on, so that it can still be copied.
    pub async fn shortened(&self) -> Failure {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.file.is_elsewhere() && !self.gone.swap(true, Ordering::Relaxed) {
                complain!("cfs: {} {}", self.file.path().display(), self.what_is_gone());
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
