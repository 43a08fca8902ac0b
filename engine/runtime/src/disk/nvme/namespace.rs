//! What the controller says of a namespace, asked by the kernel's synchronous door when it is opened.
#![allow(unsafe_code)]

use super::command::{Command, IOCTL_ADMIN, IOCTL_ID, IOCTL_IO, Status};
use super::placement::Placement;
use super::zones::{self, ZONED_COMMAND_SET};
use cfs_seam::{BLOCK_BYTES, Geometry, Lifetime, Zones};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of one command where nobody says how long they may be: what every controller takes (Base, 'Identify Controller',
/// MDTS: the smallest power of two that is in use is 128 KiB).
const TRANSFER_BYTES_FALLBACK: u64 = 128 << 10;
/// Longest list of placement handles that is read; the field could say 65,535.
const HANDLES_MAX: usize = 128;
/// Volatile Write Cache and Flexible Data Placement (Base, 'Feature Identifiers').
const FEATURE_WRITE_CACHE: u8 = 0x06;
const FEATURE_PLACEMENT: u8 = 0x1D;
/// Bits of Controller Attributes (CTRATT): Flexible Data Placement supported.
const ATTRIBUTE_PLACEMENT: u32 = 1 << 19;

/// What a namespace is.
#[derive(Debug)]
pub(in crate::disk) struct Namespace {
    /// Its number.
    pub(super) number: u32,
    /// Binary logarithm of its logical block's bytes.
    pub(super) block_shift: u32,
    /// Bytes of one command at most, a multiple of 4 KiB.
    pub(super) transfer_bytes_max: usize,
    /// It takes Dataset Management.
    pub(super) deallocates: bool,
    pub(super) placement: Placement,
    /// Of the FDP pages; 0 where it has none.
    group: u16,
    identity: NvmeIdentity,
    geometry: Geometry,
    zones: Option<Zones>,
    /// The same namespace as a block device, held so that nobody mounts it. None where the system shows none.
    _claim: Option<File>,
}

/// Who the device says it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NvmeIdentity {
    /// Model, as the controller writes it.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Number of placement handles that are written to; 0 without Flexible Data Placement.
    pub placement_handles: usize,
    /// Number of its zones; 0 where it has none.
    pub zones: u32,
}

/// What the device has counted of its own wear (Base, 'SMART / Health Information' and 'FDP Statistics').
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NvmeWear {
    /// Critical Warning, a bit for each reason; 0 is well.
    pub critical_warning: u8,
    /// Spare capacity that is left, percent.
    pub spare_percent: u8,
    /// Endurance used up, percent; may be above 100.
    pub used_percent: u8,
    /// Times the controller found data that it could not correct.
    pub media_errors: u64,
    /// With Flexible Data Placement: bytes that hosts wrote and bytes that the media took for them and for the device's own
    /// moving; their ratio is its write amplification.
    pub host_and_media_bytes: Option<(u64, u64)>,
}

impl Namespace {
    /// Asks the controller behind an open `/dev/ngXnY`. Err says in words why the namespace is of no use.
    pub fn identify(file: &File) -> io::Result<Self> {
        let number = namespace_number(file)?;
        let mut controller = [0; 4096];
        admin(file, Command::identify(0x01, 0, &mut controller))?;
        let set = command_set(file, number);
        if set != 0 && set != ZONED_COMMAND_SET {
            return Err(refused(
                "it has keys and values; CoreFS takes namespaces of the NVM and the zoned command set",
            ));
        }
        let Size { bytes, block_shift, group, format, reads_zeros } = size(file, number)?;
        if set == ZONED_COMMAND_SET && !reads_zeros {
            return Err(refused("blocks of its zones that were not written do not read as zeros"));
        }
        let zones = (set == ZONED_COMMAND_SET)
            .then(|| zones::identify(file, number, bytes >> block_shift, block_shift, format))
            .transpose()?;
        let placement = placement(file, number, group, word(&controller, 96))?;
        let caches = controller[525] & 1 == 1;
        let volatile_cache = caches && feature(file, FEATURE_WRITE_CACHE, 0).is_none_or(|value| value & 1 == 1);
        let geometry = Geometry { bytes, block_bytes: 1 << block_shift, volatile_cache, fua: caches, zoning: None };
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&controller[range]).trim().to_owned();
        let placement_handles = placement.identifiers().len();
        Ok(Namespace {
            number,
            block_shift,
            transfer_bytes_max: transfer_bytes_max(file, controller[77]),
            deallocates: half(&controller, 520) >> 2 & 1 == 1,
            placement,
            group,
            identity: NvmeIdentity {
                model: text(24..64),
                serial: text(4..24),
                placement_handles,
                zones: zones.map_or(0, |zones| zones.count),
            },
            geometry,
            zones,
            _claim: claim(file)?,
        })
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
    /// Its zones, where it has some.
    pub fn zones(&self) -> Option<Zones> {
        self.zones
    }
    pub fn identity(&self) -> &NvmeIdentity {
        &self.identity
    }
    /// Its size now, bytes: it may have been deleted and made anew.
    pub fn bytes_now(&self, file: &File) -> io::Result<u64> {
        size(file, self.number).map(|size| size.bytes)
    }
    /// The placement identifier of what core `core` writes of a class.
    pub fn placement_of(&self, class: Lifetime, core: usize) -> Option<u16> {
        self.placement.of(class, core)
    }

