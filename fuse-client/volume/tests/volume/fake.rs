//! A server of one core that keeps a few files in memory and misbehaves on demand.

use cfs_rpc::{Admission, Connection, Frame, accept_handshake, answer_hello};
use cfs_seam::{Address, Class, IoBuf, Promise, World, io, sleep, spawn};
use cfs_types::{FsError, InodeId, MapEpoch, Name, Nanos, RequestNumber, SessionId, ShardId, Timestamp};
use cfs_volume::{KernelCache, Volume, VolumeOptions};
use cfs_wire::{
    Attr, Callback, CallbackReply, EntryReply, FileKind, Flags, Lease, LeaseKind, Op, Opcode, Reply, Request, Response,
    Secret, Welcome,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

pub const ADDRESS: &str = "127.0.0.1:7400";

pub fn secret() -> Secret {
    Secret::new(b"the secret of the tests").expect("long enough")
}
pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}
pub fn ino(sequence: u64) -> InodeId {
    InodeId::new(sequence, ShardId::new(7)).expect("valid")
}

pub struct File {
    pub attr: Attr,
    /// Bytes held back since an earlier epoch are refused.
    pub taken_at: u64,
    pub bytes: Vec<u8>,
}

/// What the test sees of the server, and how it tells it to misbehave.
pub struct Fake {
    world: World,
    pub files: RefCell<BTreeMap<InodeId, File>>,
    pub names: RefCell<BTreeMap<(InodeId, Name), InodeId>>,
    results: RefCell<BTreeMap<(SessionId, RequestNumber), Result<Reply, FsError>>>,
    /// Every request that arrived, in order.
    pub log: RefCell<Vec<Request>>,
    /// Leases granted on what a reply speaks of.
    pub lease: Cell<Option<LeaseKind>>,
    pub incarnation: Cell<u64>,
    sessions: Cell<u64>,
    expired: Cell<u64>,
    /// Executes so many mutations without answering: the connection ends instead.
    pub lose_replies: Cell<u32>,
    /// Every write fails so.
    pub write_error: Cell<Option<FsError>>,
    /// Entries tell no attributes, as where the inode is another shard's.
    pub bare_entries: Cell<bool>,
    /// Replies to this opcode wait, executed, until `release`.
    pub hold: Cell<Option<Opcode>>,
    held: RefCell<Vec<Promise<()>>>,
    connections: RefCell<Vec<Rc<Connection>>>,
    bulk: RefCell<Vec<Rc<Connection>>>,
    /// Every request that arrived on a bulk connection, in order.
    pub bulk_log: RefCell<Vec<Op>>,
    /// Bulk connections are refused.
    pub refuse_bulk: Cell<bool>,
    /// Bulk connections are not read from.
    pub stall_bulk: Cell<bool>,
    answers: RefCell<BTreeMap<u32, Promise<CallbackReply>>>,
    next_inode: Cell<u64>,
    /// Rises with every inode.
    time: Cell<i64>,
}

impl Fake {
    /// Listens and serves.
    pub fn start(world: &World) -> Rc<Fake> {
        let fake = Rc::new(Fake {
            world: world.clone(),
            files: RefCell::default(),
            names: RefCell::default(),
            results: RefCell::default(),
            log: RefCell::default(),
            lease: Cell::new(None),
            incarnation: Cell::new(1),
            sessions: Cell::new(0),
            expired: Cell::new(0),
            lose_replies: Cell::new(0),
            write_error: Cell::new(None),
            bare_entries: Cell::new(false),
            hold: Cell::new(None),
            held: RefCell::default(),
            connections: RefCell::default(),
            bulk: RefCell::default(),
            bulk_log: RefCell::default(),
            refuse_bulk: Cell::new(false),
            stall_bulk: Cell::new(false),
            answers: RefCell::default(),
            next_inode: Cell::new(100),
            time: Cell::new(0),
        });
        fake.add(InodeId::ROOT, FileKind::Directory, b"");
        let listener = world.net.listen(&address()).expect("a free port");
        let serving = fake.clone();
        spawn(&world.tasks, Class::Foreground, async move {
            while let Ok(stream) = listener.accept().await {
                let connection = Connection::new(&serving.world, stream);
                let fake = serving.clone();
                spawn(&serving.world.tasks, Class::Foreground, async move { fake.serve(connection).await }).detach();
            }
        })
        .detach();
        fake
    }

