//! The superblock: whose device this is and how it is laid out.
//!
//! Two copies, each a block of its own, so that neither a torn write nor a damaged block loses
//! both. The copy with the higher generation wins.

use crate::format::first_in_use;
use crate::transfer::{crc32c, flush, write_at};
use crate::{DeviceError, GENERATIONS, Layout, Roles};
use cfs_seam::{Disk, DiskError, IoBuf};
use cfs_types::MEMBERS_MAX;
use std::fmt;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of one copy.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Offsets of the two copies.
pub const SUPERBLOCK_COPIES_AT: [u64; 2] = [0, 64 << 10];
/// The newest format that this program reads. It is written on devices of zones.
pub const FORMAT_VERSION: u32 = 3;
/// Where the node has had more than one device, so that programs that know no pools refuse it.
const VERSION_POOL: u32 = 2;
/// Of a device that is alone and has no zones.
const VERSION_ALONE: u32 = 1;
/// "CoreFS" and bytes that a text tool would mangle.
const MAGIC: [u8; 8] = *b"CoreFS\r\n";
/// Instead of [`MAGIC`] where copy A will be while `format` is at work. The rest of the block is zero,
/// so that a cut leaves all of it or none: a sector is not torn.
const MAGIC_UNFINISHED: [u8; 8] = *b"CfsHalf\n";
const FLAG_FAILED: u32 = 1;
const FLAG_LEFT: u32 = 2;
const FLAGS_ALONE: u32 = FLAG_FAILED;
const FLAGS_OF_A_POOL: u32 = FLAG_FAILED | FLAG_LEFT;

/// Names a cluster, a node or a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// Wraps 16 bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Uuid(bytes)
    }
    /// A random one (RFC 9562, version 4).
    pub fn random(rng: &dyn cfs_seam::Rng) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Uuid(bytes)
    }
    /// The 16 bytes.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}
impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What the superblock says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The cluster that the device belongs to.
    pub cluster: Uuid,
    /// The node that the device belongs to.
    pub node: Uuid,
    /// The device itself.
    pub device: Uuid,
    /// Rises with each change of the superblock.
    pub generation: u64,
    /// Set after a failed write or flush: the device is not used until its content was found sound.
    pub failed: bool,
    /// Set once it is not in the list of its node any more: nothing that matters lies there.
    pub left: bool,
    /// Where the areas lie.
    pub layout: Layout,
    /// Its place among the devices of the node; None where it is the only one and always was.
    pub place: Option<MemberPlace>,
}

/// A device's place in the pool of its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberPlace {
    /// Its number. Member 0 has log and anchors, the others have regions alone.
    pub number: u16,
    /// What it was added for; the list of members may say otherwise since.
    pub roles: Roles,
    /// Number of its first region.
    pub first_region: u32,
}

impl MemberPlace {
    /// Of the first device, which has all roles.
    pub const FIRST: MemberPlace = MemberPlace { number: 0, roles: Roles::ALL, first_region: 0 };

    fn fits(&self, layout: &Layout) -> bool {
        let is_first = self.number == 0;
        let regions = u32::try_from(layout.regions).ok().and_then(|n| n.checked_add(self.first_region));
        let has_log = layout.log_slots > 0;
        self.number < MEMBERS_MAX && regions.is_some() && is_first == has_log && (!is_first || self.first_region == 0)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    flags: U32,
    cluster: [u8; 16],
    node: [u8; 16],
    device: [u8; 16],
    generation: U64,
    device_bytes: U64,
    anchors_at: U64,
    log_at: U64,
    log_slot_bytes: U64,
    log_slots: U64,
    regions_at: U64,
    region_bytes: U64,
    regions: U64,
    member: U16,
    roles: U16,
    first_region: U32,
    zone_bytes: U64,
    reserved: [u8; RESERVED],
    crc: U32,
}
const RESERVED: usize = SUPERBLOCK_BYTES - 8 - 8 - 48 - 72 - 16 - 4;
const _: () = assert!(size_of::<Raw>() == SUPERBLOCK_BYTES);
const CRC_AT: usize = SUPERBLOCK_BYTES - 4;

/// What one copy turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SuperblockCopy {
    /// Intact.
    Valid(Superblock),
    /// All zero.
    Blank,
    /// `format` began and did not come to its end.
    Unfinished,
    /// Another program's.
    Foreign,
    /// Intact, of a later CoreFS with this version.
    Newer(u32),
    /// Ours, but not intact, and why.
    Damaged(&'static str),
    /// The device does not give it, and what it says.
    Unreadable(DiskError),
}

/// What it is, after "this copy is".
impl fmt::Display for SuperblockCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SuperblockCopy::Valid(superblock) => write!(f, "of generation {}", superblock.generation),
            SuperblockCopy::Blank => f.write_str("blank"),
            SuperblockCopy::Unfinished => f.write_str("the mark of a format that was not finished"),
            SuperblockCopy::Foreign => f.write_str("overwritten"),
            SuperblockCopy::Newer(version) => write!(f, "of version {version}"),
            SuperblockCopy::Damaged(reason) => write!(f, "damaged ({reason})"),
            SuperblockCopy::Unreadable(error) => write!(f, "unreadable ({error})"),
        }
    }
}

