//! A device of zones as a [`Disk`] (docs/decisions/0017-zones.md).
//!
//! The first zones are journals of what is written again in place: superblocks and anchors. Every other one is a log slot or
//! some regions, and is written in order. A write to the first byte of a zone resets it: whoever begins a zone has nothing in
//! it any more. A write further on waits until what was written before it in its zone has arrived; a gap is filled with
//! zeros. So whoever uses a zone calls `write` in the order of the offsets, and need not wait between.
//!
//! Invariants: one write is on its way to a zone; a zone is written by one core; no zone is reset that was not begun anew
//! or discarded whole.

mod journal;
mod record;

use crate::DeviceError;
use crate::layout::REGION_BYTES;
use cfs_seam::{
    Class, Disk, DiskError, DiskUsage, Durability, Geometry, Io, IoBuf, IoDone, Lifetime, Promise, Spawn, Zone,
    ZoneAction, ZoneState, ZonedDevice, Zones, Zoning, io, spawn,
};
use journal::{JOURNAL_ZONES, Journal};
pub use journal::{JOURNALS, ZONED_HEAD_BYTES};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Zones of the log and of regions, at least: 16 slots and four zones for each of two cores.
const ZONES_MIN: u32 = JOURNAL_ZONES + 16 + 8;
/// Zones that a core fills at a time at least: a journal, a log slot, a region. One more is for a start.
const ACTIVE_MIN: u32 = 4;
/// Zeros that fill a gap, of one write.
const FILL_BYTES: u64 = 1 << 20;

/// What is to be done to a zone, one after the other.
enum Step {
    Manage(u32, ZoneAction),
    Write { at: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime, promise: Option<Promise<IoDone>> },
}

/// A zone that this core fills.
struct Filling {
    /// From the zone's first byte: where the next write has to begin, or behind.
    next: u64,
    steps: VecDeque<Step>,
    /// A task works on the steps.
    busy: bool,
    failed: Option<DiskError>,
}

/// A write to the head.
struct Rewrite {
    offset: u64,
    buf: IoBuf,
    durability: Durability,
    promise: Promise<IoDone>,
}

struct Inner {
    device: Rc<dyn ZonedDevice>,
    tasks: Rc<dyn Spawn>,
    zones: Zones,
    zoning: Zoning,
    bytes: u64,
    journal: Journal,
    rewrites: RefCell<VecDeque<Rewrite>>,
    rewriting: Cell<bool>,
    filling: RefCell<BTreeMap<u32, Filling>>,
    /// The zone that the log fills.
    log_zone: Cell<Option<u32>>,
    /// Zones behind the head that were reset.
    resets: Cell<u64>,
}

struct ZonedDisk(Rc<Inner>);

/// What core `core` uses of a device: the device itself, or where that is made of zones what makes a [`Disk`] of it, which reads
/// the journals now. Refuses, in words, zones that are of no use.
pub async fn open_zones(disk: Rc<dyn Disk>, tasks: &Rc<dyn Spawn>, core: u16) -> Result<Rc<dyn Disk>, DeviceError> {
    let Some(device) = disk.clone().zoned() else { return Ok(disk) };
    let zones = device.zones();
    let zoning = zoning_of(&zones)?;
    if core >= JOURNALS {
        return Err(DeviceError::Zones { reason: "four cores at most can serve a device of zones" });
    }
    let failed = |(offset, source)| DeviceError::Read { offset, bytes: 1 << 20, source };
    let report = device.report().await.map_err(|error| failed((0, error)))?;
    let journal = Journal::open(device.clone(), core, &report).await.map_err(failed)?;
    let bytes = ZONED_HEAD_BYTES + u64::from(zones.count - JOURNAL_ZONES) * zoning.zone_bytes;
    let inner = Inner {
        device,
        tasks: tasks.clone(),
        zones,
        zoning,
        bytes,
        journal,
        rewrites: RefCell::default(),
        rewriting: Cell::new(false),
        filling: RefCell::default(),
        log_zone: Cell::new(None),
        resets: Cell::new(0),
    };
    Ok(Rc::new(ZonedDisk(Rc::new(inner))))
}

/// How zones are used.
fn zoning_of(zones: &Zones) -> Result<Zoning, DeviceError> {
    let refused = |reason| Err(DeviceError::Zones { reason });
    if zones.capacity_bytes < REGION_BYTES {
        return refused("a zone holds less than a region of 64 MiB");
    }
    if zones.count < ZONES_MIN {
        return refused("there are fewer than 32 zones");
    }
    if zones.active_max.is_some_and(|most| most < ACTIVE_MIN) {
        return refused("fewer than four zones may be open or active");
    }
    let zone_bytes = zones.capacity_bytes - zones.capacity_bytes % REGION_BYTES;
    Ok(Zoning { head_bytes: ZONED_HEAD_BYTES, zone_bytes, active_max: zones.active_max })
}

