//! Rows without FUSE: echo against the peers, reads, durable writes and creates, the idle server.

use super::Run;
use crate::Failure;
use crate::latency::{median, micros};
use crate::native::{Echo, Job, Loaded, echo, load};
use crate::process::{Cpu, Server};
use crate::report::{Aim, Row};
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

/// Connections of the echo rows.
const CONNECTIONS: usize = 16;
/// How long the idle server is watched: CPU time has ticks of 10 ms.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// Peers of the echo, in the order of the table.
const PEERS: [&str; 3] = ["ring-echo", "glommio-echo", "tokio-echo"];

pub fn run(run: &mut Run) -> Result<(), Failure> {
    let store = run.place.folder().join("store-1");
    let server = run.place.serve(&run.cfs, &store, 1)?;
    let echo_cpu = echo_rows(run, &server)?;
    read_row(run, &server, echo_cpu)?;
    write_row(run, &server)?;
    let one = load(&server.target()?, Job::Create, 256, run.time, Some(server.pid()), true)?;
    idle_row(run, &server)?;
    run.keep_cpu("server of one core", server.pid());
    server.stop()?;
    create_rows(run, &one)?;
    std::fs::remove_dir_all(&store).map_err(|e| Failure::new("removing a store", e))
}

/// One echo of each program a round. The server's CPU an operation, microseconds.
fn echo_rows(run: &mut Run, server: &Server) -> Result<f64, Failure> {
    let time = run.time.min(Duration::from_secs(1));
    let mut rates = vec![Vec::new(); 1 + PEERS.len()];
    let mut costs = rates.clone();
    for _ in 0..run.options.rounds.max(1) {
        let mut keep = |index: usize, done: &Loaded| {
            rates[index].push(done.summary.rate());
            costs[index].push(done.server_micros());
        };
        keep(0, &echo(Echo::Rpc(server.target()?), CONNECTIONS, time, server.pid(), true)?);
        for (index, name) in PEERS.iter().enumerate() {
            let address = free_address()?;
            let Some(peer) = run.peer(name, &[Path::new(&address.to_string())])? else { continue };
            keep(index + 1, &echo(Echo::Raw(address), CONNECTIONS, time, peer.pid(), true)?);
            peer.kill();
        }
    }
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    let costs: Vec<f64> = costs.into_iter().map(median).collect();
    let names = ["rpc"].iter().chain(&PEERS);
    let all: Vec<_> = names
        .zip(rates.iter().zip(&costs))
        .map(|(n, (r, c))| json!({"who": n, "per_second": r, "server_cpu_us": c}))
        .collect();
    run.report.figure("echo", json!(all));
    let said = |i: usize| format!("{:.0}/s, {:.2} us CPU each", rates[i], costs[i]);
    let ratio = |i: usize| (rates[i] > 0.0).then(|| rates[0] / rates[i]);
    let cost = |i: usize| (costs[i] > 0.0).then(|| costs[i] / costs[0].max(1e-3));
    let what = "RPC echo 64 B, 16 connections, one core";
    let aims = [(1, "bare ring", 0.95), (2, "glommio", 1.5)];
    for (index, name, aim) in aims {
        let baseline = format!("{name} {}", said(index));
        run.report.row(Row::new(what, said(0), baseline, ratio(index), Aim::AtLeast(aim), &format!("{aim} x {name}")));
        let baseline = format!("{name} {:.2} us", costs[index]);
        run.report.row(Row::new(
            "  its CPU: baseline / ours",
            format!("{:.2} us", costs[0]),
            baseline,
            cost(index),
            Aim::None,
            "",
        ));
    }
    run.report.row(Row::new(what, said(0), format!("tokio {}", said(3)), ratio(3), Aim::None, ""));
    Ok(costs[0])
}

pub(super) fn free_address() -> Result<SocketAddr, Failure> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    bound.map_err(|e| Failure::new("finding a port", e))
}