/// A copy that was written again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mended {
    /// Device offset of the copy.
    pub offset: u64,
    /// What it was before.
    pub was: SuperblockCopy,
}

impl Superblock {
    /// The block as it lies on the device.
    pub(crate) fn encode(&self) -> IoBuf {
        let mut raw = Raw::new_zeroed();
        raw.magic = MAGIC;
        raw.version = U32::new(match self.place {
            _ if self.layout.zone_bytes > 0 => FORMAT_VERSION,
            Some(_) => VERSION_POOL,
            None => VERSION_ALONE,
        });
        let flags = [(self.failed, FLAG_FAILED), (self.left, FLAG_LEFT)];
        raw.flags = U32::new(flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum());
        raw.cluster = self.cluster.0;
        raw.node = self.node.0;
        raw.device = self.device.0;
        raw.generation = U64::new(self.generation);
        raw.device_bytes = U64::new(self.layout.device_bytes);
        raw.anchors_at = U64::new(self.layout.anchors_at);
        raw.log_at = U64::new(self.layout.log_at);
        raw.log_slot_bytes = U64::new(self.layout.log_slot_bytes);
        raw.log_slots = U64::new(self.layout.log_slots);
        raw.regions_at = U64::new(self.layout.regions_at);
        raw.region_bytes = U64::new(self.layout.region_bytes);
        raw.regions = U64::new(self.layout.regions);
        raw.zone_bytes = U64::new(self.layout.zone_bytes);
        if let Some(MemberPlace { number, roles, first_region }) = self.place {
            raw.member = U16::new(number);
            raw.roles = U16::new(roles.bits());
            raw.first_region = U32::new(first_region);
        }
        raw.crc = U32::new(crc32c(&raw.as_bytes()[..CRC_AT]));
        IoBuf::copy_of(raw.as_bytes())
    }

