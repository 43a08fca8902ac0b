//! Messages between shards: the outbox is delivered in order, exactly once.
//!
//! One courier a pair of shards runs while there is something to deliver; after a start it finds
//! the rest in the outbox. The receiver's inbox cursor makes a repeated delivery harmless.
//!
//! Invariants: a message leaves the outbox only after the receiver has executed it durably; nobody waits
//! for a receiver, or a sender, that is damaged: that is his answer, while the courier goes on trying.

use crate::core::Core;
use crate::messages::{CoreReply, CoreRequest};
use crate::shard::Shard;
use bytes::Bytes;
use cfs_exec::Event;
use cfs_namespace::{Command, CommandBody, Effect, Message, pending};
use cfs_seam::{Class, sleep, spawn, timeout};
use cfs_types::{FsError, ShardId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Messages read from the outbox at once.
const PAGE: usize = 64;
/// Wait before a delivery that failed is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// What a shard has delivered since start, and to whom couriers run.
#[derive(Default)]
pub struct Outbox {
    delivered: RefCell<BTreeMap<ShardId, u64>>,
    running: RefCell<BTreeSet<ShardId>>,
    kicked: RefCell<BTreeSet<ShardId>>,
    /// Why the last try to deliver failed, where that is damage.
    damaged: RefCell<BTreeMap<ShardId, FsError>>,
    moved: Event,
}

impl Outbox {
    fn is_delivered(&self, to: ShardId, sequence: u64) -> bool {
        self.delivered.borrow().get(&to).is_some_and(|done| *done >= sequence)
    }

    fn note_delivered(&self, to: ShardId, sequence: u64) {
        self.delivered.borrow_mut().insert(to, sequence);
        self.damaged.borrow_mut().remove(&to);
        self.moved.notify_all();
    }

    fn note_failed(&self, to: ShardId, error: FsError) {
        if error.is_failure() {
            self.damaged.borrow_mut().insert(to, error);
            self.moved.notify_all();
        }
    }

    /// The shard serves no longer: whoever waits looks again.
    pub fn close(&self) {
        self.moved.notify_all();
    }
}

impl Core {
    /// Waits until the messages among `effects` have been executed by their receivers, as
    /// [`Core::await_all`] does.
    pub async fn await_delivery(&self, shard: &Rc<Shard>, effects: &[Effect]) -> Result<(), FsError> {
        let sent = effects.iter().filter_map(|effect| match effect {
            Effect::Sent { to, sequence } => Some((*to, *sequence)),
            _ => None,
        });
        self.await_all(shard, sent).await
    }

    /// Waits until messages have been executed by their receivers, as long as a request may take. They are
    /// delivered in any case.
    pub async fn await_all(
        &self,
        shard: &Rc<Shard>,
        sent: impl IntoIterator<Item = (ShardId, u64)>,
    ) -> Result<(), FsError> {
        let all = async {
            for (to, sequence) in sent {
                self.await_sent(shard, to, sequence).await?;
            }
            Ok(())
        };
        let end = self.world.clock.now().after(self.config.deadline);
        timeout(&self.world.clock, end, all).await.unwrap_or(Err(FsError::TimedOut))
    }

    /// Waits until one message has been executed by its receiver. `Corrupt`, `Device`: it, or the sender, is
    /// damaged.
    pub async fn await_sent(&self, shard: &Rc<Shard>, to: ShardId, sequence: u64) -> Result<(), FsError> {
        while !shard.outbox.is_delivered(to, sequence) {
            let damaged = shard.outbox.damaged.borrow().get(&to).copied();
            if let Some(error) = shard.replica.failure().or(damaged) {
                return Err(error);
            }
            shard.outbox.moved.wait().await;
        }
        Ok(())
    }

    /// Starts a courier to `to`, or has the running one look again.
    pub fn deliver_to(self: &Rc<Self>, shard: &Rc<Shard>, to: ShardId) {
        shard.outbox.kicked.borrow_mut().insert(to);
        if shard.outbox.running.borrow_mut().insert(to) {
            let (core, shard) = (self.clone(), shard.clone());
            let task = async move {
                while shard.outbox.kicked.borrow_mut().remove(&to) {
                    courier(&core, &shard, to).await;
                }
                shard.outbox.running.borrow_mut().remove(&to);
            };
            spawn(&self.world.tasks, Class::Foreground, task).detach();
        }
    }

    /// Starts couriers for what a start finds in the outbox. Returns the last message to each shard.
    pub async fn deliver_left_over(self: &Rc<Self>, shard: &Rc<Shard>) -> Result<BTreeMap<ShardId, u64>, FsError> {
        let (mut after, mut found) = (None, BTreeMap::new());
        loop {
            let page = shard.read(|view, _| pending::outbox(view, after, PAGE)).await??;
            let Some((to, sequence, _)) = page.last() else { return Ok(found) };
            after = Some((*to, *sequence));
            for (to, sequence, _) in &page {
                found.insert(*to, *sequence);
                self.deliver_to(shard, *to);
            }
        }
    }
}

/// Delivers what waits for one peer, until nothing is left.
async fn courier(core: &Rc<Core>, shard: &Rc<Shard>, to: ShardId) {
    let mut after = shard.outbox.delivered.borrow().get(&to).copied().unwrap_or(0);
    while !core.stopping.get() && shard.replica.failure().is_none() {
        let page = shard.read(|view, _| pending::outbox(view, Some((to, after)), PAGE)).await;
        let page = match page.flatten() {
            Ok(page) => page,
            Err(error) => {
                shard.outbox.note_failed(to, error);
                sleep(&core.world.clock, RETRY).await;
                continue;
            }
        };
        let mine: Vec<(u64, Message)> =
            page.into_iter().filter(|(peer, ..)| *peer == to).map(|(_, s, m)| (s, m)).collect();
        if mine.is_empty() {
            return;
        }
        for (sequence, message) in mine {
            while let Err(error) = deliver(core, shard, to, sequence, message.clone()).await {
                shard.outbox.note_failed(to, error);
                if core.stopping.get() || shard.replica.failure().is_some() {
                    return;
                }
                sleep(&core.world.clock, RETRY).await;
            }
            after = sequence;
            shard.outbox.note_delivered(to, sequence);
        }
        let acknowledge = Command::internal(CommandBody::Acknowledge { to, through: after });
        if shard.execute(acknowledge, Bytes::new(), Vec::new()).await.is_err() {
            return;
        }
    }
}

async fn deliver(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    to: ShardId,
    sequence: u64,
    mut message: Message,
) -> Result<(), FsError> {
    let mut data = Vec::new();
    if let Message::Data(body) = &mut message
        && let Some(slice) = body.carries()
    {
        data = shard.replica.read_data(slice.index, slice.data_offset, slice.data_len).await?;
        body.carried_at(0);
    }
    let command =
        Command::internal(CommandBody::Deliver { from: shard.id(), sequence, message, pinned_by: Vec::new() });
    let owner = core.config.owner(to.into());
    match core.peers.call(owner, CoreRequest::Execute(to, Box::new(command), data)).await {
        CoreReply::Executed(remote) => remote.result.map(|_| ()),
        _ => Err(FsError::WrongShard),
    }
}
