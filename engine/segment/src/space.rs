//! The space of one core on one device.

mod closed;
mod flush;
mod vacate;
mod write;

use crate::book::{Book, BookError};
use crate::failure::Failure;
use crate::pending::Pending;
use crate::{
    CellOwner, CellRef, Floors, Lifetime, Purpose, RegionGrants, RegionHeader, RegionLayout, SegmentId, SegmentTable,
    TableError, UNIT_BYTES, Usage, checksum,
};
use cfs_seam::{Disk, DiskError, Io, IoBuf, IoDone};
use cfs_types::PlaceName;
use flush::Flushes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Waker};
pub use vacate::Leaving;
use write::Orphan;

/// Settings of one space.
#[derive(Clone, Debug)]
pub struct SpaceConfig {
    /// Where the regions lie.
    pub layout: RegionLayout,
    /// What is kept for tables and for cleaning.
    pub floors: Floors,
    /// Whether freed segments are discarded on the device.
    pub discard: bool,
    /// Rises with every start of the server; segment generations continue from `start` << 32.
    pub start: u32,
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpaceError {
    /// What is left is kept for more urgent purposes. Cleaning or deleting may help.
    #[error("no space left for this purpose")]
    NoSpace,
    /// The bytes at this device offset are not what the owner wrote. Retrying does not help.
    #[error("damage: {owner} at {}", PlaceName(*offset))]
    Damaged {
        /// Whose bytes they should be.
        owner: CellOwner,
        /// Where, bytes from the start of the device.
        offset: u64,
    },
    /// The device failed a read; it may be retried.
    #[error("reading at {}: {error}", PlaceName(*offset))]
    Read {
        /// Where, bytes.
        offset: u64,
        /// What the device said.
        error: DiskError,
    },
    /// A write or flush failed, now or earlier: nothing more can be made durable.
    #[error("the device failed a write or flush: {0}")]
    Failed(DiskError),
    /// A record names a cell that lies in no segment, or a range beyond its cell.
    #[error("{owner} names {cell:?}, which does not exist")]
    OutOfBounds {
        /// Whose record it is.
        owner: CellOwner,
        /// The cell it names.
        cell: CellRef,
    },
    /// Two durable records name the same units.
    #[error("{owner} and {other} both claim {cell:?}")]
    Overlap {
        /// The later claim.
        owner: CellOwner,
        /// The earlier one.
        other: CellOwner,
        /// The cell of the later claim.
        cell: CellRef,
    },
    /// The cell is not live under that name: it was retired before.
    #[error("{owner} has no {cell:?}")]
    NotLive {
        /// The name used.
        owner: CellOwner,
        /// The cell.
        cell: CellRef,
    },
}

/// A cell that was written, durable after the next [`Space::sync`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Where it lies.
    pub cell: CellRef,
    /// [`checksum`] of each of its units, in order.
    pub checksums: Vec<u32>,
}

#[derive(Default)]
struct Foreign {
    pins: u32,
    retired: Vec<(CellOwner, CellRef)>,
}

struct State {
    book: Book,
    flushes: Flushes,
    granting: Pending<Option<u32>>,
    /// Discards in flight; any waiter may reap them.
    discards: Vec<(SegmentId, Io<Result<(), DiskError>>)>,
    /// Writes whose caller went away before they completed.
    orphans: Vec<Orphan>,
    /// Segments of other cores that this one reads.
    foreign: BTreeMap<SegmentId, Foreign>,
    failed: Failure,
    started: bool,
}

struct Inner {
    disk: Rc<dyn Disk>,
    grants: Rc<dyn RegionGrants>,
    layout: RegionLayout,
    state: RefCell<State>,
    refused_reads: Cell<u64>,
}

/// One core's space on one device. Clones are handles to the same space.
#[derive(Clone)]
pub struct Space {
    inner: Rc<Inner>,
}

impl Space {
    /// A space without cells: claim what durable records name, then [`Space::start`].
    pub fn new(disk: Rc<dyn Disk>, grants: Rc<dyn RegionGrants>, config: SpaceConfig) -> Self {
        let generation = u64::from(config.start) << 32;
        let layout = config.layout;
        let state = State {
            book: Book::new(layout.clone(), config.floors, config.discard, generation),
            flushes: Flushes::default(),
            granting: Pending::default(),
            discards: Vec::new(),
            orphans: Vec::new(),
            foreign: BTreeMap::new(),
            failed: Failure::default(),
            started: false,
        };
        let state = RefCell::new(state);
        Space { inner: Rc::new(Inner { disk, grants, layout, state, refused_reads: Cell::new(0) }) }
    }

