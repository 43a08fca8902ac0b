//! Rows of one core: reads and writes without RPC and with, against the disk and the bare ring.

use super::Run;
use super::rpc::free_address;
use crate::Failure;
use crate::engine::load_inside;
use crate::latency::micros;
use crate::native::{Job, Loaded, load, pages};
use crate::report::{Aim, Row};
use std::path::Path;

/// Memory of a core that is to read from the device: its cache holds a hundredth of what is read.
const LITTLE_MEMORY: u64 = 32 << 20;
/// Memory of a core unless it is told otherwise.
const MEMORY: u64 = 256 << 20;
/// Reads in flight.
const DEPTH: usize = 32;

pub fn run(run: &mut Run) -> Result<(), Failure> {
    inside_rows(run)?;
    let store = run.place.folder().join("store-engine");
    let server = run.place.serve(&run.cfs, &store, 1)?;
    let target = server.target()?;
    let over_sockets = |job: Job, depth| load(&target, job, depth, run.time, Some(server.pid()), true);
    let cached = over_sockets(Job::CachedRead, DEPTH)?;
    let single = over_sockets(Job::Write, 1)?;
    let (read, written) = (over_sockets(Job::SeqRead, 8)?, over_sockets(Job::SeqWrite, 8)?);
    server.stop()?;
    std::fs::remove_dir_all(&store).map_err(|e| Failure::new("removing a store", e))?;
    page_row(run, &cached)?;
    single_row(run, "over TCP", &single, 80.0);
    in_order_row(run, "read", &read, run.disk.seqread.mib);
    in_order_row(run, "write, each MiB durable", &written, run.disk.seqwrite.mib);
    Ok(())
}

fn said(done: &Loaded) -> String {
    let s = &done.summary;
    format!(
        "{:.0}/s, p50 {:.0} us, p99 {:.0}, {:.1} us CPU",
        s.rate(),
        micros(s.p50),
        micros(s.p99),
        done.server_micros()
    )
}

fn inside_rows(run: &mut Run) -> Result<(), Failure> {
    let cold = load_inside(&run.place, Job::Read, DEPTH, run.time, LITTLE_MEMORY)?;
    run.keep("engine cold read", &cold.summary);
    let fio = run.disk.randread;
    run.report.row(Row::new(
        "in process: 4 KiB random read, cold, qd 32",
        said(&cold),
        format!("{:.0}/s fio io_uring, {:.1} us CPU", fio.iops, fio.cpu_us),
        (fio.iops > 0.0).then(|| cold.summary.rate() / fio.iops),
        Aim::AtLeast(0.9),
        "0.9",
    ));
    let cached = load_inside(&run.place, Job::CachedRead, DEPTH, run.time, MEMORY)?;
    run.keep("engine cached read", &cached.summary);
    run.report.row(Row::new(
        "in process: the same, cached",
        said(&cached),
        "400,000/s".into(),
        Some(cached.summary.rate() / 400_000.0),
        Aim::AtLeast(1.0),
        "400,000/s a core",
    ));
    let single = load_inside(&run.place, Job::Write, 1, run.time, MEMORY)?;
    single_row(run, "in process", &single, 10.0);
    Ok(())
}

/// One durable write at a time, on a core that does nothing else.
fn single_row(run: &mut Run, how: &str, done: &Loaded, more_us: f64) {
    let fio = run.disk.fdatasync;
    let raw = fio.p50_us + fio.sync_p50_us;
    run.keep(&format!("engine single write {how}"), &done.summary);
    run.report.row(Row::new(
        &format!("{how}: one durable 4 KiB write, idle"),
        said(done),
        format!("p50 {raw:.0} us write + fdatasync, plus {more_us:.0}"),
        (raw > 0.0).then(|| micros(done.summary.p50) / (raw + more_us)),
        Aim::AtMost(1.0),
        "at most that",
    ));
}

/// Cached reads over sockets against a bare ring that returns pages.
fn page_row(run: &mut Run, cached: &Loaded) -> Result<(), Failure> {
    run.keep("engine cached read over TCP", &cached.summary);
    let address = free_address()?;
    let Some(peer) = run.peer("ring-echo", &[Path::new(&address.to_string())])? else { return Ok(()) };
    let bare = pages(address, DEPTH, run.time, peer.pid(), true)?;
    peer.kill();
    run.keep("bare ring, pages", &bare.summary);
    run.report.row(Row::new(
        "over TCP: 4 KiB random read, cached, qd 32",
        said(cached),
        format!("{:.0}/s bare ring, 4 KiB there and back, {:.1} us CPU", bare.summary.rate(), bare.server_micros()),
        Some(cached.summary.rate() / bare.summary.rate().max(1e-3)),
        Aim::AtLeast(0.8),
        "0.8",
    ));
    Ok(())
}

fn in_order_row(run: &mut Run, what: &str, done: &Loaded, fio_mib: f64) {
    run.keep(&format!("engine sequential {what}"), &done.summary);
    run.report.row(Row::new(
        &format!("over TCP: 1 MiB {what}, in order, qd 8"),
        format!("{:.0} MiB/s, {:.0} us CPU a MiB", done.summary.rate(), done.server_micros()),
        format!("{fio_mib:.0} MiB/s fio"),
        (fio_mib > 0.0).then(|| done.summary.rate() / fio_mib),
        Aim::AtLeast(0.9),
        "0.9",
    ));
}
