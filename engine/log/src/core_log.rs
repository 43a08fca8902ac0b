//! One core's open log.

mod queue;
mod state;
mod tasks;

use crate::old::Freed;
use crate::record::{Position, Record, RecordKind};
use crate::recover::{CorePart, EntryAt, Found, GroupLog};
use crate::signal::Signal;
use crate::slots::{Released, Slots, Urgency};
use crate::stream::StreamId;
use crate::{LogError, batch, payload};
use cfs_device::{AnchorId, Anchors, DeviceError, Superblock};
use cfs_seam::{Class, Clock, Disk, Geometry, Io, Spawn, TaskHandle, World, gather, io, spawn};
use cfs_types::{GroupId, Latencies, LogIndex};
use queue::{Item, Queued};
use state::{Phase, State};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Payloads read at once at a start, each at most a quarter of a slot.
const READS_AT_ONCE: usize = 64;

/// Sizes that follow from the slot.
#[derive(Clone, Copy)]
struct Limits {
    /// Longest payload.
    record_bytes: usize,
    /// Most record bytes that are written as one.
    item_bytes: usize,
    /// Longest batch.
    batch_bytes: usize,
    /// Record bytes that may wait.
    queue_bytes: usize,
}

impl Limits {
    fn of(slot_bytes: u64) -> Self {
        let slot = usize::try_from(slot_bytes).expect("at most 64 MiB");
        Limits {
            record_bytes: slot / 4,
            item_bytes: slot / 2 - batch::BATCH_HEADER_BYTES,
            batch_bytes: slot / 2,
            queue_bytes: slot * 2,
        }
    }
}

/// Figures of a log, for metrics. Times are of the seam's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Slots of this core, without those of old streams.
    pub slots_total: usize,
    /// Slots that entries can still take; the reserves are not counted.
    pub slots_free: usize,
    /// Slots that hold records.
    pub slots_live: usize,
    /// Record bytes that wait for the device.
    pub queued_bytes: usize,
    /// Limit of `queued_bytes`.
    pub queued_bytes_limit: usize,
    /// Streams of earlier starts that recovery found torn; core 0 has all of them.
    pub torn_streams: u64,
    /// Batches that are durable.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Their bytes on the device.
    pub bytes_written: u64,
    /// Times of their writes, which are their flushes too where the device writes through.
    pub writes: Latencies,
    /// Times of their flushes; none where the device writes through.
    pub flushes: Latencies,
}

struct Shared {
    disk: Rc<dyn Disk>,
    clock: Rc<dyn Clock>,
    tasks: Rc<dyn Spawn>,
    geometry: Geometry,
    superblock: Cell<Superblock>,
    anchors: Anchors,
    anchor: AnchorId,
    core: u16,
    cores: u16,
    limits: Limits,
    state: RefCell<State>,
    work: Signal,
    reclaim: Signal,
}

/// The log of one core, cheap to clone. Dropping the last handle stops it where it is, as a crash
/// would; [`CoreLog::close`] ends it.
#[derive(Clone)]
pub struct CoreLog {
    shared: Rc<Shared>,
    _tasks: Rc<[TaskHandle]>,
}

