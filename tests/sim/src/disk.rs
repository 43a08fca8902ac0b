//! Devices: `cfs_seam::Disk` over a [`Media`], with faults and with or without delay.

use crate::faults::{DiskFaults, Injected};
use crate::media::{Media, SECTOR_BYTES, WriteId};
use crate::rng::Stream;
use crate::timeline::Life;
use crate::zones::ZoneStates;
use cfs_seam::{
    Disk, DiskError, Durability, Geometry, Io, IoBuf, IoDone, Lifetime, World, Zone, ZoneAction, ZonedDevice, Zones,
    io, sleep,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Linux' EIO, which a device answers when it fails.
const EIO: i32 = 5;
/// How much longer a slow operation takes: garbage collection inside the device.
const SLOWDOWN: u64 = 50;

/// What the handles of one device share.
struct Device {
    media: RefCell<Media>,
    faults: Cell<DiskFaults>,
    rng: Stream,
    fail_flushes: Cell<u32>,
    /// The machine whose flush failed.
    poisoned: RefCell<Option<Life>>,
    /// Sectors that cannot be read until they are written.
    unreadable: RefCell<BTreeSet<u64>>,
    injected: Cell<Injected>,
    /// Bytes that are not what they should be, or were not for a while.
    damaged: RefCell<Vec<Range<u64>>>,
    operations: Cell<u64>,
    /// Where the device is made of zones.
    zones: Option<RefCell<ZoneStates>>,
}

/// Runs a completion after a delay in nanoseconds, or never, if its machine is gone by then.
pub(crate) type Defer = Rc<dyn Fn(u64, Box<dyn FnOnce()>)>;

/// A device in memory that outlives whoever uses it. Used as a `Disk` it completes every
/// operation at once; [`MemoryDisk::attach`] gives operations that take time and overtake each
/// other. Clones are the same device.
#[derive(Clone)]
pub struct MemoryDisk(Rc<Device>);

/// A sound device of `bytes`, zero-filled.
pub fn disk(bytes: u64) -> MemoryDisk {
    MemoryDisk::new(bytes, DiskFaults::default(), 0)
}

impl MemoryDisk {
    /// A device whose faults are drawn from `seed`.
    pub fn new(bytes: u64, faults: DiskFaults, seed: u64) -> MemoryDisk {
        let rng = Stream::new(seed);
        let litter = faults.litter.then(|| rng.next());
        Self::from_media(Media::new(bytes, litter), faults, rng, None)
    }

    /// A device of zones, all empty.
    pub fn with_zones(zones: Zones, faults: DiskFaults, seed: u64) -> MemoryDisk {
        let bytes = u64::from(zones.count) * zones.stride_bytes;
        Self::from_media(Media::new(bytes, None), faults, Stream::new(seed), Some(ZoneStates::new(zones)))
    }

    fn from_media(media: Media, faults: DiskFaults, rng: Stream, zones: Option<ZoneStates>) -> MemoryDisk {
        MemoryDisk(Rc::new(Device {
            media: RefCell::new(media),
            faults: Cell::new(faults),
            rng,
            fail_flushes: Cell::new(0),
            poisoned: RefCell::default(),
            unreadable: RefCell::default(),
            injected: Cell::default(),
            damaged: RefCell::default(),
            operations: Cell::new(0),
            zones: zones.map(RefCell::new),
        }))
    }

    /// What a power cut now leaves, as a new device; this one goes on as if nothing happened. Of
    /// what is not flushed, `seed` decides for each sector.
    pub fn crash(&self, seed: u64) -> MemoryDisk {
        let rng = Stream::new(seed);
        let mut media = self.0.media.borrow().clone();
        media.cut_power(&rng);
        let mut zones = self.0.zones.as_ref().map(|zones| zones.borrow().clone());
        zones.iter_mut().flat_map(|zones| zones.cut_power(&rng)).for_each(|gone| media.erase(&gone));
        Self::from_media(media, self.0.faults.get(), rng, zones)
    }

    /// This device as the core of `world` sees it: operations take a random time of its virtual
    /// clock and complete in any order. What is in flight when `world` goes stays undecided.
    pub fn attach(&self, world: &World) -> Rc<dyn Disk> {
        let pace = Stream::new(world.rng.next_u64());
        let world = world.clone();
        let defer: Defer = Rc::new(move |delay, complete| {
            let clock = world.clock.clone();
            let task = async move {
                sleep(&clock, Duration::from_nanos(delay)).await;
                complete();
            };
            cfs_seam::spawn(&world.tasks, cfs_seam::Class::Foreground, task).detach();
        });
        self.deferred(Life::begin(), pace, defer)
    }

    /// A handle whose completions go through `defer` after a time drawn from `pace`, and which is
    /// dead once `life` is over.
    pub(crate) fn deferred(&self, life: Life, pace: Stream, defer: Defer) -> Rc<dyn Disk> {
        Rc::new(Handle { disk: self.clone(), life, pace, defer })
    }

    /// Replaces the faults from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.0.faults.set(faults);
    }

    /// Lets the next `count` flushes fail.
    pub fn fail_flushes(&self, count: u32) {
        self.0.fail_flushes.set(count);
    }

    /// Inverts one bit of the byte at `offset`.
    pub fn flip_bit(&self, offset: u64, bit: u8) {
        self.0.media.borrow_mut().flip_bit(offset, bit);
    }

    /// Flips a bit of some sector in use, from `damage_from` on.
    pub fn rot(&self) {
        let device = &self.0;
        let found = device.media.borrow().any_in_use(device.faults.get().damage_from, &device.rng);
        found.iter().for_each(|block| device.rot(block.clone()));
    }

    /// What went wrong so far.
    pub fn injected(&self) -> Injected {
        self.0.injected.get()
    }

    /// Whether a byte of the range was ever unreadable, rotten, lost or overwritten by what was for elsewhere.
    pub fn was_damaged(&self, range: Range<u64>) -> bool {
        self.0.damaged.borrow().iter().any(|bad| bad.start < range.end && range.start < bad.end)
    }

    /// `len` bytes at `offset` as a read would answer, without faults.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.media.borrow().read(offset, &mut bytes);
        bytes
    }

    /// Overwrites bytes durably, whatever they are; both numbers are multiples of 512.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let mut media = self.0.media.borrow_mut();
        let id = media.begin_write(offset, bytes);
        media.complete_write(id, true);
    }

    /// 512-byte sectors that a power cut may still lose: 0 right after a flush.
    pub fn unflushed_sectors(&self) -> usize {
        self.0.media.borrow().unflushed_sectors()
    }

    /// Operations begun so far: lets a test cut the power at each in turn.
    pub fn operations(&self) -> u64 {
        self.0.operations.get()
    }

    /// A number of the device's own stream.
    pub(crate) fn draw(&self) -> u64 {
        self.0.rng.next()
    }

    /// Cuts the power in place.
    pub(crate) fn cut_power(&self) {
        let mut media = self.0.media.borrow_mut();
        media.cut_power(&self.0.rng);
        let gone = self.0.zones.iter().flat_map(|zones| zones.borrow_mut().cut_power(&self.0.rng));
        gone.for_each(|range| media.erase(&range));
    }

    /// Its zones as they are, and how often one was reset, where it has any.
    pub fn zone_states(&self) -> Option<(Vec<Zone>, u64)> {
        self.0.zones.as_ref().map(|zones| (zones.borrow().report(), zones.borrow().resets))
    }

    fn immediate(&self) -> Handle {
        let defer: Defer = Rc::new(|_, complete| complete());
        Handle { disk: self.clone(), life: Life::begin(), pace: Stream::new(0), defer }
    }
}

