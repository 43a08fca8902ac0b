//! Whole reads, writes and flushes with errors that name the place; the checksum.

use crate::DeviceError;
use cfs_seam::{Disk, Durability, IoBuf, Lifetime};
use crc_fast::CrcAlgorithm;

/// CRC32C (Castagnoli, RFC 3720).
pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).expect("a 32-bit checksum")
}

/// Reads `bytes` bytes at `offset`; both are multiples of the device's block.
pub async fn read_at(disk: &dyn Disk, offset: u64, bytes: usize) -> Result<IoBuf, DeviceError> {
    let done = disk.read(offset, IoBuf::stale(bytes)).await;
    match done.result {
        Ok(()) => Ok(done.buf),
        Err(source) => Err(DeviceError::Read { offset, bytes, source }),
    }
}

/// Writes the whole buffer, beside the logs; durable after the next [`flush`] that begins later.
pub async fn write_at(disk: &dyn Disk, offset: u64, buf: IoBuf) -> Result<IoBuf, DeviceError> {
    let bytes = buf.len();
    let done = disk.write(offset, buf, Durability::Flush, Lifetime::Log).await;
    match done.result {
        Ok(()) => Ok(done.buf),
        Err(source) => Err(DeviceError::Write { offset, bytes, source }),
    }
}

/// Makes completed writes durable; costs nothing where the cache is not volatile.
pub async fn flush(disk: &dyn Disk) -> Result<(), DeviceError> {
    if !disk.geometry().volatile_cache {
        return Ok(());
    }
    disk.flush().await.map_err(|source| DeviceError::Flush { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
