//! The simulated cluster: determinism, crashes, partitions.

use super::*;
use cfs_seam::{BLOCK_BYTES, Durability, IoBuf, Lifetime, NetError, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const PORT: u16 = 7400;

type Log = Rc<RefCell<Vec<String>>>;

/// Echoes every connection until it closes; the payload of `bulk` bytes follows a head of 4.
async fn serve(world: World, at: Address) {
    let listener = world.net.listen(&at).expect("the port is free");
    while let Ok(stream) = listener.accept().await {
        let echo = async move {
            while let Ok(bytes) = stream.recv().await {
                if stream.send(bytes, None).await.result.is_err() {
                    break;
                }
            }
        };
        spawn(&world.tasks, Class::Foreground, echo).detach();
    }
}

/// Sends `len` bytes as head and payload, and checks that they come back.
async fn talk(world: &World, to: &Address, len: usize) -> Result<(), NetError> {
    let stream = world.net.connect(to).await?;
    let bytes: Vec<u8> = (0..len).map(|_| world.rng.next_u64().to_le_bytes()[0]).collect();
    let (head, payload) = bytes.split_at(len.min(7));
    let sending = stream.send(head.to_vec(), Some(IoBuf::copy_of(payload)));
    let (result, back) = stream.recv_exact(IoBuf::zeroed(len), 0).await;
    result?;
    sending.await.result?;
    assert_eq!(*back, bytes[..], "the echo differs");
    Ok(())
}

/// Two nodes, an echo server and a client that talks `rounds` times; what the client saw.
fn echo_history(seed: u64, config: SimConfig, rounds: usize) -> (u64, Vec<String>) {
    let sim = Sim::new(seed, config);
    let (server, client) = (sim.node(1), sim.node(2));
    let at = sim.address(server, PORT);
    let listen = at.clone();
    sim.start_core(server, 0, |world| serve(world, listen));
    let log = Log::default();
    for core in 0..2 {
        let (at, log) = (at.clone(), log.clone());
        sim.start_core(client, core, |world| async move {
            sleep(&world.clock, Duration::from_millis(1)).await;
            for round in 0..rounds {
                let result = talk(&world, &at, 1 + 40_000 * round).await;
                log.borrow_mut().push(format!("{core} {round} {result:?}"));
            }
        });
    }
    let done = sim.run_until(60 * SECOND, || log.borrow().len() == 2 * rounds);
    assert!(done, "seed {seed}: {:?}", log.borrow());
    (sim.trace(), log.take())
}

#[test]
fn bytes_come_back_whole_over_a_network_that_cuts_them_up() {
    for seed in 0..20 {
        let (_, log) = echo_history(seed, SimConfig::default(), 8);
        assert!(log.iter().all(|line| line.ends_with("Ok(())")), "seed {seed}: {log:?}");
    }
}

#[test]
fn one_seed_is_one_history_and_another_seed_another() {
    let mut config = SimConfig::default();
    config.net.reset_per_million = 50_000;
    let first = echo_history(1, config, 6);
    assert_eq!(first, echo_history(1, config, 6));
    assert_ne!(first.0, echo_history(2, config, 6).0);
    let broken = (0..10).filter(|seed| echo_history(*seed, config, 6).1.iter().any(|l| l.contains("Closed")));
    assert!(broken.count() > 0, "no connection was ever reset");
}

#[test]
fn the_mesh_keeps_order_per_pair_and_refuses_when_full() {
    let sim = Sim::new(9, SimConfig::default());
    let node = sim.node(3);
    let got: Rc<RefCell<Vec<(u16, u32)>>> = Rc::default();
    for core in 0..2 {
        sim.start_core(node, core, |world| async move {
            let (mut n, mut refused) = (0u32, 0);
            while n < 500 {
                match world.mesh.send(CoreId::new(2), Box::new(n)) {
                    Ok(()) => n += 1,
                    Err(full) => {
                        assert_eq!(full.0.downcast_ref(), Some(&n), "the message comes back");
                        refused += 1;
                        sleep(&world.clock, Duration::from_micros(50)).await;
                    }
                }
            }
            assert!(refused > 0, "500 messages fit a bounded ring");
        });
    }
    let inbox = got.clone();
    sim.start_core(node, 2, |world| async move {
        loop {
            let (from, message) = world.mesh.recv().await;
            inbox.borrow_mut().push((from.get(), *message.downcast().expect("numbers are sent")));
        }
    });
    assert!(sim.run_until(SECOND, || got.borrow().len() == 1000));
    for core in 0..2 {
        let numbers: Vec<u32> = got.borrow().iter().filter(|(from, _)| *from == core).map(|(_, n)| *n).collect();
        assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    }
    let first_half = got.borrow()[..500].iter().filter(|(from, _)| *from == 0).count();
    assert!((100..400).contains(&first_half), "the senders do not interleave: {first_half}");
}

/// Writes, flushes and acknowledges blocks 0, 1, 2, … until the power goes.
async fn write_for_ever(world: World, disk: Rc<dyn Disk>, acknowledged: Rc<Cell<u64>>) {
    for n in 0u64.. {
        let buf = IoBuf::copy_of(&[1 + n.to_le_bytes()[0] % 250; BLOCK_BYTES]);
        disk.write(n * 4096, buf, Durability::Flush, Lifetime::Hot).await.result.expect("a sound device");
        if n % 3 == 2 {
            disk.flush().await.expect("a sound device");
            acknowledged.set(n + 1);
        }
        world.tasks.yield_now().await;
    }
}

fn crashed_at_step(seed: u64, steps: u64, crash: Crash) -> (u64, u64, MemoryDisk, Sim, NodeId, SimDiskId) {
    let sim = Sim::new(seed, SimConfig::default());
    let node = sim.node(1);
    let id = sim.disk(16 << 20, DiskFaults::default());
    let disk = sim.open_disk(node, id);
    let acknowledged = Rc::new(Cell::new(0));
    let acks = acknowledged.clone();
    sim.start_core(node, 0, |world| write_for_ever(world, disk, acks));
    sim.run_steps(steps);
    let pending = u64::try_from(sim.media(id).unflushed_sectors() / 8).expect("small");
    sim.crash(node, crash);
    (acknowledged.get(), pending, sim.media(id), sim, node, id)
}

fn intact(disk: &MemoryDisk, n: u64) -> bool {
    disk.peek(n * 4096, BLOCK_BYTES).iter().all(|b| *b == 1 + n.to_le_bytes()[0] % 250)
}

#[test]
fn a_power_cut_at_any_step_keeps_what_was_flushed_and_may_lose_the_rest() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..150 {
        let (acknowledged, pending, disk, ..) = crashed_at_step(seed, 20 + seed, Crash::Power);
        assert!((0..acknowledged).all(|n| intact(&disk, n)), "seed {seed} lost flushed data");
        for n in acknowledged..acknowledged + pending {
            *(if intact(&disk, n) { &mut kept } else { &mut lost }) += 1;
        }
    }
    assert!(lost > 20 && kept > 20, "lost {lost}, kept {kept}");
}

