//! Dispatch of commands and queries.

use crate::command::{Command, CommandBody, EntryContext};
use crate::data;
use crate::keys;
use crate::outcome::{Answer, Outcome, Step, Stop};
use crate::state::{State, read_inode};
use crate::view::{Key, NeedMore, View};
use cfs_types::FsError;
use cfs_wire::{Op, Reply};

/// Keys a command will surely read, to be prefetched together.
pub fn read_set(command: &Command, _ctx: &EntryContext) -> Vec<Key> {
    let mut keys = vec![keys::session(command.session), keys::counters()];
    if let CommandBody::Data(body) = &command.body {
        keys.extend(data::read_set(body));
    }
    keys
}

/// Executes one command.
pub fn execute(
    view: &dyn View,
    ctx: &EntryContext,
    command: &Command,
) -> Result<Outcome, NeedMore> {
    let mut state = State::new(view, ctx);
    let (result, blocked_by) = match run(&mut state, command) {
        Ok(answer) => (Ok(answer), None),
        Err(Stop::Need(need)) => return Err(need),
        Err(Stop::Fail(error)) => (Err(error), None),
        Err(Stop::Blocked(tx)) => (Err(FsError::Blocked), Some(tx)),
    };
    if result.is_err() {
        state.clear();
    }
    let (writes, effects) = state.finish();
    Ok(Outcome {
        result,
        blocked_by,
        writes,
        effects,
    })
}

fn run(state: &mut State<'_>, command: &Command) -> Step<Answer> {
    match &command.body {
        CommandBody::Data(body) => data::execute(state, command, body).map(Answer::Wire),
        _ => Err(Stop::Fail(FsError::NotSupported)),
    }
}

/// Answers a read-only operation from executed state.
pub fn query(
    view: &dyn View,
    ctx: &EntryContext,
    op: &Op,
) -> Result<Result<Reply, FsError>, NeedMore> {
    let answer = match op {
        Op::Getattr { ino } => read_inode(view, *ino).map(|inode| Reply::Attr(inode.attr(*ino))),
        Op::Seek { .. } | Op::Read { .. } => data::query(view, ctx, op),
        _ => Err(Stop::Fail(FsError::NotSupported)),
    };
    match answer {
        Ok(reply) => Ok(Ok(reply)),
        Err(Stop::Need(need)) => Err(need),
        Err(Stop::Fail(error)) => Ok(Err(error)),
        Err(Stop::Blocked(_)) => Ok(Err(FsError::Blocked)),
    }
}
