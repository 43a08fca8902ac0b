//! A cluster of shards in memory, and clients whose operations interleave step by step.

pub mod audit;
pub mod client;
mod cold;
pub mod random;

use cfs_model::{Call, Correspondence};
use cfs_namespace::data::Layout;
use cfs_namespace::memory::Memory;
use cfs_namespace::txn::{Action, Coordinator, Event, Request, TxnCommand, TxnReply, Verdict};
use cfs_namespace::{
    Answer, Command, CommandBody, Effect, EntryContext, Outcome, TxId, execute, last_link, pending, query,
};
use cfs_types::{FsError, InodeId, LogIndex, Nanos, RequestNumber, SessionId, ShardId, Term, Timestamp, VolumeId};
use cfs_wire::{Op, Reply};
use cold::Cold;
use std::collections::{BTreeMap, BTreeSet};

/// More steps than any run here needs.
pub const STEPS_MAX: usize = 200_000;

pub struct Shard {
    pub memory: Memory,
    pub term: u64,
    index: u64,
}

pub struct Cluster {
    pub shards: BTreeMap<ShardId, Shard>,
    pub now: i64,
    clock: u64,
    pub open: BTreeMap<InodeId, BTreeSet<SessionId>>,
}

impl Cluster {
    pub fn new() -> Self {
        let mut cluster = Cluster { shards: BTreeMap::new(), now: 1000, clock: 0, open: BTreeMap::new() };
        let root = CommandBody::MakeRoot { mode: 0o755, uid: 0, gid: 0 };
        cluster.run(InodeId::ROOT.shard(), &Command::internal(root));
        cluster
    }

    fn shard(&mut self, id: ShardId) -> &mut Shard {
        let new = || Shard { memory: Memory::default(), term: 1, index: 0 };
        self.shards.entry(id).or_insert_with(new)
    }

    pub fn context(&mut self, id: ShardId) -> EntryContext {
        let now = self.now;
        let shard = self.shard(id);
        EntryContext {
            shard: id,
            term: Term::new(shard.term),
            index: LogIndex::new(shard.index),
            timestamp: Timestamp::new(shard.index),
            now: Nanos::new(now),
            name_key: [7; 32],
            volume: VolumeId::new(0),
            layout: Layout::default(),
        }
    }

    /// The shard's leader starts anew.
    pub fn crash(&mut self, id: ShardId) {
        self.shard(id).term += 1;
    }

    /// Commits one command, with the pins the driver would have asked for.
    pub fn run(&mut self, id: ShardId, command: &Command) -> Outcome {
        self.shard(id).index += 1;
        let ctx = self.context(id);
        let mut command = command.clone();
        let memory = &self.shards[&id].memory;
        let mut cold = Cold::new(memory);
        let last = cold.until_warm(|view| last_link(view, &ctx, &command));
        if let Some(ino) = last {
            let pins = self.open.get(&ino).into_iter().flatten().copied().collect();
            match &mut command.body {
                CommandBody::Op { pinned_by, .. }
                | CommandBody::Deliver { pinned_by, .. }
                | CommandBody::Txn(TxnCommand::Decide { pinned_by, .. }) => *pinned_by = pins,
                _ => {}
            }
        }
        let outcome = cold.until_warm(|view| execute(view, &ctx, &command));
        self.shard(id).memory.apply(outcome.writes.clone());
        for effect in &outcome.effects {
            if let Effect::ReapPending(ino) = effect {
                self.run(id, &Command::internal(CommandBody::Reap { ino: *ino }));
            }
        }
        outcome
    }

    pub fn ask(&mut self, id: ShardId, op: &Op) -> Result<Reply, FsError> {
        let ctx = self.context(id);
        let memory = &self.shards[&id].memory;
        Cold::new(memory).until_warm(|view| query(view, &ctx, op))
    }

    pub fn new_tx(&mut self, shard: ShardId) -> TxId {
        self.clock += 1;
        let term = Term::new(self.shard(shard).term);
        TxId { shard, term, sequence: self.clock, attempt: 0 }
    }

    pub fn ids(&self) -> Vec<ShardId> {
        self.shards.keys().copied().collect()
    }

    /// Delivers the oldest message of a shard to each of its peers, or to one of them; true if
    /// there was one. The sender may crash before it hears of it: `acknowledge` false.
    pub fn pump(&mut self, from: ShardId, acknowledge: bool, one: Option<usize>) -> bool {
        let memory = &self.shards[&from].memory;
        let messages = pending::outbox(memory, None, 1000).expect("memory").expect("sound");
        let mut oldest = BTreeMap::new();
        for (to, sequence, message) in messages {
            oldest.entry(to).or_insert((sequence, message));
        }
        let chosen = one.map(|one| one % oldest.len().max(1));
        let busy = !oldest.is_empty();
        for (i, (to, (sequence, message))) in oldest.into_iter().enumerate() {
            if chosen.is_some_and(|chosen| chosen != i) {
                continue;
            }
            let body = CommandBody::Deliver { from, sequence, message, pinned_by: Vec::new() };
            let outcome = self.run(to, &Command::internal(body));
            assert_eq!(outcome.result, Ok(Answer::Wire(Reply::Done)), "a message failed");
            if acknowledge {
                let body = CommandBody::Acknowledge { to, through: sequence };
                self.run(from, &Command::internal(body));
            }
        }
        busy
    }

    /// Resolves what is prepared in a shard by transactions that no coordinator works on.
    pub fn resolve(&mut self, at: ShardId, live: &BTreeSet<TxId>) {
        let memory = &self.shards[&at].memory;
        let held = pending::prepared(memory, None, 1000).expect("memory").expect("sound");
        for tx in held.into_iter().filter(|tx| !live.contains(tx)) {
            if self.verdict(tx) == Verdict::Aborted {
                self.run(at, &Command::internal(CommandBody::Txn(TxnCommand::Abort { tx })));
            }
        }
        let memory = &self.shards[&at].memory;
        let lock = pending::rename_lock(memory, VolumeId::new(0)).expect("memory").expect("sound");
        for tx in lock.into_iter().filter(|tx| !live.contains(tx)) {
            if self.verdict(tx) != Verdict::Pending {
                let body = TxnCommand::ReleaseRenameLock { tx };
                self.run(at, &Command::internal(CommandBody::Txn(body)));
            }
        }
    }

    fn verdict(&mut self, tx: TxId) -> Verdict {
        let body = CommandBody::Txn(TxnCommand::Resolve { tx, force: true });
        match self.run(tx.shard, &Command::internal(body)).result {
            Ok(Answer::Txn(TxnReply::Verdict(verdict))) => verdict,
            other => panic!("no verdict: {other:?}"),
        }
    }

    /// Everything that is under way comes to its end.
    pub fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            let mut busy = false;
            for id in self.ids() {
                self.resolve(id, &BTreeSet::new());
                busy |= self.pump(id, true, None);
            }
            if !busy {
                break;
            }
        }
        for id in self.ids() {
            self.crash(id);
            let memory = &self.shards[&id].memory;
            let transactions = pending::aborted(memory, None, 1000).expect("memory").expect("sound");
            let body = CommandBody::Txn(TxnCommand::Forget { transactions });
            self.run(id, &Command::internal(body));
        }
    }
}
