//! Connections to the server's cores: one a core, made on demand, made again when they die.

use crate::core::Core;
use crate::link::{Link, Lost};
use crate::map::ShardMap;
use crate::signal::Signal;
use crate::wait::Backoff;
use cfs_rpc::{Connection, RpcError, connect_handshake};
use cfs_seam::{Address, Class, Instant, timeout};
use cfs_types::{FsError, InodeId, SessionId, ShardId};
use cfs_wire::frame::PROTOCOL_VERSION;
use cfs_wire::{Flags, Hello, Identity, Op, OpenMode, Welcome};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// A connection attempt ends after this time.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Time for re-opening one file on a new connection.
const REOPEN_TIME_MAX: Duration = Duration::from_secs(10);

/// Open files named in one request.
const REOPENED_AT_ONCE: usize = 4096;

enum Slot {
    Connecting,
    Up(Rc<Link>),
}

/// The links and what their welcomes said.
#[derive(Default)]
pub(crate) struct Links {
    slots: RefCell<BTreeMap<u16, Slot>>,
    map: RefCell<Option<ShardMap>>,
    pub lease: Cell<Duration>,
    incarnation: Cell<Option<u64>>,
    next_id: Cell<u64>,
    /// A link came up or an attempt ended.
    pub changed: Signal,
}

/// Why an attempt failed.
pub(crate) enum Refusal {
    /// Try again later.
    Later(RpcError),
    /// The welcome makes no sense.
    InvalidMap,
    /// The map names no such core: choose again.
    NoSuchCore,
}

impl From<RpcError> for Refusal {
    fn from(error: RpcError) -> Self {
        Refusal::Later(error)
    }
}

impl Links {
    /// The core that owns a shard, once a map is known.
    pub fn core_of(&self, shard: ShardId) -> Option<u16> {
        self.map.borrow().as_ref().map(|map| map.core_of(shard))
    }
    /// Any shard of a core.
    pub fn shard_of(&self, core: u16) -> Option<ShardId> {
        self.map.borrow().as_ref().and_then(|map| map.shard_of(core))
    }
    /// Cores of the server, once known.
    pub fn cores(&self) -> u16 {
        self.map.borrow().as_ref().map_or(0, ShardMap::cores)
    }
    fn address(&self, core: u16) -> Option<Address> {
        self.map.borrow().as_ref().and_then(|map| map.address(core).cloned())
    }
    /// The map's version for requests.
    pub fn map_epoch(&self) -> cfs_types::MapEpoch {
        self.map.borrow().as_ref().map(|map| map.epoch).unwrap_or_default()
    }

    fn up(&self, core: u16) -> Option<Rc<Link>> {
        match self.slots.borrow().get(&core) {
            Some(Slot::Up(link)) if !link.is_closed() => Some(link.clone()),
            _ => None,
        }
    }

    /// Every live link.
    pub fn all(&self) -> Vec<Rc<Link>> {
        let slots = self.slots.borrow();
        let live = slots.values().filter_map(|slot| match slot {
            Slot::Up(link) if !link.is_closed() => Some(link.clone()),
            _ => None,
        });
        live.collect()
    }

    /// The first link, made while no other was.
    pub fn adopt(&self, link: Rc<Link>) {
        self.slots.borrow_mut().insert(link.core, Slot::Up(link));
    }

    /// Takes a dead link away unless another one has its place.
    pub fn remove(&self, dead: &Rc<Link>) {
        let mut slots = self.slots.borrow_mut();
        if matches!(slots.get(&dead.core), Some(Slot::Up(link)) if Rc::ptr_eq(link, dead)) {
            slots.remove(&dead.core);
        }
    }

    /// Closes the live links; they are made again on demand.
    pub fn close_all_links(&self) {
        for link in self.all() {
            link.close();
        }
    }

    pub fn close_all(&self) {
        self.close_all_links();
        self.changed.notify();
    }

    fn next_id(&self) -> u64 {
        self.next_id.set(self.next_id.get() + 1);
        self.next_id.get()
    }
}

impl Core {
    /// The link to a core; waits for it until `end`. None where the time is over or the core is
    /// not in the map any more.
    pub async fn link(self: &Rc<Self>, core: u16, end: Instant) -> Option<Rc<Link>> {
        loop {
            if let Some(link) = self.links.up(core) {
                return Some(link);
            }
            if self.check().is_err() {
                return None;
            }
            let changed = self.links.changed.changed();
            self.connect_in_background(core);
            timeout(&self.world.clock, end, changed).await?;
            if self.links.address(core).is_none() && self.links.cores() > 0 {
                return None;
            }
        }
    }

