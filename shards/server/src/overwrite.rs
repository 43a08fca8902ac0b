//! Overwrites in ranges of other shards: the inode's core asks its shard where a write goes, the range's
//! core commits it, the inode's shard commits its time.
//!
//! Invariants: all attempts of one request take turns, so that one which goes through the inode's shard
//! knows for certain whether an earlier one was executed in the range; nobody takes a file from its
//! writer while an overwrite is between its question and its commit.

use crate::admission::admit_inline;
use crate::core::Core;
use crate::file_data::{
    WriteRequest, execute_write, free_chunk, inline, inline_max, read_chunk, settle, store_chunk, write_command,
};
use crate::log_room::Asker;
use crate::messages::{CoreReply, CoreRequest};
use crate::replica::Executed;
use crate::shard::Shard;
use crate::steps::conclude;
use bytes::Bytes;
use cfs_exec::Event;
use cfs_namespace::data::{self, ChunkSlice, DataCommand, Layout, Route, Span, Verdict, WriteData, range_shard};
use cfs_seam::IoBuf;
use cfs_segment::{Lifetime, Purpose};
use cfs_types::{CHUNK_BYTES_MAX, FsError, InodeId, RequestNumber, SessionId, ShardId};
use cfs_wire::{Reply, RequestContext};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// An overwrite for the core of its range.
pub struct Overwrite {
    /// The range's shard.
    shard: ShardId,
    /// Who asks.
    context: RequestContext,
    /// The file.
    ino: InodeId,
    /// From the beginning of the file.
    offset: u64,
    /// The file's epoch and the sequence of the last message to the range; None: it is not to be executed,
    /// the question is whether it was.
    known: Option<(u64, u64)>,
}

/// What became of it.
pub enum Overwrote {
    /// It is committed in the range.
    Done,
    /// It is not, and will not be by this attempt; the bytes come back.
    Refused(IoBuf),
}

/// What became of a write that might have been an overwrite.
pub enum Attempt {
    /// It was one.
    Done(Reply),
    /// It goes through the inode's shard, while the turn lasts.
    Left(IoBuf, Option<Turn>),
}

#[derive(Clone, Copy, Default)]
struct Users {
    overwrites: u32,
    takers: u32,
}

#[derive(Default)]
struct Inner {
    requests: RefCell<BTreeSet<(SessionId, RequestNumber)>>,
    files: RefCell<BTreeMap<InodeId, Users>>,
    moved: Event,
}

/// What is under way at the core of the inodes.
#[derive(Clone, Default)]
pub struct Overwrites(Rc<Inner>);

/// The right to carry out a request.
pub struct Turn {
    all: Overwrites,
    request: (SessionId, RequestNumber),
}

/// The right to overwrite a file, or to take it from its writer.
pub struct Use {
    all: Overwrites,
    ino: InodeId,
    takes: bool,
}

impl Overwrites {
    /// Waits until no other attempt of the request is under way.
    async fn turn(&self, session: SessionId, number: RequestNumber) -> Turn {
        while !self.0.requests.borrow_mut().insert((session, number)) {
            self.0.moved.wait().await;
        }
        Turn { all: self.clone(), request: (session, number) }
    }

    /// Waits until nobody takes the file.
    async fn begin(&self, ino: InodeId) -> Use {
        while self.0.files.borrow().get(&ino).is_some_and(|users| users.takers > 0) {
            self.0.moved.wait().await;
        }
        self.enter(ino, false)
    }

    /// Waits until nobody overwrites the file; nobody begins to while the result lives.
    pub async fn take(&self, ino: InodeId) -> Use {
        let taker = self.enter(ino, true);
        while self.0.files.borrow().get(&ino).is_some_and(|users| users.overwrites > 0) {
            self.0.moved.wait().await;
        }
        taker
    }

    /// Waits until nothing that the session has asked for is under way.
    pub async fn drained(&self, session: SessionId) {
        let first = (session, RequestNumber::new(0));
        while self.0.requests.borrow().range(first..).next().is_some_and(|(of, _)| *of == session) {
            self.0.moved.wait().await;
        }
    }

