//! The group: proposals in, work out.

use crate::lease::Lease;
use crate::message::{MessageError, PeerMessage};
use crate::storage::LogTail;
use crate::{CACHED_ENTRY_BYTES_MAX, CATCH_UP_BYTES_MAX, ELECTION_TICKS, HEARTBEAT_TICKS};
use bytes::Bytes;
use cfs_types::{LogIndex, Term};
use raft::prelude::{ConfState, Entry, EntryType, HardState, MessageType};
use raft::{Config, RawNode, StateRole};

/// Who takes part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupConfig {
    /// This replica, not 0.
    pub me: u64,
    /// All voters, `me` among them.
    pub voters: Vec<u64>,
}

/// Term, vote and commit index as they must survive a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VoteState {
    /// Current term.
    pub term: u64,
    /// Replica voted for in `term`; 0 is none.
    pub vote: u64,
    /// Highest index known committed (a hint: it may lag).
    pub commit: u64,
}

/// An entry of the group's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Term of the leader that proposed it.
    pub term: Term,
    /// Position in the log.
    pub index: LogIndex,
    /// A batch of commands; empty for the first entry of a term. Clones share the bytes.
    pub data: Bytes,
}

/// State found on the device at start.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Last durable vote state.
    pub vote: VoteState,
    /// Index and term through which the store has executed.
    pub applied: (u64, u64),
    /// Entries above `applied`, consecutive.
    pub entries: Vec<LogEntry>,
}

/// A committed entry to execute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The entry.
    pub entry: LogEntry,
}

/// A snapshot that this replica must install before anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPoint {
    /// Index it covers.
    pub index: LogIndex,
    /// Term of that entry.
    pub term: Term,
}

/// What the driver must do, in this order: install `snapshot`; append `entries`, and `vote` not
/// before them, to the log, durably; call [`Group::persisted`] (and [`Group::executed`] for a snapshot); send `messages_after`. `messages` may leave at once,
/// `committed` may be executed at once.
#[derive(Debug, Default)]
pub struct Work {
    /// Names this work for [`Group::persisted`].
    pub number: u64,
    /// Replace the whole state by the snapshot that arrived beside the message.
    pub snapshot: Option<SnapshotPoint>,
    /// To append.
    pub entries: Vec<LogEntry>,
    /// To append beside the entries, where term or vote are new. A commit index that has risen alone need not
    /// be: whoever leads next finds it out.
    pub vote: Option<VoteState>,
    /// To execute.
    pub committed: Vec<Committed>,
    /// To send now.
    pub messages: Vec<PeerMessage>,
    /// To send once persisted.
    pub messages_after: Vec<PeerMessage>,
}

/// The group's role on this replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Proposes and answers.
    Leader,
    /// Follows; who leads, where known.
    Follower(Option<u64>),
    /// Asks for votes.
    Candidate,
}

/// The proposal was not taken: this replica does not lead. Retry at the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this replica does not lead the group")]
pub struct NotLeader;

/// One replica of one Raft group.
pub struct Group {
    raw: RawNode<LogTail>,
    me: u64,
    seed: u64,
    lease: Lease,
}

impl Group {
    /// Restores a replica. `seed` decides its election timeouts.
    /// Panics where `restored` is inconsistent: callers validate what they read from disk.
    pub fn new(config: &GroupConfig, restored: Restored, seed: u64) -> Self {
        let mut conf = ConfState::default();
        conf.set_voters(config.voters.clone());
        let mut tail = LogTail::new(HardState::default(), conf, restored.applied);
        let entries: Vec<Entry> = restored.entries.into_iter().map(to_raft).collect();
        let newest = entries.last().map_or(restored.applied.1, |entry| entry.term);
        tail.append(&entries);
        // A vote of an earlier term than the newest entry's says nothing about that term.
        let voted = if newest > restored.vote.term { 0 } else { restored.vote.vote };
        tail.hard = HardState {
            term: restored.vote.term.max(newest),
            vote: voted,
            commit: restored.vote.commit.clamp(restored.applied.0, tail.last()),
            ..HardState::default()
        };
        let library = Config {
            id: config.me,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: restored.applied.0,
            max_size_per_msg: CACHED_ENTRY_BYTES_MAX as u64,
            max_inflight_msgs: 16,
            max_committed_size_per_ready: 4 << 20,
            check_quorum: config.voters.len() > 1,
            pre_vote: config.voters.len() > 1,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&library, tail, &logger).expect("the restored state was validated");
        let mut group = Group { raw, me: config.me, seed, lease: Lease::default() };
        group.set_election_timeout();
        group
    }

