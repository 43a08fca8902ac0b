//! Streams between two cores of one process: nothing is copied, nothing gets lost, all is bounded.

use cfs_runtime::{CoreConfig, LocalNet, MeshSeat, ParkPolicy, mesh, start_core};
use cfs_seam::{Address, IoBuf, NetError, Stream, World};
use cfs_types::CoreId;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

fn config(seat: &MeshSeat, local: &LocalNet, spin: bool) -> CoreConfig {
    let mut config = CoreConfig::new(seat.core());
    config.local = Some(local.clone());
    if spin {
        config.park = ParkPolicy::Spin { limit: Duration::from_micros(50) };
    }
    config
}

/// Runs one end on each of two cores. Both return what they saw, and that is compared.
fn on_two_cores<S, C, T>(spin: bool, serve: S, call: C) -> (T, T)
where
    T: Send + 'static,
    S: AsyncFnOnce(World, Rc<dyn Stream>) -> T + Send + 'static,
    C: AsyncFnOnce(World, Rc<dyn Stream>) -> T + Send + 'static,
{
    let local = LocalNet::default();
    let mut seats = mesh(2).expect("a mesh");
    let (far, near) = (seats.remove(0), seats.remove(0));
    let (listening, address) = channel();
    let tell = |listening: Sender<Address>, address| drop(listening.send(address));
    let server = start_core(config(&far, &local, spin), far, move |world, _| async move {
        let any = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        let listener = world.net.listen(&any).expect("listens");
        tell(listening, listener.address());
        let stream = listener.accept().await.expect("accepts");
        serve(world.clone(), stream).await
    })
    .expect("starts");
    let address = address.recv().expect("listens");
    let client = start_core(config(&near, &local, spin), near, move |world, _| async move {
        let stream = world.net.connect(&address).await.expect("connects");
        assert_eq!(stream.peer().address, "this process");
        call(world.clone(), stream).await
    })
    .expect("starts");
    (server.join().expect("serves"), client.join().expect("calls"))
}

/// The address of a buffer's first byte.
fn place(buf: &IoBuf) -> usize {
    buf.as_ptr().addr()
}

#[test]
fn a_payload_changes_hands_without_being_copied() {
    for spin in [false, true] {
        let (received, sent) = on_two_cores(
            spin,
            async |_, stream: Rc<dyn Stream>| {
                let mut places = Vec::new();
                for round in 0..100 {
                    assert_eq!(stream.recv().await.expect("the head"), b"head");
                    assert!(stream.take_whole(99_999).is_none(), "of another length");
                    let whole = (round % 2 == 0).then(|| stream.take_whole(100_000)).flatten();
                    assert_eq!(whole.is_some(), round % 2 == 0, "it came with its head");
                    let buf = match whole {
                        Some(whole) => whole,
                        None => stream.recv_exact(IoBuf::zeroed(100_000), 0).await.1,
                    };
                    assert!(buf.iter().all(|byte| *byte == round));
                    places.push(place(&buf));
                    stream.send(b"taken".to_vec(), None).await.result.expect("answers");
                }
                places
            },
            async |_, stream: Rc<dyn Stream>| {
                let mut places = Vec::new();
                for round in 0..100 {
                    let mut buf = IoBuf::zeroed(100_000);
                    buf.fill(round);
                    places.push(place(&buf));
                    stream.send(b"head".to_vec(), Some(buf)).await.result.expect("sends");
                    assert_eq!(stream.recv().await.expect("an answer"), b"taken");
                }
                places
            },
        );
        assert_eq!(received, sent);
    }
}

#[test]
fn a_slow_reader_holds_the_sender_up_and_loses_nothing() {
    const SENDS: usize = 3000;
    let head = |number: usize| u32::try_from(number).expect("small").to_le_bytes().to_vec();
    let (go, wait) = channel::<()>();
    let (received, sent) = on_two_cores(
        false,
        async move |world: World, stream: Rc<dyn Stream>| {
            while wait.try_recv().is_err() {
                cfs_seam::sleep(&world.clock, Duration::from_millis(1)).await;
            }
            for number in 0..SENDS {
                assert_eq!(stream.recv().await.expect("a head"), head(number));
                let (result, buf) = stream.recv_exact(IoBuf::zeroed(10_000), 0).await;
                result.expect("a payload");
                assert_eq!(buf[0], head(number)[0]);
            }
            assert_eq!(stream.recv().await, Err(NetError::Closed));
            SENDS
        },
        async move |world: World, stream: Rc<dyn Stream>| {
            let mut sends = Vec::new();
            for number in 0..SENDS {
                let mut buf = IoBuf::zeroed(10_000);
                buf[0] = head(number)[0];
                sends.push(stream.send(head(number), Some(buf)));
            }
            let mut last = std::pin::pin!(sends.pop().expect("the last"));
            let early = cfs_seam::timeout(&world.clock, world.clock.now(), &mut last).await;
            assert!(early.is_none(), "30 MB do not fit a stream that nobody reads");
            go.send(()).expect("the reader waits");
            for send in sends {
                send.await.result.expect("sends");
            }
            // What was sent is received although the stream is dropped at once.
            last.await.result.expect("sends");
            SENDS
        },
    );
    assert_eq!(received, sent);
}

#[test]
fn the_end_of_one_core_closes_what_the_other_waits_for() {
    let (server, client) = on_two_cores(
        false,
        async |_, stream: Rc<dyn Stream>| stream.recv().await.err(),
        async |world: World, stream: Rc<dyn Stream>| {
            cfs_seam::sleep(&world.clock, Duration::from_millis(5)).await;
            drop(stream);
            Some(NetError::Closed)
        },
    );
    assert_eq!(server, client);
}

#[test]
fn a_listener_that_is_gone_is_not_found() {
    let config = CoreConfig { local: Some(LocalNet::default()), ..CoreConfig::new(CoreId::new(0)) };
    cfs_runtime::run(config, |world, _| async move {
        let any = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        let listener = world.net.listen(&any).expect("listens");
        let address = listener.address();
        let waiting = world.net.connect(&address).await.expect("waits in the backlog");
        drop(listener);
        assert_eq!(waiting.recv().await, Err(NetError::Closed));
        assert!(matches!(world.net.connect(&address).await, Err(NetError::Closed)));
    })
    .expect("runs");
}
