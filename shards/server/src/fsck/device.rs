//! The device itself: superblock copies, anchors, the log.

use super::finding::{Findings, Severity, Site};
use crate::manifest::GroupManifest;
use cfs_device::{
    AnchorId, Anchors, CopyState, DeviceError, STREAMS_MAX, SUPERBLOCK_COPIES_AT, Superblock, SuperblockCopy,
};
use cfs_kv::Manifest;
use cfs_log::{GroupLog, LogError, StreamEnd};
use cfs_seam::Disk;
use cfs_segment::Space;
use cfs_types::{GroupId, member_offset};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Reports copies of the superblock that are not what they should be.
pub async fn check_superblock(
    disk: &Rc<dyn Disk>,
    best: &Superblock,
    findings: &mut Findings,
) -> Result<(), DeviceError> {
    let copies = cfs_device::inspect(&**disk).await?;
    for (copy, offset) in copies.iter().zip(SUPERBLOCK_COPIES_AT) {
        let what = match copy {
            SuperblockCopy::Valid(copy) if copy == best => continue,
            SuperblockCopy::Valid(_) => "this copy of the superblock is of an earlier generation".into(),
            other => format!("this copy of the superblock is {other}"),
        };
        // One of an earlier generation is a write that was cut off, which the next start repeats. A device that has
        // failed may have taken one mark only; its return to service writes both copies.
        let is_earlier = matches!(copy, SuperblockCopy::Valid(_));
        let severity = if best.failed || is_earlier { Severity::Note } else { Severity::Damage };
        findings.add(severity, Site::Device(member_offset(best.number()) + offset), what);
    }
    Ok(())
}

/// What the log area holds.
#[derive(Default)]
pub struct Log {
    /// The groups that have records.
    pub groups: BTreeMap<GroupId, GroupLog>,
    /// Streams.
    pub streams: u64,
    /// Whether every stream was ended on purpose.
    pub is_clean: bool,
}

/// Reads the whole log; None where it is damaged.
pub async fn read_log(disk: &Rc<dyn Disk>, superblock: &Superblock, findings: &mut Findings) -> Option<Log> {
    let recovered = match cfs_log::inspect(disk, superblock).await {
        Ok(recovered) => recovered,
        Err(error) => {
            let place = match &error {
                LogError::Damaged { offset, .. }
                | LogError::EntryDamaged { offset, .. }
                | LogError::AnchorLost { offset, .. }
                | LogError::NoStream { offset, .. } => *offset,
                LogError::Device(DeviceError::AnchorDamaged { offset_a, .. }) => *offset_a,
                LogError::BadAnchor { stream } => stream_offset(disk, superblock, *stream),
                _ => superblock.layout.log_at,
            };
            findings.add(Severity::Damage, Site::Device(place), error.to_string());
            return None;
        }
    };
    let streams = recovered.streams();
    for stream in streams.iter().filter(|s| s.end == StreamEnd::Torn) {
        let what =
            format!("log stream {}.{} ends in a torn batch, which was not acknowledged", stream.boot, stream.core);
        findings.add(Severity::Note, Site::Device(stream.end_at), what);
    }
    Some(Log {
        is_clean: streams.iter().all(|s| s.end == StreamEnd::Clean),
        streams: streams.len() as u64,
        groups: recovered.groups().map(|(group, log)| (group, log.clone())).collect(),
    })
}

fn stream_offset(disk: &Rc<dyn Disk>, superblock: &Superblock, stream: u16) -> u64 {
    let anchors = Anchors::new(disk.clone(), superblock);
    AnchorId::stream(stream).map_or(superblock.layout.anchors_at, |id| anchors.offsets(id)[0])
}

/// Reports anchors whose copies are not both intact. After an orderly stop both are.
pub async fn check_anchors(anchors: &Anchors, is_clean: bool, findings: &mut Findings) {
    let groups = (0..).take(GroupId::COUNT).map(|n| AnchorId::group(GroupId::new(n)));
    let streams = (0..STREAMS_MAX).filter_map(AnchorId::stream);
    for id in groups.chain([AnchorId::MEMBERS]).chain(streams) {
        let offsets = anchors.offsets(id);
        let state = match anchors.inspect(id).await {
            Ok(state) => state,
            Err(error) => {
                findings.add(Severity::Damage, Site::Device(offsets[0]), format!("anchor {}: {error}", id.get()));
                continue;
            }
        };
        if state.copies[0] == state.copies[1] {
            if let CopyState::Damaged(reason) = state.copies[0] {
                let what = format!("both copies of anchor {} are damaged ({reason})", id.get());
                findings.add(Severity::Damage, Site::Device(offsets[0]), what);
            }
            continue;
        }
        let intact = state.copies.iter().any(|c| matches!(c, CopyState::Valid { .. }));
        let blank = state.copies.contains(&CopyState::Blank);
        for (copy, offset) in state.copies.iter().zip(offsets) {
            // Copies of different age are a write cut short, which the next start repeats. A first
            // write that was cut short may leave one copy torn and the other blank for good.
            let torn = matches!(copy, CopyState::Damaged(_));
            let severity =
                if torn && (is_clean && intact || !(intact || blank)) { Severity::Damage } else { Severity::Note };
            let what = match copy {
                CopyState::Damaged(reason) => format!("one copy of anchor {} is damaged ({reason})", id.get()),
                CopyState::Blank => format!("one copy of anchor {} is blank", id.get()),
                CopyState::Valid { generation, .. } => {
                    format!("the copies of anchor {} differ: this one is of generation {generation}", id.get())
                }
            };
            findings.add(severity, Site::Device(offset), what);
        }
    }
}

/// The manifest of a group and all its tables; `Err` where there is one that cannot be read.
pub async fn read_manifest(
    anchors: &Anchors,
    space: &Space,
    group: GroupId,
    findings: &mut Findings,
) -> Result<Option<(GroupManifest, Manifest)>, ()> {
    let id = AnchorId::group(group);
    let record = match anchors.read(id).await {
        Ok(None) => return Ok(None),
        Ok(Some(record)) => record,
        // Reported with the anchors.
        Err(_) => return Err(()),
    };
    let at = Site::Device(anchors.offsets(id)[0]);
    let Some(manifest) = GroupManifest::decode(&record) else {
        findings.add(Severity::Damage, at, format!("the manifest of group {group} does not decode"));
        return Err(());
    };
    match manifest.tables.load(space, group).await {
        Ok(tables) => Ok(Some((manifest, tables))),
        Err(error) => {
            findings.add(Severity::Damage, at, format!("a list of tables of group {group}: {error}"));
            Err(())
        }
    }
}
