//! Hello, challenge, proof, welcome.
//!
//! The server proves itself first; both proofs cover fresh random bytes of both sides
//! (`cfs_wire::auth`). A client on a Unix socket may instead be admitted by its user id.

use crate::{Connection, Frame, RpcError};
use cfs_seam::{Clock, Rng, timeout};
use cfs_types::FsError;
use cfs_wire::frame::PROTOCOL_VERSION;
use cfs_wire::{Flags, Hello, HelloReply, Opcode, Proof, Secret, Welcome};
use std::rc::Rc;
use std::time::Duration;

/// A peer that has not finished its handshake after this time is dropped.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Who may come in.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The cluster's secret.
    pub secret: Secret,
    /// A peer on a Unix socket with this user id or root's is admitted without the secret.
    pub unix_uid: Option<u32>,
}

/// A server's side up to the proven `Hello`; then [`answer_hello`]. A client that cannot prove
/// itself is told `Unauthorised`, and the connection is closed.
pub async fn accept_handshake(
    connection: &Connection,
    clock: &Rc<dyn Clock>,
    rng: &dyn Rng,
    admission: &Admission,
) -> Result<(Hello, Frame), RpcError> {
    let end = clock.now().after(HANDSHAKE_TIME_MAX);
    let result = match timeout(clock, end, accept(connection, rng, admission)).await {
        Some(result) => result,
        None => Err(RpcError::Stalled),
    };
    if result.is_err() {
        connection.close();
    }
    result
}

async fn accept(connection: &Connection, rng: &dyn Rng, admission: &Admission) -> Result<(Hello, Frame), RpcError> {
    let frame = expect(connection.recv().await?, Opcode::HELLO, Flags::NONE)?;
    let hello: Hello = frame.message()?;
    let nonce = random_bytes(rng);
    let challenge = HelloReply::Challenge {
        version: PROTOCOL_VERSION,
        nonce,
        proof: admission.secret.server_proof(&hello.nonce, &nonce),
    };
    connection.respond(&frame.header, &challenge, None).await?;
    if hello.version != PROTOCOL_VERSION {
        connection.drained().await;
        return Err(RpcError::Version(hello.version));
    }
    let frame = expect(connection.recv().await?, Opcode::PROOF, Flags::NONE)?;
    let Proof { proof } = frame.message()?;
    let by_uid = match (connection.peer().uid, admission.unix_uid) {
        (Some(peer), Some(own)) => peer == own || peer == 0,
        _ => false,
    };
    if !by_uid && !admission.secret.verify_client(&hello.nonce, &nonce, &proof) {
        let refusal = HelloReply::Refused(FsError::Unauthorised);
        connection.respond(&frame.header, &refusal, None).await?;
        connection.drained().await;
        return Err(RpcError::NotProven);
    }
    Ok((hello, frame))
}

/// Ends the server's side: `proven` is the frame that [`accept_handshake`] gave. After a welcome
/// the connection carries requests; after a refusal it is closed.
pub async fn answer_hello(
    connection: &Connection,
    proven: &Frame,
    answer: Result<Welcome, FsError>,
) -> Result<(), RpcError> {
    match answer {
        Ok(welcome) => {
            connection.admit_payloads();
            connection.respond(&proven.header, &HelloReply::Welcome(welcome), None).await
        }
        Err(error) => {
            connection.respond(&proven.header, &HelloReply::Refused(error), None).await?;
            connection.drained().await;
            connection.close();
            Err(RpcError::Refused(error))
        }
    }
}

/// A client's whole side. Without a secret only a Unix socket is trusted; `hello.nonce` is
/// filled in here.
pub async fn connect_handshake(
    connection: &Connection,
    clock: &Rc<dyn Clock>,
    rng: &dyn Rng,
    secret: Option<&Secret>,
    hello: Hello,
) -> Result<Welcome, RpcError> {
    let end = clock.now().after(HANDSHAKE_TIME_MAX);
    let result = match timeout(clock, end, connect(connection, rng, secret, hello)).await {
        Some(result) => result,
        None => Err(RpcError::Stalled),
    };
    if result.is_err() {
        connection.close();
    }
    result
}

async fn connect(
    connection: &Connection,
    rng: &dyn Rng,
    secret: Option<&Secret>,
    mut hello: Hello,
) -> Result<Welcome, RpcError> {
    if secret.is_none() && connection.peer().uid.is_none() {
        return Err(RpcError::NotProven);
    }
    hello.nonce = random_bytes(rng);
    let request = connection.next_request();
    connection.send(Opcode::HELLO, Flags::NONE, request, &hello, None).await?;
    let (theirs, proof) = match reply(connection, Opcode::HELLO, request).await? {
        HelloReply::Challenge { version, .. } if version != PROTOCOL_VERSION => return Err(RpcError::Version(version)),
        HelloReply::Challenge { nonce, proof, .. } => (nonce, proof),
        HelloReply::Refused(error) => return Err(RpcError::Refused(error)),
        HelloReply::Welcome(_) => return Err(RpcError::Protocol),
    };
    let proof = match secret {
        Some(secret) if !secret.verify_server(&hello.nonce, &theirs, &proof) => {
            return Err(RpcError::NotProven);
        }
        Some(secret) => secret.client_proof(&hello.nonce, &theirs),
        None => [0; 32],
    };
    let request = connection.next_request();
    connection.send(Opcode::PROOF, Flags::NONE, request, &Proof { proof }, None).await?;
    match reply(connection, Opcode::PROOF, request).await? {
        HelloReply::Welcome(welcome) => {
            connection.admit_payloads();
            Ok(welcome)
        }
        HelloReply::Refused(error) => Err(RpcError::Refused(error)),
        HelloReply::Challenge { .. } => Err(RpcError::Protocol),
    }
}

async fn reply(connection: &Connection, opcode: Opcode, request: u32) -> Result<HelloReply, RpcError> {
    let frame = expect(connection.recv().await?, opcode, Flags::RESPONSE)?;
    if frame.header.request != request {
        return Err(RpcError::Protocol);
    }
    Ok(frame.message()?)
}

fn expect(frame: Frame, opcode: Opcode, flags: Flags) -> Result<Frame, RpcError> {
    let right = frame.header.opcode == opcode && frame.header.flags == flags;
    if right { Ok(frame) } else { Err(RpcError::Protocol) }
}

fn random_bytes(rng: &dyn Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    for eight in bytes.chunks_exact_mut(8) {
        eight.copy_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes
}
