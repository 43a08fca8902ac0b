//! Who gives regions to cores.

use crate::{CellOwner, CellRef};
use cfs_seam::Io;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The source of regions. The server implements it over the mesh for several cores.
pub trait RegionGrants {
    /// A region that no core holds, now held by the caller; None when there is none.
    fn grant(&self) -> Io<Option<u32>>;
    /// The caller holds no cell in `region` any more.
    fn give_back(&self, region: u32);
    /// Regions that this core may count on being granted.
    fn ungranted(&self) -> u32;
    /// A cell of a region that another core holds has become garbage: tell that core.
    fn retire_elsewhere(&self, owner: CellOwner, cell: CellRef);
}

/// All regions for one core.
pub struct LocalRegions {
    free: RefCell<BTreeSet<u32>>,
}

impl LocalRegions {
    /// Regions 0 to `regions` - 1, less those in `held` (see [`crate::Space::held_regions`]).
    pub fn new(regions: u32, held: &BTreeSet<u32>) -> Self {
        LocalRegions { free: RefCell::new((0..regions).filter(|r| !held.contains(r)).collect()) }
    }
    /// `region` is held already: the space has claimed a cell in it.
    pub fn take(&self, region: u32) {
        self.free.borrow_mut().remove(&region);
    }
}

impl RegionGrants for LocalRegions {
    fn grant(&self) -> Io<Option<u32>> {
        Io::ready(self.free.borrow_mut().pop_first())
    }
    fn give_back(&self, region: u32) {
        let fresh = self.free.borrow_mut().insert(region);
        assert!(fresh, "region {region} was given back twice");
    }
    fn ungranted(&self) -> u32 {
        u32::try_from(self.free.borrow().len()).expect("region numbers are 32 bits")
    }
    fn retire_elsewhere(&self, owner: CellOwner, cell: CellRef) {
        panic!("{owner} at {cell:?} lies in no region of the only core");
    }
}
