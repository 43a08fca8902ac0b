//! The devices of a store: opened, recognised, put together.
//!
//! Invariant: what is missing or belongs elsewhere is named with its path, and nothing is written before all are
//! there.

use crate::Failure;
use crate::format::{open_locked, refusal};
use crate::place::Target;
use cfs_device::{DeviceError, Member, MemberList, Mended, Pool, PoolError, Superblock, check_member, open_zones};
use cfs_runtime::{CoreConfig, DiskFile, OpenMode, Reactor, RuntimeError, run as run_core};
use cfs_seam::{Disk, World};
use cfs_types::CoreId;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Named stores that are none together.
const SEVERAL: &str = "are stores of their own: a server with several stores is not supported, start one for each, with --listen and --http of its own";

/// What devices are opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// They are written to: copies that are not intact are mended, and devices that are out of service refused.
    Serve,
    /// They are read, and nothing is changed.
    Check,
    /// The same, but for the mark that a device is out of service.
    CheckAndReturn,
}

impl Purpose {
    fn mode(self) -> OpenMode {
        match self {
            Purpose::Serve | Purpose::CheckAndReturn => OpenMode::ReadWrite,
            Purpose::Check => OpenMode::ReadOnly,
        }
    }
}

/// A device that was opened.
#[derive(Clone)]
pub struct Opened {
    /// What the user named, or the list did.
    pub target: Target,
    /// It.
    pub file: DiskFile,
    /// What it says of itself.
    pub superblock: Superblock,
}

/// The devices of a store.
#[derive(Clone)]
pub struct Devices {
    /// The first one, after which the store is named.
    pub first: Opened,
    /// Which there are.
    pub list: MemberList,
    /// The others, by their number.
    pub others: Vec<(u16, Opened)>,
}

impl Devices {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Opened> {
        std::iter::once(&self.first).chain(self.others.iter().map(|(_, other)| other))
    }

    /// As core `core` has them.
    pub async fn attach(&self, world: &World, reactor: &Rc<Reactor>, core: u16) -> Result<Pool, DeviceError> {
        let others = self.others.iter().map(|(number, other)| (*number, other.file.attach(reactor)));
        let first = open_zones(self.first.file.attach(reactor), &world.tasks, core).await?;
        Ok(Pool::of(first, self.first.superblock, self.list.clone(), others.collect()))
    }
}

/// Why a device that should be opened was not; `fsck` has something to add.
pub type Locked<'a> = &'a dyn Fn(&Target, &RuntimeError) -> Failure;

/// Opens a store of which `targets` are the first device and any others, and finds those that were not named where
/// the list has seen them last.
pub fn open(targets: &[PathBuf], purpose: Purpose, locked: Locked<'_>) -> Result<Devices, Failure> {
    let mut found = Vec::new();
    for target in targets {
        found.push(open_one(&Target::with_store(target)?, purpose, locked)?);
    }
    let first = take_first(&mut found)?;
    let list = read_list(&first, purpose)?;
    let mut others = Vec::new();
    for member in list.members.iter().filter(|member| member.number > 0) {
        let given = found.iter().position(|opened| opened.superblock.device == member.device);
        let opened = match given {
            Some(at) => found.swap_remove(at),
            None => look_where_it_was(&first, member, purpose, locked)?,
        };
        check_member(&first.superblock, member, &opened.superblock).map_err(|error| odd(&first, &opened, &error))?;
        others.push((member.number, opened));
    }
    found.iter().try_for_each(|stranger| refuse((&first, &list), stranger))?;
    let devices = Devices { first, list, others };
    if purpose == Purpose::Serve { note_paths(devices) } else { Ok(devices) }
}

/// The device with the log among those that were opened.
fn take_first(found: &mut Vec<Opened>) -> Result<Opened, Failure> {
    let numbers = found.iter().map(|opened| opened.superblock.number());
    let firsts: Vec<usize> = numbers.enumerate().filter(|(_, number)| *number == 0).map(|(at, _)| at).collect();
    match firsts[..] {
        [at] => Ok(found.remove(at)),
        [] => {
            let opened = &found[0];
            Err(Failure::plain(format!(
                "{} is device {} of node {}: name its first device too, the one with the log",
                opened.target.path.display(),
                opened.superblock.number(),
                opened.superblock.node
            )))
        }
        _ => {
            let paths: Vec<String> = firsts.iter().map(|at| found[*at].target.path.display().to_string()).collect();
            Err(Failure::usage(format!("{} {SEVERAL}", paths.join(", "))))
        }
    }
}

