//! Which core holds which region.
//!
//! At start each core gets an equal share of the regions that hold nothing; a core that runs low
//! takes half of what another has. So a reservation is decided on the core alone.
//!
//! Invariant: a region is in one core's pool, or held by one core's space, never both.

use crate::messages::{CoreReply, CoreRequest};
use crate::peers::Peers;
use cfs_seam::{Class, Io, World, spawn};
use cfs_segment::{CellOwner, CellRef, RegionGrants, RegionLayout};
use cfs_types::CoreId;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A core whose pool is smaller asks the others for more.
const POOL_LOW: usize = 2;

/// This core's share of the ungranted regions, and the holders of the others'.
pub struct RegionPool {
    world: World,
    peers: Rc<Peers>,
    layout: RegionLayout,
    pool: RefCell<BTreeSet<u32>>,
    /// Regions with cells at start, by the core that holds them.
    holders: RefCell<BTreeMap<u32, CoreId>>,
}

impl RegionPool {
    /// Empty until [`RegionPool::start`].
    pub fn new(world: World, peers: Rc<Peers>, layout: RegionLayout) -> Rc<Self> {
        Rc::new(RegionPool { world, peers, layout, pool: RefCell::default(), holders: RefCell::default() })
    }

    /// Takes this core's share and the table of holders at start.
    pub fn start(&self, pool: BTreeSet<u32>, holders: BTreeMap<u32, CoreId>) {
        *self.pool.borrow_mut() = pool;
        *self.holders.borrow_mut() = holders;
    }

    /// Gives half of the pool to another core.
    pub fn give_half(&self) -> Vec<u32> {
        let mut pool = self.pool.borrow_mut();
        let half = pool.len() / 2;
        (0..half).filter_map(|_| pool.pop_last()).collect()
    }

    /// Asks the other cores for regions while the pool is low.
    pub async fn replenish(&self) {
        for core in (0..self.peers.cores()).map(CoreId::new) {
            if self.pool.borrow().len() >= POOL_LOW {
                return;
            }
            if core == self.peers.me() {
                continue;
            }
            if let CoreReply::Granted(regions) = self.peers.call(core, CoreRequest::TakeRegions).await {
                self.pool.borrow_mut().extend(regions);
            }
        }
    }
}

/// The pool as the space's source of regions.
pub struct Grants(pub Rc<RegionPool>);

impl RegionGrants for Grants {
    fn grant(&self) -> Io<Option<u32>> {
        Io::ready(self.0.pool.borrow_mut().pop_first())
    }

    fn give_back(&self, region: u32) {
        self.0.holders.borrow_mut().remove(&region);
        let fresh = self.0.pool.borrow_mut().insert(region);
        assert!(fresh, "region {region} was given back twice");
    }

    fn ungranted(&self) -> u32 {
        u32::try_from(self.0.pool.borrow().len()).expect("region numbers are 32 bits")
    }

    fn retire_elsewhere(&self, owner: CellOwner, cell: CellRef) {
        let region = self.0.layout.locate(cell).map(|(segment, _)| segment.region());
        let holder = region.and_then(|r| self.0.holders.borrow().get(&r).copied());
        let Some(holder) = holder else { return };
        let peers = self.0.peers.clone();
        let task = async move {
            peers.call(holder, CoreRequest::Retire(owner, cell)).await;
        };
        spawn(&self.0.world.tasks, Class::Background, task).detach();
    }
}
