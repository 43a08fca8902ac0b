//! The follower's end of a state: its pages become tables beside those in use, and one write of
//! the manifest puts them in their place.
//!
//! Invariants: a crash leaves the old state or the new one; this node's own rows (where chunks
//! lie) stay; entries of the old log above the point are void before the new state is there, so
//! that no restart takes them for its continuation. The library accepts a state only where the
//! log does not match it, so none of those entries was committed.

use super::peers::{Peers, TICK};
use super::transfer::{AREA_SPACE, Cursor, GroupMessage, Job, Page, Point, Want, area_key};
use super::turn::log_error;
use super::{Mark, Replica, adopt_record};
use crate::cells::LOCAL_SPACE;
use cfs_consensus::{PeerMessage, SnapshotPoint};
use cfs_kv::{DatedRow, DatedScan, Pins, Replacement};
use cfs_seam::{Instant, timeout};
use cfs_types::{FsError, MoveEpoch, Timestamp};
use std::rc::Rc;

/// Rows of this node read at once.
const PAGE: usize = 512;

/// A state on its way.
struct Incoming {
    offer: PeerMessage,
    want: Want,
    asked: Instant,
    replacement: Replacement,
    time: Timestamp,
}

/// A state that is complete, in tables that nothing names yet.
pub(super) struct Arrived {
    point: Point,
    replacement: Replacement,
    time: Timestamp,
}

impl Replica {
    /// Moves states between replicas until the replica fails or the task is cancelled. Nothing to
    /// do for a sole voter.
    pub async fn run_peers(self: Rc<Self>) {
        let Some(peers) = &self.peers else { return };
        let mut incoming: Option<Incoming> = None;
        while self.failed.get().is_none() {
            let job = peers.jobs.borrow_mut().pop_front();
            match job {
                Some(Job::Serve { to, want }) => self.serve_page(peers, to, want).await,
                Some(Job::Offer(offer)) => self.begin_incoming(peers, &mut incoming, offer),
                Some(Job::Take { from, page }) => self.take_page(peers, &mut incoming, from, page).await,
                Some(Job::Gone { from, point }) => {
                    let gone = |i: &Incoming| i.offer.from() == from && i.want.point == point;
                    incoming = incoming.filter(|i| !gone(i));
                }
                None => self.wait_for_job(peers, &mut incoming).await,
            }
        }
    }

    async fn wait_for_job(&self, peers: &Peers, incoming: &mut Option<Incoming>) {
        let job = peers.job.wait();
        let Some(incoming) = incoming else { return job.await };
        if timeout(&peers.clock, incoming.asked.after(2 * TICK), job).await.is_none() {
            self.ask(peers, incoming);
        }
    }

    fn ask(&self, peers: &Peers, incoming: &mut Incoming) {
        incoming.asked = peers.clock.now();
        let message = GroupMessage::Want(incoming.want.clone()).encode();
        peers.link.send(self.id, incoming.offer.from(), message);
    }

    fn begin_incoming(&self, peers: &Peers, incoming: &mut Option<Incoming>, offer: PeerMessage) {
        let Some(point) = offer.snapshot_point() else { return };
        let known = incoming.as_ref().is_some_and(|i| i.want.point == point && i.offer.from() == offer.from());
        let stale = offer.term() < self.term().get() || point.0 <= self.mark.get().applied.0;
        if known || peers.arrived.borrow().is_some() {
            return;
        }
        if stale {
            // The library answers that it needs none.
            let _refused = self.group.borrow_mut().step(offer);
            return self.work.notify_all();
        }
        let mut begun = Incoming {
            offer,
            want: Want { point, at: Cursor::Row(Vec::new()) },
            asked: peers.clock.now(),
            replacement: self.store.replacement(),
            time: Timestamp::default(),
        };
        self.ask(peers, &mut begun);
        *incoming = Some(begun);
    }

    async fn take_page(&self, peers: &Peers, slot: &mut Option<Incoming>, from: u64, page: Page) {
        let Some(mut incoming) = slot.take_if(|i| i.offer.from() == from && i.want == page.want) else { return };
        if !is_sound(&page) || push(&mut incoming.replacement, &page).await.is_err() {
            return;
        }
        incoming.time = page.time.max(incoming.time);
        match page.next {
            Some(next) => {
                incoming.want.at = next;
                self.ask(peers, &mut incoming);
                *slot = Some(incoming);
            }
            None => {
                let Incoming { offer, want, replacement, time, .. } = incoming;
                *peers.arrived.borrow_mut() = Some(Arrived { point: want.point, replacement, time });
                let _refused = self.group.borrow_mut().step(offer);
                self.work.notify_all();
            }
        }
    }

