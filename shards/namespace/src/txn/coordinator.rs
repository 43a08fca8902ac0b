//! The coordinator of one operation, without I/O: it says what to ask, propose and wait for, and
//! is told what came of it. The steps are in docs/decisions/0003-cross-shard.md.
//!
//! Invariants: a coordinator that stops anywhere leaves nothing that resolvers do not undo or
//! that the outbox does not complete; it decides only in the term of its id; it waits only for
//! older transactions, and for the rename lock while it holds nothing.

mod blocked;
mod look;

use super::action::{Action, Event, Request};
use super::plan::{Look, Plan, Seen, Walk, plan, questions};
use super::{DecideReply, Part, TxId, TxnCommand, TxnReply};
use crate::command::{Command, CommandBody};
use crate::outcome::Answer;
use crate::record::Dentry;
use crate::session::is_final;
use cfs_types::{FsError, InodeId, ShardId};
use cfs_wire::{Op, Reply};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Attempts of one operation before it answers `Busy`.
const ATTEMPTS_MAX: u16 = 64;
/// Ancestors walked at most: far deeper than any path can name.
const DEPTH_MAX: u32 = 1 << 16;

/// A step that may have to be repeated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Target {
    Look,
    TakeLock,
    Walk,
    Revoke(ShardId),
    Prepare(ShardId),
    Decide,
}

/// What an action in flight was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sent {
    Target(Target),
    Resolve(Target, TxId),
    /// The way was cleared, or time has passed: send the target again.
    Again(Target),
    Cleanup,
    Conclude,
    Restart,
}

/// One answer to a look.
type Glance = Result<Option<Dentry>, FsError>;

/// What follows when a second look shows the same as the first: then all that was seen was so
/// at one moment in between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verified {
    Decide,
    Conclude(FsError),
}

/// What follows when all is quiet.
#[derive(Clone, Debug)]
enum End {
    Restart,
    Conclude(FsError),
    Finish(Result<Reply, FsError>, Vec<(ShardId, u64)>),
}

/// One operation between shards.
#[derive(Clone, Debug)]
pub struct Coordinator {
    tx: TxId,
    request: Request,
    home: ShardId,
    looks: Vec<Look>,
    seen: Seen,
    next_look: usize,
    /// Answers to the looks, in order.
    trail: Vec<Glance>,
    /// The same looks once more.
    second_look: Option<(Verified, Vec<Glance>)>,
    plan: Option<Plan>,
    walk: Option<(Walk, InodeId)>,
    walked: u32,
    /// Shards where others are asked to give way.
    revoking: BTreeSet<ShardId>,
    preparing: BTreeSet<ShardId>,
    /// Shards that may have prepared.
    touched: BTreeSet<ShardId>,
    locked: bool,
    rounds: BTreeMap<Target, u32>,
    end: Option<End>,
    cleaned: bool,
    closed: bool,
    ready: VecDeque<(u32, Action)>,
    in_flight: BTreeMap<u32, Sent>,
    token: u32,
}

impl Coordinator {
    /// Whether an operation needs a coordinator; others are `CommandBody::Op`.
    pub fn handles(op: &Op) -> bool {
        questions(op).is_some()
    }

    /// Begins an operation. `tx.shard` is the shard the request was routed to, `tx.term` the term
    /// its leader proposes in, `tx.sequence` its hybrid clock, made unique. A new directory is
    /// born in `home`, or next to it where that is the parent's own shard.
    pub fn new(tx: TxId, request: Request, home: ShardId) -> Self {
        let home = if home == tx.shard { ShardId::new(home.get().wrapping_add(1)) } else { home };
        let looks = questions(&request.op).unwrap_or_default();
        let mut coordinator = Coordinator {
            tx,
            request,
            home,
            looks,
            seen: Seen::default(),
            next_look: 0,
            trail: Vec::new(),
            second_look: None,
            plan: None,
            walk: None,
            walked: 0,
            revoking: BTreeSet::new(),
            preparing: BTreeSet::new(),
            touched: BTreeSet::new(),
            locked: false,
            rounds: BTreeMap::new(),
            end: None,
            cleaned: false,
            closed: false,
            ready: VecDeque::new(),
            in_flight: BTreeMap::new(),
            token: 0,
        };
        coordinator.send(Target::Look);
        coordinator
    }

