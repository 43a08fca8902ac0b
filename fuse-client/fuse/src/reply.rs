//! Encoding of replies.
//!
//! Invariant: what is written to the device is at most what the request allowed, and an entry or
//! attribute says exactly what the file system said.

use crate::abi::{AttrOut, EntryOut, FileAttr, OpenOut, STATX_MASK, StatfsOut, Statx, StatxOut, SxTime, fopen};
use crate::errno::Errno;
use crate::file_system::{Caching, Data, Opened};
use cfs_types::{FsError, NAME_BYTES_MAX, Nanos};
use cfs_volume::{Entry, Handle, Lookup};
use cfs_wire::{Attr, FileKind, Volume};
use std::time::Duration;
use zerocopy::IntoBytes;

/// `st_blksize`: what programs take as a good size of a buffer.
const PREFERRED_IO_BYTES: u32 = 64 << 10;
/// Unit of statfs.
const STATFS_UNIT_BYTES: u32 = 4096;

/// What follows the header of a reply.
pub enum Body<D> {
    /// Nothing.
    Empty,
    /// Structures and short bytes.
    Bytes(Vec<u8>),
    /// At most so many first bytes of what was read.
    Data(D, usize),
}

impl<D: Data> Body<D> {
    /// The bytes to send, in parts.
    pub fn slices(&self) -> Vec<&[u8]> {
        match self {
            Body::Empty => Vec::new(),
            Body::Bytes(bytes) => vec![bytes],
            Body::Data(data, len) => {
                let within = data.slices().scan(*len, |room, slice| {
                    let first = &slice[..slice.len().min(*room)];
                    *room -= first.len();
                    Some(first)
                });
                within.collect()
            }
        }
    }
    /// A structure's bytes.
    pub fn of(value: &(impl IntoBytes + zerocopy::Immutable)) -> Self {
        Body::Bytes(value.as_bytes().to_vec())
    }
}

/// A reply before it is sent.
pub struct Answer<D> {
    /// Body or error.
    pub result: Result<Body<D>, Errno>,
    /// The handle it hands to the kernel: to be released if the kernel does not take it.
    pub opened: Option<Handle>,
}

impl<D> Answer<D> {
    /// A failure.
    pub fn failed(error: FsError) -> Self {
        Answer { result: Err(error.into()), opened: None }
    }
}

impl<D> From<Body<D>> for Answer<D> {
    fn from(body: Body<D>) -> Self {
        Answer { result: Ok(body), opened: None }
    }
}

/// Attributes as the kernel has them.
pub fn file_attr(attr: &Attr) -> FileAttr {
    let ((atime, atimensec), (mtime, mtimensec), (ctime, ctimensec)) =
        (attr.atime.to_timespec(), attr.mtime.to_timespec(), attr.ctime.to_timespec());
    FileAttr {
        ino: attr.ino.get(),
        size: attr.size,
        blocks: attr.blocks,
        atime: atime.cast_unsigned(),
        mtime: mtime.cast_unsigned(),
        ctime: ctime.cast_unsigned(),
        atimensec,
        mtimensec,
        ctimensec,
        mode: kind_bits(attr.kind) | u32::from(attr.mode),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: PREFERRED_IO_BYTES,
        flags: 0,
    }
}

/// The S_IFMT bits.
pub fn kind_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

/// Reply to GETATTR and SETATTR.
pub fn attr_out(attr: &Attr, ttl: Duration) -> AttrOut {
    AttrOut { attr_valid: ttl.as_secs(), attr_valid_nsec: ttl.subsec_nanos(), dummy: 0, attr: file_attr(attr) }
}

/// Reply to LOOKUP and everything that makes a name. Inode numbers are never reused, so the
/// generation is always 0.
pub fn entry_out(entry: &Entry) -> EntryOut {
    EntryOut {
        nodeid: entry.attr.ino.get(),
        generation: 0,
        entry_valid: entry.entry_ttl.as_secs(),
        attr_valid: entry.attr_ttl.as_secs(),
        entry_valid_nsec: entry.entry_ttl.subsec_nanos(),
        attr_valid_nsec: entry.attr_ttl.subsec_nanos(),
        attr: file_attr(&entry.attr),
    }
}

/// A missing name is an entry without inode where the kernel may remember it.
pub fn lookup_out(lookup: &Lookup) -> Result<EntryOut, FsError> {
    match lookup {
        Lookup::Found(entry) => Ok(entry_out(entry)),
        Lookup::Missing { ttl } if ttl.is_zero() => Err(FsError::NotFound),
        Lookup::Missing { ttl } => {
            Ok(EntryOut { entry_valid: ttl.as_secs(), entry_valid_nsec: ttl.subsec_nanos(), ..EntryOut::default() })
        }
    }
}

/// Reply to OPEN.
pub fn open_out(opened: &Opened) -> OpenOut {
    let caching = match opened.caching {
        Caching::Keep => fopen::KEEP_CACHE,
        Caching::Fresh => 0,
        Caching::Direct => fopen::DIRECT_IO,
    };
    // Concerns programs' own O_DIRECT as well.
    let open_flags = caching | fopen::PARALLEL_DIRECT_WRITES;
    OpenOut { fh: opened.handle.get(), open_flags, backing_id: 0 }
}

