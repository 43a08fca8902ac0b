//! Pictures of all cores, each with a limit of time.

use crate::devices::{DeviceAdded, DeviceChanged, DeviceFacts, DeviceRefused, DeviceReport};
use cfs_observe::{CorePicture, CoreStatus, Process, Snapshot};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// A core that takes longer is silent.
const CORE_ANSWER_MAX: Duration = Duration::from_secs(1);
/// A snapshot serves all who ask within this time.
const SNAPSHOT_LIFE: Duration = Duration::from_millis(100);

/// A core's picture of itself; None where it cannot be asked.
pub type Answer = Pin<Box<dyn Future<Output = Option<CoreStatus>> + Send>>;

/// Resolves once a core knows what it was told; false where it cannot be told.
pub type Told = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Resolves once a device is one of the node's, with what is to be said of it, or with why it is not.
pub type Added = Pin<Box<dyn Future<Output = Result<DeviceAdded, DeviceRefused>> + Send>>;

/// Resolves once something else is done with a device, or with why it is not.
pub type Changed = Pin<Box<dyn Future<Output = Result<DeviceChanged, DeviceRefused>> + Send>>;

/// Resolves with what is known of each device.
pub type Facts = Pin<Box<dyn Future<Output = Vec<DeviceFacts>> + Send>>;

/// The way to the cores.
pub trait Cores: Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> u16;
    /// Whether the store's file was removed, moved or replaced while it is served.
    fn store_gone(&self) -> bool;
    /// Asks one. The future may be dropped at any time.
    fn ask(&self, core: u16) -> Answer;
    /// Has one read and verify all that it stores from now on, without the limit of rate where `unpaced`. The future
    /// may be dropped at any time.
    fn scrub(&self, core: u16, unpaced: bool) -> Told;
    /// Makes a device one of the node's. `request` is a [`crate::DeviceAdd`] as it came, `proof` what came with it to
    /// show that it comes from who may ask. Goes on to its end also where the future is dropped.
    fn add_device(&self, request: String, proof: Option<String>) -> Added;
    /// The same with a [`crate::DeviceChange`].
    fn change_device(&self, request: String, proof: Option<String>) -> Changed;
    /// What is known of the store's devices, in order of their numbers; asks those that count their own wear.
    fn devices(&self) -> Facts;
}

/// Makes snapshots, one at a time, and shares them.
pub struct Gatherer {
    cores: Arc<dyn Cores>,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Gatherer {
    /// None made yet.
    pub fn new(cores: Arc<dyn Cores>) -> Self {
        Gatherer { cores, last: Mutex::new(None) }
    }

    /// A snapshot of now or of a moment ago. Takes at most as long as a silent core is waited for,
    /// twice where it began while another was made.
    pub async fn snapshot(&self) -> Arc<Snapshot> {
        let mut last = self.last.lock().await;
        if let Some((at, snapshot)) = &*last
            && at.elapsed() < SNAPSHOT_LIFE
        {
            return snapshot.clone();
        }
        let snapshot = Arc::new(gather(&*self.cores).await);
        *last = Some((Instant::now(), snapshot.clone()));
        snapshot
    }
}

impl Gatherer {
    /// What was asked before does not know what has changed.
    async fn forget(&self) {
        *self.last.lock().await = None;
    }

    /// Makes a device one of the node's.
    pub async fn add_device(&self, request: String, proof: Option<String>) -> Result<DeviceAdded, DeviceRefused> {
        let added = self.cores.add_device(request, proof).await;
        self.forget().await;
        added
    }

    /// Changes what is done with a device.
    pub async fn change_device(&self, request: String, proof: Option<String>) -> Result<DeviceChanged, DeviceRefused> {
        let changed = self.cores.change_device(request, proof).await;
        self.forget().await;
        changed
    }

    /// The store's devices, and what the cores did with them.
    pub async fn devices(&self) -> Vec<DeviceReport> {
        let snapshot = self.snapshot().await;
        self.cores.devices().await.into_iter().map(|facts| DeviceReport::of(facts, &snapshot)).collect()
    }

    /// Has every core begin a scrub; those that do not answer in time are named.
    pub async fn scrub(&self, unpaced: bool) -> Result<(), Vec<u16>> {
        let end = Instant::now() + CORE_ANSWER_MAX;
        let mut silent = Vec::new();
        for core in 0..self.cores.count() {
            let told = self.cores.scrub(core, unpaced);
            if timeout_at(end, told).await != Ok(true) {
                silent.push(core);
            }
        }
        self.forget().await;
        if silent.is_empty() { Ok(()) } else { Err(silent) }
    }
}

async fn gather(cores: &dyn Cores) -> Snapshot {
    let end = Instant::now() + CORE_ANSWER_MAX;
    let mut pictures: Vec<CorePicture> = (0..cores.count()).map(CorePicture::Silent).collect();
    let mut asked = JoinSet::new();
    for core in 0..cores.count() {
        let answer = cores.ask(core);
        asked.spawn(async move { (core, timeout_at(end, answer).await.ok().flatten()) });
    }
    while let Some(joined) = asked.join_next().await {
        if let Ok((core, Some(status))) = joined {
            pictures[usize::from(core)] = CorePicture::Answered(Box::new(status));
        }
    }
    Snapshot { cores: pictures, process: Process::read(), store_gone: cores.store_gone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Core 1 never answers, core 2 cannot be asked.
    #[derive(Default)]
    struct Three(AtomicU32);

    impl Cores for Three {
        fn count(&self) -> u16 {
            3
        }
        fn store_gone(&self) -> bool {
            false
        }

        fn ask(&self, core: u16) -> Answer {
            self.0.fetch_add(1, Ordering::Relaxed);
            match core {
                0 => Box::pin(async { Some(CoreStatus::default()) }),
                1 => Box::pin(std::future::pending()),
                _ => Box::pin(async { None }),
            }
        }

        fn scrub(&self, core: u16, _: bool) -> Told {
            match core {
                1 => Box::pin(std::future::pending()),
                _ => Box::pin(async { true }),
            }
        }

        fn add_device(&self, _: String, _: Option<String>) -> Added {
            Box::pin(async { Err(DeviceRefused::Unproven) })
        }

        fn change_device(&self, _: String, _: Option<String>) -> Changed {
            Box::pin(async { Err(DeviceRefused::Unproven) })
        }

        fn devices(&self) -> Facts {
            Box::pin(async { Vec::new() })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_core_is_reported_and_holds_nobody_up_for_more_than_a_second() {
        let began = Instant::now();
        let snapshot = Gatherer::new(Arc::new(Three::default())).snapshot().await;
        assert_eq!(began.elapsed(), CORE_ANSWER_MAX);
        assert_eq!(snapshot.silent().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(snapshot.answered().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_core_that_cannot_be_told_to_scrub_is_named() {
        assert_eq!(Gatherer::new(Arc::new(Three::default())).scrub(true).await, Err(vec![1]));
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_cost_the_cores_one_question() {
        let cores = Arc::new(Three::default());
        let gatherer = Arc::new(Gatherer::new(cores.clone()));
        let mut asking = JoinSet::new();
        for _ in 0..20 {
            let gatherer = gatherer.clone();
            asking.spawn(async move { gatherer.snapshot().await.cores.len() });
        }
        assert_eq!(asking.join_all().await, [3; 20]);
        assert_eq!(cores.0.load(Ordering::Relaxed), 3);
        tokio::time::advance(SNAPSHOT_LIFE).await;
        gatherer.snapshot().await;
        assert_eq!(cores.0.load(Ordering::Relaxed), 6);
    }
}
