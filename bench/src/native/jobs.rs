//! Reads, durable writes and durable creates, straight to the shards.

use super::client::is_exists;
use super::{Client, Job, Loaded, closed_loops};
use crate::Failure;
use cfs_seam::{Class, IoBuf, io, spawn};
use cfs_types::{InodeId, Name, RangeIndex};
use cfs_wire::{Op, Reply};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A block of the random loads.
pub const BLOCK: u32 = 4096;
/// The file that is read.
const READ_FILE_BYTES: u64 = 512 << 20;
/// The file that fits into memory.
const CACHED_FILE_BYTES: u64 = 32 << 20;
/// Bytes of one filling write.
pub const FILL_BYTES: usize = 1 << 20;
/// Bytes of each file that is written at random.
const WRITE_FILE_BYTES: u64 = 4 << 20;
/// Bytes of a range of a file (ARCHITECTURE, Large files).
const RANGE_BYTES: u64 = 64 << 20;
/// Directories that creates go to: they lie in shards of their own.
const DIRECTORIES: usize = 64;

/// Prepares and runs a load.
pub async fn load(
    client: &Rc<Client>,
    job: Job,
    depth: usize,
    time: Duration,
    server: Option<u32>,
) -> Result<Loaded, Failure> {
    match job {
        Job::Read => read(client, READ_FILE_BYTES, depth, time, server).await,
        Job::CachedRead => {
            // The first pass brings it to memory, the second counts: what was read once only may be gone again.
            read(client, CACHED_FILE_BYTES, depth, time, server).await?;
            read(client, CACHED_FILE_BYTES, depth, time, server).await
        }
        Job::SeqRead => read_in_order(client, depth, time, server).await,
        Job::SeqWrite => write_in_order(client, depth, time, server).await,
        Job::Write => write(client, depth, time, server).await,
        Job::Create | Job::Echo => create(client, depth, time, server).await,
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("the names of the bench are names")
}

/// A random number below `below`.
pub fn random(client: &Client, below: u64) -> u64 {
    client.world.rng.next_u64() % below
}

pub async fn make_file(client: &Client, dir: InodeId, text: &str) -> Result<InodeId, Failure> {
    let op = Op::Create { dir, name: name(text), mode: 0o644, exclusive: false, truncate: true };
    match client.call(dir.shard(), op, None).await? {
        (Reply::Entry(entry), _) => Ok(entry.ino),
        (other, _) => Err(Failure(format!("create: {other:?}"))),
    }
}

/// Directories with this prefix; those of an earlier load are used again.
pub async fn directories(client: &Client, prefix: &str, count: usize) -> Result<Vec<InodeId>, Failure> {
    let mut made = Vec::new();
    for i in 0..count {
        let (dir, name) = (InodeId::ROOT, name(&format!("{prefix}{i}")));
        let shard = dir.shard();
        let found = match client.call(shard, Op::Mkdir { dir, name: name.clone(), mode: 0o755 }, None).await {
            Err(error) if is_exists(&error) => client.call(shard, Op::Lookup { dir, name }, None).await,
            other => other,
        };
        match found? {
            (Reply::Entry(entry), _) => made.push(entry.ino),
            (other, _) => return Err(Failure(format!("mkdir: {other:?}"))),
        }
    }
    Ok(made)
}

pub async fn write_at(client: &Client, ino: InodeId, offset: u64, data: IoBuf) -> Result<(u64, u64), Failure> {
    let len = u32::try_from(data.len()).expect("writes are short");
    let op = Op::Write { ino, offset, len, append: false, kill_privileges: false, held: None };
    match client.call(ino.shard(), op, Some(data)).await? {
        (Reply::Written { attr, sequence, .. }, _) => Ok((attr.epoch, sequence)),
        (other, _) => Err(Failure(format!("write: {other:?}"))),
    }
}

/// Bytes that do not compress.
pub fn noise(client: &Client, bytes: usize) -> IoBuf {
    let mut data = IoBuf::zeroed(bytes);
    for eight in data.chunks_exact_mut(8) {
        eight.copy_from_slice(&client.world.rng.next_u64().to_le_bytes());
    }
    data
}

/// A file of a number of bytes, filled, and what its readers must know of it.
pub async fn filled(client: &Client, bytes: u64) -> Result<(InodeId, u64, u64), Failure> {
    let ino = make_file(client, InodeId::ROOT, &format!("bench-read-{bytes}")).await?;
    let data = noise(client, FILL_BYTES);
    let (mut epoch, mut sequence) = (0, 0);
    for offset in (0..bytes).step_by(FILL_BYTES) {
        (epoch, sequence) = write_at(client, ino, offset, IoBuf::copy_of(&data)).await?;
    }
    Ok((ino, epoch, sequence))
}

pub async fn read_at(client: &Client, file: (InodeId, u64, u64), offset: u64, len: u32) -> Result<(), Failure> {
    let (ino, epoch, sequence) = file;
    let range = RangeIndex::new(u32::try_from(offset / RANGE_BYTES).expect("few ranges"));
    let op = Op::Read { ino, offset, len, epoch, sequence };
    match client.call(range.shard(ino), op, None).await? {
        (Reply::Data { len: got }, Some(data)) if got == len && data.len() == len as usize => Ok(()),
        (other, _) => Err(Failure(format!("read: {other:?}"))),
    }
}

async fn read(
    client: &Rc<Client>,
    bytes: u64,
    depth: usize,
    time: Duration,
    server: Option<u32>,
) -> Result<Loaded, Failure> {
    let file = filled(client, bytes).await?;
    let own = client.clone();
    let one = move |_, _| {
        let client = own.clone();
        async move {
            let offset = random(&client, bytes / u64::from(BLOCK)) * u64::from(BLOCK);
            read_at(&client, file, offset, BLOCK).await
        }
    };
    closed_loops(&client.world, depth, time, server, one).await
}

async fn read_in_order(
    client: &Rc<Client>,
    depth: usize,
    time: Duration,
    server: Option<u32>,
) -> Result<Loaded, Failure> {
    let file = filled(client, READ_FILE_BYTES).await?;
    let (own, next) = (client.clone(), Rc::new(Cell::new(0)));
    let one = move |_, _| {
        let client = own.clone();
        let offset = next.replace((next.get() + FILL_BYTES as u64) % READ_FILE_BYTES);
        async move { read_at(&client, file, offset, u32::try_from(FILL_BYTES).expect("one MiB")).await }
    };
    closed_loops(&client.world, depth, time, server, one).await
}

async fn write_in_order(
    client: &Rc<Client>,
    depth: usize,
    time: Duration,
    server: Option<u32>,
) -> Result<Loaded, Failure> {
    let ino = make_file(client, InodeId::ROOT, "bench-seq-write").await?;
    let data = noise(client, FILL_BYTES);
    let (own, next) = (client.clone(), Rc::new(Cell::new(0)));
    let one = move |_, _| {
        let (client, data) = (own.clone(), IoBuf::copy_of(&data));
        let offset = next.replace((next.get() + FILL_BYTES as u64) % READ_FILE_BYTES);
        async move { write_at(&client, ino, offset, data).await.map(|_| ()) }
    };
    closed_loops(&client.world, depth, time, server, one).await
}

async fn write(client: &Rc<Client>, depth: usize, time: Duration, server: Option<u32>) -> Result<Loaded, Failure> {
    let dirs = directories(client, "bench-write-", 16).await?;
    let mut files = Vec::new();
    for i in 0..depth {
        files.push(make_file(client, dirs[i % dirs.len()], &format!("file{i}")).await?);
    }
    let data = noise(client, 4096);
    let own = client.clone();
    let one = move |task: usize, _| {
        let (client, ino, data) = (own.clone(), files[task], IoBuf::copy_of(&data));
        async move {
            let offset = random(&client, WRITE_FILE_BYTES / u64::from(BLOCK)) * u64::from(BLOCK);
            write_at(&client, ino, offset, data).await.map(|_| ())
        }
    };
    closed_loops(&client.world, depth, time, server, one).await
}

async fn create(client: &Rc<Client>, depth: usize, time: Duration, server: Option<u32>) -> Result<Loaded, Failure> {
    let dirs = directories(client, "bench-create-", DIRECTORIES).await?;
    let (own, run) = (client.clone(), client.world.rng.next_u64());
    let one = move |task: usize, turn: u64| {
        let (client, dir) = (own.clone(), dirs[task % dirs.len()]);
        async move { make_file(&client, dir, &format!("{run:x}-{task}-{turn}")).await.map(|_| ()) }
    };
    closed_loops(&client.world, depth, time, server, one).await
}

/// Makes `count` files of `bytes` bytes each in as many directories as hold some thousands.
pub async fn fill_many(client: &Rc<Client>, count: u64, bytes: usize) -> Result<(), Failure> {
    let dirs = usize::try_from(count / 4096).unwrap_or(usize::MAX).clamp(1, 256);
    let dirs = Rc::new(directories(client, "many-", dirs).await?);
    let (next, mut waits) = (Rc::new(Cell::new(0_u64)), Vec::new());
    for _ in 0..128 {
        let (promise, done) = io();
        let (client, dirs, next) = (client.clone(), dirs.clone(), next.clone());
        let world = client.world.clone();
        let body = async move {
            promise.complete(fill_some(&client, &dirs, &next, count, bytes).await);
        };
        spawn(&world.tasks, Class::Foreground, body).detach();
        waits.push(done);
    }
    for done in waits {
        done.await?;
    }
    Ok(())
}

async fn fill_some(
    client: &Client,
    dirs: &[InodeId],
    next: &Cell<u64>,
    count: u64,
    bytes: usize,
) -> Result<(), Failure> {
    while next.get() < count {
        let number = next.replace(next.get() + 1);
        let dir = dirs[usize::try_from(number).unwrap_or(0) % dirs.len()];
        let op =
            Op::Create { dir, name: name(&format!("small-{number}")), mode: 0o644, exclusive: true, truncate: false };
        let (Reply::Entry(entry), _) = client.call(dir.shard(), op, None).await? else {
            return Err(Failure("create: no entry".into()));
        };
        write_at(client, entry.ino, 0, noise(client, bytes)).await?;
        client.call(entry.ino.shard(), Op::Close { ino: entry.ino }, None).await?;
    }
    Ok(())
}
