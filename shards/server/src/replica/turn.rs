//! The loop of a replica: propose, persist, execute, send.

use super::{Answered, LocalWrite, OVERHEAD_BYTES, Proposal, Replica};
use crate::entry::{self, Batch, COMMANDS_MAX, ENTRY_BYTES_MAX};
use cfs_consensus::{Committed, Role, Work};
use cfs_log::{LogError, Record};
use cfs_seam::Io;
use cfs_types::{FsError, Timestamp};
use std::rc::Rc;

impl Replica {
    /// Runs the group until its log fails or the task is cancelled.
    pub async fn run(self: Rc<Self>) {
        let error = loop {
            if let Err(error) = self.turn().await {
                break error;
            }
        };
        self.fail(error);
    }

    /// One turn: propose what waits, start the append, execute what is committed meanwhile.
    async fn turn(&self) -> Result<(), FsError> {
        if self.group.borrow().role() != Role::Leader && self.group.borrow().is_alone() {
            self.group.borrow_mut().campaign();
        }
        self.tick_when_due();
        self.note_leadership();
        let mut taken = self.take_batch();
        let polled = self.group.borrow_mut().poll();
        if polled.as_ref().is_none_or(|work| work.snapshot.is_none()) {
            self.drop_arrived();
        }
        let mut work = match polled {
            Some(work) => work,
            None if taken.records.is_empty() => {
                self.wait_for_work().await;
                return Ok(());
            }
            None => Work::default(),
        };
        let committed = std::mem::take(&mut work.committed);
        self.send_all(std::mem::take(&mut work.messages));
        if let Some(point) = work.snapshot {
            self.install(point).await?;
        }
        self.add_records(&work, &mut taken.records);
        let done = self.append_and_execute(taken.records, committed).await;
        if done.is_ok() {
            self.apply_locals(taken.locals);
        }
        for promise in taken.local_promises {
            promise.complete(done.map(|()| None));
        }
        done?;
        if work.number > 0 {
            self.group.borrow_mut().persisted(work.number);
        }
        if let Some(point) = work.snapshot {
            self.group.borrow_mut().executed(point.index, point.term);
            self.executed.notify_all();
        }
        self.send_all(work.messages_after);
        Ok(())
    }

    /// Where another leader came since the last turn, or this replica led no longer in between,
    /// nobody can be told here what becomes of the commands proposed before.
    fn note_leadership(&self) {
        let now = {
            let group = self.group.borrow();
            (group.role() == Role::Leader).then(|| group.term())
        };
        if self.leading.replace(now) == now {
            return;
        }
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_values().flatten().for_each(|promise| promise.complete(Err(FsError::Conflict)));
    }

    /// Makes records durable and executes entries meanwhile, once all who waited for the same batch of the log
    /// have handed in their next records: that batch is on its way to the device while they execute. Where the
    /// log has no room, entries are executed first: room may depend on them.
    async fn append_and_execute(&self, records: Vec<Record>, committed: Vec<Committed>) -> Result<(), FsError> {
        let (mut later, mut appended) = (Some(records).filter(|r| !r.is_empty()), None);
        if self.log.has_room() {
            appended = later.take().map(|records| self.append(records));
        }
        if !committed.is_empty() {
            self.tasks.yield_now().await;
        }
        for entry in committed {
            self.execute(entry).await?;
        }
        if let Some(records) = later {
            while !self.log.has_room() {
                self.log.wait_room().await;
            }
            appended = Some(self.append(records));
        }
        match appended {
            Some(appended) => appended.await.map_err(log_error),
            None => Ok(()),
        }
    }

    /// A sole voter that does not lead yet is coming up: until then it cannot make room.
    fn append(&self, records: Vec<Record>) -> Io<Result<(), LogError>> {
        if self.peers.is_none() && !self.leads() {
            return self.log.append_at_start(records);
        }
        self.log.append(records)
    }

    /// Takes waiting proposals, proposes them as one entry, and returns the local records. A leader
    /// that has not executed the first entry of its term leaves commands waiting; a replica that
    /// does not lead refuses them.
    fn take_batch(&self) -> Taken {
        let takes_commands = self.leading.get().is_none() || self.leads();
        let mut taken = Taken::default();
        let mut batch = Batch { timestamp: Timestamp::default(), now: self.clock.now(), commands: Vec::new() };
        let (mut pieces, mut area, mut promises) = (Vec::new(), 0, Vec::new());
        let mut bytes = OVERHEAD_BYTES;
        while let Some(mut proposal) = self.next_fitting(takes_commands, batch.commands.len(), bytes) {
            self.queued_bytes.set(self.queued_bytes.get() - proposal.queued_bytes());
            bytes += proposal.entry_bytes;
            for write in std::mem::take(&mut proposal.locals) {
                taken.records.push(self.local_record(&write, taken.locals.len()));
                taken.locals.push(write);
            }
            match proposal.command {
                Some(mut command) => {
                    let offset = u32::try_from(area).expect("bounded by DATA_BYTES_MAX");
                    command.set_data_offset(offset);
                    area += proposal.data.len();
                    pieces.push(proposal.data);
                    batch.commands.push(command);
                    promises.push(proposal.promise);
                }
                None => taken.local_promises.push(proposal.promise),
            }
        }
        if !batch.commands.is_empty() {
            batch.timestamp = self.clock.tick();
            let bytes = entry::encode(&batch, &pieces);
            let proposed = self.group.borrow_mut().propose(bytes);
            match proposed {
                Ok((_, index)) => drop(self.waiting.borrow_mut().insert(index, promises)),
                Err(_) => promises.into_iter().for_each(|p| p.complete(Err(FsError::Conflict))),
            }
        }
        taken
    }

    fn next_fitting(&self, takes_commands: bool, commands: usize, bytes: usize) -> Option<Proposal> {
        let bytes_max = self.log.record_bytes_max().min(ENTRY_BYTES_MAX);
        let mut queue = self.queue.borrow_mut();
        let first = commands == 0;
        let fits = queue.front().is_some_and(|p| {
            let takes = takes_commands || p.command.is_none();
            takes && (first || (commands < COMMANDS_MAX && bytes + p.entry_bytes <= bytes_max))
        });
        if fits { queue.pop_front() } else { None }
    }

    fn apply_locals(&self, locals: Vec<LocalWrite>) {
        if locals.is_empty() {
            return;
        }
        let mut mark = self.mark.get();
        mark.locals += locals.len() as u64;
        self.mark.set(mark);
        self.store.apply(locals, self.clock.tick());
        self.executed.notify_all();
    }
}

/// What a failure of the log is to whoever waits for an append. A log that was closed says nothing about
/// the device.
pub(super) fn log_error(error: LogError) -> FsError {
    match error {
        LogError::Closed => FsError::Busy,
        _ => FsError::Device,
    }
}

#[derive(Default)]
struct Taken {
    records: Vec<Record>,
    locals: Vec<LocalWrite>,
    local_promises: Vec<Answered>,
}
