//! The other replicas of the group: messages, time, and the leader's lease.
//!
//! Invariants: a replica that took something from a leader, or has just started, answers no request
//! for a vote for one election timeout; so a leader may answer reads for a little less than that,
//! counted from when it sent what a majority took. Ticks never come faster than the clock says.

use super::Replica;
use super::install::Arrived;
use super::serve::Serving;
use super::transfer::{GroupMessage, Job};
use cfs_consensus::{ELECTION_TICKS, Group, MessageError, PeerMessage, Role};
use cfs_exec::Event;
use cfs_seam::{Clock, Instant, timeout};
use cfs_types::GroupId;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Between two ticks of a group.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// How long a replica votes for nobody.
pub(super) const SILENCE: Duration = Duration::from_millis(100 * ELECTION_TICKS as u64);
/// How long a leader answers reads after sending what a majority took. An election that its
/// followers begin by themselves comes after `ELECTION_TICKS - 1` whole ticks, so two clocks may
/// differ by an eighth of their speed, far more than real ones do.
const LEASE: Duration = Duration::from_millis(100 * (ELECTION_TICKS as u64 - 2));
/// Messages that wait for the task that moves states; more are dropped, the peer repeats them.
const JOBS_MAX: usize = 32;

/// Carries messages between the replicas of groups. They may be lost, repeated, delayed and come
/// in any order; `send` never waits, and drops what there is no room for.
pub trait PeerLink {
    /// Sends `message` to replica `to` of the group, for its [`Replica::receive`].
    fn send(&self, group: GroupId, to: u64, message: Vec<u8>);
}

/// What a replica of several needs besides.
pub struct PeerParts {
    /// The way to the others.
    pub link: Rc<dyn PeerLink>,
    /// Time, which runs during suspend.
    pub clock: Rc<dyn Clock>,
}

pub(super) struct Peers {
    pub link: Rc<dyn PeerLink>,
    pub clock: Rc<dyn Clock>,
    next_tick: Cell<Instant>,
    silent_until: Cell<Instant>,
    /// The state as followers read it now.
    pub serving: RefCell<Option<Serving>>,
    /// A state that came whole, to be installed.
    pub arrived: RefCell<Option<Arrived>>,
    pub jobs: RefCell<VecDeque<Job>>,
    pub job: Event,
}

impl Peers {
    pub fn new(parts: PeerParts) -> Self {
        let now = parts.clock.now();
        Peers {
            link: parts.link,
            clock: parts.clock,
            next_tick: Cell::new(now.after(TICK)),
            silent_until: Cell::new(now.after(SILENCE)),
            serving: RefCell::default(),
            arrived: RefCell::default(),
            jobs: RefCell::default(),
            job: Event::new(),
        }
    }

    /// Whether nobody else can have been elected yet.
    pub fn holds_lease(&self, group: &Group) -> bool {
        group.lease_from().is_some_and(|sent| self.clock.now() < Instant::new(sent).after(LEASE))
    }

    pub fn push_job(&self, job: Job) {
        let mut jobs = self.jobs.borrow_mut();
        if jobs.len() < JOBS_MAX {
            jobs.push_back(job);
        }
        drop(jobs);
        self.job.notify_all();
    }
}

impl Replica {
    /// Takes a message of replica `from`, whom the caller has authenticated.
    pub fn receive(&self, from: u64, bytes: &[u8]) -> Result<(), MessageError> {
        let Some(peers) = &self.peers else { return Err(MessageError::Forbidden) };
        match GroupMessage::decode(bytes)? {
            GroupMessage::Raft(bytes) => {
                let message = PeerMessage::decode(&bytes)?;
                if message.from() != from {
                    return Err(MessageError::Forbidden);
                }
                return self.step(peers, message);
            }
            GroupMessage::Want(want) => peers.push_job(Job::Serve { to: from, want }),
            GroupMessage::Page(page) => peers.push_job(Job::Take { from, page }),
            GroupMessage::Gone(point) => peers.push_job(Job::Gone { from, point }),
        }
        Ok(())
    }

    fn step(&self, peers: &Peers, message: PeerMessage) -> Result<(), MessageError> {
        let now = peers.clock.now();
        if message.asks_for_vote() && now < peers.silent_until.get() {
            return Ok(());
        }
        if message.is_snapshot() {
            // The library hears of it once the state is here.
            peers.push_job(Job::Offer(message));
            return Ok(());
        }
        let (from, term) = (message.from(), message.term());
        let was_current = self.is_current();
        self.group.borrow_mut().step(message)?;
        let leader = {
            let group = self.group.borrow();
            group.role() == Role::Follower(Some(from)) && group.term().get() == term
        };
        if leader {
            peers.silent_until.set(now.after(SILENCE));
        }
        self.work.notify_all();
        if !was_current && self.is_current() {
            self.executed.notify_all();
        }
        Ok(())
    }

    pub(super) fn send_all(&self, messages: Vec<PeerMessage>) {
        let Some(peers) = &self.peers else { return };
        for mut message in messages {
            message.stamp(peers.clock.now().nanos());
            if message.is_snapshot() {
                self.note_offer(peers, message.to());
            }
            let bytes = GroupMessage::Raft(message.encode()).encode();
            peers.link.send(self.id, message.to(), bytes);
        }
    }

    /// Lets the group know how time passes. A sole voter needs no time.
    pub(super) fn tick_when_due(&self) {
        let Some(peers) = &self.peers else { return };
        let now = peers.clock.now();
        if now >= peers.next_tick.get() {
            peers.next_tick.set(now.after(TICK));
            self.group.borrow_mut().tick();
            self.review_serving(peers);
        }
        let wanted = self.group.borrow().snapshot_wanted();
        if wanted && self.leads() {
            self.open_state(peers);
        }
    }

    pub(super) async fn wait_for_work(&self) {
        let work = self.work.wait();
        match &self.peers {
            None => work.await,
            Some(peers) => {
                timeout(&peers.clock, peers.next_tick.get(), work).await;
            }
        }
    }
}
