//! Random histories on many shards against the reference file system.

use crate::cluster::client::{Client, Fate, perform};
use crate::cluster::random::{Random, call};
use crate::cluster::{Cluster, STEPS_MAX, audit};
use cfs_model::{Call, Correspondence, Model, Strictness};
use cfs_types::{FsError, InodeId, Name, Nanos};
use cfs_wire::{Op, Reply};
use std::collections::BTreeSet;

const STRICT: Strictness = Strictness { times: true };

fn model() -> Model {
    Model::new(0o755, 0, 0, Nanos::new(1000))
}

/// One history, one operation after the other; `fate` decides each step.
fn sequential(seed: u64, ops: u64, strict: Strictness, fate: &mut dyn FnMut() -> Fate) {
    let (mut random, mut model, mut ids) = (Random::new(seed), model(), Correspondence::default());
    let mut cluster = Cluster::new();
    for number in 1..=ops {
        cluster.now += 10;
        let call = call(random.op(&model), cluster.now);
        let Some(got) = perform(&mut cluster, &ids, &call, number, fate) else {
            continue;
        };
        let expected = model.apply(&call).map(|(reply, _)| reply);
        if let Err(both) = ids.agree(&expected, &got, strict) {
            panic!("seed {seed}, operation {number}: {call:?}\n{both}");
        }
    }
    cluster.settle();
    audit::sound(&cluster);
    assert_eq!(audit::product_tree(&cluster), audit::model_tree(&model, &ids), "seed {seed}");
}

#[test]
fn sequential_histories_agree_with_the_model() {
    for seed in 0..200 {
        sequential(seed, 200, STRICT, &mut || Fate::Done);
    }
}

#[test]
fn crashes_of_coordinators_at_any_step_change_no_result() {
    for seed in 0..200 {
        let mut crashes = Random::new(seed + 1000);
        let mut fate = || match crashes.below(24) {
            0 => Fate::Unheard,
            1 => Fate::Dropped,
            _ => Fate::Done,
        };
        sequential(seed, 150, Strictness::default(), &mut fate);
    }
}

/// Runs calls at once, stepping them in random order; gives their results.
fn at_once(
    cluster: &mut Cluster,
    ids: &Correspondence,
    calls: &[Call],
    first: u64,
    random: &mut Random,
    crashes: bool,
) -> Vec<Result<Reply, FsError>> {
    let mut clients: Vec<Client> = calls
        .iter()
        .zip(first..)
        .map(|(call, number)| {
            let op = ids.translate(&call.op).expect("known inodes");
            Client::new(cluster, call.clone(), op, number, first)
        })
        .collect();
    for _ in 0..STEPS_MAX {
        let unfinished: Vec<usize> = (0..clients.len()).filter(|i| clients[*i].result().is_none()).collect();
        let Some(chosen) = unfinished.get(random.below(unfinished.len())) else {
            return clients.iter().filter_map(|client| client.result().cloned()).collect();
        };
        let client = &mut clients[*chosen];
        let fate = match random.below(if crashes { 40 } else { usize::MAX }) {
            0 => Fate::Unheard,
            1 => Fate::Dropped,
            _ => Fate::Done,
        };
        client.step(cluster, random.below(8), fate);
        if client.result() == Some(&Err(FsError::TimedOut)) {
            client.start(cluster);
        }
        let shards = cluster.ids();
        let shard = shards[random.below(shards.len())];
        if crashes && random.below(60) == 0 {
            cluster.crash(shard);
            let lost = clients.iter_mut().filter(|c| c.result().is_none() && c.shard() == shard);
            lost.for_each(|client| client.start(cluster));
        }
        let live: BTreeSet<_> = clients.iter().filter_map(Client::transaction).collect();
        cluster.pump(shard, random.below(3) > 0, Some(random.below(8)));
        if random.below(4) == 0 {
            cluster.resolve(shard, &live);
        }
    }
    panic!("no end of {calls:?}");
}

fn permutations(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![Vec::new()];
    }
    let insert = |rest: Vec<usize>| {
        (0..of).map(move |at| {
            let mut order = rest.clone();
            order.insert(at, of - 1);
            order
        })
    };
    permutations(of - 1).into_iter().flat_map(insert).collect()
}

