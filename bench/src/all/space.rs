//! Rows of a store that is nearly full: what overwrites cost in writes, and what the cleaner costs readers.

use super::Run;
use crate::Failure;
use crate::engine::on_core;
use crate::latency::{Latencies, Summary, micros};
use crate::native::jobs::{BLOCK, FILL_BYTES, directories, filled, make_file, noise, random, read_at, write_at};
use crate::native::{Client, closed_loops, closed_loops_of};
use crate::report::{Aim, Row};
use cfs_seam::{Class, Disk, IoBuf, Lifetime, io, sleep_until, spawn};
use cfs_server::MemoryLimits;
use cfs_types::{InodeId, ShardId};
use cfs_wire::{Op, Reply};
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const STORE_BYTES: u64 = 1 << 30;
/// Longest that a part of the overwrites takes.
const TURNOVER_TIME_MAX: Duration = Duration::from_secs(300);
/// Bytes of each file.
const FILE_BYTES: u64 = 8 << 20;
const MEMORY: u64 = 256 << 20;
/// Overwrites in flight.
const DEPTH: usize = 64;
/// Overwrites in flight beside readers.
const DEPTH_BESIDE: usize = 8;
/// Bytes of the file that is read meanwhile.
const READ_BYTES: u64 = 128 << 20;
/// Reads a second that are half a load: about half of what the cold read row reaches here.
const READS_A_SECOND: u64 = 10_000;

/// Which block is written next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Choice {
    Uniform,
    /// Zipf with exponent 0.99 (Gray et al., SIGMOD 1994, as YCSB has it), the popular blocks anywhere.
    Zipf,
}

pub fn run(run: &mut Run) -> Result<(), Failure> {
    overwrite_row(run, Choice::Uniform, 3.0)?;
    overwrite_row(run, Choice::Zipf, 1.8)?;
    let calm = reads_beside(run, 30)?;
    let busy = reads_beside(run, 80)?;
    run.keep("reads beside writes, 30 % full", &calm);
    run.keep("reads beside writes, 80 % full", &busy);
    let (before, after) = (micros(calm.p99), micros(busy.p99));
    run.report.row(Row::new(
        "in process: p99 of 4 KiB reads at half load, cleaner at work",
        format!("{after:.0} us (p50 {:.0}) beside writes at 80 % full", micros(busy.p50)),
        format!("{before:.0} us (p50 {:.0}) beside the same writes at 30 % full", micros(calm.p50)),
        Some(after / before.max(1e-3)),
        Aim::AtMost(2.0),
        "at most 2 x",
    ));
    Ok(())
}

/// Files until so many percent of what there is for data are used.
async fn fill(client: &Client, percent: u64) -> Result<Rc<Vec<InodeId>>, Failure> {
    let dirs = directories(client, "bench-space-", 16).await?;
    let data = noise(client, FILL_BYTES);
    let mut files = Vec::new();
    for number in 0.. {
        if used_percent(client).await? >= percent {
            break;
        }
        let dir = dirs[number % dirs.len()];
        let ino = make_file(client, dir, &format!("file{number}")).await?;
        for offset in (0..FILE_BYTES).step_by(FILL_BYTES) {
            write_at(client, ino, offset, IoBuf::copy_of(&data)).await?;
        }
        files.push(ino);
    }
    Ok(Rc::new(files))
}

/// How full the store is, as `df` has it.
async fn used_percent(client: &Client) -> Result<u64, Failure> {
    match client.call(ShardId::new(0), Op::Statfs, None).await? {
        (Reply::Statfs(space), _) => Ok(100 - space.bytes_free * 100 / space.bytes.max(1)),
        (other, _) => Err(Failure(format!("statfs: {other:?}"))),
    }
}

/// Draws ranks 0 to `count` - 1 with Zipf's probabilities: the sums of all, searched.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: u64) -> Self {
        let mut sum = 0.0;
        let weight = |rank: u64| (rank as f64 + 1.0).powf(-0.99);
        Zipf(
            (0..count)
                .map(|rank| {
                    sum += weight(rank);
                    sum
                })
                .collect(),
        )
    }
    fn draw(&self, client: &Client) -> u64 {
        let all = self.0.last().copied().unwrap_or_default();
        let at = (random(client, 1 << 53) as f64) / (1u64 << 53) as f64 * all;
        self.0.partition_point(|sum| *sum < at) as u64
    }
}

/// One block of the files, overwritten.
async fn overwrite(client: &Client, files: &[InodeId], zipf: Option<&Zipf>, data: &IoBuf) -> Result<(), Failure> {
    let blocks = files.len() as u64 * (FILE_BYTES / u64::from(BLOCK));
    // An odd factor scatters the ranks; the count of blocks is no multiple of it.
    let block = match zipf {
        Some(zipf) => zipf.draw(client).wrapping_mul(0x9e37_79b1) % blocks,
        None => random(client, blocks),
    };
    let ino = files[usize::try_from(block % files.len() as u64).expect("few files")];
    let offset = block / files.len() as u64 * u64::from(BLOCK);
    write_at(client, ino, offset, IoBuf::copy_of(data)).await.map(drop)
}

/// Bytes that went to the device: segments of file data, tables, logs.
fn written(disk: &dyn Disk) -> [u64; 3] {
    let of = disk.usage().written_bytes;
    let sum = |classes: &[Lifetime]| classes.iter().map(|class| of[class.index()]).sum();
    [sum(&[Lifetime::Hot, Lifetime::Cold, Lifetime::Relocated]), sum(&[Lifetime::Metadata]), sum(&[Lifetime::Log])]
}