impl CoreLog {
    /// Begins the core's new stream, writes again what recovery could not prove to be durable, and
    /// returns what the log holds of the core's groups. Nothing may be executed and no vote be cast
    /// before. Once all cores are open, [`crate::OldStreams::settle`] follows.
    ///
    /// `LogError::Full`: the core has no two free slots; fewer cores may still open.
    pub async fn open(
        world: &World,
        disk: Rc<dyn Disk>,
        superblock: &Superblock,
        part: CorePart,
    ) -> Result<(CoreLog, BTreeMap<GroupId, GroupLog>), LogError> {
        let limits = Limits::of(superblock.layout.log_slot_bytes);
        let stream = StreamId { boot: part.boot, core: part.core.get(), salt: world.rng.next_u64() };
        let share = superblock.layout.log_slots / u64::from(part.cores);
        let share = usize::try_from(share).expect("fewer than 2^32 slots");
        let slots = Slots::new(part.free_slots, share).ok_or(LogError::Full)?;
        let anchors = Anchors::new(disk.clone(), superblock);
        let anchor = AnchorId::stream(part.anchor).expect("chosen among those");
        anchors.write(anchor, &slots.head(stream).encode()).await?;
        let mut state = State::new(stream, superblock.layout, limits, slots);
        state.old_holds = part.old_holds;
        state.old_exist = part.old_exist;
        state.usage.torn_streams = part.torn_streams;
        for (group, log) in &part.groups {
            let known = state.groups.entry(*group).or_default();
            for entry in &log.entries {
                known.entries.append(entry.index.get(), entry.position);
            }
            known.local_last = log.locals.last().map_or(0, |record| record.index.get());
        }
        let shared = Rc::new(Shared {
            geometry: disk.geometry(),
            disk,
            clock: world.clock.clone(),
            tasks: world.tasks.clone(),
            superblock: Cell::new(*superblock),
            anchors,
            anchor,
            core: part.core.get(),
            cores: part.cores,
            limits,
            state: RefCell::new(state),
            work: Signal::default(),
            reclaim: Signal::default(),
        });
        let writer = spawn(&world.tasks, Class::Foreground, tasks::write_batches(shared.clone()));
        let reclaimer = spawn(&world.tasks, Class::Background, tasks::reclaim_slots(shared.clone()));
        let log = CoreLog { shared, _tasks: Rc::new([writer, reclaimer]) };
        log.rewrite(part.rewrite).await?;
        Ok((log, part.groups))
    }

    /// Writes the records to the new stream, a bounded number of bytes at a time.
    async fn rewrite(&self, records: Vec<Found>) -> Result<(), LogError> {
        let mut copies = Vec::new();
        let mut bytes = 0;
        for found in records {
            let is_entry = found.kind == RecordKind::Entry;
            let payload = if is_entry {
                self.read_position(found.group, found.index, found.position).await?
            } else {
                found.payload
            }
            .into();
            let record = Record {
                group: found.group,
                kind: found.kind,
                epoch: found.epoch,
                term: found.term,
                index: found.index,
                payload,
            };
            let replaces = is_entry.then_some(found.position);
            let copy = Queued { record, origin: Some(found.origin), replaces };
            bytes += copy.bytes();
            copies.push(copy);
            if bytes >= self.shared.limits.item_bytes / 2 {
                bytes = 0;
                self.shared.append_copies(std::mem::take(&mut copies), Urgency::Boot).await?;
            }
        }
        self.shared.append_copies(copies, Urgency::Boot).await
    }

    /// Resolves when all records are on stable media, in the order of the calls. Records that fit
    /// half a slot together are durable all or none.
    ///
    /// While the log is full this waits; [`CoreLog::laggards`] says who must flush. Records of a
    /// call without an entry may then still be written, unless some of the same group wait before
    /// them. Refused at once: `QueueFull`, `RecordTooLong`, `Closed`, `Failed`. Panics where a
    /// group does not exist. Dropping the future does not take the records back.
    pub fn append(&self, records: Vec<Record>) -> Io<Result<(), LogError>> {
        self.append_as(records, None)
    }

    /// As [`CoreLog::append`], for the few records that a group writes before it can execute anything
    /// after a start: they may use what is kept for that. Otherwise a log that was full at a crash would
    /// stay full, since a group that is not up cannot release anything.
    pub fn append_at_start(&self, records: Vec<Record>) -> Io<Result<(), LogError>> {
        self.append_as(records, Some(Urgency::Boot))
    }

    fn append_as(&self, records: Vec<Record>, urgency: Option<Urgency>) -> Io<Result<(), LogError>> {
        if records.is_empty() {
            return Io::ready(Ok(()));
        }
        match self.enqueue(records, urgency) {
            Ok(done) => {
                self.shared.work.notify();
                done
            }
            Err(error) => Io::ready(Err(error)),
        }
    }