    /// The write or flush that failed, if one did: the process must stop.
    pub fn failed(&self) -> Option<DiskError> {
        self.inner.state.borrow().failed.get()
    }

    /// Resolves when a write or flush fails; never otherwise.
    pub fn wait_failed(&self) -> Io<()> {
        self.inner.state.borrow_mut().failed.wait()
    }

    /// Takes a cell that a durable record names, and the region it lies in. Errors mean that the
    /// records are damaged. Panics after [`Space::start`].
    pub fn claim(&self, owner: CellOwner, cell: CellRef) -> Result<(), SpaceError> {
        let mut state = self.inner.state.borrow_mut();
        assert!(!state.started, "cells are claimed before the space starts");
        state.book.claim(owner, cell).map_err(|e| Self::book_error(e, owner, cell))
    }
    fn book_error(error: BookError, owner: CellOwner, cell: CellRef) -> SpaceError {
        match error {
            BookError::OutOfBounds => SpaceError::OutOfBounds { owner, cell },
            BookError::Overlap(other) => SpaceError::Overlap { owner, other, cell },
            BookError::NotLive => SpaceError::NotLive { owner, cell },
        }
    }
    /// Ends claiming: from now on units that nobody claimed are free.
    pub fn start(&self) {
        self.inner.state.borrow_mut().started = true;
    }
    /// Regions this core holds; whoever grants regions must not grant these.
    pub fn held_regions(&self) -> BTreeSet<u32> {
        self.inner.state.borrow().book.held()
    }
    /// Where regions and segments lie.
    pub fn layout(&self) -> &RegionLayout {
        &self.inner.layout
    }