/// Reply to STATX.
pub fn statx_out(attr: &Attr, ttl: Duration) -> StatxOut {
    let basic = file_attr(attr);
    let time = |at: Nanos| {
        let (tv_sec, tv_nsec) = at.to_timespec();
        SxTime { tv_sec, tv_nsec, reserved: 0 }
    };
    let stat = Statx {
        mask: STATX_MASK,
        blksize: basic.blksize,
        nlink: basic.nlink,
        uid: basic.uid,
        gid: basic.gid,
        mode: u16::try_from(basic.mode).expect("kind and mode are 16 bits"),
        ino: basic.ino,
        size: basic.size,
        blocks: basic.blocks,
        atime: time(attr.atime),
        btime: time(attr.btime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major: libc::major(u64::from(attr.rdev)),
        rdev_minor: libc::minor(u64::from(attr.rdev)),
        ..Statx::default()
    };
    StatxOut { attr_valid: ttl.as_secs(), attr_valid_nsec: ttl.subsec_nanos(), stat, ..StatxOut::default() }
}

/// Reply to STATFS.
pub fn statfs_out(volume: &Volume) -> StatfsOut {
    let units = |bytes: u64| bytes / u64::from(STATFS_UNIT_BYTES);
    StatfsOut {
        blocks: units(volume.bytes),
        bfree: units(volume.bytes_free),
        bavail: units(volume.bytes_free),
        files: volume.inodes.saturating_add(volume.inodes_free),
        ffree: volume.inodes_free,
        bsize: STATFS_UNIT_BYTES,
        namelen: u32::try_from(NAME_BYTES_MAX).expect("255"),
        frsize: STATFS_UNIT_BYTES,
        ..StatfsOut::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_types::InodeId;

    pub fn attr() -> Attr {
        Attr {
            ino: InodeId::from_raw(0x1234).expect("valid"),
            kind: FileKind::File,
            mode: 0o4755,
            nlink: 2,
            uid: 1000,
            gid: 100,
            rdev: 0,
            size: 5,
            blocks: 8,
            atime: Nanos::new(1_000_000_001),
            mtime: Nanos::new(-1),
            ctime: Nanos::new(3_000_000_003),
            btime: Nanos::new(4_000_000_004),
            change: 7,
            epoch: 0,
            sequence: 0,
        }
    }

    #[test]
    fn an_entry_is_the_kernels_128_bytes() {
        let (entry_ttl, attr_ttl) = (Duration::from_millis(1500), Duration::from_secs(2));
        let out = entry_out(&Entry { attr: attr(), entry_ttl, attr_ttl });
        let words64: [u64; 10] = [0x1234, 0, 1, 2, 500_000_000, 0x1234, 5, 8, 1, u64::MAX];
        let mut golden: Vec<u8> = words64.iter().flat_map(|w| w.to_le_bytes()).collect();
        golden.extend(3u64.to_le_bytes());
        let words32 = [1, 999_999_999, 3, 0o104_755, 2, 1000, 100, 0, 65_536, 0u32];
        golden.extend(words32.iter().flat_map(|w| w.to_le_bytes()));
        assert_eq!(out.as_bytes(), golden);
    }

    #[test]
    fn a_missing_name_is_remembered_only_under_a_lease() {
        assert_eq!(lookup_out(&Lookup::Missing { ttl: Duration::ZERO }), Err(FsError::NotFound));
        let out = lookup_out(&Lookup::Missing { ttl: Duration::from_nanos(1_000_000_007) }).expect("cached");
        assert_eq!((out.nodeid, out.entry_valid, out.entry_valid_nsec), (0, 1, 7));
    }

    #[test]
    fn direct_writes_may_be_parallel_and_kept_pages_are_announced() {
        let flags = |caching| open_out(&Opened { handle: Handle::new(9), caching }).open_flags;
        assert_eq!([flags(Caching::Keep), flags(Caching::Fresh), flags(Caching::Direct)], [0x42, 0x40, 0x41]);
    }

    #[test]
    fn statx_tells_the_birth_time() {
        let out = statx_out(&attr(), Duration::from_secs(1));
        assert_eq!((out.stat.btime.tv_sec, out.stat.btime.tv_nsec), (4, 4));
        assert_eq!((out.stat.mtime.tv_sec, out.stat.mtime.tv_nsec), (-1, 999_999_999));
        assert_eq!(out.stat.mask & 0x800, 0x800);
    }

    #[test]
    fn statfs_counts_inodes_in_use_and_free() {
        let out = statfs_out(&Volume { bytes: 40_960, bytes_free: 8192, inodes: 3, inodes_free: 7 });
        assert_eq!((out.blocks, out.bfree, out.files, out.ffree, out.namelen), (10, 2, 10, 7, 255));
    }
}
