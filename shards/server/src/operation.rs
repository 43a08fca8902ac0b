//! One request at the core that owns its shard: leases first, then the state machine, then the
//! answer with what the client may cache.

use crate::admission::reserve;
use crate::coordinate::{coordinate, fill_pins, release_orphans, release_unpinned};
use crate::core::{Core, OpenPlace};
use crate::file_data::{self, WriteRequest};
use crate::leases::Intent;
use crate::messages::{CoreReply, CoreRequest};
use crate::shard::Shard;
use crate::steps::{command, conclude, execute_steps};
use crate::touched::touched;
use cfs_namespace::data::DataCommand;
use cfs_namespace::txn::{Coordinator, Request as TxRequest};
use cfs_namespace::{Command, CommandBody, pending};
use cfs_seam::{Class, IoBuf, spawn};
use cfs_segment::Purpose;
use cfs_types::{CoreId, FILE_BYTES_MAX, FsError, InodeId, SessionId, ShardId, Timestamp, UNIT_BYTES};
use cfs_wire::{
    Attr, EntryReply, FallocateMode, Lease, LeaseKind, Op, OpenMode, Reply, Request, RequestContext, Volume,
};
use std::rc::Rc;

/// Results kept for one session in one shard, which forgets them only when it is asked again: so many requests the
/// session may be ahead of the oldest that it waits for.
const RESULTS_MAX: u64 = 65_536;
/// The id that means 'no change' in chown: what has it for an owner is closed to everybody.
const NO_ID: u32 = u32::MAX;

/// A result, the leases that go with it, and bulk bytes.
pub type Served = (Result<Reply, FsError>, Vec<Lease>, Option<IoBuf>);

/// Whether an operation changes anything: it then runs to its end once it was begun.
pub fn changes(op: &Op) -> bool {
    op.is_mutation() || matches!(op, Op::Close { .. } | Op::CloseSession)
}

/// Serves a request for a shard of this core. The parts with much state are boxed: what is left is
/// small, and moved by every caller.
pub async fn serve(core: Rc<Core>, request: Request, payload: Option<IoBuf>, direct: bool) -> Served {
    let Request { context, op } = request;
    let shard = match core.shard(context.shard) {
        Ok(shard) => shard.clone(),
        Err(error) => return (Err(error), Vec::new(), None),
    };
    if routed_to(&op).is_some_and(|ino| ino.shard() != context.shard) {
        return (Err(FsError::WrongShard), Vec::new(), None);
    }
    if let Err(error) = check(&context, &op) {
        return (Err(error), Vec::new(), None);
    }
    let session = context.session;
    match op {
        Op::Echo => (Ok(Reply::Done), Vec::new(), payload),
        Op::Renew => (renew(&core, session), Vec::new(), None),
        Op::ReturnLeases { inodes } => {
            inodes.iter().for_each(|ino| core.leases.borrow_mut().give_back(session, *ino));
            core.leases_moved.notify_all();
            (Ok(Reply::Done), Vec::new(), None)
        }
        Op::Reopen { inodes, last, seen } => {
            match is_behind(&core, &seen).await {
                Ok(false) => {}
                Ok(true) => return (Err(FsError::Stale), Vec::new(), None),
                Err(error) => return (Err(error), Vec::new(), None),
            }
            let said = inodes.iter().map(|ino| core.reopened(*ino, session));
            let said = said.fold(Ok(()), Result::and);
            if last {
                core.session_back(session);
                spawn(&core.world.tasks, Class::Background, release_closed(core.clone(), session)).detach();
            }
            (said.map(|()| Reply::Done), Vec::new(), None)
        }
        Op::CloseSession => {
            core.peers.call(CoreId::new(0), CoreRequest::EndSession(session)).await;
            (Ok(Reply::Done), Vec::new(), None)
        }
        Op::Statfs => (Box::pin(statfs(&core)).await, Vec::new(), None),
        Op::Close { ino } => (Box::pin(close(&core, &shard, ino, session)).await, Vec::new(), None),
        Op::Read { .. } => Box::pin(read(&core, &shard, &context, &op, direct)).await,
        Op::Write { ino, offset, len, append, kill_privileges, held } => {
            let asked = WriteRequest { ino, offset, append, kill_privileges, held };
            (Box::pin(write(&core, &shard, &context, asked, len, payload)).await, Vec::new(), None)
        }
        Op::Fallocate { .. } => (Box::pin(fallocate(&core, &shard, &context, &op)).await, Vec::new(), None),
        op if op.is_mutation() => Box::pin(mutate(&core, &shard, &context, op, direct)).await,
        op => Box::pin(look(&core, &shard, session, &op, direct)).await,
    }
}

