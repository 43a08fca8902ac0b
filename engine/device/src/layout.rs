//! Where the areas of a device lie: derived once at format, kept in the superblock, checked on
//! every open.

use crate::{DeviceError, ZONED_HEAD_BYTES};
use cfs_seam::Zoning;
use cfs_types::GroupId;
use std::ops::Range;

const MIB: u64 = 1 << 20;
/// First byte of the anchors.
pub const ANCHORS_AT: u64 = MIB;
/// Anchor entries of a device.
pub const ANCHOR_ENTRIES: u16 = 512;
/// One of the two copies of an entry.
pub const ANCHOR_COPY_BYTES: u64 = 16 << 10;
/// First anchor entry of log streams; those below belong to groups.
pub(crate) const STREAM_ENTRIES_FROM: u16 = 384;
/// The anchor entry of the list of a node's devices.
pub(crate) const MEMBERS_ENTRY: u16 = 257;
/// Log streams that a device can hold at a time.
pub const STREAMS_MAX: u16 = ANCHOR_ENTRIES - STREAM_ENTRIES_FROM;
/// First byte of the log area.
pub const LOG_AT: u64 = ANCHORS_AT + ANCHOR_ENTRIES as u64 * 2 * ANCHOR_COPY_BYTES;
/// Usual size of a log slot.
pub const LOG_SLOT_BYTES: u64 = 4 * MIB;
/// Size of a log slot where the area would have fewer than [`LOG_SLOTS_WANTED`] of the others.
const LOG_SLOT_BYTES_SMALL: u64 = MIB;
/// Each core needs several slots (`engine/log`).
const LOG_SLOTS_WANTED: u64 = 64;
/// Smallest log slot: 16 blocks.
pub const LOG_SLOT_BYTES_MIN: u64 = 64 << 10;
/// Region size and alignment.
pub const REGION_BYTES: u64 = 64 * MIB;
/// Smallest device: anchors, the smallest log area and a few regions.
pub const DEVICE_BYTES_MIN: u64 = 256 * MIB;
const LOG_BYTES_MIN: u64 = 32 * MIB;
const LOG_BYTES_MAX: u64 = 1024 * MIB;
/// Zones of the log on a device of zones, and their share.
const LOG_ZONES_MIN: u64 = 16;
const LOG_ZONES_MAX: u64 = 32;
const LOG_ZONES_SHARE: u64 = 4;
/// The log area's share of the device.
const LOG_SHARE: u64 = 16;

/// Generations of superblocks and anchors: one of a damaged device that could not rise is refused.
pub(crate) const GENERATIONS: Range<u64> = 1..1 << 63;

const _: () = assert!(LOG_AT == 17 * MIB);
const _: () = assert!(GroupId::COUNT <= MEMBERS_ENTRY as usize && MEMBERS_ENTRY < STREAM_ENTRIES_FROM);

/// Offsets and sizes in bytes. A value of this type has passed [`Layout::check`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Bytes of the device that are laid out.
    pub device_bytes: u64,
    /// First byte of the anchors.
    pub anchors_at: u64,
    /// First byte of the log area.
    pub log_at: u64,
    /// Bytes of a log slot.
    pub log_slot_bytes: u64,
    /// Slots of the log area.
    pub log_slots: u64,
    /// First byte of the regions.
    pub regions_at: u64,
    /// Bytes of a region.
    pub region_bytes: u64,
    /// Regions of the device.
    pub regions: u64,
    /// Bytes of a zone, of which each is a log slot or some regions; 0 where the device has no zones.
    pub zone_bytes: u64,
}

