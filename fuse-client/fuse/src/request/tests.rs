//! Requests as bytes, good ones and hostile ones.

use super::*;
use crate::payload::BufferPool;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

fn buffer(bytes: usize) -> Pooled {
    let pool = BufferPool::new(1, bytes);
    let mut take = pin!(pool.take());
    match take.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(buffer) => buffer,
        Poll::Pending => panic!("a new pool has a buffer"),
    }
}

fn header(opcode: u32, nodeid: u64, arguments: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + arguments.len()).expect("short");
    let mut bytes = Vec::new();
    bytes.extend(len.to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(6u64.to_le_bytes());
    bytes.extend(nodeid.to_le_bytes());
    for word in [1000u32, 100, 4321, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(arguments);
    bytes
}

/// Lays bytes out as the device does and decodes them.
fn decode_bytes(bytes: &[u8]) -> (Result<Request, Refusal>, Option<Pooled>) {
    let mut head = [0; HEAD_BYTES];
    let split = bytes.len().min(HEAD_BYTES);
    head[..split].copy_from_slice(&bytes[..split]);
    let mut whole = buffer(bytes.len());
    whole.buf_mut()[..bytes.len() - split].copy_from_slice(&bytes[split..]);
    let mut rest = Some(whole);
    let request = decode(&head, &mut rest, bytes.len());
    (request, rest)
}

fn operation(opcode: u32, nodeid: u64, arguments: &[u8]) -> Result<FileOperation, i32> {
    match decode_bytes(&header(opcode, nodeid, arguments)).0 {
        Ok(Request { operation: Operation::File(operation), .. }) => Ok(operation),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.errno.get()),
    }
}

#[test]
fn a_lookup_is_decoded_from_its_bytes() {
    let request = decode_bytes(&header(1, 1, b"etc\0")).0.expect("valid");
    assert_eq!((request.unique, request.pid), (6, 4321));
    assert_eq!(request.identity, Identity { uid: 1000, gid: 100 });
    let Operation::File(FileOperation::Lookup { dir, name, .. }) = request.operation else { panic!("lookup") };
    assert_eq!((dir, name.as_bytes()), (InodeId::ROOT, &b"etc"[..]));
}

#[test]
fn names_are_judged_as_a_local_file_system_would() {
    let long = [vec![b'x'; 256], vec![0]].concat();
    assert_eq!(operation(1, 1, &long).err(), Some(libc::ENAMETOOLONG));
    assert!(operation(1, 1, &long[1..]).is_ok());
    for bad in [&b".\0"[..], b"..\0", b"a/b\0", b"\0"] {
        assert_eq!(operation(1, 1, bad).err(), Some(libc::EINVAL));
    }
    assert_eq!(operation(1, 1, b"endless").err(), Some(libc::EIO));
}

#[test]
fn node_ids_that_cannot_be_ours_are_stale() {
    assert_eq!(operation(1, 0, b"a\0").err(), Some(libc::ESTALE));
    assert_eq!(operation(3, 1 << 63, &[0; 16]).err(), Some(libc::ESTALE));
}

#[test]
fn a_rename_carries_both_names_and_its_flags() {
    let mut arguments = 9u64.to_le_bytes().to_vec();
    arguments.extend(2u32.to_le_bytes());
    arguments.extend(0u32.to_le_bytes());
    arguments.extend(b"from\0to\0");
    let Ok(FileOperation::Rename { from_dir, from, to_dir, to, mode }) = operation(45, 1, &arguments) else {
        panic!("rename")
    };
    assert_eq!((from_dir.get(), to_dir.get(), mode), (1, 9, RenameMode::Exchange));
    assert_eq!((from.as_bytes(), to.as_bytes()), (&b"from"[..], &b"to"[..]));
    arguments[8] = 4;
    assert_eq!(operation(45, 1, &arguments).err(), Some(libc::EINVAL));
}

#[test]
fn setattr_says_which_fields_it_sets() {
    let mut arguments = vec![0; 88];
    let valid = 1u32 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 11;
    arguments[..4].copy_from_slice(&valid.to_le_bytes());
    arguments[16..24].copy_from_slice(&77u64.to_le_bytes());
    arguments[32..40].copy_from_slice(&(-2i64).to_le_bytes());
    arguments[56..60].copy_from_slice(&5u32.to_le_bytes());
    arguments[68..72].copy_from_slice(&0o107_644u32.to_le_bytes());
    let Ok(FileOperation::Setattr { change, .. }) = operation(4, 1, &arguments) else { panic!("setattr") };
    let expected = AttrChange {
        mode: Some(0o7644),
        size: Some(77),
        atime: Some(TimeChange::At(Nanos::new(-1_999_999_995))),
        mtime: Some(TimeChange::Now),
        kill_privileges: true,
        ..AttrChange::default()
    };
    assert_eq!(change, expected);
}