    /// Reads `units` units of a cell from its `first_unit` on and verifies them against
    /// `checksums`, those of just these units.
    ///
    /// The cell is pinned from the call on (not from the first poll): look its place up and call
    /// this without an await between, and no retirement can pull it away. Dropping the future is
    /// safe.
    pub fn read(
        &self,
        owner: CellOwner,
        cell: CellRef,
        checksums: &[u32],
        first_unit: u32,
        units: u32,
    ) -> impl Future<Output = Result<IoBuf, SpaceError>> + 'static {
        let checksums = checksums.to_vec();
        let reading = self.read_unverified(owner, cell, first_unit, units);
        async move {
            let buf = reading.await?;
            let mut offset = cell.offset() + u64::from(first_unit) * UNIT_BYTES as u64;
            if checksums.len() * UNIT_BYTES != buf.len() {
                return Err(SpaceError::OutOfBounds { owner, cell });
            }
            for ((block, bytes), expected) in (first_unit..).zip(buf.chunks(UNIT_BYTES)).zip(checksums) {
                if checksum(owner, block, bytes) != expected {
                    return Err(SpaceError::Damaged { owner, offset });
                }
                offset += UNIT_BYTES as u64;
            }
            Ok(buf)
        }
    }

    /// Reads a whole cell and tells which of its units are not what was written, by `checksums` of all of them.
    /// Pins the cell as [`Space::read`] does.
    pub fn verify(
        &self,
        owner: CellOwner,
        cell: CellRef,
        checksums: &[u32],
    ) -> impl Future<Output = Result<Vec<u32>, SpaceError>> + 'static {
        let (checksums, reading) = (checksums.to_vec(), self.read_unverified(owner, cell, 0, cell.units()));
        async move {
            let buf = reading.await?;
            if checksums.len() * UNIT_BYTES != buf.len() {
                return Err(SpaceError::OutOfBounds { owner, cell });
            }
            let units = (0..cell.units()).zip(buf.chunks(UNIT_BYTES)).zip(checksums);
            let wrong = units.filter(|((unit, bytes), expected)| checksum(owner, *unit, bytes) != *expected);
            Ok(wrong.map(|((unit, _), _)| unit).collect())
        }
    }

    /// Like [`Space::read`], for owners whose bytes carry their own checksums.
    pub fn read_unverified(
        &self,
        owner: CellOwner,
        cell: CellRef,
        first_unit: u32,
        units: u32,
    ) -> impl Future<Output = Result<IoBuf, SpaceError>> + 'static {
        let reading = self.begin_read(owner, cell, first_unit, units);
        let inner = self.inner.clone();
        async move {
            let (offset, io, _pin) = reading?;
            let done = io.await;
            done.result.map_err(|error| {
                inner.refused_reads.set(inner.refused_reads.get() + 1);
                SpaceError::Read { offset, error }
            })?;
            Ok(done.buf)
        }
    }
    fn begin_read(
        &self,
        owner: CellOwner,
        cell: CellRef,
        first_unit: u32,
        units: u32,
    ) -> Result<(u64, Io<IoDone>, ReadPin), SpaceError> {
        let inside = first_unit.checked_add(units).is_some_and(|end| units > 0 && end <= cell.units());
        let (segment, _) =
            self.inner.layout.locate(cell).filter(|_| inside).ok_or(SpaceError::OutOfBounds { owner, cell })?;
        let mut state = self.inner.state.borrow_mut();
        let foreign = !state.book.holds(segment.region());
        if foreign {
            state.foreign.entry(segment).or_default().pins += 1;
        } else if !state.book.pin(segment) {
            return Err(SpaceError::NotLive { owner, cell });
        }
        drop(state);
        let pin = ReadPin { space: self.clone(), segment, foreign };
        let offset = cell.offset() + u64::from(first_unit) * UNIT_BYTES as u64;
        let bytes = usize::try_from(units).expect("at most 512") * UNIT_BYTES;
        Ok((offset, self.inner.disk.read(offset, IoBuf::stale(bytes)), pin))
    }

    /// Gives a cell back. Only once nothing durable names it any more.
    pub fn retire(&self, owner: CellOwner, cell: CellRef) -> Result<(), SpaceError> {
        let (segment, _) = self.inner.layout.locate(cell).ok_or(SpaceError::OutOfBounds { owner, cell })?;
        let mut state = self.inner.state.borrow_mut();
        if state.book.holds(segment.region()) {
            let freed = state.book.retire(owner, cell).map_err(|e| Self::book_error(e, owner, cell))?;
            drop(state);
            self.after_release(freed);
        } else if let Some(foreign) = state.foreign.get_mut(&segment) {
            foreign.retired.push((owner, cell));
        } else {
            drop(state);
            self.inner.grants.retire_elsewhere(owner, cell);
        }
        Ok(())
    }

    /// So many units of a live cell are dead: what is left is written again when its segment is cleaned. A hint, for
    /// what [`Space::victim`] chooses and [`Space::usage`] says. False where this core does not hold the cell.
    pub fn note_dead(&self, owner: CellOwner, cell: CellRef, dead: u32) -> bool {
        self.inner.state.borrow_mut().book.note_dead(owner, cell, dead).is_ok()
    }

    /// Units left over in the fullest open segment of a class: a cell that may be of any length fills it. 0 where
    /// there is none. Others may fill it first.
    pub fn tail(&self, class: Lifetime) -> u32 {
        self.inner.state.borrow().book.tail(class)
    }

    /// Starts the discard of a freed segment, or gives regions back.
    fn after_release(&self, freed: Option<SegmentId>) {
        if let Some(segment) = freed {
            let offset = self.inner.layout.data_unit(segment) * UNIT_BYTES as u64;
            let bytes = self.inner.layout.table_offset(segment) - offset;
            let io = self.inner.disk.discard(offset, bytes);
            self.inner.state.borrow_mut().discards.push((segment, io));
        }
        self.reap(&mut Context::from_waker(Waker::noop()));
        // The poll above took the place of a waiter's waker: let waiters register again.
        self.inner.state.borrow_mut().granting.wake_all();
    }

    /// Collects discards and abandoned writes that have completed.
    fn reap(&self, cx: &mut Context<'_>) {
        let mut freed = Vec::new();
        let mut state = self.inner.state.borrow_mut();
        let state = &mut *state;
        write::reap_orphans(state, cx, &mut freed);
        for segment in freed {
            let offset = self.inner.layout.data_unit(segment) * UNIT_BYTES as u64;
            let bytes = self.inner.layout.table_offset(segment) - offset;
            state.discards.push((segment, self.inner.disk.discard(offset, bytes)));
        }
        let book = &mut state.book;
        state.discards.retain_mut(|(segment, io)| match std::pin::Pin::new(io).poll(cx) {
            std::task::Poll::Ready(result) => {
                book.discarded(*segment, result.is_ok());
                false
            }
            std::task::Poll::Pending => true,
        });
        while let Some(region) = book.surplus() {
            self.inner.grants.give_back(region);
        }
        while book.drop_closed() {}
    }

    fn unpin(&self, segment: SegmentId) {
        let freed = self.inner.state.borrow_mut().book.unpin(segment);
        self.after_release(freed);
    }
    fn unpin_foreign(&self, segment: SegmentId) {
        let mut state = self.inner.state.borrow_mut();
        let foreign = state.foreign.get_mut(&segment).expect("pinned");
        foreign.pins -= 1;
        if foreign.pins == 0 {
            let retired = state.foreign.remove(&segment).map(|f| f.retired).unwrap_or_default();
            drop(state);
            retired.into_iter().for_each(|(owner, cell)| self.inner.grants.retire_elsewhere(owner, cell));
        }
    }

    /// Sets space aside, so that what is decided now can be written later; None where it would
    /// eat into what is kept for more urgent purposes. Hold it until the writing is done.
    pub fn reserve(&self, purpose: Purpose, units: u64) -> Option<Reservation> {
        let ungranted = self.inner.grants.ungranted();
        let granted = self.inner.state.borrow_mut().book.reserve(purpose, units, ungranted);
        granted.then(|| Reservation { space: self.clone(), units })
    }

    /// Lets go of a held region without cells, if there is one: it is the caller's to grant.
    pub fn drop_free_region(&self) -> Option<u32> {
        self.inner.state.borrow_mut().book.drop_free()
    }

    /// Where the space went.
    pub fn usage(&self) -> Usage {
        self.inner.state.borrow().book.usage(self.inner.grants.ungranted())
    }

    /// Live units on each member of the pool that this core holds regions of.
    pub fn live_by_member(&self) -> BTreeMap<u16, u64> {
        self.inner.state.borrow().book.live_by_member()
    }

    /// Reads of cells that the device refused; some of them were tried again.
    pub fn refused_reads(&self) -> u64 {
        self.inner.refused_reads.get()
    }

    /// The segment that is best cleaned next, with its live cells; None where cleaning gains
    /// nothing, or of no segment `gain_min` units. Have each owner write its cell elsewhere, make that durable, retire the old one.
    pub fn victim(&self, gain_min: u32) -> Option<Victim> {
        let (segment, live) = self.inner.state.borrow_mut().book.victim(gain_min)?;
        Some(Victim { segment, live, space: self.clone(), movable: true })
    }

    /// Lets [`Space::victim`] choose again what could not be moved.
    pub fn retry_unmoved(&self) {
        self.inner.state.borrow_mut().book.retry_unmoved();
    }

    /// Reads and verifies a segment's table (fsck, rebuild). The outer error is the device's.
    pub async fn read_table(&self, segment: SegmentId) -> Result<Result<SegmentTable, TableError>, SpaceError> {
        let buf = self.read_at(self.inner.layout.table_offset(segment), crate::table::TABLE_BYTES).await?;
        Ok(SegmentTable::decode(&buf, segment))
    }
    /// Reads and verifies a region's header (fsck). The outer error is the device's.
    pub async fn read_region_header(&self, region: u32) -> Result<Result<RegionHeader, TableError>, SpaceError> {
        let buf = self.read_at(self.inner.layout.region_offset(region), UNIT_BYTES).await?;
        Ok(RegionHeader::decode(&buf, region))
    }
    async fn read_at(&self, offset: u64, bytes: usize) -> Result<IoBuf, SpaceError> {
        let done = self.inner.disk.read(offset, IoBuf::stale(bytes)).await;
        done.result.map_err(|error| SpaceError::Read { offset, error })?;
        Ok(done.buf)
    }
}

struct ReadPin {
    space: Space,
    segment: SegmentId,
    foreign: bool,
}

impl Drop for ReadPin {
    fn drop(&mut self) {
        if self.foreign {
            self.space.unpin_foreign(self.segment);
        } else {
            self.space.unpin(self.segment);
        }
    }
}

/// Space set aside; dropping it gives it up.
pub struct Reservation {
    space: Space,
    units: u64,
}

impl Reservation {
    /// Units set aside.
    pub fn units(&self) -> u64 {
        self.units
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.inner.state.borrow_mut().book.release(self.units);
    }
}

/// A segment to clean. While it lives the segment is not chosen again.
pub struct Victim {
    /// The segment.
    pub segment: SegmentId,
    /// Its live cells when it was chosen, in order of place.
    pub live: Vec<(CellOwner, CellRef)>,
    space: Space,
    movable: bool,
}

impl Victim {
    /// None of its cells could be moved: it is not chosen again before [`Space::retry_unmoved`].
    pub fn cannot_be_moved(&mut self) {
        self.movable = false;
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.space.inner.state.borrow_mut().book.cleaned(self.segment, self.movable);
    }
}