    /// Begins to connect unless that is under way or done.
    pub fn connect_in_background(self: &Rc<Self>, core: u16) {
        {
            let mut slots = self.links.slots.borrow_mut();
            match slots.get(&core) {
                Some(Slot::Connecting) => return,
                Some(Slot::Up(link)) if !link.is_closed() => return,
                _ => slots.insert(core, Slot::Connecting),
            };
        }
        let volume = self.clone();
        self.spawn(Class::Foreground, async move { volume.keep_connecting(core).await });
    }

    async fn keep_connecting(self: Rc<Self>, core: u16) {
        let mut backoff = Backoff::new();
        let mut attempt = 0;
        let link = loop {
            if self.check().is_err() {
                break None;
            }
            // The server may have moved: every other attempt asks where the volume began.
            let known = self.links.address(core).filter(|_| attempt % 2 == 0);
            let address =
                known.unwrap_or_else(|| self.options.addresses[attempt / 2 % self.options.addresses.len()].clone());
            match self.connect_once(core, &address).await {
                Ok(link) => break Some(link),
                Err(Refusal::NoSuchCore) => break None,
                Err(Refusal::Later(_) | Refusal::InvalidMap) => backoff.wait(&self.world).await,
            }
            attempt += 1;
        };
        {
            let mut slots = self.links.slots.borrow_mut();
            match link {
                Some(link) => slots.insert(core, Slot::Up(link)),
                None => slots.remove(&core),
            };
        }
        self.links.changed.notify();
    }

    /// One attempt to reach `core` at `address`; where that turns out to be another core's
    /// address, at the one the welcome lists.
    pub async fn connect_once(self: &Rc<Self>, core: u16, address: &Address) -> Result<Rc<Link>, Refusal> {
        let connection = self.welcome_at(address).await?;
        let listed = self.links.address(core).ok_or(Refusal::NoSuchCore)?;
        let connection = if listed == *address { connection } else { self.welcome_at(&listed).await? };
        let name = (self.links.next_id(), self.links.incarnation.get());
        let link = Link::start(self, name, core, connection);
        match self.reopen(&link).await {
            Ok(()) => Ok(link),
            Err(Lost::Gone | Lost::TimedOut | Lost::TooLong) => {
                link.close();
                Err(Refusal::Later(RpcError::Stalled))
            }
        }
    }

    async fn welcome_at(self: &Rc<Self>, address: &Address) -> Result<Rc<Connection>, Refusal> {
        let asking = loop {
            if self.session.has_id() {
                break None;
            }
            if let Some(asking) = self.session.ask() {
                break Some(asking);
            }
            let end = self.now().after(CONNECT_TIME_MAX);
            let changed = self.links.changed.changed();
            timeout(&self.world.clock, end, changed).await.ok_or(RpcError::Stalled)?;
        };
        let generation = self.session.generation();
        let result = self.shake_hands(address, self.session.id(), false).await;
        drop(asking);
        self.links.changed.notify();
        if let Err(RpcError::Refused(FsError::SessionExpired)) = result {
            self.session_lost(generation);
        }
        let (connection, welcome) = result?;
        if self.take_welcome(&welcome)? {
            // Each core waits for this session until it has said what it holds open there.
            (0..self.links.cores()).for_each(|core| self.connect_in_background(core));
        }
        Ok(connection)
    }

    /// A connection for bulk payload beside a link's own. None where there is none to be had now: the
    /// link does without.
    pub async fn connect_bulk(self: &Rc<Self>, link: &Rc<Link>) -> Option<Rc<Connection>> {
        let address = self.links.address(link.core).filter(|_| self.session.has_id())?;
        let (session, generation) = (self.session.id(), self.session.generation());
        let shaken = self.shake_hands(&address, session, true).await;
        if let Err(RpcError::Refused(FsError::SessionExpired)) = shaken {
            self.session_lost(generation);
        }
        let (connection, welcome) = shaken.ok()?;
        // A server that has started anew must first be told what is open, by a link to it.
        if welcome.session != session || link.incarnation != Some(welcome.incarnation) {
            connection.close();
            link.close();
            return None;
        }
        Some(connection)
    }

    /// Ends the session of a crashed process, whose leases would otherwise be waited for. What
    /// fails here ends by itself when the server has heard nothing of that session for long.
    pub async fn end_predecessor(self: &Rc<Self>, session: SessionId) {
        let end = self.now().after(CONNECT_TIME_MAX);
        for address in &self.options.addresses {
            let Ok((connection, _)) = self.shake_hands(address, session, true).await else { continue };
            let op = Op::CloseSession;
            let mut request = self.build(ShardId::new(0), Default::default(), &Identity::default(), &op, end);
            request.context.session = session;
            let number = connection.next_request();
            let ended = async {
                connection.send(op.opcode(), Flags::NONE, number, &request, None).await?;
                connection.recv().await
            };
            let _ended = timeout(&self.world.clock, end, ended).await;
            connection.close();
            return;
        }
    }