/// A write that has begun; dropped before it ends, it is left to chance.
struct InFlight {
    device: Rc<Device>,
    id: WriteId,
    range: Range<u64>,
}

impl InFlight {
    fn end(&self, durability: Durability) -> Result<(), DiskError> {
        let faults = self.device.faults.get();
        let mut media = self.device.media.borrow_mut();
        if self.device.rng.chance(faults.write_error_per_million) {
            self.device.count(|injected| injected.write_errors += 1);
            media.fail_write(self.id, &self.device.rng);
            return Err(DiskError::Device(EIO));
        }
        if self.device.happens(faults.lost_per_million, &self.range) {
            self.device.count(|injected| injected.lost += 1);
            self.device.damaged.borrow_mut().push(self.range.clone());
            media.forget_write(self.id);
            return Ok(());
        }
        let sectors = sectors(&self.range);
        self.device.unreadable.borrow_mut().retain(|sector| !sectors.contains(sector));
        let is_durable = durability == Durability::Through || !faults.volatile_cache;
        media.complete_write(self.id, is_durable);
        self.device.zones.iter().for_each(|zones| zones.borrow_mut().end_write(self.range.start, is_durable));
        Ok(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.device.media.borrow_mut().abandon_write(self.id, &self.device.rng);
        self.device.zones.iter().for_each(|zones| zones.borrow_mut().end_write(self.range.start, false));
    }
}

/// The way one core reaches a device.
struct Handle {
    disk: MemoryDisk,
    /// Of the machine that uses it: afterwards nothing reaches the device and nothing completes.
    life: Life,
    pace: Stream,
    defer: Defer,
}

impl Handle {
    /// Counts an operation and ends it with `complete` after a random time.
    fn later(&self, complete: impl FnOnce() + 'static) {
        let device = &self.disk.0;
        device.operations.set(device.operations.get() + 1);
        let faults = device.faults.get();
        let nanos = self.pace.between(faults.latency_ns.0, faults.latency_ns.1);
        let factor = if self.pace.chance(faults.slow_per_million) { SLOWDOWN } else { 1 };
        (self.defer)(nanos * factor, Box::new(complete));
    }

