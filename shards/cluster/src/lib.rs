//! The control group's state machine: who has a session, and which starts of the server there were.
//!
//! Pure and deterministic, like a shard's. Membership and the shard map join it when there is
//! more than one node.
//!
//! Invariants: session numbers rise and are never issued twice; an ended session stays ended. They rise with
//! the time too, so that a store put back to an older image does not give out numbers that clients of the newer one have.

use cfs_namespace::{NeedMore, View, Writes};
use cfs_types::{Nanos, SessionId, ShardId, Timestamp};
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Key of the next session number.
const NEXT_KEY: &[u8] = &[0x01, b'n'];
/// First byte pair of the session records.
const SESSION_PREFIX: [u8; 2] = [0x01, b's'];
/// One past the session records.
const SESSION_END: &[u8] = &[0x01, b't'];
/// First byte pair of the records of starts, in their order.
const START_PREFIX: [u8; 2] = [0x01, b'b'];
/// One past the records of starts.
const START_END: &[u8] = &[0x01, b'c'];
/// Starts that are remembered: one more takes the place of the oldest.
const STARTS_MAX: usize = 256;

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
    /// A start of the server that clients will know; nothing where it is the last one already.
    Begin(Start),
}

/// A start of the server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Start {
    /// Its number in welcomes.
    pub incarnation: u64,
    /// How far each of the 256 shards was when it was taken up: the commit timestamp of its last entry.
    pub taken_over: Vec<Timestamp>,
}

/// The starts that are remembered, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lineage(Vec<Start>);

impl Lineage {
    /// Whether what a client saw of a shard under a start is part of what there is now: that start is remembered, and the
    /// shard was as far when the one after it took it up.
    pub fn has(&self, incarnation: u64, shard: ShardId, seen: Timestamp) -> bool {
        let Some(at) = self.0.iter().rposition(|start| start.incarnation == incarnation) else { return false };
        let after = self.0.get(at + 1).and_then(|start| start.taken_over.get(usize::from(shard.get())));
        after.is_none_or(|taken_over| *taken_over >= seen)
    }
}

/// What a control command answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ControlAnswer {
    /// The session issued.
    Opened(SessionId),
    /// Whether it was open.
    Ended(bool),
    /// The start is remembered.
    Begun,
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
        ControlCommand::Begin(start) => Ok((ControlAnswer::Begun, begin(view, start)?)),
    }
}

fn open(session: SessionId, now: Nanos) -> (ControlAnswer, Writes) {
    let writes = vec![
        (NEXT_KEY.into(), Some(Rc::from(session.next().get().to_be_bytes().as_slice()))),
        (session_key(session), Some(Rc::from(now.get().to_be_bytes().as_slice()))),
    ];
    (ControlAnswer::Opened(session), writes)
}

fn begin(view: &dyn View, start: &Start) -> Result<Writes, NeedMore> {
    let rows = view.scan(&START_PREFIX, START_END, usize::MAX)?;
    let last = rows.last().and_then(|(key, value)| Some((number(&key[2..])?, start_numbers(value)?.0)));
    if last.is_some_and(|(_, incarnation)| incarnation == start.incarnation) {
        return Ok(Vec::new());
    }
    let sequence = last.map_or(0, |(sequence, _)| sequence + 1);
    let key = [&START_PREFIX[..], &sequence.to_be_bytes()].concat().into();
    let numbers = [start.incarnation].into_iter().chain(start.taken_over.iter().map(|at| at.get()));
    let value: Vec<u8> = numbers.flat_map(u64::to_be_bytes).collect();
    let oldest = rows.iter().take((rows.len() + 1).saturating_sub(STARTS_MAX));
    Ok(oldest.map(|(key, _)| (key.clone(), None)).chain([(key, Some(Rc::from(value)))]).collect())
}

/// Its incarnation, and how far each shard was.
fn start_numbers(value: &[u8]) -> Option<(u64, impl Iterator<Item = u64>)> {
    let (numbers, rest) = value.as_chunks::<8>();
    let mut numbers = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes));
    Some((numbers.next().filter(|_| rest.is_empty())?, numbers))
}

/// The starts that are remembered.
pub fn lineage(view: &dyn View) -> Result<Lineage, NeedMore> {
    let rows = view.scan(&START_PREFIX, START_END, usize::MAX)?;
    let starts = rows.iter().filter_map(|(_, value)| start_numbers(value));
    let decoded = starts.map(|(incarnation, at)| Start { incarnation, taken_over: at.map(Timestamp::new).collect() });
    Ok(Lineage(decoded.collect()))
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
    /// A start, by its place among them.
    Start(u64),
}

/// Decodes a row, for checkers; None where it is not one.
pub fn decode_row(key: &[u8], value: &[u8]) -> Option<Row> {
    if let Some(sequence) = key.strip_prefix(&START_PREFIX) {
        return start_numbers(value).and_then(|_| number(sequence).map(Row::Start));
    }
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

    #[test]
    fn what_was_seen_is_held_against_the_start_after_it() {
        let mut state = Memory::default();
        let (one, two) = (ShardId::new(1), ShardId::new(2));
        let begin = |state: &mut Memory, incarnation: u64, at: [u64; 3]| {
            let taken_over = at.map(Timestamp::new).to_vec();
            run(state, ControlCommand::Begin(Start { incarnation, taken_over }));
        };
        begin(&mut state, 70, [0, 0, 0]);
        begin(&mut state, 50, [0, 10, 20]);
        begin(&mut state, 50, [9, 99, 99]);
        begin(&mut state, 60, [0, 30, 40]);
        let known = lineage(&state).expect("all in memory");
        let has = |incarnation, shard, seen| known.has(incarnation, shard, Timestamp::new(seen));
        assert!(has(70, one, 10) && has(70, two, 20) && has(50, one, 30));
        assert!(!has(70, one, 11) && !has(70, two, 21) && !has(50, two, 41), "later starts do not count");
        assert!(has(60, one, 1 << 40), "the newest start is what there is now");
        assert!(!has(55, one, 0), "nobody knows that start");
        for incarnation in 1000..1000 + STARTS_MAX as u64 {
            begin(&mut state, incarnation, [0, 50, 50]);
        }
        let known = lineage(&state).expect("all in memory");
        assert_eq!(known.0.len(), STARTS_MAX);
        assert!(!known.has(60, one, Timestamp::new(0)) && known.has(1000, one, Timestamp::new(50)));
        let (key, value) = (&[1, b'b', 0, 0, 0, 0, 0, 0, 0, 3], [0; 24]);
        assert_eq!((decode_row(key, &value), decode_row(key, &value[1..])), (Some(Row::Start(3)), None));
    }
}
