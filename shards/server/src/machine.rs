//! What a group executes: a shard's namespace, or the control group's sessions.

use crate::entry::Batch;
use crate::replica::Executed;
use crate::view::StoreView;
use cfs_cluster::{ControlAnswer, ControlCommand};
use cfs_kv::{KvError, Pins, Store};
use cfs_namespace::data::{DataCommand, Layout, WriteData};
use cfs_namespace::{
    Answer, Command, CommandBody, Effect, EntryContext, Message, NeedMore, Overlay, TxId, View, Writes,
};
use cfs_types::{FsError, LogIndex, ShardId, Term, VolumeId};
use serde::{Deserialize, Serialize};

/// A command of either kind. Part of the log's format: append only.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum GroupCommand {
    /// For a shard.
    Shard(Box<Command>),
    /// For the control group.
    Control(ControlCommand),
}

impl GroupCommand {
    /// Tells a small write where in the entry's data area its bytes are.
    pub fn set_data_offset(&mut self, offset: u32) {
        let GroupCommand::Shard(command) = self else { return };
        match &mut command.body {
            CommandBody::Data(
                DataCommand::Write { data: WriteData::Inline { data_offset, .. }, .. }
                | DataCommand::Overwrite { data: WriteData::Inline { data_offset, .. }, .. },
            ) => *data_offset = offset,
            CommandBody::Deliver { message: Message::Data(message), .. } => message.carried_at(offset),
            _ => {}
        }
    }
}

/// An answer of either kind.
#[derive(Clone, PartialEq, Debug)]
pub enum GroupAnswer {
    /// A shard's.
    Shard(Answer),
    /// The control group's.
    Control(ControlAnswer),
}

/// What one command did.
pub struct GroupOutcome {
    /// The answer.
    pub result: Result<GroupAnswer, FsError>,
    /// Who holds what a blocked command needs.
    pub blocked_by: Option<TxId>,
    /// To write.
    pub writes: Writes,
    /// To do.
    pub effects: Vec<Effect>,
}

/// A group's state machine.
#[derive(Clone, Debug)]
pub enum Machine {
    /// A shard of the namespace.
    Shard {
        /// Which.
        shard: ShardId,
        /// The cluster's key of dentry hashes.
        name_key: [u8; 32],
    },
    /// The control group.
    Control,
}

impl Machine {
    /// The context in which an entry's commands, or a query, execute.
    pub fn context(&self, term: Term, index: LogIndex, batch: &Batch) -> EntryContext {
        let (shard, name_key) = match self {
            Machine::Shard { shard, name_key } => (*shard, *name_key),
            Machine::Control => (ShardId::new(0), [0; 32]),
        };
        let (timestamp, now) = (batch.timestamp, batch.now);
        EntryContext {
            shard,
            term,
            index,
            timestamp,
            now,
            name_key,
            volume: VolumeId::new(0),
            layout: Layout::default(),
        }
    }

    /// Executes the commands of an entry in order on `store`; their writes become visible together.
    pub async fn execute_batch(
        &self,
        store: &Store,
        context: &EntryContext,
        batch: &Batch,
    ) -> Result<Vec<Executed>, KvError> {
        let view = StoreView::new(store);
        let mut pins = Pins::default();
        let mut overlay = Overlay::new(&view);
        let mut done = Vec::with_capacity(batch.commands.len());
        for command in &batch.commands {
            let outcome = loop {
                match self.execute(&overlay, context, command) {
                    Ok(outcome) => break outcome,
                    Err(need) => pins.merge(view.load(need).await?),
                }
            };
            overlay.apply(outcome.writes);
            let (result, blocked_by) = (outcome.result, outcome.blocked_by);
            done.push(Executed { result, blocked_by, effects: outcome.effects });
        }
        store.apply(overlay.into_writes(), batch.timestamp);
        Ok(done)
    }

    /// Executes one command; one of the wrong kind is refused on every replica alike.
    pub fn execute(
        &self,
        view: &dyn View,
        context: &EntryContext,
        command: &GroupCommand,
    ) -> Result<GroupOutcome, NeedMore> {
        match (self, command) {
            (Machine::Shard { .. }, GroupCommand::Shard(command)) => {
                let outcome = cfs_namespace::execute(view, context, command)?;
                Ok(GroupOutcome {
                    result: outcome.result.map(GroupAnswer::Shard),
                    blocked_by: outcome.blocked_by,
                    writes: outcome.writes,
                    effects: outcome.effects,
                })
            }
            (Machine::Control, GroupCommand::Control(command)) => {
                let (answer, writes) = cfs_cluster::execute(view, command)?;
                let result = Ok(GroupAnswer::Control(answer));
                Ok(GroupOutcome { result, blocked_by: None, writes, effects: Vec::new() })
            }
            _ => Ok(GroupOutcome {
                result: Err(FsError::Invalid),
                blocked_by: None,
                writes: Vec::new(),
                effects: Vec::new(),
            }),
        }
    }
}