    /// The present attempt's id.
    pub fn id(&self) -> TxId {
        self.tx
    }

    /// The next thing to do, if any; several may be in flight.
    pub fn poll_action(&mut self) -> Option<(u32, Action)> {
        self.ready.pop_front()
    }

    /// Takes what came of an action.
    pub fn handle_event(&mut self, token: u32, event: Event) {
        let Some(sent) = self.in_flight.remove(&token) else {
            return;
        };
        match sent {
            Sent::Target(Target::Decide) => self.decided(event),
            Sent::Target(target) if self.end.is_none() => self.answered(target, event),
            Sent::Resolve(target, holder) if self.end.is_none() => {
                self.resolved(target, holder, event);
            }
            Sent::Again(target) if self.end.is_none() => self.send(target),
            Sent::Target(_) | Sent::Resolve(..) | Sent::Again(_) | Sent::Cleanup => {}
            Sent::Conclude => self.concluded(event),
            Sent::Restart => self.restart(),
        }
        self.advance();
    }

    fn act(&mut self, sent: Option<Sent>, action: Action) {
        self.token = self.token.wrapping_add(1);
        if let Some(sent) = sent {
            self.in_flight.insert(self.token, sent);
        }
        self.ready.push_back((self.token, action));
    }

    fn propose(&mut self, sent: Sent, shard: ShardId, body: TxnCommand) {
        let command = Command::internal(CommandBody::Txn(body));
        self.act(Some(sent), Action::Propose { shard, command });
    }

    /// A command with the client's session and number.
    fn command(&self, body: CommandBody) -> Command {
        Command {
            session: self.request.session,
            number: self.request.number,
            oldest: self.request.oldest,
            identity: self.request.identity.clone(),
            body,
        }
    }

    fn send(&mut self, target: Target) {
        let (tx, sent) = (self.tx, Sent::Target(target));
        match target {
            Target::Look => {
                let Some(look) = self.looks.get(self.next_look) else {
                    return self.planned();
                };
                let (shard, op) = match look.clone() {
                    Look::Attr(ino) => (ino.shard(), Op::Getattr { ino }),
                    Look::Name(dir, name) => (dir.shard(), Op::Lookup { dir, name }),
                };
                self.act(Some(sent), Action::Query { shard, op });
            }
            Target::TakeLock => {
                self.locked = true;
                self.propose(sent, InodeId::ROOT.shard(), TxnCommand::TakeRenameLock { tx });
            }
            Target::Walk => {
                let Some((_, dir)) = self.walk else { return };
                self.act(Some(sent), Action::Query { shard: dir.shard(), op: Op::Parent { dir } });
            }
            Target::Revoke(shard) => {
                let mut command = match shard == tx.shard {
                    true => self.decision(),
                    false => self.preparation(shard),
                };
                // Who asks need not give way to himself.
                command.session = self.request.session;
                self.act(Some(sent), Action::Revoke { shard, command });
            }
            Target::Prepare(shard) => {
                self.touched.insert(shard);
                let command = self.preparation(shard);
                self.act(Some(sent), Action::Propose { shard, command });
            }
            Target::Decide => {
                let command = self.decision();
                self.act(Some(sent), Action::Propose { shard: tx.shard, command });
            }
        }
    }

    fn parts(&self, shard: ShardId) -> Vec<Part> {
        let plan = self.plan.as_ref();
        plan.and_then(|plan| plan.parts.get(&shard)).cloned().unwrap_or_default()
    }

    fn preparation(&self, shard: ShardId) -> Command {
        Command::internal(CommandBody::Txn(TxnCommand::Prepare { tx: self.tx, parts: self.parts(shard) }))
    }

    fn decision(&self) -> Command {
        let plan = self.plan.as_ref();
        self.command(CommandBody::Txn(TxnCommand::Decide {
            tx: self.tx,
            participants: self.touched.iter().copied().collect(),
            parts: self.parts(self.tx.shard),
            after: plan.map(|plan| plan.after.clone()).unwrap_or_default(),
            reply: plan.map_or(Reply::Done, |plan| plan.reply.clone()),
            pinned_by: Vec::new(),
        }))
    }

