//! File data: extents, chunks, ranges.

use crate::command::Command;
use crate::command::EntryContext;
use crate::outcome::{Step, Stop};
use crate::record::Inode;
use crate::state::State;
use crate::view::{Key, View};
use cfs_types::{FsError, InodeId, Nanos, ShardId};
use cfs_wire::{Op, Reply};
use serde::{Deserialize, Serialize};

/// Commands on file data. Part of the log's format: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DataCommand {}

/// Messages about file data between shards. Part of the log's format: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DataMessage {}

/// Work on data for the driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataEffect {}

/// Executes a command on data.
pub fn execute(_state: &mut State<'_>, _command: &Command, body: &DataCommand) -> Step<Reply> {
    match *body {}
}

/// Executes a message of another shard.
pub fn deliver(_state: &mut State<'_>, _from: ShardId, message: &DataMessage) -> Step<()> {
    match *message {}
}

/// Answers a read-only operation on data.
pub fn query(_view: &dyn View, _ctx: &EntryContext, _op: &Op) -> Step<Reply> {
    Err(Stop::Fail(FsError::NotSupported))
}

/// Keys the command will read.
pub fn read_set(body: &DataCommand) -> Vec<Key> {
    match *body {}
}

/// Sets a file's size; the caller writes the inode.
pub fn truncate(
    _state: &mut State<'_>,
    _ino: InodeId,
    inode: &mut Inode,
    size: u64,
    now: Nanos,
) -> Step<()> {
    if inode.size != size {
        inode.size = size;
    }
    inode.modify(now);
    Ok(())
}

/// Frees a bounded part of an unlinked file's content; true when nothing is left.
pub fn reap_step(_state: &mut State<'_>, _ino: InodeId, _inode: &mut Inode) -> Step<bool> {
    Ok(true)
}
