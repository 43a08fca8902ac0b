//! Dispatch of commands and queries.

use crate::command::{Command, CommandBody, EntryContext, Message};
use crate::data::DataCommand;
use crate::entry::{self, Birth};
use crate::outcome::{Answer, Begun, Outcome, Step, Stop};
use crate::record::Inode;
use crate::state::{State, find_dentry, find_inode};
use crate::view::{NeedMore, View};
use crate::{attributes, data, outbox, query as reads, reap, session, txn, xattr};
use cfs_types::{FsError, InodeId, Name, Nanos, SessionId};
use cfs_wire::{FileKind, Op, Reply};

/// Executes one command.
pub fn execute(view: &dyn View, ctx: &EntryContext, command: &Command) -> Result<Outcome, NeedMore> {
    let mut state = State::new(view, ctx);
    let (result, blocked_by) = match run(&mut state, command) {
        Ok(answer) => (Ok(answer), None),
        Err(Stop::Need(need)) => return Err(need),
        Err(Stop::Fail(error)) => (Err(error), None),
        Err(Stop::Blocked(tx)) => (Err(FsError::Blocked), Some(tx)),
    };
    if let Err(error) = &result {
        state.clear();
        if session::is_final(*error) {
            match keep_failure(&mut state, command, *error) {
                Ok(()) => {}
                Err(Stop::Need(need)) => return Err(need),
                // A damaged session record: the failure is answered, and not kept.
                Err(Stop::Fail(_) | Stop::Blocked(_)) => state.clear(),
            }
        }
    }
    let (writes, effects) = state.finish();
    Ok(Outcome { result, blocked_by, writes, effects })
}

/// Keeps a failure as the request's result, unless there is one or the session may not ask.
fn keep_failure(state: &mut State<'_>, command: &Command, error: FsError) -> Step<()> {
    match session::recall(state, command.session, command.number) {
        Ok(None) => session::keep(state, command, &Err(error)),
        Ok(Some(_)) | Err(Stop::Fail(_)) => Ok(()),
        Err(stop) => Err(stop),
    }
}

fn run(state: &mut State<'_>, command: &Command) -> Step<Answer> {
    if let CommandBody::Txn(body) = &command.body {
        return txn::execute(state, command, body).map(Answer::Txn);
    }
    let begun = match session::recall(state, command.session, command.number)? {
        Some(Ok(Reply::Offset(at))) if in_steps(&command.body) => Some(at),
        Some(result) => {
            let reply = result?;
            outbox::announce(state)?;
            return Ok(Answer::Wire(reply));
        }
        None => None,
    };
    let reply = run_body(state, command, begun)?;
    session::keep(state, command, &Ok(reply.clone()))?;
    Ok(Answer::Wire(reply))
}

/// Whether a command may do a bounded part of its work only and answer `Reply::Offset`: the driver
/// proposes the same command until it answers otherwise. The part done is kept as the request's result,
/// so that no part is done twice, also where a retry goes on with it.
fn in_steps(body: &CommandBody) -> bool {
    matches!(
        body,
        CommandBody::Data(DataCommand::Fallocate { .. })
            | CommandBody::Op { op: Op::Setattr { .. } | Op::Create { .. }, .. }
    )
}

fn run_body(state: &mut State<'_>, command: &Command, begun: Begun) -> Step<Reply> {
    match &command.body {
        CommandBody::Op { op, asked, pinned_by } => return run_op(state, command, op, begun, (*asked, pinned_by)),
        CommandBody::Data(body) => return data::execute(state, command, begun, body),
        CommandBody::Txn(_) => return Err(Stop::Fail(FsError::Invalid)),
        CommandBody::Deliver { from, sequence, message, pinned_by } => {
            outbox::deliver(state, *from, *sequence, message, pinned_by)?;
        }
        CommandBody::Acknowledge { to, through } => outbox::acknowledge(state, *to, *through)?,
        CommandBody::MakeRoot { mode, uid, gid } => make_root(state, *mode, *uid, *gid)?,
        CommandBody::ReleaseOrphan { ino, session } => reap::release(state, *ino, *session)?,
        CommandBody::Reap { ino } => reap::proceed(state, *ino)?,
        CommandBody::ExpireSession { session } => session::expire(state, *session)?,
        CommandBody::Conclude { error } => return Err(Stop::Fail(*error)),
        CommandBody::Take { ino } => take(state, *ino)?,
        CommandBody::ForgetSessions { sessions } => session::forget(state, sessions)?,
    }
    Ok(Reply::Done)
}

