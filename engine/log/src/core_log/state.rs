//! The state of an open log: plain functions, no I/O.

use super::queue::{Item, Queue, Queued};
use super::{Limits, Usage};
use crate::LogError;
use crate::batch::{BATCH_HEADER_BYTES, Body, Header, padded_bytes};
use crate::index::EntryIndex;
use crate::record::{Origin, Position, Record, RecordKind};
use crate::slots::{Hold, Released, Slots, Urgency};
use crate::stream::{StreamHead, StreamId, StreamTail};
use cfs_device::{DeviceError, Layout};
use cfs_seam::{IoBuf, Promise};
use cfs_types::GroupId;
use std::collections::BTreeMap;

/// What the log is up to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Open,
    /// Ends once the queue is empty.
    Closing,
    /// The stream is ended; its anchor does not say so yet.
    Ending,
    Closed,
    Failed(DeviceError),
}

/// The newest state record of a kind, and the batch that holds it.
struct StateAt {
    record: Record,
    origin: Origin,
    sequence: u64,
}

#[derive(Default)]
pub(super) struct GroupState {
    pub entries: EntryIndex,
    pub local_last: u64,
    states: BTreeMap<RecordKind, StateAt>,
}

/// A batch that goes to the device now.
pub(super) struct Planned {
    pub at: u64,
    pub buf: IoBuf,
    header: Header,
    items: Vec<Item>,
    places: Vec<(u32, Position)>,
}

/// What the writer does next.
pub(super) enum Step {
    Write(Planned),
    /// The log is closing and has no room for these.
    Refuse(Vec<Item>),
    Wait,
    Stop,
}

/// Frees the oldest slots: first `copies`, then the anchor.
pub(super) struct Reclaim {
    pub head: StreamHead,
    pub copies: Vec<Queued>,
}

pub(super) struct State {
    pub phase: Phase,
    pub queue: Queue,
    pub slots: Slots,
    pub groups: BTreeMap<GroupId, GroupState>,
    pub old_holds: BTreeMap<GroupId, Hold>,
    pub old_exist: bool,
    pub room: Vec<Promise<()>>,
    pub closers: Vec<Promise<Result<(), LogError>>>,
    /// Whom to tell that the log has failed.
    pub watchers: Vec<Promise<()>>,
    /// Whom to tell that the device has been marked as failed, as far as it could be.
    pub mark_watchers: Vec<Promise<()>>,
    pub is_marked: bool,
    pub usage: Usage,
    stream: StreamId,
    layout: Layout,
    limits: Limits,
    /// Next write, bytes into the current slot.
    at: u64,
    /// Sequence of the next batch.
    sequence: u64,
    previous_crc: u32,
    ends: u8,
    /// The first of the batches that end the stream.
    tail: Option<StreamTail>,
}

/// Empty batches that end a stream: damage of the last one loses nothing.
const END_BATCHES: u8 = 2;

impl State {
    pub fn new(stream: StreamId, layout: Layout, limits: Limits, slots: Slots) -> Self {
        State {
            phase: Phase::Open,
            queue: Queue::default(),
            slots,
            groups: BTreeMap::new(),
            old_holds: BTreeMap::new(),
            old_exist: false,
            room: Vec::new(),
            closers: Vec::new(),
            watchers: Vec::new(),
            mark_watchers: Vec::new(),
            is_marked: false,
            usage: Usage::default(),
            stream,
            layout,
            limits,
            at: 0,
            sequence: 1,
            previous_crc: 0,
            ends: 0,
            tail: None,
        }
    }

    /// Why nothing more can be appended.
    pub fn refusal(&self) -> Option<LogError> {
        match &self.phase {
            Phase::Open => None,
            Phase::Closing | Phase::Ending | Phase::Closed => Some(LogError::Closed),
            Phase::Failed(source) => Some(LogError::Failed(source.clone())),
        }
    }

