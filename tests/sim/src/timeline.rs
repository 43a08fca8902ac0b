//! Virtual time, the queue of what happens next, and the trace.

use crate::rng::{Purpose, Stream, mix};
use cfs_exec::TimeSource;
use cfs_seam::Instant;
use cfs_types::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Wall time at the start: 2026-01-01.
const WALL_START_NS: i64 = 1_767_225_600_000_000_000;

/// Whether one incarnation of a node still runs. Clones are the same incarnation.
#[derive(Clone)]
pub(crate) struct Life(Rc<Cell<bool>>);

impl Life {
    pub fn begin() -> Life {
        Life(Rc::new(Cell::new(true)))
    }
    pub fn end(&self) {
        self.0.set(false);
    }
    pub fn is_over(&self) -> bool {
        !self.0.get()
    }
    /// Whether both are the same incarnation.
    pub fn is(&self, other: &Life) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// What an event or decision was, in the trace.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Turn = 1,
    Disk = 2,
    Segment = 3,
    Connect = 4,
    Reset = 5,
    Mesh = 6,
    Crash = 7,
}

struct Event {
    /// Whose event: it is dropped when that life ends.
    life: Life,
    kind: Kind,
    run: Box<dyn FnOnce()>,
}

/// The one clock and the one queue of a simulation.
pub(crate) struct Timeline {
    now: Cell<u64>,
    /// By time, then at random among equals, then by number.
    queue: RefCell<BTreeMap<(u64, u64, u64), Event>>,
    numbers: Cell<u64>,
    shuffle: Stream,
    hash: Cell<u64>,
}

impl Timeline {
    pub fn new(seed: u64) -> Rc<Timeline> {
        Rc::new(Timeline {
            now: Cell::new(0),
            queue: RefCell::default(),
            numbers: Cell::new(0),
            shuffle: Stream::split(seed, Purpose::Schedule, 1),
            hash: Cell::new(mix(seed)),
        })
    }

    /// Nanoseconds since the start.
    pub fn nanos(&self) -> u64 {
        self.now.get()
    }

    /// Moves time on; never back.
    pub fn advance_to(&self, nanos: u64) {
        self.now.set(self.now.get().max(nanos));
    }

    /// Runs `run` at `at`, unless `life` is over by then.
    pub fn schedule(&self, at: u64, life: &Life, kind: Kind, run: impl FnOnce() + 'static) {
        if life.is_over() {
            return;
        }
        self.numbers.set(self.numbers.get() + 1);
        let key = (at.max(self.nanos()), self.shuffle.next(), self.numbers.get());
        let event = Event { life: life.clone(), kind, run: Box::new(run) };
        self.queue.borrow_mut().insert(key, event);
    }

    /// When the next event happens.
    pub fn next_at(&self) -> Option<u64> {
        self.queue.borrow().first_key_value().map(|(key, _)| key.0)
    }

    /// Runs the next event; false where the queue is empty.
    pub fn run_next(&self) -> bool {
        let next = self.queue.borrow_mut().pop_first();
        let Some((key, event)) = next else { return false };
        self.advance_to(key.0);
        self.note(event.kind, key.2);
        (event.run)();
        true
    }

    /// Drops the events of lives that are over.
    pub fn bury(&self) {
        let mut dead = Vec::new();
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        let mut living = BTreeMap::new();
        for (key, event) in queue {
            if event.life.is_over() {
                dead.push(event);
            } else {
                living.insert(key, event);
            }
        }
        self.queue.borrow_mut().append(&mut living);
        drop(dead);
    }

    /// Mixes a decision into the trace.
    pub fn note(&self, kind: Kind, what: u64) {
        let word = mix((kind as u64) << 56 ^ what).wrapping_add(mix(self.nanos()));
        self.hash.set(mix(self.hash.get().rotate_left(1) ^ word));
    }

    /// The trace so far.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }
}

/// What one incarnation of a node takes for the time. Its monotonic clock has an origin of its
/// own, so that an instant that is sent or stored means nothing elsewhere; its wall clock is off.
pub(crate) struct NodeTime {
    timeline: Rc<Timeline>,
    origin: u64,
    wall_error: Cell<i64>,
}

impl NodeTime {
    pub fn new(timeline: Rc<Timeline>, origin: u64, wall_error: i64) -> Rc<NodeTime> {
        Rc::new(NodeTime { timeline, origin, wall_error: Cell::new(wall_error) })
    }
    /// Steps the wall clock.
    pub fn step_wall(&self, nanos: i64) {
        self.wall_error.set(self.wall_error.get().saturating_add(nanos));
    }
    /// An instant of this node on the timeline, nanoseconds.
    pub fn on_timeline(&self, at: Instant) -> u64 {
        at.nanos().saturating_sub(self.origin)
    }
}

impl TimeSource for NodeTime {
    fn now(&self) -> Instant {
        Instant::new(self.origin + self.timeline.nanos())
    }
    fn wall(&self) -> Nanos {
        let elapsed = i64::try_from(self.timeline.nanos()).unwrap_or(i64::MAX);
        Nanos::new(WALL_START_NS.saturating_add(elapsed).saturating_add(self.wall_error.get()))
    }
}
