//! The frame: a 24-byte header, an extension, a payload.
//!
//! The extension is one postcard message. Where that would be longer than 65,535 bytes (a long
//! listing, a large attribute) the frame has the flag `MESSAGE_IN_PAYLOAD`, an empty extension
//! and the message as its payload; such a message has no bulk bytes.
//!
//! Invariants: the header's checksum is verified before a length is believed; nothing longer than
//! the limits is read or allocated; the body's checksum is verified before the body is decoded.

use crate::opcode::Opcode;
use crc_fast::{CrcAlgorithm, Digest};
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 24;
/// First two bytes of a frame, little-endian.
pub const MAGIC: u16 = 0xc0f5;
/// Version of the frame's layout.
pub const FRAME_VERSION: u8 = 1;
/// Version of the messages: both sides of a handshake must have the same.
pub const PROTOCOL_VERSION: u16 = 2;
/// Longest extension: what its length field holds.
pub const EXTENSION_BYTES_MAX: usize = 65_535;
/// Longest payload: a chunk of file data, or a message that did not fit the extension.
pub const PAYLOAD_BYTES_MAX: usize = (2 << 20) + (64 << 10);

/// Bits of the flags byte. Unknown bits are refused: they may change how the body is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(u8);

impl Flags {
    /// A request that wants an answer.
    pub const NONE: Flags = Flags(0);
    /// Answers the request of the same number that went the other way.
    pub const RESPONSE: Flags = Flags(1);
    /// A request that wants no answer.
    pub const ONE_WAY: Flags = Flags(2);
    /// The payload is compressed. Reserved: version 1 refuses it.
    pub const COMPRESSED: Flags = Flags(4);
    /// The body is encrypted. Reserved: version 1 refuses it.
    pub const ENCRYPTED: Flags = Flags(8);
    /// The message is the payload; the extension is empty.
    pub const MESSAGE_IN_PAYLOAD: Flags = Flags(16);
    const SUPPORTED: u8 = 1 | 2 | 16;

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
    /// The byte.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Why bytes are not a frame. The stream cannot be trusted any further: close it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The first two bytes are not [`MAGIC`].
    #[error("not a frame")]
    Magic,
    /// Header damaged on the way.
    #[error("header checksum differs")]
    HeaderChecksum,
    /// A layout this version does not know.
    #[error("frame version {0} is not known")]
    Version(u8),
    /// Flag bits this version does not know.
    #[error("frame flags {0:#04x} are not known")]
    Flags(u8),
    /// A length beyond the limits.
    #[error("payload of {0} bytes is over the limit")]
    TooLong(u32),
    /// Extension or payload damaged on the way.
    #[error("body checksum differs")]
    BodyChecksum,
    /// The body is not the message that the opcode promises.
    #[error("message does not decode")]
    Message,
}

/// A decoded, verified header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Flag bits.
    pub flags: Flags,
    /// What the message is.
    pub opcode: Opcode,
    /// Bytes of extension that follow.
    pub extension_len: u16,
    /// The sender's number of the request; a response repeats it. Each side counts its own.
    pub request: u32,
    /// Bytes of payload after the extension, at most [`PAYLOAD_BYTES_MAX`].
    pub payload_len: u32,
    /// CRC32C of extension and payload.
    pub body_crc: u32,
}

impl Header {
    /// The 24 bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        out[2] = FRAME_VERSION;
        out[3] = self.flags.get();
        out[4..6].copy_from_slice(&self.opcode.get().to_le_bytes());
        out[6..8].copy_from_slice(&self.extension_len.to_le_bytes());
        out[8..12].copy_from_slice(&self.request.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_len.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c(&out[..20], &[]);
        out[20..24].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Verifies and decodes. An unknown opcode is no error here.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        if u16_at(bytes, 0) != MAGIC {
            return Err(FrameError::Magic);
        }
        if crc32c(&bytes[..20], &[]) != u32_at(bytes, 20) {
            return Err(FrameError::HeaderChecksum);
        }
        if bytes[2] != FRAME_VERSION {
            return Err(FrameError::Version(bytes[2]));
        }
        if bytes[3] & !Flags::SUPPORTED != 0 {
            return Err(FrameError::Flags(bytes[3]));
        }
        let header = Header {
            flags: Flags(bytes[3]),
            opcode: Opcode::new(u16_at(bytes, 4)),
            extension_len: u16_at(bytes, 6),
            request: u32_at(bytes, 8),
            payload_len: u32_at(bytes, 12),
            body_crc: u32_at(bytes, 16),
        };
        if header.payload_bytes() > PAYLOAD_BYTES_MAX {
            return Err(FrameError::TooLong(header.payload_len));
        }
        if header.flags.has(Flags::MESSAGE_IN_PAYLOAD) && header.extension_len != 0 {
            return Err(FrameError::Flags(bytes[3]));
        }
        Ok(header)
    }

