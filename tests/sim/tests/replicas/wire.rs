//! Messages between replicas: lost, repeated, late, out of order, cut off.

use cfs_exec::Event;
use cfs_seam::{Class, World, sleep, spawn};
use cfs_server::group::{PeerLink, Replica, Shard};
use cfs_types::GroupId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Messages on the way at the most; more are dropped.
const QUEUE_MAX: usize = 10_000;
/// How a page of a state begins on the wire.
const PAGE: u8 = 2;

struct Letter {
    from: u64,
    to: u64,
    bytes: Rc<[u8]>,
}

/// The network of a group. It runs on a machine of its own, so that letters outlive their senders.
#[derive(Default)]
pub struct Wire {
    members: RefCell<BTreeMap<u64, Rc<Shard>>>,
    /// Who hears nobody and is heard by nobody.
    alone: RefCell<BTreeSet<u64>>,
    queue: RefCell<VecDeque<Letter>>,
    posted: Event,
    /// Percent.
    pub loss: Cell<u64>,
    /// Pages of states that were delivered.
    pub pages: Cell<u64>,
}

/// One replica's end.
pub struct Port {
    pub wire: Rc<Wire>,
    pub me: u64,
}

impl PeerLink for Port {
    fn send(&self, _group: GroupId, to: u64, message: Vec<u8>) {
        let mut queue = self.wire.queue.borrow_mut();
        if queue.len() < QUEUE_MAX {
            queue.push_back(Letter { from: self.me, to, bytes: message.into() });
        }
        drop(queue);
        self.wire.posted.notify_all();
    }
}

impl Wire {
    pub fn join(&self, me: u64, shard: Rc<Shard>) {
        self.members.borrow_mut().insert(me, shard);
    }

    pub fn leave(&self, me: u64) {
        self.members.borrow_mut().remove(&me);
    }

    pub fn member(&self, me: u64) -> Option<Rc<Shard>> {
        self.members.borrow().get(&me).cloned()
    }

    /// Whether this very incarnation of a member still runs.
    pub fn runs(&self, shard: &Rc<Shard>) -> bool {
        self.members.borrow().values().any(|member| Rc::ptr_eq(member, shard))
    }

    pub fn isolate(&self, me: u64) {
        self.alone.borrow_mut().insert(me);
    }

    pub fn heal(&self) {
        self.alone.borrow_mut().clear();
    }

    fn is_cut(&self, letter: &Letter) -> bool {
        let alone = self.alone.borrow();
        alone.contains(&letter.from) || alone.contains(&letter.to)
    }

    fn deliver(&self, letter: &Letter) {
        let Some(shard) = self.member(letter.to).filter(|_| !self.is_cut(letter)) else { return };
        if letter.bytes.first() == Some(&PAGE) {
            self.pages.set(self.pages.get() + 1);
        }
        // Late letters may be refused, none is malformed.
        let taken = Replica::receive(&shard.replica, letter.from, &letter.bytes);
        assert_ne!(taken, Err(cfs_consensus::MessageError::Malformed));
    }

    /// Carries letters until the simulation ends.
    pub async fn run(self: Rc<Self>, world: World) {
        loop {
            let letter = self.queue.borrow_mut().pop_front();
            let Some(letter) = letter else {
                self.posted.wait().await;
                continue;
            };
            let percent = |n: u64| world.rng.next_u64() % 100 < n;
            if self.is_cut(&letter) || percent(self.loss.get()) {
                continue;
            }
            let copies = if percent(3) { 2 } else { 1 };
            let letter = Rc::new(letter);
            for _ in 0..copies {
                let longest = if percent(2) { 400_000 } else { 2_000 };
                let delay = Duration::from_micros(20 + world.rng.next_u64() % longest);
                let (wire, letter, clock) = (self.clone(), letter.clone(), world.clock.clone());
                let carry = async move {
                    sleep(&clock, delay).await;
                    wire.deliver(&letter);
                };
                spawn(&world.tasks, Class::Foreground, carry).detach();
            }
        }
    }
}
