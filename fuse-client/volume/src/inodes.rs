//! What the volume knows of inodes: leases, attributes, names, opens, held-back bytes.
//!
//! A *tick* guards against stale answers. It rises with every revocation, own change and beginning of a
//! lease (its *era*); an answer to a request that left before the tick of the object it speaks of is used
//! once and not kept. One that left before the era began may be older than a change of others that nobody
//! had to tell us of: it is kept only if it brought the lease itself. Invariants: nothing is kept without
//! a lease that is valid now; a name is given to the kernel with a time-out only while it is recorded here,
//! so that a revocation can name it; records and names are bounded.

mod pages;

use crate::dirty::Dirty;
use crate::link::{Origin, Sent};
use crate::signal::Signal;
use cfs_seam::Instant;
use cfs_types::{FsError, InodeId, Name, Nanos};
use cfs_wire::{Attr, FileKind, LeaseKind};
use pages::Ending;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// A lease as held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub kind: LeaseKind,
    /// The link that granted it: only that one's renewals prolong it.
    pub link: u64,
    pub end: Instant,
    /// Something was answered under it since it was last renewed.
    pub used: bool,
}

/// What a directory says of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    Present(InodeId, FileKind),
    Absent,
}

/// The change counter of an inode that nothing has happened to.
const CHANGE_AT_BIRTH: u64 = 1;

/// One inode's record.
#[derive(Default)]
pub(crate) struct Inode {
    pub lease: Option<Held>,
    ending: Option<Ending>,
    attr: Option<Attr>,
    /// Epoch and sequence that reads of the file's ranges carry; not a cache but a lower bound.
    pub position: Option<(u64, u64)>,
    names: BTreeMap<Name, Known>,
    /// Under this lease: no extended attributes.
    bare: bool,
    /// Under this lease: a directory whose every entry is among `names`.
    complete: bool,
    revoked: u64,
    names_changed: u64,
    data_changed: u64,
    /// Handles open, and those that may write.
    pub opens: u32,
    pub writers: u32,
    /// How often the kernel was told to forget pages that it may still show.
    pub forgetting: u32,
    /// An open or a close is on its way to the server: what comes of it decides about the next.
    pub asking: bool,
    pub dirty: Dirty,
    /// How many of the changes that put all attributes in doubt this record has heard of.
    heard: u64,
    /// The newest attributes that any answer told. An older answer that comes later says nothing of now: what is
    /// told in its place is this, which was true after it.
    newest: Option<Box<Attr>>,
    /// The file's epoch when the first of them was held back: the server refuses them where others
    /// have had the file since.
    pub held_epoch: Option<u64>,
    /// Local time of the last write held back.
    pub written_at: Nanos,
    /// When the oldest byte that waits was written.
    pub dirty_since: Option<Instant>,
    /// A flush is under way.
    pub flushing: bool,
    /// Revocations being carried out: what is held back may still be written.
    pub revoking: u32,
    /// Tells data cached under this lease from data of an earlier one.
    pub era: u64,
    /// Flights launched and landed.
    pub launched: u64,
    pub landed: u64,
    /// A flight that somebody waits for.
    pub wanted: u64,
    /// Write errors: how many so far, and the last.
    pub errors: u64,
    pub error: Option<FsError>,
    /// What was held back was refused, and nothing was written since: nothing more is held back, so that
    /// who writes on is told at once.
    pub refused: bool,
}

impl Inode {
    /// The end of a lease valid now; marks it used.
    pub fn leased(&mut self, now: Instant) -> Option<Instant> {
        let held = self.lease.as_mut().filter(|held| held.end > now)?;
        held.used = true;
        Some(held.end)
    }

    /// Whether written bytes may be held back.
    pub fn is_exclusive(&self, now: Instant) -> bool {
        self.revoking == 0 && self.lease.is_some_and(|held| held.end > now && held.kind == LeaseKind::Exclusive)
    }

    /// `attr` as a user sees it: with the size and time of what is held back, which the server will
    /// give the file too.
    pub fn seen(&self, mut attr: Attr) -> Attr {
        if let Some(end) = self.dirty.end() {
            attr.size = attr.size.max(end);
            attr.mtime = self.written_at;
            attr.ctime = attr.ctime.max(self.written_at);
        }
        attr
    }