    /// What the writer does next.
    pub fn plan(&mut self) -> Step {
        if matches!(self.phase, Phase::Ending | Phase::Closed | Phase::Failed(_)) {
            return Step::Stop;
        }
        if self.queue.is_empty() {
            return if self.phase == Phase::Closing { self.plan_end() } else { Step::Wait };
        }
        for urgency in Urgency::ALL {
            if !self.queue.has(urgency) {
                continue;
            }
            if self.slots.may_write(urgency) {
                let items = self.queue.take(self.room_bytes(), urgency);
                if !items.is_empty() {
                    return Step::Write(self.build(items));
                }
            }
            if self.advance(urgency) {
                let items = self.queue.take(self.room_bytes(), urgency);
                assert!(!items.is_empty(), "an item fits an empty slot");
                return Step::Write(self.build(items));
            }
        }
        if self.phase == Phase::Closing { Step::Refuse(self.queue.drain()) } else { Step::Wait }
    }

    fn plan_end(&mut self) -> Step {
        let fits = self.room_bytes() >= padded_bytes(0) || self.advance(Urgency::Boot);
        if self.ends == END_BATCHES || !fits {
            self.phase = if self.ended() { Phase::Ending } else { Phase::Closed };
            return Step::Stop;
        }
        self.ends += 1;
        Step::Write(self.build(Vec::new()))
    }

    /// Whether the stream was ended on purpose.
    pub fn ended(&self) -> bool {
        self.ends == END_BATCHES
    }

    /// What the anchor of the stream says once it has ended.
    pub fn ended_head(&self) -> StreamHead {
        StreamHead { tail: self.tail, ..self.slots.head(self.stream) }
    }

    fn room_bytes(&self) -> usize {
        let room = self.layout.log_slot_bytes - self.at;
        usize::try_from(room).expect("at most 64 MiB").min(self.limits.batch_bytes)
    }

    fn advance(&mut self, urgency: Urgency) -> bool {
        let advanced = self.slots.advance(urgency, self.sequence, self.previous_crc);
        if advanced {
            self.at = 0;
        }
        advanced
    }

    /// Puts the items into the next batch; position and sequence move on at once, because a write
    /// that fails ends the log anyway.
    fn build(&mut self, items: Vec<Item>) -> Planned {
        let at = self.layout.slot_at(self.slots.current()) + self.at;
        let mut body = Body::with_room(items.iter().map(|item| item.bytes).sum());
        let mut places = Vec::with_capacity(items.iter().map(|item| item.records.len()).sum());
        for queued in items.iter().flat_map(|item| &item.records) {
            let (ordinal, offset, crc) = body.push(&queued.record, queued.origin);
            let bytes = u32::try_from(queued.record.payload.len()).expect("bounded by the longest record");
            let at = at + u64::try_from(offset).expect("a usize fits 64 bits");
            places.push((ordinal, Position { at, bytes, crc }));
        }
        let mut header = Header {
            stream: self.stream,
            sequence: self.sequence,
            durable_through: self.sequence - 1,
            previous_crc: self.previous_crc,
            next_slot: self.slots.next(),
            is_end: self.ends > 0,
            body_bytes: 0,
            records: 0,
            body_crc: 0,
            crc: 0,
        };
        let (buf, crc) = body.seal(&header);
        assert!(buf.len() > BATCH_HEADER_BYTES, "at least a block");
        header.crc = crc;
        if header.is_end && self.tail.is_none() {
            self.tail = Some(StreamTail { sequence: self.sequence, crc });
        }
        self.at += u64::try_from(buf.len()).expect("a usize fits 64 bits");
        assert!(self.at <= self.layout.log_slot_bytes, "a batch never spans slots");
        self.sequence += 1;
        self.previous_crc = crc;
        Planned { at, buf, header, items, places }
    }

    /// The batch is on stable media: notes where everything lies. Returns whom to tell.
    pub fn note_durable(&mut self, planned: PlannedDone) -> Vec<Promise<Result<(), LogError>>> {
        let mut places = planned.places.into_iter();
        let mut done = Vec::new();
        for item in planned.items {
            for queued in item.records {
                let (ordinal, position) = places.next().expect("one place a record");
                let here =
                    Origin { boot: self.stream.boot, core: self.stream.core, sequence: planned.sequence, ordinal };
                self.usage.records += 1;
                self.note_record(queued, here, position);
            }
            done.extend(item.done);
        }
        done
    }