    /// What it has counted since it was made. Needs the right to send admin commands.
    pub fn wear(&self, file: &File) -> io::Result<NvmeWear> {
        let mut page = [0; 512];
        admin(file, Command::get_log(0x02, 0, u32::MAX, &mut page))?;
        let mut statistics = [0; 64];
        let has_placement = self.identity.placement_handles > 0;
        let counted = has_placement && admin(file, Command::get_log(0x22, self.group, 0, &mut statistics)).is_ok();
        Ok(NvmeWear {
            critical_warning: page[0],
            spare_percent: page[3],
            used_percent: page[5],
            media_errors: quad(&page, 160),
            host_and_media_bytes: counted.then(|| (quad(&statistics, 0), quad(&statistics, 16))),
        })
    }
}

/// What a namespace says of its size (Base, 'Identify Namespace'; NVM, 'Identify Namespace data structure').
struct Size {
    bytes: u64,
    block_shift: u32,
    /// Endurance group.
    group: u16,
    /// Number of its format.
    format: usize,
    /// What was not written reads as zeros (DLFEAT).
    reads_zeros: bool,
}

fn size(file: &File, number: u32) -> io::Result<Size> {
    let mut data = [0; 4096];
    admin(file, Command::identify(0x00, number, &mut data))?;
    let format = usize::from(data[26] & 0xf | (data[26] >> 5 & 3) << 4);
    let at = 128 + 4 * format;
    let (metadata_bytes, shift) = (half(&data, at), u32::from(data[at + 2]));
    if metadata_bytes != 0 {
        return Err(refused("its blocks carry metadata; format it without (nvme format --ms=0 --lbaf=...)"));
    }
    if !(9..=12).contains(&shift) {
        return Err(refused("its logical blocks are neither of 512 bytes nor of up to 4096"));
    }
    let blocks = quad(&data, 0);
    let bytes = blocks.checked_shl(shift).filter(|bytes| bytes >> shift == blocks && *bytes > 0);
    let bytes = bytes.ok_or_else(|| refused("it has no blocks"))?;
    Ok(Size { bytes, block_shift: shift, group: half(&data, 102), format, reads_zeros: data[33] & 7 == 1 })
}

/// The command set of a namespace: the identifier of type 04h in its list (Base, 'Namespace Identification Descriptor').
fn command_set(file: &File, number: u32) -> u8 {
    let mut data = [0; 4096];
    // Controllers before 1.3 have no list, and the NVM command set only.
    if admin(file, Command::identify(0x03, number, &mut data)).is_err() {
        return 0;
    }
    let mut rest = data.as_slice();
    while let [kind, length, _, _, value, ..] = *rest {
        match kind {
            0 => break,
            4 => return value,
            _ => {}
        }
        rest = rest.get(4 + usize::from(length)..).unwrap_or_default();
    }
    0
}

