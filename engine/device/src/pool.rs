//! The devices of a node, found and put together.
//!
//! Invariants: a device joins in the order superblock of its own, superblock of the first, list, so that a cut leaves it
//! out or in, never half; none is used that the list does not have, and none is missing that it has.

use crate::anchor::{AnchorId, Anchors};
use crate::format::lay_out;
use crate::superblock::{MemberPlace, of_a_pool, store};
use crate::{DeviceError, Layout, Member, MemberList, PoolDisk, Roles, Superblock, Uuid};
use cfs_seam::Disk;
use std::rc::Rc;

/// A node's devices as one core has them.
#[derive(Clone)]
pub struct Pool {
    /// That of the first device.
    pub superblock: Superblock,
    /// Which devices there are.
    pub list: MemberList,
    /// The first device, with superblock, anchors and log.
    pub first: Rc<dyn Disk>,
    /// All of them.
    pub disk: Rc<PoolDisk>,
}

/// Why devices are no pool.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PoolError {
    /// A device cannot be read, or what it says cannot be believed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A device of the list is not among those that were given.
    #[error("device {} ({}) of the node is missing: it was last seen at {}", .0.number, .0.device, path_of(.0))]
    Missing(Box<Member>),
    /// The device and the list say different things of it.
    #[error("device {} ({}) says something else of its place than the list of the node's devices", .0.number, .0.device)]
    Contradiction(Box<Member>),
}

/// Where a member was seen last, for people.
pub fn path_of(member: &Member) -> String {
    match member.seen_at.as_slice() {
        [] => "an unknown place".into(),
        path => String::from_utf8_lossy(path).into_owned(),
    }
}

impl Pool {
    /// A device that is alone. None where it has more regions than can be numbered.
    pub fn alone(disk: Rc<dyn Disk>, superblock: Superblock) -> Option<Self> {
        let list = MemberList::alone(&superblock)?;
        Some(Pool { superblock, list, disk: PoolDisk::new(disk.clone()), first: disk })
    }

    /// Puts the first device and others together that were found to be what the list says.
    pub fn of(first: Rc<dyn Disk>, superblock: Superblock, list: MemberList, others: Vec<(u16, Rc<dyn Disk>)>) -> Self {
        let disk = PoolDisk::new(first.clone());
        others.into_iter().for_each(|(number, other)| disk.add(number, other));
        Pool { superblock, list, first, disk }
    }

    /// Puts a first device and those others together that its list names; the rest is left alone. Reads only.
    pub async fn assemble(
        first: Rc<dyn Disk>,
        superblock: Superblock,
        others: Vec<(Superblock, Rc<dyn Disk>)>,
    ) -> Result<Self, PoolError> {
        let list = read_list(&first, &superblock).await?;
        let mut found = Vec::new();
        for member in list.members.iter().filter(|member| member.number > 0) {
            let other = others.iter().find(|(other, _)| other.device == member.device);
            let (other, disk) = other.ok_or_else(|| PoolError::Missing(Box::new(member.clone())))?;
            check_member(&superblock, member, other)?;
            found.push((member.number, disk.clone()));
        }
        Ok(Pool::of(first, superblock, list, found))
    }
}

/// Whether a superblock is that of a member as the list has it.
pub fn check_member(first: &Superblock, member: &Member, superblock: &Superblock) -> Result<(), PoolError> {
    if superblock.node != first.node || !member.is_of(superblock) {
        return Err(PoolError::Contradiction(Box::new(member.clone())));
    }
    Ok(())
}

/// The list of the devices of the node that this is the first device of. Reads only.
pub async fn read_list(first: &Rc<dyn Disk>, superblock: &Superblock) -> Result<MemberList, DeviceError> {
    let anchors = Anchors::new(first.clone(), superblock);
    // A device that was always alone has none; one whose first company was cut off neither.
    let record = match superblock.place {
        Some(_) => anchors.read(AnchorId::MEMBERS).await?,
        None => None,
    };
    let Some(record) = record else {
        return MemberList::alone(superblock).ok_or(DeviceError::BadLayout { reason: "too many regions" });
    };
    let list = MemberList::decode(&record).ok_or(DeviceError::MembersDamaged)?;
    let first = list.members.first().filter(|first| first.is_of(superblock));
    first.ok_or(DeviceError::MembersDamaged)?;
    Ok(list)
}

/// As [`read_list`], then makes both copies of it equal again. Durable when it returns.
pub async fn recover_list(first: &Rc<dyn Disk>, superblock: &Superblock) -> Result<MemberList, DeviceError> {
    let list = read_list(first, superblock).await?;
    if superblock.place.is_some() {
        Anchors::new(first.clone(), superblock).recover(AnchorId::MEMBERS).await?;
    }
    Ok(list)
}

/// Replaces the list, durably. The first device must be one of a pool.
pub async fn write_list(first: &Rc<dyn Disk>, superblock: &Superblock, list: &MemberList) -> Result<(), DeviceError> {
    assert!(superblock.place.is_some(), "only a pool has a list");
    Anchors::new(first.clone(), superblock).write(AnchorId::MEMBERS, &list.encode()).await
}

/// A device that is to join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joining {
    /// What it is called from now on.
    pub device: Uuid,
    /// What it is to be there for.
    pub roles: Roles,
    /// Destroy what is there.
    pub force: bool,
    /// Its path.
    pub seen_at: Vec<u8>,
}

/// A device that has been laid out as a member, which is not in the list yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// That of the first device from now on.
    pub first: Superblock,
    /// The list with it.
    pub list: MemberList,
    /// It.
    pub member: Member,
}

/// Lays out a device as a further one of the node. Nothing of the node is written: [`admit_member`] does that.
pub async fn prepare_member(
    first: &Superblock,
    list: &MemberList,
    disk: &dyn Disk,
    joining: &Joining,
) -> Result<Joined, DeviceError> {
    if first.layout.zone_bytes > 0 || disk.geometry().zoning.is_some() {
        return Err(DeviceError::Zones { reason: "one with zones is the only device of its node" });
    }
    let layout = Layout::of_member(disk.geometry().bytes)?;
    let full = DeviceError::BadOption { reason: "the node has no room for another device" };
    let number = list.free_number().ok_or(full.clone())?;
    let place = MemberPlace { number, roles: joining.roles, first_region: list.next_region };
    let superblock = Superblock {
        cluster: first.cluster,
        node: first.node,
        device: joining.device,
        generation: 1,
        failed: false,
        left: false,
        layout,
        place: Some(place),
    };
    let list = list.with(&superblock, &joining.seen_at).ok_or(full)?;
    let member = list.of_device(joining.device).expect("just added").clone();
    lay_out(disk, superblock, joining.force, &mut |_, _| ()).await?;
    Ok(Joined { first: of_a_pool(first), list, member })
}

/// Puts a prepared device into the list, durably. `first` is the first device, whose superblock is written where
/// it was alone so far.
pub async fn admit_member(first: &Rc<dyn Disk>, superblock: &Superblock, joined: &Joined) -> Result<(), DeviceError> {
    if superblock.place.is_none() {
        store(&**first, &joined.first).await?;
    }
    write_list(first, &joined.first, &joined.list).await
}