    fn decode(bytes: &[u8]) -> SuperblockCopy {
        let Ok(raw) = Raw::ref_from_bytes(bytes) else {
            return SuperblockCopy::Damaged("length");
        };
        if bytes == unfinished().as_slice() {
            return SuperblockCopy::Unfinished;
        }
        let intact = raw.crc.get() == crc32c(&bytes[..CRC_AT]);
        if raw.magic != MAGIC {
            return match (intact, bytes.iter().all(|b| *b == 0)) {
                (_, true) => SuperblockCopy::Blank,
                (true, false) => SuperblockCopy::Damaged("magic"),
                (false, false) => SuperblockCopy::Foreign,
            };
        }
        if !intact {
            return SuperblockCopy::Damaged("checksum");
        }
        if raw.version.get() > FORMAT_VERSION {
            return SuperblockCopy::Newer(raw.version.get());
        }
        let flags_known = if raw.version.get() == VERSION_POOL { FLAGS_OF_A_POOL } else { FLAGS_ALONE };
        if raw.version.get() < VERSION_ALONE || raw.flags.get() & !flags_known != 0 {
            return SuperblockCopy::Damaged("version or flags");
        }
        // Zones are of version 3, and of it alone.
        let has_zones = raw.version.get() == FORMAT_VERSION;
        if raw.reserved.iter().any(|b| *b != 0) || has_zones != (raw.zone_bytes.get() > 0) {
            return SuperblockCopy::Damaged("reserved bytes");
        }
        if !GENERATIONS.contains(&raw.generation.get()) {
            return SuperblockCopy::Damaged("generation");
        }
        let layout = Layout {
            device_bytes: raw.device_bytes.get(),
            anchors_at: raw.anchors_at.get(),
            log_at: raw.log_at.get(),
            log_slot_bytes: raw.log_slot_bytes.get(),
            log_slots: raw.log_slots.get(),
            regions_at: raw.regions_at.get(),
            region_bytes: raw.region_bytes.get(),
            regions: raw.regions.get(),
            zone_bytes: raw.zone_bytes.get(),
        };
        if layout.check().is_err() {
            return SuperblockCopy::Damaged("layout");
        }
        let Some(place) = raw.place() else { return SuperblockCopy::Damaged("reserved bytes") };
        if !place.unwrap_or(MemberPlace::FIRST).fits(&layout) {
            return SuperblockCopy::Damaged("place in the pool");
        }
        SuperblockCopy::Valid(Superblock {
            cluster: Uuid(raw.cluster),
            node: Uuid(raw.node),
            device: Uuid(raw.device),
            generation: raw.generation.get(),
            failed: raw.flags.get() & FLAG_FAILED != 0,
            left: raw.flags.get() & FLAG_LEFT != 0,
            layout,
            place,
        })
    }

    /// Its number among the devices of the node.
    pub fn number(&self) -> u16 {
        self.place.map_or(0, |place| place.number)
    }
}

impl Raw {
    /// The place in the pool; None where bytes that have no meaning are not zero.
    fn place(&self) -> Option<Option<MemberPlace>> {
        let (number, first_region) = (self.member.get(), self.first_region.get());
        if self.version.get() != VERSION_POOL {
            return ((number, self.roles.get(), first_region) == (0, 0, 0)).then_some(None);
        }
        Some(Some(MemberPlace { number, roles: Roles::from_bits(self.roles.get())?, first_region }))
    }
}

/// What lies in the place of copy A while `format` is at work.
pub(crate) fn unfinished() -> [u8; SUPERBLOCK_BYTES] {
    let mut block = [0; SUPERBLOCK_BYTES];
    block[..MAGIC_UNFINISHED.len()].copy_from_slice(&MAGIC_UNFINISHED);
    block
}

/// Both copies as they are, for checkers. Reads only. An error: neither can be read.
pub async fn inspect(disk: &dyn Disk) -> Result<[SuperblockCopy; 2], DeviceError> {
    let [first, second] = SUPERBLOCK_COPIES_AT;
    let actual = disk.geometry().bytes;
    if actual < SUPERBLOCK_BYTES as u64 {
        return Err(DeviceError::NoRoom { actual });
    }
    let copies = [read_copy(disk, first).await, read_copy(disk, second).await];
    if let [SuperblockCopy::Unreadable(source), SuperblockCopy::Unreadable(_)] = copies {
        return Err(unreadable(first, source));
    }
    Ok(copies)
}

async fn read_copy(disk: &dyn Disk, offset: u64) -> SuperblockCopy {
    let done = disk.read(offset, IoBuf::stale(SUPERBLOCK_BYTES)).await;
    done.result.map_or_else(SuperblockCopy::Unreadable, |()| Superblock::decode(&done.buf))
}

fn unreadable(offset: u64, source: DiskError) -> DeviceError {
    DeviceError::Read { offset, bytes: SUPERBLOCK_BYTES, source }
}

/// Reads the superblock; never writes. One damaged or unreadable copy is survived.
///
/// Refuses with the variant that says why: blank, half formatted, foreign, of a newer version, damaged,
/// shrunk, or taken out of service.
pub async fn open(disk: &dyn Disk) -> Result<Superblock, DeviceError> {
    let copies = inspect(disk).await?;
    admit(disk, &copies).await
}

