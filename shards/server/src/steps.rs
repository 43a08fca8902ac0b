//! The commands of a client's request: executed to their end, or concluded with a refusal.
//!
//! Invariant: what refuses a request before its command is executed is answered, where the client takes it for
//! final, only once the shard has it under the request's number. So a request that an earlier attempt has executed
//! is answered as it was then, and one that was refused is not executed by an attempt that comes late.

use crate::core::Core;
use crate::shard::Shard;
use cfs_namespace::{Answer, Command, CommandBody};
use cfs_types::FsError;
use cfs_wire::{Reply, RequestContext};
use std::rc::Rc;

/// A command that a client asked for.
pub fn command(context: &RequestContext, body: CommandBody) -> Command {
    Command {
        session: context.session,
        number: context.number,
        oldest: context.oldest,
        identity: context.identity.clone(),
        body,
    }
}

/// Executes a command, again and again while it answers that more is left. What was done is kept under
/// the request's number, so one without a number cannot go on. At the deadline nobody waits any more: a
/// client that still wants the rest asks again under the same number.
pub async fn execute_steps(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    context: &RequestContext,
    command: Command,
) -> Result<Reply, FsError> {
    let end = core.world.clock.now().after(core.patience(context));
    loop {
        let (answer, executed) = shard.command(command.clone()).await?;
        core.await_delivery(shard, &executed.effects).await?;
        match answer {
            Answer::Wire(Reply::Offset(_)) if command.number.get() > 0 => {}
            Answer::Wire(Reply::Offset(_)) | Answer::Txn(_) => return Err(FsError::Invalid),
            Answer::Wire(reply) => return Ok(reply),
        }
        if core.world.clock.now() >= end {
            return Err(FsError::TimedOut);
        }
    }
}

/// Refuses a request, unless it was executed already: then its answer is repeated. None where an earlier attempt
/// has begun it: it must go on, whatever stands against beginning it.
pub async fn conclude(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    context: &RequestContext,
    error: FsError,
) -> Result<Option<Reply>, FsError> {
    if context.number.get() == 0 {
        return Err(error);
    }
    let (answer, executed) = shard.command(command(context, CommandBody::Conclude { error })).await?;
    core.await_delivery(shard, &executed.effects).await?;
    match answer {
        Answer::Wire(Reply::Offset(_)) => Ok(None),
        Answer::Wire(reply) => Ok(Some(reply)),
        Answer::Txn(_) => Err(FsError::Invalid),
    }
}
