//! Writing cells, and the headers and tables that go with them.

use super::{Inner, Space, SpaceError, State, Written};
use crate::book::{Book, Place};
use crate::{
    CELL_UNITS_MAX, CellOwner, CellRef, Lifetime, Purpose, RegionHeader, SegmentId, SegmentTable, UNIT_BYTES, checksum,
};
use cfs_seam::{Durability, Io, IoBuf, IoDone};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A write whose caller went away: its segment stays pinned until the device is done with it.
pub(super) struct Orphan {
    io: Io<IoDone>,
    segment: SegmentId,
    cell: Option<(CellOwner, CellRef)>,
}

/// Polls abandoned writes; what they wrote is garbage. Segments to discard go to `freed`.
pub(super) fn reap_orphans(state: &mut State, cx: &mut Context<'_>, freed: &mut Vec<SegmentId>) {
    let State { orphans, book, failed, .. } = state;
    orphans.retain_mut(|orphan| {
        let Poll::Ready(done) = Pin::new(&mut orphan.io).poll(cx) else { return true };
        if let Err(error) = done.result {
            failed.set(error);
        }
        if let Some((owner, cell)) = orphan.cell {
            book.retire(owner, cell).expect("an abandoned cell is live");
        }
        freed.extend(book.unpin(orphan.segment));
        false
    });
}

/// A write in flight on a pinned segment. Dropped before it completes, it becomes an orphan.
struct InFlight {
    space: Space,
    io: Option<Io<IoDone>>,
    segment: SegmentId,
    cell: Option<(CellOwner, CellRef)>,
}

impl InFlight {
    async fn done(mut self) -> Result<(), SpaceError> {
        let result = match self.io.as_mut() {
            Some(io) => io.await.result,
            None => return Ok(()),
        };
        self.io = None;
        let mut state = self.space.inner.state.borrow_mut();
        state.flushes.completed += 1;
        if let Err(error) = result {
            state.failed.set(error);
        }
        if let (Err(_), Some((owner, cell))) = (result, self.cell) {
            state.book.retire(owner, cell).expect("a cell being written is live");
        }
        drop(state);
        self.space.unpin(self.segment);
        result.map_err(SpaceError::Failed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(io) = self.io.take() {
            let orphan = Orphan { io, segment: self.segment, cell: self.cell };
            self.space.inner.state.borrow_mut().orphans.push(orphan);
        }
    }
}

/// Passes the polling on when a waiter goes away.
struct Waiting<'a>(&'a Inner);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().granting.wake_all();
    }
}

impl Space {
    /// Writes a cell: `data` is padded with zeros to whole units, 1 byte to 2 MiB. Not durable
    /// before [`Space::sync`]. The cell is the caller's until retired; if the future is dropped,
    /// what it wrote is garbage. Panics where `data` is empty or longer than 2 MiB.
    pub async fn write(&self, owner: CellOwner, class: Lifetime, data: IoBuf) -> Result<Written, SpaceError> {
        self.write_for(class.into(), owner, class, data).await
    }

    /// The same for another purpose than the class suggests: what may be written although hardly any space is left.
    pub async fn write_for(
        &self,
        purpose: Purpose,
        owner: CellOwner,
        class: Lifetime,
        mut data: IoBuf,
    ) -> Result<Written, SpaceError> {
        let len = data.len();
        let padded = len.next_multiple_of(UNIT_BYTES);
        data.set_len(padded);
        data[len..].fill(0);
        let units = u32::try_from(padded / UNIT_BYTES).unwrap_or(u32::MAX);
        assert!((1..=CELL_UNITS_MAX).contains(&units), "a cell is 1 byte to 2 MiB");
        let checksums: Vec<u32> =
            (0..units).zip(data.chunks(UNIT_BYTES)).map(|(block, bytes)| checksum(owner, block, bytes)).collect();
        let (cell, writes) = loop {
            match self.try_place(purpose, owner, class, &checksums)? {
                Place::Done { cell, segment, sealed, headless } => {
                    let mut writes: Vec<InFlight> = sealed.map(|table| self.write_table(table)).into_iter().collect();
                    writes.extend(headless.map(|generation| self.write_header(segment, generation, class)));
                    writes.push(self.in_flight(segment, Some((owner, cell)), cell.offset(), data, class));
                    break (cell, writes);
                }
                Place::NeedSegment => self.obtain().await?,
                Place::Refused => return Err(SpaceError::NoSpace),
            }
        };
        finish(writes).await?;
        Ok(Written { cell, checksums })
    }