/// As [`open`], then makes both copies equal again where damage or a crash left only one: damage of that one
/// later would lose the device. Durable when it returns. Whoever writes to the device from now on takes this.
pub async fn recover(disk: &dyn Disk) -> Result<(Superblock, Option<Mended>), DeviceError> {
    let copies = inspect(disk).await?;
    let superblock = admit(disk, &copies).await?;
    let mut found = copies.into_iter().zip(SUPERBLOCK_COPIES_AT);
    let Some((was, offset)) = found.find(|(copy, _)| *copy != SuperblockCopy::Valid(superblock)) else {
        return Ok((superblock, None));
    };
    write_at(disk, offset, superblock.encode()).await?;
    flush(disk).await?;
    Ok((superblock, Some(Mended { offset, was })))
}

async fn admit(disk: &dyn Disk, copies: &[SuperblockCopy; 2]) -> Result<Superblock, DeviceError> {
    let superblock = match choose(copies) {
        Err(DeviceError::Blank) => return Err(blank_or_lost(disk).await?),
        chosen => chosen?,
    };
    let actual = disk.geometry().bytes;
    if actual < superblock.layout.device_bytes {
        return Err(DeviceError::Shrunk { actual, expected: superblock.layout.device_bytes });
    }
    if disk.geometry().zoning.map_or(0, |zoning| zoning.zone_bytes) != superblock.layout.zone_bytes {
        return Err(DeviceError::BadLayout { reason: "the device's zones are others than when it was formatted" });
    }
    if superblock.left {
        return Err(DeviceError::Left);
    }
    if superblock.failed {
        return Err(DeviceError::OutOfService);
    }
    Ok(superblock)
}

/// Why a device whose superblocks are blank is refused: they may have been lost.
async fn blank_or_lost(disk: &dyn Disk) -> Result<DeviceError, DeviceError> {
    let in_use = first_in_use(disk, disk.geometry().bytes).await?;
    Ok(in_use.map_or(DeviceError::Blank, |offset| DeviceError::HeadLost { offset }))
}

pub(crate) fn choose(copies: &[SuperblockCopy; 2]) -> Result<Superblock, DeviceError> {
    let newer = copies.iter().find_map(|copy| match copy {
        SuperblockCopy::Newer(found) => Some(*found),
        _ => None,
    });
    if let Some(found) = newer {
        return Err(DeviceError::NewerVersion { found, known: FORMAT_VERSION });
    }
    let valid = copies.iter().filter_map(|copy| match copy {
        SuperblockCopy::Valid(superblock) => Some(*superblock),
        _ => None,
    });
    if let Some(best) = valid.max_by_key(|superblock| superblock.generation) {
        return Ok(best);
    }
    for (copy, offset) in copies.iter().zip(SUPERBLOCK_COPIES_AT) {
        if let SuperblockCopy::Unreadable(source) = copy {
            return Err(unreadable(offset, *source));
        }
    }
    let damaged = copies.iter().find_map(|copy| match copy {
        SuperblockCopy::Damaged(reason) => Some(*reason),
        _ => None,
    });
    match damaged {
        Some(reason) => Err(DeviceError::SuperblockDamaged { reason }),
        None if copies.iter().all(|copy| *copy == SuperblockCopy::Blank) => Err(DeviceError::Blank),
        None if *copies == [SuperblockCopy::Unfinished, SuperblockCopy::Blank] => Err(DeviceError::Unfinished),
        None => Err(DeviceError::Foreign),
    }
}

/// Writes both copies, one after the other, each flushed.
pub(crate) async fn store(disk: &dyn Disk, superblock: &Superblock) -> Result<(), DeviceError> {
    for offset in SUPERBLOCK_COPIES_AT {
        write_at(disk, offset, superblock.encode()).await?;
        flush(disk).await?;
    }
    Ok(())
}

/// Records that the device is out of service. Each copy is tried once, whatever becomes of the
/// other: the device has just failed, and where flushes are refused since, a copy may be on stable
/// media all the same. The first error is answered.
pub async fn mark_failed(disk: &dyn Disk, superblock: &Superblock) -> Result<(), DeviceError> {
    let failed = Superblock { failed: true, generation: superblock.generation + 1, ..*superblock };
    let mut result = Ok(());
    for offset in SUPERBLOCK_COPIES_AT {
        let written = write_at(disk, offset, failed.encode()).await.map(drop);
        let flushed = flush(disk).await;
        result = result.and(written).and(flushed);
    }
    result
}