impl Layout {
    /// The layout of a device of `device_bytes`. The log area gets `log_bytes`, or else a sixteenth,
    /// 32 MiB to 1 GiB, and what the alignment of the regions leaves over.
    pub fn derive(device_bytes: u64, log_slot_bytes: Option<u64>, log_bytes: Option<u64>) -> Result<Self, DeviceError> {
        if device_bytes < DEVICE_BYTES_MIN {
            return Err(DeviceError::TooSmall { actual: device_bytes, needed: DEVICE_BYTES_MIN });
        }
        let share = log_bytes.unwrap_or((device_bytes / LOG_SHARE).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX));
        if share > device_bytes / 2 {
            return Err(DeviceError::BadOption { reason: "the log area takes more than half of the device" });
        }
        let regions_at = (LOG_AT + share).next_multiple_of(REGION_BYTES);
        let log_bytes = log_bytes.unwrap_or(regions_at - LOG_AT);
        let few = log_bytes / LOG_SLOT_BYTES < LOG_SLOTS_WANTED;
        let log_slot_bytes = log_slot_bytes.unwrap_or(if few { LOG_SLOT_BYTES_SMALL } else { LOG_SLOT_BYTES });
        let layout = Layout {
            device_bytes,
            anchors_at: ANCHORS_AT,
            log_at: LOG_AT,
            log_slot_bytes,
            log_slots: log_bytes / log_slot_bytes.max(1),
            regions_at,
            region_bytes: REGION_BYTES,
            regions: (device_bytes - regions_at) / REGION_BYTES,
            zone_bytes: 0,
        };
        if layout.log_slots == 0 {
            return Err(DeviceError::BadLayout { reason: "the log area is shorter than a slot" });
        }
        layout.check()?;
        Ok(layout)
    }

    /// The layout of a device of zones. Its log has a quarter of them, 16 to 32, of each of which a slot is the first 64 MiB; the others
    /// hold regions.
    pub fn of_zones(device_bytes: u64, zoning: Zoning, log_slot_bytes: Option<u64>) -> Result<Self, DeviceError> {
        let zones = device_bytes.saturating_sub(zoning.head_bytes) / zoning.zone_bytes;
        let log_slots = (zones / LOG_ZONES_SHARE).clamp(LOG_ZONES_MIN, LOG_ZONES_MAX);
        let regions = zones.saturating_sub(log_slots) * (zoning.zone_bytes / REGION_BYTES);
        let layout = Layout {
            device_bytes,
            anchors_at: ANCHORS_AT,
            log_at: zoning.head_bytes,
            log_slot_bytes: log_slot_bytes.unwrap_or(REGION_BYTES),
            log_slots,
            regions_at: zoning.head_bytes + log_slots * zoning.zone_bytes,
            region_bytes: REGION_BYTES,
            regions,
            zone_bytes: zoning.zone_bytes,
        };
        layout.check()?;
        Ok(layout)
    }

    /// Regions that a core is granted together: those of a zone, or one.
    pub fn regions_per_grant(&self) -> u64 {
        (self.zone_bytes / REGION_BYTES).max(1)
    }

    /// From one log slot to the next.
    fn log_stride(&self) -> u64 {
        if self.zone_bytes > 0 { self.zone_bytes } else { self.log_slot_bytes }
    }

    /// The layout of a further device of a node, which has no log: its regions begin at the first multiple of
    /// their size behind where the first device has its anchors.
    pub fn of_member(device_bytes: u64) -> Result<Self, DeviceError> {
        if device_bytes < DEVICE_BYTES_MIN {
            return Err(DeviceError::TooSmall { actual: device_bytes, needed: DEVICE_BYTES_MIN });
        }
        let regions_at = LOG_AT.next_multiple_of(REGION_BYTES);
        let layout = Layout {
            device_bytes,
            anchors_at: ANCHORS_AT,
            log_at: LOG_AT,
            log_slot_bytes: LOG_SLOT_BYTES,
            log_slots: 0,
            regions_at,
            region_bytes: REGION_BYTES,
            regions: (device_bytes - regions_at) / REGION_BYTES,
            zone_bytes: 0,
        };
        layout.check()?;
        Ok(layout)
    }

    /// Whether the parts fit each other and what this version of the program expects.
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        let bad = |reason| Err(DeviceError::BadLayout { reason });
        let log_at = if self.zone_bytes > 0 { ZONED_HEAD_BYTES } else { LOG_AT };
        if self.anchors_at != ANCHORS_AT || self.log_at != log_at {
            return bad("anchors or log area lie elsewhere");
        }
        if !self.zone_bytes.is_multiple_of(REGION_BYTES) || !self.regions.is_multiple_of(self.regions_per_grant()) {
            return bad("zones that are no whole regions");
        }
        let slot = self.log_slot_bytes;
        if !slot.is_power_of_two() || !(LOG_SLOT_BYTES_MIN..=16 * LOG_SLOT_BYTES).contains(&slot) {
            return bad("size of a log slot");
        }
        if self.region_bytes != REGION_BYTES || !self.regions_at.is_multiple_of(REGION_BYTES) {
            return bad("size or alignment of the regions");
        }
        let log_end = self.log_slots.checked_mul(self.log_stride()).and_then(|n| n.checked_add(self.log_at));
        if log_end.is_none_or(|end| end > self.regions_at) {
            return bad("the log area overlaps the regions");
        }
        if self.log_slots > u64::from(u32::MAX) {
            return bad("too many log slots");
        }
        let end = self.regions.checked_mul(REGION_BYTES).and_then(|n| n.checked_add(self.regions_at));
        if self.regions == 0 || end.is_none_or(|end| end > self.device_bytes) {
            return bad("the regions end beyond the device");
        }
        Ok(())
    }

    /// First byte of a log slot. Panics where there is no such slot.
    pub fn slot_at(&self, slot: u32) -> u64 {
        assert!(u64::from(slot) < self.log_slots, "log slot {slot} of {}", self.log_slots);
        self.log_at + u64::from(slot) * self.log_stride()
    }

    /// Bytes after the superblocks that format fills with zeros: anchors and log area; the anchors alone where a
    /// reset does it for the log.
    pub(crate) fn zeroed_end(&self) -> u64 {
        if self.zone_bytes > 0 { LOG_AT } else { self.log_at + self.log_slots * self.log_slot_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_area_is_a_sixteenth_within_its_limits() {
        for (device, log_at_least, log_at_most) in [(256 * MIB, 32, 96), (8192 * MIB, 512, 576), (4 << 40, 1024, 1088)]
        {
            let layout = Layout::derive(device, None, None).expect("large enough");
            assert!(layout.log_slots >= 47 && layout.log_slots <= 300);
            let log = layout.log_slots * layout.log_slot_bytes / MIB;
            assert!((log_at_least..=log_at_most).contains(&log), "{device}: {log} MiB");
            let end = layout.regions_at + layout.regions * REGION_BYTES;
            assert!(end <= device && device - end < REGION_BYTES);
        }
    }

    #[test]
    fn small_devices_and_odd_slots_are_refused() {
        assert!(matches!(Layout::derive(DEVICE_BYTES_MIN - 1, None, None), Err(DeviceError::TooSmall { .. })));
        for slot in [0, 4096, 3 << 20, 1 << 40] {
            assert!(matches!(Layout::derive(1 << 30, Some(slot), None), Err(DeviceError::BadLayout { .. })), "{slot}");
        }
    }

    #[test]
    fn a_log_area_of_a_given_size_is_kept() {
        let layout = Layout::derive(1 << 30, Some(LOG_SLOT_BYTES_MIN), Some(MIB)).expect("fits");
        assert_eq!((layout.log_slots, layout.regions_at), (16, REGION_BYTES));
        let half = Layout::derive(1 << 30, Some(LOG_SLOT_BYTES_MIN), Some(1 << 30));
        assert!(matches!(half, Err(DeviceError::BadOption { .. })));
        let none = Layout::derive(1 << 30, Some(LOG_SLOT_BYTES), Some(MIB));
        assert!(matches!(none, Err(DeviceError::BadLayout { .. })));
    }

    #[test]
    fn a_further_device_is_regions_from_its_first_64_mib_on() {
        let layout = Layout::of_member((1 << 30) + 5 * MIB).expect("large enough");
        assert_eq!((layout.log_slots, layout.regions_at, layout.regions), (0, REGION_BYTES, 15));
        assert!(matches!(Layout::of_member(DEVICE_BYTES_MIN - 1), Err(DeviceError::TooSmall { .. })));
    }
}
