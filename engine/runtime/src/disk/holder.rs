//! Who holds the lock on a file, or has claimed a block device: the kernel's tables name the process or the
//! mount, so nothing is written and nothing can be stale.

use crate::Holder;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The holder of a `flock` on the file, where the kernel tells.
pub(super) fn of(file: &fs::Metadata) -> Option<Holder> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = find(&locks, libc::major(file.dev()), libc::minor(file.dev()), file.ino())?;
    Some(named(pid))
}

fn named(pid: u32) -> Holder {
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned());
    Holder { pid, command }
}

/// Who has claimed a block device.
pub(super) enum User {
    /// The system, and as what.
    Kernel(String),
    /// A process that has it open, under whatever name.
    Process(Holder),
    /// Nobody that can be seen from here: it may be in another container.
    Unknown,
}

/// Who uses a block device, its whole disk or one of its partitions.
pub(super) fn of_device(device: u64) -> User {
    let related = related(device);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if let Some(place) = mounted(&mounts, &related) {
        return User::Kernel(format!("it is mounted at {place}"));
    }
    let is_swap = |line: &str| line.split(' ').next().is_some_and(|path| is_device(Path::new(path), &related));
    if swaps.lines().skip(1).any(is_swap) {
        return User::Kernel("it is swap space".to_owned());
    }
    for device in &related {
        let holders = fs::read_dir(format!("/sys/dev/block/{device}/holders"));
        if let Some(Ok(holder)) = holders.into_iter().flatten().next() {
            return User::Kernel(format!("it is part of {}", holder.file_name().display()));
        }
    }
    process_with(&related).map_or(User::Unknown, |pid| User::Process(named(pid)))
}

/// `major:minor` of a device, of its whole disk and of its partitions.
fn related(device: u64) -> Vec<String> {
    let own = format!("{}:{}", libc::major(device), libc::minor(device));
    let base = format!("/sys/dev/block/{own}");
    let mut folders = Vec::new();
    if fs::exists(format!("{base}/partition")).unwrap_or(false) {
        folders.push(Path::new(&base).join(".."));
    }
    let below = fs::read_dir(&base).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.extend(below.filter(|path| fs::exists(path.join("partition")).unwrap_or(false)));
    let others = folders.into_iter().filter_map(|folder| fs::read_to_string(folder.join("dev")).ok());
    std::iter::once(own).chain(others.map(|device| device.trim().to_owned())).collect()
}

/// Where one of the devices is mounted: `36 35 98:0 /root /mount/point …` (proc(5)).
fn mounted(table: &str, devices: &[String]) -> Option<String> {
    let of_these = |line: &&str| line.split(' ').nth(2).is_some_and(|device| devices.iter().any(|d| d == device));
    table.lines().find(of_these)?.split(' ').nth(4).map(str::to_owned)
}

fn is_device(path: &Path, devices: &[String]) -> bool {
    fs::metadata(path).is_ok_and(|found| {
        let number = format!("{}:{}", libc::major(found.rdev()), libc::minor(found.rdev()));
        found.file_type().is_block_device() && devices.contains(&number)
    })
}

/// Another process that has one of the devices open.
fn process_with(devices: &[String]) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        *pid != std::process::id() && files.into_iter().any(|file| is_device(&file.path(), devices))
    })
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
    fn a_mounted_device_is_found_by_its_number() {
        let table = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 21 7:0 / /mnt/a\\040b rw - ext4 /dev/loop0 rw\nrubbish\n";
        assert_eq!(mounted(table, &["7:0".into()]), Some("/mnt/a\\040b".into()));
        assert_eq!(mounted(table, &["7:1".into(), "8:1".into()]), Some("/".into()));
        assert_eq!(mounted(table, &["7:1".into()]), None);
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