/// Whether what a client saw is missing in the history of what there is now.
async fn is_behind(core: &Core, seen: &[(ShardId, u64, Timestamp)]) -> Result<bool, FsError> {
    if seen.is_empty() {
        return Ok(false);
    }
    let CoreReply::Lineage(lineage) = core.peers.call(CoreId::new(0), CoreRequest::Lineage).await else {
        return Err(FsError::Busy);
    };
    let lineage = lineage?;
    Ok(!seen.iter().all(|(shard, incarnation, timestamp)| lineage.has(*incarnation, *shard, *timestamp)))
}

/// Refuses what no file can have (an id that the kernel takes for none, a target that ends before its
/// end), and what a session may not do before it says that it has received earlier results.
fn check(context: &RequestContext, op: &Op) -> Result<(), FsError> {
    if !op.is_mutation() {
        return Ok(());
    }
    let (owner, group) = match op {
        Op::Setattr { change, .. } => (change.uid, change.gid),
        _ => (None, None),
    };
    let ids = [Some(context.identity.uid), Some(context.identity.gid), owner, group];
    let is_cut = matches!(op, Op::Symlink { target, .. } if target.contains(&0));
    if is_cut || ids.contains(&Some(NO_ID)) {
        return Err(FsError::Invalid);
    }
    if context.number.get().saturating_sub(context.oldest.get()) >= RESULTS_MAX {
        return Err(FsError::Busy);
    }
    Ok(())
}

/// The inode whose shard an operation is for; None where any or another rule holds.
fn routed_to(op: &Op) -> Option<InodeId> {
    match op {
        Op::Lookup { dir, .. }
        | Op::Create { dir, .. }
        | Op::Mknod { dir, .. }
        | Op::Mkdir { dir, .. }
        | Op::Symlink { dir, .. }
        | Op::Unlink { dir, .. }
        | Op::Rmdir { dir, .. }
        | Op::Link { dir, .. }
        | Op::Readdir { dir, .. }
        | Op::Parent { dir } => Some(*dir),
        Op::Rename { from_dir, .. } => Some(*from_dir),
        Op::Getattr { ino }
        | Op::Setattr { ino, .. }
        | Op::Readlink { ino }
        | Op::GetXattr { ino, .. }
        | Op::SetXattr { ino, .. }
        | Op::ListXattr { ino }
        | Op::RemoveXattr { ino, .. }
        | Op::Open { ino, .. }
        | Op::Close { ino }
        | Op::Write { ino, .. }
        | Op::Fallocate { ino, .. }
        | Op::Seek { ino, .. } => Some(*ino),
        Op::Read { .. }
        | Op::Statfs
        | Op::Renew
        | Op::ReturnLeases { .. }
        | Op::CloseSession
        | Op::Echo
        | Op::Reopen { .. } => None,
    }
}

/// Gives up what the session holds open of unlinked inodes by an earlier word and not by its last:
/// a crash came between the end of the last link and the session's close.
async fn release_closed(core: Rc<Core>, session: SessionId) {
    if !core.leases.borrow().has_every_pin(session) {
        return;
    }
    for shard in core.groups.values().filter(|s| s.group().shard().is_some()) {
        let closed = |ino| !core.leases.borrow().is_pinned_by(ino, session);
        let _failed = release_orphans(shard, session, closed).await;
    }
}

