//! Which core holds which region.
//!
//! At start each core gets an equal share of the regions that hold nothing; a core that runs low
//! takes half of what another has, one that must refuse a write without takes the last too, or has another
//! empty a region for it. So a reservation is decided on the core alone.
//!
//! Invariants: a region is in one core's pool, or held by one core's space, never both; one of a device that retires
//! is in no pool. Those of a zone go together, by the number of the first.

use crate::messages::{CoreReply, CoreRequest};
use crate::peers::Peers;
use cfs_exec::Semaphore;
use cfs_seam::{Class, Io, World, spawn};
use cfs_segment::{
    CellOwner, CellRef, Floors, Purpose, RegionGrants, RegionLayout, SEGMENT_UNITS, SEGMENTS_PER_REGION, Space,
};
use cfs_types::CoreId;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A core whose pool is smaller asks the others for more.
const POOL_LOW: usize = 2;
/// Units of data in a region.
const REGION_UNITS: u64 = (SEGMENTS_PER_REGION * SEGMENT_UNITS) as u64;

/// This core's share of the ungranted regions, and the holders of the others'.
pub struct RegionPool {
    world: World,
    peers: Rc<Peers>,
    layout: RegionLayout,
    pool: RefCell<BTreeSet<u32>>,
    /// Devices that retire.
    closed: RefCell<BTreeSet<u16>>,
    /// Regions with cells at start, by the core that holds them.
    holders: RefCell<BTreeMap<u32, CoreId>>,
    /// Held by who asks in need, so that what one was given serves the others.
    in_need: Semaphore,
}

impl RegionPool {
    /// Empty until [`RegionPool::start`].
    pub fn new(world: World, peers: Rc<Peers>, layout: RegionLayout) -> Rc<Self> {
        Rc::new(RegionPool {
            world,
            peers,
            layout,
            pool: RefCell::default(),
            closed: RefCell::default(),
            holders: RefCell::default(),
            in_need: Semaphore::new(1),
        })
    }

    /// Takes this core's share and the table of holders at start.
    pub fn start(&self, pool: BTreeSet<u32>, holders: BTreeMap<u32, CoreId>) {
        self.add(pool);
        *self.holders.borrow_mut() = holders;
    }

    /// Takes in regions that nobody holds, but for those of devices that retire.
    pub fn add(&self, regions: impl IntoIterator<Item = u32>) {
        let granted = regions.into_iter().filter(|region| self.is_granted(*region));
        self.pool.borrow_mut().extend(granted);
    }

    fn is_granted(&self, region: u32) -> bool {
        self.layout.part_of(region).is_some_and(|part| !self.is_closed(part.member()))
    }

    /// Whether the device retires.
    pub fn is_closed(&self, member: u16) -> bool {
        self.closed.borrow().contains(&member)
    }

    /// No region of the device is granted from now on.
    pub fn close(&self, member: u16) {
        self.closed.borrow_mut().insert(member);
        self.pool.borrow_mut().retain(|region| self.is_granted(*region));
    }

    /// Another device has that number now.
    pub fn open(&self, member: u16) {
        self.closed.borrow_mut().remove(&member);
    }

    /// Regions in the pool that are not of that device.
    pub fn pooled_beside(&self, member: u16) -> u32 {
        let pool = self.pool.borrow();
        let beside = pool.iter().filter(|region| self.layout.part_of(**region).is_some_and(|p| p.member() != member));
        u32::try_from(beside.count()).expect("region numbers are 32 bits")
    }

    /// What this core keeps back of its share of the devices that are not retiring, nor the one given.
    pub fn floors(&self, beside: Option<u16>) -> Floors {
        let parts = self.layout.parts();
        let staying = parts.iter().filter(|part| !self.is_closed(part.member()) && Some(part.member()) != beside);
        let regions: u32 = staying.map(|part| part.regions()).sum();
        let segments = regions.saturating_mul(SEGMENTS_PER_REGION) / u32::from(self.peers.cores());
        match self.layout.zones() {
            Some(zones) => Floors::of_zones(segments, zones.regions * SEGMENTS_PER_REGION),
            None => Floors::of_share(segments),
        }
    }

