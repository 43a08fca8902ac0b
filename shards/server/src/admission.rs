//! Space for what clients ask for, set aside or refused before anything is proposed.

use crate::core::Core;
use cfs_seam::timeout;
use cfs_segment::{Purpose, Reservation};
use cfs_types::{FsError, UNIT_BYTES};
use std::rc::Rc;
use std::time::Duration;

/// Longest that what finds no space waits for the cleaner.
const CLEANING_TIME_MAX: Duration = Duration::from_secs(5);

/// A small write that was let in and is not executed yet.
pub struct Admitted {
    core: Rc<Core>,
    bytes: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.core.admitted_bytes.set(self.core.admitted_bytes.get() - self.bytes);
    }
}

/// Refuses a small write that could not be packed later.
pub async fn admit_inline(core: &Rc<Core>, len: usize) -> Result<Admitted, FsError> {
    let bytes = len as u64;
    core.admitted_bytes.set(core.admitted_bytes.get() + bytes);
    let admitted = Admitted { core: core.clone(), bytes };
    reserve(core, Purpose::Data, || units_promised(core) + 1).await?;
    Ok(admitted)
}

/// Sets space aside, with a region of another core where this one has too little; waits for the cleaner
/// as long as that gains something.
pub async fn reserve(core: &Core, purpose: Purpose, units: impl Fn() -> u64) -> Result<Reservation, FsError> {
    if let Some(reserved) = core.space.reserve(purpose, units()) {
        return Ok(reserved);
    }
    core.regions.take_one(|| core.space.reserve(purpose, units()).is_some()).await;
    let clock = &core.world.clock;
    let (asked, end) = (core.cleaning.begun(), clock.now().after(CLEANING_TIME_MAX));
    loop {
        let ended = core.cleaning.ended.wait();
        core.cleaning.ask();
        core.upkeep.notify_all();
        if let Some(reserved) = core.space.reserve(purpose, units()) {
            return Ok(reserved);
        }
        // The cleaner cannot wait for itself.
        if purpose == Purpose::Reclaim || core.cleaning.gained_nothing_since(asked) {
            return Err(FsError::NoSpace);
        }
        timeout(clock, end, ended).await.ok_or(FsError::NoSpace)?;
    }
}

/// Units that small writes will need when they are packed.
pub fn units_promised(core: &Core) -> u64 {
    (core.unpacked_bytes.get() + core.admitted_bytes.get()).div_ceil(u64::from(UNIT_BYTES))
}