fn renew(core: &Rc<Core>, session: SessionId) -> Result<Reply, FsError> {
    let now = core.world.clock.now();
    let alive = core.leases.borrow_mut().renew(session, now);
    core.heard.borrow_mut().insert(session);
    core.leases_moved.notify_all();
    if alive { Ok(Reply::Done) } else { Err(FsError::Stale) }
}

async fn statfs(core: &Rc<Core>) -> Result<Reply, FsError> {
    let (mut volume, unit) = (Volume::default(), u64::from(UNIT_BYTES));
    for to in (0..core.config.cores).map(CoreId::new) {
        if let CoreReply::Status(status) = core.peers.call(to, CoreRequest::Status).await {
            let [total, _, garbage, free] = status.space_units;
            volume.bytes += total * unit;
            volume.bytes_free += (free + garbage).saturating_sub(status.floor_units) * unit;
            volume.inodes += status.inodes;
        }
    }
    volume.inodes_free = volume.bytes_free / 512;
    Ok(Reply::Statfs(volume))
}

/// The session's last descriptor is closed: its pin goes, and the inode if it only waited for that.
async fn close(core: &Rc<Core>, shard: &Rc<Shard>, ino: InodeId, session: SessionId) -> Result<Reply, FsError> {
    core.leases.borrow_mut().unpin(ino, session);
    match shard.query(&Op::Getattr { ino }).await {
        Ok(Reply::Attr(attr)) if attr.nlink == 0 => {
            let body = CommandBody::ReleaseOrphan { ino, session };
            shard.command(Command::internal(body)).await?;
            Ok(Reply::Done)
        }
        Ok(_) | Err(FsError::NotFound | FsError::Stale) => Ok(Reply::Done),
        Err(error) => Err(error),
    }
}

/// A read-only operation on metadata.
async fn look(core: &Rc<Core>, shard: &Rc<Shard>, session: SessionId, op: &Op, direct: bool) -> Served {
    core.grace().await;
    let mut held = None;
    loop {
        let mut result = shard.query(op).await;
        let dirty = core.leases.borrow().dirty_elsewhere(&shown(op, &result), session);
        if !dirty.is_empty() && held.is_none() {
            match core.hold(dirty, session, Intent::Read).await {
                Ok(clear) => held = Some(clear),
                Err(error) => return (Err(error), Vec::new(), None),
            }
            continue;
        }
        leave_out(&mut result, &dirty);
        if let (Op::Open { ino, .. }, Ok(_)) = (op, &result) {
            if core.unlinking.is_under_way(*ino) {
                core.unlinking.wait(*ino).await;
                continue;
            }
            if let Err(error) = pin(core, shard, *ino, session, &result, None).await {
                return (Err(error), Vec::new(), None);
            }
        }
        let leases = if direct { core.grant(session, &grants(op, &result)) } else { Vec::new() };
        return (result, leases, None);
    }
}

/// Leaves out the attributes of files that came while others were waited for, of which more is held back: the
/// client asks for them. To wait for these too could go on for as long as names are replaced.
fn leave_out(result: &mut Result<Reply, FsError>, dirty: &[InodeId]) {
    let hide = |ino: InodeId, attr: &mut Option<Attr>| *attr = attr.take().filter(|_| !dirty.contains(&ino));
    match result {
        Ok(Reply::Entry(entry)) => hide(entry.ino, &mut entry.attr),
        Ok(Reply::Listing { entries, .. }) => entries.iter_mut().for_each(|entry| hide(entry.ino, &mut entry.attr)),
        // The inode was named by the request, and is held.
        _ => {}
    }
}

/// Pins an inode that was just found there, in a place of its own or one that was taken for it. One
/// without a name is gone, but for those that hold it.
async fn pin(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    ino: InodeId,
    session: SessionId,
    found: &Result<Reply, FsError>,
    place: Option<OpenPlace>,
) -> Result<(), FsError> {
    let nameless = matches!(found, Ok(Reply::Attr(attr)) if attr.nlink == 0);
    if nameless && !shard.read(|view, _| pending::holds_orphan(view, ino, session)).await? {
        return Err(FsError::Stale);
    }
    drop(place);
    core.opened(ino, session)
}