/// The superblock of a device that may be out of service, from the better copy. For checkers; reads only.
pub async fn newest(disk: &dyn Disk) -> Result<Superblock, DeviceError> {
    choose(&inspect(disk).await?)
}

/// Records that the device is not in the list of its node any more. Durable when it returns.
pub async fn mark_left(disk: &dyn Disk) -> Result<(), DeviceError> {
    let superblock = newest(disk).await?;
    store(disk, &Superblock { left: true, generation: superblock.generation + 1, ..superblock }).await
}

/// Takes a device back into service that [`mark_failed`] took out of it. Durable when it returns. Only for a device
/// whose whole content was found sound since: whatever was acknowledged before it failed had been flushed.
pub async fn return_to_service(disk: &dyn Disk) -> Result<(), DeviceError> {
    let superblock = newest(disk).await?;
    store(disk, &Superblock { failed: false, generation: superblock.generation + 1, ..superblock }).await
}

/// The superblock of the first device from when it gets company on: one that other devices may follow. The same
/// where it has some.
pub fn of_a_pool(superblock: &Superblock) -> Superblock {
    match superblock.place {
        Some(_) => *superblock,
        None => Superblock { generation: superblock.generation + 1, place: Some(MemberPlace::FIRST), ..*superblock },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LOG_SLOT_BYTES;

    fn sample() -> Superblock {
        Superblock {
            cluster: Uuid([1; 16]),
            node: Uuid([2; 16]),
            device: Uuid([3; 16]),
            generation: 5,
            failed: false,
            left: false,
            layout: Layout::derive(1 << 30, Some(LOG_SLOT_BYTES), None).expect("large enough"),
            place: None,
        }
    }

    fn sample_member() -> Superblock {
        let place = MemberPlace { number: 3, roles: Roles::DATA, first_region: 0x0102 };
        Superblock { layout: Layout::of_member(1 << 30).expect("large enough"), place: Some(place), ..sample() }
    }

    #[test]
    fn a_copy_has_these_bytes() {
        let mut expected = Vec::new();
        expected.extend(b"CoreFS\r\n\x01\x00\x00\x00\x00\x00\x00\x00");
        expected.extend([[1; 16], [2; 16], [3; 16]].concat());
        let layout = sample().layout;
        for number in [5, 1 << 30, 1 << 20, 17 << 20, 4 << 20, 27, 128 << 20, 64 << 20, 14] {
            expected.extend(u64::to_le_bytes(number));
        }
        assert_eq!(layout.log_slots, 27);
        expected.resize(CRC_AT, 0);
        let crc = crc32c(&expected);
        expected.extend(crc.to_le_bytes());
        assert_eq!(&sample().encode()[..], &expected[..]);
        assert_eq!(Superblock::decode(&expected), SuperblockCopy::Valid(sample()));
    }

    #[test]
    fn a_copy_of_a_member_has_these_bytes() {
        let mut expected = Vec::new();
        expected.extend(b"CoreFS\r\n\x02\x00\x00\x00\x00\x00\x00\x00");
        expected.extend([[1; 16], [2; 16], [3; 16]].concat());
        for number in [5, 1 << 30, 1 << 20, 17 << 20, 4 << 20, 0, 64 << 20, 64 << 20, 15] {
            expected.extend(u64::to_le_bytes(number));
        }
        expected.extend([3, 0, 4, 0, 2, 1, 0, 0]);
        expected.resize(CRC_AT, 0);
        let crc = crc32c(&expected);
        expected.extend(crc.to_le_bytes());
        assert_eq!(&sample_member().encode()[..], &expected[..]);
        assert_eq!(Superblock::decode(&expected), SuperblockCopy::Valid(sample_member()));
        let first = Superblock { place: Some(MemberPlace::FIRST), ..sample() };
        assert_eq!(Superblock::decode(&first.encode()), SuperblockCopy::Valid(first));
        let left = Superblock { left: true, ..sample_member() };
        assert_eq!(left.encode()[12..16], [2, 0, 0, 0]);
        assert_eq!(Superblock::decode(&left.encode()), SuperblockCopy::Valid(left));
    }

    #[test]
    fn a_place_that_contradicts_itself_is_refused() {
        let refused = |superblock: Superblock, reason| {
            assert_eq!(Superblock::decode(&superblock.encode()), SuperblockCopy::Damaged(reason), "{superblock:?}");
        };
        let member = |number, first_region| Some(MemberPlace { number, roles: Roles::DATA, first_region });
        refused(Superblock { place: member(0, 0), ..sample_member() }, "place in the pool");
        refused(Superblock { place: member(1, 2), ..sample() }, "place in the pool");
        refused(Superblock { place: member(0, 2), ..sample() }, "place in the pool");
        refused(Superblock { place: member(128, 2), ..sample_member() }, "place in the pool");
        refused(Superblock { place: member(1, u32::MAX), ..sample_member() }, "place in the pool");
        refused(Superblock { place: None, ..sample_member() }, "place in the pool");
    }

    #[test]
    fn no_flipped_byte_is_believed() {
        let good = sample().encode();
        for at in 0..SUPERBLOCK_BYTES {
            let mut bytes = good.to_vec();
            bytes[at] ^= 0x10;
            assert!(!matches!(Superblock::decode(&bytes), SuperblockCopy::Valid(_)), "byte {at}");
        }
    }

    #[test]
    fn a_newer_version_is_named_and_reserved_bytes_are_refused() {
        let sealed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = sample().encode().to_vec();
            change(&mut bytes);
            let crc = crc32c(&bytes[..CRC_AT]);
            bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            Superblock::decode(&bytes)
        };
        assert_eq!(sealed(&|b| b[8] = 9), SuperblockCopy::Newer(9));
        for at in [136, 138, 140, 4000] {
            assert_eq!(sealed(&|b| b[at] = 1), SuperblockCopy::Damaged("reserved bytes"));
        }
        assert_eq!(sealed(&|b| b[12] = 2), SuperblockCopy::Damaged("version or flags"));
    }

    #[test]
    fn the_reason_of_a_refusal_is_told_apart() {
        let good = SuperblockCopy::Valid(sample());
        let newer = SuperblockCopy::Valid(Superblock { generation: 6, ..sample() });
        assert_eq!(choose(&[good, newer]).map(|s| s.generation), Ok(6));
        assert_eq!(choose(&[SuperblockCopy::Damaged("x"), good]), Ok(sample()));
        assert_eq!(choose(&[SuperblockCopy::Blank; 2]), Err(DeviceError::Blank));
        let half = SuperblockCopy::Unfinished;
        assert_eq!(choose(&[half, SuperblockCopy::Blank]), Err(DeviceError::Unfinished));
        assert_eq!(choose(&[half, good]), Ok(sample()), "the format had destroyed nothing yet");
        assert_eq!(choose(&[SuperblockCopy::Foreign, SuperblockCopy::Blank]), Err(DeviceError::Foreign));
        let damaged = choose(&[SuperblockCopy::Damaged("checksum"), SuperblockCopy::Foreign]);
        assert_eq!(damaged, Err(DeviceError::SuperblockDamaged { reason: "checksum" }));
        let newer = choose(&[SuperblockCopy::Newer(3), good]);
        assert_eq!(newer, Err(DeviceError::NewerVersion { found: 3, known: FORMAT_VERSION }));
    }

    #[test]
    fn an_unfinished_format_has_these_bytes() {
        let mut expected = b"CfsHalf\n".to_vec();
        expected.resize(SUPERBLOCK_BYTES, 0);
        assert_eq!(Superblock::decode(&expected), SuperblockCopy::Unfinished);
        expected[9] = 1;
        assert_eq!(Superblock::decode(&expected), SuperblockCopy::Foreign);
    }

    #[test]
    fn uuids_print_in_groups() {
        assert_eq!(Uuid([0xab; 16]).to_string(), "abababab-abab-abab-abab-abababababab");
    }
}