/// The model after the calls in some order that explains all results and the tree.
fn explain(
    model: &Model,
    ids: &Correspondence,
    calls: &[Call],
    results: &[Result<Reply, FsError>],
    tree: &audit::Tree,
) -> Option<(Model, Correspondence)> {
    let unmade = |result: &Result<Reply, FsError>| *result == Err(FsError::Busy);
    permutations(calls.len()).into_iter().find_map(|order| {
        let (mut model, mut ids) = (model.clone(), ids.clone());
        for i in order.into_iter().filter(|i| !unmade(&results[*i])) {
            let expected = model.apply(&calls[i]).map(|(reply, _)| reply);
            // Attributes may be those of a moment later; names, kinds and errors must be right.
            let got = without_attributes(&results[i]);
            ids.agree(&expected, &got, Strictness::default()).ok()?;
        }
        (audit::model_tree(&model, &ids) == *tree).then_some((model, ids))
    })
}

fn without_attributes(result: &Result<Reply, FsError>) -> Result<Reply, FsError> {
    let mut result = result.clone();
    if let Ok(Reply::Entry(entry)) = &mut result {
        entry.attr = None;
    }
    result
}

fn story(calls: &[Call], results: &[Result<Reply, FsError>]) -> String {
    let lines =
        calls.iter().zip(results).map(|(call, result)| format!("{:?} -> {:?}\n", call.op, without_attributes(result)));
    lines.collect()
}

fn concurrent(seed: u64, crashes: bool) {
    let (mut random, mut model, mut ids) = (Random::new(seed), model(), Correspondence::default());
    let mut cluster = Cluster::new();
    let mut number = 1;
    for round in 0..30 {
        cluster.now += 10;
        let calls: Vec<Call> = (0..4).map(|_| call(random.change(&model), cluster.now)).collect();
        let results = at_once(&mut cluster, &ids, &calls, number, &mut random, crashes);
        number += 4;
        cluster.settle();
        audit::sound(&cluster);
        let tree = audit::product_tree(&cluster);
        let Some(explained) = explain(&model, &ids, &calls, &results, &tree) else {
            panic!(
                "seed {seed}, round {round}: no order explains\n{}\n{:#?}\n{tree:#?}",
                story(&calls, &results),
                audit::model_tree(&model, &ids)
            );
        };
        (model, ids) = explained;
        model.end_session(calls[0].session);
    }
}

#[test]
fn concurrent_operations_are_linearizable() {
    for seed in 0..200 {
        concurrent(seed, false);
    }
}

#[test]
fn concurrent_operations_with_crashes_are_linearizable() {
    for seed in 0..200 {
        concurrent(seed, true);
    }
}

/// Two directories that are moved into each other at once: one of the moves must fail.
#[test]
fn directories_never_form_a_loop() {
    for seed in 0..400 {
        let (mut model, mut ids) = (model(), Correspondence::default());
        let (mut cluster, mut random) = (Cluster::new(), Random::new(seed));
        let dir = |name: &[u8]| Name::new(name).expect("a name");
        let mut made = Vec::new();
        for (number, name) in [(1, b"a"), (2, b"b")] {
            let op = Op::Mkdir { dir: InodeId::ROOT, name: dir(name), mode: 0o755 };
            let call = call(op, cluster.now);
            let got = perform(&mut cluster, &ids, &call, number, &mut || Fate::Done);
            let expected = model.apply(&call).map(|(reply, _)| reply);
            ids.agree(&expected, &got.expect("known"), STRICT).expect("two directories");
            if let Ok(Reply::Entry(entry)) = expected {
                made.push(entry.ino);
            }
        }
        let into = |from: &[u8], to_dir: InodeId| Op::Rename {
            from_dir: InodeId::ROOT,
            from: dir(from),
            to_dir,
            to: dir(b"in"),
            no_replace: false,
            exchange: false,
        };
        let calls: Vec<Call> = [into(b"a", made[1]), into(b"b", made[0])].map(|op| call(op, cluster.now)).into();
        let results = at_once(&mut cluster, &ids, &calls, 3, &mut random, seed % 2 == 0);
        cluster.settle();
        audit::sound(&cluster);
        let tree = audit::product_tree(&cluster);
        let explained = explain(&model, &ids, &calls, &results, &tree);
        assert!(explained.is_some(), "seed {seed}: {}", story(&calls, &results));
    }
}