    /// Length of the payload as an index.
    pub fn payload_bytes(&self) -> usize {
        usize::try_from(self.payload_len).expect("usize holds 32 bits")
    }

    /// Verifies the body's checksum.
    pub fn verify(&self, extension: &[u8], payload: &[u8]) -> Result<(), FrameError> {
        self.verify_covering(Cover::Payload, extension, payload)
    }

    /// The same of a body whose checksum is of this only.
    pub fn verify_covering(&self, cover: Cover, extension: &[u8], payload: &[u8]) -> Result<(), FrameError> {
        (crc32c(extension, cover.of(payload)) == self.body_crc).then_some(()).ok_or(FrameError::BodyChecksum)
    }

    /// Decodes the message from where the flags say it is. The body must have been verified.
    pub fn message<M: DeserializeOwned>(&self, extension: &[u8], payload: &[u8]) -> Result<M, FrameError> {
        let bytes = if self.flags.has(Flags::MESSAGE_IN_PAYLOAD) { payload } else { extension };
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            _ => Err(FrameError::Message),
        }
    }
}

/// A message made ready: header, extension, and the payload if the message itself became one.
#[derive(Debug)]
pub struct Encoded {
    /// Header and extension; the payload follows on the wire.
    pub head: Vec<u8>,
    /// The message, where it did not fit the extension.
    pub payload: Option<Vec<u8>>,
}

/// What a body's checksum covers beside the extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cover {
    /// The payload: it travels.
    Payload,
    /// Nothing: the payload changes hands within one process, and stays where it is in memory.
    Nothing,
}

impl Cover {
    fn of(self, payload: &[u8]) -> &[u8] {
        match self {
            Cover::Payload => payload,
            Cover::Nothing => &[],
        }
    }
}

/// Encodes a frame with the bulk bytes `payload` (empty for none).
///
/// Fails with `TooLong` where the message fits neither the extension nor the payload, or does not
/// fit the extension although there are bulk bytes.
pub fn encode<M: Serialize>(
    opcode: Opcode,
    flags: Flags,
    request: u32,
    message: &M,
    payload: &[u8],
) -> Result<Encoded, FrameError> {
    encode_covering(Cover::Payload, (opcode, flags, request), message, payload)
}

/// The same, with a checksum of this only.
pub fn encode_covering<M: Serialize>(
    cover: Cover,
    (opcode, flags, request): (Opcode, Flags, u32),
    message: &M,
    payload: &[u8],
) -> Result<Encoded, FrameError> {
    let head = postcard::to_extend(message, vec![0; HEADER_BYTES]).map_err(|_| FrameError::Message)?;
    if let Ok(extension_len) = u16::try_from(head.len() - HEADER_BYTES) {
        let head = seal(cover, (opcode, flags, request), extension_len, head, payload)?;
        return Ok(Encoded { head, payload: None });
    }
    if !payload.is_empty() {
        return Err(too_long(head.len()));
    }
    let message = head[HEADER_BYTES..].to_vec();
    let flags = flags.with(Flags::MESSAGE_IN_PAYLOAD);
    let head = seal(cover, (opcode, flags, request), 0, vec![0; HEADER_BYTES], &message)?;
    Ok(Encoded { head, payload: Some(message) })
}

/// Writes the header in front of the extension that `head` holds behind 24 bytes of room.
fn seal(
    cover: Cover,
    (opcode, flags, request): (Opcode, Flags, u32),
    extension_len: u16,
    mut head: Vec<u8>,
    payload: &[u8],
) -> Result<Vec<u8>, FrameError> {
    let payload_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong(payload_len));
    }
    let body_crc = crc32c(&head[HEADER_BYTES..], cover.of(payload));
    let header = Header { flags, opcode, extension_len, request, payload_len, body_crc };
    head[..HEADER_BYTES].copy_from_slice(&header.encode());
    Ok(head)
}

fn too_long(bytes: usize) -> FrameError {
    FrameError::TooLong(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// CRC32C (Castagnoli, as in iSCSI) of two pieces as if they were one.
fn crc32c(first: &[u8], second: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(first);
    digest.update(second);
    u32::try_from(digest.finalize()).expect("a 32-bit checksum")
}

fn u16_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