#[test]
fn what_a_crash_leaves_is_part_of_the_history() {
    let image = |seed| {
        let (.., disk, sim, _, _) = crashed_at_step(seed, 150, Crash::Power);
        (sim.trace(), disk.peek(0, 1 << 20))
    };
    for seed in 0..10 {
        assert!(image(seed) == image(seed), "seed {seed} has two histories");
    }
}

#[test]
fn a_killed_future_stops_at_each_of_its_awaits() {
    let mut reached = BTreeSet::new();
    for steps in 0..40 {
        let at = Rc::new(Cell::new(0));
        let place = at.clone();
        let ended = crate::kill(steps, steps, |world| async move {
            for n in 1..=5 {
                place.set(n);
                sleep(&world.clock, SECOND).await;
            }
        });
        assert_eq!(Rc::strong_count(&at), 1, "the future was not dropped");
        reached.insert((at.get(), ended.is_some()));
    }
    let all = [(0, false), (1, false), (2, false), (3, false), (4, false), (5, false), (5, true)];
    assert_eq!(reached.into_iter().collect::<Vec<_>>(), all);
}

#[test]
fn a_dead_process_loses_no_completed_write() {
    for seed in 0..50 {
        let (acknowledged, pending, disk, ..) = crashed_at_step(seed, 20 + seed, Crash::Process);
        // Only the last of them may have been in flight.
        let completed = acknowledged + pending.saturating_sub(1);
        assert!((0..completed).all(|n| intact(&disk, n)), "seed {seed}");
    }
}

