//! A client without caches: a connection to each core, requests matched with answers.

use super::Target;
use crate::Failure;
use cfs_rpc::{Connection, connect_handshake};
use cfs_seam::{Address, Class, IoBuf, Promise, World, io, spawn};
use cfs_server::Door;
use cfs_types::{FsError, MapEpoch, RequestNumber, SessionId, ShardId};
use cfs_wire::frame::PROTOCOL_VERSION;
use cfs_wire::{Callback, CallbackReply, Flags, Hello, Op, Opcode, Reply, Request, RequestContext, Response, Welcome};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

type Answer = (Response, Option<IoBuf>);

struct Link {
    connection: Rc<Connection>,
    pending: RefCell<BTreeMap<u32, Promise<Option<Answer>>>>,
}

/// How requests reach the server.
enum Way {
    /// A connection to each core.
    Links(Vec<Rc<Link>>),
    /// The server's core is this thread's.
    Door(Door),
}

/// One session of the server.
pub struct Client {
    /// The executor it runs on.
    pub world: World,
    way: Way,
    welcome: Welcome,
    next: Cell<RequestNumber>,
    outstanding: RefCell<BTreeSet<RequestNumber>>,
}

/// Connects to one address.
pub async fn shake_hands(
    world: &World,
    connection: &Connection,
    target: &Target,
    session: SessionId,
) -> Result<Welcome, Failure> {
    let hello = Hello { version: PROTOCOL_VERSION, nonce: [0; 32], session, instance: 7, bulk: false };
    let shaken = connect_handshake(connection, &world.clock, &*world.rng, Some(&target.secret), hello).await;
    shaken.map_err(|e| Failure::new("shaking hands", e))
}

impl Client {
    /// Connects to every core.
    pub async fn connect(world: &World, target: &Target) -> Result<Rc<Client>, Failure> {
        let failed = |e| Failure::new(format!("connecting to {}", target.address), e);
        let stream = world.net.connect(&Address::Tcp(target.address)).await.map_err(failed)?;
        let first = Connection::new(world, stream);
        let welcome = shake_hands(world, &first, target, SessionId::new(0)).await?;
        let mut connections = vec![first];
        for core in 1..u16::try_from(welcome.cores.len()).unwrap_or(u16::MAX) {
            let mut address = target.address;
            address.set_port(target.address.port() + core);
            let stream = world.net.connect(&Address::Tcp(address)).await.map_err(failed)?;
            let connection = Connection::new(world, stream);
            shake_hands(world, &connection, target, welcome.session).await?;
            connections.push(connection);
        }
        let links = connections.into_iter().map(|c| Rc::new(Link { connection: c, pending: RefCell::default() }));
        let client = Rc::new(Client {
            world: world.clone(),
            way: Way::Links(links.collect()),
            welcome,
            next: Cell::new(RequestNumber::new(1)),
            outstanding: RefCell::default(),
        });
        if let Way::Links(links) = &client.way {
            for link in links {
                spawn(&world.tasks, Class::Foreground, receive(link.clone())).detach();
            }
        }
        Ok(client)
    }

    /// A session of the only core of a server, which is this thread's.
    pub async fn inside(world: &World, door: Door) -> Result<Rc<Client>, Failure> {
        let session = door.open_session().await.map_err(|e| Failure::new("opening a session", e))?;
        let welcome = Welcome {
            session,
            cluster: [0; 16],
            map_epoch: MapEpoch::new(1),
            shard_core: ShardId::all().map(|_| 0).collect(),
            cores: vec![String::new()],
            lease_ms: 0,
            incarnation: 0,
        };
        let (next, outstanding) = (Cell::new(RequestNumber::new(1)), RefCell::default());
        Ok(Rc::new(Client { world: world.clone(), way: Way::Door(door), welcome, next, outstanding }))
    }

    /// One operation; every error of the server is a failure here.
    pub async fn call(
        &self,
        shard: ShardId,
        op: Op,
        payload: Option<IoBuf>,
    ) -> Result<(Reply, Option<IoBuf>), Failure> {
        let (response, payload) = self.exchange(shard, &op, payload).await?;
        match response.result {
            Ok(reply) => Ok((reply, payload)),
            Err(error) => Err(Failure(format!("{op:?}: {error}"))),
        }
    }

    async fn exchange(&self, shard: ShardId, op: &Op, payload: Option<IoBuf>) -> Result<Answer, Failure> {
        let number = op.is_mutation().then(|| self.number());
        let context = context(&self.welcome, shard, number.unwrap_or_default(), self.oldest());
        let request = Request { context, op: op.clone() };
        let answer = match &self.way {
            Way::Door(door) => Ok(door.serve(request, payload).await),
            Way::Links(links) => {
                let core = self.welcome.shard_core[usize::from(shard.get())];
                ask(&links[usize::from(core)], op, &request, payload).await
            }
        };
        if let Some(number) = number {
            self.outstanding.borrow_mut().remove(&number);
        }
        answer
    }

    fn number(&self) -> RequestNumber {
        let number = self.next.get();
        self.next.set(number.next());
        self.outstanding.borrow_mut().insert(number);
        number
    }

    fn oldest(&self) -> RequestNumber {
        self.outstanding.borrow().first().copied().unwrap_or(self.next.get())
    }
}

/// Sends a request and waits for its answer.
async fn ask(link: &Link, op: &Op, request: &Request, payload: Option<IoBuf>) -> Result<Answer, Failure> {
    let (promise, answer) = io();
    let frame = link.connection.next_request();
    link.pending.borrow_mut().insert(frame, promise);
    let sent = link.connection.send(op.opcode(), Flags::NONE, frame, request, payload).await;
    sent.map_err(|e| Failure::new("sending", e))?;
    answer.await.ok_or_else(|| Failure("the server closed the connection".into()))
}
impl Drop for Client {
    fn drop(&mut self) {
        if let Way::Links(links) = &self.way {
            links.iter().for_each(|link| link.connection.close());
        }
    }
}

/// The context of a request of this session.
pub fn context(welcome: &Welcome, shard: ShardId, number: RequestNumber, oldest: RequestNumber) -> RequestContext {
    RequestContext {
        shard,
        map_epoch: MapEpoch::new(welcome.map_epoch.get()),
        session: welcome.session,
        number,
        oldest,
        ..RequestContext::default()
    }
}

async fn receive(link: Rc<Link>) {
    while let Ok(frame) = link.connection.recv().await {
        if frame.header.opcode == Opcode::CALLBACK {
            if let Ok(Callback::Revoke { ino, sequence }) = frame.message() {
                let reply = CallbackReply { ino, sequence, pinned: false };
                let _closed = link.connection.respond(&frame.header, &reply, None).await;
            }
            continue;
        }
        let waiting = link.pending.borrow_mut().remove(&frame.header.request);
        let response = frame.message::<Response>();
        if let (Some(promise), Ok(response)) = (waiting, response) {
            promise.complete(Some((response, frame.into_bulk())));
        }
    }
    let pending = std::mem::take(&mut *link.pending.borrow_mut());
    pending.into_values().for_each(|promise| promise.complete(None));
}

/// A refusal that a loop may meet where another run left its files.
pub fn is_exists(failure: &Failure) -> bool {
    failure.0.ends_with(&FsError::Exists.to_string())
}