impl Inner {
    /// The zone that lies at an offset behind the head, and the place in it.
    fn locate(&self, offset: u64) -> (u32, u64) {
        let behind = offset - ZONED_HEAD_BYTES;
        let zone = u32::try_from(behind / self.zoning.zone_bytes).expect("checked against the device's bytes");
        (JOURNAL_ZONES + zone, behind % self.zoning.zone_bytes)
    }

    fn start_of(&self, zone: u32) -> u64 {
        u64::from(zone) * self.zones.stride_bytes
    }

    /// Whether a transfer lies on the device, in the head or in one zone.
    fn fits(&self, offset: u64, bytes: u64) -> bool {
        let Some(end) = offset.checked_add(bytes).filter(|end| *end <= self.bytes) else { return false };
        if offset < ZONED_HEAD_BYTES {
            end <= ZONED_HEAD_BYTES
        } else {
            self.locate(offset).1 + bytes <= self.zoning.zone_bytes
        }
    }

    async fn manage(&self, zone: u32, action: ZoneAction) -> Result<(), DiskError> {
        self.resets.set(self.resets.get() + u64::from(action == ZoneAction::Reset));
        self.device.manage(zone, action).await
    }

    /// Queues a write; Err where it is not in order.
    fn queue(&self, zone: u32, at: u64, write: Step, bytes: u64, is_log: bool) -> Result<(), Step> {
        let mut filling = self.filling.borrow_mut();
        if at == 0 {
            let mut steps = VecDeque::new();
            if is_log && let Some(before) = self.log_zone.replace(Some(zone)).filter(|before| *before != zone) {
                filling.remove(&before);
                steps.push_back(Step::Manage(before, ZoneAction::Finish));
            }
            steps.push_back(Step::Manage(zone, ZoneAction::Reset));
            if filling.get(&zone).is_some_and(|known| known.busy) {
                return Err(write);
            }
            filling.insert(zone, Filling { next: 0, steps, busy: false, failed: None });
        }
        let Some(known) = filling.get_mut(&zone).filter(|known| known.next <= at) else { return Err(write) };
        while known.next < at {
            let gap = (at - known.next).min(FILL_BYTES);
            let buf = IoBuf::zeroed(usize::try_from(gap).expect("a mebibyte"));
            let lifetime = if let Step::Write { lifetime, .. } = &write { *lifetime } else { Lifetime::Log };
            let (at, durability) = (known.next, Durability::Flush);
            known.steps.push_back(Step::Write { at, buf, durability, lifetime, promise: None });
            known.next += gap;
        }
        known.steps.push_back(write);
        known.next += bytes;
        if known.next == self.zoning.zone_bytes && known.next < self.zones.capacity_bytes {
            known.steps.push_back(Step::Manage(zone, ZoneAction::Finish));
        }
        Ok(())
    }
}

/// Works on the steps of a zone until there are none.
async fn fill(inner: Rc<Inner>, zone: u32) {
    loop {
        let (step, failed) = {
            let mut filling = inner.filling.borrow_mut();
            let Some(known) = filling.get_mut(&zone) else { return };
            let Some(step) = known.steps.pop_front() else {
                known.busy = false;
                if known.next == inner.zoning.zone_bytes {
                    filling.remove(&zone);
                }
                return;
            };
            (step, known.failed)
        };
        let result = match (step, failed) {
            (Step::Manage(other, action), None) => inner.manage(other, action).await,
            (Step::Manage(..), Some(error)) => Err(error),
            (Step::Write { buf, promise, .. }, Some(error)) => {
                if let Some(promise) = promise {
                    promise.complete(IoDone { result: Err(error), buf });
                }
                Err(error)
            }
            (Step::Write { at, buf, durability, lifetime, promise }, None) => {
                let done = inner.device.write(inner.start_of(zone) + at, buf, durability, lifetime).await;
                let result = done.result;
                if let Some(promise) = promise {
                    promise.complete(done);
                }
                result
            }
        };
        if let (Err(error), Some(known)) = (result, inner.filling.borrow_mut().get_mut(&zone)) {
            known.failed = Some(error);
        }
    }
}

/// Writes to the head one after the other.
async fn rewrite(inner: Rc<Inner>) {
    loop {
        let Some(Rewrite { offset, buf, durability, promise }) = inner.rewrites.borrow_mut().pop_front() else { break };
        let result = inner.journal.write(offset, &buf, durability).await;
        promise.complete(IoDone { result, buf });
    }
    inner.rewriting.set(false);
}