#[test]
fn a_node_restarts_and_finds_its_disk() {
    let (acknowledged, _, media, sim, node, id) = crashed_at_step(4, 200, Crash::Power);
    assert!(acknowledged > 0 && !sim.is_up(node));
    assert_eq!(media.unflushed_sectors(), 0);
    let disk = sim.open_disk(node, id);
    let read = Rc::new(Cell::new(false));
    let seen = read.clone();
    sim.start_core(node, 0, |_| async move {
        let done = disk.read(0, IoBuf::zeroed(BLOCK_BYTES)).await;
        seen.set(done.buf.iter().all(|b| *b == 1));
    });
    assert!(sim.run_until(SECOND, || read.get()), "the flushed block is there after the restart");
}

#[test]
fn a_handle_from_before_a_crash_is_dead() {
    let sim = Sim::new(1, SimConfig::default());
    let node = sim.node(1);
    let id = sim.disk(1 << 20, DiskFaults::default());
    let stale = sim.open_disk(node, id);
    sim.start_core(node, 0, |_| async {});
    sim.crash(node, Crash::Power);
    drop(stale.write(0, IoBuf::copy_of(&[1; BLOCK_BYTES]), Durability::Flush, Lifetime::Hot));
    sim.run_for(SECOND);
    assert_eq!(sim.media(id).peek(0, 1), [0], "a write of a dead node landed");
}

#[test]
fn a_crash_drops_tasks_and_resets_the_sockets_of_peers() {
    for crash in [Crash::Process, Crash::Power] {
        let sim = Sim::new(11, SimConfig::default());
        let (server, client) = (sim.node(1), sim.node(1));
        let at = sim.address(server, PORT);
        let (listen, alive) = (at.clone(), Rc::new(()));
        let weak = Rc::downgrade(&alive);
        sim.start_core(server, 0, |world| async move {
            serve(world, listen).await;
            drop(alive);
        });
        let log = Log::default();
        let lines = log.clone();
        let to = at.clone();
        sim.start_core(client, 0, |world| async move {
            sleep(&world.clock, Duration::from_millis(1)).await;
            let stream = world.net.connect(&to).await.expect("it listens");
            lines.borrow_mut().push("connected".into());
            let received = stream.recv().await;
            lines.borrow_mut().push(format!("{received:?}"));
            let again = world.net.connect(&to).await;
            lines.borrow_mut().push(format!("{:?}", again.map(|_| ())));
        });
        assert!(sim.run_until(SECOND, || log.borrow().len() == 1));
        sim.crash(server, crash);
        assert!(weak.upgrade().is_none(), "a task outlived its node");
        assert!(sim.run_until(2 * SECOND, || log.borrow().len() == 3));
        assert_eq!(log.borrow()[1..], ["Err(Closed)", "Err(Closed)"]);
    }
}

