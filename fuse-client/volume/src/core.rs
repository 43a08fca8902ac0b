//! What all parts of one volume share, and what arrives unasked: leases and revocations.

use crate::KernelCache;
use crate::connect::Links;
use crate::data_cache::DataCache;
use crate::files::Files;
use crate::inodes::Inodes;
use crate::link::{Link, Origin, Sent};
use crate::options::VolumeOptions;
use crate::seen::Seen;
use crate::session::Session;
use crate::signal::Signal;
use cfs_rpc::Frame;
use cfs_seam::{Class, Instant, World, spawn};
use cfs_types::{FsError, InodeId, Name, ShardId};
use cfs_wire::{Callback, CallbackReply, Lease, Reply, Response};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// Revocations worked on at a time; a server that sends more is disconnected.
const REVOCATIONS_MAX: usize = 1 << 14;

/// From this fill level of the store on, writes go through, so that ENOSPC reaches the writer.
const FULL_PERCENT: u8 = 95;
/// So full, close waits for what it wrote.
const SHORT_PERCENT: u8 = 75;
/// What a response told of that is believed so long, if none told of more.
const FULL_FOR: Duration = Duration::from_secs(2);
/// After a refused write there may be no room for so long.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Answers asked of the server are held this much shorter than it grants, for drifting clocks.
const LEASE_MARGIN_DIVISOR: u32 = 16;

/// Longest wait for the kernel to forget what is revoked while it waits for a lock. That may be held by an
/// operation of ours that the server lets through only after our answer: then the kernel is told to
/// ask again for everything, which needs no lock, and the answer goes first.
const KERNEL_WAIT_MAX: Duration = Duration::from_millis(10);
/// Longest wait where no lock is waited for, only a CPU. A mapping would show what is old meanwhile: nothing that is
/// told without a lock helps there. Half of a lease, after which the server goes on without us.
const STARVED_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest that the kernel waits for an open file's attributes while it forgets pages.
const PAGES_WAIT_MAX: Duration = Duration::from_millis(250);

pub(crate) struct Core {
    pub world: World,
    pub options: VolumeOptions,
    pub session: Rc<Session>,
    pub links: Links,
    pub inodes: Inodes,
    pub files: Files,
    pub data: DataCache,
    pub kernel: RefCell<Option<Rc<dyn KernelCache>>>,
    /// Written bytes held back, in all files.
    pub dirty_bytes: Cell<usize>,
    /// Dirty bytes became fewer.
    pub drained: Signal,
    /// There is something for the keeper to do.
    pub wake_keeper: Signal,
    /// Files held open for who is about to open them, and until when.
    pub ahead: RefCell<BTreeMap<InodeId, Instant>>,
    /// How full the fullest part of the store was that was heard of lately, percent, and until when that
    /// counts: each core of the server tells of its own.
    full: Cell<(u8, Instant)>,
    revocations: Cell<usize>,
    closed: Cell<bool>,
    /// The session is being ended: nothing is connected again, and its expiry is what was asked for.
    leaving: Cell<bool>,
    /// No lease could be had for a read: until then reads do without.
    pub unleased_until: Cell<Instant>,
    /// How far each shard was.
    pub seen: Seen,
    /// Why the volume can never work again.
    broken: Cell<Option<FsError>>,
}

impl Core {
    pub fn new(world: World, options: VolumeOptions) -> Rc<Core> {
        let wall_ms = u64::try_from(world.clock.wall().get() / 1_000_000).unwrap_or(0);
        let session = Session::new(world.rng.next_u64(), wall_ms);
        Rc::new(Core {
            session: Rc::new(session),
            links: Links::default(),
            inodes: Inodes::new(options.inodes_max, options.entries_max),
            files: Files::default(),
            data: DataCache::new(options.data_cache_bytes),
            kernel: RefCell::default(),
            dirty_bytes: Cell::new(0),
            drained: Signal::default(),
            wake_keeper: Signal::default(),
            ahead: RefCell::default(),
            full: Cell::default(),
            revocations: Cell::new(0),
            closed: Cell::new(false),
            leaving: Cell::new(false),
            unleased_until: Cell::default(),
            seen: Seen::default(),
            broken: Cell::new(None),
            world,
            options,
        })
    }

    pub fn now(&self) -> Instant {
        self.world.clock.now()
    }

    /// Starts work that ends by itself: every call fails once the volume is closed.
    pub fn spawn(self: &Rc<Self>, class: Class, work: impl Future<Output = ()> + 'static) {
        spawn(&self.world.tasks, class, work).detach();
    }

