//! Streams over real sockets: TCP and Unix, small and large, closed from either side.

use cfs_runtime::{CoreConfig, LocalNet, ParkPolicy, TaskRun, run};
use cfs_seam::{Address, Class, IoBuf, NetError, Stream, World, spawn};
use cfs_types::CoreId;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

fn config() -> CoreConfig {
    CoreConfig::new(CoreId::new(0))
}

fn configs() -> [CoreConfig; 4] {
    let spin = ParkPolicy::Spin { limit: Duration::from_micros(50) };
    [
        config(),
        CoreConfig { local: Some(LocalNet::default()), ..config() },
        CoreConfig { task_run: TaskRun::Deferred, ..config() },
        CoreConfig { park: spin, recv_buffers: 4, recv_buffer_bytes: 512, recv_queue_bytes_max: 2048, ..config() },
    ]
}

fn tcp() -> Address {
    Address::Tcp("127.0.0.1:0".parse().expect("an address"))
}

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cfs-runtime-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        TempDir(path)
    }
}
impl Drop for TempDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Sends back whatever comes, until the end.
async fn echo(stream: Rc<dyn Stream>) {
    while let Ok(chunk) = stream.recv().await {
        if stream.send(chunk, None).await.result.is_err() {
            return;
        }
    }
}

fn serve_echo(world: &World, address: &Address) -> (Address, cfs_seam::TaskHandle) {
    let listener = world.net.listen(address).expect("listens");
    let (bound, tasks) = (listener.address(), world.tasks.clone());
    let server = spawn(&world.tasks, Class::Foreground, async move {
        let mut sessions = Vec::new();
        while let Ok(stream) = listener.accept().await {
            sessions.push(spawn(&tasks, Class::Foreground, echo(stream)));
        }
    });
    (bound, server)
}

async fn recv_all(stream: &Rc<dyn Stream>, bytes: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < bytes {
        got.extend(stream.recv().await.expect("more bytes"));
    }
    got
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).expect("below 256")).collect()
}

async fn several_connections(world: World, address: Address) {
    let (address, _server) = serve_echo(&world, &address);
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(world.net.connect(&address).await.expect("connects"));
    }
    for round in 0..50usize {
        for (number, stream) in streams.iter().enumerate() {
            let message = pattern(1 + round * 37 + number);
            let sent = stream.send(message.clone(), None);
            assert_eq!(recv_all(stream, message.len()).await, message);
            assert!(sent.await.result.is_ok());
        }
    }
}

#[test]
fn several_tcp_connections_echo() {
    for config in configs() {
        run(config, |world, _| several_connections(world, tcp())).expect("runs");
    }
}

#[test]
fn several_unix_connections_echo() {
    let dir = TempDir::new("echo");
    let path = dir.0.join("core.sock");
    for config in configs() {
        run(config, |world, _| several_connections(world, Address::Unix(path.clone()))).expect("runs");
    }
    assert!(!path.exists(), "a closed listener removes its path");
}

#[test]
fn the_peer_of_a_unix_stream_is_known_and_the_socket_is_private() {
    let dir = TempDir::new("peer");
    let path = dir.0.join("core.sock");
    run(config(), |world, _| async move {
        let listener = world.net.listen(&Address::Unix(path.clone())).expect("listens");
        let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let client = world.net.connect(&Address::Unix(path.clone())).await.expect("connects");
        let server = listener.accept().await.expect("accepts");
        let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path).expect("the socket"));
        assert_eq!(server.peer().uid, Some(own));
        assert_eq!(client.peer().uid, Some(own));
        let tcp_listener = world.net.listen(&tcp()).expect("listens");
        let tcp_client = world.net.connect(&tcp_listener.address()).await.expect("connects");
        assert_eq!(tcp_client.peer().uid, None);
        assert!(tcp_client.peer().address.starts_with("127.0.0.1:"));
    })
    .expect("runs");
}