    fn note_record(&mut self, queued: Queued, here: Origin, position: Position) {
        let Queued { record, origin, replaces } = queued;
        let (group, kind, index) = (record.group, record.kind, record.index.get());
        let state = self.groups.entry(group).or_default();
        match (kind, replaces) {
            (RecordKind::Entry, Some(original)) => {
                if state.entries.replace(index, original, position) {
                    self.slots.hold(group, kind, index);
                }
            }
            (RecordKind::Entry, None) => {
                if state.entries.append(index, position) {
                    self.supersede(group, kind, index);
                }
                self.slots.hold(group, kind, index);
            }
            (RecordKind::Local, _) => {
                if origin.is_none() {
                    let superseded = state.local_last >= index;
                    state.local_last = index;
                    if superseded {
                        self.supersede(group, kind, index);
                    }
                }
                self.slots.hold(group, kind, index);
            }
            (RecordKind::HardState | RecordKind::ConfState | RecordKind::Adopt, _) => {
                // What a copied adoption made void was void before it was copied.
                let voids = kind == RecordKind::Adopt && origin.is_none();
                if voids {
                    state.entries.truncate_from(index + 1);
                }
                let origin = origin.unwrap_or(here);
                let newest = state.states.get(&kind).is_none_or(|known| known.origin <= origin);
                if newest {
                    state.states.insert(kind, StateAt { record, origin, sequence: here.sequence });
                }
                if voids {
                    self.supersede(group, RecordKind::Entry, index + 1);
                }
            }
        }
    }

    fn supersede(&mut self, group: GroupId, kind: RecordKind, index: u64) {
        self.slots.supersede(group, kind, index);
        if let Some(hold) = self.old_holds.get_mut(&group) {
            hold.cap(kind, index);
        }
    }

    /// Returns true once: when the group needs nothing of old streams any more.
    pub fn release(&mut self, group: GroupId, through: Released) -> bool {
        self.slots.release(group, through);
        if let Some(state) = self.groups.get_mut(&group) {
            state.entries.release(through.entries);
        }
        let released = self.slots.released(group);
        let gone = |hold: &Hold| hold.is_released(released.entries, released.locals);
        self.old_holds.get(&group).is_some_and(gone) && self.old_holds.remove(&group).is_some()
    }

    /// The slots that can be freed now, and the states that must be copied out of them first.
    pub fn plan_reclaim(&self) -> Option<Reclaim> {
        if self.old_exist || matches!(self.phase, Phase::Ending | Phase::Closed | Phase::Failed(_)) {
            return None;
        }
        let head = self.slots.reclaimable(self.stream)?;
        let states = self.groups.values().flat_map(|group| group.states.values());
        let copies = states.filter(|state| state.sequence < head.sequence).map(|state| Queued {
            record: state.record.clone(),
            origin: Some(state.origin),
            replaces: None,
        });
        Some(Reclaim { head, copies: copies.collect() })
    }

    pub fn laggards(&self) -> Vec<GroupId> {
        if self.old_exist { self.old_holds.keys().copied().collect() } else { self.slots.laggards() }
    }
}

/// A batch whose buffer has gone to the device.
pub(super) struct PlannedDone {
    sequence: u64,
    items: Vec<Item>,
    places: Vec<(u32, Position)>,
}

impl Planned {
    /// Parts with the buffer.
    pub fn launch(self) -> (u64, IoBuf, PlannedDone) {
        let done = PlannedDone { sequence: self.header.sequence, items: self.items, places: self.places };
        (self.at, self.buf, done)
    }
}

impl PlannedDone {
    /// Whom to tell that the batch failed.
    pub fn waiters(self) -> impl Iterator<Item = Promise<Result<(), LogError>>> {
        self.items.into_iter().filter_map(|item| item.done)
    }
}
