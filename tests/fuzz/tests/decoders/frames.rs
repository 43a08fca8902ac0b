//! docs/formats/wire.md: frames, and the handshakes that begin with them.

use crate::disk::{number, seal};
use cfs_fuzz::{Target, unhex};
use cfs_rpc::{Admission, Connection, accept_handshake, answer_hello, connect_handshake};
use cfs_seam::{Class, Io, IoBuf, NetError, Peer, SendDone, Spawn, Stream, TaskHandle, World};
use cfs_sim::at_once;
use cfs_types::{MapEpoch, SessionId};
use cfs_wire::frame::{HEADER_BYTES, MAGIC, PAYLOAD_BYTES_MAX, PROTOCOL_VERSION};
use cfs_wire::{Flags, FrameReader, Header, Hello, HelloReply, Opcode, Proof, Secret, Welcome, encode};
use serde::Serialize;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

pub fn golden() -> Vec<Vec<u8>> {
    [
        include_str!("../../../../shards/wire/golden/hello.hex"),
        include_str!("../../../../shards/wire/golden/lookup.hex"),
        include_str!("../../../../shards/wire/golden/lookup_refused.hex"),
        include_str!("../../../../shards/wire/golden/write.hex"),
        include_str!("../../../../shards/wire/golden/data.hex"),
        include_str!("../../../../shards/wire/golden/revoke.hex"),
    ]
    .map(unhex)
    .to_vec()
}

fn frame<M: Serialize>(opcode: Opcode, flags: Flags, request: u32, message: &M) -> Vec<u8> {
    encode(opcode, flags, request, message, b"").expect("fits").head
}

/// The checksums of one frame after another, as far as their lengths lead.
fn seal_frames(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(frame) = bytes.get_mut(at..).filter(|frame| frame.len() >= HEADER_BYTES) {
        let body = (number(frame, 4) >> 16) + number(frame, 12);
        seal(frame, HEADER_BYTES, HEADER_BYTES + body, 16);
        seal(frame, 0, 20, 20);
        at += HEADER_BYTES + body;
    }
}

#[test]
fn headers() {
    let seeds = golden().into_iter().map(|frame| frame[..HEADER_BYTES].to_vec()).collect();
    Target::new("frame header", &["shards/wire/src/frame.rs", "shards/wire/src/opcode.rs"], seeds)
        .sealed(|bytes| seal(bytes, 0, 20, 20))
        .may_hold(0, 0)
        .is_exact(|bytes| Header::decode(bytes.try_into().ok()?).ok(), |header| header.encode().to_vec());
}

/// Header, extension and payload.
type Parts = (Header, Vec<u8>, Vec<u8>);

/// The frames of a stream that comes in two pieces; None unless it is whole frames.
fn read_frames(bytes: &[u8]) -> Option<Vec<Parts>> {
    let (mut reader, mut frames) = (FrameReader::new(), Vec::new());
    let (first, second) = bytes.split_at(bytes.len() / 2);
    reader.feed(first.to_vec());
    let mut second = Some(second.to_vec());
    loop {
        let Some(head) = reader.poll_head().ok()? else {
            match second.take() {
                Some(second) => reader.feed(second),
                None => return reader.is_idle().then_some(frames),
            }
            continue;
        };
        if head.header.payload_bytes() > reader.held_bytes() {
            reader.feed(second.take()?);
        }
        let length = head.header.payload_bytes();
        (length <= reader.held_bytes()).then_some(())?;
        let mut payload = vec![0; length];
        assert_eq!(reader.take_ahead(&mut payload), length);
        head.header.verify(&head.extension, &payload).ok()?;
        frames.push((head.header, head.extension, payload));
    }
}

#[test]
fn frames() {
    let mut seeds = golden();
    seeds.push(golden().concat());
    Target::new("frames", &["shards/wire/src/frame.rs", "shards/wire/src/codec.rs"], seeds)
        .sealed(|bytes| seal_frames(bytes))
        .may_hold(16, 256)
        .is_exact(read_frames, |frames| {
            let parts =
                frames.iter().map(|(header, extension, payload)| [&header.encode(), &extension[..], payload].concat());
            parts.collect::<Vec<_>>().concat()
        });
}

/// A peer that has said everything already, and then closed.
struct Said {
    bytes: Vec<u8>,
    at: Cell<usize>,
}

impl Stream for Said {
    fn recv(&self) -> Io<Result<Vec<u8>, NetError>> {
        let rest = &self.bytes[self.at.get()..];
        let piece = rest[..rest.len().min(100)].to_vec();
        self.at.set(self.at.get() + piece.len());
        Io::ready(if piece.is_empty() { Err(NetError::Closed) } else { Ok(piece) })
    }
    fn recv_exact(&self, mut buf: IoBuf, from: usize) -> Io<(Result<(), NetError>, IoBuf)> {
        let rest = &self.bytes[self.at.get()..];
        let wanted = buf.len() - from;
        if rest.len() < wanted {
            return Io::ready((Err(NetError::Closed), buf));
        }
        buf[from..].copy_from_slice(&rest[..wanted]);
        self.at.set(self.at.get() + wanted);
        Io::ready((Ok(()), buf))
    }
    fn send(&self, _head: Vec<u8>, payload: Option<IoBuf>) -> Io<SendDone> {
        Io::ready(SendDone { result: Ok(()), payload })
    }
    fn close(&self) {}
    fn peer(&self) -> Peer {
        // Admitted by its user id: what it proves cannot be known beforehand.
        Peer { address: "a test".into(), uid: Some(0) }
    }
}