#[test]
fn a_dead_socket_path_is_replaced_and_a_live_one_refused() {
    let dir = TempDir::new("dead");
    let path = dir.0.join("core.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
    assert!(path.exists(), "the standard library leaves the path");
    run(config(), |world, _| async move {
        let address = Address::Unix(path.clone());
        let _live = world.net.listen(&address).expect("replaces the dead one");
        assert!(matches!(world.net.listen(&address), Err(NetError::Os(libc::EADDRINUSE))));
        let file = path.with_extension("txt");
        std::fs::write(&file, "precious").expect("writes");
        assert!(world.net.listen(&Address::Unix(file.clone())).is_err());
        assert!(file.exists());
    })
    .expect("runs");
}

async fn large_payload(world: World) {
    let listener = world.net.listen(&tcp()).expect("listens");
    let client = world.net.connect(&listener.address()).await.expect("connects");
    let server = listener.accept().await.expect("accepts");
    let payload = pattern(1 << 20);
    for prefix in [false, true] {
        // With a prefix the multishot receive is armed first and has to give way.
        let waiting = prefix.then(|| server.recv());
        let sent = client.send(b"head".to_vec(), Some(IoBuf::copy_of(&payload)));
        let mut head = match waiting {
            Some(chunk) => chunk.await.expect("the beginning"),
            None => Vec::new(),
        };
        let ahead = head.split_off(head.len().min(4));
        let mut buf = IoBuf::zeroed((4 - head.len()) + payload.len());
        buf[4 - head.len()..][..ahead.len()].copy_from_slice(&ahead);
        let from = if head.is_empty() { 0 } else { ahead.len() };
        let (result, buf) = server.recv_exact(buf, from).await;
        result.expect("all of it");
        assert_eq!(&buf[4 - head.len()..], &payload[..]);
        let done = sent.await;
        assert!(done.result.is_ok());
        // One that stays in this process has become the receiver's.
        assert!(done.payload.is_none_or(|back| back.len() == payload.len()));
    }
    // Small exact reads from what a chunk brought.
    let waiting = server.recv();
    client.send(pattern(100), None).await.result.expect("sent");
    assert_eq!(waiting.await.expect("a chunk"), pattern(100));
    client.send(pattern(3000), None).await.result.expect("sent");
    let (result, buf) = server.recv_exact(IoBuf::zeroed(3000), 0).await;
    result.expect("all of it");
    assert_eq!(&buf[..], &pattern(3000)[..]);
}

#[test]
fn a_large_payload_arrives_in_the_callers_buffer() {
    for config in configs() {
        run(config, |world, _| large_payload(world)).expect("runs");
    }
}

#[test]
fn many_unawaited_sends_arrive_whole_and_in_order() {
    for config in configs() {
        run(config, |world, _| async move {
            let listener = world.net.listen(&tcp()).expect("listens");
            let client = world.net.connect(&listener.address()).await.expect("connects");
            let server = listener.accept().await.expect("accepts");
            let mut expected = Vec::new();
            let sends: Vec<_> = (0..1000usize)
                .map(|number| {
                    let head = u32::try_from(number).expect("small").to_le_bytes().to_vec();
                    let payload = (number % 10 == 0).then(|| IoBuf::copy_of(&pattern(number)));
                    expected.extend(&head);
                    expected.extend(payload.as_deref().unwrap_or(&[]));
                    client.send(head, payload)
                })
                .collect();
            assert_eq!(recv_all(&server, expected.len()).await, expected);
            for send in sends {
                send.await.result.expect("sent");
            }
        })
        .expect("runs");
    }
}

#[test]
fn a_reader_that_stops_holds_the_sender_up_and_loses_nothing() {
    let config = CoreConfig { recv_queue_bytes_max: 4096, ..config() };
    run(config, |world, _| async move {
        let listener = world.net.listen(&tcp()).expect("listens");
        let client = world.net.connect(&listener.address()).await.expect("connects");
        let server = listener.accept().await.expect("accepts");
        let first = server.recv();
        let total = 24 << 20;
        let mut sent = std::pin::pin!(client.send(Vec::new(), Some(IoBuf::copy_of(&pattern(total)))));
        let mut got = first.await.expect("the beginning").len();
        for _ in 0..1000 {
            world.tasks.yield_now().await;
        }
        let stuck = cfs_seam::timeout(&world.clock, world.clock.now(), &mut sent).await.is_none();
        assert!(stuck, "24 MiB fit neither the sockets nor the queue");
        while got < total {
            got += server.recv().await.expect("more").len();
        }
        sent.await.result.expect("sent");
    })
    .expect("runs");
}

#[test]
fn a_peer_that_never_reads_costs_bounded_memory() {
    let config = CoreConfig { send_queue_bytes_max: 1 << 20, ..config() };
    run(config, |world, _| async move {
        let listener = world.net.listen(&tcp()).expect("listens");
        let client = world.net.connect(&listener.address()).await.expect("connects");
        let _server = listener.accept().await.expect("accepts");
        let sends: Vec<_> = (0..12).map(|_| client.send(vec![0; 100 << 10], None)).collect();
        let mut results = Vec::new();
        for send in sends {
            results.push(send.await.result);
        }
        assert_eq!(results[10], Err(NetError::Os(libc::ENOBUFS)));
        assert_eq!(results[11], Err(NetError::Os(libc::ENOBUFS)).or(Err(NetError::Closed)));
    })
    .expect("runs");
}

#[test]
fn closing_completes_what_is_pending() {
    for config in configs() {
        run(config, |world, _| async move {
            let listener = world.net.listen(&tcp()).expect("listens");
            let client = world.net.connect(&listener.address()).await.expect("connects");
            let server = listener.accept().await.expect("accepts");
            let (pending, far) = (client.recv(), server.recv_exact(IoBuf::zeroed(1 << 20), 0));
            world.tasks.yield_now().await;
            client.close();
            assert_eq!(pending.await, Err(NetError::Closed));
            assert_eq!(client.recv().await, Err(NetError::Closed));
            assert!(client.send(vec![1], None).await.result.is_err());
            let (result, buf) = far.await;
            assert_eq!((result, buf.len()), (Err(NetError::Closed), 1 << 20));

            let client = world.net.connect(&listener.address()).await.expect("connects");
            let server = listener.accept().await.expect("accepts");
            let exact = server.recv_exact(IoBuf::zeroed(4096), 0);
            world.tasks.yield_now().await;
            server.close();
            assert_eq!(exact.await.0, Err(NetError::Closed));
            drop(client);
        })
        .expect("runs");
    }
}

#[test]
fn bytes_sent_before_a_close_are_received_before_its_end() {
    for config in configs() {
        run(config, |world, _| async move {
            let listener = world.net.listen(&tcp()).expect("listens");
            let client = world.net.connect(&listener.address()).await.expect("connects");
            let server = listener.accept().await.expect("accepts");
            client.send(pattern(10_000), None).await.result.expect("sent");
            drop(client);
            assert_eq!(recv_all(&server, 10_000).await, pattern(10_000));
            assert_eq!(server.recv().await, Err(NetError::Closed));
        })
        .expect("runs");
    }
}

#[test]
fn a_dropped_recv_loses_no_bytes() {
    for config in configs() {
        run(config, |world, _| async move {
            let listener = world.net.listen(&tcp()).expect("listens");
            let client = world.net.connect(&listener.address()).await.expect("connects");
            let server = listener.accept().await.expect("accepts");
            drop(server.recv());
            client.send(pattern(5000), None).await.result.expect("sent");
            assert_eq!(recv_all(&server, 5000).await, pattern(5000));
        })
        .expect("runs");
    }
}

#[test]
fn nobody_listening_is_told_apart_from_other_errors() {
    let dir = TempDir::new("nobody");
    run(config(), |world, _| async move {
        let listener = world.net.listen(&tcp()).expect("listens");
        let address = listener.address();
        drop(listener);
        // The socket closes once its cancelled accept has completed; none was started here.
        assert!(matches!(world.net.connect(&address).await, Err(NetError::Closed)));
        let path = Address::Unix(dir.0.join("missing.sock"));
        assert!(matches!(world.net.connect(&path).await, Err(NetError::Closed)));
        let long = Address::Unix(PathBuf::from("/x".repeat(100)));
        assert!(matches!(world.net.connect(&long).await, Err(NetError::Os(libc::ENAMETOOLONG))));
    })
    .expect("runs");
}

#[test]
fn a_dropped_accept_loses_no_connection() {
    for config in configs() {
        run(config, |world, _| async move {
            let listener = world.net.listen(&tcp()).expect("listens");
            let first = listener.accept();
            assert!(matches!(listener.accept().await, Err(NetError::Os(libc::EBUSY))), "one task accepts");
            drop(first);
            let client = world.net.connect(&listener.address()).await.expect("connects");
            client.send(b"hello".to_vec(), None).await.result.expect("sent");
            // Whether the abandoned accept or a new one takes it: it is there.
            let server = listener.accept().await.expect("accepts");
            assert_eq!(recv_all(&server, 5).await, b"hello");
        })
        .expect("runs");
    }
}
