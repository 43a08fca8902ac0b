//! One operation of a client under way, advanced one step at a time.

use super::*;
use cfs_wire::{AttrChange, FileKind, TimeChange};

/// What the network and crashes do to a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Done and heard of.
    Done,
    /// Done, but nobody hears of it.
    Unheard,
    /// Never done.
    Dropped,
}

enum Work {
    Coordinated(Box<Coordinator>, Vec<(u32, Action)>),
    Plain,
    Finishing(Result<Reply, FsError>, ShardId, Vec<(ShardId, u64)>),
    Done(Result<Reply, FsError>),
}

pub struct Client {
    call: Call,
    op: Op,
    number: u64,
    oldest: u64,
    work: Work,
}

/// The shard a request is routed to.
fn route(op: &Op) -> ShardId {
    match op {
        Op::Lookup { dir, .. }
        | Op::Create { dir, .. }
        | Op::Mknod { dir, .. }
        | Op::Mkdir { dir, .. }
        | Op::Symlink { dir, .. }
        | Op::Unlink { dir, .. }
        | Op::Rmdir { dir, .. }
        | Op::Readdir { dir, .. }
        | Op::Parent { dir }
        | Op::Link { dir, .. } => dir.shard(),
        Op::Rename { from_dir, .. } => from_dir.shard(),
        Op::Getattr { ino }
        | Op::Setattr { ino, .. }
        | Op::Readlink { ino }
        | Op::GetXattr { ino, .. }
        | Op::SetXattr { ino, .. }
        | Op::ListXattr { ino }
        | Op::RemoveXattr { ino, .. }
        | Op::Open { ino, .. }
        | Op::Close { ino } => ino.shard(),
        other => panic!("not driven here: {other:?}"),
    }
}

fn is_read(op: &Op) -> bool {
    matches!(
        op,
        Op::Lookup { .. }
            | Op::Readdir { .. }
            | Op::Parent { .. }
            | Op::Getattr { .. }
            | Op::Readlink { .. }
            | Op::GetXattr { .. }
            | Op::ListXattr { .. }
            | Op::Open { .. }
    )
}

impl Client {
    pub fn new(cluster: &mut Cluster, call: Call, op: Op, number: u64, oldest: u64) -> Self {
        let mut client = Client { call, op, number, oldest, work: Work::Plain };
        client.start(cluster);
        client
    }

    /// Sends the request, or sends it again with the same number.
    pub fn start(&mut self, cluster: &mut Cluster) {
        self.work = Work::Plain;
        if Coordinator::handles(&self.op) {
            let shard = route(&self.op);
            let request = Request {
                session: self.call.session,
                number: RequestNumber::new(self.number),
                oldest: RequestNumber::new(self.oldest),
                identity: self.call.identity.clone(),
                op: self.op.clone(),
            };
            let tx = cluster.new_tx(shard);
            let home = u8::try_from(self.number * 3 % 5).expect("small");
            let coordinator = Coordinator::new(tx, request, ShardId::new(home));
            self.work = Work::Coordinated(Box::new(coordinator), Vec::new());
        }
    }

    pub fn shard(&self) -> ShardId {
        route(&self.op)
    }

    pub fn transaction(&self) -> Option<TxId> {
        match &self.work {
            Work::Coordinated(coordinator, _) => Some(coordinator.id()),
            _ => None,
        }
    }

    pub fn result(&self) -> Option<&Result<Reply, FsError>> {
        match &self.work {
            Work::Done(result) => Some(result),
            _ => None,
        }
    }

    /// Performs one step; `pick` chooses among the actions in flight.
    pub fn step(&mut self, cluster: &mut Cluster, pick: usize, fate: Fate) {
        match &mut self.work {
            Work::Done(_) => {}
            Work::Finishing(result, from, sent) => {
                let left = pending::outbox(&cluster.shards[from].memory, None, 1000);
                let left = left.expect("memory").expect("sound");
                let waits = left.iter().any(|(to, sequence, _)| sent.contains(&(*to, *sequence)));
                if !waits {
                    self.work = Work::Done(result.clone());
                }
            }
            Work::Plain => self.plain(cluster, fate),
            Work::Coordinated(coordinator, actions) => {
                while let Some(action) = coordinator.poll_action() {
                    actions.push(action);
                }
                assert!(!actions.is_empty(), "a coordinator has nothing to do and is not done");
                let (token, action) = actions.remove(pick % actions.len());
                let event = match action {
                    Action::Finish { result, after } => {
                        self.work = Work::Finishing(result, route(&self.op), after);
                        return;
                    }
                    Action::Wait { .. } => Event::Waited,
                    _ if fate == Fate::Dropped => Event::Lost,
                    Action::Revoke { .. } => Event::Revoked(Ok(())),
                    Action::Query { shard, op } => Event::Answer(cluster.ask(shard, &op)),
                    Action::Propose { shard, command } => {
                        let outcome = cluster.run(shard, &command);
                        let (result, blocked_by) = (outcome.result, outcome.blocked_by);
                        Event::Executed { result, blocked_by }
                    }
                };
                let event = if fate == Fate::Unheard { Event::Lost } else { event };
                coordinator.handle_event(token, event);
            }
        }
    }

