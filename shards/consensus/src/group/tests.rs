//! Groups of one, three and five replicas on a lossy network, with crashes that lose what was
//! not persisted. Safety is checked after every step: one history of executed entries.

use super::*;

/// A small seeded generator (xorshift), so that a failing seed can be run again.
struct Seeded(u64);
impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// What was executed, by index.
type State = Vec<(u64, Vec<u8>)>;

/// What a replica's disk holds, plus what was written but not flushed.
#[derive(Clone, Default)]
struct Durable {
    vote: VoteState,
    applied: (u64, u64),
    state: State,
    entries: Vec<LogEntry>,
}

struct Replica {
    group: Group,
    disk: Durable,
    pending: Vec<Work>,
    state: State,
    executed: (u64, u64),
}

struct Cluster {
    rng: Seeded,
    config: Vec<u64>,
    replicas: Vec<Replica>,
    wire: Vec<(PeerMessage, Option<State>)>,
    history: std::collections::BTreeMap<u64, (u64, Vec<u8>)>,
    acknowledged: Vec<Vec<u8>>,
    proposed: std::collections::BTreeMap<(u64, u64), Vec<u8>>,
}

fn open(me: u64, config: &[u64], disk: &Durable, seed: u64) -> Replica {
    let restored = Restored { vote: disk.vote, applied: disk.applied, entries: disk.entries.clone() };
    let config = GroupConfig { me, voters: config.to_vec() };
    let group = Group::new(&config, restored, seed);
    Replica { group, disk: disk.clone(), pending: Vec::new(), state: disk.state.clone(), executed: disk.applied }
}

impl Cluster {
    fn new(seed: u64, voters: u64) -> Self {
        let config: Vec<u64> = (1..=voters).collect();
        let replicas = config.iter().map(|id| open(*id, &config, &Durable::default(), seed ^ id)).collect();
        Cluster {
            rng: Seeded(seed | 1),
            config,
            replicas,
            wire: Vec::new(),
            history: Default::default(),
            acknowledged: Vec::new(),
            proposed: Default::default(),
        }
    }

    fn execute(&mut self, at: usize, committed: Vec<Committed>) {
        for Committed { entry } in committed {
            let (index, term) = (entry.index.get(), entry.term.get());
            let known = self.history.entry(index).or_insert_with(|| (term, entry.data.to_vec()));
            assert_eq!(*known, (term, entry.data.to_vec()), "two histories at index {index}");
            let replica = &mut self.replicas[at];
            assert_eq!(index, replica.executed.0 + 1, "executed out of order");
            replica.state.push((index, entry.data.to_vec()));
            replica.executed = (index, term);
            replica.group.executed(entry.index, entry.term);
            if self.proposed.remove(&(term, index)).is_some() {
                self.acknowledged.push(entry.data.to_vec());
            }
        }
    }

    fn poll(&mut self, at: usize) {
        while let Some(mut work) = self.replicas[at].group.poll() {
            let committed = std::mem::take(&mut work.committed);
            for message in std::mem::take(&mut work.messages) {
                self.send(at, message);
            }
            self.replicas[at].pending.push(work);
            self.execute(at, committed);
        }
        if self.replicas[at].group.snapshot_wanted() {
            self.replicas[at].group.open_snapshot();
        }
    }

    fn send(&mut self, at: usize, message: PeerMessage) {
        let state = message.is_snapshot().then(|| self.replicas[at].state.clone());
        let again = PeerMessage::decode(&message.encode()).expect("our own message decodes");
        self.wire.push((again, state));
    }

    /// Makes everything pending durable, as one flush of the core log does.
    fn flush(&mut self, at: usize) {
        let mut messages = Vec::new();
        let replica = &mut self.replicas[at];
        for mut work in std::mem::take(&mut replica.pending) {
            if let Some(point) = work.snapshot {
                replica.disk.entries.clear();
                replica.disk.applied = (point.index.get(), point.term.get());
                replica.disk.state = replica.state.clone();
            }
            if let Some(vote) = work.vote {
                replica.disk.vote = vote;
            }
            if let Some(first) = work.entries.first() {
                replica.disk.entries.retain(|e| e.index < first.index);
            }
            replica.disk.entries.append(&mut work.entries);
            replica.group.persisted(work.number);
            if let Some(point) = work.snapshot {
                replica.group.executed(point.index, point.term);
            }
            messages.append(&mut work.messages_after);
        }
        for message in messages {
            self.send(at, message);
        }
    }

