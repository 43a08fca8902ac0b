//! Emptying a region that another core needs more.

use super::{Reservation, Space, SpaceError};
use crate::{CellOwner, CellRef, Purpose, SEGMENT_UNITS};
use std::future::poll_fn;
use std::task::Poll;

/// A region that is being emptied. Nothing new is written there while this lives; dropped, the region
/// is in use again, with what is still alive in it.
pub struct Leaving {
    space: Space,
    region: u32,
    /// The region has left.
    gone: bool,
    _for_what_moves: Reservation,
}

impl Space {
    /// Begins to empty the region with the least alive. None where this core could then not write
    /// `promised` units and what has to move, beside what is kept back.
    ///
    /// Have each owner write its cell elsewhere, as with [`Space::victim`], then await [`Leaving::left`].
    pub async fn vacate(&self, promised: u64) -> Result<Option<Leaving>, SpaceError> {
        let Some(leaving) = self.begin_leaving(promised) else { return Ok(None) };
        self.seal(|book| book.open_in(leaving.region)).await?;
        Ok(Some(leaving))
    }

    fn begin_leaving(&self, promised: u64) -> Option<Leaving> {
        let (region, live) = {
            let mut state = self.inner.state.borrow_mut();
            let (region, live) = state.book.cheapest()?;
            state.book.begin_leaving(region);
            (region, live)
        };
        // A segment more: one is begun for what moves, and one is left unfinished.
        let needed = live.next_multiple_of(u64::from(SEGMENT_UNITS)) + u64::from(SEGMENT_UNITS);
        let enough = self.reserve(Purpose::Data, promised + needed).is_some();
        let reserved = if enough { self.reserve(Purpose::Data, live) } else { None };
        let Some(reserved) = reserved else {
            self.inner.state.borrow_mut().book.stay(region);
            return None;
        };
        Some(Leaving { space: self.clone(), region, gone: false, _for_what_moves: reserved })
    }
}

impl Leaving {
    /// What is still alive there, in order of place.
    pub fn live(&self) -> Vec<(CellOwner, CellRef)> {
        self.space.inner.state.borrow().book.live_in(self.region)
    }

    /// Resolves once nothing is alive there, read or discarded: the region is the caller's to grant.
    pub async fn left(mut self) -> u32 {
        let space = self.space.clone();
        poll_fn(|cx| {
            space.reap(cx);
            let mut state = space.inner.state.borrow_mut();
            if state.book.end_leaving(self.region) {
                return Poll::Ready(());
            }
            state.granting.register(cx);
            Poll::Pending
        })
        .await;
        self.gone = true;
        self.region
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut state = self.space.inner.state.borrow_mut();
        if !self.gone {
            state.book.stay(self.region);
        }
        // Whoever waits for a segment may take one of these; and `left` may have taken a waiter's place.
        state.granting.wake_all();
    }
}
