//! One client connection: handshake, then requests in any order, each in its own task.
//!
//! Invariants: requests served at once on a connection are bounded, and so is the memory of their payloads,
//! long messages and answers, which all connections of a core share; a short message without a payload never
//! waits for that.
//! What is held for a request is held until its answer has left. What does not decode gets an error or
//! ends this connection and no other.

use crate::core::Core;
use crate::messages::{CoreReply, CoreRequest};
use cfs_exec::Semaphore;
use cfs_namespace::{XATTR_LIST_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use cfs_rpc::{Allowance, Connection, Frame, Held, Room, accept_handshake, answer_hello};
use cfs_seam::{Class, IoBuf, Listener, spawn};
use cfs_types::{CoreId, FsError, SessionId};
use cfs_wire::frame::PAYLOAD_BYTES_MAX;
use cfs_wire::{CallbackReply, Flags, Header, Hello, Op, Opcode, Request, Response, Welcome};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

/// Requests of one connection served at once; further ones stay in the socket.
const REQUESTS_AT_ONCE: u64 = 512;
/// Requests that are begun before the core sends to devices and clients what came of them.
const REQUESTS_A_TURN: u64 = 8;

/// Accepts until the core stops.
pub async fn accept(core: Rc<Core>, listener: Rc<dyn Listener>) {
    loop {
        let Ok(stream) = listener.accept().await else {
            cfs_seam::sleep(&core.world.clock, std::time::Duration::from_millis(10)).await;
            continue;
        };
        let core = core.clone();
        let world = core.world.clone();
        let task = async move {
            let connection = Connection::new(&core.world, stream);
            let Some(number) = core.doors.enter(&connection) else { return };
            serve(&core, connection, number).await;
            core.doors.leave(number);
        };
        spawn(&world.tasks, Class::Foreground, task).detach();
    }
}

async fn serve(core: &Rc<Core>, connection: Rc<Connection>, number: u64) {
    let shaken = accept_handshake(&connection, &core.world.clock, &*core.world.rng, &core.config.admission).await;
    core.doors.shaken(number);
    let Ok((hello, proven)) = shaken else {
        core.metrics.refused.bump();
        return;
    };
    let place = core.doors.place(hello.bulk);
    let welcome = match place {
        Some(_) => admit(core, &hello).await,
        None => Err(FsError::Busy),
    };
    connection.bound_payloads(Allowance::new(&core.request_room));
    let session = welcome.as_ref().map(|w| w.session).map_err(|e| *e);
    if answer_hello(&connection, &proven, welcome).await.is_err() {
        return;
    }
    let Ok(session) = session else { return };
    let number = match hello.bulk {
        true => core.links.add_bulk(session, hello.instance, connection.clone()),
        false => core.attach(session, hello.instance, connection.clone()),
    };
    receive(core, &connection, session).await;
    connection.close();
    core.detach(session, number);
}

/// Opens or resumes the session that a client asks for.
async fn admit(core: &Rc<Core>, hello: &Hello) -> Result<Welcome, FsError> {
    let wanted = (hello.session.get() != 0).then_some(hello.session);
    let reply = core.peers.call(CoreId::new(0), CoreRequest::OpenSession(wanted)).await;
    let session = match reply {
        CoreReply::Session(session) => session?,
        _ => return Err(FsError::Malformed),
    };
    Ok(Welcome {
        session,
        cluster: core.config.cluster,
        map_epoch: core.config.map_epoch,
        shard_core: core.config.shard_core(),
        cores: core.config.advertised.clone(),
        lease_ms: u32::try_from(core.config.lease_term.as_millis()).unwrap_or(u32::MAX),
        incarnation: core.config.incarnation,
    })
}

async fn receive(core: &Rc<Core>, connection: &Rc<Connection>, session: SessionId) {
    let requests = Semaphore::new(REQUESTS_AT_ONCE);
    let answers = Rc::new(Allowance::new(&core.answer_room));
    for count in 1_u64.. {
        // What was begun gets to the device while more is begun.
        if count.is_multiple_of(REQUESTS_A_TURN) {
            core.world.tasks.yield_now().await;
        }
        let Ok(mut frame) = connection.recv().await else { return };
        let header = frame.header;
        if header.opcode == Opcode::CALLBACK && header.flags.has(Flags::RESPONSE) {
            if let Ok(reply) = frame.message::<CallbackReply>() {
                core.lease_answered(session, reply);
            }
            continue;
        }
        let mut held = Held { request: frame.room.take(), ..Held::default() };
        held.place = Some(requests.acquire(1).await);
        let (core, connection, answers) = (core.clone(), connection.clone(), answers.clone());
        let world = core.world.clone();
        let mut task = Box::pin(async move {
            let leaving = header.opcode == Op::CloseSession.opcode();
            if leaving {
                core.links.detach(session, &connection);
            }
            let (response, payload, room) = answer(&core, &answers, session, frame).await;
            held.answer = room;
            if !header.flags.has(Flags::ONE_WAY) {
                let _closed = connection.respond_holding(&header, &response, payload, held).await;
            }
            if leaving {
                connection.drained().await;
                connection.close();
            }
        });
        // What needs not wait is answered here; what does goes on beside the next request.
        let begun = poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx))).await;
        if begun.is_pending() {
            world.tasks.spawn_boxed(Class::Foreground, task).detach();
        }
    }
}

async fn answer(
    core: &Rc<Core>,
    answers: &Allowance,
    session: SessionId,
    frame: Frame,
) -> (Response, Option<IoBuf>, Option<Room>) {
    let started = core.world.clock.now();
    let header: Header = frame.header;
    let refused = |error| (core.response(Err(error)), None, None);
    if frame.refused {
        return refused(FsError::Busy);
    }
    if !header.opcode.is_operation() {
        return refused(FsError::UnknownOperation);
    }
    let Ok(request) = frame.message::<Request>() else {
        return refused(FsError::Malformed);
    };
    if request.op.opcode() != header.opcode || request.context.session != session {
        return refused(FsError::Malformed);
    }
    let mut room = None;
    let bytes = answer_bytes(&request.op);
    if bytes > 0 {
        room = answers.take(bytes, &core.world.clock, core.patience(&request.context)).await;
        if room.is_none() {
            return refused(FsError::Busy);
        }
    }
    let payload = frame.into_bulk();
    let (response, payload) = core.serve_or_forward(request, payload).await;
    core.metrics.request(header.opcode, core.world.clock.now().since(started));
    (response, payload, room)
}

/// Most bytes that come back, where they are more than a few names; an echo has the room of its request.
fn answer_bytes(op: &Op) -> u64 {
    match op {
        Op::Read { len: bytes, .. } | Op::Readdir { bytes_max: bytes, .. } => {
            u64::from(*bytes).min(PAYLOAD_BYTES_MAX as u64)
        }
        Op::GetXattr { .. } => XATTR_VALUE_BYTES_MAX as u64,
        Op::ListXattr { .. } => XATTR_LIST_BYTES_MAX as u64,
        _ => 0,
    }
}