/// What a create has found may be longer than the server knows: others hold back what they wrote.
async fn show_whole(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    session: SessionId,
    entry: &mut EntryReply,
) -> Result<(), FsError> {
    let Some(attr) = &mut entry.attr else { return Ok(()) };
    let dirty = core.leases.borrow().dirty_elsewhere(&[entry.ino], session);
    if !dirty.is_empty() {
        let _held = core.hold(dirty, session, Intent::Read).await?;
        if let Reply::Attr(now) = shard.query(&Op::Getattr { ino: entry.ino }).await? {
            *attr = now;
        }
    }
    Ok(())
}

/// Pins a file that a create has made or found, unless it was removed since.
async fn pin_created(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    ino: InodeId,
    session: SessionId,
    place: Option<OpenPlace>,
) -> Result<(), FsError> {
    loop {
        core.unlinking.wait(ino).await;
        let found = shard.query(&Op::Getattr { ino }).await;
        if core.unlinking.is_under_way(ino) {
            continue;
        }
        return match found {
            Ok(_) => pin(core, shard, ino, session, &found, place).await,
            Err(FsError::NotFound) => Err(FsError::Stale),
            Err(error) => Err(error),
        };
    }
}

/// Inodes of this shard whose attributes or data a result shows.
fn shown(op: &Op, result: &Result<Reply, FsError>) -> Vec<InodeId> {
    match result {
        Ok(Reply::Attr(attr)) => vec![attr.ino],
        Ok(Reply::Entry(entry)) => entry.attr.iter().map(|a| a.ino).collect(),
        Ok(Reply::Listing { entries, .. }) => entries.iter().filter_map(|e| e.attr.as_ref().map(|a| a.ino)).collect(),
        Ok(Reply::Offset(_) | Reply::Data { .. }) => match op {
            Op::Seek { ino, .. } | Op::Read { ino, .. } => vec![*ino],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The leases that a client wants with a result.
fn grants(op: &Op, result: &Result<Reply, FsError>) -> Vec<(InodeId, LeaseKind)> {
    let mut wanted = Vec::new();
    match (op, result) {
        (Op::Lookup { dir, .. }, Ok(Reply::Entry(entry))) => {
            wanted.push((*dir, LeaseKind::Shared));
            wanted.extend(entry.attr.iter().map(|a| (a.ino, LeaseKind::Shared)));
        }
        (Op::Lookup { dir, .. }, Err(FsError::NotFound)) => wanted.push((*dir, LeaseKind::Shared)),
        (Op::Readdir { dir, .. }, Ok(Reply::Listing { entries, .. })) => {
            wanted.push((*dir, LeaseKind::Shared));
            wanted.extend(entries.iter().filter_map(|e| e.attr.as_ref().map(|a| (a.ino, LeaseKind::Shared))));
        }
        (Op::Open { ino, mode: OpenMode::Write }, Ok(_)) => wanted.push((*ino, LeaseKind::Exclusive)),
        (
            Op::Open { ino, .. }
            | Op::Getattr { ino }
            | Op::Readlink { ino }
            | Op::GetXattr { ino, .. }
            | Op::ListXattr { ino },
            Ok(_) | Err(FsError::NoAttribute),
        ) => wanted.push((*ino, LeaseKind::Shared)),
        (Op::Create { .. }, Ok(Reply::Entry(entry))) => wanted.push((entry.ino, LeaseKind::Exclusive)),
        (Op::Mknod { .. } | Op::Symlink { .. }, Ok(Reply::Entry(entry))) => {
            wanted.push((entry.ino, LeaseKind::Shared));
        }
        _ => {}
    }
    wanted
}

/// A change of the namespace or of attributes.
async fn mutate(core: &Rc<Core>, shard: &Rc<Shard>, context: &RequestContext, op: Op, direct: bool) -> Served {
    let quiet = core.unlinking.quiet_at();
    let opens = matches!(op, Op::Create { .. });
    let place = opens.then(|| core.place(context.session)).transpose();
    let refusal = match &place {
        Ok(_) => admit(core, &op).await.err(),
        Err(error) => Some(*error),
    };
    let concluded = match refusal {
        Some(error) => conclude(core, shard, context, error).await,
        None => Ok(None),
    };
    let mut result = match concluded {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => try_mutate(core, shard, context, op.clone()).await,
        Err(error) => Err(error),
    };
    if let (true, Ok(Reply::Entry(entry))) = (opens, &result)
        && entry.ino.shard() == shard.id()
    {
        let place = place.ok().flatten();
        let pinned = if core.unlinking.was_quiet(quiet) {
            drop(place);
            core.opened(entry.ino, context.session)
        } else {
            pin_created(core, shard, entry.ino, context.session, place).await
        };
        result = pinned.and(result);
    }
    if let (Op::Create { .. }, Ok(Reply::Entry(entry))) = (&op, &mut result)
        && let Err(error) = show_whole(core, shard, context.session, entry).await
    {
        result = Err(error);
    }
    let wanted = grants(&op, &result);
    let mine = wanted.into_iter().filter(|(ino, _)| ino.shard() == shard.id());
    let leases = if direct { core.grant(context.session, &mine.collect::<Vec<_>>()) } else { Vec::new() };
    (result, leases, None)
}

async fn try_mutate(core: &Rc<Core>, shard: &Rc<Shard>, context: &RequestContext, op: Op) -> Result<Reply, FsError> {
    if Coordinator::handles(&op) {
        let request = TxRequest {
            session: context.session,
            number: context.number,
            oldest: context.oldest,
            identity: context.identity.clone(),
            op,
        };
        return coordinate(core, shard, request).await;
    }
    let mut command = command(context, body_of(shard, op).await?);
    let inodes = touched(shard, &command).await?;
    let _held = core.hold(inodes, context.session, Intent::Change).await?;
    let pinned = fill_pins(core, shard, &mut command).await?;
    let reply = execute_steps(core, shard, context, command).await?;
    release_unpinned(core, shard, pinned).await?;
    Ok(reply)
}

/// The body of an operation's command. An unlink names the inode that it is about, so that the
/// right leases are revoked and the right sessions asked; the name is missing, or it leads there.
async fn body_of(shard: &Rc<Shard>, op: Op) -> Result<CommandBody, FsError> {
    let mut asked = None;
    if let Op::Unlink { dir, name } = &op {
        match shard.query(&Op::Lookup { dir: *dir, name: name.clone() }).await {
            Ok(Reply::Entry(entry)) => asked = Some(entry.ino),
            Err(error @ FsError::NotFound) => return Ok(CommandBody::Conclude { error }),
            // The command says so.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(CommandBody::Op { op, asked, pinned_by: Vec::new() })
}

/// Refuses what makes metadata grow when only the reserve is left. What frees space always passes.
async fn admit(core: &Rc<Core>, op: &Op) -> Result<(), FsError> {
    let grows = matches!(
        op,
        Op::Create { .. }
            | Op::Mknod { .. }
            | Op::Mkdir { .. }
            | Op::Symlink { .. }
            | Op::Link { .. }
            | Op::SetXattr { .. }
    );
    if !grows {
        return Ok(());
    }
    let units = (core.memtable_bytes.get() as u64).div_ceil(u64::from(UNIT_BYTES)) + core.groups.len() as u64;
    reserve(core, Purpose::Metadata, || units).await.map(drop)
}

async fn read(core: &Rc<Core>, shard: &Rc<Shard>, context: &RequestContext, op: &Op, direct: bool) -> Served {
    let Op::Read { ino, .. } = *op else { return (Err(FsError::Invalid), Vec::new(), None) };
    core.grace().await;
    let here = ino.shard() == shard.id();
    let dirty = if here { core.leases.borrow().dirty_elsewhere(&[ino], context.session) } else { Vec::new() };
    let _held = match dirty.is_empty() {
        true => None,
        false => match core.hold(dirty, context.session, Intent::Read).await {
            Ok(held) => Some(held),
            Err(error) => return (Err(error), Vec::new(), None),
        },
    };
    // Before the bytes are read, which takes time: who changes them meanwhile has to tell this client. If it is
    // told before it hears of the lease, it knows that the answer is the older one.
    let wanted = [(ino, LeaseKind::Shared)];
    let leases = if direct && here { core.grant(context.session, &wanted) } else { Vec::new() };
    match file_data::read(core, shard, op).await {
        Ok(data) => {
            let len = u32::try_from(data.len()).expect("at most 2 MiB");
            (Ok(Reply::Data { len }), leases, Some(data).filter(|d| !d.is_empty()))
        }
        Err(error) => (Err(error), leases, None),
    }
}

async fn write(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    context: &RequestContext,
    asked: WriteRequest,
    len: u32,
    payload: Option<IoBuf>,
) -> Result<Reply, FsError> {
    let data = payload.unwrap_or_else(|| IoBuf::zeroed(0));
    if data.len() != len as usize {
        return Err(FsError::Malformed);
    }
    let _held = core.hold(vec![asked.ino], context.session, Intent::Change).await?;
    file_data::write(core, shard, context, asked, data).await
}

async fn fallocate(core: &Rc<Core>, shard: &Rc<Shard>, context: &RequestContext, op: &Op) -> Result<Reply, FsError> {
    let Op::Fallocate { ino, offset, len, mode, keep_size } = *op else { return Err(FsError::Invalid) };
    let _held = core.hold(vec![ino], context.session, Intent::Change).await?;
    if offset.checked_add(len).is_none_or(|end| end > FILE_BYTES_MAX) {
        return Err(FsError::FileTooLarge);
    }
    if mode == FallocateMode::Allocate || (mode == FallocateMode::ZeroRange && !keep_size) {
        match admit_allocation(core, shard, ino, len).await {
            Err(error @ FsError::NoSpace) => {
                if let Some(reply) = conclude(core, shard, context, error).await? {
                    return Ok(reply);
                }
            }
            admitted => admitted?,
        }
    }
    // The kernel does not say so with the request, as it does with a write: only root keeps them.
    let kill_privileges = context.identity.uid != 0;
    let body = DataCommand::Fallocate { ino, offset, len, mode, keep_size, kill_privileges };
    execute_steps(core, shard, context, command(context, CommandBody::Data(body))).await
}

/// Refuses to allocate what the store could never hold. What is allocated already is not counted again.
async fn admit_allocation(core: &Rc<Core>, shard: &Rc<Shard>, ino: InodeId, len: u64) -> Result<(), FsError> {
    // This core's part is known without asking: nearly every span fits into it.
    if len <= core.space.usage().total_units * u64::from(UNIT_BYTES) {
        return Ok(());
    }
    let Reply::Attr(attr) = shard.query(&Op::Getattr { ino }).await? else { return Err(FsError::Corrupt) };
    let Reply::Statfs(volume) = statfs(core).await? else { return Err(FsError::Corrupt) };
    let allocated = attr.blocks.saturating_mul(512);
    if len.saturating_sub(allocated) > volume.bytes { Err(FsError::NoSpace) } else { Ok(()) }
}

/// A root directory where there is none yet.
pub async fn make_root(shard: &Rc<Shard>, uid: u32, gid: u32) -> Result<(), FsError> {
    let root =
        shard.read(|view, context| cfs_namespace::query(view, context, &Op::Getattr { ino: InodeId::ROOT })).await?;
    if root.is_err() {
        let body = CommandBody::MakeRoot { mode: 0o755, uid, gid };
        shard.command(Command::internal(body)).await?;
    }
    Ok(())
}
