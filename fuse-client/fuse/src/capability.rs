//! INIT: what the kernel offers, what this crate wants, what both agree on.

use crate::abi::{InitIn, InitOut, MAJOR, MINOR, MINOR_OLDEST};
use cfs_types::FsError;

/// Largest WRITE and READ, bytes.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// Pages of the largest transfer.
const PAGES_MAX: u16 = 256;
/// Asynchronous requests (readahead, asynchronous direct I/O, late writes) the kernel keeps in flight.
pub const BACKGROUND_MAX: u16 = 256;
/// From here on the kernel slows down writers (three quarters, as libfuse has it).
const CONGESTION_THRESHOLD: u16 = 192;

/// A named INIT flag and whether this crate asks for it.
struct Flag {
    bit: u8,
    name: &'static str,
    wanted: bool,
}

const fn flag(bit: u8, name: &'static str, wanted: bool) -> Flag {
    Flag { bit, name, wanted }
}

/// INIT flags of protocol 7.45. Wanted or not, with the reason where it is not obvious.
const FLAGS: &[Flag] = &[
    flag(0, "ASYNC_READ", true),
    // Locks: local to the kernel until the server has them; two mounts do not see each other's.
    flag(1, "POSIX_LOCKS", false),
    flag(2, "FILE_OPS", false),
    // Without it open(O_TRUNC) is OPEN and SETATTR: as many requests, no special case.
    flag(3, "ATOMIC_O_TRUNC", false),
    flag(4, "EXPORT_SUPPORT", false),
    flag(5, "BIG_WRITES", true),
    // Off: the kernel applies the umask.
    flag(6, "DONT_MASK", false),
    flag(7, "SPLICE_WRITE", false),
    flag(8, "SPLICE_MOVE", false),
    flag(9, "SPLICE_READ", false),
    flag(10, "FLOCK_LOCKS", false),
    flag(11, "HAS_IOCTL_DIR", false),
    // A cached read whose attributes have timed out asks for them and drops the pages if size or
    // mtime changed: so pages never outlive the lease that covers the attributes.
    flag(12, "AUTO_INVAL_DATA", true),
    flag(13, "DO_READDIRPLUS", true),
    flag(14, "READDIRPLUS_AUTO", true),
    flag(15, "ASYNC_DIO", true),
    // Only under an exclusive mount: the kernel would distrust the server's size and times.
    flag(16, "WRITEBACK_CACHE", false),
    flag(17, "NO_OPEN_SUPPORT", false),
    flag(18, "PARALLEL_DIROPS", true),
    flag(19, "HANDLE_KILLPRIV", false),
    flag(20, "POSIX_ACL", false),
    flag(21, "ABORT_ERROR", false),
    flag(22, "MAX_PAGES", true),
    // A symlink's target never changes and inode numbers are not reused.
    flag(23, "CACHE_SYMLINKS", true),
    // It would also let the kernel cache listings beyond the lease.
    flag(24, "NO_OPENDIR_SUPPORT", false),
    flag(25, "EXPLICIT_INVAL_DATA", false),
    flag(26, "MAP_ALIGNMENT", false),
    flag(27, "SUBMOUNTS", false),
    // The kernel says when setuid and setgid must go; the server clears them with the write.
    flag(28, "HANDLE_KILLPRIV_V2", true),
    flag(29, "SETXATTR_EXT", false),
    flag(30, "INIT_EXT", true),
    flag(32, "SECURITY_CTX", false),
    flag(33, "HAS_INODE_DAX", false),
    flag(34, "CREATE_SUPP_GROUP", false),
    flag(35, "HAS_EXPIRE_ONLY", false),
    // Files opened for direct I/O can still be mapped shared.
    flag(36, "DIRECT_IO_ALLOW_MMAP", true),
    flag(37, "PASSTHROUGH", false),
    flag(38, "NO_EXPORT_SUPPORT", false),
    flag(39, "HAS_RESEND", false),
    flag(40, "ALLOW_IDMAP", false),
    flag(41, "OVER_IO_URING", false),
    flag(42, "REQUEST_TIMEOUT", false),
];

/// A set of INIT flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// What this crate asks for.
    pub fn wanted() -> Self {
        Capabilities(FLAGS.iter().filter(|f| f.wanted).fold(0, |bits, f| bits | 1 << f.bit))
    }
    /// Joins the two words of INIT.
    pub fn from_words(flags: u32, flags2: u32) -> Self {
        Capabilities(u64::from(flags) | u64::from(flags2) << 32)
    }
    /// (flags, flags2) as INIT has them.
    pub fn words(self) -> (u32, u32) {
        let [a, b, c, d, e, f, g, h] = self.0.to_le_bytes();
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    }
    /// In both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Capabilities(self.0 & other.0)
    }
    /// Whether the flag of this name is in the set.
    pub fn has(self, name: &str) -> bool {
        FLAGS.iter().any(|f| f.name == name && self.0 & 1 << f.bit != 0)
    }
    /// Names of the flags in the set; flags unknown to protocol 7.45 are left out.
    pub fn names(self) -> Vec<&'static str> {
        FLAGS.iter().filter(|f| self.0 & 1 << f.bit != 0).map(|f| f.name).collect()
    }
}

