//! The kernel's FUSE structures and numbers, as `include/uapi/linux/fuse.h` of Linux 6.18
//! (protocol 7.45) has them.
//!
//! Invariants: every structure is plain bytes without implicit padding (checked by the derives) and
//! its size is asserted. All integers are in the machine's byte order: both sides share the CPU.

mod opcode;

pub use opcode::Opcode;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol major version.
pub const MAJOR: u32 = 7;
/// Newest minor version this crate knows.
pub const MINOR: u32 = 45;
/// Oldest minor version it serves (Linux 5.10): before it structures were shorter.
pub const MINOR_OLDEST: u32 = 32;

/// First minor version with `NOTIFY_INC_EPOCH`.
pub const MINOR_INC_EPOCH: u32 = 44;

macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident $size:literal { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

layout! {
    /// Begins every request.
    InHeader 40 {
        /// Bytes of the request with this header.
        len: u32,
        opcode: u32,
        /// Names the request; its reply repeats it. Bit 0 is set only in interrupts.
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        /// Thread that asks, in the mounter's pid namespace; 0 if it has no number there.
        pid: u32,
        /// Bytes of extensions behind the arguments, in units of 8.
        total_extlen: u16,
        padding: u16,
    }
    /// Begins every reply and notification.
    OutHeader 16 {
        len: u32,
        /// Negative errno, 0, or a notification's code.
        error: i32,
        /// 0 in notifications.
        unique: u64,
    }
    InitIn 64 {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        flags2: u32,
        unused: [u32; 11],
    }
    InitOut 64 {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_gran: u32,
        max_pages: u16,
        map_alignment: u16,
        flags2: u32,
        max_stack_depth: u32,
        request_timeout: u16,
        unused: [u16; 11],
    }
    FileAttr 88 {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }
    EntryOut 128 {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: FileAttr,
    }
    AttrOut 104 {
        attr_valid: u64,
        attr_valid_nsec: u32,
        dummy: u32,
        attr: FileAttr,
    }
    SetattrIn 88 {
        valid: u32,
        padding: u32,
        fh: u64,
        size: u64,
        lock_owner: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        unused4: u32,
        uid: u32,
        gid: u32,
        unused5: u32,
    }
    StatxIn 24 {
        getattr_flags: u32,
        reserved: u32,
        fh: u64,
        sx_flags: u32,
        sx_mask: u32,
    }
    SxTime 16 {
        tv_sec: i64,
        tv_nsec: u32,
        reserved: i32,
    }
    Statx 256 {
        mask: u32,
        blksize: u32,
        attributes: u64,
        nlink: u32,
        uid: u32,
        gid: u32,
        mode: u16,
        spare0: u16,
        ino: u64,
        size: u64,
        blocks: u64,
        attributes_mask: u64,
        atime: SxTime,
        btime: SxTime,
        ctime: SxTime,
        mtime: SxTime,
        rdev_major: u32,
        rdev_minor: u32,
        dev_major: u32,
        dev_minor: u32,
        spare2: [u64; 14],
    }
    StatxOut 288 {
        attr_valid: u64,
        attr_valid_nsec: u32,
        flags: u32,
        spare: [u64; 2],
        stat: Statx,
    }
    MknodIn 16 {
        mode: u32,
        rdev: u32,
        umask: u32,
        padding: u32,
    }
    MkdirIn 8 {
        mode: u32,
        umask: u32,
    }
    RenameIn 8 {
        newdir: u64,
    }
    Rename2In 16 {
        newdir: u64,
        flags: u32,
        padding: u32,
    }
    LinkIn 8 {
        oldnodeid: u64,
    }
    OpenIn 8 {
        flags: u32,
        open_flags: u32,
    }
    CreateIn 16 {
        flags: u32,
        mode: u32,
        umask: u32,
        open_flags: u32,
    }
    OpenOut 16 {
        fh: u64,
        open_flags: u32,
        backing_id: i32,
    }
    ReleaseIn 24 {
        fh: u64,
        flags: u32,
        release_flags: u32,
        lock_owner: u64,
    }
    FlushIn 24 {
        fh: u64,
        unused: u32,
        padding: u32,
        lock_owner: u64,
    }
    /// READ, READDIR and READDIRPLUS.
    ReadIn 40 {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    WriteIn 40 {
        fh: u64,
        offset: u64,
        size: u32,
        write_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    WriteOut 8 {
        size: u32,
        padding: u32,
    }
    StatfsOut 80 {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }
    FsyncIn 16 {
        fh: u64,
        fsync_flags: u32,
        padding: u32,
    }
    /// Without SETXATTR_EXT the kernel sends these eight bytes only.
    SetxattrIn 8 {
        size: u32,
        flags: u32,
    }
    GetxattrIn 8 {
        size: u32,
        padding: u32,
    }
    GetxattrOut 8 {
        size: u32,
        padding: u32,
    }
    InterruptIn 8 {
        /// The request to interrupt.
        unique: u64,
    }
    FallocateIn 32 {
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
        padding: u32,
    }
    LseekIn 24 {
        fh: u64,
        offset: u64,
        whence: u32,
        padding: u32,
    }
    LseekOut 8 {
        offset: u64,
    }
    /// Followed by the name, padded with zeros to a multiple of 8.
    Dirent 24 {
        ino: u64,
        off: u64,
        namelen: u32,
        kind: u32,
    }
    /// Body of NOTIFY_INVAL_INODE.
    InvalInodeOut 24 {
        ino: u64,
        off: i64,
        len: i64,
    }
    /// Body of NOTIFY_INVAL_ENTRY; followed by the name and a NUL.
    InvalEntryOut 16 {
        parent: u64,
        namelen: u32,
        flags: u32,
    }
}

/// Bits of `SetattrIn::valid`.
pub mod fattr {
    /// Mode bits.
    pub const MODE: u32 = 1 << 0;
    /// Owner.
    pub const UID: u32 = 1 << 1;
    /// Group.
    pub const GID: u32 = 1 << 2;
    /// Truncate or extend.
    pub const SIZE: u32 = 1 << 3;
    /// Access time.
    pub const ATIME: u32 = 1 << 4;
    /// Modification time.
    pub const MTIME: u32 = 1 << 5;
    /// Access time is now.
    pub const ATIME_NOW: u32 = 1 << 7;
    /// Modification time is now.
    pub const MTIME_NOW: u32 = 1 << 8;
    /// Change time (writeback cache only).
    pub const CTIME: u32 = 1 << 10;
    /// Clear setuid and setgid.
    pub const KILL_SUIDGID: u32 = 1 << 11;
    /// All that are changes; the others say who asks.
    pub const CHANGES: u32 = MODE | UID | GID | SIZE | ATIME | MTIME | ATIME_NOW | MTIME_NOW | CTIME | KILL_SUIDGID;
}

/// Flags of a reply to OPEN or CREATE.
pub mod fopen {
    /// Bypass the page cache.
    pub const DIRECT_IO: u32 = 1 << 0;
    /// Pages of an earlier open stay valid.
    pub const KEEP_CACHE: u32 = 1 << 1;
    /// The server orders concurrent direct writes: the kernel need not.
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// Bits of `WriteIn::write_flags`.
pub mod write_flag {
    /// Late write of the page cache (shared mmap): the handle is guessed.
    pub const CACHE: u32 = 1 << 0;
    /// Clear setuid and setgid.
    pub const KILL_SUIDGID: u32 = 1 << 2;
}

/// Codes of notifications.
pub mod notify {
    /// Forget attributes and pages of an inode.
    pub const INVAL_INODE: i32 = 2;
    /// Forget a name.
    pub const INVAL_ENTRY: i32 = 3;
    /// All names must be looked up again; takes no lock.
    pub const INC_EPOCH: i32 = 8;
}

/// `STATX_BASIC_STATS | STATX_BTIME`.
pub const STATX_MASK: u32 = 0xfff;