    /// Takes a region out of the pool: of the device of whose regions the largest share is there, so that devices
    /// of different sizes fill evenly.
    fn take(&self) -> Option<u32> {
        let mut pool = self.pool.borrow_mut();
        let parts = self.layout.parts();
        let fullest = parts.iter().max_by_key(|part| {
            let there = u64::try_from(pool.range(part.numbers()).count()).expect("32 bits");
            // Of equals the first one.
            ((there << 32) / u64::from(part.regions()).max(1), Reverse(part.member()))
        });
        let region = *pool.range(fullest?.numbers()).next()?;
        pool.remove(&region).then_some(region)
    }

    /// Units of data in what is granted together.
    fn grant_units(&self) -> u64 {
        REGION_UNITS * u64::from(self.layout.grant_regions())
    }

    /// Gives half of the pool to another core. One that is in need gets the last of it too, or else a held
    /// region without cells: as long as this core could still write what it has `promised`, units, beside
    /// what is kept back.
    pub fn give(&self, space: &Space, is_in_need: bool, promised: u64) -> Vec<u32> {
        let pooled = self.pool.borrow().len();
        let half = if is_in_need { pooled.div_ceil(2).max(1) } else { pooled / 2 };
        let mut given = Vec::new();
        while given.len() < half && space.reserve(Purpose::Data, promised + self.grant_units()).is_some() {
            let pooled = self.take();
            let Some(region) = pooled.or_else(|| space.drop_free_region()) else { break };
            given.push(region);
        }
        given
    }

    /// Asks the other cores for regions while the pool is low.
    pub async fn replenish(&self) {
        self.ask(POOL_LOW, false).await;
    }

    /// Asks the other cores for a region, without which this one has to refuse a write; not where `helped`
    /// says that one which came meanwhile was enough.
    pub async fn take_one(&self, helped: impl Fn() -> bool) {
        let _turn = self.in_need.acquire(1).await;
        if !helped() {
            let wanted = self.pool.borrow().len() + 1;
            self.ask(wanted, true).await;
        }
    }

    /// The other core whose region a cell lies in, as the start found it.
    pub fn holder(&self, cell: CellRef) -> Option<CoreId> {
        let (segment, _) = self.layout.locate(cell)?;
        self.holders.borrow().get(&segment.region()).copied()
    }

    async fn ask(&self, wanted: usize, is_in_need: bool) {
        for core in (0..self.peers.cores()).map(CoreId::new) {
            if self.pool.borrow().len() >= wanted {
                return;
            }
            if core == self.peers.me() {
                continue;
            }
            let ask = CoreRequest::TakeRegions(is_in_need);
            if let CoreReply::Granted(regions) = self.peers.call(core, ask).await {
                self.add(regions);
            }
        }
    }
}

/// The pool as the space's source of regions.
pub struct Grants(pub Rc<RegionPool>);

impl RegionGrants for Grants {
    fn grant(&self) -> Io<Option<u32>> {
        Io::ready(self.0.take())
    }

    fn give_back(&self, region: u32) {
        let together = self.0.layout.grant_of(region);
        self.0.holders.borrow_mut().retain(|held, _| !together.contains(held));
        if self.0.is_granted(region) {
            let fresh = self.0.pool.borrow_mut().insert(region);
            assert!(fresh, "region {region} was given back twice");
        }
    }

    fn ungranted(&self) -> u32 {
        let granted = u32::try_from(self.0.pool.borrow().len()).expect("region numbers are 32 bits");
        granted * self.0.layout.grant_regions()
    }

    fn retire_elsewhere(&self, owner: CellOwner, cell: CellRef) {
        let Some(holder) = self.0.holder(cell) else { return };
        let peers = self.0.peers.clone();
        let task = async move {
            peers.call(holder, CoreRequest::Retire(owner, cell)).await;
        };
        spawn(&self.0.world.tasks, Class::Background, task).detach();
    }
}
