//! Whether a history of concurrent operations fits the reference file system in some order.
//!
//! The search of Wing and Gong (1993) with the memory of Lowe (2017): operations are put in an order
//! one by one; one may come next if no other ended before it began. An operation whose end nobody
//! saw may have happened at any time after it began, or never.
//!
//! One thing is not a single moment: an operation that takes a file's last name lets go of the file itself at any time
//! before it ends (docs/decisions/0003-cross-shard.md). Until then a link may still be made to it.

use crate::history::ME;
use cfs_model::{Call, Model};
use cfs_types::{FsError, InodeId, Name, Nanos, SessionId};
use cfs_wire::{FileKind, Op, Reply};
use std::collections::BTreeMap;

/// Holds every file open, so that one that is unlinked stays.
const KEEPER: SessionId = SessionId::new(1);
/// Orders tried before the search gives up.
const TRIES_MAX: u64 = 2_000_000;

/// What a client saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It was done.
    Done,
    /// A name leads to this inode, or was made for it.
    Inode(InodeId, FileKind),
    /// A directory's names.
    Names(BTreeMap<Name, InodeId>),
    /// A file's bytes.
    Bytes(Vec<u8>),
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Event {
    /// Who.
    pub client: usize,
    /// Its place among all beginnings and ends.
    pub begun: u64,
    /// As `begun`; None where its result is unknown.
    pub ended: Option<u64>,
    /// What, with the server's numbers.
    pub op: Op,
    /// Bytes of a write.
    pub payload: Vec<u8>,
    /// The result, where there is an end.
    pub seen: Result<Seen, FsError>,
}

#[derive(Clone, PartialEq, Eq)]
struct State {
    model: Model,
    /// The server's number of each of the model's inodes, as far as it is known, and back.
    server: BTreeMap<InodeId, InodeId>,
    model_of: BTreeMap<InodeId, InodeId>,
    /// The end of the operation that took the last name of one of the model's files.
    let_go: BTreeMap<InodeId, u64>,
}

fn is_gone(error: FsError) -> bool {
    matches!(error, FsError::NotFound | FsError::Stale)
}

impl State {
    fn translate(&self, op: &Op) -> Option<Op> {
        let mut op = op.clone();
        let fields: [Option<&mut InodeId>; 2] = match &mut op {
            Op::Rename { from_dir, to_dir, .. } => [Some(from_dir), Some(to_dir)],
            Op::Link { ino, dir, .. } => [Some(ino), Some(dir)],
            Op::Create { dir, .. } | Op::Mkdir { dir, .. } | Op::Lookup { dir, .. } => [Some(dir), None],
            Op::Unlink { dir, .. } | Op::Rmdir { dir, .. } | Op::Readdir { dir, .. } => [Some(dir), None],
            Op::Open { ino, .. } | Op::Read { ino, .. } | Op::Write { ino, .. } => [Some(ino), None],
            Op::Setattr { ino, .. } => [Some(ino), None],
            other => panic!("{other:?} is not used here"),
        };
        for field in fields.into_iter().flatten() {
            *field = *self.model_of.get(field)?;
        }
        Some(op)
    }

    fn learn(&mut self, model: InodeId, server: InodeId) -> bool {
        match (self.server.get(&model), self.model_of.get(&server)) {
            (None, None) => {
                self.server.insert(model, server);
                self.model_of.insert(server, model);
                true
            }
            (known, _) => known == Some(&server),
        }
    }

