//! The volume as its user sees it: types, start and end. The operations are in `names`,
//! `attributes`, `read` and `write`.

use crate::connect::Refusal;
use crate::core::Core;
use crate::options::{VolumeError, VolumeOptions};
use cfs_seam::{Class, TaskHandle, World, spawn, timeout};
use cfs_types::{FsError, InodeId, Name, SessionId, ShardId};
use cfs_wire::{Attr, FileKind, Identity, Op};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// Time a clean end may take after everything is written back.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// What the kernel caches on this volume's word. Implemented by the FUSE front; called when
/// another session changes something; must not block or call back.
pub trait KernelCache {
    /// Drop pages and attributes.
    fn forget_inode(&self, ino: InodeId);
    /// Drop the pages there.
    fn forget_pages(&self, ino: InodeId, offset: u64, bytes: u64);
    /// Drop a name, present or absent.
    fn forget_entry(&self, dir: InodeId, name: &Name);
    /// Resolves when the kernel has forgotten everything it was told to until now.
    fn settled(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(std::future::ready(()))
    }
    /// Whether what keeps [`KernelCache::settled`] waiting may be a lock that an operation holds, not only the want
    /// of a CPU.
    fn waits_for_lock(&self) -> bool {
        true
    }
    /// From now on ask again for the attributes of these inodes and for every name. Called where forgetting
    /// takes long; must not wait for any lock that an operation may hold.
    fn distrust(&self, inodes: &[InodeId]);
}

/// An inode found or made, and how long the kernel may believe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Attributes, with what is held back.
    pub attr: Attr,
    /// How long the name is certain to lead there.
    pub entry_ttl: Duration,
    /// How long the attributes hold.
    pub attr_ttl: Duration,
}

/// Result of a lookup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// The name exists.
    Found(Entry),
    /// It does not, and will not for this long.
    Missing {
        /// How long.
        ttl: Duration,
    },
}

/// One line of a directory listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Resume after this one.
    pub cookie: u64,
    /// Name.
    pub name: Name,
    /// Inode.
    pub ino: InodeId,
    /// Kind.
    pub kind: FileKind,
    /// What a lookup would say, where it was asked for and the inode still exists.
    pub entry: Option<Entry>,
}

/// A part of a listing, without `.` and `..`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// The directory that the listed one is in; the top is in itself.
    pub parent: InodeId,
    /// In the order of cookies.
    pub entries: Vec<Listed>,
    /// There are no more.
    pub end: bool,
}

/// What rename does with an existing target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// RENAME_NOREPLACE.
    NoReplace,
    /// RENAME_EXCHANGE.
    Exchange,
}

/// How one write differs from its handle's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteFlags {
    /// Durable when it returns.
    pub sync: bool,
    /// Clear setuid and setgid (the kernel's KILL_SUIDGID).
    pub kill_privileges: bool,
    /// Whether this write appends; None: as its handle was opened. The kernel writes mapped pages
    /// back through any handle, and fcntl can change O_APPEND.
    pub append: Option<bool>,
}

/// A connected volume. Dropping it without [`Volume::shutdown`] is a crash of the client: what
/// was held back is lost, the session stays.
pub struct Volume {
    pub(crate) core: Rc<Core>,
    _keeper: TaskHandle,
}

impl Volume {
    /// Connects, ends the session of a crashed predecessor, begins a session and reads the root. Tries each address once.
    pub async fn connect(world: World, options: VolumeOptions) -> Result<Rc<Volume>, VolumeError> {
        let core = Core::new(world, options);
        let mut failed = VolumeError::NoAddress;
        let mut link = None;
        for address in core.options.addresses.clone() {
            match core.connect_once(0, &address).await {
                Ok(first) => {
                    link = Some(first);
                    break;
                }
                Err(Refusal::Later(error)) => failed = VolumeError::Connect { address, error },
                Err(Refusal::InvalidMap | Refusal::NoSuchCore) => failed = VolumeError::InvalidMap(address),
            }
        }
        let Some(link) = link else { return Err(failed) };
        core.links.adopt(link);
        if let Some(predecessor) = core.options.predecessor {
            core.end_predecessor(predecessor).await;
        }
        let keeper = spawn(&core.world.tasks, Class::Foreground, crate::keeper::keep(Rc::downgrade(&core)));
        let volume = Rc::new(Volume { core, _keeper: keeper });
        volume.getattr(InodeId::ROOT).await.map_err(VolumeError::Root)?;
        Ok(volume)
    }

    /// Whom to tell of revocations.
    pub fn set_kernel_cache(&self, kernel: Rc<dyn KernelCache>) {
        *self.core.kernel.borrow_mut() = Some(kernel);
    }

    /// Resolves once the server's store turned out to be another than the one used until then, or an older copy of
    /// it: everything fails with `Stale` from then on.
    pub async fn broken(&self) {
        self.core.broken().await;
    }

    /// The session, for a successor to end after a crash.
    pub fn session(&self) -> SessionId {
        self.core.session.id()
    }

    /// An entry that was found before something else was waited for, as the kernel may believe it now.
    #[must_use]
    pub fn entry_now(&self, dir: InodeId, name: &Name, attr: Attr) -> Entry {
        self.core.entry_now(dir, name, attr)
    }

    /// Capacity and use.
    pub async fn statfs(&self) -> Result<cfs_wire::Volume, FsError> {
        let answer = self.core.call(ShardId::new(0), &Identity::default(), &Op::Statfs, None).await?;
        match answer.reply {
            cfs_wire::Reply::Statfs(volume) => Ok(volume),
            _ => Err(FsError::Malformed),
        }
    }

    /// Writes back everything held back in all files; the first error, which fsync of the file
    /// still reports.
    pub async fn syncfs(&self) -> Result<(), FsError> {
        let mut result = Ok(());
        for ino in self.core.inodes.dirty_before(None) {
            result = result.and(self.core.settle(ino).await);
        }
        result
    }

    /// Writes everything back, ends the session and closes the connections. An error says that
    /// written bytes were lost or that the server did not take leave; it is over in either case.
    pub async fn shutdown(&self) -> Result<(), FsError> {
        let synced = self.syncfs().await;
        let core = &self.core;
        let end = core.now().after(CLOSE_TIME_MAX);
        let nobody = Identity::default();
        let generation = core.session.generation();
        core.begin_leave();
        let leave = core.call(ShardId::new(0), &nobody, &Op::CloseSession, None);
        let left = match timeout(&core.world.clock, end, leave).await {
            Some(Ok(_)) => Ok(()),
            // An answer was lost, and a repeated question found no session.
            Some(Err(_)) if core.session.generation() != generation => Ok(()),
            Some(Err(failure)) => Err(failure.error),
            None => Err(FsError::TimedOut),
        };
        core.close();
        synced.and(left)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.core.close();
    }
}