    pub fn add(&self, ino: InodeId, kind: FileKind, bytes: &[u8]) {
        self.time.set(self.time.get() + 1);
        let now = Nanos::new(self.time.get());
        let attr = Attr {
            ino,
            kind,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: bytes.len() as u64,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            change: 1,
            epoch: 1,
            sequence: 0,
        };
        self.files.borrow_mut().insert(ino, File { attr, taken_at: 0, bytes: bytes.to_vec() });
    }

    /// Adds a name, and what that does to its directory.
    pub fn enter(&self, dir: InodeId, name: &Name, ino: InodeId) {
        self.names.borrow_mut().insert((dir, name.clone()), ino);
        let mut files = self.files.borrow_mut();
        let now = files[&ino].attr.btime;
        let attr = &mut files.get_mut(&dir).expect("a directory").attr;
        (attr.size, attr.change) = (attr.size + 1, attr.change + 1);
        (attr.mtime, attr.ctime) = (now, now);
    }

    /// Dies and comes back: every connection ends, leases are forgotten, results are not.
    pub fn restart(&self) {
        self.incarnation.set(self.incarnation.get() + 1);
        self.close_connections();
    }
    pub fn close_connections(&self) {
        for connection in self.connections.borrow_mut().drain(..) {
            connection.close();
        }
        self.close_bulk();
    }
    pub fn close_bulk(&self) {
        for connection in self.bulk.borrow_mut().drain(..) {
            connection.close();
        }
    }
    /// Forgets every session.
    pub fn expire_sessions(&self) {
        self.expired.set(self.sessions.get());
        self.close_connections();
    }

    pub fn release(&self) {
        self.hold.set(None);
        for held in self.held.borrow_mut().drain(..) {
            held.complete(());
        }
    }
    pub fn held(&self) -> usize {
        self.held.borrow().len()
    }

    /// Revokes and waits for the client's answer.
    pub async fn revoke(&self, ino: InodeId) -> CallbackReply {
        let connection = self.connections.borrow().last().expect("connected").clone();
        let request = connection.next_request();
        let (promise, answer) = io();
        self.answers.borrow_mut().insert(request, promise);
        let callback = Callback::Revoke { ino, sequence: u64::from(request) };
        connection.send(Opcode::CALLBACK, Flags::NONE, request, &callback, None).await.expect("sent");
        answer.await
    }

    /// Revokes without waiting, if anybody is connected.
    pub async fn try_revoke(&self, ino: InodeId) {
        let Some(connection) = self.connections.borrow().last().cloned() else { return };
        let request = connection.next_request();
        let (promise, _unwanted) = io();
        self.answers.borrow_mut().insert(request, promise);
        let callback = Callback::Revoke { ino, sequence: u64::from(request) };
        let _gone = connection.send(Opcode::CALLBACK, Flags::NONE, request, &callback, None).await;
    }

    /// Requests of this kind that arrived.
    pub fn count(&self, kind: impl Fn(&Op) -> bool) -> usize {
        self.log.borrow().iter().filter(|request| kind(&request.op)).count()
    }

    async fn serve(self: Rc<Self>, connection: Rc<Connection>) {
        let admission = Admission { secret: secret(), unix_uid: None };
        let world = &self.world;
        let Ok((hello, proven)) = accept_handshake(&connection, &world.clock, &*world.rng, &admission).await else {
            return;
        };
        let session = match hello.session.get() {
            0 => {
                self.sessions.set(self.sessions.get() + 1);
                Ok(SessionId::new(self.sessions.get()))
            }
            id if id <= self.expired.get() => Err(FsError::SessionExpired),
            _ if hello.bulk && self.refuse_bulk.get() => Err(FsError::Busy),
            _ => Ok(hello.session),
        };
        let welcome = session.map(|session| Welcome {
            session,
            cluster: [9; 16],
            map_epoch: MapEpoch::new(1),
            shard_core: vec![0; 256],
            cores: vec![ADDRESS.to_owned()],
            lease_ms: 2000,
            incarnation: self.incarnation.get(),
        });
        if answer_hello(&connection, &proven, welcome).await.is_err() {
            return;
        }
        let kind = if hello.bulk { &self.bulk } else { &self.connections };
        kind.borrow_mut().push(connection.clone());
        while let Ok(frame) = connection.recv().await {
            while hello.bulk && self.stall_bulk.get() {
                sleep(&world.clock, Duration::from_millis(1)).await;
            }
            if frame.header.flags.has(Flags::RESPONSE) {
                let reply = frame.message().expect("a callback's reply");
                let waiting = self.answers.borrow_mut().remove(&frame.header.request);
                if let Some(waiting) = waiting {
                    waiting.complete(reply);
                }
                continue;
            }
            if hello.bulk {
                let request: Request = frame.message().expect("a request");
                self.bulk_log.borrow_mut().push(request.op);
            }
            let (fake, connection) = (self.clone(), connection.clone());
            spawn(&self.world.tasks, Class::Foreground, async move { fake.answer(connection, frame).await }).detach();
        }
    }