    /// A step was answered: goes on, clears the way, or fails.
    fn answered(&mut self, target: Target, event: Event) {
        match event {
            Event::Answer(Err(FsError::Blocked)) => self.wait(target),
            Event::Executed { result: Err(FsError::Blocked), blocked_by } => match blocked_by {
                Some(holder) => self.unblock(target, holder),
                None => self.wait(target),
            },
            Event::Answer(result) => match target {
                Target::Look => self.looked(result),
                Target::Walk => self.stepped(result),
                _ => self.fail(FsError::Conflict),
            },
            Event::Executed { result: Ok(Answer::Txn(reply)), .. } => match (target, reply) {
                (Target::TakeLock, _) => self.start_walk(),
                (Target::Prepare(shard), TxnReply::Prepared(made)) => {
                    if let (Some(made), Some(plan)) = (made, &mut self.plan) {
                        plan.complete(made);
                    }
                    self.preparing.remove(&shard);
                    if self.preparing.is_empty() {
                        self.send(Target::Decide);
                    }
                }
                _ => self.fail(FsError::Conflict),
            },
            Event::Executed { result: Err(error), .. } => self.fail(error),
            Event::Executed { result: Ok(Answer::Wire(_)), .. } => self.fail(FsError::Conflict),
            Event::Revoked(Ok(())) => match target {
                Target::Revoke(shard) => self.revoked(shard),
                _ => self.fail(FsError::Conflict),
            },
            // It was no attempt at the operation itself: what it met is seen by the next look.
            Event::Revoked(Err(error)) if is_final(error) => self.fail(FsError::Conflict),
            Event::Revoked(Err(error)) => self.fail(error),
            Event::Waited | Event::Lost => self.fail(FsError::TimedOut),
        }
    }

    /// All is known: plans, and takes the rename lock or prepares.
    fn planned(&mut self) {
        match plan(&self.request.op, &self.request.identity, self.home, &self.seen) {
            Err(error) => self.fail(error),
            Ok(plan) => {
                let (lock, nothing) = (!plan.walks.is_empty(), plan.parts.is_empty());
                self.plan = Some(plan);
                match (lock, nothing) {
                    (true, _) => self.send(Target::TakeLock),
                    (_, true) => self.verify(Verified::Decide),
                    _ => self.prepare(),
                }
            }
        }
    }

    /// Begins the next walk, or prepares where there is none.
    fn start_walk(&mut self) {
        let next = self.plan.as_mut().and_then(|plan| plan.walks.pop());
        match next {
            Some(walk) => {
                self.walked = 0;
                self.walk_to(walk, walk.start);
            }
            None => self.prepare(),
        }
    }

    fn walk_to(&mut self, walk: Walk, dir: InodeId) {
        self.walked += 1;
        if dir == walk.unwanted {
            self.fail(FsError::Invalid);
        } else if dir == InodeId::ROOT {
            self.start_walk();
        } else if self.walked > DEPTH_MAX {
            self.fail(FsError::Loop);
        } else {
            self.walk = Some((walk, dir));
            self.send(Target::Walk);
        }
    }

    fn stepped(&mut self, result: Result<Reply, FsError>) {
        match (self.walk, result) {
            (Some((walk, _)), Ok(Reply::Entry(parent))) => self.walk_to(walk, parent.ino),
            (_, Err(error)) => self.fail(error),
            (_, Ok(_)) => self.fail(FsError::Malformed),
        }
    }

    /// Has others give way in all shards at once, then prepares in all other shards at once, so that
    /// nothing is blocked while somebody is waited for. A shard that alone prepares revokes with that.
    fn prepare(&mut self) {
        let Some(plan) = &self.plan else { return };
        let own = self.tx.shard;
        self.preparing = plan.parts.keys().copied().filter(|shard| *shard != own).collect();
        if self.preparing.is_empty() {
            return self.send(Target::Decide);
        }
        self.revoking = BTreeSet::from([own]);
        if self.preparing.len() > 1 {
            self.revoking.extend(&self.preparing);
        }
        for shard in self.revoking.clone() {
            self.send(Target::Revoke(shard));
        }
    }

