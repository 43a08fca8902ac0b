//! What replicas say to each other, and how a state travels beside the log.
//!
//! The leader offers a state (a Raft snapshot message without content). The follower asks for it
//! page by page: first the rows of the replicated key space, then the data areas of log entries
//! that rows still name. Every page names the state and where it begins, so that lost, repeated
//! and late ones do no harm.

use cfs_consensus::{MessageError, PeerMessage};
use cfs_types::Timestamp;
use serde::{Deserialize, Serialize};

/// First byte of the keys under which a replica keeps data areas of entries that it never had in
/// its own log, or that had to leave it, by index. They are of this node alone, as [`crate::cells::LOCAL_SPACE`] is.
pub(super) const AREA_SPACE: u8 = 0xf1;

/// The data area of an entry that this node had and that is lost to damage: no bytes, where every entry that rows
/// name has some. Reading it is an error, but the log need not keep the entry.
pub const LOST_AREA: &[u8] = &[];

/// Index and term of the last entry that a state covers.
pub type Point = (u64, u64);

/// Where a page begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cursor {
    /// At the first row with this key or a higher one.
    Row(Vec<u8>),
    /// At the data area of the first entry with this index or a higher one.
    Area(u64),
}

/// Asks for a page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Want {
    /// The state.
    pub point: Point,
    /// Where the page begins.
    pub at: Cursor,
}

/// A page: rows with the times of their versions, or data areas.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page {
    /// What was asked for.
    pub want: Want,
    /// No version of the state is newer.
    pub time: Timestamp,
    /// Key, time and value of versions.
    pub rows: Vec<(Vec<u8>, Timestamp, Vec<u8>)>,
    /// Index and bytes of data areas.
    pub areas: Vec<(u64, Vec<u8>)>,
    /// Where the next page begins; None where this was the last.
    pub next: Option<Cursor>,
}

/// A message between replicas of a group. Part of the protocol: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GroupMessage {
    /// For the Raft library.
    Raft(Vec<u8>),
    /// The follower asks.
    Want(Want),
    /// The leader answers.
    Page(Page),
    /// The leader no longer has that state.
    Gone(Point),
}

/// What the task that moves states has to do.
pub(super) enum Job {
    Serve { to: u64, want: Want },
    Offer(PeerMessage),
    Take { from: u64, page: Page },
    Gone { from: u64, point: Point },
}

impl GroupMessage {
    /// The bytes that the peer decodes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, Vec::new()).expect("a message in memory always encodes")
    }

    /// Decodes the whole of a peer's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            _ => Err(MessageError::Malformed),
        }
    }
}

/// The key of an entry's data area.
pub fn area_key(index: u64) -> Box<[u8]> {
    [&[AREA_SPACE][..], &index.to_be_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_cut_or_longer_ones_are_refused() {
        let want = Want { point: (9, 2), at: Cursor::Row(b"key".to_vec()) };
        let time = Timestamp::new(77);
        let page = Page {
            want: want.clone(),
            time,
            rows: vec![(b"key".to_vec(), time, b"value".to_vec())],
            areas: vec![(7, vec![1; 20])],
            next: Some(Cursor::Area(8)),
        };
        for message in [
            GroupMessage::Raft(vec![1, 2]),
            GroupMessage::Want(want),
            GroupMessage::Page(page),
            GroupMessage::Gone((1, 1)),
        ] {
            let bytes = message.encode();
            assert_eq!(GroupMessage::decode(&bytes), Ok(message));
            for cut in 0..bytes.len() {
                assert!(GroupMessage::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            assert!(GroupMessage::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
}
