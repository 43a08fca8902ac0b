//! Frames byte for byte, and what hostile bytes can do: nothing.

use cfs_types::{FsError, InodeId, MapEpoch, Name, RequestNumber, SessionId, ShardId, Timestamp, VolumeId};
use cfs_wire::frame::{EXTENSION_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use cfs_wire::{
    Callback, DirEntry, FileKind, Flags, FrameError, FrameReader, Header, Hello, Identity, Lease, LeaseKind, Op,
    Opcode, Reply, Request, RequestContext, Response, encode,
};

fn request(op: Op) -> Request {
    let context = RequestContext {
        shard: ShardId::new(7),
        map_epoch: MapEpoch::new(3),
        session: SessionId::new(5),
        number: RequestNumber::new(300),
        oldest: RequestNumber::new(299),
        deadline_ms: 1000,
        timestamp: Timestamp::new(1 << 20),
        volume: VolumeId::new(0),
        identity: Identity { uid: 1000, gid: 100 },
        trace: None,
    };
    Request { context, op }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}
fn ino(raw: u64) -> InodeId {
    InodeId::from_raw(raw).expect("valid")
}

/// One frame of each kind, by the name of its golden file.
fn golden_frames() -> Vec<(&'static str, Vec<u8>)> {
    let hello = Hello {
        version: 1,
        nonce: [0xab; 32],
        session: SessionId::new(0),
        instance: 0x1122_3344_5566_7788,
        bulk: false,
    };
    let write =
        request(Op::Write { ino: ino(0x107), offset: 4096, len: 5, append: false, kill_privileges: true, held: None });
    let response = Response {
        timestamp: Timestamp::new(9 << 20),
        map_epoch: MapEpoch::new(3),
        leases: vec![Lease { ino: ino(0x107), kind: LeaseKind::Exclusive }],
        full_percent: 12,
        result: Ok(Reply::Data { len: 3 }),
    };
    let refused = Response { leases: vec![], result: Err(FsError::NotFound), ..response.clone() };
    let lookup = request(Op::Lookup { dir: InodeId::ROOT, name: name("file") });
    let revoke = Callback::Revoke { ino: ino(0x107), sequence: 2 };
    let frame = |encoded: Result<cfs_wire::Encoded, FrameError>, payload: &[u8]| {
        let mut bytes = encoded.expect("fits").head;
        bytes.extend_from_slice(payload);
        bytes
    };
    let read = Opcode::new(0x0201);
    vec![
        ("hello", frame(encode(Opcode::HELLO, Flags::NONE, 1, &hello, b""), b"")),
        ("lookup", frame(encode(lookup.op.opcode(), Flags::NONE, 2, &lookup, b""), b"")),
        ("lookup_refused", frame(encode(lookup.op.opcode(), Flags::RESPONSE, 2, &refused, b""), b"")),
        ("write", frame(encode(write.op.opcode(), Flags::NONE, 3, &write, b"bytes"), b"bytes")),
        ("data", frame(encode(read, Flags::RESPONSE, 4, &response, b"abc"), b"abc")),
        ("revoke", frame(encode(Opcode::CALLBACK, Flags::NONE, 1, &revoke, b""), b"")),
    ]
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn frames_are_the_golden_bytes() {
    for (name, bytes) in golden_frames() {
        let path = format!("{}/golden/{name}.hex", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("CFS_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, hex(&bytes)).expect("a writable source tree");
        }
        let golden = std::fs::read_to_string(&path).expect("a golden file");
        assert_eq!(hex(&bytes), golden, "{name}: a change of the format needs a new protocol version");
    }
}

/// Header, extension and payload.
type Frame = (Header, Vec<u8>, Vec<u8>);

/// All frames of a stream that is fed in pieces, and the first error.
fn read_all(bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut reader, mut frames, mut rest) = (FrameReader::new(), Vec::new(), bytes);
    loop {
        let head = match reader.poll_head() {
            Ok(Some(head)) => head,
            Ok(None) if rest.is_empty() => return (frames, None),
            Ok(None) => {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                reader.feed(now.to_vec());
                assert!(reader.held_bytes() <= HEADER_BYTES + EXTENSION_BYTES_MAX + piece);
                rest = later;
                continue;
            }
            Err(error) => return (frames, Some(error)),
        };
        assert!(head.header.payload_bytes() <= PAYLOAD_BYTES_MAX);
        let mut payload = vec![0; head.header.payload_bytes()];
        let ahead = reader.take_ahead(&mut payload);
        let missing = payload.len() - ahead;
        if missing > rest.len() {
            return (frames, None);
        }
        let (now, later) = rest.split_at(missing);
        payload[ahead..].copy_from_slice(now);
        rest = later;
        if let Err(error) = head.header.verify(&head.extension, &payload) {
            return (frames, Some(error));
        }
        frames.push((head.header, head.extension, payload));
    }
}

#[test]
fn a_stream_cut_anywhere_gives_the_same_frames() {
    let stream: Vec<u8> = golden_frames().into_iter().flat_map(|(_, bytes)| bytes).collect();
    let (whole, error) = read_all(&stream, stream.len());
    assert_eq!((whole.len(), error), (6, None));
    for piece in 1..100 {
        assert_eq!(read_all(&stream, piece), (whole.clone(), None));
    }
    let (header, extension, payload) = &whole[3];
    let write: Request = header.message(extension, payload).expect("decodes");
    assert!(matches!(write.op, Op::Write { len: 5, .. }));
    assert_eq!(payload, b"bytes");
}

#[test]
fn a_message_longer_than_the_extension_becomes_the_payload() {
    let entry = |i: u64| DirEntry {
        cookie: i,
        name: name(&format!("{i:0200}")),
        ino: ino(i + 1),
        kind: FileKind::File,
        attr: None,
    };
    let listing = Reply::Listing { parent: ino(1), entries: (0..1000).map(entry).collect(), end: false };
    let response = Response {
        timestamp: Timestamp::default(),
        map_epoch: MapEpoch::default(),
        leases: vec![],
        full_percent: 0,
        result: Ok(listing),
    };
    let opcode = Opcode::new(0x010d);
    let encoded = encode(opcode, Flags::RESPONSE, 1, &response, b"").expect("fits the payload");
    let mut bytes = encoded.head;
    bytes.extend_from_slice(&encoded.payload.expect("in the payload"));
    let (frames, _) = read_all(&bytes, 4096);
    let (header, extension, payload) = &frames[0];
    assert!(header.flags.has(Flags::MESSAGE_IN_PAYLOAD) && extension.is_empty());
    assert_eq!(header.message::<Response>(extension, payload), Ok(response.clone()));
    let both = encode(opcode, Flags::RESPONSE, 1, &response, b"bulk").err();
    assert!(matches!(both, Some(FrameError::TooLong(_))), "no room for bulk bytes as well");
    let huge = vec![0_u8; PAYLOAD_BYTES_MAX + 1];
    assert!(matches!(encode(opcode, Flags::NONE, 1, &(), &huge), Err(FrameError::TooLong(_))));
}

#[test]
fn an_opcode_of_the_future_is_told_apart_from_damage() {
    let encoded = encode(Opcode::new(0x01ff), Flags::NONE, 8, &(1_u8, 2_u8), b"").expect("fits");
    let (frames, error) = read_all(&encoded.head, 64);
    assert_eq!(error, None);
    assert_eq!(frames[0].0.opcode.get(), 0x01ff);
    assert!(!frames[0].0.opcode.is_operation());
    assert!(frames[0].0.message::<Request>(&frames[0].1, &[]).is_err());
}

#[test]
fn lengths_over_the_limit_and_unknown_flags_are_refused_by_the_header() {
    let header = Header {
        flags: Flags::NONE,
        opcode: Opcode::ECHO,
        extension_len: 0,
        request: 1,
        payload_len: u32::MAX,
        body_crc: 0,
    };
    assert_eq!(Header::decode(&header.encode()), Err(FrameError::TooLong(u32::MAX)));
    let header = Header { flags: Flags::COMPRESSED, payload_len: 0, ..header };
    assert_eq!(Header::decode(&header.encode()), Err(FrameError::Flags(4)));
    let header = Header { flags: Flags::MESSAGE_IN_PAYLOAD, extension_len: 1, ..header };
    assert_eq!(Header::decode(&header.encode()), Err(FrameError::Flags(16)));
}

#[test]
fn trailing_bytes_behind_a_message_are_refused() {
    let lookup = request(Op::Statfs);
    let mut extension = encode(lookup.op.opcode(), Flags::NONE, 1, &lookup, b"").expect("fits").head;
    let header = Header::decode(extension[..HEADER_BYTES].try_into().expect("long enough")).expect("valid");
    extension.drain(..HEADER_BYTES);
    assert_eq!(header.message::<Request>(&extension, &[]), Ok(lookup));
    extension.push(0);
    assert_eq!(header.message::<Request>(&extension, &[]), Err(FrameError::Message));
}

#[test]
fn an_inode_number_that_cannot_be_does_not_decode() {
    let getattr = request(Op::Getattr { ino: ino(5) });
    let encoded = encode(getattr.op.opcode(), Flags::NONE, 1, &getattr, b"").expect("fits").head;
    let header = Header::decode(encoded[..HEADER_BYTES].try_into().expect("long enough")).expect("valid");
    let mut extension = encoded[HEADER_BYTES..].to_vec();
    assert_eq!(header.message::<Request>(&extension, &[]), Ok(getattr));
    *extension.last_mut().expect("the number") = 0;
    assert_eq!(header.message::<Request>(&extension, &[]), Err(FrameError::Message));
}

#[test]
fn every_flipped_bit_of_a_frame_is_noticed() {
    for (name, bytes) in golden_frames() {
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (frames, error) = read_all(&damaged, 64);
            assert!(frames.is_empty() && error.is_some(), "{name}, bit {bit}");
        }
    }
}