    /// Drops a state that the library did not want after all.
    pub(super) fn drop_arrived(&self) {
        if let Some(peers) = &self.peers {
            drop(peers.arrived.take());
        }
    }

    /// Puts the state that has arrived in the place of the old one.
    pub(super) async fn install(&self, point: SnapshotPoint) -> Result<(), FsError> {
        let arrived = self.peers.as_ref().and_then(|peers| peers.arrived.take());
        let applied = (point.index.get(), point.term.get());
        let arrived = arrived.filter(|a| a.point == applied).ok_or(FsError::Corrupt)?;
        let _turn = self.table_turn().await?;
        let epoch = MoveEpoch::new(self.epoch.get().get() + 1);
        let void = vec![adopt_record(self.id, epoch, point.index)];
        self.log.append(void).await.map_err(log_error)?;
        self.epoch.set(epoch);
        self.clock.restore(arrived.time);
        let locals = self.local_rows().await?;
        let change = arrived.replacement.finish(&locals).await.map_err(super::tables::store_error)?;
        let mark = Mark { applied, locals: self.mark.get().locals };
        self.commit(change, (mark, self.clock.last())).await?;
        self.frozen.set(None);
        self.mark.set(mark);
        self.executed_at.set(arrived.time);
        Ok(())
    }

    /// This node's own rows but the data areas, which the new state brings itself.
    async fn local_rows(&self) -> Result<Vec<DatedRow>, FsError> {
        let (mut all, mut from) = (Vec::new(), vec![LOCAL_SPACE]);
        let mut pins = Pins::default();
        loop {
            match self.store.scan_dated(&from, &[AREA_SPACE], Timestamp::MAX, PAGE) {
                DatedScan::Miss(fetch) => pins.merge(self.fetch(&fetch).await?),
                DatedScan::Rows(rows, more) => {
                    pins = Pins::default();
                    all.extend(rows);
                    match all.last().filter(|_| more) {
                        Some((last, ..)) => from = [last, &[0][..]].concat(),
                        None => return Ok(all),
                    }
                }
            }
        }
    }
}

/// Whether a page holds what it says: rows of the replicated key space that rise, no longer than
/// a store takes, or data areas that rise, and a next page behind them.
fn is_sound(page: &Page) -> bool {
    let fits = |key: &[u8], value: &[u8]| key.len() <= cfs_kv::KEY_BYTES_MAX && value.len() <= cfs_kv::VALUE_BYTES_MAX;
    let rises = page.rows.windows(2).all(|w| w[0].0 < w[1].0) && page.areas.windows(2).all(|w| w[0].0 < w[1].0);
    let rows = page.rows.iter().all(|(key, time, value)| {
        let ours = key.first().is_some_and(|space| *space < LOCAL_SPACE);
        ours && fits(key, value) && *time <= page.time
    });
    let areas = page.areas.iter().all(|(_, area)| fits(&[], area));
    let begins = match &page.want.at {
        Cursor::Row(from) => page.areas.is_empty() && page.rows.first().is_none_or(|(key, ..)| key >= from),
        Cursor::Area(from) => page.rows.is_empty() && page.areas.first().is_none_or(|(index, _)| index >= from),
    };
    let goes_on = match (&page.want.at, &page.next) {
        (Cursor::Row(_), Some(Cursor::Row(next))) => page.rows.last().is_some_and(|(key, ..)| key < next),
        (Cursor::Row(_), Some(Cursor::Area(_))) => true,
        (Cursor::Area(_), Some(Cursor::Area(next))) => page.areas.last().is_some_and(|(index, _)| index < next),
        (Cursor::Area(_), None) => true,
        (Cursor::Row(_), None) | (Cursor::Area(_), Some(Cursor::Row(_))) => false,
    };
    rises && rows && areas && begins && goes_on
}

async fn push(replacement: &mut Replacement, page: &Page) -> Result<(), cfs_kv::KvError> {
    for (key, time, value) in &page.rows {
        replacement.push(key, *time, value).await?;
    }
    for (index, area) in &page.areas {
        replacement.push(&area_key(*index), page.time, area).await?;
    }
    Ok(())
}