    fn enter(&self, ino: InodeId, takes: bool) -> Use {
        let mut files = self.0.files.borrow_mut();
        let users = files.entry(ino).or_default();
        *if takes { &mut users.takers } else { &mut users.overwrites } += 1;
        Use { all: self.clone(), ino, takes }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.all.0.requests.borrow_mut().remove(&self.request);
        self.all.0.moved.notify_all();
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut files = self.all.0.files.borrow_mut();
        if let Some(users) = files.get_mut(&self.ino) {
            *if self.takes { &mut users.takers } else { &mut users.overwrites } -= 1;
            if users.takers + users.overwrites == 0 {
                files.remove(&self.ino);
            }
        }
        drop(files);
        self.all.0.moved.notify_all();
    }
}

/// Tries to carry a write out as an overwrite. The caller has revoked what others hold of the file.
pub async fn attempt(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    context: &RequestContext,
    request: WriteRequest,
    data: IoBuf,
) -> Result<Attempt, FsError> {
    let layout = Layout::default();
    let WriteRequest { ino, offset, kill_privileges, .. } = request;
    let span = Span { ino, offset, len: data.len() as u64 };
    let fits = !request.append && context.number.get() > 0 && data.len() <= CHUNK_BYTES_MAX as usize;
    let Some(range) = span.elsewhere(layout).filter(|_| fits) else { return Ok(Attempt::Left(data, None)) };
    let turn = core.overwrites.turn(context.session, context.number).await;
    let using = core.overwrites.begin(ino).await;
    if core.fence.is_over(context.session) {
        return Err(FsError::SessionExpired);
    }
    let (asked, at) = ((context.session, context.number), request.place(offset));
    let route = shard.read(|view, ctx| settle(data::route(view, ctx, asked, at, (span, kill_privileges)))).await??;
    let known = match route {
        Route::Known => return Ok(Attempt::Left(data, Some(turn))),
        Route::Inode => None,
        Route::Range { epoch, sequence } => Some((epoch, sequence)),
    };
    let to = range_shard(ino, range);
    let overwrite = Overwrite { shard: to, context: context.clone(), ino, offset, known };
    let owner = core.config.owner(to.into());
    let done = match core.peers.call(owner, CoreRequest::Overwrite(Box::new(overwrite), data)).await {
        CoreReply::Overwrote(Err(error @ FsError::NoSpace)) => {
            let reply = conclude(core, shard, context, error).await?;
            return reply.map(Attempt::Done).ok_or(error);
        }
        CoreReply::Overwrote(done) => done.map_err(same_number)?,
        _ => return Err(FsError::WrongShard),
    };
    drop(using);
    if let Overwrote::Refused(data) = done {
        return Ok(Attempt::Left(data, Some(turn)));
    }
    let modified = write_command(context, DataCommand::Modified { ino, at, kill_privileges });
    let reply = execute_write(core, shard, modified, Bytes::new(), Vec::new()).await;
    reply.map(Attempt::Done).map_err(same_number)
}

/// The client asks again under the same number: it may have been executed.
fn same_number(error: FsError) -> FsError {
    if error == FsError::Conflict { FsError::Busy } else { error }
}

/// Commits an overwrite in a range of this core, unless the range does not take it.
pub async fn overwrite_here(core: &Rc<Core>, asked: Overwrite, data: IoBuf) -> Result<Overwrote, FsError> {
    let shard = core.shard(asked.shard)?.clone();
    let span = Span { ino: asked.ino, offset: asked.offset, len: data.len() as u64 };
    let request = (asked.context.session, asked.context.number);
    let verdict = |view: &dyn cfs_namespace::View, layout| data::verdict(view, layout, request, span, asked.known);
    match (shard.read(|view, ctx| settle(verdict(view, ctx.layout))).await??, asked.known) {
        (Verdict::Done, _) => Ok(Overwrote::Done),
        (Verdict::Ready, Some(known)) => {
            let _place = core.log_place(Asker::FollowUp, data.len()).await;
            if data.len() <= inline_max(core) {
                overwrite_inline(core, &shard, (&asked, known), data).await
            } else {
                overwrite_chunk(core, &shard, (&asked, known), data).await
            }
        }
        (Verdict::Refused | Verdict::Ready, _) => Ok(Overwrote::Refused(data)),
    }
}

fn command((asked, (epoch, sequence)): (&Overwrite, (u64, u64)), data: WriteData) -> cfs_namespace::Command {
    let Overwrite { ino, offset, .. } = *asked;
    write_command(&asked.context, DataCommand::Overwrite { ino, offset, epoch, sequence, data })
}

