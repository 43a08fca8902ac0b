//! A peer that sends what it likes: nothing of the client library's care stands before the server.

use cfs_rpc::{Connection, connect_handshake};
use cfs_seam::{IoBuf, World};
use cfs_types::{FsError, RequestNumber, SessionId, ShardId};
use cfs_volume::VolumeOptions;
use cfs_wire::Welcome;
use cfs_wire::frame::PROTOCOL_VERSION;
use cfs_wire::{Callback, CallbackReply, Flags, Hello, Identity, Op, Opcode, Reply, Request, RequestContext, Response};
use std::cell::Cell;
use std::rc::Rc;

/// One session on one connection, one request at a time.
pub struct Peer {
    connection: Rc<Connection>,
    welcome: Welcome,
    number: Cell<RequestNumber>,
    /// The oldest request that it says it waits for, where that is not the newest.
    oldest: Cell<Option<RequestNumber>>,
}

impl Peer {
    /// Connects to the first address that answers.
    pub async fn connect(world: &World, options: &VolumeOptions) -> Peer {
        Peer::shake_hands(world, options, SessionId::new(0), false).await
    }

    /// A connection of the same session for bulk payload.
    pub async fn connect_bulk(&self, world: &World, options: &VolumeOptions) -> Peer {
        Peer::shake_hands(world, options, self.welcome.session, true).await
    }

    /// One more connection of the same session, as a client makes to ask for the map.
    pub async fn connect_again(&self, world: &World, options: &VolumeOptions) -> Peer {
        Peer::shake_hands(world, options, self.welcome.session, false).await
    }

    /// Waits until the server closes the connection.
    pub async fn ended(&self) {
        assert!(self.connection.recv().await.is_err(), "it says something");
    }

    async fn shake_hands(world: &World, options: &VolumeOptions, session: SessionId, bulk: bool) -> Peer {
        for address in &options.addresses {
            let Ok(stream) = world.net.connect(address).await else { continue };
            let connection = Connection::new(world, stream);
            let hello = Hello { version: PROTOCOL_VERSION, nonce: [0; 32], session, instance: 7, bulk };
            let shaken =
                connect_handshake(&connection, &world.clock, &*world.rng, options.secret.as_ref(), hello).await;
            let welcome = shaken.expect("the secret is right");
            return Peer { connection, welcome, number: Cell::new(RequestNumber::new(1)), oldest: Cell::default() };
        }
        panic!("no server");
    }

    /// Goes on with another number, and with what it says it still waits for.
    pub fn go_on(&self, number: u64, oldest: Option<u64>) {
        self.number.set(RequestNumber::new(number));
        self.oldest.set(oldest.map(RequestNumber::new));
    }

    /// Sends an operation to a shard and takes the answer.
    pub async fn call(&self, shard: ShardId, op: Op, payload: Option<IoBuf>) -> Result<Reply, FsError> {
        self.call_as(shard, Identity::default(), op, payload).await
    }

    /// Sends an operation `count` times and takes no answer, until the server has had enough.
    pub async fn flood(&self, shard: ShardId, op: &Op, payload: &[u8], count: u64) {
        for _ in 0..count {
            let (number, frame) = (RequestNumber::default(), self.connection.next_request());
            let request = self.request(shard, number, Identity::default(), op.clone());
            let payload = Some(IoBuf::copy_of(payload));
            if self.connection.send(op.opcode(), Flags::NONE, frame, &request, payload).await.is_err() {
                return;
            }
        }
    }

    fn request(&self, shard: ShardId, number: RequestNumber, identity: Identity, op: Op) -> Request {
        let context = RequestContext {
            shard,
            map_epoch: self.welcome.map_epoch,
            session: self.welcome.session,
            number,
            oldest: self.oldest.get().unwrap_or(number),
            identity,
            ..RequestContext::default()
        };
        Request { context, op }
    }

    /// As somebody.
    pub async fn call_as(
        &self,
        shard: ShardId,
        identity: Identity,
        op: Op,
        payload: Option<IoBuf>,
    ) -> Result<Reply, FsError> {
        let number = self.number.get();
        self.number.set(number.next());
        let (opcode, frame) = (op.opcode(), self.connection.next_request());
        let request = self.request(shard, number, identity, op);
        self.connection.send(opcode, Flags::NONE, frame, &request, payload).await.expect("connected");
        loop {
            let answer = self.connection.recv().await.expect("connected");
            if answer.header.opcode == Opcode::CALLBACK {
                if let Ok(Callback::Revoke { ino, sequence }) = answer.message() {
                    let reply = CallbackReply { ino, sequence, pinned: true };
                    self.connection.respond(&answer.header, &reply, None).await.expect("connected");
                }
            } else if answer.header.request == frame {
                return answer.message::<Response>().expect("a response").result;
            }
        }
    }
}
