//! Payloads of entries, read back from where they lie.

use crate::record::Position;
use crate::{EntryAt, LogError};
use cfs_device::{crc32c, read_at};
use cfs_seam::{BLOCK_BYTES, Disk};
use cfs_types::{GroupId, LogIndex};

/// Reads and verifies the payload of an entry that [`crate::inspect`] found: for checkers, as long
/// as nobody writes to the log.
pub async fn read_entry(disk: &dyn Disk, group: GroupId, entry: &EntryAt) -> Result<Vec<u8>, LogError> {
    read(disk, group, entry.index, entry.position).await
}

/// Reads and verifies a payload.
pub(crate) async fn read(
    disk: &dyn Disk,
    group: GroupId,
    index: LogIndex,
    position: Position,
) -> Result<Vec<u8>, LogError> {
    let bytes = usize::try_from(position.bytes).expect("32 bits fit a usize");
    let block = u64::try_from(BLOCK_BYTES).expect("a small number");
    let before = usize::try_from(position.at % block).expect("less than a block");
    let at = position.at - position.at % block;
    let buf = read_at(disk, at, (before + bytes).next_multiple_of(BLOCK_BYTES)).await?;
    let payload = &buf[before..before + bytes];
    if crc32c(payload) != position.crc {
        return Err(LogError::EntryDamaged { group, index, offset: position.at });
    }
    Ok(payload.to_vec())
}