    fn enqueue(&self, records: Vec<Record>, urgency: Option<Urgency>) -> Result<Io<Result<(), LogError>>, LogError> {
        let limits = self.shared.limits;
        for record in &records {
            assert!(record.group.is_valid(), "no group {}", record.group);
            let bytes = record.payload.len();
            if bytes > limits.record_bytes {
                return Err(LogError::RecordTooLong { bytes, limit: limits.record_bytes });
            }
        }
        let mut state = self.shared.state.borrow_mut();
        if let Some(refusal) = state.refusal() {
            return Err(refusal);
        }
        if state.queue.bytes() >= limits.queue_bytes {
            return Err(LogError::QueueFull);
        }
        let queued = records.into_iter().map(|record| Queued { record, origin: None, replaces: None }).collect();
        let mut items = divide(queued, limits.item_bytes);
        let (promise, done) = io();
        items.last_mut().expect("at least one record").done = Some(promise);
        for mut item in items {
            item.urgency = urgency.unwrap_or(item.urgency);
            state.queue.push(item);
        }
        Ok(done)
    }

    /// Resolves when the queue takes records again, or the log has failed or was closed.
    pub fn wait_room(&self) -> Io<()> {
        let mut state = self.shared.state.borrow_mut();
        if state.queue.bytes() < self.shared.limits.queue_bytes || matches!(state.phase, Phase::Failed(_)) {
            return Io::ready(());
        }
        let (promise, room) = io();
        state.room.push(promise);
        room
    }

