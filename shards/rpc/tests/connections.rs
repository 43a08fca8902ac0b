//! Connections and handshakes between two peers in the simulator.

use cfs_rpc::{
    Admission, Allowance, Connection, Pool, QUEUE_BYTES_MAX, RpcError, accept_handshake, answer_hello,
    connect_handshake,
};
use cfs_seam::{Address, Class, Io, IoBuf, NetError, Peer, SendDone, Stream, World, sleep, spawn};
use cfs_types::{FsError, MapEpoch, SessionId};
use cfs_wire::frame::PROTOCOL_VERSION;
use cfs_wire::{Flags, FrameError, Hello, Opcode, Secret, Welcome, encode};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes()).expect("long enough")
}

fn hello() -> Hello {
    Hello { version: PROTOCOL_VERSION, nonce: [0; 32], session: SessionId::new(0), instance: 1, bulk: false }
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

/// Both ends of a fresh connection.
async fn pair(world: &World, address: Address) -> (Rc<dyn Stream>, Rc<dyn Stream>) {
    let listener = world.net.listen(&address).expect("free");
    let client = world.net.connect(&address);
    let server = listener.accept().await.expect("accepted");
    (client.await.expect("connected"), server)
}

fn tcp() -> Address {
    Address::Tcp("127.0.0.1:7400".parse().expect("an address"))
}

type Outcome = Rc<RefCell<Option<Result<SessionId, RpcError>>>>;

/// Serves one handshake in a task; says how it ended.
fn serve(world: &World, stream: Rc<dyn Stream>, admission: Admission) -> (Rc<Connection>, Outcome) {
    let connection = Connection::new(world, stream);
    let (server, outcome, world) = (connection.clone(), Outcome::default(), world.clone());
    let told = outcome.clone();
    let tasks = world.tasks.clone();
    spawn(&tasks, Class::Foreground, async move {
        let shaken = accept_handshake(&server, &world.clock, &*world.rng, &admission).await;
        let result = match shaken {
            Ok((_, proven)) => answer_hello(&server, &proven, Ok(welcome())).await.map(|()| SessionId::new(4)),
            Err(error) => Err(error),
        };
        *told.borrow_mut() = Some(result);
    })
    .detach();
    (connection, outcome)
}

/// A connection past its handshake, both ends.
async fn connected(world: &World) -> (Rc<Connection>, Rc<Connection>) {
    let (client, server) = pair(world, tcp()).await;
    let admission = Admission { secret: secret("the secret of both"), unix_uid: None };
    let (server, _) = serve(world, server, admission.clone());
    let client = Connection::new(world, client);
    let secret = Some(&admission.secret);
    connect_handshake(&client, &world.clock, &*world.rng, secret, hello()).await.expect("welcome");
    (client, server)
}

#[test]
fn both_sides_must_know_the_secret() {
    for (seed, theirs, right) in [(1, "the secret of both", true), (2, "a wrong secret !!", false)] {
        cfs_sim::run(seed, |world| async move {
            let (client, server) = pair(&world, tcp()).await;
            let admission = Admission { secret: secret("the secret of both"), unix_uid: None };
            let (_server, outcome) = serve(&world, server, admission);
            let client = Connection::new(&world, client);
            let mine = secret(theirs);
            let result = connect_handshake(&client, &world.clock, &*world.rng, Some(&mine), hello()).await;
            assert_eq!(result.is_ok(), right, "{result:?}");
            sleep(&world.clock, Duration::from_secs(1)).await;
            let ended = outcome.take().expect("ended");
            assert_eq!(ended.is_ok(), right);
        });
    }
}

#[test]
fn a_client_that_sends_a_wrong_proof_is_refused_and_closed() {
    cfs_sim::run(3, |world| async move {
        let (client, server) = pair(&world, tcp()).await;
        let admission = Admission { secret: secret("the secret of both"), unix_uid: None };
        let (server, outcome) = serve(&world, server, admission);
        let client = Connection::new(&world, client);
        client.send(Opcode::HELLO, Flags::NONE, 1, &hello(), None).await.expect("sent");
        client.recv().await.expect("a challenge");
        client.send(Opcode::PROOF, Flags::NONE, 2, &cfs_wire::Proof { proof: [0; 32] }, None).await.expect("sent");
        let refusal: cfs_wire::HelloReply = client.recv().await.expect("an answer").message().expect("decodes");
        assert_eq!(refusal, cfs_wire::HelloReply::Refused(FsError::Unauthorised));
        assert!(client.recv().await.is_err());
        assert_eq!(outcome.take(), Some(Err(RpcError::NotProven)));
        assert!(server.is_closed());
    });
}

#[test]
fn on_a_unix_socket_the_own_user_needs_no_secret() {
    for (seed, trusted) in [(4, true), (5, false)] {
        cfs_sim::run(seed, move |world| async move {
            let (client, server) = pair(&world, Address::Unix("/run/cfs.sock".into())).await;
            let uid = server.peer().uid.expect("a local peer");
            let unix_uid = if trusted { Some(uid) } else { None };
            let admission = Admission { secret: secret("the secret of both"), unix_uid };
            let (_server, _) = serve(&world, server, admission);
            let client = Connection::new(&world, client);
            let result = connect_handshake(&client, &world.clock, &*world.rng, None, hello()).await;
            assert_eq!(result.is_ok(), trusted, "{result:?}");
        });
    }
}

#[test]
fn before_the_handshake_no_payload_is_taken() {
    cfs_sim::run(6, |world| async move {
        let (client, server) = pair(&world, tcp()).await;
        let admission = Admission { secret: secret("the secret of both"), unix_uid: None };
        let (_server, outcome) = serve(&world, server, admission);
        let encoded = encode(Opcode::HELLO, Flags::NONE, 1, &hello(), &[0; 4096]).expect("fits");
        client.send(encoded.head, None).await;
        sleep(&world.clock, Duration::from_secs(1)).await;
        assert_eq!(outcome.take(), Some(Err(FrameError::TooLong(4096).into())));
    });
}

#[test]
fn a_peer_that_stalls_is_dropped() {
    cfs_sim::run(7, |world| async move {
        let (client, server) = pair(&world, tcp()).await;
        let admission = Admission { secret: secret("the secret of both"), unix_uid: None };
        let (_server, outcome) = serve(&world, server, admission);
        client.send(b"\xf5\xc0\x01".to_vec(), None).await;
        sleep(&world.clock, Duration::from_secs(60)).await;
        assert_eq!(outcome.take(), Some(Err(RpcError::Stalled)));
        let (client, server) = connected_again(&world, 7401).await;
        let encoded = encode(Opcode::ECHO, Flags::NONE, 1, &(), &[7; 9000]).expect("fits");
        client.send(encoded.head, Some(IoBuf::copy_of(&[7; 100]))).await;
        let start = world.clock.now();
        assert_eq!(server.recv().await.err(), Some(RpcError::Stalled));
        assert!(world.clock.now().since(start) < Duration::from_secs(60));
        assert!(server.is_closed());
    });
}

/// A stream that damages the end of each payload, and may say that it hands over.
struct Damaging {
    inner: Rc<dyn Stream>,
    hands_over: bool,
}

impl Stream for Damaging {
    fn recv(&self) -> Io<Result<Vec<u8>, NetError>> {
        self.inner.recv()
    }
    fn recv_exact(&self, buf: IoBuf, from: usize) -> Io<(Result<(), NetError>, IoBuf)> {
        self.inner.recv_exact(buf, from)
    }
    fn hands_over(&self) -> bool {
        self.hands_over
    }
    fn send(&self, head: Vec<u8>, mut payload: Option<IoBuf>) -> Io<SendDone> {
        if let Some(last) = payload.as_deref_mut().and_then(|payload| payload.last_mut()) {
            *last ^= 1;
        }
        self.inner.send(head, payload)
    }
    fn close(&self) {
        self.inner.close();
    }
    fn peer(&self) -> Peer {
        self.inner.peer()
    }
}

#[test]
fn a_payload_is_checked_unless_it_changes_hands() {
    for (seed, hands_over) in [(20, false), (21, true)] {
        cfs_sim::run(seed, move |world| async move {
            let (client, server) = pair(&world, tcp()).await;
            let wrap = |inner| Rc::new(Damaging { inner, hands_over });
            let admission = Admission { secret: secret("the secret of both"), unix_uid: None };
            let (server, _) = serve(&world, wrap(server), admission.clone());
            let client = Connection::new(&world, wrap(client));
            let secret = Some(&admission.secret);
            connect_handshake(&client, &world.clock, &*world.rng, secret, hello()).await.expect("welcome");
            sleep(&world.clock, Duration::from_secs(1)).await;
            let payload = Some(IoBuf::copy_of(&[7; 9000]));
            client.send(Opcode::ECHO, Flags::NONE, 1, &(), payload).await.expect("sent");
            let received = server.recv().await.map(|frame| frame.payload.map(|payload| payload.to_vec()));
            match hands_over {
                true => assert_eq!(received.expect("believed").map(|payload| payload[8999]), Some(6)),
                false => assert_eq!(received.err(), Some(FrameError::BodyChecksum.into())),
            }
        });
    }
}

/// As `connected`, but the client's end is the bare stream.
async fn connected_again(world: &World, port: u16) -> (Rc<dyn Stream>, Rc<Connection>) {
    let address = Address::Tcp(format!("127.0.0.1:{port}").parse().expect("an address"));
    let (client, server) = pair(world, address).await;
    let admission = Admission { secret: secret("the secret of both"), unix_uid: None };
    let (server, outcome) = serve(world, server, admission.clone());
    let talking = Connection::new(world, client.clone());
    connect_handshake(&talking, &world.clock, &*world.rng, Some(&admission.secret), hello()).await.expect("welcome");
    while outcome.borrow().is_none() {
        sleep(&world.clock, Duration::from_millis(1)).await;
    }
    // The framed side is kept alive, or it would close the stream.
    std::mem::forget(talking);
    (client, server)
}

#[test]
fn frames_of_all_sizes_arrive_whole_and_in_order() {
    for seed in 0..10 {
        cfs_sim::run(seed, |world| async move {
            let (client, server) = connected(&world).await;
            let sizes = [0_usize, 1, 4095, 4096, 100_000, 2 << 20, 3, 0, 70_000];
            spawn(&world.tasks, Class::Foreground, async move {
                for (i, size) in sizes.into_iter().enumerate() {
                    let payload = IoBuf::copy_of(&vec![u8::try_from(i).expect("few"); size]);
                    client
                        .send(Opcode::ECHO, Flags::NONE, client.next_request(), &size, Some(payload))
                        .await
                        .expect("sent");
                }
                client.drained().await;
                std::future::pending::<()>().await;
            })
            .detach();
            for (i, size) in sizes.into_iter().enumerate() {
                let frame = server.recv().await.expect("a frame");
                assert_eq!(frame.message::<usize>(), Ok(size));
                let bulk = frame.into_bulk();
                assert_eq!(bulk.as_ref().map_or(0, |b| b.len()), size);
                assert!(bulk.is_none_or(|b| b.iter().all(|byte| usize::from(*byte) == i)));
            }
        });
    }
}

#[test]
fn a_peer_that_does_not_read_makes_senders_wait() {
    cfs_sim::run(11, |world| async move {
        let (client, server) = connected(&world).await;
        let sent = Rc::new(Cell::new(0_usize));
        let (count, sender) = (sent.clone(), client.clone());
        spawn(&world.tasks, Class::Foreground, async move {
            for _ in 0..12 {
                let payload = IoBuf::zeroed(1 << 20);
                if sender.send(Opcode::ECHO, Flags::NONE, 1, &(), Some(payload)).await.is_err() {
                    return;
                }
                count.set(count.get() + 1);
            }
        })
        .detach();
        sleep(&world.clock, Duration::from_secs(1)).await;
        let stuck = sent.get();
        assert!(stuck <= (QUEUE_BYTES_MAX >> 20) + 2, "{stuck} MiB queued");
        for _ in 0..12 {
            server.recv().await.expect("a frame");
        }
        assert_eq!(sent.get(), 12);
        client.close();
        assert!(client.send(Opcode::ECHO, Flags::NONE, 1, &(), None).await.is_err());
        assert!(server.recv().await.is_err());
    });
}

#[test]
fn bytes_that_are_no_frame_end_the_connection() {
    cfs_sim::run(12, |world| async move {
        let (client, server) = connected_again(&world, 7402).await;
        client.send(vec![0x55; 64], None).await;
        assert_eq!(server.recv().await.err(), Some(FrameError::Magic.into()));
        assert!(server.is_closed());
    });
}

#[test]
fn a_long_message_has_room_or_is_thrown_away_and_a_short_one_needs_none() {
    cfs_sim::run(13, |world| async move {
        let (client, server) = connected(&world).await;
        let pool = Pool::new(1 << 20);
        server.bound_payloads(Allowance::new(&pool));
        let send = async |bytes: usize| {
            client.send(Opcode::ECHO, Flags::NONE, 1, &vec![7_u8; bytes], None).await.expect("sent");
            server.recv().await.expect("a frame")
        };
        // One connection has half of the quarter that is for what is short enough.
        let first = send(60_000).await;
        let second = send(60_000).await;
        assert_eq!(first.message::<Vec<u8>>().map(|m| m.len()), Ok(60_000));
        assert!((120_000..121_000).contains(&pool.used()), "they take {}", pool.used());
        let third = send(60_000).await;
        assert!(third.refused && third.extension.is_empty(), "{third:?}");
        let short = send(400).await;
        assert_eq!(short.message::<Vec<u8>>().map(|m| m.len()), Ok(400));
        drop((first, second));
        assert_eq!(pool.used(), 0, "a short one takes none");
        assert!(!send(60_000).await.refused);
    });
}
