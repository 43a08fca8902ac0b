//! The leader's end of sending a state: versions as of one entry, read page by page while newer
//! entries are executed.
//!
//! Invariant: what a page shows is the state as of the point and nothing newer. The store keeps
//! older versions as long as the state is open. Only a leader that has executed its term's first
//! entry opens one: whatever it executes later carries a later timestamp.

use super::Replica;
use super::peers::{Peers, SILENCE};
use super::transfer::{Cursor, GroupMessage, LOST_AREA, Page, Point, Want, area_key};
use crate::cells::LOCAL_SPACE;
use crate::entry;
use crate::view::StoreView;
use cfs_consensus::Role;
use cfs_kv::{DatedScan, Lookup, Pins};
use cfs_namespace::{Stop, data};
use cfs_seam::Instant;
use cfs_types::{FsError, LogIndex, Term, Timestamp};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Rows of one page at the most.
const PAGE_ROWS: usize = 128;
/// A page ends once it holds so many bytes.
const PAGE_BYTES: usize = 256 << 10;

/// A state that followers may read.
pub(super) struct Serving {
    point: Point,
    time: Timestamp,
    term: Term,
    /// Who was offered it, and when they last asked for a page.
    followers: BTreeMap<u64, Instant>,
    /// When it was opened, offered or read last.
    used: Instant,
}

impl Replica {
    /// Opens the state as it is now.
    pub(super) fn open_state(&self, peers: &Peers) {
        let point = self.group.borrow_mut().open_snapshot();
        let time = self.executed_at.get();
        self.store.set_floor(Some(time));
        let (point, term) = ((point.index.get(), point.term.get()), self.term());
        *peers.serving.borrow_mut() =
            Some(Serving { point, time, term, followers: BTreeMap::new(), used: peers.clock.now() });
    }

    pub(super) fn note_offer(&self, peers: &Peers, to: u64) {
        if let Some(serving) = &mut *peers.serving.borrow_mut() {
            serving.used = peers.clock.now();
            serving.followers.insert(to, serving.used);
        }
    }

    /// A follower that stays silent is offered the state again; nobody left, or another leader:
    /// the state is closed.
    pub(super) fn review_serving(&self, peers: &Peers) {
        let mut serving = peers.serving.borrow_mut();
        let Some(open) = &mut *serving else { return };
        let now = peers.clock.now();
        let silent: Vec<u64> =
            open.followers.iter().filter(|(_, at)| now.since(**at) > 2 * SILENCE).map(|(id, _)| *id).collect();
        let mut group = self.group.borrow_mut();
        for id in silent {
            open.followers.remove(&id);
            group.snapshot_sent(id, false);
        }
        let leads = group.role() == Role::Leader && group.term() == open.term;
        let unused = open.followers.is_empty() && now.since(open.used) > 2 * SILENCE;
        if !leads || unused {
            group.close_snapshot();
            self.store.set_floor(None);
            *serving = None;
        }
    }

    /// Whether followers still read the state, and with it the log behind it.
    pub(super) fn is_serving(&self) -> bool {
        self.peers.as_ref().is_some_and(|peers| peers.serving.borrow().is_some())
    }

    /// Answers a follower.
    pub(super) async fn serve_page(&self, peers: &Peers, to: u64, want: Want) {
        let time = {
            let mut serving = peers.serving.borrow_mut();
            let open = serving.as_mut().filter(|open| open.point == want.point);
            open.map(|open| {
                open.used = peers.clock.now();
                open.followers.insert(to, open.used);
                open.time
            })
        };
        let page = match time {
            Some(time) => self.page(want.clone(), time).await.ok(),
            None => None,
        };
        // The state may have been closed meanwhile, and newer versions have taken its place.
        let still = peers.serving.borrow().as_ref().is_some_and(|open| open.point == want.point);
        let answer = match page.filter(|_| still) {
            Some(page) => GroupMessage::Page(page),
            None => GroupMessage::Gone(want.point),
        };
        peers.link.send(self.id, to, answer.encode());
    }

