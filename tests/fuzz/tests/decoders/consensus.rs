//! Messages between replicas of a group, and what the library behind them makes of those that pass.

use cfs_consensus::{Group, GroupConfig, PeerMessage, Restored, Work};
use cfs_fuzz::{Target, unhex};
use std::collections::VecDeque;

/// A group that carries its work out at once.
struct Replica(Group);

impl Replica {
    fn open(me: u64) -> Self {
        Replica(Group::new(&GroupConfig { me, voters: vec![1, 2, 3] }, Restored::default(), me))
    }

    /// Does what is to be done; returns what is to be sent.
    fn work(&mut self) -> Vec<PeerMessage> {
        let mut out = Vec::new();
        while let Some(Work { number, snapshot, committed, messages, messages_after, .. }) = self.0.poll() {
            out.extend(messages);
            self.0.persisted(number);
            if let Some(point) = snapshot {
                self.0.executed(point.index, point.term);
            }
            committed.iter().for_each(|done| self.0.executed(done.entry.index, done.entry.term));
            out.extend(messages_after);
        }
        if self.0.snapshot_wanted() {
            self.0.open_snapshot();
        }
        out
    }
}

/// Three replicas elect one and agree on a few entries; everything they said, and they themselves.
fn converse() -> (Vec<PeerMessage>, Vec<Replica>) {
    let mut replicas: Vec<Replica> = (1..=3).map(Replica::open).collect();
    let (mut said, mut wire) = (Vec::new(), VecDeque::new());
    replicas[0].0.campaign();
    for round in 0..40 {
        for replica in &mut replicas {
            wire.extend(replica.work());
            replica.0.tick();
        }
        if round % 5 == 4 {
            let _ = replicas[0].0.propose(vec![7; 30]);
        }
        while let Some(mut message) = wire.pop_front() {
            message.stamp(1000 + round);
            said.push(message.clone());
            // The last one hears nothing for a while, so that it gets several entries at once.
            if message.to() != 3 || round > 20 {
                let to = usize::try_from(message.to() - 1).expect("small");
                let _ = replicas[to].0.step(message);
                wire.extend(replicas[to].work());
            }
        }
    }
    (said, replicas)
}

/// Messages of every kind and length that a conversation had.
fn seeds(said: &[PeerMessage], to: Option<u64>) -> Vec<Vec<u8>> {
    let chosen = said.iter().filter(|message| to.is_none_or(|to| message.to() == to));
    let mut seeds: Vec<Vec<u8>> = chosen.map(PeerMessage::encode).collect();
    seeds.sort_by_key(|bytes| (bytes.get(1).copied(), bytes.len()));
    seeds.dedup_by_key(|bytes| (bytes.get(1).copied(), bytes.len()));
    seeds
}

const SOURCES: &[&str] = &["shards/consensus/src/message.rs"];

#[test]
fn messages() {
    let (said, _) = converse();
    Target::new("message of a peer", SOURCES, seeds(&said, None))
        // Lengths that lie, of a known field and of an unknown one.
        .case(unhex("0803100218012001280130013a241001180222ffff01070707070707070707070707070707070707070707070707070707070707070707070707070707074001"))
        .case(unhex("08031002180120013a0410011801c2eb03a64c7aefe37e16852edd08a21a"))
        .may_hold(128, 2048)
        .round_trips(|bytes| PeerMessage::decode(bytes).ok(), PeerMessage::encode);
}

#[test]
fn a_leader_and_a_follower_survive_what_passes() {
    for me in [1, 2] {
        let (said, _) = converse();
        let at = usize::try_from(me - 1).expect("small");
        Target::new("message to a replica", SOURCES, seeds(&said, Some(me)))
            .may_hold(128, 128 << 10)
            .mutants(3_000)
            .decodes(|bytes| {
                let message = PeerMessage::decode(bytes).ok()?;
                let mut replica = converse().1.swap_remove(at);
                let _ = replica.0.step(message);
                replica.work();
                replica.0.tick();
                replica.work();
                Some(())
            });
    }
}