    async fn answer(self: Rc<Self>, connection: Rc<Connection>, frame: Frame) {
        let header = frame.header;
        let request: Request = frame.message().expect("a request");
        let payload = frame.into_bulk();
        self.log.borrow_mut().push(request.clone());
        let key = (request.context.session, request.context.number);
        let known = self.results.borrow().get(&key).cloned();
        let (result, data) = match known.filter(|_| request.op.is_mutation()) {
            Some(result) => (result, None),
            None => self.execute(&request, payload.as_deref().unwrap_or(&[])),
        };
        if request.op.is_mutation() {
            assert_ne!(request.context.number.get(), 0, "mutations are numbered");
            assert!(request.context.oldest <= request.context.number);
            self.results.borrow_mut().insert(key, result.clone());
            if self.lose_replies.get() > 0 {
                self.lose_replies.set(self.lose_replies.get() - 1);
                connection.close();
                return;
            }
        }
        let leases = self.leases(&request.op, &result);
        if self.hold.get() == Some(header.opcode) {
            let (promise, released) = io();
            self.held.borrow_mut().push(promise);
            released.await;
        }
        let response =
            Response { timestamp: Timestamp::new(1), map_epoch: MapEpoch::new(1), leases, full_percent: 0, result };
        let _gone = connection.respond(&header, &response, data).await;
    }

    fn leases(&self, op: &Op, result: &Result<Reply, FsError>) -> Vec<Lease> {
        let Some(kind) = self.lease.get() else { return Vec::new() };
        let mut inodes = match op {
            Op::Lookup { dir, .. } | Op::Create { dir, .. } | Op::Unlink { dir, .. } => vec![*dir],
            Op::Read { ino, .. } => vec![*ino],
            _ => Vec::new(),
        };
        match result {
            Ok(Reply::Entry(entry)) => inodes.extend(entry.attr.iter().map(|attr| attr.ino)),
            Ok(Reply::Attr(attr) | Reply::Written { attr, .. }) => inodes.push(attr.ino),
            _ => {}
        }
        inodes.into_iter().map(|ino| Lease { ino, kind }).collect()
    }