    /// Panics on a misaligned request: that is a bug of the caller. False beyond the end.
    fn check(&self, offset: u64, len: u64) -> bool {
        let block = u64::from(self.disk.0.faults.get().block_bytes);
        let aligned = offset.is_multiple_of(block) && len.is_multiple_of(block);
        assert!(aligned, "{len} bytes at {offset} are not whole blocks of {block}");
        self.disk.0.media.borrow().contains(offset, len)
    }
}

fn length(buf: &IoBuf) -> u64 {
    u64::try_from(buf.len()).expect("a length fits 64 bits")
}

fn sectors(range: &Range<u64>) -> Range<u64> {
    let bytes = u64::try_from(SECTOR_BYTES).expect("small");
    range.start / bytes..range.end.div_ceil(bytes)
}

impl Device {
    fn count(&self, one: impl FnOnce(&mut Injected)) {
        let mut injected = self.injected.get();
        one(&mut injected);
        self.injected.set(injected);
    }

    /// Whether a fault that may do damage happens to a range. Draws nothing where it never does.
    fn happens(&self, per_million: u32, range: &Range<u64>) -> bool {
        per_million > 0 && range.start >= self.faults.get().damage_from && self.rng.chance(per_million)
    }

    fn rot(&self, range: Range<u64>) {
        let at = range.start + self.rng.below(range.end - range.start);
        self.media.borrow_mut().flip_bit(at, u8::try_from(self.rng.below(8)).expect("below 8"));
        self.count(|injected| injected.rotten += 1);
        self.damaged.borrow_mut().push(at..at + 1);
    }

    fn read(&self, offset: u64, buf: &mut IoBuf) -> Result<(), DiskError> {
        let faults = self.faults.get();
        let range = offset..offset + length(buf);
        if self.rng.chance(faults.read_error_per_million) {
            self.count(|injected| injected.read_errors += 1);
            return Err(DiskError::Device(EIO));
        }
        if self.happens(faults.unreadable_per_million, &range) {
            let sectors = sectors(&range);
            let sector = sectors.start + self.rng.below(sectors.end - sectors.start);
            self.unreadable.borrow_mut().insert(sector);
            self.damaged.borrow_mut().push(range.clone());
        }
        if self.unreadable.borrow().range(sectors(&range)).next().is_some() {
            self.count(|injected| injected.unreadable += 1);
            return Err(DiskError::Device(EIO));
        }
        // The draw is part of what a seed means.
        if self.rng.chance(faults.rot_per_million) && offset >= faults.damage_from {
            self.rot(range);
        }
        self.media.borrow().read(offset, buf);
        Ok(())
    }

    /// Where a write really goes: half of those that go astray meet something that is in use.
    fn target(&self, offset: u64, len: u64) -> u64 {
        let faults = self.faults.get();
        if !self.rng.chance(faults.misdirect_per_million) || offset < faults.damage_from {
            return offset;
        }
        let block = u64::from(faults.block_bytes);
        let media = self.media.borrow();
        let first = faults.damage_from.div_ceil(block);
        let places = ((media.bytes() - len) / block + 1).saturating_sub(first);
        let in_use = self.rng.next().is_multiple_of(2).then(|| media.any_in_use(faults.damage_from, &self.rng));
        let met = in_use.flatten().map(|found| found.start).filter(|at| media.contains(*at, len));
        let target = met.unwrap_or_else(|| (first + self.rng.below(places)) * block);
        if target != offset {
            self.count(|injected| injected.misdirected += 1);
            self.damaged.borrow_mut().extend([offset..offset + len, target..target + len]);
        }
        target
    }

    fn flush_fails(&self, life: &Life) -> bool {
        let faults = self.faults.get();
        if self.poisoned.borrow().as_ref().is_some_and(|failed| failed.is(life)) {
            return true;
        }
        let asked = self.fail_flushes.get();
        self.fail_flushes.set(asked.saturating_sub(1));
        let fails = asked > 0 || self.rng.chance(faults.flush_error_per_million);
        if fails {
            self.count(|injected| injected.flush_errors += 1);
            *self.poisoned.borrow_mut() = faults.failed_flush_sticks.then(|| life.clone());
        }
        fails
    }
}

impl Disk for Handle {
    fn geometry(&self) -> Geometry {
        let faults = self.disk.0.faults.get();
        Geometry {
            bytes: self.disk.0.media.borrow().bytes(),
            block_bytes: faults.block_bytes,
            volatile_cache: faults.volatile_cache,
            fua: faults.fua,
            zoning: None,
        }
    }

