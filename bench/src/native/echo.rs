//! Echo of 64 bytes on many connections: of our RPC, or of a program that returns raw bytes.
//!
//! Both go through the same loop on the same streams, so that the client costs them the same: the
//! request is encoded once, the answer's length is read from its header, and nothing is decoded.

use super::client::{context, shake_hands};
use super::{Loaded, Target, closed_loops, on_last_cpu};
use crate::Failure;
use crate::latency::Latencies;
use crate::process::Cpu;
use cfs_rpc::Connection;
use cfs_seam::{Address, Instant, Stream, World};
use cfs_types::{RequestNumber, SessionId, ShardId};
use cfs_wire::{Flags, Op, Opcode, Request, Welcome, encode};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Bytes echoed.
const ECHO_BYTES: usize = 64;
/// Bytes of a page.
const PAGE_BYTES: usize = 4096;
/// Bytes of a frame's header.
const HEADER_BYTES: usize = 24;

/// Who echoes.
#[derive(Clone, Debug)]
pub enum Echo {
    /// A CoreFS server.
    Rpc(Target),
    /// A program that returns every byte.
    Raw(SocketAddr),
}

/// A connection that is ready to echo.
struct Line {
    stream: Rc<dyn Stream>,
    message: Vec<u8>,
    framed: bool,
    /// Keeps the stream open.
    _connection: Option<Rc<Connection>>,
}

impl Line {
    async fn exchange(&self) -> Result<(), Failure> {
        let sent = self.stream.send(self.message.clone(), None);
        let (mut received, mut wanted) = (0, if self.framed { None } else { Some(ECHO_BYTES) });
        let mut head = Vec::new();
        while wanted.is_none_or(|wanted| received < wanted) {
            let piece = self.stream.recv().await.map_err(|e| Failure::new("echo", e))?;
            received += piece.len();
            if wanted.is_none() {
                head.extend_from_slice(&piece);
                wanted = frame_bytes(&head);
            }
        }
        drop(sent);
        match wanted == Some(received) {
            true => Ok(()),
            false => Err(Failure("the echo has another length".into())),
        }
    }
}

/// Length of the frame that begins here, once its header is there.
fn frame_bytes(head: &[u8]) -> Option<usize> {
    let header = head.get(..HEADER_BYTES)?;
    let extension = usize::from(u16::from_le_bytes([header[6], header[7]]));
    let payload = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    Some(HEADER_BYTES + extension + usize::try_from(payload).ok()?)
}

/// Echoes on `connections` connections, one message in flight on each. `is_free`: as for `load`.
pub fn echo(wanted: Echo, connections: usize, time: Duration, server: u32, is_free: bool) -> Result<Loaded, Failure> {
    on_last_cpu(is_free, move |world| async move { load(&world, &wanted, connections, time, Some(server)).await })
}

pub(super) async fn load(
    world: &World,
    wanted: &Echo,
    connections: usize,
    time: Duration,
    server: Option<u32>,
) -> Result<Loaded, Failure> {
    let mut lines = Vec::new();
    let mut session = SessionId::new(0);
    for _ in 0..connections {
        let line = match wanted {
            Echo::Raw(address) => {
                let stream = connect(world, *address).await?;
                Line { stream, message: vec![0x5a; ECHO_BYTES], framed: false, _connection: None }
            }
            Echo::Rpc(target) => {
                let stream = connect(world, target.address).await?;
                let connection = Connection::new(world, stream.clone());
                let welcome = shake_hands(world, &connection, target, session).await?;
                session = welcome.session;
                Line { stream, message: request(&welcome)?, framed: true, _connection: Some(connection) }
            }
        };
        line.exchange().await?;
        lines.push(Rc::new(line));
    }
    let one = move |task: usize, _| {
        let line = lines[task].clone();
        async move { line.exchange().await }
    };
    closed_loops(world, connections, time, server, one).await
}

/// Pages of 4 KiB that a program returns as they are: one connection, `depth` of them on their way.
pub fn pages(address: SocketAddr, depth: usize, time: Duration, server: u32, is_free: bool) -> Result<Loaded, Failure> {
    on_last_cpu(is_free, move |world| async move {
        let stream = connect(&world, address).await?;
        let page = vec![0x5a; PAGE_BYTES];
        let (before, start) = (Cpu::of(server), world.clock.now());
        let end = start.after(time);
        let mut seen = Latencies::default();
        let mut sent: VecDeque<Instant> = VecDeque::new();
        for _ in 0..depth {
            sent.push_back(world.clock.now());
            drop(stream.send(page.clone(), None));
        }
        let mut received = 0;
        while !sent.is_empty() {
            received += stream.recv().await.map_err(|e| Failure::new("echo", e))?.len();
            while received >= PAGE_BYTES {
                received -= PAGE_BYTES;
                let now = world.clock.now();
                let begun = sent.pop_front().ok_or_else(|| Failure("more comes back than was sent".into()))?;
                seen.record(now.since(begun));
                if now < end {
                    sent.push_back(now);
                    drop(stream.send(page.clone(), None));
                }
            }
        }
        let summary = seen.summary(world.clock.now().since(start));
        Ok(Loaded { summary, server: Cpu::of(server).since(before) })
    })
}

async fn connect(world: &World, address: SocketAddr) -> Result<Rc<dyn Stream>, Failure> {
    let stream = world.net.connect(&Address::Tcp(address)).await;
    stream.map_err(|e| Failure::new(format!("connecting to {address}"), e))
}

/// An echo request to core 0, as bytes.
fn request(welcome: &Welcome) -> Result<Vec<u8>, Failure> {
    let shard = ShardId::all().find(|s| welcome.shard_core[usize::from(s.get())] == 0).unwrap_or_default();
    let none = RequestNumber::default();
    let request = Request { context: context(welcome, shard, none, none), op: Op::Echo };
    let payload = [0x5a; ECHO_BYTES];
    let encoded = encode(Opcode::ECHO, Flags::NONE, 1, &request, &payload);
    let mut bytes = encoded.map_err(|e| Failure::new("encoding", e))?.head;
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frames_length_is_read_from_its_header() {
        let encoded = encode(Opcode::ECHO, Flags::NONE, 1, &(), &[0; 64]).expect("fits");
        assert_eq!(frame_bytes(&encoded.head), Some(encoded.head.len() + 64));
        assert_eq!(frame_bytes(&encoded.head[..23]), None);
    }
}
