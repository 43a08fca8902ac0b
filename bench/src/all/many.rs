//! A store with very many small files: memory, and the start after a crash.

use super::Run;
use crate::Failure;
use crate::latency::{per_second, real};
use crate::native::{Client, fill_many, on_last_cpu};
use crate::process::resident_bytes;
use crate::report::{Aim, Row};
use std::time::Instant;

/// Bytes of each file.
const FILE_BYTES: usize = 1024;
/// Resident memory that is aimed at.
const MEMORY_AIM_BYTES: u64 = 512 << 20;

pub fn run(run: &mut Run) -> Result<(), Failure> {
    let Some(files) = run.options.files else {
        println!("  skipped: --files 1000000 fills a store with so many");
        return Ok(());
    };
    let store = run.place.folder().join("store-n");
    run.place.format(&run.cfs, &store, "16GiB")?;
    let server = run.place.serve(&run.cfs, &store, 2)?;
    let (target, start) = (server.target()?, Instant::now());
    on_last_cpu(false, move |world| async move {
        let client = Client::connect(&world, &target).await?;
        fill_many(&client, files, FILE_BYTES).await
    })?;
    let rate = per_second(files, start.elapsed());
    run.report.row(Row::figure("filling: create + write 1 KiB + close", format!("{rate:.0} files/s, {files} files")));
    let what = format!("resident memory, {files} small files");
    memory_row(run, &what, resident_bytes(server.pid()));
    run.keep_cpu("server of many files", server.pid());
    server.kill();
    let start = Instant::now();
    let server = run.place.serve(&run.cfs, &store, 2)?;
    let seconds = start.elapsed().as_secs_f64();
    let what = format!("start after kill -9, {files} files");
    run.report.row(Row::new(
        &what,
        format!("{seconds:.2} s"),
        "5 s".into(),
        Some(seconds / 5.0),
        Aim::AtMost(1.0),
        "under 5 s",
    ));
    memory_row(run, "resident memory after that start", resident_bytes(server.pid()));
    server.stop()?;
    std::fs::remove_dir_all(&store).map_err(|e| Failure::new("removing a store", e))
}

fn memory_row(run: &mut Run, what: &str, bytes: u64) {
    let ratio = real(bytes) / real(MEMORY_AIM_BYTES);
    let measured = format!("{} MiB", bytes >> 20);
    run.report.row(Row::new(what, measured, "512 MiB".into(), Some(ratio), Aim::AtMost(1.0), "under 512 MiB"));
}
