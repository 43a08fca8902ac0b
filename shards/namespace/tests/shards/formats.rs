//! Golden bytes of docs/formats/namespace.md, and damaged records.

use cfs_namespace::record::{Counters, Dentry, INODE_BYTES, Inode, Session, encode};
use cfs_namespace::{Command, CommandBody, keys};
use cfs_types::{FsError, InodeId, Name, Nanos, RequestNumber, SessionId, VolumeId};
use cfs_wire::{FileKind, Op};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn directory() -> Inode {
    let mut inode = Inode::new(FileKind::Directory, 0o2755, 1000, 100, Nanos::new(0x0102_0304));
    inode.parent = InodeId::from_raw(0x1122);
    inode.size = 3;
    inode.dying = true;
    inode.locks = 1;
    inode.pending_links = 2;
    inode.xattr_name_bytes = 5;
    inode
}

#[test]
fn inode_records_are_as_documented() {
    let golden = concat!(
        "0104ed05",
        "02000000",
        "e8030000",
        "64000000",
        "00000000",
        "01000000",
        "0300000000000000",
        "0000000000000000",
        "0403020100000000",
        "0403020100000000",
        "0403020100000000",
        "0403020100000000",
        "0100000000000000",
        "0000000000000000",
        "0000000000000000",
        "2211000000000000",
        "02000000",
        "0100",
        "0000",
        "00000000",
        "00000000",
        "00000000",
        "05000000",
        "0000000000000000",
        "0000000000000000",
    );
    assert_eq!(hex(&directory().encode()), golden);
    assert_eq!(golden.len(), INODE_BYTES * 2);
    let mut link = Inode::new(FileKind::Symlink, 0o777, 0, 0, Nanos::new(0));
    link.target = (*b"to").into();
    let bytes = link.encode();
    assert_eq!(hex(&bytes[INODE_BYTES..]), "746f");
    assert_eq!(Inode::decode(&bytes), Ok(link));
    assert_eq!(Inode::decode(&directory().encode()), Ok(directory()));
    let mut file = Inode::new(FileKind::File, 0o644, 0, 0, Nanos::new(0));
    file.take(SessionId::new(0x0607));
    let bytes = file.encode();
    assert_eq!((hex(&bytes[80..88]), hex(&bytes[96..104])), ("0100000000000000".into(), "0706000000000000".into()));
    assert_eq!(hex(&bytes[110..112]), "0100");
    assert_eq!(Inode::decode(&bytes), Ok(file));
}

#[test]
fn other_records_are_as_documented() {
    let ino = InodeId::from_raw(0x0102).expect("a number");
    let dentry = Dentry { ino, kind: FileKind::File };
    assert_eq!(hex(&dentry.encode()), "01080201000000000000");
    let counters = Counters { inodes: 300, directories: 2, last_sequence: 1 };
    assert_eq!(hex(&encode(&counters)), "01ac020201");
    let session = Session {
        oldest: RequestNumber::new(1),
        trimmed: RequestNumber::new(2),
        highest: RequestNumber::new(3),
        expired: true,
    };
    assert_eq!(hex(&encode(&session)), "0101020301");
    let name = Name::new(b"a").expect("a name");
    let op = Op::Unlink { dir: ino, name };
    let body = CommandBody::Op { op, asked: Some(ino), pinned_by: vec![SessionId::new(9)] };
    assert_eq!(hex(&encode(&Command::internal(body))), "01000000000000078202016101".to_owned() + "82020109");
}

#[test]
fn keys_are_as_documented() {
    let ino = InodeId::from_raw(0x0102).expect("a number");
    let key = keys::dentry(VolumeId::new(3), ino, 0x10, b"a");
    assert_eq!(hex(&key), "02000000030000000000000102000000000000001061");
    assert_eq!(hex(&keys::inode(ino)), "010000000000000102");
    assert_eq!(hex(&keys::xattr(ino, b"u")), "03000000000000010275");
    let name = Name::new(b"name").expect("a name");
    assert_eq!(format!("{:016x}", keys::cookie(&[7; 32], &name)), "2421e93d4237a2e0");
}

#[test]
fn damaged_records_are_refused() {
    let good = directory().encode();
    for len in 0..good.len() {
        assert_eq!(Inode::decode(&good[..len]), Err(FsError::Corrupt));
    }
    for reserved in [0, 1, 21, 110, 111] {
        let mut bad = good.to_vec();
        bad[reserved] ^= 0x40;
        assert_eq!(Inode::decode(&bad), Err(FsError::Corrupt), "byte {reserved}");
    }
}
