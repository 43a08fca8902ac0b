//! What a volume does unasked: renew leases in use, write back what waited long enough, forget.

use crate::core::Core;
use crate::link::Link;
use cfs_seam::{Class, Instant, sleep, timeout};
use cfs_types::{FsError, RequestNumber};
use cfs_wire::{Identity, Op};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How often the keeper looks while there is something to keep.
const ROUND: Duration = Duration::from_millis(100);
/// Written bytes wait at most this long (and a round) for others to join them.
const HOLD_BACK: Duration = Duration::from_millis(300);
/// A link that was silent for so long says that the session lives.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// A renewal that is not answered by then is of no use.
const RENEW_TIME_MAX: Duration = Duration::from_secs(5);
/// Leases are renewed so many times a term.
const RENEWALS_A_TERM: u32 = 4;

/// Runs until the volume is closed or gone.
pub(crate) async fn keep(volume: Weak<Core>) {
    let mut renewed = Instant::default();
    loop {
        let idle = {
            let Some(volume) = volume.upgrade().filter(|volume| !volume.is_closed()) else { return };
            let now = volume.now();
            if now.since(renewed) >= volume.links.lease.get() / RENEWALS_A_TERM {
                renewed = now;
                renew(&volume, now);
            }
            write_back_old(&volume, now);
            volume.inodes.prune(now);
            let busy = volume.inodes.any_leased(now) || volume.dirty_bytes.get() > 0;
            (busy, volume.wake_keeper.changed(), volume.world.clock.clone())
        };
        let (busy, woken, clock) = idle;
        if busy {
            sleep(&clock, ROUND).await;
        } else {
            let end = clock.now().after(KEEP_ALIVE);
            timeout(&clock, end, woken).await;
        }
    }
}

fn renew(volume: &Rc<Core>, now: Instant) {
    let in_use = volume.inodes.links_in_use(now);
    for link in volume.links.all() {
        let silent = now.since(link.last_sent.get()) >= KEEP_ALIVE;
        if silent || in_use.binary_search(&link.id).is_ok() {
            let volume = volume.clone();
            volume.clone().spawn(Class::Foreground, async move { renew_link(&volume, &link).await });
        }
    }
}

async fn renew_link(volume: &Rc<Core>, link: &Rc<Link>) {
    let end = volume.now().after(RENEW_TIME_MAX);
    let generation = volume.session.generation();
    // Requests go by their shard: another core's would renew leases there.
    let Some(shard) = volume.links.shard_of(link.core) else { return };
    let request = volume.build(shard, RequestNumber::default(), &Identity::default(), &Op::Renew, end);
    match link.request(volume, &request, None, end).await {
        Ok(answered) if answered.response.result.is_ok() => {
            volume.inodes.renew(link.id, volume.lease_end(answered.origin.sent.at));
        }
        Ok(answered) => {
            if answered.response.result == Err(FsError::SessionExpired) {
                volume.session_lost(generation);
            }
            // They had lapsed before the renewal came.
            volume.void_leases();
        }
        // A connection that leaves a renewal unanswered is dead.
        Err(_) => link.close(),
    }
}

fn write_back_old(volume: &Rc<Core>, now: Instant) {
    if volume.dirty_bytes.get() == 0 {
        return;
    }
    let limit = Instant::new(now.nanos().saturating_sub(u64::try_from(HOLD_BACK.as_nanos()).unwrap_or(u64::MAX)));
    for ino in volume.inodes.dirty_before(Some(limit)) {
        volume.begin_write_back(ino);
    }
}
