//! Cuts a byte stream into frames, without I/O.
//!
//! `feed` what arrived only when `poll_head` wants more: then at most one header, one extension
//! and the last piece fed are held. The payload is not gathered here: the caller allocates it
//! (an aligned buffer), takes what was received ahead with `take_ahead`, and receives the rest
//! straight into it.

use crate::frame::{FrameError, HEADER_BYTES, Header};

/// Header and extension of a frame whose payload comes next in the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Verified header.
    pub header: Header,
    /// Extension; verified only together with the payload (`Header::verify`).
    pub extension: Vec<u8>,
}

/// Finds frames in what it is fed.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    start: usize,
    header: Option<Header>,
}

impl FrameReader {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, piece: Vec<u8>) {
        if self.start == self.bytes.len() {
            self.bytes = piece;
        } else {
            self.bytes.drain(..self.start);
            self.bytes.extend_from_slice(&piece);
        }
        self.start = 0;
    }

    /// The next frame's header and extension, or None where more bytes are wanted. After a frame
    /// the caller must take its payload before it polls again.
    pub fn poll_head(&mut self) -> Result<Option<Head>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = self.bytes[self.start..].first_chunk::<HEADER_BYTES>() else {
                    return Ok(None);
                };
                let header = Header::decode(bytes)?;
                self.start += HEADER_BYTES;
                self.header = Some(header);
                header
            }
        };
        let Some(extension) = self.bytes[self.start..].get(..usize::from(header.extension_len)) else {
            return Ok(None);
        };
        let extension = extension.to_vec();
        self.start += extension.len();
        self.header = None;
        Ok(Some(Head { header, extension }))
    }

    /// Moves bytes that were received ahead into the front of `payload`; says how many. The rest
    /// of the payload has not been received.
    pub fn take_ahead(&mut self, payload: &mut [u8]) -> usize {
        let ahead = &self.bytes[self.start..];
        let taken = ahead.len().min(payload.len());
        payload[..taken].copy_from_slice(&ahead[..taken]);
        self.start += taken;
        taken
    }

    /// Whether it stands between two frames with nothing received ahead.
    pub fn is_idle(&self) -> bool {
        self.header.is_none() && self.start == self.bytes.len()
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len() - self.start
    }
}