    fn revoked(&mut self, shard: ShardId) {
        self.revoking.remove(&shard);
        if self.revoking.is_empty() {
            for shard in self.preparing.clone() {
                self.send(Target::Prepare(shard));
            }
        }
    }

    fn decided(&mut self, event: Event) {
        match event {
            Event::Executed { result: Ok(Answer::Txn(TxnReply::Decided(reply))), .. } => match reply {
                DecideReply::Committed { reply, sent } => {
                    self.touched.clear();
                    let wait = self.plan.as_ref().is_some_and(|plan| plan.wait);
                    self.end = Some(End::Finish(Ok(reply), if wait { sent } else { Vec::new() }));
                }
                DecideReply::Duplicate(result) => self.finish(result),
                DecideReply::Aborted => self.fail(FsError::Conflict),
            },
            // Nothing is decided: the way is cleared, unless the operation is over.
            blocked @ Event::Executed { result: Err(FsError::Blocked), .. } => {
                if self.end.is_none() {
                    self.answered(Target::Decide, blocked);
                }
            }
            // The shard has failed, perhaps after the decision was durable.
            Event::Executed { result: Err(error), .. } if error.is_failure() => self.leave_undecided(error),
            // The failure is kept as the request's result already.
            Event::Executed { result: Err(error), .. } if is_final(error) => {
                self.finish(Err(error));
            }
            Event::Executed { result: Err(error), .. } => self.fail(error),
            _ => self.leave_undecided(FsError::TimedOut),
        }
    }

    /// It may have committed: nothing is cleaned up, whoever meets its parts asks for the verdict.
    fn leave_undecided(&mut self, error: FsError) {
        self.touched.clear();
        self.locked = false;
        self.finish(Err(error));
    }

    fn finish(&mut self, result: Result<Reply, FsError>) {
        self.end = Some(End::Finish(result, Vec::new()));
    }

    fn fail(&mut self, error: FsError) {
        if self.end.is_some() {
            return;
        }
        let last = self.tx.attempt >= ATTEMPTS_MAX;
        self.end = Some(match error {
            FsError::Conflict if last => End::Finish(Err(FsError::Busy), Vec::new()),
            FsError::Conflict => End::Restart,
            error if is_final(error) => End::Conclude(error),
            error => End::Finish(Err(error), Vec::new()),
        });
    }

    /// When the end is known and all is quiet: cleans up, then ends.
    fn advance(&mut self) {
        if self.end.is_none() || !self.in_flight.is_empty() {
            return;
        }
        if !self.cleaned {
            self.cleaned = true;
            let tx = self.tx;
            for shard in std::mem::take(&mut self.touched) {
                self.propose(Sent::Cleanup, shard, TxnCommand::Abort { tx });
            }
            if std::mem::take(&mut self.locked) {
                let body = TxnCommand::ReleaseRenameLock { tx };
                self.propose(Sent::Cleanup, InodeId::ROOT.shard(), body);
            }
            if !self.in_flight.is_empty() {
                return;
            }
        }
        match self.end.take() {
            Some(End::Restart) => {
                let round = u32::from(self.tx.attempt);
                self.act(Some(Sent::Restart), Action::Wait { round });
            }
            Some(End::Conclude(error)) => self.verify(Verified::Conclude(error)),
            Some(End::Finish(result, after)) => self.close(result, after),
            None => {}
        }
    }

    fn close(&mut self, result: Result<Reply, FsError>, after: Vec<(ShardId, u64)>) {
        self.closed = true;
        self.act(None, Action::Finish { result, after });
    }

    fn concluded(&mut self, event: Event) {
        let result = match event {
            Event::Executed { result: Ok(answer), .. } => Ok(answer.into_wire()),
            Event::Executed { result: Err(error), .. } => Err(error),
            _ => Err(FsError::TimedOut),
        };
        self.close(result, Vec::new());
    }

    /// The state was not what was seen, or the transaction was wounded: the next attempt.
    fn restart(&mut self) {
        self.tx = self.tx.retry();
        self.seen = Seen::default();
        self.next_look = 0;
        self.trail.clear();
        self.second_look = None;
        self.plan = None;
        self.walk = None;
        self.preparing.clear();
        self.rounds.clear();
        self.cleaned = false;
        self.send(Target::Look);
    }
}
