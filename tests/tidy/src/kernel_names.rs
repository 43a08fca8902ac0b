//! Names of the kernel's interfaces: errno and the FUSE ABI.
//!
//! What a program is answered is decided in one place, `fuse-client/fuse`. The two implementations of the seam,
//! `engine/runtime` and the simulator, name errno for what devices and sockets answered them.

use crate::text::SourceFile;

/// Where errno has names.
const ERRNO_FOLDERS: &[&str] = &["fuse-client/fuse/", "engine/runtime/", "tests/sim/", "bench/baselines/"];
/// Where the FUSE ABI is known.
const FUSE_FOLDERS: &[&str] = &["fuse-client/fuse/", "bench/baselines/"];
/// Constants of errno(3), those of Linux that anything here could meet, and the type that wraps them.
const ERRNO: &[&str] = &[
    "Errno",
    "E2BIG",
    "EACCES",
    "EADDRINUSE",
    "EAGAIN",
    "EBADF",
    "EBUSY",
    "ECANCELED",
    "ECONNABORTED",
    "ECONNREFUSED",
    "ECONNRESET",
    "EDQUOT",
    "EEXIST",
    "EFAULT",
    "EFBIG",
    "EINPROGRESS",
    "EINTR",
    "EINVAL",
    "EIO",
    "EISDIR",
    "ELOOP",
    "EMFILE",
    "EMLINK",
    "ENAMETOOLONG",
    "ENFILE",
    "ENOATTR",
    "ENOBUFS",
    "ENODATA",
    "ENODEV",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "ENOSYS",
    "ENOTCONN",
    "ENOTDIR",
    "ENOTEMPTY",
    "ENOTSUP",
    "ENOTTY",
    "ENXIO",
    "EOPNOTSUPP",
    "EOVERFLOW",
    "EPERM",
    "EPIPE",
    "ERANGE",
    "EROFS",
    "ESPIPE",
    "ESRCH",
    "ESTALE",
    "ETIME",
    "ETIMEDOUT",
    "ETXTBSY",
    "EWOULDBLOCK",
    "EXDEV",
];
/// Modules, and beginnings of the kernel's own names (`linux/fuse.h`).
const FUSE_PATHS: &[&str] = &["cfs_fuse::abi", "abi::"];
const FUSE_PREFIXES: &[&str] = &["FUSE_", "FATTR_", "FOPEN_"];

/// Code that names errno or the FUSE ABI outside of the crates that may. Comments may say anything.
pub fn misplaced_kernel_names(files: &[SourceFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.path.starts_with("tests/tidy/")) {
        let outside = |folders: &[&str]| !folders.iter().any(|folder| file.path.starts_with(folder));
        let (no_errno, no_fuse) = (outside(ERRNO_FOLDERS), outside(FUSE_FOLDERS));
        for (number, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let mut words = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let errno = words.clone().find(|word| no_errno && ERRNO.contains(word));
            let path = FUSE_PATHS.iter().copied().find(|path| no_fuse && code.contains(path));
            let fuse = path
                .or_else(|| words.find(|word| no_fuse && FUSE_PREFIXES.iter().any(|prefix| word.starts_with(prefix))));
            if let Some(name) = errno.or(fuse) {
                found.push(format!("{}:{}: {name} belongs to fuse-client/fuse", file.path, number + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        misplaced_kernel_names(&[SourceFile { path: path.into(), text: text.into() }]).len()
    }

    #[test]
    fn errno_is_named_only_where_the_kernel_is_met() {
        for line in ["libc::ENOSPC", "use cfs_fuse::Errno;", "io::Error::from_raw_os_error(EIO)"] {
            assert_eq!(found("mgmt/cfs/src/a.rs", line), 1, "{line}");
            assert_eq!(found("fuse-client/volume/src/a.rs", line), 1, "{line}");
            assert_eq!(found("fuse-client/fuse/src/a.rs", line) + found("engine/runtime/src/a.rs", line), 0, "{line}");
        }
        assert_eq!(found("shards/server/src/a.rs", "x(); // answered ENOSPC\nNOT_EIO; ELSE;"), 0);
    }

    #[test]
    fn the_fuse_abi_is_named_in_one_crate() {
        for line in ["use cfs_fuse::abi::InHeader;", "abi::Opcode::Init", "const FUSE_INIT: u32 = 26;"] {
            assert_eq!(found("engine/runtime/src/a.rs", line), 1, "{line}");
            assert_eq!(found("fuse-client/fuse/tests/a.rs", line), 0, "{line}");
        }
    }
}
