//! The devices of a node as one.
//!
//! Purpose: what lies on segments is read and written through this; who does so knows no members. An offset names
//! its member (`cfs_types::member_of`).
//!
//! Invariant: a flush that succeeds has made durable every write that had completed when it began, whichever
//! members they went to. A member that nothing was written to since its last flush is not asked again.

use cfs_seam::{Disk, DiskError, DiskUsage, Durability, Geometry, Io, IoBuf, IoDone, Lifetime, Promise, io};
use cfs_types::member_of;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

struct Member {
    number: u16,
    disk: Rc<dyn Disk>,
    /// Writes that have completed through this handle.
    completed: Rc<Cell<u64>>,
    /// As many of them as had when a flush began that has succeeded.
    durable: Rc<Cell<u64>>,
}

/// The members of a pool as one core has them; see the module.
pub struct PoolDisk {
    members: RefCell<Vec<Member>>,
}

/// Flushes of several members, of which the last to end decides.
struct Flushing {
    left: Cell<usize>,
    result: Cell<Result<(), DiskError>>,
    promise: Cell<Option<Promise<Result<(), DiskError>>>>,
}

impl PoolDisk {
    /// A pool of one, the member with the log.
    pub fn new(first: Rc<dyn Disk>) -> Rc<Self> {
        let pool = PoolDisk { members: RefCell::default() };
        pool.add(0, first);
        Rc::new(pool)
    }

    /// Takes in a member. Panics where there is one of that number.
    pub fn add(&self, number: u16, disk: Rc<dyn Disk>) {
        let mut members = self.members.borrow_mut();
        let at = members.partition_point(|member| member.number < number);
        assert!(members.get(at).is_none_or(|member| member.number != number), "member {number} is there");
        members.insert(at, Member { number, disk, completed: Rc::default(), durable: Rc::default() });
    }

    /// Lets go of a member: nothing lies there any more.
    pub fn remove(&self, number: u16) {
        self.members.borrow_mut().retain(|member| member.number != number);
    }

    /// A member's own disk.
    pub fn member(&self, number: u16) -> Option<Rc<dyn Disk>> {
        let members = self.members.borrow();
        members.iter().find(|member| member.number == number).map(|member| member.disk.clone())
    }

    /// What each member was asked to do by this core, by its number.
    pub fn usages(&self) -> Vec<(u16, DiskUsage)> {
        self.members.borrow().iter().map(|member| (member.number, member.disk.usage())).collect()
    }

    /// The member of an offset, with the place on it; None where there is none.
    fn on<T>(&self, offset: u64, work: impl FnOnce(&Member, u64) -> T) -> Option<T> {
        let (number, at) = member_of(offset);
        let members = self.members.borrow();
        let member = match members.as_slice() {
            [only] => Some(only).filter(|only| only.number == number),
            members => members.iter().find(|member| member.number == number),
        };
        member.map(|member| work(member, at))
    }
}

impl Disk for PoolDisk {
    /// The worst of the members, and the bytes of all.
    fn geometry(&self) -> Geometry {
        let members = self.members.borrow();
        let all = members.iter().map(|member| member.disk.geometry());
        let worst = all.reduce(|a, b| Geometry {
            bytes: a.bytes.saturating_add(b.bytes),
            block_bytes: a.block_bytes.max(b.block_bytes),
            volatile_cache: a.volatile_cache || b.volatile_cache,
            fua: a.fua && b.fua,
            // A device with zones is alone.
            zoning: a.zoning.or(b.zoning),
        });
        worst.expect("a pool has a first member")
    }

    fn read(&self, offset: u64, buf: IoBuf) -> Io<IoDone> {
        let mut buf = Some(buf);
        let begun = self.on(offset, |member, at| member.disk.read(at, buf.take().expect("taken once")));
        begun.unwrap_or_else(|| out_of_range(buf.take().expect("no member took it")))
    }

    fn write(&self, offset: u64, buf: IoBuf, durability: Durability, lifetime: Lifetime) -> Io<IoDone> {
        let mut buf = Some(buf);
        let begun = self.on(offset, |member, at| {
            let completed = member.completed.clone();
            let writing = member.disk.write(at, buf.take().expect("taken once"), durability, lifetime);
            writing.on_done(move |_| completed.set(completed.get() + 1))
        });
        begun.unwrap_or_else(|| out_of_range(buf.take().expect("no member took it")))
    }

    fn flush(&self) -> Io<Result<(), DiskError>> {
        let members = self.members.borrow();
        if let [only] = members.as_slice() {
            return only.disk.flush();
        }
        let is_due =
            |member: &&Member| member.disk.geometry().volatile_cache && member.durable.get() < member.completed.get();
        let due: Vec<&Member> = members.iter().filter(is_due).collect();
        if due.is_empty() {
            return Io::ready(Ok(()));
        }
        let (promise, done) = io();
        let flushing = Rc::new(Flushing {
            left: Cell::new(due.len()),
            result: Cell::new(Ok(())),
            promise: Cell::new(Some(promise)),
        });
        for member in due {
            let (covers, durable, flushing) = (member.completed.get(), member.durable.clone(), flushing.clone());
            // The hook outlives the future.
            drop(member.disk.flush().on_done(move |result| {
                if result.is_ok() {
                    durable.set(durable.get().max(covers));
                }
                flushing.ended(*result);
            }));
        }
        done
    }

    fn discard(&self, offset: u64, bytes: u64) -> Io<Result<(), DiskError>> {
        let begun = self.on(offset, |member, at| member.disk.discard(at, bytes));
        begun.unwrap_or_else(|| Io::ready(Err(DiskError::OutOfRange)))
    }

    fn usage(&self) -> DiskUsage {
        let mut all = DiskUsage::default();
        self.members.borrow().iter().for_each(|member| all.merge(&member.disk.usage()));
        all
    }
}

fn out_of_range(buf: IoBuf) -> Io<IoDone> {
    Io::ready(IoDone { result: Err(DiskError::OutOfRange), buf })
}

impl Flushing {
    fn ended(&self, result: Result<(), DiskError>) {
        self.result.set(self.result.get().and(result));
        self.left.set(self.left.get() - 1);
        if self.left.get() == 0
            && let Some(promise) = self.promise.take()
        {
            promise.complete(self.result.get());
        }
    }
}