#[test]
fn a_partition_delays_then_breaks_and_ends_with_healing() {
    let sim = Sim::new(5, SimConfig::default());
    let (server, client) = (sim.node(1), sim.node(1));
    let at = sim.address(server, PORT);
    let listen = at.clone();
    sim.start_core(server, 0, |world| serve(world, listen));
    sim.run_steps(10);
    let log = Log::default();
    let lines = log.clone();
    sim.start_core(client, 0, |world| async move {
        let stream = world.net.connect(&at).await.expect("it listens");
        for _ in 0..3 {
            lines.borrow_mut().push("asking".into());
            let sent = stream.send(vec![1], None).await.result;
            let answer = stream.recv().await;
            lines.borrow_mut().push(format!("{sent:?} {answer:?}"));
        }
    });
    assert!(sim.run_until(SECOND, || log.borrow().len() == 3));
    sim.partition(client, server);
    sim.run_for(SECOND);
    assert_eq!(log.borrow().len(), 3, "bytes crossed a partition");
    sim.heal(client, server);
    assert!(sim.run_until(SECOND, || log.borrow().len() == 5));
    assert_eq!(log.borrow()[3], "Ok(()) Ok([1])");
    sim.partition(client, server);
    assert!(sim.run_until(20 * SECOND, || log.borrow().len() == 6));
    assert!(log.borrow()[5].ends_with("Err(Closed)"), "{:?}", log.borrow());
}

#[test]
fn sends_wait_while_nobody_receives() {
    let sent = crate::run(3, |world| async move {
        let listener = world.net.listen(&Address::Unix("/a".into())).expect("free");
        let near = world.net.connect(&listener.address()).await.expect("it listens");
        let far = listener.accept().await.expect("it listens");
        assert_eq!((far.peer().uid, near.peer().address), (Some(0), "unix:/a".to_string()));
        let window = NetConfig::default().window_bytes;
        let big = near.send(vec![7; 4 * window], None);
        let deadline = world.clock.now().after(SECOND);
        let early = timeout(&world.clock, deadline, big).await.is_some();
        let mut received = 0;
        while received < 4 * window {
            received += far.recv().await.expect("bytes are coming").len();
        }
        near.close();
        assert_eq!(far.recv().await, Err(NetError::Closed));
        assert_eq!(near.recv().await, Err(NetError::Closed));
        early
    });
    assert!(!sent, "a send ended with most of its bytes in nobody's hands");
}

#[test]
fn addresses_are_those_of_their_node() {
    let sim = Sim::new(0, SimConfig::default());
    let (a, b) = (sim.node(1), sim.node(1));
    let log = Log::default();
    let (of_a, of_b) = (sim.address(a, PORT), sim.address(b, PORT));
    let local = Address::Tcp(([127, 0, 0, 1], 7).into());
    let (foreign, inside) = (of_b.clone(), local.clone());
    sim.start_core(a, 0, |world| async move {
        assert_eq!(world.net.listen(&foreign).err(), Some(NetError::Os(101)), "not this node's address");
        let kept = world.net.listen(&of_a).expect("free");
        assert_eq!(world.net.listen(&of_a).err(), Some(NetError::Os(98)), "the port is taken");
        drop(kept);
        world.net.listen(&of_a).expect("free again");
        let any = world.net.listen(&Address::Tcp(([0, 0, 0, 0], 0).into())).expect("free");
        assert!(matches!(any.address(), Address::Tcp(at) if at.port() != 0));
        let _loopback = world.net.listen(&inside).expect("free");
        world.net.connect(&inside).await.expect("from the same node");
        std::future::pending::<()>().await;
    });
    sim.run_for(SECOND);
    let lines = log.clone();
    let to_a = Address::Tcp(SocketAddr::new(sim.ip(a), 7));
    sim.start_core(b, 0, |world| async move {
        for to in [to_a, local] {
            let refused = world.net.connect(&to).await.map(|_| ());
            lines.borrow_mut().push(format!("{refused:?}"));
        }
    });
    assert!(sim.run_until(SECOND, || log.borrow().len() == 2));
    assert_eq!(*log.borrow(), ["Err(Closed)", "Err(Closed)"]);
}

