//! What a replica writes to the core log, besides entries.

use super::{LocalWrite, Replica};
use bytes::Bytes;
use cfs_consensus::{VoteState, Work};
use cfs_log::{Record, RecordKind};
use cfs_types::{GroupId, LogIndex, MoveEpoch, Term};

impl Replica {
    pub(super) fn local_record(&self, write: &LocalWrite, position: usize) -> Record {
        let sequence = self.mark.get().locals + 1 + position as u64;
        Record {
            group: self.id,
            kind: RecordKind::Local,
            epoch: self.epoch.get(),
            term: Term::new(0),
            index: LogIndex::new(sequence),
            payload: encode_local(write).into(),
        }
    }

    /// The entries come first: a durable commit index never speaks of entries that are not durable.
    pub(super) fn add_records(&self, work: &Work, records: &mut Vec<Record>) {
        let record =
            |kind, term, index, payload| Record { group: self.id, kind, epoch: self.epoch.get(), term, index, payload };
        for entry in &work.entries {
            records.push(record(RecordKind::Entry, entry.term, entry.index, entry.data.clone()));
        }
        if let Some(vote) = work.vote {
            let mut payload = Vec::with_capacity(24);
            payload.extend_from_slice(&vote.term.to_le_bytes());
            payload.extend_from_slice(&vote.vote.to_le_bytes());
            payload.extend_from_slice(&vote.commit.to_le_bytes());
            records.push(record(RecordKind::HardState, Term::new(vote.term), LogIndex::new(0), payload.into()));
        }
    }
}

/// A local record's payload: key length u16, key, presence u8, value.
pub fn encode_local((key, value): &LocalWrite) -> Vec<u8> {
    let length = u16::try_from(key.len()).expect("local keys are short");
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(key);
    bytes.push(u8::from(value.is_some()));
    bytes.extend_from_slice(value.as_deref().unwrap_or_default());
    bytes
}

/// The local write of a recovered record; None where it does not decode.
pub fn decode_local(bytes: &[u8]) -> Option<LocalWrite> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (present, value) = rest.split_first()?;
    match present {
        0 if value.is_empty() => Some((key.into(), None)),
        1 => Some((key.into(), Some(value.into()))),
        _ => None,
    }
}

/// The vote state of a recovered record; None where it does not decode.
pub fn decode_vote(bytes: &[u8]) -> Option<VoteState> {
    let words: &[[u8; 8]; 3] = bytes.as_chunks::<8>().0.try_into().ok()?;
    let [term, vote, commit] = words.map(u64::from_le_bytes);
    (bytes.len() == 24).then_some(VoteState { term, vote, commit })
}

/// The record with which a core takes a group over; entries of earlier owners above `last` are void.
pub fn adopt_record(group: GroupId, epoch: MoveEpoch, last: LogIndex) -> Record {
    let (term, index) = (Term::new(0), last);
    Record { group, kind: RecordKind::Adopt, epoch, term, index, payload: Bytes::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn local_records_and_votes_have_these_bytes() {
        let put: LocalWrite = ([0xf0, b'c'].into(), Some(Rc::from([7, 8].as_slice())));
        let delete: LocalWrite = ([0xf0, b'k'].into(), None);
        assert_eq!(encode_local(&put), [2, 0, 0xf0, b'c', 1, 7, 8]);
        assert_eq!(encode_local(&delete), [2, 0, 0xf0, b'k', 0]);
        for write in [put, delete] {
            assert_eq!(decode_local(&encode_local(&write)), Some(write));
        }
        for bad in [&[2, 0, 0xf0][..], &[2, 0, 1, 2], &[0, 0, 0, 9], &[0, 0, 2]] {
            assert_eq!(decode_local(bad), None);
        }
        let vote = [[3, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(decode_vote(&vote), Some(VoteState { term: 3, vote: 1, commit: 9 }));
        assert_eq!(decode_vote(&vote[..23]), None);
    }
}
