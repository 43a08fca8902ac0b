//! What a group's anchor holds: everything needed to open the group alone.
//!
//! Layout (docs/formats/manifest.md): version u8, then the fields in postcard; the list of tables
//! is the ordered store's own encoding.

use crate::replica::Mark;
use cfs_consensus::VoteState;
use cfs_kv::Root;
use cfs_types::{MoveEpoch, Timestamp};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;

/// A group as of its last flush.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct GroupManifest {
    /// What the tables cover.
    pub mark: Mark,
    /// Term, vote and commit index then.
    pub vote: VoteState,
    /// Ownership epoch then.
    pub epoch: MoveEpoch,
    /// The core's hybrid clock then: no version in the tables is newer.
    pub timestamp: Timestamp,
    /// The tables, or what lists them.
    pub tables: Root,
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    applied: (u64, u64),
    locals: u64,
    vote: (u64, u64, u64),
    epoch: MoveEpoch,
    timestamp: Timestamp,
    tables: Vec<u8>,
}

impl GroupManifest {
    /// The bytes for the anchor.
    pub fn encode(&self) -> Vec<u8> {
        let encoded = Encoded {
            applied: self.mark.applied,
            locals: self.mark.locals,
            vote: (self.vote.term, self.vote.vote, self.vote.commit),
            epoch: self.epoch,
            timestamp: self.timestamp,
            tables: self.tables.encode(),
        };
        postcard::to_extend(&encoded, vec![VERSION]).expect("a manifest in memory always encodes")
    }

    /// None where the bytes are not a manifest of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (encoded, behind): (Encoded, _) = (*version == VERSION).then(|| postcard::take_from_bytes(rest).ok())??;
        behind.is_empty().then_some(())?;
        let (term, vote, commit) = encoded.vote;
        Some(GroupManifest {
            mark: Mark { applied: encoded.applied, locals: encoded.locals },
            vote: VoteState { term, vote, commit },
            epoch: encoded.epoch,
            timestamp: encoded.timestamp,
            tables: Root::decode(&encoded.tables).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> GroupManifest {
        GroupManifest {
            mark: Mark { applied: (9, 2), locals: 4 },
            vote: VoteState { term: 2, vote: 1, commit: 8 },
            epoch: MoveEpoch::new(3),
            timestamp: Timestamp::new(300),
            tables: Root::default(),
        }
    }

    #[test]
    fn a_manifest_has_these_bytes() {
        let hex: String = sample().encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0109020402010803ac020c020000000000000000000000");
    }

    #[test]
    fn manifests_round_trip_and_cut_or_longer_ones_are_refused() {
        let manifest = sample();
        let bytes = manifest.encode();
        assert_eq!(GroupManifest::decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(GroupManifest::decode(&bytes), Some(manifest));
        for cut in 0..bytes.len() {
            assert_eq!(GroupManifest::decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }
}