#[test]
fn clocks_of_nodes_disagree_but_run_at_one_pace() {
    let sim = Sim::new(8, SimConfig::default());
    let nodes = [sim.node(1), sim.node(1)];
    for node in nodes {
        sim.start_core(node, 0, |world| async move {
            sleep(&world.clock, 5 * SECOND).await;
        });
    }
    let worlds = nodes.map(|node| sim.world(node, 0).expect("it runs"));
    let read = || worlds.each_ref().map(|world| (world.clock.now(), world.clock.wall().get()));
    let before = read();
    assert_ne!(before[0].0, before[1].0);
    assert!(before[0].1.abs_diff(before[1].1) <= 400_000_000);
    sim.run_for(10 * SECOND);
    let after = read();
    let spans = [0, 1].map(|n: usize| after[n].0.since(before[n].0));
    assert_eq!(spans[0], spans[1]);
    assert!(spans[0] >= 5 * SECOND);
    sim.step_wall(nodes[0], -7);
    assert_eq!(worlds[0].clock.wall().get(), after[0].1 - 7);
}

#[test]
#[should_panic(expected = "never ends (seed 77)")]
fn a_future_that_waits_for_nothing_is_reported_with_its_seed() {
    crate::run(77, |_| std::future::pending::<()>());
}

/// Three nodes that talk, write, go down and come back at random: the trace and what went well.
fn chaos(seed: u64) -> (u64, u64) {
    let mut config = SimConfig::default();
    config.net.reset_per_million = 2_000;
    let sim = Sim::new(seed, config);
    let faults = DiskFaults { litter: true, flush_error_per_million: 1_000, ..DiskFaults::default() };
    let nodes: Vec<(NodeId, SimDiskId)> = (0..3).map(|_| (sim.node(2), sim.disk(1 << 22, faults))).collect();
    let well = Rc::new(Cell::new(0));
    let start = |(node, disk): (NodeId, SimDiskId)| {
        let (at, handle, went) = (sim.address(node, PORT), sim.open_disk(node, disk), well.clone());
        sim.start_core(node, 0, |world| async move {
            let listener = serve(world.clone(), at);
            spawn(&world.tasks, Class::Foreground, listener).detach();
            for n in 0..1024 {
                let buf = IoBuf::zeroed(BLOCK_BYTES);
                handle
                    .write(n * 4096, buf, Durability::Flush, Lifetime::Hot)
                    .await
                    .result
                    .expect("no write errors are set");
                went.set(went.get() + u64::from(handle.flush().await.is_ok()));
            }
        });
        let (peers, went) = (nodes.iter().map(|(peer, _)| sim.address(*peer, PORT)).collect::<Vec<_>>(), well.clone());
        sim.start_core(node, 1, |world| async move {
            for peer in peers.iter().cycle() {
                went.set(went.get() + u64::from(talk(&world, peer, 3000).await.is_ok()));
                sleep(&world.clock, Duration::from_millis(1)).await;
            }
        });
    };
    nodes.iter().copied().for_each(&start);
    for _ in 0..20 {
        sim.run_for(Duration::from_micros(sim.random().below(20_000)));
        let (victim, other) = (nodes[sim.random().index(3)], nodes[sim.random().index(3)]);
        match sim.random().below(5) {
            0 => sim.partition(victim.0, other.0),
            1 => sim.heal_all(),
            2 => sim.reset_connections(victim.0, other.0),
            _ => {
                sim.crash(victim.0, if sim.random().below(2) == 0 { Crash::Power } else { Crash::Process });
                sim.run_for(Duration::from_micros(sim.random().below(2_000)));
                start(victim);
            }
        }
    }
    (sim.trace(), well.get())
}

#[test]
fn chaos_has_one_history_a_seed_and_work_gets_done() {
    for seed in 0..30 {
        let first = chaos(seed);
        assert_eq!(first, chaos(seed), "seed {seed}");
        assert!(first.1 > 50, "seed {seed}: hardly anything went well: {}", first.1);
    }
}