    /// Whether an append now is not refused for want of room. Others may take it before the next
    /// await: who waited for room asks again.
    pub fn has_room(&self) -> bool {
        let state = self.shared.state.borrow();
        state.queue.bytes() < self.shared.limits.queue_bytes || state.refusal().is_some()
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> u64 {
        self.shared.superblock.get().layout.log_slot_bytes
    }

    /// Longest payload of a record, bytes.
    pub fn record_bytes_max(&self) -> usize {
        self.shared.limits.record_bytes
    }

    /// The payload of an entry that is durable and not released; its checksum is verified. A retry
    /// is safe.
    pub async fn read_payload(&self, group: GroupId, index: LogIndex) -> Result<Vec<u8>, LogError> {
        let position = self.position(group, index).ok_or(LogError::NotFound { group, index })?;
        match self.read_position(group, index, position).await {
            // The entry went, or a copy replaced it, while the device was reading.
            Err(LogError::EntryDamaged { .. }) if self.position(group, index) != Some(position) => {
                let moved = self.position(group, index).ok_or(LogError::NotFound { group, index })?;
                self.read_position(group, index, moved).await
            }
            result => result,
        }
    }

    /// The payloads of entries that recovery found, in their order, many reads at a time. For the start:
    /// the entries must neither be released nor copied meanwhile.
    pub async fn read_payloads(&self, group: GroupId, entries: &[EntryAt]) -> Result<Vec<Vec<u8>>, LogError> {
        let reads = entries.iter().map(|entry| self.read_payload(group, entry.index));
        gather(reads, READS_AT_ONCE).await.into_iter().collect()
    }

    /// Part of a payload. The whole is read and verified. `NotFound` where the range ends beyond it.
    pub async fn read_payload_range(
        &self,
        group: GroupId,
        index: LogIndex,
        range: Range<usize>,
    ) -> Result<Vec<u8>, LogError> {
        let mut payload = self.read_payload(group, index).await?;
        if range.start > range.end || range.end > payload.len() {
            return Err(LogError::NotFound { group, index });
        }
        payload.truncate(range.end);
        Ok(payload.split_off(range.start))
    }

    fn position(&self, group: GroupId, index: LogIndex) -> Option<Position> {
        self.shared.state.borrow().groups.get(&group)?.entries.get(index.get())
    }

    async fn read_position(&self, group: GroupId, index: LogIndex, position: Position) -> Result<Vec<u8>, LogError> {
        payload::read(&*self.shared.disk, group, index, position).await
    }

    /// The group's entries up to `entries_through` and local records up to `locals_through` are
    /// not needed any more: its own durable state covers them. States need no release.
    ///
    /// True at most once a group: it needs nothing of the old streams any more, tell
    /// [`crate::OldStreams::release`].
    pub fn release(&self, group: GroupId, entries_through: LogIndex, locals_through: u64) -> bool {
        let through = Released { entries: entries_through.get(), locals: locals_through };
        let gone = self.shared.state.borrow_mut().release(group, through);
        self.shared.reclaim.notify();
        gone
    }

    /// Slots that [`crate::OldStreams`] freed; this core takes its own.
    pub fn take_freed(&self, freed: &Freed) {
        {
            let mut state = self.shared.state.borrow_mut();
            let (core, cores) = (u32::from(self.shared.core), u32::from(self.shared.cores));
            state.slots.add(freed.slots.iter().copied().filter(|slot| slot % cores == core));
            if freed.all_gone {
                state.old_exist = false;
            }
        }
        self.shared.work.notify();
        self.shared.reclaim.notify();
    }

    /// Who must flush so that the oldest slots come free: groups of this core with records in old
    /// streams as long as there are any, then the holders of this stream's oldest slot.
    pub fn laggards(&self) -> Vec<GroupId> {
        self.shared.state.borrow().laggards()
    }

    /// Whether streams of earlier starts are left: until all are gone no slot of this stream can be
    /// reclaimed, so their groups should flush soon.
    pub fn has_old_streams(&self) -> bool {
        self.shared.state.borrow().old_exist
    }

    /// Figures for metrics, and for deciding when laggards must flush.
    pub fn usage(&self) -> Usage {
        let state = self.shared.state.borrow();
        Usage {
            slots_total: state.slots.total(),
            slots_free: state.slots.free(),
            slots_live: state.slots.live(),
            queued_bytes: state.queue.bytes(),
            queued_bytes_limit: self.shared.limits.queue_bytes,
            ..state.usage
        }
    }

    /// Whether the log has failed for good; the process must stop.
    pub fn failed(&self) -> Option<LogError> {
        match &self.shared.state.borrow().phase {
            Phase::Failed(error) => Some(LogError::Failed(error.clone())),
            Phase::Open | Phase::Closing | Phase::Ending | Phase::Closed => None,
        }
    }

    /// The device has failed elsewhere: the log ends as if it had failed here, and the device is taken
    /// out of service.
    pub async fn fail(&self, error: DeviceError) {
        self.shared.fail(error).await;
    }

    /// The superblock of the device has changed, or is about to: a device that fails is marked in this one.
    pub fn set_superblock(&self, superblock: Superblock) {
        self.shared.superblock.set(superblock);
    }

    /// Resolves when the log fails, before anybody who waits for an append is told; never otherwise.
    pub fn wait_failed(&self) -> Io<()> {
        let mut state = self.shared.state.borrow_mut();
        if matches!(state.phase, Phase::Failed(_)) {
            return Io::ready(());
        }
        let (promise, failed) = io();
        state.watchers.push(promise);
        failed
    }

    /// Resolves when the log has failed and its device is out of service: now the process may stop. Never
    /// otherwise.
    pub fn wait_marked(&self) -> Io<()> {
        let mut state = self.shared.state.borrow_mut();
        if state.is_marked {
            return Io::ready(());
        }
        let (promise, marked) = io();
        state.mark_watchers.push(promise);
        marked
    }

    /// Writes out what waits and ends the stream, so that damage of its last batch loses nothing, and has
    /// its anchor say where it ended, so that no later start takes a lost tail for a crash.
    /// `Full`: everything acknowledged is durable, but there was no room to end the stream.
    pub async fn close(&self) -> Result<(), LogError> {
        let done = {
            let mut state = self.shared.state.borrow_mut();
            match state.phase {
                Phase::Open => state.phase = Phase::Closing,
                Phase::Closing | Phase::Ending => {}
                Phase::Closed | Phase::Failed(_) => return tasks::close_answer(&state.phase, state.ended()),
            }
            let (promise, done) = io();
            state.closers.push(promise);
            done
        };
        self.shared.work.notify();
        done.await
    }
}

/// Groups records into items of at most `item_bytes`.
fn divide(records: Vec<Queued>, item_bytes: usize) -> Vec<Item> {
    let mut items = Vec::new();
    let mut current = Vec::new();
    let mut bytes = 0;
    for queued in records {
        if bytes + queued.bytes() > item_bytes && !current.is_empty() {
            items.push(Item::new(std::mem::take(&mut current)));
            bytes = 0;
        }
        bytes += queued.bytes();
        current.push(queued);
    }
    if !current.is_empty() {
        items.push(Item::new(current));
    }
    items
}
