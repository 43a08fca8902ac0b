//! Exactly once: what sessions have asked, and the results kept for their retries.
//!
//! Invariants: a request that was executed answers its first result again while the session may
//! still ask; a request below the session's `oldest` is refused; so is any of an expired session.

use crate::command::Command;
use crate::keys;
use crate::outcome::{Effect, Step, Stop};
use crate::record::{self, Session};
use crate::state::{State, find};
use crate::view::View;
use cfs_types::{FsError, RequestNumber, SessionId};
use cfs_wire::Reply;

/// Results forgotten with one command: more than one a command, so that none pile up.
const TRIM_COMMAND_MAX: usize = 16;
/// Results forgotten with one `ExpireSession`.
const TRIM_EXPIRE_MAX: usize = 256;

/// The result of the request if it was executed before; refuses what must not execute.
pub fn recall(view: &dyn View, id: SessionId, number: RequestNumber) -> Step<Option<Result<Reply, FsError>>> {
    if number.get() == 0 {
        return Ok(None);
    }
    let session = load(view, id)?;
    if session.expired {
        return Err(Stop::Fail(FsError::SessionExpired));
    }
    if number < session.oldest {
        return Err(Stop::Fail(FsError::Stale));
    }
    if number > session.highest {
        return Ok(None);
    }
    find(view, &keys::result(id, number))
}

/// Keeps the result of a request that was executed, and forgets those the session has received.
pub fn keep(state: &mut State<'_>, command: &Command, result: &Result<Reply, FsError>) -> Step<()> {
    if command.number.get() == 0 {
        return Ok(());
    }
    let mut session = load(state, command.session)?;
    session.highest = session.highest.max(command.number);
    session.oldest = session.oldest.max(command.oldest.min(command.number));
    let oldest = session.oldest;
    trim(state, command.session, &mut session, oldest, TRIM_COMMAND_MAX)?;
    state.put(keys::session(command.session), record::encode(&session));
    state.put(keys::result(command.session, command.number), record::encode(result));
    Ok(())
}

/// Fences a session for good.
pub fn expire(state: &mut State<'_>, id: SessionId) -> Step<()> {
    let mut session = load(state, id)?;
    session.expired = true;
    let end = RequestNumber::new(u64::MAX);
    trim(state, id, &mut session, end, TRIM_EXPIRE_MAX)?;
    if session.trimmed < end {
        state.effects.push(Effect::ExpirePending(id));
    }
    state.put(keys::session(id), record::encode(&session));
    Ok(())
}

/// Whether the same request may give another answer later, so that a failure is not kept.
pub fn is_final(error: FsError) -> bool {
    match error {
        FsError::Busy
        | FsError::Conflict
        | FsError::Blocked
        | FsError::WrongShard
        | FsError::TimedOut
        | FsError::Interrupted
        | FsError::Corrupt
        | FsError::Device
        | FsError::SessionExpired
        | FsError::Unauthorised
        | FsError::Malformed
        | FsError::UnknownOperation
        | FsError::ReadOnly => false,
        FsError::NotFound
        | FsError::Exists
        | FsError::NotDirectory
        | FsError::IsDirectory
        | FsError::NotEmpty
        | FsError::Invalid
        | FsError::NotPermitted
        | FsError::AccessDenied
        | FsError::FileTooLarge
        | FsError::NameTooLong
        | FsError::TooManyLinks
        | FsError::Loop
        | FsError::NoAttribute
        | FsError::NoExtent
        | FsError::Range
        | FsError::TooLarge
        | FsError::NotSupported
        | FsError::Stale
        | FsError::TooManyOpen
        | FsError::NoSpace => true,
    }
}

fn load(view: &dyn View, id: SessionId) -> Step<Session> {
    Ok(find(view, &keys::session(id))?.unwrap_or_default())
}

/// Deletes results from `session.trimmed` up to `end`, at most `limit` of them.
fn trim(state: &mut State<'_>, id: SessionId, session: &mut Session, end: RequestNumber, limit: usize) -> Step<()> {
    if session.trimmed >= end {
        return Ok(());
    }
    let rows = state.scan(&keys::result(id, session.trimmed), &keys::result(id, end), limit)?;
    let all = rows.len() < limit;
    let last = rows.last().and_then(|(key, _)| keys::parse_result(key));
    for (key, _) in rows {
        state.delete(key);
    }
    session.trimmed = if all { end } else { last.ok_or(FsError::Corrupt)?.next() };
    Ok(())
}