    fn read(&self, offset: u64, mut buf: IoBuf) -> Io<IoDone> {
        if !self.check(offset, length(&buf)) {
            return Io::ready(IoDone { result: Err(DiskError::OutOfRange), buf });
        }
        let (promise, done) = io();
        if self.life.is_over() {
            return done;
        }
        let device = self.disk.0.clone();
        let refused = device.zones.as_ref().and_then(|zones| zones.borrow().may_read(offset, length(&buf)).err());
        self.later(move || {
            let result = refused.map_or_else(|| device.read(offset, &mut buf), Err);
            promise.complete(IoDone { result, buf });
        });
        done
    }

    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, _: Lifetime) -> Io<IoDone> {
        if !self.check(offset, length(&buf)) {
            return Io::ready(IoDone { result: Err(DiskError::OutOfRange), buf });
        }
        let (promise, done) = io();
        if self.life.is_over() {
            return done;
        }
        let device = self.disk.0.clone();
        let refused =
            device.zones.as_ref().and_then(|zones| zones.borrow_mut().begin_write(offset, length(&buf)).err());
        if let Some(error) = refused {
            return Io::ready(IoDone { result: Err(error), buf });
        }
        let target = device.target(offset, length(&buf));
        let id = device.media.borrow_mut().begin_write(target, &buf);
        let write = InFlight { device, id, range: target..target + length(&buf) };
        self.later(move || promise.complete(IoDone { result: write.end(durability), buf }));
        done
    }

    fn flush(&self) -> Io<Result<(), DiskError>> {
        let (promise, done) = io();
        if self.life.is_over() {
            return done;
        }
        let device = self.disk.0.clone();
        let mark = device.media.borrow().begin_flush();
        let pointers = device.zones.as_ref().map(|zones| zones.borrow().begin_flush());
        let life = self.life.clone();
        self.later(move || {
            if device.flush_fails(&life) {
                device.media.borrow_mut().lose_cache(&device.rng);
                return promise.complete(Err(DiskError::Device(EIO)));
            }
            if !device.faults.get().flushes_lie {
                device.media.borrow_mut().complete_flush(mark);
                if let (Some(zones), Some(pointers)) = (&device.zones, &pointers) {
                    zones.borrow_mut().complete_flush(pointers);
                }
            }
            promise.complete(Ok(()));
        });
        done
    }

    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        if !self.check(offset, bytes) {
            return Io::ready(Err(DiskError::OutOfRange));
        }
        if self.disk.0.zones.is_some() {
            return Io::ready(Err(DiskError::NotSupported));
        }
        let (promise, done) = io();
        if self.life.is_over() {
            return done;
        }
        let device = self.disk.0.clone();
        self.later(move || {
            device.media.borrow_mut().discard(offset, bytes, &device.rng);
            promise.complete(Ok(()));
        });
        done
    }

    fn zoned(self: Rc<Self>) -> Option<Rc<dyn ZonedDevice>> {
        if self.disk.0.zones.is_some() { Some(self) } else { None }
    }
}

impl ZonedDevice for Handle {
    fn zones(&self) -> Zones {
        self.disk.0.zones.as_ref().expect("only a device of zones is one").borrow().zones()
    }

    fn report(&self) -> Io<Result<Vec<Zone>, DiskError>> {
        let (promise, done) = io();
        if self.life.is_over() {
            return done;
        }
        let device = self.disk.0.clone();
        self.later(move || promise.complete(Ok(device.zones.as_ref().expect("it has zones").borrow().report())));
        done
    }

    fn manage(&self, zone: u32, action: ZoneAction) -> Io<Result<(), DiskError>> {
        let (promise, done) = io();
        if self.life.is_over() {
            return done;
        }
        let device = self.disk.0.clone();
        self.later(move || {
            let gone = device.zones.as_ref().expect("it has zones").borrow_mut().manage(zone, action);
            promise.complete(gone.map(|range| range.iter().for_each(|range| device.media.borrow_mut().erase(range))));
        });
        done
    }
}

impl Disk for MemoryDisk {
    fn geometry(&self) -> Geometry {
        self.immediate().geometry()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        self.immediate().read(offset, buf)
    }
    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        self.immediate().write(offset, buf, durability, lifetime)
    }
    fn flush(&self) -> Io<Result<(), DiskError>> {
        self.immediate().flush()
    }
    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        self.immediate().discard(offset, bytes)
    }
    fn zoned(self: Rc<Self>) -> Option<Rc<dyn ZonedDevice>> {
        Rc::new(self.immediate()).zoned()
    }
}

#[cfg(test)]
mod tests;
