//! docs/formats/log.md: the stream's anchor, batches and records, as recovery walks them.

use crate::device::seal_anchor;
use crate::disk::{formatted, lay, number, seal};
use cfs_device::{AnchorId, Anchors};
use cfs_fuzz::Target;
use cfs_log::{inspect, read_entry};
use cfs_seam::Disk;
use cfs_sim::now;
use cfs_types::CoreId;
use std::rc::Rc;

/// Blocks of 4 KiB: first copies of superblock and anchor of stream 0, then the first four of slot 0.
const GOLDEN: &[u8] = include_bytes!("../../../../engine/log/tests/log/golden/log-v1.bin");
const BLOCK: usize = 4096;
const BATCH_HEADER: usize = 128;

/// The anchor, then the slot: every checksum right, and every batch chained to the one before.
fn seal_stream(bytes: &mut [u8]) {
    let mut anchor = bytes[..bytes.len().min(BLOCK)].to_vec();
    seal_anchor(&mut anchor);
    bytes[..anchor.len()].copy_from_slice(&anchor);
    for at in (BLOCK..bytes.len()).step_by(BLOCK) {
        let Some(batch) = bytes.get_mut(at..) else { return };
        let body = number(batch, 52);
        seal(batch, BATCH_HEADER, BATCH_HEADER.saturating_add(body), 60);
        seal(batch, 0, BATCH_HEADER - 4, BATCH_HEADER - 4);
        let crc = number(batch, BATCH_HEADER - 4);
        if let Some(next) = batch.get_mut(BLOCK + 48..BLOCK + 52) {
            next.copy_from_slice(&u32::try_from(crc).expect("32 bits").to_le_bytes());
        }
    }
}

/// The golden stream as a close leaves it now: its anchor names the first of the batches that end it.
fn ended() -> Vec<u8> {
    let mut bytes = GOLDEN[BLOCK..].to_vec();
    let is_end = |at: &usize| bytes[*at..].starts_with(b"cfsL") && bytes[at + 6] == 1;
    let end = (BLOCK..bytes.len()).step_by(BLOCK).find(is_end).expect("it was closed");
    let (sequence, crc) = (bytes[end + 32..end + 40].to_vec(), bytes[end + 124..end + 128].to_vec());
    // Bytes of the record, then the record: its version, and what follows it.
    bytes[32] = 56;
    bytes[64] = 2;
    bytes[64 + 40..64 + 48].copy_from_slice(&sequence);
    bytes[64 + 48..64 + 52].copy_from_slice(&crc);
    seal_anchor(&mut bytes[..BLOCK]);
    bytes
}

#[test]
fn streams_batches_and_records() {
    let (device, _) = formatted();
    device.poke(0, &GOLDEN[..BLOCK]);
    device.poke(64 << 10, &GOLDEN[..BLOCK]);
    let superblock = now(cfs_device::open(&device)).expect("a version 1 superblock");
    let disk: Rc<dyn Disk> = Rc::new(device.clone());
    let [anchor, _] = Anchors::new(disk.clone(), &superblock).offsets(AnchorId::stream(0).expect("the first"));
    let slot = superblock.layout.slot_at(0);
    let decode = |bytes: &[u8]| {
        let (head, batches) = bytes.split_at(bytes.len().min(BLOCK));
        lay(&device, anchor, head, BLOCK);
        lay(&device, slot, batches, 5 * BLOCK);
        let recovered = now(inspect(&disk, &superblock)).ok()?;
        for (group, log) in recovered.groups() {
            let _ = log.entries.iter().map(|entry| now(read_entry(&*disk, group, entry))).collect::<Vec<_>>();
        }
        let records = recovered.groups().map(|(_, log)| log.entries.len() + log.locals.len()).sum::<usize>();
        let _ = recovered.split(1, |_| CoreId::new(0)).ok()?;
        Some(records)
    };
    let sources = &["engine/log/src/batch.rs", "engine/log/src/record.rs", "engine/log/src/stream.rs"];
    let mut last = GOLDEN[BLOCK..].to_vec();
    last[64 + 8..64 + 16].fill(0xff);
    seal_stream(&mut last);
    Target::new("stream", sources, vec![GOLDEN[BLOCK..].to_vec(), ended()])
        // A start after which there is no other.
        .case(last)
        .sealed(|bytes| seal_stream(bytes))
        // Slots are read whole, and found records are kept with what is known of them.
        .may_hold(16, 512 << 10)
        .mutants(6_000)
        .decodes(decode);
}
