//! Rows through the kernel: the mount of `cfs dev` against ext4 and against FUSE itself.

use super::Run;
use crate::latency::{Summary, median, micros};
use crate::native::{Echo, echo};
use crate::process::Server;
use crate::report::{Aim, Row};
use crate::{Failure, fio, machine, posix};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folders of this step.
struct Places {
    store: PathBuf,
    mount: PathBuf,
    ext4: PathBuf,
}

pub fn run(run: &mut Run) -> Result<(), Failure> {
    let places = Places {
        store: run.place.folder().join("store-m"),
        mount: run.place.make("mnt")?,
        ext4: run.place.make("ext4")?,
    };
    let server = dev(run, &places)?;
    fsync_row(run, &places, &server)?;
    create_row(run, &places)?;
    meta_rows(run, &places)?;
    let server = sequential_rows(run, &places, server)?;
    random_row(run, &places)?;
    run.keep_cpu("cfs dev", server.pid());
    server.stop()?;
    std::fs::remove_dir_all(&places.store).map_err(|e| Failure::new("removing a store", e))
}

fn dev(run: &Run, places: &Places) -> Result<Server, Failure> {
    let cores = u16::try_from(cfs_runtime::available_cpus().len()).unwrap_or(1).clamp(1, 8);
    run.place.mount(&run.cfs, &places.store, cores, &places.mount)
}

/// Medians over the rounds of several loops that take turns, microseconds.
fn in_turns<const N: usize>(
    run: &Run,
    mut one: impl FnMut(usize) -> Result<Option<Summary>, Failure>,
) -> Result<[Option<f64>; N], Failure> {
    let mut seen: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    for _ in 0..run.options.rounds.max(1) {
        for (index, seen) in seen.iter_mut().enumerate() {
            seen.extend(one(index)?.map(|done| micros(done.p50)));
        }
    }
    Ok(seen.map(|values| (!values.is_empty()).then(|| median(values))))
}

fn fsync_row(run: &mut Run, places: &Places, server: &Server) -> Result<(), Failure> {
    let time = run.time.min(Duration::from_secs(1));
    let null = run.place.make("null")?;
    let peer = run.peer("null-fuse", &[&null])?;
    let target = server.target()?;
    let one = |index: usize| match index {
        0 => posix::write_and_fsync(&places.mount, time).map(Some),
        1 => posix::write_and_fsync(&places.ext4, time).map(Some),
        2 if peer.is_some() => posix::stat(&null.join("file"), time).map(Some),
        2 => Ok(None),
        _ => echo(Echo::Rpc(target.clone()), 1, time, server.pid(), false).map(|done| Some(done.summary)),
    };
    let [ours, ext4, null_request, rpc] = in_turns::<4>(run, one)?;
    let (ours, ext4, rpc) = (ours.unwrap_or(0.0), ext4.unwrap_or(0.0), rpc.unwrap_or(0.0));
    let said = null_request.map_or("null FUSE not built".into(), |null| format!("2 x {null:.1} null FUSE"));
    let baseline = format!("ext4 {ext4:.0} us + {said} + {rpc:.1} RPC echo");
    let ratio = null_request.map(|null| ours / (ext4 + 2.0 * null + rpc));
    let aim = Aim::AtMost(1.15);
    run.report.row(Row::new(
        "mount: 4 KiB write+fsync p50",
        format!("{ours:.0} us"),
        baseline,
        ratio,
        aim,
        "at most 1.15 x",
    ));
    let figures = serde_json::json!({"mount": ours, "ext4": ext4, "null_fuse": null_request, "rpc_echo": rpc});
    run.report.figure("write+fsync p50 us", figures);
    if let Some(peer) = peer {
        peer.kill();
    }
    Ok(())
}

