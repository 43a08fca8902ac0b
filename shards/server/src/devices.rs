//! Devices that join and leave while the server serves (docs/decisions/0015-device-pool.md).
//!
//! Core 0 leads: it lays the device out, puts it into the list, has every core take it in, and only then are its regions
//! granted, so that no cell lies where some core could not read it.
//!
//! Invariants: one device joins or leaves at a time; before the first device's superblock changes every core knows the new one, so
//! that a core that marks it as failed does not bring the old one back.

mod retire;

pub use retire::{Retiring, retire, see_off};

use crate::boot::part_of;
use crate::core::Core;
use crate::messages::{CoreReply, CoreRequest};
use crate::seat::Seat;
use cfs_device::{
    Joining, Member, MemberList, MemberState, Pool, Roles, Superblock, Uuid, admit_member, mark_failed, prepare_member,
};
use cfs_exec::Semaphore;
use cfs_seam::{Disk, timeout};
use cfs_segment::SEGMENT_UNITS;
use cfs_types::CoreId;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Longest that a failed device is given to take the note that it failed.
const MARK_TIME_MAX: Duration = Duration::from_secs(5);

/// A device that this process has opened, on its way to the cores.
pub type OpenDevice = Arc<dyn Any + Send + Sync>;

/// How a core uses one; None where it is of a kind that it does not know.
pub type Attach = Rc<dyn Fn(&OpenDevice) -> Option<Rc<dyn Disk>>>;

/// What a core is started with.
pub struct Devices {
    /// Those that there are.
    pub pool: Pool,
    /// How it gets at more.
    pub attach: Attach,
    /// Is told the number of one that has left, once no core has it any more (core 0).
    pub gone: Rc<dyn Fn(u16)>,
}

impl Devices {
    /// These and no others.
    pub fn fixed(pool: Pool) -> Self {
        Devices { pool, attach: Rc::new(|_| None), gone: Rc::new(|_| ()) }
    }
}

/// A device that is to join.
pub struct NewDevice {
    /// It.
    pub device: OpenDevice,
    /// Its path.
    pub seen_at: Vec<u8>,
    /// Destroy what is there.
    pub force: bool,
}

/// Why a device did not join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotAdded {
    /// In words.
    pub why: String,
    /// The list may have it all the same: it must stay where it is.
    pub may_be_listed: bool,
}

impl NotAdded {
    /// The list has nothing of it.
    pub fn left_out(why: impl ToString) -> Self {
        NotAdded { why: why.to_string(), may_be_listed: false }
    }

    /// The list has it, or may have it.
    pub fn in_doubt(why: impl ToString) -> Self {
        NotAdded { why: why.to_string(), may_be_listed: true }
    }
}

/// What a core knows of the devices beside how to read and write them. The list is core 0's.
pub struct Known {
    attach: Attach,
    gone: Rc<dyn Fn(u16)>,
    /// That of the first device.
    pub superblock: Cell<Superblock>,
    list: RefCell<MemberList>,
    /// Held while one joins or leaves (core 0).
    changing: Semaphore,
    /// Held while the first device's superblock is written (core 0).
    writing: Semaphore,
}

impl Known {
    /// At the start.
    pub fn new(attach: Attach, gone: Rc<dyn Fn(u16)>, superblock: Superblock, list: MemberList) -> Self {
        Known {
            attach,
            gone,
            superblock: Cell::new(superblock),
            list: RefCell::new(list),
            changing: Semaphore::new(1),
            writing: Semaphore::new(1),
        }
    }

    /// Those that are being emptied; of other cores than core 0: at the start.
    pub fn retiring(&self) -> Vec<u16> {
        let list = self.list.borrow();
        let retiring = list.members.iter().filter(|member| member.state == MemberState::Retiring);
        retiring.map(|member| member.number).collect()
    }
}

