//! What follows from executed commands: deliveries, reaping, trimming, freed chunks.
//!
//! Effects are hints. Each is either done here or found again in the state after a start.

use crate::core::Core;
use crate::file_data::{free_chunk, settle};
use crate::log_room::Asker;
use crate::shard::Shard;
use cfs_namespace::data::{DataCommand, DataEffect, pending_trims};
use cfs_namespace::{Command, CommandBody, Effect, pending};
use cfs_seam::{Class, spawn};
use cfs_types::{FsError, ShardId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Rows looked at in one step of a sweep.
const PAGE: usize = 64;

/// Carries out a shard's effects until the core stops.
pub async fn run(core: Rc<Core>, shard: Rc<Shard>) {
    loop {
        let effects = shard.replica.take_effects().await;
        for effect in effects {
            carry_out(&core, &shard, effect);
        }
    }
}

fn carry_out(core: &Rc<Core>, shard: &Rc<Shard>, effect: Effect) {
    let command = match effect {
        Effect::Sent { to, .. } => return core.deliver_to(shard, to),
        Effect::Unlocked | Effect::Gone(_) | Effect::Data(DataEffect::Thinned(..)) => return,
        Effect::ReapPending(ino) => CommandBody::Reap { ino },
        Effect::ForgetPending(sessions) => CommandBody::ForgetSessions { sessions },
        Effect::Data(DataEffect::TrimPending { ino, range }) => CommandBody::Data(DataCommand::Trim { ino, range }),
        Effect::Data(DataEffect::FreeChunk(id)) => {
            let (owner, shard) = (core.clone(), shard.clone());
            let task = async move {
                let _failed = free_chunk(&owner, &shard, id).await;
            };
            return spawn(&core.world.tasks, Class::Background, task).detach();
        }
    };
    let (core, shard) = (core.clone(), shard.clone());
    let tasks = core.world.tasks.clone();
    let task = async move {
        let _place = core.log_place(Asker::FollowUp, 0).await;
        let _failed = shard.command(Command::internal(command)).await;
    };
    spawn(&tasks, Class::Background, task).detach();
}

/// Takes up what a start finds unfinished in a shard. Returns the last message to each shard that
/// was found in the outbox.
pub async fn resume(core: &Rc<Core>, shard: &Rc<Shard>) -> Result<BTreeMap<ShardId, u64>, FsError> {
    let sent = core.deliver_left_over(shard).await?;
    let mut after = None;
    loop {
        let inodes = shard.read(|view, _| pending::reaps(view, after, PAGE)).await??;
        let Some(last) = inodes.last() else { break };
        after = Some(*last);
        for ino in inodes {
            carry_out(core, shard, Effect::ReapPending(ino));
        }
    }
    loop {
        let trims = shard.read(|view, _| settle(pending_trims(view, PAGE))).await??;
        if trims.is_empty() {
            return Ok(sent);
        }
        for (ino, range) in trims {
            let _place = core.log_place(Asker::FollowUp, 0).await;
            let trim = CommandBody::Data(DataCommand::Trim { ino, range });
            shard.command(Command::internal(trim)).await?;
        }
    }
}
