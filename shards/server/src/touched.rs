//! Which inodes of this shard a command changes, so that leases on them can be revoked first.

use crate::shard::Shard;
use cfs_namespace::data::DataCommand;
use cfs_namespace::txn::{Part, TxnCommand};
use cfs_namespace::{Command, CommandBody, Message, pending};
use cfs_types::{FsError, InodeId, Name};
use cfs_wire::Op;
use std::rc::Rc;

/// What a command changes: inodes it names, and names whose inodes it changes.
#[derive(Default)]
struct Touched {
    inodes: Vec<InodeId>,
    names: Vec<(InodeId, Name)>,
}

/// The inodes of `shard` that the command changes, names looked up. What is behind a name may
/// change before the command executes; its leases are then revoked too late by one request, which
/// the holder's next validation shows.
pub async fn touched(shard: &Rc<Shard>, command: &Command) -> Result<Vec<InodeId>, FsError> {
    let mut found = Touched::default();
    match &command.body {
        CommandBody::Op { op, asked, .. } => {
            of_op(op, &mut found);
            found.inodes.extend(*asked);
        }
        CommandBody::Data(DataCommand::Write { ino, .. } | DataCommand::Fallocate { ino, .. }) => {
            found.inodes.push(*ino);
        }
        CommandBody::Txn(TxnCommand::Prepare { parts, .. }) => {
            parts.iter().for_each(|part| of_part(part, &mut found));
        }
        CommandBody::Txn(TxnCommand::Decide { parts, after, .. }) => {
            parts.iter().for_each(|part| of_part(part, &mut found));
            after.iter().for_each(|message| of_message(message, &mut found));
        }
        // Leases may have been granted since it was prepared.
        CommandBody::Deliver { message: Message::Commit { tx, .. }, .. } => {
            let parts = shard.read(|view, _| pending::held_parts(view, *tx)).await??;
            parts.iter().for_each(|part| of_part(part, &mut found));
        }
        CommandBody::Deliver { message, .. } => of_message(message, &mut found),
        _ => {}
    }
    let mut all = found.inodes;
    all.extend(resolve(shard, &found.names).await?);
    Ok(here(shard, all))
}

fn here(shard: &Rc<Shard>, inodes: Vec<InodeId>) -> Vec<InodeId> {
    inodes.into_iter().filter(|ino| ino.shard() == shard.id()).collect()
}

async fn resolve(shard: &Rc<Shard>, names: &[(InodeId, Name)]) -> Result<Vec<InodeId>, FsError> {
    let mut inodes = Vec::new();
    for (dir, name) in names.iter().filter(|(dir, _)| dir.shard() == shard.id()) {
        inodes.extend(shard.read(|view, context| cfs_namespace::named_inode(view, context, *dir, name)).await?);
    }
    Ok(inodes)
}

fn of_op(op: &Op, found: &mut Touched) {
    match op {
        Op::Setattr { ino, .. }
        | Op::SetXattr { ino, .. }
        | Op::RemoveXattr { ino, .. }
        | Op::Write { ino, .. }
        | Op::Fallocate { ino, .. } => found.inodes.push(*ino),
        Op::Create { dir, name, truncate, .. } => {
            found.inodes.push(*dir);
            if *truncate {
                found.names.push((*dir, name.clone()));
            }
        }
        Op::Mknod { dir, .. } | Op::Mkdir { dir, .. } | Op::Symlink { dir, .. } => found.inodes.push(*dir),
        Op::Unlink { dir, .. } => found.inodes.push(*dir),
        Op::Rmdir { dir, name } => {
            found.inodes.push(*dir);
            found.names.push((*dir, name.clone()));
        }
        Op::Rename { from_dir, from, to_dir, to, .. } => {
            found.inodes.extend([*from_dir, *to_dir]);
            found.names.extend([(*from_dir, from.clone()), (*to_dir, to.clone())]);
        }
        Op::Link { ino, dir, .. } => found.inodes.extend([*ino, *dir]),
        _ => {}
    }
}

fn of_part(part: &Part, found: &mut Touched) {
    match part {
        Part::MakeDir { .. } => {}
        Part::AddLink { ino } => found.inodes.push(*ino),
        Part::RemoveDir { dir } | Part::Reparent { dir, .. } => found.inodes.push(*dir),
        // The name is bound to what is expected, or the part fails.
        Part::Rebind { dir, expect, .. } => {
            found.inodes.push(*dir);
            found.inodes.extend(expect.map(|dentry| dentry.ino));
        }
    }
}

fn of_message(message: &Message, found: &mut Touched) {
    if let Message::Unlink { ino, .. } | Message::Touch { ino, .. } = message {
        found.inodes.push(*ino);
    }
}
