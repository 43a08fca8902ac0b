//! Commands, as the kernel takes them: `struct nvme_uring_cmd` and `struct nvme_passthru_cmd` (linux/nvme_ioctl.h), which
//! differ in their last word only. Sections are named by their titles: "Base" is the NVM Express Base Specification 2.1, "NVM"
//! the NVM Command Set Specification 1.1, "ZNS" the Zoned Namespace Command Set Specification 1.2.

use cfs_seam::ZoneAction;

/// `NVME_URING_CMD_IO`: a command for the namespace that the descriptor names.
pub(super) const URING_CMD_IO: u32 = 0xC048_4E80;
/// `NVME_IOCTL_ID`: answers the namespace's number.
pub(super) const IOCTL_ID: libc::Ioctl = 0x4E40;
/// `NVME_IOCTL_ADMIN_CMD`.
pub(super) const IOCTL_ADMIN: libc::Ioctl = 0xC048_4E41;
/// `NVME_IOCTL_IO_CMD`.
pub(super) const IOCTL_IO: libc::Ioctl = 0xC048_4E43;

/// Bytes of a range of Dataset Management (NVM, 'Dataset Management command').
pub(super) const RANGE_BYTES: usize = 16;
/// Logical blocks of one command at most: the field is 16 bits, and counts from zero.
pub(super) const BLOCKS_MAX: u64 = 1 << 16;

/// One command.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    pub namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    /// Of the ioctls: dword 0 of the completion.
    pub result: u32,
}

const _: () = assert!(size_of::<Command>() == 72, "as the kernel's structures");

/// Where a read or write goes, in logical blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Blocks {
    pub first: u64,
    /// 1 to [`BLOCKS_MAX`].
    pub count: u32,
}