    /// Fails once the volume is closed or broken.
    pub fn check(&self) -> Result<(), FsError> {
        match self.broken.get() {
            Some(error) => Err(error),
            None if self.closed.get() => Err(FsError::Stale),
            None => Ok(()),
        }
    }
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }
    /// Resolves once the volume can never work again.
    pub async fn broken(&self) {
        while self.broken.get().is_none() {
            self.links.changed.changed().await;
        }
    }
    /// From now on the session's end is no loss.
    pub fn begin_leave(&self) {
        self.leaving.set(true);
    }
    /// Ends everything that waits.
    pub fn close(&self) {
        self.closed.set(true);
        self.inodes.void_all();
        self.links.close_all();
        self.drained.notify();
        self.wake_keeper.notify();
        self.inodes.changed.notify();
    }
    /// The server's store is not the one that this volume has used.
    pub fn break_down(&self, error: FsError) {
        if self.broken.replace(Some(error)).is_some() {
            return;
        }
        self.lose_all(error);
        self.links.changed.notify();
        self.inodes.changed.notify();
    }

    /// Whether writes may be held back at all.
    pub fn may_hold_back(&self) -> bool {
        self.full_percent() < FULL_PERCENT && self.options.dirty_bytes_max > 0
    }

    /// Whether what is held back may find no space: then close waits for it, so that whoever wrote hears of
    /// an error that would come when nobody asks any more.
    pub fn may_lack_space(&self) -> bool {
        self.full_percent() >= SHORT_PERCENT
    }

    fn full_percent(&self) -> u8 {
        let (percent, until) = self.full.get();
        if self.now() < until { percent } else { 0 }
    }

    /// Some part of the store is so full, which counts for `term`.
    fn heard_full(&self, percent: u8, term: Duration) {
        let (before, until) = self.full.get();
        let end = self.now().after(term);
        if percent >= before || self.now() >= until {
            self.full.set((percent, if percent == before { until.max(end) } else { end }));
        }
    }

    /// What was held back was refused.
    pub fn write_back_failed(&self, error: FsError) {
        if error == FsError::NoSpace {
            self.heard_full(100, REFUSED_FOR);
        }
    }

    /// When a lease granted by a reply to a request sent at `sent` ends.
    pub fn lease_end(&self, sent: Instant) -> Instant {
        let term = self.links.lease.get();
        sent.after(term.saturating_sub(term / LEASE_MARGIN_DIVISOR))
    }

    /// Takes what every response carries. Called in the order of arrival.
    pub fn absorb(&self, response: &Response, shard: ShardId, sent: Sent) -> Origin {
        self.session.observe(response.timestamp);
        self.seen.note(shard, response.timestamp);
        self.heard_full(response.full_percent, FULL_FOR);
        if let Ok(Reply::Attr(attr) | Reply::Written { attr, .. }) = &response.result {
            self.inodes.observe(attr);
        }
        let end = self.lease_end(sent.at);
        let grant = |lease: &Lease| {
            let era = self.inodes.grant(lease.ino, lease.kind, sent, end, self.now());
            era.map(|era| (lease.ino, era))
        };
        let leased = response.leases.iter().filter_map(grant).collect();
        if !response.leases.is_empty() {
            self.wake_keeper.notify();
        }
        Origin::new(sent, leased)
    }

    /// Begins what a callback asks for; the answer follows when it is done.
    pub async fn handle_callback(
        self: &Rc<Self>,
        link: &Rc<Link>,
        frame: Frame,
        callback: Callback,
    ) -> Result<(), FsError> {
        let Callback::Revoke { ino, sequence } = callback;
        if self.revocations.get() >= REVOCATIONS_MAX {
            return Err(FsError::Busy);
        }
        self.revocations.set(self.revocations.get() + 1);
        let names = self.inodes.revoke(ino);
        let (volume, link) = (self.clone(), link.clone());
        self.spawn(Class::Foreground, async move {
            volume.give_up(ino, names).await;
            let pinned = volume.inodes.is_open(ino);
            link.answer(&frame, &CallbackReply { ino, sequence, pinned }).await;
            volume.revocations.set(volume.revocations.get() - 1);
        });
        Ok(())
    }

    /// Writes back and forgets what was cached of a revoked inode.
    async fn give_up(self: &Rc<Self>, ino: InodeId, mut names: Vec<Name>) {
        self.write_back(ino).await;
        names.extend(self.inodes.drop_caches(ino));
        self.data.forget(ino);
        self.forget_in_kernel(|kernel| {
            kernel.forget_inode(ino);
            for name in &names {
                kernel.forget_entry(ino, name);
            }
        });
        let kernel = self.kernel.borrow().clone();
        let settled = match &kernel {
            Some(kernel) => self.forgotten(&**kernel).await,
            None => true,
        };
        let filled = self.inodes.given_up(ino);
        let Some(kernel) = kernel else { return };
        filled.iter().for_each(|(offset, bytes)| kernel.forget_pages(ino, *offset, *bytes));
        if !settled || !filled.is_empty() {
            self.watch_pages(ino, &kernel);
        }
        if !settled {
            kernel.distrust(&[ino]);
        }
    }

    /// Waits until the kernel has forgotten what it was told to; false where that takes too long.
    async fn forgotten(&self, kernel: &dyn KernelCache) -> bool {
        let (mut settled, last) = (kernel.settled(), self.now().after(STARVED_WAIT_MAX));
        loop {
            let end = self.now().after(KERNEL_WAIT_MAX);
            if cfs_seam::timeout(&self.world.clock, end, &mut settled).await.is_some() {
                return true;
            }
            if kernel.waits_for_lock() || self.now() >= last {
                return false;
            }
        }
    }

    /// The kernel still shows pages that it was told to forget: until they are gone it learns no attributes that
    /// hold, so that whoever reads asks for them first, and waits in [`Core::pages_forgotten`].
    fn watch_pages(self: &Rc<Self>, ino: InodeId, kernel: &Rc<dyn KernelCache>) {
        if !self.inodes.is_open(ino) {
            return;
        }
        self.inodes.with(ino, |inode| inode.forgetting += 1);
        let (volume, settled) = (self.clone(), kernel.settled());
        self.spawn(Class::Foreground, async move {
            settled.await;
            volume.inodes.with(ino, |inode| inode.forgetting -= 1);
            volume.inodes.changed.notify();
        });
    }

    /// Waits until the kernel shows no page of a file any more that it was told to forget. It drops pages itself
    /// where it learns a new time of change, but of two readers that learn it together the second does not wait
    /// for that. True where there was something to wait for.
    pub async fn pages_forgotten(&self, ino: InodeId) -> bool {
        let (end, mut waited) = (self.now().after(PAGES_WAIT_MAX), false);
        while self.inodes.is_forgetting(ino) {
            waited = true;
            if cfs_seam::timeout(&self.world.clock, end, self.inodes.changed.changed()).await.is_none() {
                break;
            }
        }
        waited
    }

    /// The kernel is to ask for an inode's attributes again.
    pub fn distrust(&self, ino: InodeId) {
        self.forget_in_kernel(|kernel| kernel.distrust(&[ino]));
    }

    /// Whether the kernel hears in time when pages are old that an operation fills, which began at tick
    /// `begun`, with what it found or made under the lease of `era`.
    pub fn covers_pages(&self, ino: InodeId, era: Option<u64>, begun: u64, pages: (u64, u64)) -> bool {
        era.is_some_and(|era| self.inodes.covers_pages(ino, era, begun, pages, self.now()))
    }

    /// After an operation that is not done again under a lease: what pages it fills stay only where
    /// [`Core::covers_pages`].
    pub fn keep_uncovered_pages_out(self: &Rc<Self>, ino: InodeId, era: Option<u64>, begun: u64, pages: (u64, u64)) {
        if !self.covers_pages(ino, era, begun, pages) {
            self.keep_pages_out(ino);
        }
    }

    /// Nobody will tell the kernel that the pages are old which an operation fills: it drops them, a moment
    /// after it has shown them.
    pub fn keep_pages_out(self: &Rc<Self>, ino: InodeId) {
        let Some(kernel) = self.kernel.borrow().clone() else { return };
        kernel.forget_inode(ino);
        self.watch_pages(ino, &kernel);
    }

    /// Tells the kernel, where there is one.
    pub fn forget_in_kernel(&self, forget: impl FnOnce(&dyn KernelCache)) {
        let kernel = self.kernel.borrow().clone();
        if let Some(kernel) = kernel {
            forget(&*kernel);
        }
    }

    /// Every lease is void: the server has started anew. The kernel asks again from here on, before the
    /// server hears from this session and lets others change what it believes in.
    pub fn void_leases(&self) {
        let voided = self.inodes.void_all();
        let inodes: Vec<InodeId> = voided.iter().map(|(ino, _)| *ino).collect();
        self.forget_in_kernel(|kernel| kernel.distrust(&inodes));
        for (ino, names) in voided {
            self.data.forget(ino);
            self.forget_in_kernel(|kernel| {
                kernel.forget_inode(ino);
                for name in &names {
                    kernel.forget_entry(ino, name);
                }
            });
        }
    }

    /// The server expired the session: what it had not been given is lost, and said at fsync.
    pub fn session_lost(&self, generation: u64) {
        if !self.session.expire(generation) {
            return;
        }
        if self.leaving.get() {
            return self.close();
        }
        self.lose_all(FsError::SessionExpired);
        self.links.close_all_links();
    }

    /// Nothing that is cached or held back is good any more.
    fn lose_all(&self, error: FsError) {
        self.void_leases();
        let dropped = self.inodes.drop_all_dirty(error);
        self.less_dirty(dropped);
    }

    /// `bytes` are no longer held back.
    pub fn less_dirty(&self, bytes: usize) {
        self.dirty_bytes.set(self.dirty_bytes.get() - bytes);
        self.drained.notify();
    }

    /// A link's connection is over: reconnect at once where it matters.
    pub fn link_ended(self: &Rc<Self>, link: &Rc<Link>) {
        self.links.remove(link);
        if !self.is_closed() && !self.leaving.get() {
            self.connect_in_background(link.core);
        }
    }

    /// How long the kernel may believe attributes that hold until `end`.
    pub fn attr_ttl(&self, ino: InodeId, end: Option<Instant>) -> Duration {
        self.remaining(end.filter(|_| !self.inodes.is_forgetting(ino)))
    }

    /// The rest of a lease, for the kernel's time-outs.
    pub fn remaining(&self, end: Option<Instant>) -> Duration {
        end.map_or(Duration::ZERO, |end| end.since(self.now()))
    }
}