/// Whether the range took it.
fn is_done(executed: Executed) -> Result<bool, FsError> {
    match executed.result {
        Ok(_) => Ok(true),
        Err(FsError::Conflict) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn overwrite_inline(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    asked: (&Overwrite, (u64, u64)),
    data: IoBuf,
) -> Result<Overwrote, FsError> {
    let _admitted = admit_inline(core, data.len()).await?;
    let command = command(asked, inline(&data));
    let bytes = Bytes::from_owner(data);
    let executed = shard.execute(command, bytes.clone(), Vec::new()).await?;
    if !is_done(executed)? {
        return Ok(Overwrote::Refused(IoBuf::copy_of(&bytes)));
    }
    core.metrics.overwrites.bump();
    Ok(Overwrote::Done)
}

async fn overwrite_chunk(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    asked: (&Overwrite, (u64, u64)),
    data: IoBuf,
) -> Result<Overwrote, FsError> {
    let len = u32::try_from(data.len()).expect("at most 2 MiB");
    let (id, locals) = store_chunk(core, shard, Purpose::Data, Lifetime::Hot, data).await?;
    let slices = vec![ChunkSlice { id, chunk_len: len, offset: 0, len }];
    let executed = shard.execute(command(asked, WriteData::Chunks(slices)), Bytes::new(), locals).await;
    let done = match executed.and_then(is_done) {
        Ok(true) => {
            core.metrics.overwrites.bump();
            Ok(Overwrote::Done)
        }
        Ok(false) => match read_chunk(core, shard, id, 0, len).await {
            Ok(Some(data)) => Ok(Overwrote::Refused(data)),
            Ok(None) => Err(FsError::Busy),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    // A group that failed may still have made the command durable.
    if !done.as_ref().is_err_and(|error| error.is_failure()) {
        let _failed = free_chunk(core, shard, id).await;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_seam::{Class, World, spawn};
    use std::cell::Cell;
    use std::future::Future;
    use std::time::Duration;

    const A: SessionId = SessionId::new(1);
    const B: SessionId = SessionId::new(2);

    fn ino() -> InodeId {
        InodeId::from_raw(77).expect("valid")
    }

    /// Begins to wait for something; tells whether it has come.
    fn waiting<T>(world: &World, wait: impl Future<Output = T> + 'static) -> Rc<Cell<bool>> {
        let come = Rc::new(Cell::new(false));
        let comes = come.clone();
        let task = async move {
            let _come = wait.await;
            comes.set(true);
        };
        spawn(&world.tasks, Class::Foreground, task).detach();
        come
    }

    async fn moment(world: &World) {
        cfs_seam::sleep(&world.clock, Duration::from_millis(1)).await;
    }

    #[test]
    fn a_file_is_taken_between_its_overwrites_and_not_during_one() {
        cfs_sim::run(1, |world| async move {
            let all = Overwrites::default();
            let overwrite = all.begin(ino()).await;
            let second = all.begin(ino()).await;
            let (taker, keep) = (all.clone(), Rc::new(RefCell::new(None)));
            let kept = keep.clone();
            let taken = waiting(&world, async move { *kept.borrow_mut() = Some(taker.take(ino()).await) });
            moment(&world).await;
            drop(overwrite);
            moment(&world).await;
            let later = all.clone();
            let next = waiting(&world, async move { later.begin(ino()).await });
            moment(&world).await;
            assert!(!taken.get() && !next.get(), "one is under way, the next comes after the taker");
            drop(second);
            moment(&world).await;
            assert!(taken.get() && !next.get());
            keep.take();
            moment(&world).await;
            assert!(next.get());
            assert!(all.0.files.borrow().is_empty());
        });
    }

    #[test]
    fn attempts_of_one_request_take_turns_and_a_session_ends_after_them() {
        cfs_sim::run(1, |world| async move {
            let all = Overwrites::default();
            let number = RequestNumber::new(5);
            let first = all.turn(A, number).await;
            let _other = all.turn(B, number).await;
            let (again, ends) = (all.clone(), all.clone());
            let second = waiting(&world, async move { again.turn(A, number).await });
            moment(&world).await;
            let drained = waiting(&world, async move { ends.drained(A).await });
            moment(&world).await;
            assert!(!second.get() && !drained.get());
            drop(first);
            moment(&world).await;
            assert!(second.get() && drained.get());
        });
    }
}
