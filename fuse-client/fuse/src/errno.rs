//! The one place where a failure becomes a number of the operating system.

use cfs_types::FsError;

/// A positive errno.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(i32);

impl Errno {
    /// Tells the kernel that an operation does not exist: it never asks again and does without.
    /// Never the answer to an operation that is served: the kernel would report success for every
    /// later fsync or flush.
    pub const NO_SUCH_OPERATION: Errno = Errno(libc::ENOSYS);

    /// The positive number.
    pub fn get(self) -> i32 {
        self.0
    }
}

impl From<FsError> for Errno {
    fn from(error: FsError) -> Self {
        Errno(match error {
            FsError::NotFound => libc::ENOENT,
            FsError::Exists => libc::EEXIST,
            FsError::NotDirectory => libc::ENOTDIR,
            FsError::IsDirectory => libc::EISDIR,
            FsError::NotEmpty => libc::ENOTEMPTY,
            FsError::Invalid => libc::EINVAL,
            FsError::NotPermitted => libc::EPERM,
            FsError::AccessDenied | FsError::Unauthorised => libc::EACCES,
            FsError::NoSpace => libc::ENOSPC,
            FsError::FileTooLarge => libc::EFBIG,
            FsError::NameTooLong => libc::ENAMETOOLONG,
            FsError::TooManyLinks => libc::EMLINK,
            // The kernel walks symlinks; what is left is a directory moved below itself, which
            // POSIX rename answers with EINVAL.
            FsError::Loop => libc::EINVAL,
            FsError::NoAttribute => libc::ENODATA,
            FsError::NoExtent => libc::ENXIO,
            FsError::Range => libc::ERANGE,
            FsError::TooLarge => libc::E2BIG,
            // Not ENOSYS: see NO_SUCH_OPERATION.
            FsError::NotSupported | FsError::UnknownOperation => libc::EOPNOTSUPP,
            FsError::Corrupt | FsError::Device | FsError::Malformed => libc::EIO,
            FsError::Stale => libc::ESTALE,
            // The client library retries these; one that reaches a program has outlived its patience.
            FsError::Busy | FsError::Conflict | FsError::Blocked => libc::EBUSY,
            FsError::WrongShard | FsError::SessionExpired => libc::EIO,
            FsError::TimedOut => libc::ETIMEDOUT,
            FsError::Interrupted => libc::EINTR,
            FsError::ReadOnly => libc::EROFS,
            // Not EMFILE: the limit is the file system's, not the process's.
            FsError::TooManyOpen => libc::ENFILE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What POSIX names for each case; the numbers are Linux's.
    const TABLE: [(FsError, i32); 33] = [
        (FsError::NotFound, 2),
        (FsError::Exists, 17),
        (FsError::NotDirectory, 20),
        (FsError::IsDirectory, 21),
        (FsError::NotEmpty, 39),
        (FsError::Invalid, 22),
        (FsError::NotPermitted, 1),
        (FsError::AccessDenied, 13),
        (FsError::NoSpace, 28),
        (FsError::FileTooLarge, 27),
        (FsError::NameTooLong, 36),
        (FsError::TooManyLinks, 31),
        (FsError::Loop, 22),
        (FsError::NoAttribute, 61),
        (FsError::NoExtent, 6),
        (FsError::Range, 34),
        (FsError::TooLarge, 7),
        (FsError::NotSupported, 95),
        (FsError::Corrupt, 5),
        (FsError::Device, 5),
        (FsError::Stale, 116),
        (FsError::Busy, 16),
        (FsError::Conflict, 16),
        (FsError::WrongShard, 5),
        (FsError::SessionExpired, 5),
        (FsError::TimedOut, 110),
        (FsError::Unauthorised, 13),
        (FsError::Malformed, 5),
        (FsError::UnknownOperation, 95),
        (FsError::Interrupted, 4),
        (FsError::ReadOnly, 30),
        (FsError::Blocked, 16),
        (FsError::TooManyOpen, 23),
    ];

    #[test]
    fn every_failure_has_its_posix_number() {
        for (error, number) in TABLE {
            assert_eq!(Errno::from(error).get(), number, "{error:?}");
        }
    }

    #[test]
    fn no_failure_disables_an_operation_in_the_kernel() {
        for (error, _) in TABLE {
            assert_ne!(Errno::from(error), Errno::NO_SUCH_OPERATION, "{error:?}");
        }
    }
}