#[test]
fn a_setattr_that_sets_nothing_is_a_chown_that_keeps_both() {
    // A file handle and a lock owner (FATTR_FH, FATTR_LOCKOWNER) are no changes.
    for valid in [0u32, 1 << 6 | 1 << 9] {
        let mut arguments = vec![0; 88];
        arguments[..4].copy_from_slice(&valid.to_le_bytes());
        let Ok(FileOperation::Setattr { change, .. }) = operation(4, 1, &arguments) else { panic!("setattr") };
        assert_eq!(change, AttrChange { kill_privileges: true, ..AttrChange::default() });
    }
}

fn write_arguments(size: u32, write_flags: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    let mut arguments = Vec::new();
    arguments.extend(3u64.to_le_bytes());
    arguments.extend(4096u64.to_le_bytes());
    arguments.extend(size.to_le_bytes());
    arguments.extend(write_flags.to_le_bytes());
    arguments.extend(0u64.to_le_bytes());
    arguments.extend(flags.to_le_bytes());
    arguments.extend(0u32.to_le_bytes());
    arguments.extend(data);
    arguments
}

#[test]
fn a_short_write_is_copied_and_a_long_one_takes_the_buffer() {
    for (bytes, taken) in [(5usize, false), (64 << 10, false), ((64 << 10) + 1, true), (1 << 20, true)] {
        let data: Vec<u8> = (0..=u8::MAX).cycle().take(bytes).collect();
        let arguments = write_arguments(u32::try_from(bytes).expect("small"), 0, 0, &data);
        let (request, rest) = decode_bytes(&header(16, 5, &arguments));
        let Operation::File(FileOperation::Write { handle, offset, data: payload, flags }) =
            request.expect("valid").operation
        else {
            panic!("write")
        };
        assert_eq!((handle.get(), offset, flags.append), (3, 4096, Some(false)));
        assert!(payload[..] == data[..], "{bytes} bytes");
        assert_eq!(rest.is_none(), taken, "{bytes} bytes");
        assert!(!taken || payload.as_ptr().addr() % 4096 == 0);
    }
}

#[test]
fn a_late_write_of_a_mapping_is_no_append() {
    let append = libc::O_APPEND.cast_unsigned();
    for (write_flags, expected) in [(0, true), (1, false), (4, true)] {
        let Ok(FileOperation::Write { flags, .. }) = operation(16, 5, &write_arguments(1, write_flags, append, b"x"))
        else {
            panic!("write")
        };
        assert_eq!((flags.append, flags.kill_privileges), (Some(expected), write_flags == 4));
    }
}

#[test]
fn a_write_whose_length_is_a_lie_is_refused() {
    for size in [0, 1, 3, u32::MAX] {
        assert_eq!(operation(16, 5, &write_arguments(size, 0, 0, b"ab")).err(), Some(libc::EIO));
    }
}

#[test]
fn holes_are_punched_only_with_keep_size() {
    let arguments = |mode: u32| {
        let mut bytes = vec![0; 32];
        bytes[24..28].copy_from_slice(&mode.to_le_bytes());
        bytes
    };
    let mode = |raw| match operation(43, 5, &arguments(raw)) {
        Ok(FileOperation::Fallocate { mode, keep_size, .. }) => Ok((mode, keep_size)),
        Ok(_) => panic!("fallocate"),
        Err(errno) => Err(errno),
    };
    assert_eq!(mode(0), Ok((FallocateMode::Allocate, false)));
    assert_eq!(mode(1), Ok((FallocateMode::Allocate, true)));
    assert_eq!(mode(3), Ok((FallocateMode::PunchHole, true)));
    assert_eq!(mode(2), Err(libc::EOPNOTSUPP));
    assert_eq!(mode(16), Ok((FallocateMode::ZeroRange, false)));
    assert_eq!(mode(8), Err(libc::EOPNOTSUPP));
}

#[test]
fn unknown_operations_are_told_apart_from_damage() {
    assert_eq!(operation(31, 1, &[0; 64]).err(), Some(libc::ENOSYS));
    assert_eq!(operation(4095, 1, &[]).err(), Some(libc::ENOSYS));
    assert_eq!(operation(14, 1, &[0; 3]).err(), Some(libc::EIO));
    let short = decode_bytes(&[1; 39]).0.expect_err("no header");
    assert_eq!(short.unique, None);
}

#[test]
fn an_interrupt_names_its_target() {
    let request = decode_bytes(&header(36, 0, &8u64.to_le_bytes())).0.expect("valid");
    assert!(matches!(request.operation, Operation::Interrupt { unique: 8 }));
}
