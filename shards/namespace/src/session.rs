//! Exactly once: what sessions have asked, and the results kept for their retries.
//!
//! Invariants: a request that was executed answers its first result again while the session may
//! still ask; a request below the session's `oldest` is refused. A shard keeps nothing of a session that is
//! over: whoever proposes refuses its requests, as the control group and the core's fence tell him, so that
//! none comes after the command that forgets it.

use crate::command::Command;
use crate::keys;
use crate::outcome::{Effect, Step, Stop};
use crate::record::{self, Session};
use crate::state::{State, find};
use crate::view::View;
use cfs_types::{FsError, RequestNumber, SessionId};
use cfs_wire::Reply;

/// Results are forgotten with one of so many requests, as their numbers say: to look for them costs as much as to
/// forget a few.
const TRIM_EACH: u64 = 8;
/// With every request of a session that picks its numbers otherwise, once it is so many ahead.
const TRIM_AHEAD: u64 = 65_536;
/// Results forgotten with one command: more than are kept until the next one, so that none pile up.
const TRIM_COMMAND_MAX: usize = 64;
/// Results and records forgotten with one command of sessions that are over.
const FORGET_ROWS_MAX: usize = 256;
/// Sessions looked at in one command.
const FORGET_SESSIONS_MAX: usize = 24;
/// After the last result of a session.
const END: RequestNumber = RequestNumber::new(u64::MAX);

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
    let ahead = oldest.get().saturating_sub(session.trimmed.get());
    if command.number.get().is_multiple_of(TRIM_EACH) || ahead >= TRIM_AHEAD {
        trim(state, command.session, &mut session, oldest, TRIM_COMMAND_MAX)?;
    }
    state.put(keys::session(command.session), record::encode(&session));
    state.put(keys::result(command.session, command.number), record::encode(result));
    Ok(())
}

/// Fences a session and keeps its record, as earlier versions did: what is left of it is forgotten after a start.
pub fn expire(state: &mut State<'_>, id: SessionId) -> Step<()> {
    let mut session = load(state, id)?;
    session.expired = true;
    trim(state, id, &mut session, END, FORGET_ROWS_MAX)?;
    if session.trimmed < END {
        state.effects.push(Effect::ForgetPending(vec![id]));
    }
    state.put(keys::session(id), record::encode(&session));
    Ok(())
}

/// Forgets sessions that are over, as far as one command goes; the effect names those that are left.
pub fn forget(state: &mut State<'_>, sessions: &[SessionId]) -> Step<()> {
    let mut room = FORGET_ROWS_MAX;
    for (at, id) in sessions.iter().enumerate() {
        if at == FORGET_SESSIONS_MAX {
            state.effects.push(Effect::ForgetPending(sessions[at..].to_vec()));
            break;
        }
        let Some(mut session) = find::<Session>(state, &keys::session(*id))? else { continue };
        let (count, last) = delete_results(state, *id, session.trimmed, &keys::results_end(*id), room)?;
        room -= count;
        if room == 0 {
            session.expired = true;
            session.trimmed = last.unwrap_or(session.trimmed);
            state.put(keys::session(*id), record::encode(&session));
            state.effects.push(Effect::ForgetPending(sessions[at..].to_vec()));
            break;
        }
        state.delete(keys::session(*id));
        room -= 1;
    }
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
    if session.trimmed < end {
        let (count, last) = delete_results(state, id, session.trimmed, &keys::result(id, end), limit)?;
        session.trimmed = if count < limit { end } else { last.ok_or(FsError::Corrupt)?.next() };
    }
    Ok(())
}

/// Deletes results from `from` up to a key, at most `limit` of them. Returns how many, and the last.
fn delete_results(
    state: &mut State<'_>,
    id: SessionId,
    from: RequestNumber,
    end: &[u8],
    limit: usize,
) -> Step<(usize, Option<RequestNumber>)> {
    let rows = state.scan(&keys::result(id, from), end, limit)?;
    let last = rows.last().and_then(|(key, _)| keys::parse_result(key));
    let count = rows.len();
    for (key, _) in rows {
        state.delete(key);
    }
    Ok((count, last))
}