    async fn shake_hands(
        self: &Rc<Self>,
        address: &Address,
        session: SessionId,
        bulk: bool,
    ) -> Result<(Rc<Connection>, Welcome), RpcError> {
        let world = &self.world;
        let end = self.now().after(CONNECT_TIME_MAX);
        let stream = timeout(&world.clock, end, world.net.connect(address)).await.ok_or(RpcError::Stalled)??;
        let connection = Connection::new(world, stream);
        let hello = Hello { version: PROTOCOL_VERSION, nonce: [0; 32], session, instance: self.session.instance, bulk };
        let secret = self.options.secret.as_ref();
        let welcome = connect_handshake(&connection, &world.clock, &*world.rng, secret, hello).await?;
        Ok((connection, welcome))
    }

    /// True where the server has started anew since the last welcome.
    fn take_welcome(&self, welcome: &Welcome) -> Result<bool, Refusal> {
        let map = ShardMap::from_welcome(welcome).ok_or(Refusal::InvalidMap)?;
        if !self.session.welcome(welcome.session, welcome.cluster) {
            self.break_down(FsError::Stale);
            return Err(Refusal::Later(RpcError::Protocol));
        }
        self.links.lease.set(Duration::from_millis(u64::from(welcome.lease_ms)));
        let before = self.links.incarnation.replace(Some(welcome.incarnation));
        let anew = before.is_some_and(|before| before != welcome.incarnation);
        if anew {
            self.void_leases();
        }
        *self.links.map.borrow_mut() = Some(map);
        Ok(anew)
    }

    /// Says what is open in the core's shards, before anything else is asked of it; then opens it
    /// again, for the leases that come with that.
    async fn reopen(self: &Rc<Self>, link: &Rc<Link>) -> Result<(), Lost> {
        let Some(shard) = self.links.shard_of(link.core) else { return Ok(()) };
        let of_core = |shard: ShardId| self.links.core_of(shard) == Some(link.core);
        let mut open = self.inodes.open_files();
        open.retain(|(ino, _)| of_core(ino.shard()));
        let mut rest: Vec<InodeId> = open.iter().map(|(ino, _)| *ino).collect();
        let incarnation = link.incarnation.unwrap_or_default();
        let shards: Vec<ShardId> = ShardId::all().filter(|shard| of_core(*shard)).collect();
        let unasked = |shard: &ShardId| self.seen.unasked(*shard, incarnation).map(|(at, seen)| (*shard, at, seen));
        let mut seen: Vec<_> = shards.iter().filter_map(unasked).collect();
        loop {
            let later = rest.split_off(rest.len().min(REOPENED_AT_ONCE));
            let last = later.is_empty();
            let op = Op::Reopen { inodes: std::mem::replace(&mut rest, later), last, seen: std::mem::take(&mut seen) };
            let end = self.now().after(REOPEN_TIME_MAX);
            let request = self.build(shard, Default::default(), &Identity::default(), &op, end);
            let answered = link.request(self, &request, None, end).await?;
            match answered.response.result {
                Err(FsError::Stale) => self.break_down(FsError::Stale),
                // Not asked yet: the next connection asks.
                Err(FsError::Busy | FsError::TimedOut) => {}
                _ if last => break,
                _ => continue,
            }
            return Err(Lost::Gone);
        }
        shards.iter().for_each(|shard| self.seen.asked(*shard, incarnation));
        for (ino, write) in open {
            self.reopen_one(link, ino, write).await?;
        }
        Ok(())
    }

    async fn reopen_one(self: &Rc<Self>, link: &Rc<Link>, ino: InodeId, write: bool) -> Result<(), Lost> {
        let mode = if write { OpenMode::Write } else { OpenMode::Read };
        let end = self.now().after(REOPEN_TIME_MAX);
        let mut backoff = Backoff::new();
        loop {
            let op = Op::Open { ino, mode };
            let request = self.build(ino.shard(), Default::default(), &Identity::default(), &op, end);
            let answered = link.request(self, &request, None, end).await?;
            match answered.response.result {
                Err(FsError::Busy | FsError::Blocked | FsError::Conflict | FsError::TimedOut) => {
                    backoff.wait(&self.world).await;
                }
                // A file that is gone says so again to whoever uses it.
                _ => return Ok(()),
            }
        }
    }
}