/// Outcome of INIT, for `--show-capabilities` and logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// Minor version both sides speak.
    pub minor: u32,
    /// What the kernel offered.
    pub offered: Capabilities,
    /// What is in force.
    pub agreed: Capabilities,
    /// Readahead window, bytes.
    pub readahead_bytes: u32,
}

/// What INIT is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitAnswer {
    /// The kernel speaks a newer major version: it asks again with ours.
    AskAgain(InitOut),
    /// The session begins.
    Agreed(InitOut, Negotiated),
}

/// Decides what is in force. `NotSupported` where the kernel is older than Linux 5.10.
pub fn negotiate(init: &InitIn) -> Result<InitAnswer, FsError> {
    if init.major > MAJOR {
        return Ok(InitAnswer::AskAgain(InitOut { major: MAJOR, minor: MINOR, ..InitOut::default() }));
    }
    if init.major < MAJOR || init.minor < MINOR_OLDEST {
        return Err(FsError::NotSupported);
    }
    let mut offered = Capabilities::from_words(init.flags, init.flags2);
    if !offered.has("INIT_EXT") {
        offered = Capabilities::from_words(init.flags, 0);
    }
    let agreed = offered.and(Capabilities::wanted());
    let negotiated = Negotiated {
        minor: init.minor.min(MINOR),
        offered,
        agreed,
        readahead_bytes: init.max_readahead.max(TRANSFER_BYTES_MAX),
    };
    let (flags, flags2) = agreed.words();
    let out = InitOut {
        major: MAJOR,
        minor: negotiated.minor,
        max_readahead: negotiated.readahead_bytes,
        flags,
        max_background: BACKGROUND_MAX,
        congestion_threshold: CONGESTION_THRESHOLD,
        max_write: TRANSFER_BYTES_MAX,
        time_gran: 1,
        max_pages: PAGES_MAX,
        flags2,
        ..InitOut::default()
    };
    Ok(InitAnswer::Agreed(out, negotiated))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> InitIn {
        InitIn { major: 7, minor: 45, max_readahead: 131_072, flags: u32::MAX, flags2: u32::MAX, ..InitIn::default() }
    }

    #[test]
    fn only_what_the_kernel_offers_is_agreed() {
        let few = InitIn { flags: 1 << 0 | 1 << 16 | 1 << 30, flags2: 0, ..kernel() };
        let Ok(InitAnswer::Agreed(out, negotiated)) = negotiate(&few) else { panic!("agreed") };
        assert_eq!(negotiated.agreed.names(), ["ASYNC_READ", "INIT_EXT"]);
        assert_eq!(negotiated.offered.names(), ["ASYNC_READ", "WRITEBACK_CACHE", "INIT_EXT"]);
        assert_eq!((out.flags, out.flags2), (1 << 0 | 1 << 30, 0));
    }

    #[test]
    fn a_shared_mapping_of_a_direct_file_is_asked_for_and_locks_are_not() {
        let Ok(InitAnswer::Agreed(out, _)) = negotiate(&kernel()) else { panic!("agreed") };
        assert_eq!(out.flags2, 1 << 4);
        assert_eq!(out.flags & (1 << 1 | 1 << 10), 0);
        assert_eq!((out.minor, out.max_write, out.max_pages, out.time_gran), (45, 1 << 20, 256, 1));
    }

    #[test]
    fn the_second_word_counts_only_with_its_flag() {
        let old = InitIn { flags: 1, flags2: u32::MAX, ..kernel() };
        let Ok(InitAnswer::Agreed(out, _)) = negotiate(&old) else { panic!("agreed") };
        assert_eq!(out.flags2, 0);
    }

    #[test]
    fn versions_are_settled_as_the_protocol_says() {
        let newer = InitIn { minor: 99, ..kernel() };
        assert!(matches!(negotiate(&newer), Ok(InitAnswer::Agreed(InitOut { minor: 45, .. }, _))));
        let major = InitIn { major: 8, ..kernel() };
        assert!(matches!(negotiate(&major), Ok(InitAnswer::AskAgain(InitOut { major: 7, .. }))));
        assert_eq!(negotiate(&InitIn { minor: 31, ..kernel() }), Err(FsError::NotSupported));
        assert_eq!(negotiate(&InitIn { major: 6, ..kernel() }), Err(FsError::NotSupported));
    }
}