    fn execute(&self, request: &Request, payload: &[u8]) -> (Result<Reply, FsError>, Option<IoBuf>) {
        let mut files = self.files.borrow_mut();
        let found = |ino: &InodeId, files: &BTreeMap<InodeId, File>| {
            files.get(ino).map(|file| Reply::Attr(file.attr.clone())).ok_or(FsError::Stale)
        };
        let result = match &request.op {
            Op::Getattr { ino } | Op::Open { ino, .. } => found(ino, &files),
            Op::Lookup { dir, name } => {
                let child = self.names.borrow().get(&(*dir, name.clone())).copied();
                child.map(|ino| self.entry(ino, &files)).ok_or(FsError::NotFound)
            }
            Op::Create { dir, name, .. } => {
                let ino = ino(self.next_inode.get());
                self.next_inode.set(self.next_inode.get() + 1);
                drop(files);
                self.add(ino, FileKind::File, b"");
                self.enter(*dir, name, ino);
                return (Ok(self.entry(ino, &self.files.borrow())), None);
            }
            Op::Unlink { dir, name } => {
                let gone = self.names.borrow_mut().remove(&(*dir, name.clone()));
                gone.map(|_| Reply::Done).ok_or(FsError::NotFound)
            }
            Op::Write { ino, offset, append, held, .. } => match (self.write_error.get(), files.get_mut(ino)) {
                (Some(error), _) => Err(error),
                (None, None) => Err(FsError::Stale),
                (None, Some(file)) if held.is_some_and(|held| held.epoch < file.taken_at) => Err(FsError::Stale),
                (None, Some(file)) => {
                    let at = if *append { file.bytes.len() } else { index(*offset) };
                    file.bytes.resize(file.bytes.len().max(at + payload.len()), 0);
                    file.bytes[at..at + payload.len()].copy_from_slice(payload);
                    file.attr.size = file.bytes.len() as u64;
                    file.attr.change += 1;
                    if let Some(held) = held {
                        (file.attr.mtime, file.attr.ctime) = (held.time, held.time);
                    }
                    Ok(Reply::Written { offset: at as u64, attr: file.attr.clone(), sequence: 0 })
                }
            },
            Op::Setattr { ino, change } => {
                let file = files.get_mut(ino).expect("exists");
                if let Some(size) = change.size {
                    file.bytes.resize(index(size), 0);
                    file.attr.size = size;
                    file.attr.epoch += 1;
                }
                file.attr.change += 1;
                Ok(Reply::Attr(file.attr.clone()))
            }
            Op::Read { ino, offset, len, .. } => {
                let bytes = &files[ino].bytes;
                let from = index(*offset).min(bytes.len());
                let part = &bytes[from..(from + index(u64::from(*len))).min(bytes.len())];
                return (
                    Ok(Reply::Data { len: u32::try_from(part.len()).expect("short") }),
                    Some(IoBuf::copy_of(part)),
                );
            }
            Op::GetXattr { .. } => Err(FsError::NoAttribute),
            _ => Ok(Reply::Done),
        };
        (result, None)
    }

    fn entry(&self, ino: InodeId, files: &BTreeMap<InodeId, File>) -> Reply {
        let attr = files[&ino].attr.clone();
        Reply::Entry(EntryReply { ino, kind: attr.kind, attr: Some(attr).filter(|_| !self.bare_entries.get()) })
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("small files")
}

pub fn address() -> Address {
    Address::Tcp(ADDRESS.parse().expect("an address"))
}

/// A server with file 1 (`a`) in its root, and a volume connected to it.
pub async fn stage(world: &World) -> (Rc<Fake>, Rc<Volume>) {
    let fake = Fake::start(world);
    fake.add(ino(1), FileKind::File, b"old content");
    fake.enter(InodeId::ROOT, &name("a"), ino(1));
    let options = VolumeOptions::new(vec![address()], Some(secret()));
    let volume = Volume::connect(world.clone(), options).await.expect("connected");
    (fake, volume)
}

/// Records what the kernel is told.
#[derive(Default)]
pub struct Kernel {
    pub inodes: RefCell<Vec<InodeId>>,
    pub pages: RefCell<Vec<(InodeId, u64, u64)>>,
    pub entries: RefCell<Vec<(InodeId, Name)>>,
    pub distrusted: RefCell<Vec<InodeId>>,
    /// Forgetting never ends: an operation holds the lock.
    pub stuck: Cell<bool>,
    /// Forgetting waits for no lock, but for a CPU, so long.
    pub starved: RefCell<Option<(World, Duration)>>,
}

impl Kernel {
    /// The kernel that this volume's mount speaks for.
    pub fn of(volume: &Volume) -> Rc<Self> {
        let kernel = Rc::new(Kernel::default());
        volume.set_kernel_cache(kernel.clone());
        kernel
    }
}

impl KernelCache for Kernel {
    fn forget_inode(&self, ino: InodeId) {
        self.inodes.borrow_mut().push(ino);
    }
    fn forget_pages(&self, ino: InodeId, offset: u64, bytes: u64) {
        self.pages.borrow_mut().push((ino, offset, bytes));
    }
    fn forget_entry(&self, dir: InodeId, name: &Name) {
        self.entries.borrow_mut().push((dir, name.clone()));
    }
    fn settled(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        let starved = self.starved.borrow().clone();
        match starved {
            Some((world, time)) => Box::pin(async move { sleep(&world.clock, time).await }),
            None if self.stuck.get() => Box::pin(std::future::pending()),
            None => Box::pin(std::future::ready(())),
        }
    }
    fn waits_for_lock(&self) -> bool {
        self.stuck.get()
    }
    fn distrust(&self, inodes: &[InodeId]) {
        self.distrusted.borrow_mut().extend(inodes);
    }
}