    fn deliver(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let pick = usize::try_from(self.rng.next()).expect("64 bit") % self.wire.len();
        let (message, state) = self.wire.swap_remove(pick);
        if self.rng.chance(10) {
            return;
        }
        if self.rng.chance(5) {
            self.wire.push((message.clone(), state.clone()));
        }
        let at = usize::try_from(message.to()).expect("small") - 1;
        let point = message.snapshot_point();
        let replica = &mut self.replicas[at];
        let refused = replica.group.step(message);
        assert!(refused.is_ok() || refused == Err(MessageError::Forbidden));
        if let (Some((index, term)), Some(state)) = (point, state)
            && replica.group.raw.raft.snap().is_some_and(|s| s.get_metadata().index == index)
        {
            replica.state = state.into_iter().filter(|(i, _)| *i <= index).collect();
            replica.executed = (index, term);
        }
    }

    /// Checkpoints: the executed state becomes durable and the log before it is dropped.
    fn checkpoint(&mut self, at: usize) {
        self.flush(at);
        let replica = &mut self.replicas[at];
        replica.disk.applied = replica.executed;
        replica.disk.state = replica.state.clone();
        let through = replica.executed.0;
        replica.disk.entries.retain(|e| e.index.get() > through);
        replica.group.raw.mut_store().trim(LogIndex::new(through), 0);
    }

    fn crash(&mut self, at: usize) {
        let me = self.config[at];
        let seed = self.rng.next();
        self.replicas[at] = open(me, &self.config, &self.replicas[at].disk, seed);
    }

    fn step(&mut self, count: &mut u64) {
        let at = usize::try_from(self.rng.next()).expect("64 bit") % self.replicas.len();
        match self.rng.next() % 100 {
            0..=29 => self.replicas[at].group.tick(),
            30..=59 => self.deliver(),
            60..=79 => self.flush(at),
            80..=94 => {
                *count += 1;
                let data = count.to_le_bytes().to_vec();
                if let Ok((term, index)) = self.replicas[at].group.propose(data.clone()) {
                    self.proposed.insert((term.get(), index.get()), data);
                }
            }
            95..=97 => self.checkpoint(at),
            _ => self.crash(at),
        }
        self.poll(at);
    }
}

fn run(seed: u64, voters: u64) -> (usize, u64) {
    let mut cluster = Cluster::new(seed, voters);
    let mut count = 0;
    for _ in 0..6_000 {
        cluster.step(&mut count);
    }
    let executed: Vec<&Vec<u8>> = cluster.history.values().map(|(_, data)| data).collect();
    for data in &cluster.acknowledged {
        assert!(executed.contains(&data), "seed {seed}: an acknowledged entry is gone");
    }
    (cluster.acknowledged.len(), cluster.replicas.iter().map(|r| r.group.term().get()).max().unwrap_or(0))
}

#[test]
fn three_and_five_voters_keep_one_history_through_crashes_and_loss() {
    let (mut acknowledged, mut terms) = (0, 0);
    for seed in 1..=25 {
        for voters in [3, 5] {
            let (entries, term) = run(seed * 7919 + voters, voters);
            acknowledged += entries;
            terms += term;
        }
    }
    assert!(acknowledged > 1_000, "the histories must make progress: {acknowledged}");
    assert!(terms > 100, "and change leaders: {terms}");
}

#[test]
fn a_sole_voter_elects_itself_and_executes_only_what_is_persisted() {
    let mut replica = open(1, &[1], &Durable::default(), 3);
    replica.group.campaign();
    assert_eq!(replica.group.role(), Role::Leader);
    let (_, index) = replica.group.propose(b"one".to_vec()).expect("it leads");
    let work = replica.group.poll().expect("work");
    assert!(work.committed.is_empty() && work.vote.is_some() && work.entries.len() == 2);
    assert_eq!(replica.group.poll().map(|w| w.committed.len()).unwrap_or(0), 0);
    replica.group.persisted(work.number);
    let work = replica.group.poll().expect("commit follows persistence");
    assert_eq!(work.vote, None, "a commit index is not written");
    assert_eq!(work.committed.last().map(|c| c.entry.index), Some(index));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    assert_eq!(run(99, 3), run(99, 3));
}

#[test]
fn hostile_peer_bytes_are_refused() {
    let mut rng = Seeded(5);
    let mut replica = open(1, &[1, 2, 3], &Durable::default(), 3);
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..rng.next() % 48).map(|_| rng.next().to_le_bytes()[0] & 0x3f).collect();
        if let Ok(message) = PeerMessage::decode(&bytes) {
            let _refused = replica.group.step(message);
            while let Some(work) = replica.group.poll() {
                replica.group.persisted(work.number);
            }
        }
    }
}
