//! What a start finds in the shards of a core: work that a crash cut short, and chunks that nothing
//! names.
//!
//! Invariant: a chunk is given back only once nothing can name it any more: it is of an earlier
//! term, this term's first entry is executed, and every message between shards that the start found,
//! on any core, has been delivered (docs/decisions/0004, life of a chunk).

use crate::cells;
use crate::core::Core;
use crate::effects;
use crate::file_data::{free_chunk, settle};
use crate::messages::{CoreReply, CoreRequest};
use crate::shard::Shard;
use cfs_kv::{Pins, Scan};
use cfs_namespace::data::chunk_exists;
use cfs_seam::sleep;
use cfs_types::{ChunkId, CoreId, FsError, Timestamp};
use std::rc::Rc;
use std::time::Duration;

/// Chunks looked at in one step.
const PAGE: usize = 256;
/// Between two questions to a core that has not started yet.
const RETRY: Duration = Duration::from_millis(20);
/// Between two tries to take up what a shard has left unfinished.
const RESUME_PAUSE: Duration = Duration::from_secs(30);

/// Takes up what the start found, then gives back what nothing names.
pub async fn run(core: Rc<Core>) {
    let shards = || core.groups.values().filter(|shard| shard.group().shard().is_some());
    let mut sent = Vec::new();
    let mut left: Vec<_> = shards().cloned().collect();
    loop {
        let mut failed = Vec::new();
        for shard in left {
            match effects::resume(&core, &shard).await {
                Ok(found) => sent.push((shard, found)),
                Err(_) => failed.push(shard),
            }
        }
        if failed.is_empty() {
            break;
        }
        // What these have to say to others stays unsaid, and chunks may be named there: nothing is swept before.
        core.metrics.upkeep_failures.bump();
        left = failed;
        sleep(&core.world.clock, RESUME_PAUSE).await;
    }
    for (shard, messages) in sent {
        for (to, sequence) in messages {
            if core.await_sent(&shard, to, sequence).await.is_err() {
                return core.metrics.upkeep_failures.bump();
            }
        }
    }
    core.is_delivered.set(true);
    core.delivered.notify_all();
    for to in (0..core.config.cores).map(CoreId::new) {
        while !matches!(core.peers.call(to, CoreRequest::AwaitDelivered).await, CoreReply::Done) {
            sleep(&core.world.clock, RETRY).await;
        }
    }
    for shard in shards() {
        if sweep(&core, shard).await.is_err() {
            core.metrics.upkeep_failures.bump();
        }
    }
}

/// Gives back the chunks of earlier terms that nothing in the shard names.
async fn sweep(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<(), FsError> {
    shard.replica.ready().await?;
    let (mut from, to) = (cells::places().0.to_vec(), cells::places().1);
    let mut pins = Pins::default();
    loop {
        let store = shard.replica.store();
        let (rows, more) = match store.scan(&from, &to, Timestamp::MAX, PAGE) {
            Scan::Rows { rows, more } => (rows, more),
            Scan::Miss(fetch) => {
                pins.merge(shard.replica.fetch(&fetch).await?);
                continue;
            }
        };
        pins = Pins::default();
        // This term's first grant came before the first place of a chunk of this term.
        let granted = shard.granted_from.get().unwrap_or(u64::MAX);
        let decoded = rows.iter().filter_map(|(key, value)| cells::decode_row(key, value));
        let older: Vec<ChunkId> = decoded.map(|(id, _)| id).filter(|id| id.sequence() < granted).collect();
        for id in older {
            if !shard.read(|view, _| settle(chunk_exists(view, id))).await?? {
                free_chunk(core, shard, id).await?;
                core.metrics.swept.bump();
            }
        }
        let Some((last, _)) = rows.last().filter(|_| more) else { return Ok(()) };
        from = [last, &[0][..]].concat();
        core.world.tasks.yield_now().await;
    }
}