fn create_row(run: &mut Run, places: &Places) -> Result<(), Failure> {
    let time = run.time.min(Duration::from_secs(1));
    let (below, pass) = (run.place.make("pass-below")?, run.place.make("pass")?);
    let peer = run.peer("pass-through", &[&below, &pass])?;
    let one = |index: usize| match index {
        0 => posix::create_write_close(&places.mount, time).map(Some),
        1 if peer.is_some() => posix::create_write_close(&pass, time).map(Some),
        1 => Ok(None),
        _ => posix::create_write_close(&places.ext4, time).map(Some),
    };
    let [ours, passed, ext4] = in_turns::<3>(run, one)?;
    let (ours, ext4) = (ours.unwrap_or(0.0), ext4.unwrap_or(0.0));
    let sync = run.disk.fdatasync.sync_p50_us;
    let said = passed.map_or("pass-through not built".into(), |us| format!("pass-through {us:.0} us"));
    let baseline = format!("{said} + fdatasync {sync:.0} us (ext4 {ext4:.0} us)");
    let ratio = passed.map(|passed| ours / (passed + sync));
    let what = "mount: create + write 4 KiB + close, one process";
    run.report.row(Row::new(what, format!("{ours:.0} us"), baseline, ratio, Aim::AtMost(1.5), "at most 1.5 x"));
    let figures = serde_json::json!({"mount": ours, "pass_through": passed, "ext4": ext4, "fdatasync": sync});
    run.report.figure("create p50 us", figures);
    if let Some(peer) = peer {
        peer.kill();
    }
    Ok(())
}

fn meta_rows(run: &mut Run, places: &Places) -> Result<(), Failure> {
    let ours = posix::meta(&places.mount, 2, 1000)?;
    let ext4 = posix::meta(&places.ext4, 2, 1000)?;
    for ((phase, ours), ext4) in posix::PHASES.iter().zip(ours).zip(ext4) {
        let what = format!("mount: {phase}, 2 processes");
        let row =
            Row::new(&what, format!("{ours:.0}/s"), format!("ext4 {ext4:.0}/s"), Some(ours / ext4), Aim::None, "");
        run.report.row(row);
    }
    run.report.figure("meta", serde_json::json!({"phases": posix::PHASES, "mount": ours, "ext4": ext4}));
    Ok(())
}

/// Sequential writes; then the server starts again, so that the read is cold on all floors.
fn sequential_rows(run: &mut Run, places: &Places, server: Server) -> Result<Server, Failure> {
    let aim = Aim::AtLeast(0.7);
    let row = |run: &mut Run, what: &str, ours: fio::Result, ext4: fio::Result| {
        let ratio = (ext4.mib > 0.0).then(|| ours.mib / ext4.mib);
        let row = Row::new(
            what,
            format!("{:.0} MiB/s", ours.mib),
            format!("ext4 {:.0} MiB/s", ext4.mib),
            ratio,
            aim,
            "0.7 of ext4",
        );
        run.report.row(row);
    };
    let file = places.mount.join("seq");
    let done = run.fio("mount seqwrite", fio::SEQWRITE, &file)?;
    row(run, "mount: sequential 1 MiB write, one fsync", done, run.disk.seqwrite);
    let done = run.fio("mount seqwrite-sync", fio::SEQWRITE_SYNC, &places.mount.join("sync"))?;
    row(run, "mount: sequential 1 MiB write + fsync each", done, run.disk.seqwrite_sync);
    server.stop()?;
    machine::drop_page_cache();
    let server = dev(run, places)?;
    let done = run.fio("mount seqread", fio::SEQREAD, &file)?;
    row(run, "mount: sequential 1 MiB cold read", done, run.disk.seqread);
    Ok(server)
}

fn random_row(run: &mut Run, places: &Places) -> Result<(), Failure> {
    let ext4 = places.ext4.join("random");
    posix::fill(&ext4, 512)?;
    let ours = run.fio("mount randread", fio::MOUNT_RANDREAD, &Path::new(&places.mount).join("seq"))?;
    let theirs = run.fio("ext4 randread x4", fio::MOUNT_RANDREAD, &ext4)?;
    let ratio = (theirs.iops > 0.0).then(|| ours.iops / theirs.iops);
    let (measured, baseline) = (format!("{:.0}/s", ours.iops), format!("ext4 {:.0}/s", theirs.iops));
    run.report.row(Row::new("mount: 4 KiB direct random read, 4 processes", measured, baseline, ratio, Aim::None, ""));
    Ok(())
}