fn run_op(
    state: &mut State<'_>,
    command: &Command,
    op: &Op,
    begun: Begun,
    (asked, pinned_by): (Option<InodeId>, &[SessionId]),
) -> Step<Reply> {
    match op {
        Op::Create { dir, name, mode, exclusive, truncate } => {
            entry::create(state, command, (*dir, name), *mode, (*exclusive, *truncate), begun)
        }
        Op::Mknod { dir, name, kind, mode, rdev } => {
            let birth = Birth { kind: *kind, mode: *mode, rdev: *rdev, target: &[] };
            entry::make(state, command, (*dir, name), &birth)
        }
        Op::Symlink { dir, name, target } => {
            let birth = Birth { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target };
            entry::make(state, command, (*dir, name), &birth)
        }
        Op::Unlink { dir, name } => entry::unlink(state, (*dir, name), asked, pinned_by),
        Op::Setattr { ino, change } => attributes::set(state, command, *ino, change, begun),
        Op::SetXattr { ino, name, value, mode } => xattr::set(state, *ino, name, value, *mode),
        Op::RemoveXattr { ino, name } => xattr::remove(state, *ino, name),
        _ => Err(Stop::Fail(FsError::NotSupported)),
    }
}

fn take(state: &mut State<'_>, ino: InodeId) -> Step<()> {
    if let Some(mut inode) = find_inode(state, ino)?.filter(|inode| inode.kind == FileKind::File) {
        inode.take(SessionId::new(0));
        state.put_inode(ino, &inode);
    }
    Ok(())
}

fn make_root(state: &mut State<'_>, mode: u16, uid: u32, gid: u32) -> Step<()> {
    let ino = InodeId::ROOT;
    if ino.shard() != state.ctx.shard {
        return Err(Stop::Fail(FsError::WrongShard));
    }
    if find_inode(state, ino)?.is_some() {
        return Ok(());
    }
    let now: Nanos = state.ctx.now;
    let mut root = Inode::new(FileKind::Directory, mode, uid, gid, now);
    root.parent = Some(ino);
    state.count(FileKind::Directory)?;
    state.put_inode(ino, &root);
    Ok(())
}

/// Where a name leads, also while a transaction holds it. None where it is missing or damaged: whoever
/// executes the command that names it says so.
pub fn named_inode(
    view: &dyn View,
    ctx: &EntryContext,
    dir: InodeId,
    name: &Name,
) -> Result<Option<InodeId>, NeedMore> {
    match find_dentry(view, ctx, dir, name) {
        Ok(found) => Ok(found.map(|found| found.dentry.ino)),
        Err(Stop::Need(need)) => Err(need),
        Err(Stop::Fail(_) | Stop::Blocked(_)) => Ok(None),
    }
}

/// The inode of this shard of which the command may remove a link, perhaps the last one: the driver
/// asks the sessions that hold it open and fills in `pinned_by` before it proposes.
pub fn last_link(view: &dyn View, ctx: &EntryContext, command: &Command) -> Result<Option<InodeId>, NeedMore> {
    let candidate = match &command.body {
        CommandBody::Op { op: Op::Unlink { .. }, asked: Some(ino), .. } => Ok(Some(*ino)),
        CommandBody::Op { op: Op::Unlink { dir, name }, .. } => Ok(named_inode(view, ctx, *dir, name)?),
        CommandBody::Txn(body) => Ok(txn::unlinks(ctx, body)),
        CommandBody::Deliver { message: Message::Unlink { ino, .. }, .. } => Ok(Some(*ino)),
        CommandBody::Deliver { message: Message::Commit { tx, .. }, .. } => txn::participant::removes(view, *tx),
        _ => Ok(None),
    };
    let last = candidate.and_then(|candidate| match candidate {
        // Also of several links: the others may be on their way out.
        Some(ino) if ino.shard() == ctx.shard => Ok(find_inode(view, ino)?.map(|_| ino)),
        _ => Ok(None),
    });
    match last {
        Ok(ino) => Ok(ino),
        Err(Stop::Need(need)) => Err(need),
        // Damage: executing the command will say so.
        Err(Stop::Fail(_) | Stop::Blocked(_)) => Ok(None),
    }
}

/// Answers a read-only operation from executed state.
pub fn query(view: &dyn View, ctx: &EntryContext, op: &Op) -> Result<Result<Reply, FsError>, NeedMore> {
    match reads::answer(view, ctx, op) {
        Ok(reply) => Ok(Ok(reply)),
        Err(Stop::Need(need)) => Err(need),
        Err(Stop::Fail(error)) => Ok(Err(error)),
        Err(Stop::Blocked(_)) => Ok(Err(FsError::Blocked)),
    }
}