/// Makes a device one of the node's (core 0). What failed before it is in the list has changed nothing but that device.
async fn add(seat: &Rc<Seat>, core: &Rc<Core>, new: NewDevice) -> Result<Member, NotAdded> {
    let known = &seat.known;
    let _turn = known.changing.acquire(1).await;
    let disk = (known.attach)(&new.device).ok_or_else(|| NotAdded::left_out("this server cannot take in devices"))?;
    let (superblock, list) = (known.superblock.get(), known.list.borrow().clone());
    let joining = Joining {
        device: Uuid::random(&*core.world.rng),
        roles: Roles::ALL_BUT_LOG,
        force: new.force,
        seen_at: new.seen_at,
    };
    let joined = prepare_member(&superblock, &list, &*disk, &joining).await.map_err(NotAdded::left_out)?;
    drop(disk);
    if core.stopping.get() || core.log.failed().is_some() {
        return Err(NotAdded::left_out("the server stops"));
    }
    for to in cores(core) {
        core.peers.call(to, CoreRequest::FirstDevice(Box::new(joined.first))).await;
    }
    let writing = known.writing.acquire(1).await;
    let admitted = admit_member(&seat.disk, &superblock, &joined).await;
    drop(writing);
    if let Err(error) = admitted {
        let why = format!("writing to the first device: {error}");
        core.log.fail(error).await;
        return Err(NotAdded::in_doubt(why));
    }
    *known.list.borrow_mut() = joined.list;
    let member = joined.member;
    for to in cores(core) {
        let taken = core.peers.call(to, CoreRequest::TakeIn(Box::new(member.clone()), new.device.clone())).await;
        if !matches!(taken, CoreReply::TakenIn(true)) {
            let why = format!("it is in the list, but core {to} does not use it: it will be used after the next start");
            return Err(NotAdded::in_doubt(why));
        }
    }
    share_out(core, &member).await;
    Ok(member)
}

fn cores(core: &Core) -> impl Iterator<Item = CoreId> {
    (0..core.config.cores).map(CoreId::new)
}

/// Gives each core its share of the regions.
async fn share_out(core: &Rc<Core>, member: &Member) {
    let mut shares = vec![Vec::new(); usize::from(core.config.cores)];
    for (n, region) in member.numbers().enumerate() {
        shares[n % usize::from(core.config.cores)].push(region);
    }
    for (to, share) in cores(core).zip(shares) {
        core.peers.call(to, CoreRequest::PoolRegions(share)).await;
    }
}

/// Answers what cores tell one another of devices.
pub async fn answer(seat: &Rc<Seat>, core: &Rc<Core>, request: CoreRequest) -> CoreReply {
    match request {
        CoreRequest::AddDevice(new) => return CoreReply::Added(add(seat, core, *new).await.map(Box::new)),
        CoreRequest::RetireDevice(which) => {
            return CoreReply::Retiring(retire(seat, core, &which).await.map(Box::new));
        }
        CoreRequest::FirstDevice(superblock) => {
            seat.known.superblock.set(*superblock);
            core.log.set_superblock(*superblock);
        }
        CoreRequest::TakeIn(member, device) => return CoreReply::TakenIn(take_in(seat, core, &member, &device)),
        CoreRequest::PoolRegions(regions) => {
            core.regions.add(regions);
            core.full.set(None);
            core.upkeep.notify_all();
        }
        about => return retire::answer(seat, core, about).await,
    }
    CoreReply::Done
}

fn take_in(seat: &Seat, core: &Core, member: &Member, device: &OpenDevice) -> bool {
    let (Some(disk), Some(part)) = ((seat.known.attach)(device), part_of(member)) else { return false };
    core.regions.open(member.number);
    core.space.open_member(member.number);
    seat.pool.add(member.number, disk);
    let is_in = seat.regions.add(part);
    settle_floors(core);
    is_in
}

/// Keeps back what suits the devices that there are now.
fn settle_floors(core: &Core) {
    let floors = core.regions.floors(None);
    core.space.set_floors(floors);
    core.floor_units.set(u64::from(floors.data_segments) * u64::from(SEGMENT_UNITS));
    core.full.set(None);
}

/// Marks the first device as out of service once more, where a core marked it while its superblock was being
/// written anew (core 0): what was written last may be the one without the mark.
pub async fn mark_again(seat: &Seat) {
    let (clock, superblock) = (&seat.world.clock, seat.known.superblock.get());
    if superblock == seat.superblock {
        return;
    }
    let marking = async {
        let _turn = seat.known.writing.acquire(1).await;
        // The device has failed already: whether it takes this one changes nothing here.
        let _failed = mark_failed(&*seat.disk, &superblock).await;
    };
    timeout(clock, clock.now().after(MARK_TIME_MAX), marking).await;
}
