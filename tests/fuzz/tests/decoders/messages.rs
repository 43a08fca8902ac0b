//! docs/formats/types.md: the messages of the wire, postcard.

use crate::frames;
use cfs_fuzz::{Target, unhex};
use cfs_types::FsError;
use cfs_wire::{
    Callback, CallbackReply, DirEntry, Flags, Header, Hello, HelloReply, Op, Opcode, Proof, Reply, Request, Response,
    encode,
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// The examples that the page has of a type.
pub fn examples(of: &str) -> Vec<Vec<u8>> {
    let page = include_str!("../../../../docs/formats/types.md");
    let prefix = format!("| {of} | `");
    let found: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix(&prefix)?.strip_suffix("` |")).map(unhex).collect();
    assert!(!found.is_empty(), "the page has examples of {of}");
    found
}

const HEADER: Header =
    Header { flags: Flags::NONE, opcode: Opcode::ECHO, extension_len: 0, request: 1, payload_len: 0, body_crc: 0 };

fn message<M: Serialize + DeserializeOwned + PartialEq + Debug>(name: &'static str, more: Vec<Vec<u8>>) {
    let encoded = |message: &M| encode(Opcode::ECHO, Flags::NONE, 1, message, b"").expect("fits");
    Target::new(name, &["shards/wire/src/message.rs"], [examples(name), more].concat())
        .may_hold(HELD_PER_BYTE, 1024)
        .round_trips(
            |bytes| HEADER.message::<M>(bytes, &[]).ok(),
            |message| encoded(message).head[cfs_wire::frame::HEADER_BYTES..].to_vec(),
        );
}

/// The length of a sequence is believed as far as bytes are left: so many elements of the largest kind.
const HELD_PER_BYTE: u64 = size_of::<DirEntry>() as u64 + 8;

/// The message of each golden frame of which it is one.
fn golden<M: DeserializeOwned>() -> Vec<Vec<u8>> {
    let bodies = frames::golden().into_iter().map(|frame| {
        let extension = usize::from(u16::from_le_bytes([frame[6], frame[7]]));
        frame[24..24 + extension].to_vec()
    });
    bodies.filter(|body| HEADER.message::<M>(body, &[]).is_ok()).collect()
}

#[test]
fn hellos() {
    message::<Hello>("Hello", golden::<Hello>());
    message::<HelloReply>("HelloReply", Vec::new());
    message::<Proof>("Proof", Vec::new());
}

#[test]
fn requests() {
    message::<Request>("Request", golden::<Request>());
    message::<Op>("Op", Vec::new());
}

#[test]
fn responses() {
    message::<Response>("Response", golden::<Response>());
    message::<Reply>("Reply", Vec::new());
    message::<FsError>("FsError", Vec::new());
}

#[test]
fn callbacks() {
    message::<Callback>("Callback", golden::<Callback>());
    message::<CallbackReply>("CallbackReply", Vec::new());
}
