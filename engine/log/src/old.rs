//! Streams of earlier starts: kept until every group that has records there has released them.

use cfs_device::{AnchorId, Anchors, DeviceError};
use cfs_types::GroupId;
use std::collections::BTreeSet;

pub(crate) struct OldStream {
    pub anchor: u16,
    pub slots: Vec<u32>,
    pub holders: BTreeSet<GroupId>,
    /// All its surviving records were written again, so it may go whatever came before it.
    pub collapsed: bool,
}

/// Frees the anchor that a stream was read from; durable when it returns.
pub(crate) async fn free_anchor(anchors: &Anchors, anchor: u16) -> Result<(), DeviceError> {
    anchors.write(AnchorId::stream(anchor).expect("it was read from there"), &[]).await
}

/// What came free; to be sent to every core and handed to its `CoreLog::take_freed`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Freed {
    /// Slots that belong to nobody now; slot i goes to core `i % cores`.
    pub slots: Vec<u32>,
    /// No old stream is left: cores may reclaim slots of their own streams from now on.
    pub all_gone: bool,
}

/// The old streams of a device; lives on one core.
///
/// They go in the order in which they were written, and before any slot of the new streams, so
/// that no record outlives the one that superseded it; those that were written again as a whole
/// go at once. One is gone once its anchor says so durably, not before. After an error the device has
/// failed, and with it every core's log.
pub struct OldStreams {
    anchors: Anchors,
    streams: Vec<OldStream>,
    settled: bool,
}

impl OldStreams {
    /// `streams` in order of their starts.
    pub(crate) fn new(anchors: Anchors, streams: Vec<OldStream>) -> Self {
        OldStreams { anchors, streams, settled: false }
    }

    /// Every core has opened its log: what had to be written again is durable. Must be called
    /// once; frees the streams that nobody needs.
    pub async fn settle(&mut self) -> Result<Freed, DeviceError> {
        self.settled = true;
        self.free_unheld().await
    }

    /// The group needs nothing of any old stream (`CoreLog::release` said so).
    pub async fn release(&mut self, group: GroupId) -> Result<Freed, DeviceError> {
        for stream in &mut self.streams {
            stream.holders.remove(&group);
        }
        self.free_unheld().await
    }

    /// Groups that hold an old stream, on any core.
    pub fn holders(&self) -> BTreeSet<GroupId> {
        self.streams.iter().flat_map(|stream| stream.holders.iter().copied()).collect()
    }

    /// The next stream that may go.
    fn unheld(&self) -> Option<usize> {
        let oldest = self.streams.first().is_some_and(|stream| stream.holders.is_empty()).then_some(0);
        oldest.or_else(|| self.streams.iter().position(|stream| stream.collapsed))
    }

    async fn free_unheld(&mut self) -> Result<Freed, DeviceError> {
        let mut freed = Freed::default();
        while self.settled
            && let Some(at) = self.unheld()
        {
            free_anchor(&self.anchors, self.streams[at].anchor).await?;
            freed.slots.extend(self.streams.remove(at).slots);
        }
        freed.all_gone = self.settled && self.streams.is_empty();
        Ok(freed)
    }
}
