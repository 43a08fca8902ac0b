//! Directory listings, packed as READDIR and READDIRPLUS want them.
//!
//! Offsets: 0 is the start, 1 follows `.`, 2 follows `..`, 16 and above are cookies of entries. They
//! stay valid across calls, opens and mounts, so `telldir` and `seekdir` work.

use crate::abi::{Dirent, EntryOut};
use crate::reply::{entry_out, kind_bits};
use cfs_types::InodeId;
use cfs_volume::Listing;
use cfs_wire::FileKind;
use zerocopy::IntoBytes;

const AFTER_DOT: u64 = 1;
const AFTER_DOT_DOT: u64 = 2;
/// Smaller cookies are reserved (ARCHITECTURE, Inodes).
const COOKIE_MIN: u64 = 16;

/// Packs entries until the buffer is full.
pub struct Packer {
    bytes: Vec<u8>,
    bytes_max: usize,
    plus: bool,
}

impl Packer {
    /// For a reply of at most `bytes_max` bytes; `plus` adds attributes to entries.
    pub fn new(bytes_max: usize, plus: bool) -> Self {
        Packer { bytes: Vec::new(), bytes_max, plus }
    }

    /// Bytes that stay free once what of `.` and `..` lies after `offset` is in.
    pub fn room_after_dots(&self, offset: u64) -> usize {
        let dots = [AFTER_DOT, AFTER_DOT_DOT].iter().filter(|after| offset < **after).count();
        self.room().saturating_sub(dots * self.record_bytes(b".."))
    }

    /// Adds what of `.` and `..` lies after `offset`.
    pub fn add_dots(&mut self, dir: InodeId, parent: InodeId, offset: u64) {
        if offset < AFTER_DOT {
            self.add_record(None, dir.get(), AFTER_DOT, FileKind::Directory, b".");
        }
        if offset < AFTER_DOT_DOT {
            self.add_record(None, parent.get(), AFTER_DOT_DOT, FileKind::Directory, b"..");
        }
    }

    /// Adds entries while they fit.
    pub fn add_listing(&mut self, listing: &Listing) {
        for listed in &listing.entries {
            let known = listed.entry.as_ref().map(entry_out);
            if !self.add_record(known, listed.ino.get(), listed.cookie, listed.kind, listed.name.as_bytes()) {
                return;
            }
        }
    }

    /// False if there is no room. An entry without attributes has node id 0: the kernel lists it
    /// and looks it up when it is used.
    fn add_record(&mut self, known: Option<EntryOut>, ino: u64, off: u64, kind: FileKind, name: &[u8]) -> bool {
        let record_bytes = self.record_bytes(name);
        if self.bytes.len() + record_bytes > self.bytes_max {
            return false;
        }
        let end = self.bytes.len() + record_bytes;
        if self.plus {
            self.bytes.extend_from_slice(known.unwrap_or_default().as_bytes());
        }
        let namelen = u32::try_from(name.len()).expect("names have at most 255 bytes");
        let dirent = Dirent { ino, off, namelen, kind: kind_bits(kind) >> 12 };
        self.bytes.extend_from_slice(dirent.as_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }

    fn record_bytes(&self, name: &[u8]) -> usize {
        let plus_bytes = if self.plus { size_of::<EntryOut>() } else { 0 };
        (plus_bytes + size_of::<Dirent>() + name.len()).next_multiple_of(8)
    }

    /// Bytes that are still free.
    pub fn room(&self) -> usize {
        self.bytes_max - self.bytes.len()
    }

    /// The reply's body.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// The cookie after which a listing at `offset` goes on; 0 is the start.
pub fn cookie_of(offset: u64) -> u64 {
    if offset < COOKIE_MIN { 0 } else { offset }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_types::Name;
    use cfs_volume::Listed;

    fn listing(names: &[&str]) -> Listing {
        let entry = |(i, name): (usize, &&str)| Listed {
            cookie: 100 + u64::try_from(i).expect("small"),
            name: Name::new(name.as_bytes()).expect("a name"),
            ino: InodeId::from_raw(7).expect("valid"),
            kind: FileKind::File,
            entry: None,
        };
        Listing { parent: InodeId::ROOT, entries: names.iter().enumerate().map(entry).collect(), end: true }
    }

    #[test]
    fn the_start_of_a_listing_is_packed_byte_for_byte() {
        let mut packer = Packer::new(4096, false);
        packer.add_dots(InodeId::from_raw(9).expect("valid"), InodeId::ROOT, 0);
        packer.add_listing(&listing(&["abcdefghi"]));
        let mut golden = Vec::new();
        for (ino, off, namelen, kind, name) in [
            (9u64, 1u64, 1u32, 4u32, &b".\0\0\0\0\0\0\0"[..]),
            (1, 2, 2, 4, b"..\0\0\0\0\0\0"),
            (7, 100, 9, 8, b"abcdefghi\0\0\0\0\0\0\0"),
        ] {
            golden.extend(ino.to_le_bytes());
            golden.extend(off.to_le_bytes());
            golden.extend(namelen.to_le_bytes());
            golden.extend(kind.to_le_bytes());
            golden.extend(name);
        }
        assert_eq!(packer.finish(), golden);
    }

    #[test]
    fn a_listing_resumes_after_each_dot() {
        for (offset, records) in [(0, 2), (1, 1), (2, 0), (16, 0), (u64::MAX, 0)] {
            let mut packer = Packer::new(4096, false);
            let room = packer.room_after_dots(offset);
            packer.add_dots(InodeId::ROOT, InodeId::ROOT, offset);
            assert_eq!(packer.room(), room);
            assert_eq!(packer.finish().len(), records * 32, "offset {offset}");
        }
        assert_eq!([cookie_of(0), cookie_of(2), cookie_of(15), cookie_of(16)], [0, 0, 0, 16]);
    }

    #[test]
    fn a_full_buffer_ends_at_a_whole_record() {
        let mut packer = Packer::new(32 + 31, false);
        packer.add_listing(&listing(&["a", "b", "c"]));
        assert_eq!((packer.room(), packer.finish().len()), (31, 32));
    }

    #[test]
    fn an_entry_without_attributes_has_no_node_id() {
        let mut packer = Packer::new(4096, true);
        packer.add_listing(&listing(&["a"]));
        let bytes = packer.finish();
        assert_eq!(bytes.len(), 128 + 32);
        assert!(bytes[..128].iter().all(|&b| b == 0));
    }
}
