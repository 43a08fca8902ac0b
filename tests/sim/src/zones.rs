//! The zones of a simulated device: what it refuses, and where write pointers stand after a power cut.
//!
//! It is crueller than a device may be: of two writes that are on their way to a zone at the same time the second one is
//! refused, since a device takes them in any order.

use crate::rng::Stream;
use cfs_seam::{DiskError, Zone, ZoneAction, ZoneState, Zones};
use std::ops::Range;

/// Status codes of zoned namespaces (ZNS Command Set Specification, 'Status Codes'), of type 1.
const ZONE_BOUNDARY: DiskError = DiskError::Nvme(0x1B8);
const ZONE_FULL: DiskError = DiskError::Nvme(0x1B9);
const ZONE_OFFLINE: DiskError = DiskError::Nvme(0x1BB);
const ZONE_INVALID_WRITE: DiskError = DiskError::Nvme(0x1BC);
const TOO_MANY_ACTIVE: DiskError = DiskError::Nvme(0x1BD);

/// Write pointers stand at multiples of it.
const BLOCK_BYTES: u64 = 4096;

#[derive(Clone, Copy)]
struct State {
    zone: Zone,
    /// What was written by writes that are over.
    completed_bytes: u64,
    /// The same when the last flush began that has ended.
    durable_bytes: u64,
    /// A write is on its way.
    in_flight: bool,
}

/// What the zones of a device are.
#[derive(Clone)]
pub struct ZoneStates {
    zones: Zones,
    states: Vec<State>,
    /// Times one was reset.
    pub resets: u64,
}

impl ZoneStates {
    pub fn new(zones: Zones) -> Self {
        let zone = Zone { state: ZoneState::Empty, written_bytes: 0 };
        let empty = State { zone, completed_bytes: 0, durable_bytes: 0, in_flight: false };
        ZoneStates { zones, states: vec![empty; usize::try_from(zones.count).expect("few")], resets: 0 }
    }

    pub fn zones(&self) -> Zones {
        self.zones
    }
    pub fn report(&self) -> Vec<Zone> {
        self.states.iter().map(|state| state.zone).collect()
    }
    fn at(&self, offset: u64) -> (usize, u64) {
        let zone = usize::try_from(offset / self.zones.stride_bytes).expect("few zones");
        (zone, offset % self.zones.stride_bytes)
    }
    fn active(&self) -> usize {
        self.states.iter().filter(|state| state.zone.state == ZoneState::Active).count()
    }
    fn has_room(&self) -> bool {
        self.zones.active_max.is_none_or(|most| self.active() < usize::try_from(most).expect("small"))
    }

    /// Whether a read lies in one zone.
    pub fn may_read(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        let (_, at) = self.at(offset);
        if at + bytes > self.zones.stride_bytes { Err(ZONE_BOUNDARY) } else { Ok(()) }
    }

    /// A write arrives.
    pub fn begin_write(&mut self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        let (zone, at) = self.at(offset);
        let (has_room, capacity) = (self.has_room(), self.zones.capacity_bytes);
        let state = &mut self.states[zone];
        match state.zone.state {
            ZoneState::Full => return Err(ZONE_FULL),
            ZoneState::Worn => return Err(ZONE_OFFLINE),
            ZoneState::Empty if !has_room => return Err(TOO_MANY_ACTIVE),
            ZoneState::Empty | ZoneState::Active => {}
        }
        if state.in_flight || at != state.zone.written_bytes {
            return Err(ZONE_INVALID_WRITE);
        }
        if at + bytes > capacity {
            return Err(ZONE_BOUNDARY);
        }
        state.in_flight = true;
        state.zone.written_bytes += bytes;
        let is_full = state.zone.written_bytes == capacity;
        state.zone.state = if is_full { ZoneState::Full } else { ZoneState::Active };
        Ok(())
    }
    /// It is over, or nobody will ever know.
    pub fn end_write(&mut self, offset: u64, is_durable: bool) {
        let (zone, _) = self.at(offset);
        let state = &mut self.states[zone];
        if std::mem::take(&mut state.in_flight) {
            state.completed_bytes = state.zone.written_bytes;
            state.durable_bytes = if is_durable { state.completed_bytes } else { state.durable_bytes };
        }
    }

    /// What a reset or a finish makes of a zone: the bytes that are gone.
    pub fn manage(&mut self, zone: u32, action: ZoneAction) -> Result<Option<Range<u64>>, DiskError> {
        let has_room = self.has_room();
        let start = u64::from(zone) * self.zones.stride_bytes;
        let state = self.states.get_mut(usize::try_from(zone).expect("small")).ok_or(DiskError::OutOfRange)?;
        match (state.zone.state, action) {
            (ZoneState::Worn, _) => Err(ZONE_OFFLINE),
            (ZoneState::Empty, ZoneAction::Finish) if !has_room => Err(TOO_MANY_ACTIVE),
            (_, ZoneAction::Finish) => {
                state.zone.state = ZoneState::Full;
                Ok(None)
            }
            (_, ZoneAction::Reset) => {
                let zone = Zone { state: ZoneState::Empty, written_bytes: 0 };
                *state = State { zone, completed_bytes: 0, durable_bytes: 0, in_flight: false };
                self.resets += 1;
                Ok(Some(start..start + self.zones.stride_bytes))
            }
        }
    }

    /// What a flush that begins now will cover.
    pub fn begin_flush(&self) -> Vec<u64> {
        self.states.iter().map(|state| state.completed_bytes).collect()
    }
    /// It is over.
    pub fn complete_flush(&mut self, covered: &[u64]) {
        for (state, covered) in self.states.iter_mut().zip(covered) {
            state.durable_bytes = state.durable_bytes.max(*covered).min(state.completed_bytes);
        }
    }

    /// The power is cut. Pointers stay where they are, in front of what is gone, or fall back to anywhere behind what was flushed; what
    /// lies behind them then is given.
    pub fn cut_power(&mut self, rng: &Stream) -> Vec<Range<u64>> {
        let stays = rng.chance(500_000);
        let mut gone = Vec::new();
        for (number, state) in (0..).zip(&mut self.states) {
            state.in_flight = false;
            let lost = state.zone.written_bytes - state.durable_bytes;
            if stays || lost == 0 || state.zone.state == ZoneState::Worn {
                // What is left of it is there for good.
                (state.completed_bytes, state.durable_bytes) = (state.zone.written_bytes, state.zone.written_bytes);
                continue;
            }
            state.zone.written_bytes = state.durable_bytes + rng.below(lost / BLOCK_BYTES + 1) * BLOCK_BYTES;
            (state.completed_bytes, state.durable_bytes) = (state.zone.written_bytes, state.zone.written_bytes);
            if state.zone.state == ZoneState::Active && state.zone.written_bytes == 0 {
                state.zone.state = ZoneState::Empty;
            }
            let start = number * self.zones.stride_bytes;
            gone.push(start + state.zone.written_bytes..start + self.zones.stride_bytes);
        }
        gone
    }
}