/// Tasks that never run: what a connection would send stays with it.
struct NoTasks;

impl Spawn for NoTasks {
    fn spawn_boxed(&self, _class: Class, _task: Pin<Box<dyn Future<Output = ()>>>) -> TaskHandle {
        TaskHandle::new(Box::new(|| ()))
    }
    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(std::future::ready(()))
    }
}

fn connection(world: &World, bytes: &[u8]) -> Rc<Connection> {
    let world = World { tasks: Rc::new(NoTasks), ..world.clone() };
    Connection::new(&world, Rc::new(Said { bytes: bytes.to_vec(), at: Cell::new(0) }))
}

fn welcome() -> Welcome {
    Welcome {
        session: SessionId::new(4),
        cluster: [1; 16],
        map_epoch: MapEpoch::new(1),
        shard_core: vec![0; 256],
        cores: vec!["127.0.0.1:7400".to_owned()],
        lease_ms: 2000,
        incarnation: 1,
    }
}

const SHAKING: u64 = 10_000;

#[test]
fn handshakes_of_clients() {
    cfs_sim::run(1, |world| async move {
        let hello =
            Hello { version: PROTOCOL_VERSION, nonce: [2; 32], session: SessionId::new(0), instance: 1, bulk: false };
        let hello = frame(Opcode::HELLO, Flags::NONE, 1, &hello);
        let proof = frame(Opcode::PROOF, Flags::NONE, 2, &Proof { proof: [0; 32] });
        let seeds = vec![[&hello[..], &proof, &golden().concat()].concat()];
        let admission = Admission { secret: Secret::new(&[1; 32]).expect("long enough"), unix_uid: Some(1000) };
        Target::new("handshake of a client", &["shards/rpc/src/handshake.rs", "shards/rpc/src/connection.rs"], seeds)
            .sealed(|bytes| seal_frames(bytes))
            // Once it has proven itself, a peer is believed the length of one payload.
            .may_hold(16, PAYLOAD_BYTES_MAX as u64 + (16 << 10))
            .mutants(SHAKING)
            .decodes(|bytes| {
                let connection = connection(&world, bytes);
                at_once(async {
                    let shaken = accept_handshake(&connection, &world.clock, &*world.rng, &admission).await;
                    let (hello, proven) = shaken.ok()?;
                    answer_hello(&connection, &proven, Ok(welcome())).await.ok()?;
                    while connection.recv().await.is_ok() {}
                    Some(hello)
                })?
            });
    });
}

#[test]
fn a_stranger_costs_little() {
    cfs_sim::run(1, |world| async move {
        let hello =
            Hello { version: PROTOCOL_VERSION, nonce: [2; 32], session: SessionId::new(0), instance: 1, bulk: false };
        let seeds = vec![frame(Opcode::HELLO, Flags::NONE, 1, &hello)];
        let admission = Admission { secret: Secret::new(&[1; 32]).expect("long enough"), unix_uid: None };
        Target::new("handshake of a stranger", &["shards/rpc/src/handshake.rs"], seeds)
            .sealed(|bytes| seal_frames(bytes))
            .may_hold(16, 16 << 10)
            .mutants(SHAKING)
            .decodes(|bytes| {
                let connection = connection(&world, bytes);
                let shaken = at_once(accept_handshake(&connection, &world.clock, &*world.rng, &admission));
                assert!(shaken.is_none_or(|shaken| shaken.is_err()), "nobody without the secret comes in");
                // What is worth counting: a frame that was looked into.
                bytes.starts_with(&MAGIC.to_le_bytes()).then_some(())
            });
    });
}

#[test]
fn handshakes_of_servers() {
    cfs_sim::run(1, |world| async move {
        let challenge = HelloReply::Challenge { version: PROTOCOL_VERSION, nonce: [1; 32], proof: [2; 32] };
        let challenge = frame(Opcode::HELLO, Flags::RESPONSE, 1, &challenge);
        let welcome = frame(Opcode::PROOF, Flags::RESPONSE, 2, &HelloReply::Welcome(welcome()));
        let hello =
            Hello { version: PROTOCOL_VERSION, nonce: [0; 32], session: SessionId::new(0), instance: 1, bulk: false };
        Target::new("handshake of a server", &["shards/rpc/src/handshake.rs"], vec![[challenge, welcome].concat()])
            .sealed(|bytes| seal_frames(bytes))
            .may_hold(16, 16 << 10)
            .mutants(SHAKING)
            .decodes(|bytes| {
                let connection = connection(&world, bytes);
                let shaking = connect_handshake(&connection, &world.clock, &*world.rng, None, hello.clone());
                at_once(shaking)?.ok()
            });
    });
}