fn read_row(run: &mut Run, server: &Server, echo_cpu: f64) -> Result<(), Failure> {
    let done = load(&server.target()?, Job::Read, 32, run.time, Some(server.pid()), true)?;
    run.keep("native read", &done.summary);
    let disk = run.disk.randread;
    let possible = 1e6 / (disk.cpu_us + echo_cpu).max(1e-3);
    let possible = possible.min(disk.iops);
    let baseline =
        format!("{possible:.0}/s: fio {:.1} + echo {echo_cpu:.1} us, device {:.0}/s", disk.cpu_us, disk.iops);
    let ratio = (disk.iops > 0.0).then(|| done.summary.rate() / possible);
    let measured = format!(
        "{:.0}/s, p50 {:.0} us, {:.1} us CPU",
        done.summary.rate(),
        micros(done.summary.p50),
        done.server_micros()
    );
    run.report.row(Row::new(
        "native 4 KiB random read, 1 server core, qd 32",
        measured,
        baseline,
        ratio,
        Aim::AtLeast(0.8),
        "0.8",
    ));
    Ok(())
}

fn write_row(run: &mut Run, server: &Server) -> Result<(), Failure> {
    let done = load(&server.target()?, Job::Write, 32, run.time, Some(server.pid()), true)?;
    run.keep("native durable write", &done.summary);
    let disk = run.disk.fdatasync;
    let ratio = (disk.iops > 0.0).then(|| done.summary.rate() / disk.iops);
    let measured = format!(
        "{:.0}/s, p50 {:.0} us, {:.1} us CPU",
        done.summary.rate(),
        micros(done.summary.p50),
        done.server_micros()
    );
    let baseline = format!("{:.0}/s fio write + fdatasync, qd 1", disk.iops);
    run.report.row(Row::new(
        "native 4 KiB durable write, 32 in flight",
        measured,
        baseline,
        ratio,
        Aim::AtLeast(3.0),
        "3 x",
    ));
    Ok(())
}

fn idle_row(run: &mut Run, server: &Server) -> Result<(), Failure> {
    std::thread::sleep(Duration::from_secs(1));
    let before = Cpu::of(server.pid());
    std::thread::sleep(IDLE_TIME);
    let percent = Cpu::of(server.pid()).since(before).seconds() / IDLE_TIME.as_secs_f64() * 100.0;
    run.report.row(Row::new(
        "idle server",
        format!("{percent:.2} % of a core"),
        "1 %".into(),
        Some(percent),
        Aim::AtMost(1.0),
        "under 1 %",
    ));
    Ok(())
}

fn create_rows(run: &mut Run, one: &Loaded) -> Result<(), Failure> {
    run.keep("native create, one core", &one.summary);
    let rate = one.summary.rate();
    let measured =
        format!("{rate:.0}/s, p50 {:.1} ms, {:.1} us CPU", micros(one.summary.p50) / 1e3, one.server_micros());
    let what = "native durable creates, 256 in flight, 1 server core";
    run.report.row(Row::new(what, measured, "50,000/s".into(), Some(rate / 50_000.0), Aim::AtLeast(1.0), "50,000/s"));
    let store = run.place.folder().join("store-2");
    let server = run.place.serve(&run.cfs, &store, 2)?;
    let two = load(&server.target()?, Job::Create, 256, run.time, Some(server.pid()), false)?;
    run.keep("native create, two cores", &two.summary);
    run.keep_cpu("server of two cores", server.pid());
    server.stop()?;
    let measured = format!("{:.1} us CPU ({:.0}/s)", two.server_micros(), two.summary.rate());
    let baseline = format!("{:.1} us on one core", one.server_micros());
    let ratio = two.server_micros() / one.server_micros().max(1e-3);
    run.report.row(Row::new(
        "  CPU a create on 2 cores",
        measured,
        baseline,
        Some(ratio),
        Aim::AtMost(1.15),
        "at most 1.15 x",
    ));
    std::fs::remove_dir_all(&store).map_err(|e| Failure::new("removing a store", e))
}
