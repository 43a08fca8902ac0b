//! Messages between the replicas of a group.

use bytes::Bytes;
use protobuf::{CodedInputStream, Message as _, ProtobufResult};
use raft::prelude::{Message, MessageType};

/// Why a peer's bytes were refused. The connection may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageError {
    /// Not a Raft message.
    #[error("not a Raft message")]
    Malformed,
    /// A message that the library takes only from itself, or that names no known peer.
    #[error("a message that no peer may send")]
    Forbidden,
}

/// Bytes of the send time that a heartbeat carries and its answer gives back. No message has
/// another context: the library would let one of them override the promise not to vote.
const STAMP_BYTES: usize = 8;

/// A validated message to or from a peer of the same group.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerMessage(pub(crate) Message);

impl PeerMessage {
    /// Checks a peer's bytes. Entries must be consecutive and their terms must not fall; the
    /// library panics on what is refused here.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let message = parse(bytes).map_err(|_| MessageError::Malformed)?;
        let local = matches!(
            message.get_msg_type(),
            MessageType::MsgHup
                | MessageType::MsgBeat
                | MessageType::MsgUnreachable
                | MessageType::MsgSnapStatus
                | MessageType::MsgCheckQuorum
                | MessageType::MsgPropose
                | MessageType::MsgTransferLeader
                | MessageType::MsgReadIndex
                | MessageType::MsgReadIndexResp
                | MessageType::MsgTimeoutNow
        ) || !matches!(message.context.len(), 0 | STAMP_BYTES);
        let mut before = (message.index, message.log_term);
        for entry in message.get_entries() {
            if entry.index != before.0.wrapping_add(1) || entry.term < before.1 || entry.term > message.term {
                return Err(MessageError::Malformed);
            }
            before = (entry.index, entry.term);
        }
        if local || message.from == 0 || message.to == 0 {
            return Err(MessageError::Forbidden);
        }
        Ok(PeerMessage(message))
    }

    /// The bytes a peer decodes.
    pub fn encode(&self) -> Vec<u8> {
        self.0.write_to_bytes().expect("a message in memory always encodes")
    }

    /// The replica it is for.
    pub fn to(&self) -> u64 {
        self.0.to
    }

    /// The replica it is from.
    pub fn from(&self) -> u64 {
        self.0.from
    }

    /// Notes when a heartbeat is sent; other messages stay as they are.
    pub fn stamp(&mut self, now_ns: u64) {
        if self.0.get_msg_type() == MessageType::MsgHeartbeat {
            self.0.context = now_ns.to_be_bytes().to_vec().into();
        }
    }

    /// The send time of the heartbeat that this message answers.
    pub(crate) fn heartbeat_acknowledged(&self) -> Option<u64> {
        let answer = self.0.get_msg_type() == MessageType::MsgHeartbeatResponse;
        answer.then(|| self.0.context[..].try_into().ok().map(u64::from_be_bytes))?
    }

    /// Whether a replica asks for a vote, or whether it would get one.
    pub fn asks_for_vote(&self) -> bool {
        matches!(self.0.get_msg_type(), MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
    }

    /// The term it was sent in.
    pub fn term(&self) -> u64 {
        self.0.term
    }

    /// True where the state itself must travel beside the message.
    pub fn is_snapshot(&self) -> bool {
        self.0.get_msg_type() == MessageType::MsgSnapshot
    }

    /// Index and term that a snapshot message covers.
    pub fn snapshot_point(&self) -> Option<(u64, u64)> {
        let meta = self.0.get_snapshot().get_metadata();
        self.is_snapshot().then_some((meta.index, meta.term))
    }
}

/// Without a limit, and from a slice, the library makes room for whatever length a field claims, up to 10 MB.
fn parse(bytes: &[u8]) -> ProtobufResult<Message> {
    let shared = Bytes::copy_from_slice(bytes);
    let mut stream = CodedInputStream::from_carllerche_bytes(&shared);
    stream.push_limit(u64::try_from(bytes.len()).expect("a length fits 64 bits"))?;
    let message = Message::parse_from(&mut stream)?;
    stream.check_eof()?;
    Ok(message)
}