fn open_one(target: &Target, purpose: Purpose, locked: Locked<'_>) -> Result<Opened, Failure> {
    let file = open_locked(&target.store, purpose.mode()).map_err(|error| locked(target, &error))?;
    let read = on_disk(&file, move |disk| async move {
        if purpose == Purpose::Serve {
            return cfs_device::recover(&*disk).await;
        }
        match cfs_device::open(&*disk).await {
            Err(DeviceError::OutOfService) => cfs_device::newest(&*disk).await,
            opened => opened,
        }
        .map(|superblock| (superblock, None))
    })?;
    let (superblock, mended) = read.map_err(|error| refusal(target, &error))?;
    if let Some(Mended { offset, was }) = mended {
        complain!("cfs: the copy of the superblock at offset {offset} was {was}: it is mended from the other one");
    }
    Ok(Opened { target: target.clone(), file, superblock })
}

/// A member that nobody named.
fn look_where_it_was(first: &Opened, member: &Member, purpose: Purpose, locked: Locked<'_>) -> Result<Opened, Failure> {
    let missing = |why: String| {
        let store = first.target.path.display();
        Failure::plain(format!(
            "opening {store}: device {} ({}) is missing: it was last seen at {}{why}; where it is somewhere else now, name \
             it: {store} DIR|DEVICE",
            member.number,
            member.device,
            cfs_device::path_of(member)
        ))
    };
    let path = Path::new(OsStr::from_bytes(&member.seen_at));
    if member.seen_at.is_empty() {
        return Err(missing(String::new()));
    }
    let target = Target::of(path)?;
    if !std::fs::exists(&target.store).unwrap_or(true) {
        return Err(missing(format!(", and there is no {} now", target.store.display())));
    }
    let opened = open_one(&target, purpose, locked).map_err(|error| missing(format!(" ({error})")))?;
    if opened.superblock.device != member.device {
        return Err(missing(format!(", where {} is now", opened.superblock.device)));
    }
    Ok(opened)
}

/// What is to be said of a device that the list does not have.
fn refuse((first, list): (&Opened, &MemberList), stranger: &Opened) -> Result<(), Failure> {
    let (path, store) = (stranger.target.path.display(), first.target.path.display());
    if stranger.superblock.node != first.superblock.node {
        let node = stranger.superblock.node;
        return Err(Failure::plain(format!("{path} is a device of another node ({node}), not of {store}")));
    }
    if let Some(member) = list.of_device(stranger.superblock.device) {
        let number = member.number;
        return Err(Failure::plain(format!("{path} is a copy of device {number} of {store}, which is there as well")));
    }
    complain!(
        "cfs: {path} was to be added to {store} and was not: it is not in the list of devices, and not used; cfs device add \
         --force adds it"
    );
    Ok(())
}

fn odd(first: &Opened, opened: &Opened, error: &PoolError) -> Failure {
    Failure::plain(format!("opening {}: {}: {error}", first.target.path.display(), opened.target.path.display()))
}

fn read_list(first: &Opened, purpose: Purpose) -> Result<MemberList, Failure> {
    let superblock = first.superblock;
    let read = on_disk(&first.file, move |disk| async move {
        match purpose {
            Purpose::Serve => cfs_device::recover_list(&disk, &superblock).await,
            Purpose::Check | Purpose::CheckAndReturn => cfs_device::read_list(&disk, &superblock).await,
        }
    })?;
    read.map_err(|error| refusal(&first.target, &error))
}

/// Writes down where the devices are now, where the list has other places.
fn note_paths(devices: Devices) -> Result<Devices, Failure> {
    let mut list = devices.list.clone();
    for member in &mut list.members {
        let other = devices.others.iter().find(|(number, _)| *number == member.number);
        let opened = other.map_or(&devices.first, |(_, opened)| opened);
        member.seen_at = opened.target.path.as_os_str().as_bytes().to_vec();
    }
    if list == devices.list || devices.first.superblock.place.is_none() || !list.fits() {
        return Ok(devices);
    }
    let (superblock, written) = (devices.first.superblock, list.clone());
    let noted =
        on_disk(
            &devices.first.file,
            move |disk| async move { cfs_device::write_list(&disk, &superblock, &written).await },
        )?;
    noted.map_err(|error| refusal(&devices.first.target, &error))?;
    Ok(Devices { list, ..devices })
}

/// Does something with a device on a core of its own.
pub fn on_disk<T, F>(file: &DiskFile, work: impl FnOnce(Rc<dyn Disk>) -> F + 'static) -> Result<T, Failure>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let same = file.clone();
    let done = run_core(CoreConfig::new(CoreId::new(0)), move |world, reactor| async move {
        let disk = open_zones(same.attach(&reactor), &world.tasks, 0).await?;
        Ok(work(disk).await)
    });
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("opening {}", file.path().display()), error);
    done.map_err(|error| failed(&error))?.map_err(|error: DeviceError| failed(&error))
}
