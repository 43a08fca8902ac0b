//! Looks whether somebody shortens or removes the store while it is served. Writes behind the new end would make a file
//! grow again, with holes where acknowledged data was, and nobody would see it; a removed one takes everything, and is
//! gone when the server ends.

use crate::Failure;
use cfs_api::{DeviceFacts, DeviceWear};
use cfs_device::Uuid;
use cfs_runtime::DiskFile;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// The stores that are served: one of each device.
#[derive(Clone)]
pub struct StoreWatch {
    stores: Arc<Mutex<Vec<Watched>>>,
    /// One was removed, moved or replaced; for the API.
    pub gone: Arc<AtomicBool>,
}

struct Watched {
    file: DiskFile,
    number: u16,
    device: Uuid,
    bytes: u64,
    is_told: bool,
}

/// A device that does not answer is told of elsewhere: its reads and writes fail.
fn wear(file: &DiskFile) -> Option<DeviceWear> {
    let wear = file.nvme_wear()?.ok()?;
    Some(DeviceWear {
        critical_warning: wear.critical_warning,
        spare_percent: wear.spare_percent,
        used_percent: wear.used_percent,
        media_errors: wear.media_errors,
        host_written_bytes: wear.host_and_media_bytes.map(|(host, _)| host),
        media_written_bytes: wear.host_and_media_bytes.map(|(_, media)| media),
    })
}

impl Watched {
    fn facts(&self) -> DeviceFacts {
        DeviceFacts {
            number: self.number,
            device: self.device.to_string(),
            path: self.file.path().display().to_string(),
            bytes: self.file.geometry().bytes,
            nvme: self.device_words(),
            wear: None,
        }
    }

    /// Who the device says it is, where NVMe commands go to it.
    fn device_words(&self) -> Option<String> {
        let device = self.file.nvme()?;
        let placed = match device.placement_handles {
            _ if device.zones > 0 => format!("{} zones", device.zones),
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
}

impl StoreWatch {
    /// None yet.
    pub fn new() -> Self {
        StoreWatch { stores: Arc::default(), gone: Arc::default() }
    }

    /// One that has `bytes` bytes by its superblock.
    pub fn add(&self, file: DiskFile, (number, device): (u16, Uuid), bytes: u64) {
        self.lock().push(Watched { file, number, device, bytes, is_told: false });
    }

    /// One that is no part of the store any more; whoever locked it too has let go.
    pub fn remove(&self, number: u16) {
        self.lock().retain(|store| store.number != number);
    }

    /// What is known of each; asks those that count their wear, and waits for them.
    pub fn facts(&self) -> Vec<DeviceFacts> {
        // Not while others wait for the lock.
        let devices: Vec<_> = self.lock().iter().map(|one| (one.file.clone(), one.facts())).collect();
        let mut all: Vec<DeviceFacts> =
            devices.into_iter().map(|(file, facts)| DeviceFacts { wear: wear(&file), ..facts }).collect();
        all.sort_by_key(|facts| facts.number);
        all
    }

    /// Who the devices say they are, where NVMe commands go to them.
    pub fn device_words(&self) -> Vec<String> {
        self.lock().iter().filter_map(Watched::device_words).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At the end of a process: a store without a name ends with it.
    pub fn survives(&self) -> Result<(), Failure> {
        match self.lock().iter().find(|store| store.file.is_removed()) {
            Some(store) => {
                let path = store.file.path().display();
                Err(Failure::plain(format!("{path} was removed while it was served: what nobody copied is gone")))
            }
            None => Ok(()),
        }
    }

    /// Ends, and says why, once a store is shorter than it must be: by then it takes no more writes. A store that
    /// cannot be asked for its size is asked again; reads and writes tell what is wrong with it. One that was removed or
    /// moved is served on, so that it can still be copied.
    pub async fn shortened(&self) -> Failure {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(failure) = self.look() {
                return failure;
            }
        }
    }

    fn look(&self) -> Option<Failure> {
        for store in self.lock().iter_mut() {
            if !store.is_told && store.file.is_elsewhere() {
                store.is_told = true;
                self.gone.store(true, Ordering::Relaxed);
                complain!("cfs: {} {}", store.file.path().display(), store.what_is_gone());
            }
            if let Ok(Some(actual)) = store.file.take_out_if_shorter(store.bytes) {
                return Some(Failure::plain(format!(
                    "{} was shortened while it is served: it has {actual} bytes, and {} by its superblock. It takes no \
                     more writes, and the server stops; restore it whole",
                    store.file.path().display(),
                    store.bytes
                )));
            }
        }
        None
    }
}
