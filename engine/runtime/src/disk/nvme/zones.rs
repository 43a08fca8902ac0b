//! Zones of a namespace (ZNS Command Set Specification 1.2): what identifies them, and reports of them.

use super::command::Command;
use super::namespace::{admin, answer, quad, refused, word};
use crate::disk::nvme::command::IOCTL_IO;
use cfs_seam::{Zone, ZoneState, Zones};
use std::fs::File;
use std::io;

/// The command set of zoned namespaces (Base, 'I/O Command Set Identifier').
pub(super) const ZONED_COMMAND_SET: u8 = 2;
/// Bytes of a report's head and of each zone in it (ZNS, 'Report Zones').
const DESCRIPTOR_BYTES: usize = 64;
/// No limit (ZNS, 'Identify Namespace data structure', MAR and MOR).
const UNLIMITED: u32 = u32::MAX;

/// The zones of a namespace of `blocks` blocks in format `format`. Err says in words why they are of no use.
pub(super) fn identify(file: &File, number: u32, blocks: u64, shift: u32, format: usize) -> io::Result<Zones> {
    let mut data = [0; 4096];
    admin(file, Command::identify_of_set(ZONED_COMMAND_SET, number, &mut data))?;
    if data[0] & 1 == 1 {
        return Err(refused("the capacity of its zones varies, which CoreFS does not follow"));
    }
    let zone_blocks = quad(&data, 2816 + 16 * format);
    let stride_bytes = zone_blocks.checked_shl(shift).filter(|bytes| bytes >> shift == zone_blocks && *bytes > 0);
    let stride_bytes = stride_bytes.ok_or_else(|| refused("its zones have no size"))?;
    let count = u32::try_from(blocks / zone_blocks).map_err(|_| refused("it has too many zones"))?;
    // How much of a zone can be written is said by the zones alone.
    let mut report = [0; 2 * DESCRIPTOR_BYTES];
    let address = report.as_mut_ptr().addr();
    answer(file, IOCTL_IO, Command::report_zones(number, 0, address, report.len()))?;
    let capacity = quad(&report, DESCRIPTOR_BYTES + 8);
    let limits = [word(&data, 4), word(&data, 8)].into_iter().filter(|most| *most != UNLIMITED);
    Ok(Zones { count, stride_bytes, capacity_bytes: capacity << shift, active_max: limits.min().map(|most| most + 1) })
}

/// The zones in a report that was asked for from block `first` on. None where one has another capacity or place than the others.
pub(super) fn parse(report: &[u8], zones: &Zones, shift: u32, first: u32) -> Option<Vec<Zone>> {
    let listed = usize::try_from(quad(report, 0)).ok()?;
    let descriptors = report.get(DESCRIPTOR_BYTES..)?.chunks_exact(DESCRIPTOR_BYTES).take(listed);
    let parsed = (u64::from(first)..).zip(descriptors).map(|(number, descriptor)| {
        let start = quad(descriptor, 16).checked_shl(shift)?;
        if start != number * zones.stride_bytes || quad(descriptor, 8) << shift != zones.capacity_bytes {
            return None;
        }
        let state = match descriptor[1] >> 4 {
            0x1 => ZoneState::Empty,
            0x2..=0x4 => ZoneState::Active,
            0xE => ZoneState::Full,
            _ => ZoneState::Worn,
        };
        let written_bytes = match state {
            ZoneState::Empty => 0,
            ZoneState::Active => {
                let written = quad(descriptor, 24).checked_shl(shift)?.checked_sub(start);
                written.filter(|written| *written <= zones.capacity_bytes)?
            }
            ZoneState::Full | ZoneState::Worn => zones.capacity_bytes,
        };
        Some(Zone { state, written_bytes })
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(state: u8, capacity: u64, start: u64, pointer: u64) -> Vec<u8> {
        let mut bytes = vec![0; DESCRIPTOR_BYTES];
        bytes[0] = 2;
        bytes[1] = state << 4;
        bytes[8..16].copy_from_slice(&capacity.to_le_bytes());
        bytes[16..24].copy_from_slice(&start.to_le_bytes());
        bytes[24..32].copy_from_slice(&pointer.to_le_bytes());
        bytes
    }

    #[test]
    fn a_report_is_read_as_the_specification_has_it() {
        let zones = Zones { count: 9, stride_bytes: 64 << 12, capacity_bytes: 48 << 12, active_max: None };
        let mut head = vec![0; DESCRIPTOR_BYTES];
        head[0] = 4;
        let zone = |state, at: u64, pointer| descriptor(state, 48, at * 64, at * 64 + pointer);
        let report = [head, zone(1, 2, 0), zone(2, 3, 7), zone(4, 4, 9), zone(14, 5, u64::MAX - 1000)].concat();
        let found = parse(&report, &zones, 12, 2).expect("sound");
        let expected = [(ZoneState::Empty, 0), (ZoneState::Active, 7), (ZoneState::Active, 9), (ZoneState::Full, 48)];
        let expected = expected.map(|(state, blocks)| Zone { state, written_bytes: blocks << 12 });
        assert_eq!(found, expected);
        assert_eq!(parse(&report, &zones, 12, 3), None, "of other zones");
        let smaller = Zones { capacity_bytes: 47 << 12, ..zones };
        assert_eq!(parse(&report, &smaller, 12, 2), None);
    }
}