/// The handles of a namespace, where Flexible Data Placement is supported and on in its endurance group.
fn placement(file: &File, number: u32, group: u16, attributes: u32) -> io::Result<Placement> {
    let enabled = || feature(file, FEATURE_PLACEMENT, group.into()).is_some_and(|value| value & 1 == 1);
    if attributes & ATTRIBUTE_PLACEMENT == 0 || !enabled() {
        return Ok(Placement::default());
    }
    let mut data = [0; 16 + 32 * HANDLES_MAX];
    // Its head alone tells how many there are; asked for more than that, a controller may refuse.
    answer(file, IOCTL_IO, Command::handle_status(number, &mut data[..16]))?;
    let count = usize::from(half(&data, 14)).min(HANDLES_MAX);
    answer(file, IOCTL_IO, Command::handle_status(number, &mut data[..16 + 32 * count]))?;
    Ok(Placement::new((0..count).map(|at| half(&data, 16 + 32 * at)).collect()))
}

/// Bytes that one command may carry: what the controller says (MDTS, in pages of 4 KiB at least), and what the kernel's queue
/// takes of pages that lie anywhere in memory.
fn transfer_bytes_max(file: &File, mdts: u8) -> usize {
    let controller = if mdts == 0 { u64::MAX } else { 4096u64.checked_shl(mdts.into()).unwrap_or(u64::MAX) };
    let queue = |name: &str| {
        let block = block_name(file)?;
        fs::read_to_string(format!("/sys/block/{block}/queue/{name}")).ok()?.trim().parse::<u64>().ok()
    };
    let page = u64::try_from(BLOCK_BYTES).expect("4 KiB");
    let bytes = queue("max_hw_sectors_kb").map(|kib| kib << 10).unwrap_or(TRANSFER_BYTES_FALLBACK);
    let segments = queue("max_segments").map(|count| count * page).unwrap_or(TRANSFER_BYTES_FALLBACK);
    let bytes = controller.min(bytes).min(segments).clamp(page, 1 << 20);
    usize::try_from(bytes - bytes % page).expect("at most a mebibyte")
}

/// The name of the same namespace as a block device: `ng0n1` and `nvme0n1`.
fn block_name(file: &File) -> Option<String> {
    let number = file.metadata().ok()?.rdev();
    let link = fs::read_link(format!("/sys/dev/char/{}:{}", libc::major(number), libc::minor(number))).ok()?;
    let name = link.file_name()?.to_str()?.strip_prefix("ng")?;
    Some(format!("nvme{name}"))
}

/// Claims the block device of the namespace. Busy where somebody has mounted it or has it open exclusively.
fn claim(file: &File) -> io::Result<Option<File>> {
    let Some(path) = block_name(file).map(|name| Path::new("/dev").join(name)) else { return Ok(None) };
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path) {
        Ok(block) => Ok(Some(block)),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn refused(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

fn half(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(data[at..at + 2].try_into().expect("two bytes"))
}
pub(super) fn word(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes"))
}
pub(super) fn quad(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes"))
}

fn namespace_number(file: &File) -> io::Result<u32> {
    // SAFETY: takes no pointers.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), IOCTL_ID) };
    u32::try_from(crate::system::check(answer)?).map_err(|_| refused("it has no number"))
}

fn feature(file: &File, feature: u8, dword11: u32) -> Option<u32> {
    answer(file, IOCTL_ADMIN, Command::get_feature(feature, dword11)).ok()
}

pub(super) fn admin(file: &File, command: Command) -> io::Result<()> {
    answer(file, IOCTL_ADMIN, command).map(drop)
}

/// Sends a command and waits for it; answers dword 0 of its completion. The buffer that it names must be alive, which
/// the borrow in every constructor's argument does not carry: private to this file for that reason.
pub(super) fn answer(file: &File, door: libc::Ioctl, mut command: Command) -> io::Result<u32> {
    // SAFETY: the kernel reads and writes one `Command`, and the buffer in it, which the callers above keep on their stack.
    let status = crate::system::check(unsafe { libc::ioctl(file.as_raw_fd(), door, &raw mut command) })?;
    match u16::try_from(status) {
        Ok(0) => Ok(command.result),
        Ok(status) => Err(io::Error::other(format!("NVMe status {:#05x}", Status(status).code()))),
        Err(_) => Err(refused("the kernel's answer is no NVMe status")),
    }
}
