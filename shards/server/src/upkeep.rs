//! What keeps a core going: checkpoints, compaction, cleaning, sessions, transactions left behind.
//!
//! Each kind of work has a task of its own: none waits for another to be through with all groups.
//!
//! Invariant: memory and log stay within their limits whatever clients do; nothing here is needed
//! for an answer to be right.

use crate::checkpoint::{checkpoint, compact};
use crate::control;
use crate::coordinate::resolve_left_over;
use crate::core::Core;
use crate::messages::CoreRequest;
use crate::shard::Shard;
use cfs_seam::{gather, timeout};
use cfs_types::{CoreId, FsError, GroupId};
use std::rc::Rc;
use std::time::Duration;

/// Longest between two looks at everything.
const PERIOD: Duration = Duration::from_millis(50);
/// Between two rounds of the slow work.
const SLOW_PERIOD: Duration = Duration::from_secs(1);
/// Between two tries to move cells that could not be moved.
const UNMOVED_PERIOD: Duration = Duration::from_secs(10);
/// Checkpoints made at the same time. Each takes some MiB while it lasts.
const CHECKPOINTS_AT_ONCE: usize = 4;
/// Checkpoints made in one look.
const CHECKPOINTS_A_LOOK: usize = 8;

/// Keeps room in the log and in the memtables until the core stops.
pub async fn keep_room(core: Rc<Core>) {
    while !core.stopping.get() {
        let mut busy = reclaim_log(&core).await;
        busy |= bound_memory(&core).await;
        pause(&core, busy).await;
    }
}

/// Compacts stores until the core stops.
pub async fn keep_sorted(core: Rc<Core>) {
    while !core.stopping.get() {
        let mut busy = false;
        for shard in core.groups.values() {
            if shard.replica.store().should_compact() && !core.stopping.get() {
                busy |= noted(&core, compact(&core, shard).await);
            }
        }
        pause(&core, busy).await;
    }
}

/// Cleans segments, and settles what clients and coordinators left behind, until the core stops.
pub async fn keep_clean(core: Rc<Core>) {
    let mut slow = core.world.clock.now();
    let mut retry = slow.after(UNMOVED_PERIOD);
    while !core.stopping.get() {
        let busy = noted(&core, core.cleaning.run(&core).await);
        let now = core.world.clock.now();
        if now >= slow {
            slow = now.after(SLOW_PERIOD);
            slow_round(&core).await;
        }
        if now >= retry {
            retry = now.after(UNMOVED_PERIOD);
            core.space.retry_unmoved();
        }
        pause(&core, busy).await;
    }
}

async fn pause(core: &Core, busy: bool) {
    if busy {
        core.world.tasks.yield_now().await;
    } else {
        let until = core.world.clock.now().after(PERIOD);
        timeout(&core.world.clock, until, core.upkeep.wait()).await;
    }
}

/// What one piece of work gave. A group that fails must not keep the others from being kept.
fn noted<T: Default>(core: &Core, done: Result<T, FsError>) -> T {
    done.unwrap_or_else(|_| {
        core.metrics.upkeep_failures.bump();
        T::default()
    })
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
    let shards: Vec<&Rc<Shard>> = groups.iter().filter_map(|group| core.groups.get(group)).collect();
    let mut left = CHECKPOINTS_A_LOOK;
    for some in shards.chunks(CHECKPOINTS_AT_ONCE) {
        if left == 0 {
            return true;
        }
        let work = some.iter().map(|shard| async { noted(core, checkpoint(core, shard).await.map(|()| true)) });
        let made = gather(work, CHECKPOINTS_AT_ONCE).await.into_iter().filter(|made| *made).count();
        left = left.saturating_sub(made);
    }
    false
}

/// Checkpoints the largest memtables while all together are too large, and packs small writes.
async fn bound_memory(core: &Rc<Core>) -> bool {
    let size = |shard: &Rc<Shard>| shard.replica.store().memory_bytes();
    let full = core.groups.values().filter(|s| s.replica.store().should_flush());
    let mut chosen: Vec<GroupId> = full.map(|s| s.group()).collect();
    let limits = core.config.memory;
    if core.memtable_bytes.get() > limits.memtables / 4 * 3 || core.unpacked_bytes.get() > limits.unpacked() {
        let mut by_size: Vec<&Rc<Shard>> = core.groups.values().collect();
        by_size.sort_by_key(|s| std::cmp::Reverse(size(s)));
        chosen.extend(by_size.iter().take(CHECKPOINTS_A_LOOK).map(|s| s.group()));
    }
    chosen.sort_unstable();
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