/// Resets the zones that lie wholly in a range, and finishes one whose end alone does.
async fn give_up(inner: Rc<Inner>, offset: u64, bytes: u64) -> Result<(), DiskError> {
    let report = inner.device.report().await?;
    let end = offset + bytes;
    for (zone, known) in (0..).zip(report).skip(usize::try_from(JOURNAL_ZONES).expect("few")) {
        let start = ZONED_HEAD_BYTES + u64::from(zone - JOURNAL_ZONES) * inner.zoning.zone_bytes;
        let covered = start.max(offset)..(start + inner.zoning.zone_bytes).min(end);
        if known.state == ZoneState::Empty || covered.is_empty() || covered.end < start + inner.zoning.zone_bytes {
            continue;
        }
        let action = if covered.start == start { ZoneAction::Reset } else { ZoneAction::Finish };
        inner.manage(zone, action).await?;
        inner.filling.borrow_mut().remove(&zone);
    }
    Ok(())
}

/// Finishes what an earlier process has begun.
async fn finish_left(inner: Rc<Inner>) -> Result<(), DiskError> {
    let report: Vec<Zone> = inner.device.report().await?;
    for (zone, known) in (0..).zip(report) {
        let is_ours = inner.journal.current() == Some(zone) || inner.filling.borrow().contains_key(&zone);
        if known.state == ZoneState::Active && !is_ours {
            inner.device.manage(zone, ZoneAction::Finish).await?;
        }
    }
    Ok(())
}

impl ZonedDisk {
    /// Has a task do something that takes several commands.
    fn task(&self, work: impl Future<Output = Result<(), DiskError>> + 'static) -> Io<Result<(), DiskError>> {
        let (promise, done) = io();
        let task = async move { promise.complete(work.await) };
        spawn(&self.0.tasks, Class::Foreground, task).detach();
        done
    }
}

fn length(buf: &IoBuf) -> u64 {
    u64::try_from(buf.len()).expect("a length fits 64 bits")
}

fn refused(buf: IoBuf, error: DiskError) -> Io<IoDone> {
    Io::ready(IoDone { result: Err(error), buf })
}

impl Disk for ZonedDisk {
    fn geometry(&self) -> Geometry {
        Geometry { bytes: self.0.bytes, zoning: Some(self.0.zoning), ..self.0.device.geometry() }
    }

    fn read(&self, offset: u64, mut buf: IoBuf) -> Io<IoDone> {
        if !self.0.fits(offset, length(&buf)) {
            return refused(buf, DiskError::OutOfRange);
        }
        if offset >= ZONED_HEAD_BYTES {
            let (zone, at) = self.0.locate(offset);
            return self.0.device.read(self.0.start_of(zone) + at, buf);
        }
        // What is not ours is shown as it is.
        if self.0.journal.is_foreign() {
            return self.0.device.read(offset, buf);
        }
        self.0.journal.read(offset, &mut buf);
        Io::ready(IoDone { result: Ok(()), buf })
    }

    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        let bytes = length(&buf);
        if !self.0.fits(offset, bytes) {
            return refused(buf, DiskError::OutOfRange);
        }
        let (promise, done) = io();
        if offset < ZONED_HEAD_BYTES {
            self.0.rewrites.borrow_mut().push_back(Rewrite { offset, buf, durability, promise });
            if !self.0.rewriting.replace(true) {
                spawn(&self.0.tasks, Class::Foreground, rewrite(self.0.clone())).detach();
            }
            return done;
        }
        let (zone, at) = self.0.locate(offset);
        let write = Step::Write { at, buf, durability, lifetime, promise: Some(promise) };
        if let Err(Step::Write { buf, .. }) = self.0.queue(zone, at, write, bytes, lifetime == Lifetime::Log) {
            return refused(buf, DiskError::OutOfOrder);
        }
        let begins =
            self.0.filling.borrow_mut().get_mut(&zone).is_some_and(|known| !std::mem::replace(&mut known.busy, true));
        if begins {
            spawn(&self.0.tasks, Class::Foreground, fill(self.0.clone(), zone)).detach();
        }
        done
    }

    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.0.device.flush()
    }

    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.0.bytes) {
            return Io::ready(Err(DiskError::OutOfRange));
        }
        self.task(give_up(self.0.clone(), offset, bytes))
    }

    fn settle(&self) -> Io<Result<(), DiskError>> {
        self.task(finish_left(self.0.clone()))
    }

    fn usage(&self) -> DiskUsage {
        DiskUsage { zone_resets: self.0.resets.get() + self.0.journal.resets(), ..self.0.device.usage() }
    }
}
