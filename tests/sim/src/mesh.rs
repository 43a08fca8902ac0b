//! Messages between the cores of one simulated node.

use crate::rng::Stream;
use crate::timeline::{Kind, Life, Timeline};
use cfs_seam::{Io, Mesh, MeshFull, MeshMessage, Promise, io};
use cfs_types::CoreId;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Messages between two cores before `MeshFull`.
const RING_MESSAGES: usize = 128;
/// Longest way of a message, nanoseconds.
const DELAY_NS_MAX: u64 = 30_000;

type Message = (CoreId, MeshMessage);

#[derive(Default)]
struct Inbox {
    arrived: VecDeque<Message>,
    waiting: Option<Promise<Message>>,
}

/// One ring. Each send schedules one arrival, which takes the oldest message: order is kept.
#[derive(Default)]
struct Ring {
    messages: VecDeque<MeshMessage>,
    /// Sent and not yet received.
    used: usize,
}

#[derive(Default)]
struct State {
    inboxes: BTreeMap<CoreId, Inbox>,
    rings: BTreeMap<(CoreId, CoreId), Ring>,
}

/// All rings of one incarnation of a node.
pub(crate) struct NodeMesh {
    pub cores: u16,
    pub life: Life,
    pub timeline: Rc<Timeline>,
    pub rng: Stream,
    state: RefCell<State>,
}

impl NodeMesh {
    pub fn new(cores: u16, life: Life, timeline: Rc<Timeline>, rng: Stream) -> Rc<NodeMesh> {
        Rc::new(NodeMesh { cores, life, timeline, rng, state: RefCell::default() })
    }

    /// The end of one core.
    pub fn core(self: &Rc<Self>, me: CoreId) -> Rc<dyn Mesh> {
        Rc::new(CoreMesh { node: self.clone(), me })
    }

    /// Drops all messages, for they may hold what holds this mesh.
    pub fn clear(&self) {
        let state = std::mem::take(&mut *self.state.borrow_mut());
        drop(state);
    }

    /// The oldest message of a ring arrives.
    fn arrive(&self, from: CoreId, to: CoreId) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(ring) = state.rings.get_mut(&(from, to)) else { return };
        let Some(message) = ring.messages.pop_front() else { return };
        let inbox = state.inboxes.entry(to).or_default();
        match inbox.waiting.take() {
            Some(promise) if !promise.is_abandoned() => {
                ring.used -= 1;
                promise.complete((from, message));
            }
            _ => inbox.arrived.push_back((from, message)),
        }
    }
}

struct CoreMesh {
    node: Rc<NodeMesh>,
    me: CoreId,
}

impl Mesh for CoreMesh {
    fn cores(&self) -> u16 {
        self.node.cores
    }
    fn me(&self) -> CoreId {
        self.me
    }
    fn send(&self, to: CoreId, message: MeshMessage) -> Result<(), MeshFull> {
        assert!(to.get() < self.node.cores, "no core {to} in this process");
        let (from, node) = (self.me, self.node.clone());
        let mut state = self.node.state.borrow_mut();
        let ring = state.rings.entry((from, to)).or_default();
        if ring.used == RING_MESSAGES {
            return Err(MeshFull(message));
        }
        ring.used += 1;
        ring.messages.push_back(message);
        let at = node.timeline.nanos() + node.rng.below(DELAY_NS_MAX);
        self.node.timeline.schedule(at, &self.node.life, Kind::Mesh, move || node.arrive(from, to));
        Ok(())
    }
    fn recv(&self) -> Io<Message> {
        let mut state = self.node.state.borrow_mut();
        let state = &mut *state;
        let inbox = state.inboxes.entry(self.me).or_default();
        if let Some((from, message)) = inbox.arrived.pop_front() {
            if let Some(ring) = state.rings.get_mut(&(from, self.me)) {
                ring.used -= 1;
            }
            return Io::ready((from, message));
        }
        let (promise, message) = io();
        inbox.waiting = Some(promise);
        message
    }
}
