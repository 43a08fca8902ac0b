//! Emptying a member of the pool, so that it can leave.

use super::{Space, SpaceError, Victim};
use crate::{Floors, Room};

impl Space {
    /// Nothing new is written on the member from the call on: whoever grants regions must grant none of it. Resolves
    /// when the segments are sealed that were open there.
    pub fn close_member(&self, member: u16) -> impl Future<Output = Result<(), SpaceError>> + use<> {
        self.inner.state.borrow_mut().book.close_member(member);
        let space = self.clone();
        async move { space.seal(|book| book.open_in_closed()).await }
    }

    /// Another member has that number now.
    pub fn open_member(&self, member: u16) {
        self.inner.state.borrow_mut().book.open_member(member);
    }

    /// A segment of a member that is being emptied, as [`Space::victim`].
    pub fn closed_victim(&self) -> Option<Victim> {
        let (segment, live) = self.inner.state.borrow_mut().book.closed_victim()?;
        Some(Victim { segment, live, space: self.clone(), movable: true })
    }

    /// What this core has on a member, and elsewhere beside `ungranted` regions that are not of it.
    pub fn room(&self, member: u16, ungranted: u32) -> Room {
        self.inner.state.borrow().book.room(member, ungranted)
    }

    /// Regions of a member that this core holds.
    pub fn held_on(&self, member: u16) -> u64 {
        self.after_release(None);
        self.inner.state.borrow().book.held_on(member)
    }

    /// Another share of the devices: what is kept for tables and for cleaning from now on.
    pub fn set_floors(&self, floors: Floors) {
        self.inner.state.borrow_mut().book.set_floors(floors);
    }
}