    /// The state after the event; None where it cannot come now.
    fn after(&self, event: &Event) -> Option<State> {
        let op = self.translate(&event.op)?;
        if self.is_unlinked(&op) && event.ended.is_some() && event.seen.as_ref().is_err_and(|e| is_gone(*e)) {
            return Some(self.clone());
        }
        let mut next = self.clone();
        let call = Call { op, payload: event.payload.clone(), identity: ME, session: KEEPER, now: Nanos::default() };
        let answer = match (&call.op, &event.seen) {
            (Op::Link { ino, .. }, Ok(_)) if self.let_go.get(ino).is_some_and(|end| *end > event.begun) => {
                next.let_go.remove(ino);
                next.model.apply_before_it_goes(*ino, &call)
            }
            _ => next.model.apply(&call),
        };
        if matches!(call.op, Op::Unlink { .. } | Op::Rename { .. }) {
            next.note_let_go(self, event.ended.unwrap_or(u64::MAX));
        }
        if event.ended.is_none() {
            return answer.is_ok().then_some(next);
        }
        let agree = match (answer, &event.seen) {
            (Ok((Reply::Entry(entry), _)), Ok(Seen::Inode(ino, kind))) => {
                entry.kind == *kind && next.learn(entry.ino, *ino)
            }
            (Ok((Reply::Listing { entries, .. }, _)), Ok(Seen::Names(names))) => {
                let same = entries.len() == names.len();
                same && entries.iter().all(|e| names.get(&e.name).is_some_and(|ino| next.learn(e.ino, *ino)))
            }
            (Ok((Reply::Data { .. }, bytes)), Ok(Seen::Bytes(seen))) => bytes == *seen,
            (Ok(_), Ok(Seen::Done)) => true,
            (Err(ours), Err(theirs)) => ours == *theirs || is_gone(ours) && is_gone(*theirs),
            _ => false,
        };
        agree.then_some(next)
    }

    /// Notes the files that have lost their last name since `before`.
    fn note_let_go(&mut self, before: &State, end: u64) {
        let nameless = self.model.nodes().filter(|(_, node)| node.nlink == 0);
        let lost = nameless.filter(|(ino, _)| !before.is_nameless(*ino));
        self.let_go.extend(lost.map(|(ino, _)| (ino, end)));
    }

    fn is_nameless(&self, ino: InodeId) -> bool {
        self.model.node(ino).is_ok_and(|node| node.nlink == 0)
    }

    /// Whether the operation is one on a file without a name, which may be gone or not.
    fn is_unlinked(&self, op: &Op) -> bool {
        let ino = match op {
            Op::Open { ino, .. } | Op::Read { ino, .. } | Op::Write { ino, .. } => ino,
            Op::Link { ino, .. } | Op::Setattr { ino, .. } => ino,
            _ => return false,
        };
        self.is_nameless(*ino)
    }
}

struct Search<'a> {
    events: &'a [Event],
    done: Vec<bool>,
    tries: u64,
    refuted: BTreeMap<Vec<bool>, Vec<State>>,
    /// The longest order, and what could not follow.
    best: (Vec<usize>, Vec<usize>),
    order: Vec<usize>,
}

/// Finds an order; the error shows where the longest one ends.
pub fn explain(events: &[Event]) -> Result<(), String> {
    // What changes nothing and was not answered says nothing.
    let says = |e: &&Event| {
        e.ended.is_some() || !matches!(e.op, Op::Open { .. } | Op::Read { .. } | Op::Lookup { .. } | Op::Readdir { .. })
    };
    let events: Vec<Event> = events.iter().filter(says).cloned().collect();
    let root = (InodeId::ROOT, InodeId::ROOT);
    let model = Model::new(0o755, 0, 0, Nanos::default());
    let state = State { model, server: [root].into(), model_of: [root].into(), let_go: BTreeMap::new() };
    let done = vec![false; events.len()];
    let mut search = Search {
        events: &events,
        done,
        tries: 0,
        refuted: BTreeMap::new(),
        best: Default::default(),
        order: Vec::new(),
    };
    if search.finish(&state) { Ok(()) } else { Err(search.describe()) }
}

