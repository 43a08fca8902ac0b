//! A device of zones as it is, below [`Disk`]: `engine/device` makes a [`Disk`] of it.

use crate::{Disk, DiskError, Io};

/// The zones of a device, all alike, one after the other from its first byte on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zones {
    /// How many.
    pub count: u32,
    /// From the first byte of one to that of the next.
    pub stride_bytes: u64,
    /// Bytes of each that can be written, from its first one on.
    pub capacity_bytes: u64,
    /// So many may be written to without being full, at most: the device's limits of open and of active zones. None: no limit.
    pub active_max: Option<u32>,
}

/// What a zone is. An open or closed one takes resources of which the device has few.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZoneState {
    /// Nothing was written since its last reset.
    Empty,
    /// It is being written.
    Active,
    /// Nothing can be written before a reset.
    Full,
    /// It can never be written again.
    Worn,
}

/// A zone as the device reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zone {
    /// What it is.
    pub state: ZoneState,
    /// The write pointer, from the zone's first byte; no meaning where the zone is full or worn. After a power cut it may
    /// stand behind bytes that are not there.
    pub written_bytes: u64,
}

/// What can be done to a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZoneAction {
    /// It is full from now on, and keeps what it has.
    Finish,
    /// It is empty from now on.
    Reset,
}

/// A device that takes a write only where the last one in its zone ended. Nothing is durable before the next flush but what
/// was written through; a reset is durable when it completes.
pub trait ZonedDevice: Disk {
    /// What zones it has.
    fn zones(&self) -> Zones;
    /// All of them, as they are now.
    fn report(&self) -> Io<Result<Vec<Zone>, DiskError>>;
    /// Does something to one. What it is already it stays, without an error.
    fn manage(&self, zone: u32, action: ZoneAction) -> Io<Result<(), DiskError>>;
}