    /// The cached attributes under a valid lease, as a user sees them.
    pub fn cached_attr(&mut self, now: Instant) -> Option<(Attr, Instant)> {
        let attr = self.attr.clone().filter(|attr| !self.is_old(attr))?;
        let end = self.leased(now)?;
        Some((self.seen(attr), end))
    }

    /// Takes what any answer tells, whether it may be kept or not.
    fn note(&mut self, attr: &Attr) {
        self.position = self.position.max(Some((attr.epoch, attr.sequence)));
        if self.newest.as_ref().is_none_or(|newest| newest.change <= attr.change) {
            self.newest = Some(Box::new(attr.clone()));
        }
    }
    /// Whether a newer state than that of `attr` was told.
    fn is_old(&self, attr: &Attr) -> bool {
        self.newest.as_ref().is_some_and(|newest| newest.change > attr.change)
    }

    /// Whether the lease speaks for an answer about this inode: it came with it, or it was there when the
    /// question left.
    fn speaks_for(&self, ino: InodeId, origin: &Origin) -> bool {
        origin.sent.tick >= self.era || origin.era_of(ino) == Some(self.era)
    }

    /// Whether an answer about the names here, a directory, is still true under the lease.
    fn names_hold(&self, dir: InodeId, origin: &Origin) -> bool {
        self.speaks_for(dir, origin) && origin.sent.tick >= self.revoked.max(self.names_changed)
    }

    /// Attributes are in doubt, and what was concluded from them.
    fn doubt(&mut self) {
        self.attr = None;
        self.bare = false;
        self.complete = false;
    }

    /// Draws conclusions from fresh attributes under a lease.
    fn conclude(&mut self, attr: &Attr, sent: Sent) {
        self.bare |= attr.change == CHANGE_AT_BIRTH;
        let empty = attr.kind == FileKind::Directory && attr.size == 0 && sent.tick >= self.names_changed;
        self.complete |= empty && !self.names.values().any(|known| matches!(known, Known::Present(..)));
    }

    /// This volume made an entry of a directory that it has known without a break: what the server made
    /// of the directory's attributes. None where they may tell of the entry already.
    fn grown(&self, born: &Attr) -> Option<Attr> {
        let mut attr = self.attr.clone().filter(|attr| attr.ctime < born.btime)?;
        attr.size += 1;
        attr.change += 1;
        (attr.mtime, attr.ctime) = (born.btime, born.btime);
        Some(attr)
    }

    pub fn fail(&mut self, error: FsError) {
        self.errors += 1;
        self.error = Some(error);
        self.refused = true;
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.opens == 0
            && !self.asking
            && !self.flushing
            && self.forgetting == 0
            && self.revoking == 0
            && self.dirty.is_empty()
            && self.lease.is_none_or(|held| held.end <= now)
    }
}

/// All records.
pub(crate) struct Inodes {
    map: RefCell<BTreeMap<InodeId, Inode>>,
    tick: Cell<u64>,
    /// Records forgotten had been revoked or changed up to this tick.
    floor: Cell<u64>,
    /// Changes that put all attributes in doubt; a record hears of them when it is looked at.
    all_changed: Cell<u64>,
    inodes_max: usize,
    entries_max: usize,
    entries: Cell<usize>,
    /// A flight landed, a close ended, a lease began or was given up.
    pub changed: Signal,
}

impl Inodes {
    pub fn new(inodes_max: usize, entries_max: usize) -> Self {
        Inodes {
            map: RefCell::default(),
            tick: Cell::new(0),
            floor: Cell::new(0),
            all_changed: Cell::new(0),
            inodes_max,
            entries_max,
            entries: Cell::new(0),
            changed: Signal::default(),
        }
    }

    /// Revocations and own changes so far.
    pub fn tick(&self) -> u64 {
        self.tick.get()
    }
    fn advance(&self) -> u64 {
        self.tick.set(self.tick.get() + 1);
        self.tick.get()
    }

