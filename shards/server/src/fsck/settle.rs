//! What a start would finish: messages are delivered and transactions resolved, in memory.
//!
//! Leftovers are legal after a crash, so they are notes. Afterwards nothing is under way, and the
//! invariants hold exactly.

use super::finding::{Findings, Severity, Site};
use super::group::{Group, Opener, outcome, report_unreadable};
use cfs_namespace::audit::{self, Row};
use cfs_namespace::txn::TxnCommand;
use cfs_namespace::{Command, CommandBody, Message, TxId};
use cfs_types::{GroupId, Nanos, ShardId};
use std::collections::BTreeMap;

/// Messages that beget messages: more rounds than any operation needs.
const ROUNDS_MAX: usize = 64;
const OUTBOX: ([u8; 1], [u8; 1]) = ([0x07], [0x08]);
const PREPARED: ([u8; 1], [u8; 1]) = ([0x0a], [0x0b]);

/// Finishes what is under way between the shards.
pub async fn settle(opener: &Opener, groups: &mut BTreeMap<GroupId, Group>, now: Nanos, findings: &mut Findings) {
    let mut delivered = 0;
    for _ in 0..ROUNDS_MAX {
        let before = delivered;
        for from in ShardId::all() {
            delivered += deliver_all(opener, groups, from, now, findings).await;
        }
        if delivered == before {
            break;
        }
    }
    if delivered > 0 {
        let what = format!("{delivered} messages between shards were under way");
        findings.add(Severity::Note, Site::Group(GroupId::CONTROL), what);
    }
    for shard in ShardId::all() {
        resolve_all(opener, groups, shard, now, findings).await;
    }
}

async fn list<T>(
    group: &Group,
    (from, to): ([u8; 1], [u8; 1]),
    pick: impl Fn(Row) -> Option<T>,
    findings: &mut Findings,
) -> Vec<T> {
    let mut found = Vec::new();
    // Rows that do not decode are reported when all rows are looked at.
    let shown = group.rows(&from, &to, |key, value| found.extend(audit::decode(key, value).and_then(&pick))).await;
    if let Err(error) = shown {
        report_unreadable(group.id, &error, findings);
    }
    found
}

/// Delivers one shard's outbox, and takes the messages out of it.
async fn deliver_all(
    opener: &Opener,
    groups: &mut BTreeMap<GroupId, Group>,
    from: ShardId,
    now: Nanos,
    findings: &mut Findings,
) -> u64 {
    let messages = match groups.get(&from.into()).filter(|g| g.is_whole) {
        Some(sender) => {
            let pick = |row| match row {
                Row::Outbox(to, sequence, message) => Some((to, sequence, message)),
                _ => None,
            };
            list(sender, OUTBOX, pick, findings).await
        }
        None => return 0,
    };
    let mut through: BTreeMap<ShardId, u64> = BTreeMap::new();
    let mut delivered = 0;
    for (to, sequence, message) in messages {
        match deliver(opener, groups, (from, to), sequence, message, now).await {
            Ok(()) => {
                delivered += 1;
                through.insert(to, sequence);
            }
            Err(what) => {
                let what = format!("message {sequence} to shard {to} cannot be delivered: {what}");
                findings.group(from.into(), what);
            }
        }
    }
    let Some(sender) = groups.get_mut(&from.into()) else { return delivered };
    for (to, through) in through {
        let acknowledge = CommandBody::Acknowledge { to, through };
        // One acknowledgement removes a bounded number of messages.
        for _ in 0..=delivered / 256 {
            let done = sender.execute(opener, now, Command::internal(acknowledge.clone()), Vec::new()).await;
            if let Err(what) = outcome(done) {
                findings.group(from.into(), format!("messages to shard {to} cannot be acknowledged: {what}"));
            }
        }
    }
    delivered
}

async fn deliver(
    opener: &Opener,
    groups: &mut BTreeMap<GroupId, Group>,
    (from, to): (ShardId, ShardId),
    sequence: u64,
    mut message: Message,
    now: Nanos,
) -> Result<(), String> {
    let sender = groups.get(&from.into()).ok_or("no sender")?;
    let mut data = Vec::new();
    if let Message::Data(body) = &mut message
        && let Some(slice) = body.carries()
    {
        data = sender.read_data(slice.index, slice.data_offset, slice.data_len).await?;
        body.carried_at(0);
    }
    let receiver = groups.get_mut(&to.into()).filter(|g| g.is_whole).ok_or("the receiver cannot be read")?;
    let body = CommandBody::Deliver { from, sequence, message, pinned_by: Vec::new() };
    outcome(receiver.execute(opener, now, Command::internal(body), data).await)
}

/// Resolves what is prepared in a shard: all messages are delivered, so it was never committed.
async fn resolve_all(
    opener: &Opener,
    groups: &mut BTreeMap<GroupId, Group>,
    shard: ShardId,
    now: Nanos,
    findings: &mut Findings,
) {
    let Some(group) = groups.get_mut(&shard.into()).filter(|g| g.is_whole) else { return };
    let pick = |row| match row {
        Row::Prepared(tx) => Some(tx),
        _ => None,
    };
    let prepared: Vec<TxId> = list(group, PREPARED, pick, findings).await;
    for tx in prepared {
        let what = format!("transaction {tx:?} was prepared and not decided");
        findings.add(Severity::Note, Site::Group(shard.into()), what);
        let abort = CommandBody::Txn(TxnCommand::Abort { tx });
        if let Err(what) = outcome(group.execute(opener, now, Command::internal(abort), Vec::new()).await) {
            findings.group(shard.into(), format!("transaction {tx:?} cannot be aborted: {what}"));
        }
    }
}