    fn try_place(
        &self,
        purpose: Purpose,
        owner: CellOwner,
        class: Lifetime,
        checksums: &[u32],
    ) -> Result<Place, SpaceError> {
        let ungranted = self.inner.grants.ungranted();
        let mut state = self.inner.state.borrow_mut();
        assert!(state.started, "cells are claimed before any is written");
        if let Some(error) = state.failed.get() {
            return Err(SpaceError::Failed(error));
        }
        Ok(state.book.place(purpose, owner, class, checksums, ungranted))
    }

    fn in_flight(
        &self,
        segment: SegmentId,
        cell: Option<(CellOwner, CellRef)>,
        offset: u64,
        buf: IoBuf,
        class: Lifetime,
    ) -> InFlight {
        let io = Some(self.inner.disk.write(offset, buf, Durability::Flush, class));
        InFlight { space: self.clone(), io, segment, cell }
    }
    fn write_table(&self, table: SegmentTable) -> InFlight {
        let offset = self.inner.layout.table_offset(table.segment);
        self.in_flight(table.segment, None, offset, table.encode(), table.class)
    }
    fn write_header(&self, segment: SegmentId, generation: u64, class: Lifetime) -> InFlight {
        let pinned = self.inner.state.borrow_mut().book.pin(segment);
        assert!(pinned, "the segment was opened just now");
        let region = segment.region();
        let header = RegionHeader { region, generation }.encode();
        self.in_flight(segment, None, self.inner.layout.region_offset(region), header, class)
    }

    /// Waits for a discard to end or for a region to be granted. NoSpace where there is neither.
    async fn obtain(&self) -> Result<(), SpaceError> {
        let waiting = Waiting(&self.inner);
        poll_fn(|cx| {
            let before = waiting.0.state.borrow().discards.len();
            self.reap(cx);
            if before > 0 {
                let mut state = waiting.0.state.borrow_mut();
                if state.discards.len() < before {
                    return Poll::Ready(Ok(()));
                }
                state.granting.register(cx);
                return Poll::Pending;
            }
            self.poll_grant(cx)
        })
        .await
    }

    /// One grant at a time serves all who wait: each looks again for a place afterwards.
    fn poll_grant(&self, cx: &mut Context<'_>) -> Poll<Result<(), SpaceError>> {
        let mut state = self.inner.state.borrow_mut();
        if state.book.has_free() {
            return Poll::Ready(Ok(()));
        }
        if state.granting.is_idle() {
            state.granting.start(self.inner.grants.grant());
        }
        match state.granting.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Err(SpaceError::NoSpace)),
            Poll::Ready(Some(region)) => {
                state.book.adopt(region, false);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Seals open segments that were not written to since the last call, writing their tables.
    /// For a slow timer: what is sealed can be cleaned and checked.
    pub async fn seal_idle(&self) -> Result<(), SpaceError> {
        self.seal(|book| book.sealable(true)).await
    }
    /// Seals every open segment; for an orderly stop, followed by [`Space::sync`].
    pub async fn seal_all(&self) -> Result<(), SpaceError> {
        self.seal(|book| book.sealable(false)).await
    }
    /// Seals these open segments.
    pub(super) async fn seal(&self, which: impl FnOnce(&mut Book) -> Vec<SegmentId>) -> Result<(), SpaceError> {
        let tables: Vec<SegmentTable> = {
            let mut state = self.inner.state.borrow_mut();
            if let Some(error) = state.failed.get() {
                return Err(SpaceError::Failed(error));
            }
            let open = which(&mut state.book);
            open.into_iter().filter_map(|segment| state.book.seal(segment)).collect()
        };
        let writes = tables.into_iter().map(|table| self.write_table(table)).collect();
        finish(writes).await
    }
}

/// Waits for all writes, also after one has failed.
async fn finish(writes: Vec<InFlight>) -> Result<(), SpaceError> {
    let mut result = Ok(());
    for write in writes {
        result = result.and(write.done().await);
    }
    result
}