fn overwrite_row(run: &mut Run, choice: Choice, aim: f64) -> Result<(), Failure> {
    let store = run.place.folder().join("space");
    let done = on_core(&store, STORE_BYTES, MemoryLimits::of_core(MEMORY), move |client, disk| async move {
        let files = fill(&client, 80).await?;
        let blocks = files.len() as u64 * (FILE_BYTES / u64::from(BLOCK));
        let zipf = Rc::new((choice == Choice::Zipf).then(|| Zipf::new(blocks)));
        let data = Rc::new(noise(&client, BLOCK as usize));
        // Written bytes, and not a time, bring the store into the state that is measured: all that lives was replaced once.
        let load = |share: u64| {
            let time = TURNOVER_TIME_MAX;
            let (own, files, zipf, data) = (client.clone(), files.clone(), zipf.clone(), data.clone());
            let one = move |_, _| {
                let (client, files, zipf, data) = (own.clone(), files.clone(), zipf.clone(), data.clone());
                async move { overwrite(&client, &files, (*zipf).as_ref(), &data).await }
            };
            closed_loops_of(&client.world, DEPTH, (time, blocks * share / 100), Some(std::process::id()), one)
        };
        load(150).await?;
        let before = written(&*disk);
        let done = load(50).await?;
        let after = written(&*disk);
        let rise = [0, 1, 2].map(|at| (after[at] - before[at]) as f64);
        Ok((done, rise))
    });
    let _gone = std::fs::remove_file(&store);
    let (done, [segments, tables, logs]) = done?;
    let user = (done.summary.operations * u64::from(BLOCK)) as f64;
    let name = if choice == Choice::Uniform { "uniform" } else { "Zipf 0.99" };
    let per_user = |bytes: f64| bytes / user.max(1.0);
    run.report.figure(
        &format!("overwrites at 80 %, {name}"),
        json!({"load": done.summary.json(), "segments": per_user(segments), "tables": per_user(tables), "log": per_user(logs)}),
    );
    run.report.row(Row::new(
        &format!("segment bytes / user bytes, 4 KiB overwrites, 80 % full, {name}"),
        format!("{:.2}; tables {:.2}, log {:.2}", per_user(segments), per_user(tables), per_user(logs)),
        format!("{:.0}/s, {:.1} us CPU", done.summary.rate(), done.server_micros()),
        Some(per_user(segments)),
        Aim::AtMost(aim),
        &format!("at most {aim}"),
    ));
    if choice == Choice::Uniform {
        let amplification = per_user(segments + tables + logs);
        let possible = run.disk.seqwrite.mib * 256.0 / amplification.max(1e-3);
        run.report.row(Row::new(
            "in process: 4 KiB random durable overwrite, 64 in flight",
            format!(
                "{:.0}/s, p50 {:.0} us, {:.1} us CPU",
                done.summary.rate(),
                micros(done.summary.p50),
                done.server_micros()
            ),
            format!("{possible:.0}/s: {:.0} MiB/s in order / {amplification:.2}", run.disk.seqwrite.mib),
            (possible > 0.0).then(|| done.summary.rate() / possible),
            Aim::AtLeast(0.8),
            "0.8, or the CPU's limit",
        ));
    }
    Ok(())
}

/// Latencies of reads at a steady rate, beside overwrites, in a store that is so many percent full.
fn reads_beside(run: &mut Run, percent: u64) -> Result<Summary, Failure> {
    let (store, time) = (run.place.folder().join("space"), run.time.max(Duration::from_secs(8)));
    let done = on_core(&store, STORE_BYTES, MemoryLimits::of_core(MEMORY / 8), move |client, _| async move {
        let file = filled(&client, READ_BYTES).await?;
        let files = fill(&client, percent).await?;
        let data = Rc::new(noise(&client, BLOCK as usize));
        let own = client.clone();
        let one = move |_, _| {
            let (client, files, data) = (own.clone(), files.clone(), data.clone());
            async move { overwrite(&client, &files, None, &data).await }
        };
        let (promise, over) = io();
        let (world, all) = (client.world.clone(), time * 2);
        let writers = async move { promise.complete(closed_loops(&world, DEPTH_BESIDE, all, None, one).await) };
        spawn(&client.world.tasks, Class::Foreground, writers).detach();
        // The cleaner is at work once the writers have been for a while.
        cfs_seam::sleep(&client.world.clock, time).await;
        let seen = paced_reads(&client, file, time).await;
        over.await?;
        Ok(seen)
    });
    let _gone = std::fs::remove_file(&store);
    done
}

/// Reads that begin at fixed moments, however long the ones before them take.
async fn paced_reads(client: &Rc<Client>, file: (InodeId, u64, u64), time: Duration) -> Summary {
    let seen = Rc::new(RefCell::new(Latencies::default()));
    let clock = client.world.clock.clone();
    let start = clock.now();
    let mut waits = Vec::new();
    for number in 0..time.as_secs() * READS_A_SECOND {
        let due = start.after(Duration::from_nanos(number * 1_000_000_000 / READS_A_SECOND));
        sleep_until(&clock, due).await;
        let (client, seen, (promise, done)) = (client.clone(), seen.clone(), io());
        let tasks = client.world.tasks.clone();
        let read = async move {
            let offset = random(&client, READ_BYTES / u64::from(BLOCK)) * u64::from(BLOCK);
            let done = read_at(&client, file, offset, BLOCK).await;
            match done {
                Ok(()) => seen.borrow_mut().record(client.world.clock.now().since(due)),
                Err(_) => seen.borrow_mut().fail(),
            }
            promise.complete(());
        };
        spawn(&tasks, Class::Foreground, read).detach();
        waits.push(done);
    }
    for done in waits {
        done.await;
    }
    seen.borrow().summary(clock.now().since(start))
}