    async fn page(&self, want: Want, time: Timestamp) -> Result<Page, FsError> {
        let mut page = Page { want: want.clone(), time, rows: Vec::new(), areas: Vec::new(), next: None };
        match want.at {
            Cursor::Row(from) => self.row_page(&from, time, &mut page).await?,
            Cursor::Area(from) => self.area_page(from, time, &mut page).await?,
        }
        Ok(page)
    }

    async fn row_page(&self, from: &[u8], time: Timestamp, page: &mut Page) -> Result<(), FsError> {
        let mut pins = Pins::default();
        let (rows, mut more) = loop {
            match self.store.scan_dated(from, &[LOCAL_SPACE], time, PAGE_ROWS) {
                DatedScan::Rows(rows, more) => break (rows, more),
                DatedScan::Miss(fetch) => pins.merge(self.fetch(&fetch).await?),
            }
        };
        let mut bytes = 0;
        for (key, time, value) in rows {
            if bytes > PAGE_BYTES {
                more = true;
                break;
            }
            bytes += key.len() + value.len();
            page.rows.push((key.into(), time, value.to_vec()));
        }
        let last = page.rows.last().filter(|_| more);
        page.next = Some(last.map_or(Cursor::Area(0), |(key, ..)| Cursor::Row([key, &[0][..]].concat())));
        Ok(())
    }

    async fn area_page(&self, from: u64, time: Timestamp, page: &mut Page) -> Result<(), FsError> {
        let (mut from, mut bytes) = (from, 0);
        while let Some(index) = self.log_ref_from(from, time).await? {
            let area = self.data_area(index).await?;
            bytes += area.len();
            page.areas.push((index.get(), area));
            from = index.get() + 1;
            if bytes > PAGE_BYTES {
                page.next = Some(Cursor::Area(from));
                break;
            }
        }
        Ok(())
    }

    /// The first entry from `from` on whose data area the rows as of `time` name.
    pub(super) async fn log_ref_from(&self, from: u64, time: Timestamp) -> Result<Option<LogIndex>, FsError> {
        let mut pins = Pins::default();
        let view = StoreView::as_of(&self.store, time);
        loop {
            match data::log_ref_from(&view, LogIndex::new(from)) {
                Ok(found) => return Ok(found),
                Err(Stop::Need(need)) => pins.merge(self.load_from(&view, need).await?),
                Err(Stop::Fail(error)) => return Err(error),
                Err(Stop::Blocked(_)) => return Err(FsError::Blocked),
            }
        }
    }

    /// The whole data area of an entry.
    pub(super) async fn data_area(&self, index: LogIndex) -> Result<Vec<u8>, FsError> {
        if let Some(area) = self.data.inline.get(self.id, index) {
            return Ok(area.to_vec());
        }
        if let Some(area) = self.kept_area(index).await? {
            return Ok(area.to_vec());
        }
        let payload = self.log.read_payload(self.id, index).await.map_err(|_| FsError::Corrupt)?;
        let (_, area) = entry::decode(&payload).map_err(|_| FsError::Corrupt)?;
        Ok(area.to_vec())
    }

    /// Whether what rows name of an entry is lost for good.
    pub async fn is_lost(&self, index: LogIndex) -> Result<bool, FsError> {
        Ok(self.kept_area(index).await?.is_some_and(|area| *area == *LOST_AREA))
    }

    /// The data area of an entry that the store keeps: it came with a state, or had to leave the log.
    pub(super) async fn kept_area(&self, index: LogIndex) -> Result<Option<Rc<[u8]>>, FsError> {
        if !self.has_areas.get() {
            return Ok(None);
        }
        let mut pins = Pins::default();
        loop {
            match self.store.get(&area_key(index.get()), Timestamp::MAX) {
                Lookup::Found(area) => return Ok(Some(area)),
                Lookup::Absent => return Ok(None),
                Lookup::Miss(fetch) => pins.merge(self.fetch(&fetch).await?),
            }
        }
    }
}