impl Search<'_> {
    fn finish(&mut self, state: &State) -> bool {
        let left = || (0..self.events.len()).filter(|n| !self.done[*n]);
        let first_end = left().filter_map(|n| self.events[n].ended).min();
        let Some(first_end) = first_end else { return true };
        let mut next: Vec<usize> = left().filter(|n| self.events[*n].begun < first_end).collect();
        next.sort_by_key(|n| self.events[*n].ended.unwrap_or(u64::MAX));
        self.tries += 1;
        assert!(self.tries < TRIES_MAX, "too many orders to try: make the history smaller");
        if self.refuted.get(&self.done).is_some_and(|states| states.contains(state)) {
            return false;
        }
        if self.order.len() >= self.best.0.len() {
            self.best = (self.order.clone(), next.clone());
        }
        for n in next {
            if let Some(after) = state.after(&self.events[n]) {
                self.done[n] = true;
                self.order.push(n);
                if self.finish(&after) {
                    return true;
                }
                self.order.pop();
                self.done[n] = false;
            }
        }
        self.refuted.entry(self.done.clone()).or_default().push(state.clone());
        false
    }

    fn describe(&self) -> String {
        let one = |n: &usize| {
            let e = &self.events[*n];
            let seen = match &e.seen {
                _ if e.ended.is_none() => "?".into(),
                Ok(Seen::Bytes(bytes)) => format!("{} bytes, {:?}…", bytes.len(), &bytes[..bytes.len().min(20)]),
                other => format!("{other:?}"),
            };
            let bytes = &e.payload[..e.payload.len().min(4)];
            format!("  {}..{:?} client {}: {:?} {bytes:?} -> {seen}", e.begun, e.ended, e.client, e.op)
        };
        let last = self.best.0.len().saturating_sub(30);
        let order: Vec<String> = self.best.0[last..].iter().map(one).collect();
        let next: Vec<String> = self.best.1.iter().map(one).collect();
        format!("no order explains it; after\n{}\nnone of these can come:\n{}", order.join("\n"), next.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(times: (u64, u64), op: Op, payload: &[u8], seen: Result<Seen, FsError>) -> Event {
        Event { client: 0, begun: times.0, ended: Some(times.1), op, payload: payload.to_vec(), seen }
    }
    fn file() -> InodeId {
        InodeId::from_raw(0x107).expect("valid")
    }
    fn create() -> Event {
        let name = Name::new(b"f").expect("a name");
        let op = Op::Create { dir: InodeId::ROOT, name, mode: 0o644, exclusive: true, truncate: false };
        event((0, 1), op, b"", Ok(Seen::Inode(file(), FileKind::File)))
    }
    fn write(times: (u64, u64), bytes: &[u8]) -> Event {
        let len = u32::try_from(bytes.len()).expect("short");
        let op = Op::Write { ino: file(), offset: 0, len, append: false, kill_privileges: false, held: None };
        event(times, op, bytes, Ok(Seen::Done))
    }
    fn read(times: (u64, u64), bytes: &[u8]) -> Event {
        let op = Op::Read { ino: file(), offset: 0, len: 100, epoch: 0, sequence: 0 };
        event(times, op, b"", Ok(Seen::Bytes(bytes.to_vec())))
    }

    #[test]
    fn what_overlaps_may_come_in_any_order_and_what_does_not_may_not() {
        let overlapping = [create(), write((2, 5), b"a"), write((3, 6), b"b"), read((7, 8), b"a")];
        assert_eq!(explain(&overlapping), Ok(()));
        let stale = [create(), write((2, 3), b"a"), write((4, 5), b"b"), read((6, 7), b"a")];
        assert!(explain(&stale).is_err());
        let back = [create(), write((2, 9), b"a"), read((3, 4), b"a"), read((5, 6), b"")];
        assert!(explain(&back).is_err(), "what was seen is not unseen");
    }

    #[test]
    fn a_link_to_a_file_may_be_made_until_what_takes_its_last_name_has_ended() {
        let name = |text: &[u8]| Name::new(text).expect("a name");
        let unlink = |times| event(times, Op::Unlink { dir: InodeId::ROOT, name: name(b"f") }, b"", Ok(Seen::Done));
        let link = |times| {
            let op = Op::Link { ino: file(), dir: InodeId::ROOT, name: name(b"f") };
            event(times, op, b"", Ok(Seen::Inode(file(), FileKind::File)))
        };
        assert_eq!(explain(&[create(), unlink((2, 5)), link((3, 6))]), Ok(()), "of the same name: it came behind");
        assert!(explain(&[create(), unlink((2, 3)), link((4, 5))]).is_err());
        assert!(explain(&[create(), unlink((2, 9)), link((3, 4)), link((5, 6))]).is_err(), "the name is taken");
    }

    #[test]
    fn an_operation_without_an_end_may_have_happened_or_not() {
        let lost = Event { ended: None, ..write((2, 3), b"a") };
        assert_eq!(explain(&[create(), lost.clone(), read((4, 5), b"a")]), Ok(()));
        assert_eq!(explain(&[create(), lost.clone(), read((4, 5), b""), read((6, 7), b"a")]), Ok(()));
        assert!(explain(&[create(), lost, read((4, 5), b"a"), read((6, 7), b"")]).is_err());
    }
}