    fn plain(&mut self, cluster: &mut Cluster, fate: Fate) {
        let shard = route(&self.op);
        if fate == Fate::Dropped {
            self.work = Work::Done(Err(FsError::TimedOut));
            return;
        }
        let (result, sent) = if is_read(&self.op) {
            (cluster.ask(shard, &self.op), Vec::new())
        } else {
            let body = match &self.op {
                Op::Close { ino } => CommandBody::ReleaseOrphan { ino: *ino, session: self.call.session },
                op => CommandBody::Op { op: op.clone(), asked: None, pinned_by: Vec::new() },
            };
            let command = Command {
                session: self.call.session,
                number: RequestNumber::new(self.number),
                oldest: RequestNumber::new(self.oldest),
                identity: self.call.identity.clone(),
                body,
            };
            let outcome = cluster.run(shard, &command);
            let sent = outcome.effects.iter().filter_map(|effect| match effect {
                Effect::Sent { to, sequence } => Some((*to, *sequence)),
                _ => None,
            });
            (outcome.result.map(Answer::into_wire), sent.collect())
        };
        match result {
            Err(FsError::Blocked) => {}
            _ if fate == Fate::Unheard => self.work = Work::Done(Err(FsError::TimedOut)),
            result => self.work = Work::Finishing(result, shard, sent),
        }
    }

    /// What the session holds open after the operation, as the server would note it.
    pub fn note_open(&self, cluster: &mut Cluster) {
        let session = self.call.session;
        match (&self.op, self.result()) {
            (Op::Create { .. }, Some(Ok(Reply::Entry(entry)))) => {
                cluster.open.entry(entry.ino).or_default().insert(session);
            }
            (Op::Open { ino, .. }, Some(Ok(_))) => {
                cluster.open.entry(*ino).or_default().insert(session);
            }
            _ => {}
        }
    }
}

/// A client truncates a file that `Create` found in another shard.
fn finish_truncation(cluster: &mut Cluster, call: &Call, result: &Result<Reply, FsError>) {
    if let (Op::Create { truncate: true, .. }, Ok(Reply::Entry(entry))) = (&call.op, result)
        && (entry.attr.is_none() && entry.kind == FileKind::File)
    {
        let mtime = Some(TimeChange::Now);
        let change = AttrChange { size: Some(0), mtime, ..AttrChange::default() };
        let op = Op::Setattr { ino: entry.ino, change };
        let body = CommandBody::Op { op, asked: None, pinned_by: Vec::new() };
        cluster.run(entry.ino.shard(), &Command::internal(body));
    }
}

/// Performs one call to its end, alone; crashes are told by `fate` for each step and make the
/// client send the request again.
pub fn perform(
    cluster: &mut Cluster,
    ids: &Correspondence,
    call: &Call,
    number: u64,
    fate: &mut dyn FnMut() -> Fate,
) -> Option<Result<Reply, FsError>> {
    let op = ids.translate(&call.op)?;
    if let Op::Close { ino } = &op
        && let Some(sessions) = cluster.open.get_mut(ino)
    {
        sessions.remove(&call.session);
    }
    let mut client = Client::new(cluster, call.clone(), op, number, number);
    for step in 0..STEPS_MAX {
        match client.result() {
            Some(Err(FsError::TimedOut)) => {
                // The leader is gone: a new one resolves what the old one left.
                cluster.crash(client.shard());
                for id in cluster.ids() {
                    cluster.resolve(id, &BTreeSet::new());
                    cluster.pump(id, step % 2 == 0, None);
                }
                client.start(cluster);
            }
            Some(result) => {
                let result = result.clone();
                client.note_open(cluster);
                finish_truncation(cluster, call, &result);
                return Some(result);
            }
            None => {
                let fate = fate();
                client.step(cluster, step, fate);
                for id in cluster.ids() {
                    cluster.pump(id, true, None);
                }
            }
        }
    }
    panic!("no end of {call:?}");
}
