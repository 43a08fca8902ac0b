//! What the kernel says: requests of FUSE, and the table of mounts.

use cfs_fuse::capability::negotiate;
use cfs_fuse::mount::table::find;
use cfs_fuse::payload::{BufferPool, Payload};
use cfs_fuse::request::{FileOperation, HEAD_BYTES, Operation, Request, decode};
use cfs_fuzz::Target;
use cfs_sim::now;
use std::path::Path;

/// Bytes of a request's header, and of the arguments of a WRITE behind it.
const HEADER_BYTES: usize = 40;
const WRITE_BYTES: usize = HEAD_BYTES - HEADER_BYTES;
const WRITE: u32 = 16;

fn request(operation: u32, arguments: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(HEADER_BYTES + arguments.len()).expect("short").to_le_bytes());
    bytes.extend(operation.to_le_bytes());
    bytes.extend([6_u64, 5].map(u64::to_le_bytes).concat());
    bytes.extend([1000_u32, 100, 4321, 0].map(u32::to_le_bytes).concat());
    bytes.extend(arguments);
    bytes
}

fn write(data: &[u8]) -> Vec<u8> {
    let size = u64::try_from(data.len()).expect("short");
    let arguments = [3, 4096, size, 0, 0].map(u64::to_le_bytes).concat();
    assert_eq!(arguments.len(), WRITE_BYTES);
    request(WRITE, &[&arguments[..], data].concat())
}

/// Decodes a request as the device gives it: the first bytes apart.
fn decode_from(pool: &BufferPool, bytes: &[u8]) -> Option<Request> {
    let mut head = [0; HEAD_BYTES];
    let (first, second) = bytes.split_at(bytes.len().min(HEAD_BYTES));
    head[..first.len()].copy_from_slice(first);
    let mut buffer = now(pool.take());
    buffer.buf_mut()[..second.len()].copy_from_slice(second);
    let mut rest = Some(buffer);
    let request = decode(&head, &mut rest, bytes.len()).ok()?;
    let long = matches!(&request.operation, Operation::File(FileOperation::Write { data: Payload::Long(..), .. }));
    assert_eq!(rest.is_none(), long, "only long writes take the buffer");
    Some(request)
}

/// Of each operation that there is, the requests that it takes: numbers, names, or numbers and names.
fn requests(pool: &BufferPool) -> Vec<Vec<u8>> {
    let names = &b"from\0to\0some bytes"[..];
    let number = 4_u64.to_le_bytes();
    let init = [7_u32, 45, 1 << 17, u32::MAX].map(u32::to_le_bytes).concat();
    let forms = [
        vec![0; 128],
        names.to_vec(),
        [&number, names].concat(),
        [&number[..], &[0; 8], names].concat(),
        [&init[..], &[0xff; 48]].concat(),
    ];
    let all = (0..64).chain([4096]).flat_map(|n| forms.iter().map(move |form| request(n, form)));
    all.chain([write(b"18 bytes of a file")]).filter(|bytes| decode_from(pool, bytes).is_some()).collect()
}

/// The length in the header, which the kernel never gets wrong.
fn set_length(bytes: &mut [u8]) {
    let length = u32::try_from(bytes.len()).expect("short").to_le_bytes();
    if let Some(place) = bytes.get_mut(..4) {
        place.copy_from_slice(&length);
    }
}

#[test]
fn requests_of_the_kernel() {
    let pool = BufferPool::new(1, 1 << 20);
    let seeds = requests(&pool);
    let mut operations: Vec<u8> = seeds.iter().map(|bytes| bytes[4]).collect();
    operations.dedup();
    assert!(operations.len() > 35, "{operations:?}");
    Target::new("FUSE request", &["fuse-client/fuse/src/request.rs", "fuse-client/fuse/src/request/args.rs"], seeds)
        .sealed(|bytes| set_length(bytes))
        .may_hold(4, 256)
        .decodes(|bytes| {
            let request = decode_from(&pool, bytes)?;
            if let Operation::Init(init) = &request.operation {
                let _ = negotiate(init);
            }
            Some(request.unique)
        });
}

#[test]
fn long_writes_of_the_kernel() {
    let pool = BufferPool::new(1, 1 << 20);
    drop(now(pool.take()));
    Target::new("long FUSE write", &["fuse-client/fuse/src/request.rs"], vec![write(&[7; 70_000])])
        .sealed(|bytes| set_length(bytes))
        .may_hold(2, 256)
        .mutants(2_000)
        .decodes(|bytes| match decode_from(&pool, bytes)?.operation {
            Operation::File(FileOperation::Write { data, .. }) => {
                assert_eq!(data[..], bytes[HEAD_BYTES..]);
                Some(data.len())
            }
            _ => None,
        });
}

#[test]
fn tables_of_mounts() {
    let table = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        40 21 0:50 / /mnt/a\\040b rw,nosuid shared:5 master:2 - fuse.cfs corefs rw,user_id=0\n\
        42 41 0:52 / /mnt/c rw - fuse.cfs corefs rw\n";
    Target::new("mountinfo", &["fuse-client/fuse/src/mount/table.rs"], vec![table.to_vec()])
        .may_hold(8, 256)
        .decodes(|bytes| find(bytes, Path::new("/mnt/a b")));
}