    /// Looks at a record, if there is one.
    pub fn find<T>(&self, ino: InodeId, look: impl FnOnce(&mut Inode) -> T) -> Option<T> {
        self.map.borrow_mut().get_mut(&ino).map(|inode| look(self.informed(inode)))
    }
    /// Looks at a record, made where there is none: for what must be remembered.
    pub fn with<T>(&self, ino: InodeId, look: impl FnOnce(&mut Inode) -> T) -> T {
        look(self.informed(self.map.borrow_mut().entry(ino).or_default()))
    }
    /// For caching only: no new record where the table is full.
    fn cache<T>(&self, ino: InodeId, look: impl FnOnce(&mut Inode) -> T) -> Option<T> {
        let mut map = self.map.borrow_mut();
        if map.len() >= self.inodes_max && !map.contains_key(&ino) {
            return None;
        }
        Some(look(self.informed(map.entry(ino).or_default())))
    }

    /// The record, after it has heard what put all attributes in doubt since it was last looked at.
    fn informed<'a>(&self, inode: &'a mut Inode) -> &'a mut Inode {
        if inode.heard < self.all_changed.get() {
            inode.heard = self.all_changed.get();
            inode.doubt();
        }
        inode
    }

    /// A lease came with a response; gives its era where it counts.
    pub fn grant(&self, ino: InodeId, kind: LeaseKind, sent: Sent, end: Instant, now: Instant) -> Option<u64> {
        if end <= now || sent.tick < self.floor.get() {
            return None;
        }
        self.cache(ino, |inode| {
            if sent.tick < inode.revoked || inode.revoking > 0 {
                return None;
            }
            inode.lease = Some(match inode.lease.filter(|old| old.end > now) {
                Some(old) => {
                    let kind = if old.link == sent.link { old.kind.max(kind) } else { kind };
                    Held { kind, link: sent.link, end: old.end.max(end), used: true }
                }
                None => {
                    inode.doubt();
                    inode.ending = None;
                    inode.era = self.advance();
                    self.take_names(inode);
                    self.changed.notify();
                    Held { kind, link: sent.link, end, used: true }
                }
            });
            Some(inode.era)
        })?
    }

    /// The link answered a renewal sent at a time that makes its leases end at `end`.
    pub fn renew(&self, link: u64, end: Instant) {
        for inode in self.map.borrow_mut().values_mut() {
            if let Some(held) = inode.lease.as_mut().filter(|held| held.link == link) {
                held.end = held.end.max(end);
                held.used = false;
            }
        }
    }

    /// Links with leases worth renewing: used since the last time, or needed for held-back bytes.
    pub fn links_in_use(&self, now: Instant) -> Vec<u64> {
        let map = self.map.borrow();
        let live = map.values().filter_map(|inode| {
            let held = inode.lease.filter(|held| held.end > now)?;
            (held.used || !inode.dirty.is_empty()).then_some(held.link)
        });
        let mut links: Vec<u64> = live.collect();
        links.sort_unstable();
        links.dedup();
        links
    }

    /// The epoch and sequence that a reply told, before anything else of it is used.
    pub fn observe(&self, attr: &Attr) {
        self.find(attr.ino, |inode| inode.note(attr));
    }

    /// Keeps attributes if a lease covers them; gives them as a user sees them, and until when.
    pub fn keep_attr(&self, attr: &Attr, origin: &Origin, now: Instant) -> (Attr, Option<Instant>) {
        let sent = origin.sent;
        let kept = self.cache(attr.ino, |inode| {
            inode.note(attr);
            // What a lease covers is still true, and what came after it is too.
            let after = inode.attr.as_ref().is_some_and(|old| old.change < attr.change);
            let fresh = sent.tick >= inode.revoked.max(self.floor.get()) && inode.speaks_for(attr.ino, origin);
            let end = inode.leased(now).filter(|_| after || fresh);
            if end.is_some() && !inode.is_old(attr) {
                inode.attr = Some(attr.clone());
                inode.conclude(attr, sent);
            }
            // What is told is the newest; for how long that holds is known only where it is what the lease covers.
            let covered = inode.attr.as_ref().is_some_and(|attr| !inode.is_old(attr));
            let told = inode.newest.as_deref().unwrap_or(attr).clone();
            (inode.seen(told), end.filter(|_| covered))
        });
        kept.unwrap_or_else(|| (attr.clone(), None))
    }

    /// What is known of a name under a valid lease of the directory. What follows from the others is
    /// recorded, for the kernel may be told.
    pub fn name(&self, dir: InodeId, name: &Name, now: Instant) -> Option<(Known, Instant)> {
        let room = self.entries.get() < self.entries_max;
        self.find(dir, |inode| {
            let recorded = inode.names.get(name).copied();
            let known = recorded.or_else(|| (inode.complete && room).then_some(Known::Absent))?;
            let end = inode.leased(now)?;
            if recorded.is_none() {
                inode.names.insert(name.clone(), known);
                self.entries.set(self.entries.get() + 1);
            }
            Some((known, end))
        })?
    }

    /// Whether the inode certainly has no extended attributes.
    pub fn is_bare(&self, ino: InodeId, now: Instant) -> bool {
        self.find(ino, |inode| inode.bare && inode.leased(now).is_some()) == Some(true)
    }

    /// Keeps what an answer said of a name; gives the time until which the kernel may.
    pub fn keep_name(&self, dir: InodeId, name: &Name, known: Known, origin: &Origin, now: Instant) -> Option<Instant> {
        let room = self.entries.get() < self.entries_max;
        self.cache(dir, |inode| {
            let fresh = origin.sent.tick >= self.floor.get() && inode.names_hold(dir, origin);
            let end = inode.leased(now).filter(|_| fresh)?;
            if !room && !inode.names.contains_key(name) {
                return None;
            }
            if inode.names.insert(name.clone(), known).is_none() {
                self.entries.set(self.entries.get() + 1);
            }
            Some(end)
        })?
    }

    /// This volume made or found a name: as `changed_names`, and the name is kept where nothing else
    /// happened to the directory since the request left. `attr`: of what the name leads to.
    pub fn made_name(
        &self,
        dir: InodeId,
        name: &Name,
        known: Known,
        attr: Option<&Attr>,
        origin: &Origin,
        now: Instant,
    ) -> Option<Instant> {
        let before = self.find(dir, |inode| {
            let fresh = origin.sent.tick >= self.floor.get() && inode.names_hold(dir, origin);
            // Nobody else can have made what was absent under the lease.
            let made = fresh && inode.names.get(name) == Some(&Known::Absent);
            // A directory adds to its parent's links, at a time of the parent's shard.
            let plain = attr.filter(|attr| attr.kind != FileKind::Directory);
            let born = plain.filter(|attr| made && attr.change == CHANGE_AT_BIRTH);
            fresh.then(|| (inode.complete, born.and_then(|born| inode.grown(born))))
        });
        self.changed_names(dir, &[name]);
        let (complete, grown) = before.flatten()?;
        let after = Origin::new(Sent { tick: self.tick.get(), ..origin.sent }, Vec::new());
        let end = self.keep_name(dir, name, known, &after, now)?;
        self.find(dir, |inode| {
            grown.iter().for_each(|attr| inode.note(attr));
            (inode.complete, inode.attr) = (complete, grown);
        });
        Some(end)
    }

    /// This volume changed `names` of a directory: answers under way are older than that.
    pub fn changed_names(&self, dir: InodeId, names: &[&Name]) {
        self.change(dir, |inode, tick| {
            inode.names_changed = tick;
            inode.doubt();
            for name in names {
                if inode.names.remove(*name).is_some() {
                    self.entries.set(self.entries.get() - 1);
                }
            }
        });
    }

    /// Attributes changed in a way that no answer described.
    pub fn changed_attr(&self, ino: InodeId) {
        self.change(ino, |inode, tick| {
            inode.doubt();
            inode.revoked = tick;
        });
    }

    /// Every attribute is in doubt: a link count changed of an inode that is not known.
    pub fn changed_all_attrs(&self) {
        self.floor.set(self.advance());
        self.all_changed.set(self.all_changed.get() + 1);
    }

    /// Content changed at the server by this volume: reads under way are not kept.
    pub fn changed_data(&self, ino: InodeId) {
        self.change(ino, |inode, tick| inode.data_changed = tick);
    }

    /// Marks a record; without one, all answers under way count as older.
    fn change(&self, ino: InodeId, mark: impl FnOnce(&mut Inode, u64)) {
        let tick = self.advance();
        match self.map.borrow_mut().get_mut(&ino) {
            Some(inode) => mark(inode, tick),
            None => self.floor.set(tick),
        }
    }

    /// The era under which data may be read from the cache now.
    pub fn data_era(&self, ino: InodeId, now: Instant) -> Option<u64> {
        self.find(ino, |inode| inode.leased(now).map(|_| inode.era))?
    }

    /// Whether data read by a request that left at `tick` may be cached under `era`.
    pub fn may_keep_data(&self, ino: InodeId, era: u64, tick: u64, now: Instant) -> bool {
        let fits = self.find(ino, |inode| {
            let fresh = tick >= inode.revoked.max(inode.data_changed).max(self.floor.get());
            fresh && inode.era == era && inode.leased(now).is_some()
        });
        fits == Some(true)
    }

    /// A revocation: no lease from here on. Gives the names the kernel may know.
    pub fn revoke(&self, ino: InodeId) -> Vec<Name> {
        let tick = self.advance();
        self.with(ino, |inode| {
            inode.revoked = tick;
            if let Some(held) = inode.lease.take() {
                inode.ending = Some(Ending { held, tick, filled: Vec::new() });
            }
            inode.complete = false;
            inode.revoking += 1;
            self.take_names(inode)
        })
    }

    /// A revocation has been carried out. Gives the names the kernel may have learned since.
    pub fn drop_caches(&self, ino: InodeId) -> Vec<Name> {
        let names = self.find(ino, |inode| {
            inode.doubt();
            inode.lease = None;
            inode.revoking -= 1;
            self.take_names(inode)
        });
        names.unwrap_or_default()
    }

    /// Every lease is void. Gives what the kernel may know.
    pub fn void_all(&self) -> Vec<(InodeId, Vec<Name>)> {
        let tick = self.advance();
        let mut map = self.map.borrow_mut();
        let leased = map.iter_mut().filter(|(_, inode)| inode.lease.is_some());
        let voided = leased.map(|(ino, inode)| {
            inode.revoked = tick;
            (inode.lease, inode.ending) = (None, None);
            inode.doubt();
            (*ino, self.take_names(inode))
        });
        let voided = voided.collect();
        self.floor.set(tick);
        voided
    }

    fn take_names(&self, inode: &mut Inode) -> Vec<Name> {
        let names = std::mem::take(&mut inode.names);
        self.entries.set(self.entries.get() - names.len());
        names.into_keys().collect()
    }

    /// Nothing held back can be written any more.
    pub fn drop_all_dirty(&self, error: FsError) -> usize {
        let mut dropped = 0;
        for inode in self.map.borrow_mut().values_mut() {
            if inode.dirty.has_waiting() {
                inode.fail(error);
                dropped += inode.dirty.drop_waiting();
            }
        }
        dropped
    }

    pub fn is_open(&self, ino: InodeId) -> bool {
        self.find(ino, |inode| inode.opens > 0) == Some(true)
    }

    /// Every inode that the server must hold for us, and whether we write: the open ones, and those whose
    /// last handle is closed while bytes are held back, since an unlinked file ends with its close.
    pub fn open_files(&self) -> Vec<(InodeId, bool)> {
        let map = self.map.borrow();
        let open = map.iter().filter(|(_, inode)| inode.opens > 0 || inode.asking || !inode.dirty.is_empty());
        open.map(|(ino, inode)| (*ino, inode.writers > 0 || !inode.dirty.is_empty())).collect()
    }

    /// Inodes with bytes that wait since before `limit`, or all with any.
    pub fn dirty_before(&self, limit: Option<Instant>) -> Vec<InodeId> {
        let map = self.map.borrow();
        let old = |inode: &Inode| match (limit, inode.dirty_since) {
            (Some(limit), Some(since)) => since <= limit,
            (Some(_), None) => false,
            (None, _) => true,
        };
        let dirty = map.iter().filter(|(_, inode)| !inode.dirty.is_empty() && old(inode));
        dirty.map(|(ino, _)| *ino).collect()
    }

    /// Whether any lease is valid.
    pub fn any_leased(&self, now: Instant) -> bool {
        self.map.borrow().values().any(|inode| inode.lease.is_some_and(|held| held.end > now))
    }

    /// Forgets records that say nothing any more, once there are many.
    pub fn prune(&self, now: Instant) {
        let mut map = self.map.borrow_mut();
        if map.len() < self.inodes_max / 2 && self.entries.get() < self.entries_max / 2 {
            return;
        }
        let mut floor = self.floor.get();
        map.retain(|_, inode| {
            let idle = inode.is_idle(now);
            if idle {
                floor = floor.max(inode.revoked).max(inode.names_changed).max(inode.data_changed);
                self.entries.set(self.entries.get() - inode.names.len());
            }
            !idle
        });
        self.floor.set(floor);
    }
}
