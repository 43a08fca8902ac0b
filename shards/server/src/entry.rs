//! A log entry of a shard: a batch of commands and the bytes of their small writes.
//!
//! Layout (docs/formats/entry.md): version u8, feature level u8, reserved u16, data length u32,
//! data area, then the batch (postcard). The data area comes first, so that a small write's bytes
//! lie at a known offset of the entry and are read back without decoding it.

use crate::machine::GroupCommand;
use bytes::Bytes;
use cfs_types::{Nanos, Timestamp};
use serde::{Deserialize, Serialize};

/// Version of the layout.
const VERSION: u8 = 1;
/// Level of command semantics this build writes; an entry of a higher one is refused.
const FEATURE_LEVEL: u8 = 3;
/// Bytes before the data area.
pub const DATA_OFFSET: usize = 8;
/// Bytes of data in one entry at the most; larger writes become chunks.
pub const DATA_BYTES_MAX: usize = 512 << 10;
/// Bytes of one entry at the most where one command does not need more; the log may set less.
pub const ENTRY_BYTES_MAX: usize = DATA_BYTES_MAX + (256 << 10);
/// Commands in one entry at the most.
pub const COMMANDS_MAX: usize = 256;

/// What one entry executes, in order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// Commit timestamp of the whole entry.
    pub timestamp: Timestamp,
    /// Wall time for file times.
    pub now: Nanos,
    /// Commands.
    pub commands: Vec<GroupCommand>,
}

/// Why an entry cannot be executed. It was checked before it was proposed, so this is damage that
/// the checksums missed, or a newer version's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryError {
    /// Not an entry.
    #[error("the entry does not decode")]
    Malformed,
    /// Written by a newer version.
    #[error("the entry needs a newer version of the server (feature level {0})")]
    Newer(u8),
}

/// Bytes of a command in an entry, without its data: no more than these.
pub fn command_bytes(command: &GroupCommand) -> usize {
    // Where a small write's bytes will lie is not known yet: its offset may grow by four bytes.
    postcard::experimental::serialized_size(command).expect("a command in memory always encodes") + 4
}

/// The bytes of an entry whose data area is `pieces`, one after another.
pub fn encode(batch: &Batch, pieces: &[Bytes]) -> Vec<u8> {
    let area: usize = pieces.iter().map(Bytes::len).sum();
    let length = u32::try_from(area).expect("bounded by DATA_BYTES_MAX");
    let mut bytes = Vec::with_capacity(DATA_OFFSET + area + 128 * batch.commands.len());
    bytes.extend_from_slice(&[VERSION, FEATURE_LEVEL, 0, 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    postcard::to_extend(batch, bytes).expect("a batch in memory always encodes")
}

/// The batch and the data area of an entry.
pub fn decode(bytes: &[u8]) -> Result<(Batch, &[u8]), EntryError> {
    let (head, rest) = bytes.split_at_checked(DATA_OFFSET).ok_or(EntryError::Malformed)?;
    if head[0] != VERSION || head[1] > FEATURE_LEVEL {
        return Err(EntryError::Newer(head[1].max(head[0])));
    }
    if head[2..4] != [0, 0] {
        return Err(EntryError::Malformed);
    }
    let length = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
    let length = usize::try_from(length).map_err(|_| EntryError::Malformed)?;
    let (data, batch) = rest.split_at_checked(length).ok_or(EntryError::Malformed)?;
    match postcard::take_from_bytes(batch) {
        Ok((batch, [])) => Ok((batch, data)),
        _ => Err(EntryError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_cluster::ControlCommand;
    use cfs_namespace::{Command, CommandBody};
    use cfs_types::SessionId;

    fn hello() -> [Bytes; 2] {
        [b"hel", &b"lo"[..]].map(Bytes::from_static)
    }

    fn batch() -> Batch {
        let root = CommandBody::MakeRoot { mode: 0o755, uid: 1, gid: 2 };
        let commands = vec![
            GroupCommand::Shard(Box::new(Command::internal(root))),
            GroupCommand::Control(ControlCommand::EndSession { session: SessionId::new(300) }),
        ];
        Batch { timestamp: Timestamp::new(7), now: Nanos::new(-9), commands }
    }

    #[test]
    fn an_entry_has_these_bytes() {
        let hex: String = encode(&batch(), &hello()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "010300000500000068656c6c6f07110200000000000005ed0301020101ac02");
    }

    #[test]
    fn reserved_bytes_and_bytes_behind_the_batch_are_refused() {
        let good = encode(&batch(), &hello());
        let mut odd = good.clone();
        odd[3] = 1;
        assert_eq!(decode(&odd), Err(EntryError::Malformed));
        assert_eq!(decode(&[&good[..], &[0]].concat()), Err(EntryError::Malformed));
    }

    #[test]
    fn entries_round_trip_with_their_data_at_a_fixed_offset() {
        let bytes = encode(&batch(), &hello());
        assert_eq!(&bytes[DATA_OFFSET..DATA_OFFSET + 5], b"hello");
        assert_eq!(decode(&bytes), Ok((batch(), &b"hello"[..])));
    }

    #[test]
    fn cut_or_newer_entries_are_refused() {
        let bytes = encode(&batch(), &hello());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut newer = bytes;
        newer[1] = 200;
        assert_eq!(decode(&newer), Err(EntryError::Newer(200)));
    }
}
