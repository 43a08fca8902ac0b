//! What is mounted where: /proc/thread-self/mountinfo (proc(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountPoint {
    /// `major:minor` of the file system: different for every FUSE session alive.
    pub device_number: String,
    /// Type with subtype.
    pub fs_type: String,
}

/// The topmost mount exactly at `path` (absolute, without symlinks).
pub fn mount_at(path: &Path) -> io::Result<Option<MountPoint>> {
    Ok(find(&std::fs::read("/proc/thread-self/mountinfo")?, path))
}

/// The topmost mount exactly at `path` in a table of mounts.
pub fn find(table: &[u8], path: &Path) -> Option<MountPoint> {
    let mut at_path = table.split(|&b| b == b'\n').filter_map(parse).filter(|(at, _)| at == path);
    at_path.next_back().map(|(_, mount)| mount)
}

/// `36 35 98:0 /root /mount/point options [tags…] - type source options`
fn parse(line: &[u8]) -> Option<(PathBuf, MountPoint)> {
    let mut fields = line.split(|&b| b == b' ');
    let device_number = fields.nth(2)?;
    let place = fields.nth(1)?;
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mount = MountPoint { device_number: text(device_number), fs_type: text(fs_type) };
    Some((PathBuf::from(OsString::from_vec(unescape(place))), mount))
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = if first == b'\\' { after.get(..3) } else { None };
        let code = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match code {
            Some(code) => {
                plain.push(code);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        40 21 0:50 / /mnt/a\\040b rw,nosuid shared:5 master:2 - fuse.cfs corefs rw,user_id=0\n\
        41 21 0:51 / /mnt/c rw - fuse.other x rw\n\
        42 41 0:52 / /mnt/c rw - fuse.cfs corefs rw\n\
        damaged line\n";

    #[test]
    fn the_topmost_mount_counts() {
        let found = find(TABLE, Path::new("/mnt/c")).expect("mounted");
        assert_eq!((found.device_number.as_str(), found.fs_type.as_str()), ("0:52", "fuse.cfs"));
    }

    #[test]
    fn escaped_places_are_found_and_others_are_not() {
        assert_eq!(find(TABLE, Path::new("/mnt/a b")).map(|m| m.device_number), Some("0:50".into()));
        assert_eq!(find(TABLE, Path::new("/mnt")), None);
    }

    #[test]
    fn damaged_escapes_stay_as_they_are() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\999\\134"), b"\\999\\");
    }
}
