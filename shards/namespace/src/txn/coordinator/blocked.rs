//! What a coordinator does when another transaction is in its way.

use super::{Coordinator, Sent, Target};
use crate::outcome::Answer;
use crate::txn::{Action, Event, TxId, TxnCommand, TxnReply, Verdict};
use cfs_types::InodeId;

/// Waits for one holder after which an undecided transaction is taken for dead and aborted.
const PATIENCE: u32 = 32;
/// Waits for an older holder between two questions what became of it.
const ASK_EVERY: u32 = 4;

impl Coordinator {
    pub(super) fn wait(&mut self, target: Target) {
        let rounds = self.rounds.entry(target).or_default();
        let round = *rounds;
        *rounds = rounds.saturating_add(1);
        self.act(Some(Sent::Again(target)), Action::Wait { round });
    }

    /// Another transaction is in the way: an older one is waited for, a younger one is aborted
    /// unless it is decided; so is one that stays undecided for long.
    pub(super) fn unblock(&mut self, target: Target, holder: TxId) {
        let lock = target == Target::TakeLock;
        let waited = self.rounds.get(&target).copied().unwrap_or_default();
        let force = (self.tx < holder && !lock) || waited >= PATIENCE;
        if !force && waited % ASK_EVERY != ASK_EVERY - 1 {
            return self.wait(target);
        }
        let body = TxnCommand::Resolve { tx: holder, force };
        self.propose(Sent::Resolve(target, holder), holder.shard, body);
    }

    pub(super) fn resolved(&mut self, target: Target, holder: TxId, event: Event) {
        let verdict = match event {
            Event::Executed { result: Ok(Answer::Txn(TxnReply::Verdict(verdict))), .. } => verdict,
            _ => Verdict::Pending,
        };
        let again = Sent::Again(target);
        match (target, verdict) {
            (Target::TakeLock, Verdict::Aborted | Verdict::Committed) => {
                let body = TxnCommand::ReleaseRenameLock { tx: holder };
                self.propose(again, InodeId::ROOT.shard(), body);
            }
            (Target::Prepare(shard), Verdict::Aborted) => {
                self.propose(again, shard, TxnCommand::Abort { tx: holder });
            }
            (Target::Decide, Verdict::Aborted) => {
                self.propose(again, self.tx.shard, TxnCommand::Abort { tx: holder });
            }
            _ => self.wait(target),
        }
    }
}
