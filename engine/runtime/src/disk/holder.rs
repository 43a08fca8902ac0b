//! Who holds the lock on a file: `/proc/locks` names the process, so nothing is written and
//! nothing can be stale.

use crate::Holder;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The holder of a `flock` on the file, where the kernel tells.
pub(super) fn of(file: &fs::Metadata) -> Option<Holder> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = find(&locks, libc::major(file.dev()), libc::minor(file.dev()), file.ino())?;
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned());
    Some(Holder { pid, command })
}

/// Finds `N: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END` (proc_locks(5)); waiters have
/// `->` after the number and are not holders. Some file systems show another device number than
/// stat does, so a match by inode alone counts if it is the only one.
fn find(locks: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let mut by_inode = Vec::new();
    for line in locks.lines() {
        let mut fields = line.split_whitespace().skip(1);
        if fields.next() != Some("FLOCK") {
            continue;
        }
        let (Some(pid), Some(place)) = (fields.nth(2), fields.next()) else { continue };
        let Some(pid) = pid.parse::<u32>().ok().filter(|pid| *pid > 0) else { continue };
        let Some((device, number)) = place.rsplit_once(':') else { continue };
        if number.parse() != Ok(inode) {
            continue;
        }
        if device == format!("{major:02x}:{minor:02x}") {
            return Some(pid);
        }
        by_inode.push(pid);
    }
    (by_inode.len() == 1).then(|| by_inode[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "1: POSIX  ADVISORY  WRITE 7 fe:00:42 0 EOF\n\
        2: FLOCK  ADVISORY  WRITE 1234 fe:00:42 0 EOF\n\
        2: -> FLOCK  ADVISORY  WRITE 99 fe:00:43 0 EOF\n\
        3: FLOCK  ADVISORY  READ 55 00:1f:44 0 EOF\nrubbish\n4: FLOCK\n";

    #[test]
    fn the_holder_is_found_by_device_and_inode() {
        assert_eq!(find(LOCKS, 0xfe, 0, 42), Some(1234));
    }
    #[test]
    fn waiters_and_other_files_are_no_holders() {
        assert_eq!(find(LOCKS, 0xfe, 0, 43), None);
        assert_eq!(find(LOCKS, 0xfe, 0, 45), None);
    }
    #[test]
    fn one_match_by_inode_alone_is_believed() {
        assert_eq!(find(LOCKS, 1, 1, 44), Some(55));
    }
}
