//! The control group's state machine: who has a session.
//!
//! Pure and deterministic, like a shard's. Membership and the shard map join it when there is
//! more than one node.
//!
//! Invariants: session numbers rise and are never issued twice; an ended session stays ended. They rise with
//! the time too, so that a store put back to an older image does not give out numbers that clients of the newer one have.

use cfs_namespace::{NeedMore, View, Writes};
use cfs_types::{Nanos, SessionId};
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Key of the next session number.
const NEXT_KEY: &[u8] = &[0x01, b'n'];
/// First byte pair of the session records.
const SESSION_PREFIX: [u8; 2] = [0x01, b's'];
/// One past the session records.
const SESSION_END: &[u8] = &[0x01, b't'];

/// A change of the control group's state. Part of the log's format: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ControlCommand {
    /// Issues the next session number: what the logs of earlier versions hold.
    OpenNextSession {
        /// When.
        now: Nanos,
    },
    /// Ends a session for good; one that is unknown is ended already.
    EndSession {
        /// Which.
        session: SessionId,
    },
    /// Issues a session number, none below the time in milliseconds.
    OpenSession {
        /// When.
        now: Nanos,
    },
}

/// What a control command answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ControlAnswer {
    /// The session issued.
    Opened(SessionId),
    /// Whether it was open.
    Ended(bool),
}

/// Executes a command; the view misses answer `NeedMore`, as in a shard.
pub fn execute(view: &dyn View, command: &ControlCommand) -> Result<(ControlAnswer, Writes), NeedMore> {
    match command {
        ControlCommand::OpenNextSession { now } => Ok(open(next_session(view)?, *now)),
        ControlCommand::OpenSession { now } => Ok(open(next_session(view)?.max(first_number(*now)), *now)),
        ControlCommand::EndSession { session } => {
            let key = session_key(*session);
            let open = view.get(&key)?.is_some();
            let writes = if open { vec![(key, None)] } else { Vec::new() };
            Ok((ControlAnswer::Ended(open), writes))
        }
    }
}

fn open(session: SessionId, now: Nanos) -> (ControlAnswer, Writes) {
    let writes = vec![
        (NEXT_KEY.into(), Some(Rc::from(session.next().get().to_be_bytes().as_slice()))),
        (session_key(session), Some(Rc::from(now.get().to_be_bytes().as_slice()))),
    ];
    (ControlAnswer::Opened(session), writes)
}

/// Whether a session is open.
pub fn is_open(view: &dyn View, session: SessionId) -> Result<bool, NeedMore> {
    Ok(view.get(&session_key(session))?.is_some())
}

/// The first `limit` open sessions after `after`.
pub fn open_sessions(view: &dyn View, after: SessionId, limit: usize) -> Result<Vec<SessionId>, NeedMore> {
    let rows = view.scan(&session_key(after.next()), SESSION_END, limit)?;
    Ok(rows.iter().filter_map(|(key, _)| number(&key[2..])).map(SessionId::new).collect())
}

/// The number that the next session will have: all below are issued.
pub fn next_session(view: &dyn View) -> Result<SessionId, NeedMore> {
    Ok(SessionId::new(view.get(NEXT_KEY)?.and_then(|v| number(&v)).unwrap_or(1)))
}

/// A row of the control group's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    /// The number that the next session will have.
    Next(SessionId),
    /// A session that is open.
    Open(SessionId),
}

/// Decodes a row, for checkers; None where it is not one.
pub fn decode_row(key: &[u8], value: &[u8]) -> Option<Row> {
    let value = number(value)?;
    match key.strip_prefix(&SESSION_PREFIX) {
        Some(session) => Some(Row::Open(SessionId::new(number(session)?))),
        None => (key == NEXT_KEY).then_some(Row::Next(SessionId::new(value))),
    }
}

/// Numbers of sessions that are opened now are no lower: milliseconds since the epoch.
fn first_number(now: Nanos) -> SessionId {
    SessionId::new(u64::try_from(now.get()).unwrap_or(0) / 1_000_000)
}

fn session_key(session: SessionId) -> Box<[u8]> {
    [&SESSION_PREFIX[..], &session.get().to_be_bytes()].concat().into()
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_namespace::memory::Memory;

    fn run(state: &mut Memory, command: ControlCommand) -> ControlAnswer {
        let (answer, writes) = execute(state, &command).expect("all in memory");
        state.apply(writes);
        answer
    }

    #[test]
    fn session_numbers_rise_and_end_for_good() {
        let mut state = Memory::default();
        let open = ControlCommand::OpenSession { now: Nanos::new(1) };
        let (one, two) = (SessionId::new(1), SessionId::new(2));
        assert_eq!(run(&mut state, open.clone()), ControlAnswer::Opened(one));
        assert_eq!(run(&mut state, open.clone()), ControlAnswer::Opened(two));
        assert_eq!(run(&mut state, ControlCommand::EndSession { session: two }), ControlAnswer::Ended(true));
        assert_eq!(run(&mut state, ControlCommand::EndSession { session: two }), ControlAnswer::Ended(false));
        assert_eq!(run(&mut state, open.clone()), ControlAnswer::Opened(SessionId::new(3)));
        assert_eq!(is_open(&state, one), Ok(true));
        assert_eq!(next_session(&state), Ok(SessionId::new(4)));
        assert_eq!(decode_row(NEXT_KEY, &4u64.to_be_bytes()), Some(Row::Next(SessionId::new(4))));
        assert_eq!(decode_row(&session_key(one), &[0; 8]), Some(Row::Open(one)));
        assert_eq!((decode_row(&[1], &[0; 8]), decode_row(NEXT_KEY, &[0; 7])), (None, None));
        assert_eq!(open_sessions(&state, SessionId::new(0), 10), Ok(vec![one, SessionId::new(3)]));
        let later = ControlCommand::OpenSession { now: Nanos::new(9_000_000) };
        assert_eq!(run(&mut state, later), ControlAnswer::Opened(SessionId::new(9)));
        let next = ControlCommand::OpenNextSession { now: Nanos::new(90_000_000) };
        assert_eq!(run(&mut state, next), ControlAnswer::Opened(SessionId::new(10)));
        assert_eq!(run(&mut state, open), ControlAnswer::Opened(SessionId::new(11)), "the clock was set back");
    }
}