impl Command {
    /// Its bytes, for the second half of a 128-byte submission entry.
    pub fn to_bytes(self) -> [u8; 80] {
        let mut bytes = [0; 80];
        let words =
            [self.cdw10, self.cdw11, self.cdw12, self.cdw13, self.cdw14, self.cdw15, self.timeout_ms, self.result];
        (bytes[0], bytes[1]) = (self.opcode, self.flags);
        bytes[4..8].copy_from_slice(&self.namespace.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.address.to_ne_bytes());
        bytes[36..40].copy_from_slice(&self.data_bytes.to_ne_bytes());
        for (place, word) in bytes[40..72].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn with_data(opcode: u8, namespace: u32, address: usize, bytes: usize) -> Self {
        let address = u64::try_from(address).expect("a 64-bit address");
        let data_bytes = u32::try_from(bytes).expect("a transfer below 4 GiB");
        Command { opcode, namespace, address, data_bytes, ..Command::default() }
    }

    fn at(mut self, blocks: Blocks) -> Self {
        (self.cdw10, self.cdw11) = halves(blocks.first);
        self.cdw12 = blocks.count - 1;
        self
    }

    /// NVM, 'Read command'.
    pub fn read(namespace: u32, blocks: Blocks, address: usize, bytes: usize) -> Self {
        Self::with_data(0x02, namespace, address, bytes).at(blocks)
    }

    /// NVM, 'Write command': Force Unit Access is bit 30 of dword 12. A placement identifier is the directive-specific field of
    /// directive type 2 (Base, 'Data Placement directive').
    pub fn write(
        namespace: u32,
        blocks: Blocks,
        address: usize,
        bytes: usize,
        through: bool,
        placement: Option<u16>,
    ) -> Self {
        let mut command = Self::with_data(0x01, namespace, address, bytes).at(blocks);
        command.cdw12 |= u32::from(through) << 30;
        if let Some(identifier) = placement {
            command.cdw12 |= 2 << 20;
            command.cdw13 = u32::from(identifier) << 16;
        }
        command
    }

    /// Base, 'Flush command'.
    pub fn flush(namespace: u32) -> Self {
        Command { namespace, ..Command::default() }
    }

    /// NVM, 'Dataset Management command' with the attribute Deallocate, for the one range that lies at `address`.
    pub fn deallocate(namespace: u32, address: usize) -> Self {
        Command { cdw11: 1 << 2, ..Self::with_data(0x09, namespace, address, RANGE_BYTES) }
    }

    /// Base, 'Identify command': CNS 00h a namespace, 01h the controller, 03h how a namespace is named.
    pub fn identify(structure: u8, namespace: u32, data: &mut [u8; 4096]) -> Self {
        let command = Self::with_data(0x06, namespace, data.as_mut_ptr().addr(), data.len());
        Command { cdw10: structure.into(), ..command }
    }

    /// Base, 'Identify command', CNS 05h: what a command set says of a namespace.
    pub fn identify_of_set(set: u8, namespace: u32, data: &mut [u8; 4096]) -> Self {
        Command { cdw11: u32::from(set) << 24, ..Self::identify(0x05, namespace, data) }
    }

    /// ZNS, 'Zone Management Receive command', action 00h: Report Zones, all, as many as fit, from block `first` on.
    pub fn report_zones(namespace: u32, first: u64, address: usize, bytes: usize) -> Self {
        let dwords = u32::try_from(bytes / 4 - 1).expect("a short answer");
        let (cdw10, cdw11) = halves(first);
        let command = Self::with_data(0x7A, namespace, address, bytes);
        Command { cdw10, cdw11, cdw12: dwords, cdw13: 1 << 16, ..command }
    }

    /// ZNS, 'Zone Management Send command', for the zone whose first block is `first`: 02h Finish, 04h Reset.
    pub fn manage_zone(namespace: u32, first: u64, action: ZoneAction) -> Self {
        let (cdw10, cdw11) = halves(first);
        let cdw13 = match action {
            ZoneAction::Finish => 0x02,
            ZoneAction::Reset => 0x04,
        };
        Command { opcode: 0x79, namespace, cdw10, cdw11, cdw13, ..Command::default() }
    }

    /// Base, 'Get Features command', the current value.
    pub fn get_feature(feature: u8, dword11: u32) -> Self {
        Command { opcode: 0x0A, cdw10: feature.into(), cdw11: dword11, ..Command::default() }
    }

    /// Base, 'Get Log Page command'; `specific` is the Log Specific Identifier, an endurance group for FDP's pages.
    pub fn get_log(page: u8, specific: u16, namespace: u32, data: &mut [u8]) -> Self {
        let dwords = u32::try_from(data.len() / 4 - 1).expect("a short page");
        let command = Self::with_data(0x02, namespace, data.as_mut_ptr().addr(), data.len());
        Command {
            cdw10: u32::from(page) | (dwords & 0xffff) << 16,
            cdw11: dwords >> 16 | u32::from(specific) << 16,
            ..command
        }
    }

    /// Base, 'I/O Management Receive command', operation 01h: Reclaim Unit Handle Status.
    pub fn handle_status(namespace: u32, data: &mut [u8]) -> Self {
        let dwords = u32::try_from(data.len() / 4 - 1).expect("a short answer");
        let command = Self::with_data(0x12, namespace, data.as_mut_ptr().addr(), data.len());
        Command { cdw10: 1, cdw11: dwords, ..command }
    }
}

/// A range of Dataset Management: context attributes, length, first block (NVM, 'Range Definition').
pub(super) fn range(blocks: u32, first: u64) -> [u8; RANGE_BYTES] {
    let mut range = [0; RANGE_BYTES];
    range[4..8].copy_from_slice(&blocks.to_le_bytes());
    range[8..].copy_from_slice(&first.to_le_bytes());
    range
}

fn halves(number: u64) -> (u32, u32) {
    let (low, high) = (number & u64::from(u32::MAX), number >> 32);
    (u32::try_from(low).expect("masked"), u32::try_from(high).expect("shifted"))
}

/// What a status says of a failed command (Base, 'Status Field Definition'): SC in bits 7:0, SCT in bits 10:8, Do Not Retry in bit 14.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Status(pub u16);

impl Status {
    /// LBA Out of Range: the namespace has become smaller.
    pub fn is_out_of_range(self) -> bool {
        self.code() == 0x080
    }
    /// Capacity Exceeded, of a thin device.
    pub fn is_no_space(self) -> bool {
        self.code() == 0x081
    }
    /// It says nothing of the data and may not be there again: Namespace Not Ready, Command Interrupted, aborts and
    /// transient transport errors.
    pub fn may_pass(self) -> bool {
        self.0 >> 14 & 1 == 0 && matches!(self.code(), 0x004 | 0x007 | 0x008 | 0x021 | 0x022 | 0x082 | 0x370 | 0x371)
    }
    /// Status code type and code.
    pub fn code(self) -> u16 {
        self.0 & 0x7ff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_layout_that_the_kernel_reads() {
        let blocks = Blocks { first: 0x1_2345_6789, count: 8 };
        let write = Command::write(7, blocks, 0xABCD_0000, 4096, true, Some(0x0102));
        let bytes = write.to_bytes();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four"));
        assert_eq!((bytes[0], word(4)), (1, 7));
        assert_eq!((word(24), word(28), word(36)), (0xABCD_0000, 0, 4096));
        assert_eq!((word(40), word(44)), (0x2345_6789, 1));
        assert_eq!(word(48), 7 | 1 << 30 | 2 << 20);
        assert_eq!(word(52), 0x0102_0000);
        let plain = Command::write(7, blocks, 0, 4096, false, None).to_bytes();
        assert_eq!(plain[48..56], [7, 0, 0, 0, 0, 0, 0, 0], "no directive, no FUA");
        let reset = Command::manage_zone(7, 0x1_0000_0040, ZoneAction::Reset).to_bytes();
        assert_eq!((reset[0], &reset[40..48], reset[52]), (0x79, &[0x40, 0, 0, 0, 1, 0, 0, 0][..], 4));
        let report = Command::report_zones(7, 0x40, 0, 4096).to_bytes();
        assert_eq!((report[0], report[40], &report[48..56]), (0x7A, 0x40, &[0xff, 3, 0, 0, 0, 0, 1, 0][..]));
    }

    #[test]
    fn a_status_that_asks_for_no_retry_is_final() {
        assert!(Status(0x082).may_pass());
        assert!(!Status(0x4082).may_pass(), "Do Not Retry");
        assert!(!Status(0x281).may_pass(), "unrecovered read error");
        assert!(Status(0x4080).is_out_of_range());
    }
}