    /// This replica's number.
    pub fn me(&self) -> u64 {
        self.me
    }

    /// Role and, for a follower, the leader.
    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower(Some(self.raw.raft.leader_id).filter(|id| *id != 0)),
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    /// Current term.
    pub fn term(&self) -> Term {
        Term::new(self.raw.raft.term)
    }

    /// Term, vote and commit index now.
    pub fn vote(&self) -> VoteState {
        let hard = self.raw.raft.hard_state();
        VoteState { term: hard.term, vote: hard.vote, commit: hard.commit }
    }

    /// Last index in the log, durable or not.
    pub fn last_index(&self) -> LogIndex {
        LogIndex::new(self.raw.raft.raft_log.last_index())
    }

    /// Whether this replica is the only voter: it elects itself and needs no ticks.
    pub fn is_alone(&self) -> bool {
        let conf = &self.raw.store().conf;
        conf.get_voters() == [self.me]
    }

    /// Stands for election now. A sole voter wins at once.
    pub fn campaign(&mut self) {
        if self.raw.campaign().is_ok() {
            self.set_election_timeout();
        }
    }

    /// One tick of the election and heartbeat timers.
    pub fn tick(&mut self) {
        self.raw.tick();
        self.set_election_timeout();
    }

    /// Proposes an entry; returns where it will stand if this replica stays leader.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<(Term, LogIndex), NotLeader> {
        if self.raw.raft.state != StateRole::Leader {
            return Err(NotLeader);
        }
        self.raw.propose(Vec::new(), data).map_err(|_| NotLeader)?;
        Ok((self.term(), self.last_index()))
    }

    /// Takes a peer's message. Messages for another replica or from a stranger are refused.
    pub fn step(&mut self, message: PeerMessage) -> Result<(), MessageError> {
        let known = self.raw.store().conf.get_voters().contains(&message.0.from);
        let sane = match message.0.get_msg_type() {
            MessageType::MsgAppendResponse => message.0.index <= self.last_index().get(),
            MessageType::MsgHeartbeat => message.0.commit <= self.last_index().get(),
            _ => true,
        };
        if !known || !sane || message.0.to != self.me {
            return Err(MessageError::Forbidden);
        }
        let acknowledged = message.heartbeat_acknowledged();
        let (from, term) = (message.0.from, message.0.term);
        let stepped = self.raw.step(message.0);
        self.set_election_timeout();
        if let Some(sent) = acknowledged.filter(|_| self.role() == Role::Leader && term == self.raw.raft.term) {
            self.lease.acknowledge(term, from, sent);
        }
        stepped.map_err(|_| MessageError::Forbidden)
    }

    /// What is to be done, if anything. Each work must be persisted in order of its number.
    pub fn poll(&mut self) -> Option<Work> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let mut work = Work { number: ready.number(), ..Work::default() };
        if !ready.snapshot().is_empty() {
            let meta = ready.snapshot().get_metadata();
            let (index, term, conf) = (meta.index, meta.term, meta.get_conf_state().clone());
            work.snapshot = Some(SnapshotPoint { index: LogIndex::new(index), term: Term::new(term) });
            self.raw.mut_store().restart_at(index, term, conf);
        }
        if let Some(hard) = ready.hs().cloned() {
            let known = &mut self.raw.mut_store().hard;
            let votes = (known.term, known.vote) != (hard.term, hard.vote);
            work.vote = votes.then_some(VoteState { term: hard.term, vote: hard.vote, commit: hard.commit });
            *known = hard;
        }
        work.messages = ready.take_messages().into_iter().map(PeerMessage).collect();
        work.messages_after = ready.take_persisted_messages().into_iter().map(PeerMessage).collect();
        work.committed = ready.take_committed_entries().into_iter().map(committed).collect();
        let entries = ready.take_entries();
        self.raw.mut_store().append(&entries);
        work.entries = entries.into_iter().map(from_raft).collect();
        self.raw.advance_append_async(ready);
        Some(work)
    }

    /// The work of this number and all before it are durable.
    pub fn persisted(&mut self, number: u64) {
        self.raw.on_persist_ready(number);
    }

    /// When this leader sent the newest heartbeats that a majority, itself included, has taken:
    /// none of those helps to elect another leader for one election timeout from then on. None
    /// where there were none in this term, or this replica does not lead.
    pub fn lease_from(&self) -> Option<u64> {
        let others = self.raw.store().conf.get_voters().len() / 2;
        let leads = self.raw.raft.state == StateRole::Leader;
        leads.then(|| self.lease.acknowledged_by(self.raw.raft.term, others))?
    }

    /// A follower needs the state itself: [`Group::open_snapshot`].
    pub fn snapshot_wanted(&self) -> bool {
        self.raw.store().snapshot_wanted.get()
    }

    /// The state as of what is executed now can be read by followers until it is closed.
    pub fn open_snapshot(&mut self) -> SnapshotPoint {
        let tail = self.raw.mut_store();
        tail.snapshot_wanted.set(false);
        tail.snapshot = Some(tail.applied);
        SnapshotPoint { index: LogIndex::new(tail.applied.0), term: Term::new(tail.applied.1) }
    }

    /// The snapshot can no longer be read.
    pub fn close_snapshot(&mut self) {
        self.raw.mut_store().snapshot = None;
    }

    /// Entries through here are executed; cached ones that nobody needs are dropped.
    pub fn executed(&mut self, index: LogIndex, term: Term) {
        self.raw.advance_apply_to(index.get());
        let alone = self.is_alone();
        let tail = self.raw.mut_store();
        tail.applied = (index.get(), term.get());
        let through = if alone { index } else { LogIndex::new(0) };
        let cached = if tail.snapshot.is_some() { CATCH_UP_BYTES_MAX } else { CACHED_ENTRY_BYTES_MAX };
        tail.trim(through, cached);
    }

    /// Tells the leader whether a snapshot reached its follower.
    pub fn snapshot_sent(&mut self, to: u64, arrived: bool) {
        let status = if arrived { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
    }

    /// The library draws election timeouts from the thread's generator. They are set again after
    /// whatever may have drawn one, as a function of the seed and the term alone.
    fn set_election_timeout(&mut self) {
        let mixed = (self.seed ^ self.raw.raft.term.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(29);
        let spread = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33;
        let spread = usize::try_from(spread % ELECTION_TICKS as u64).expect("below ELECTION_TICKS");
        self.raw.raft.set_randomized_election_timeout(ELECTION_TICKS + spread);
    }
}

fn to_raft(entry: LogEntry) -> Entry {
    Entry { term: entry.term.get(), index: entry.index.get(), data: entry.data, ..Entry::default() }
}

fn from_raft(entry: Entry) -> LogEntry {
    debug_assert_eq!(entry.get_entry_type(), EntryType::EntryNormal);
    LogEntry { term: Term::new(entry.term), index: LogIndex::new(entry.index), data: entry.data }
}

fn committed(entry: Entry) -> Committed {
    Committed { entry: from_raft(entry) }
}

#[cfg(test)]
mod tests;
