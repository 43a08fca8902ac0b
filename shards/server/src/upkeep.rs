//! What keeps a core going: checkpoints, compaction, cleaning, sessions, transactions left behind.
//!
//! Invariant: memory and log stay within their limits whatever clients do; nothing here is needed
//! for an answer to be right.

use crate::checkpoint::{checkpoint, compact};
use crate::clean::clean_one;
use crate::control;
use crate::coordinate::resolve_left_over;
use crate::core::Core;
use crate::effects;
use crate::messages::CoreRequest;
use crate::shard::Shard;
use cfs_seam::{Instant, timeout};
use cfs_types::{CoreId, FsError, GroupId};
use std::rc::Rc;
use std::time::Duration;

/// Longest between two looks at everything.
const PERIOD: Duration = Duration::from_millis(50);
/// Between two rounds of the slow work.
const SLOW_PERIOD: Duration = Duration::from_secs(1);
/// Checkpoints made in one look.
const CHECKPOINTS_AT_ONCE: usize = 8;
/// Bytes of small writes in the log from which they are packed.
pub const UNPACKED_MAX: u64 = 24 << 20;

/// Runs until the core stops.
pub async fn run(core: Rc<Core>) {
    for shard in core.groups.values() {
        if shard.replica.ready().await.is_ok() && shard.group().shard().is_some() {
            let _failed = effects::resume(&core, shard).await;
        }
    }
    let mut slow = core.world.clock.now();
    while !core.stopping.get() {
        let busy = turn(&core, &mut slow).await;
        if !busy {
            let until = core.world.clock.now().after(PERIOD);
            timeout(&core.world.clock, until, core.upkeep.wait()).await;
        } else {
            core.world.tasks.yield_now().await;
        }
    }
}

/// What one piece of work gave. A group that fails must not keep the others from being kept.
fn noted<T: Default>(core: &Core, done: Result<T, FsError>) -> T {
    done.unwrap_or_else(|_| {
        core.metrics.upkeep_failures.bump();
        T::default()
    })
}

/// One look. True where there is more to do at once.
async fn turn(core: &Rc<Core>, slow: &mut Instant) -> bool {
    let mut busy = reclaim_log(core).await;
    busy |= bound_memory(core).await;
    for shard in core.groups.values() {
        if shard.replica.store().should_compact() {
            busy |= noted(core, compact(core, shard).await);
        }
    }
    busy |= noted(core, clean_one(core).await);
    let now = core.world.clock.now();
    if now >= *slow {
        *slow = now.after(SLOW_PERIOD);
        slow_round(core).await;
    }
    busy
}

/// Checkpoints the groups that hold the oldest part of the log, while it is short of room, or
/// while streams of earlier starts are left.
async fn reclaim_log(core: &Rc<Core>) -> bool {
    let usage = core.log.usage();
    let short = usage.slots_free * 2 < usage.slots_total;
    if !short && !core.log.has_old_streams() {
        return false;
    }
    let laggards = core.log.laggards();
    checkpoint_some(core, &laggards).await
}

/// Checkpoints some of the groups. True where there are more that it might succeed with.
async fn checkpoint_some(core: &Rc<Core>, groups: &[GroupId]) -> bool {
    let mut left = CHECKPOINTS_AT_ONCE;
    for shard in groups.iter().filter_map(|group| core.groups.get(group)) {
        if left == 0 {
            return true;
        }
        left -= usize::from(noted(core, checkpoint(core, shard).await.map(|()| true)));
    }
    false
}

/// Checkpoints the largest memtables while all together are too large, and packs small writes.
async fn bound_memory(core: &Rc<Core>) -> bool {
    let size = |shard: &Rc<Shard>| shard.replica.store().memory_bytes();
    let total: usize = core.groups.values().map(size).sum();
    let full = core.groups.values().filter(|s| s.replica.store().should_flush());
    let mut chosen: Vec<GroupId> = full.map(|s| s.group()).collect();
    if total > core.config.memory.memtables || core.unpacked_bytes.get() > UNPACKED_MAX {
        let mut by_size: Vec<&Rc<Shard>> = core.groups.values().collect();
        by_size.sort_by_key(|s| std::cmp::Reverse(size(s)));
        chosen.extend(by_size.iter().take(CHECKPOINTS_AT_ONCE).map(|s| s.group()));
    }
    chosen.dedup();
    checkpoint_some(core, &chosen).await
}

async fn slow_round(core: &Rc<Core>) {
    core.regions.replenish().await;
    for shard in core.groups.values().filter(|s| s.group().shard().is_some()) {
        noted(core, resolve_left_over(core, shard).await);
    }
    let _failed = core.space.seal_idle().await;
    let heard: Vec<_> = std::mem::take(&mut *core.heard.borrow_mut()).into_iter().collect();
    if !heard.is_empty() {
        core.peers.call(CoreId::new(0), CoreRequest::Alive(heard)).await;
    }
    if core.me().get() == 0 {
        noted(core, control::expire(core).await);
    }
}
