//! `cfs status`: what each local server says of itself.

use crate::Failure;
use crate::args::StatusOptions;
use crate::http;
use crate::registry::{self, Entry};
use cfs_api::{Level, ServerStatus};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between the two looks that a rate is made of.
const RATE_TIME: Duration = Duration::from_millis(250);

/// A server and what it says.
#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    entry: Entry,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ServerStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Seen {
    fn look(entry: Entry) -> Self {
        match ask(&entry) {
            Ok(status) => Seen { entry, status: Some(status), error: None },
            Err(error) => Seen { entry, status: None, error: Some(error) },
        }
    }

    fn is_critical(&self) -> bool {
        self.status.as_ref().is_none_or(|s| s.health.status == Level::Critical)
    }
}

/// `cfs status`.
pub fn run(options: &StatusOptions) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let servers: Vec<Seen> = registry::servers().into_iter().map(Seen::look).collect();
    if options.json {
        let text = serde_json::to_string_pretty(&servers).map_err(|e| Failure::new("writing JSON", e))?;
        say!("{text}");
    } else if servers.is_empty() {
        say!("no server of this user runs on this machine");
    } else {
        std::thread::sleep(RATE_TIME.saturating_sub(began.elapsed()));
        show(&servers);
    }
    let critical = servers.iter().any(Seen::is_critical);
    Ok(if critical { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn show(servers: &[Seen]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "STORE", "HEALTH", "CORES", "USED", "FREE", "USE%", "SESSIONS", "REQ/S", "CPU", "MEMORY", "RPC", "PID",
    ]);
    for seen in servers {
        table.add_row(row(seen));
    }
    say!("{}", table.trim_fmt());
    for seen in servers {
        let target = seen.entry.target.display();
        for reason in seen.status.iter().flat_map(|s| &s.health.reasons) {
            say!("{target}: {}: {}", reason.level.name(), reason.what);
        }
        if let Some(error) = &seen.error {
            say!("{target}: http://{} does not answer: {error}", seen.entry.http);
        }
    }
}

fn row(seen: &Seen) -> Vec<String> {
    let (target, cores, pid) = (seen.entry.target.display(), seen.entry.cores, seen.entry.pid);
    let Some(s) = &seen.status else {
        let blank = std::iter::repeat_n("-".to_string(), 7);
        let begin = [target.to_string(), "no answer".to_string(), cores.to_string()];
        return begin.into_iter().chain(blank).chain([seen.entry.listen.clone(), pid.to_string()]).collect();
    };
    let (rate, cpu) = ask(&seen.entry).map_or_else(|_| Default::default(), |later| rates(s, &later));
    vec![
        target.to_string(),
        s.health.status.name().to_string(),
        cores.to_string(),
        size(s.space.used_bytes),
        size(s.space.available_bytes),
        format!("{}%", s.space.full_percent),
        s.sessions.to_string(),
        rate,
        cpu,
        size(s.resident_bytes),
        seen.entry.listen.clone(),
        pid.to_string(),
    ]
}

/// Requests a second and share of a CPU between two looks.
fn rates(first: &ServerStatus, second: &ServerStatus) -> (String, String) {
    let time = second.uptime_seconds - first.uptime_seconds;
    if time <= 0.0 {
        return Default::default();
    }
    let requests = second.requests_total.saturating_sub(first.requests_total);
    let cpu = (second.cpu_seconds - first.cpu_seconds).max(0.0);
    (format!("{:.0}", requests as f64 / time), format!("{:.0}%", cpu / time * 100.0))
}

fn ask(entry: &Entry) -> Result<ServerStatus, String> {
    http::get(&entry.http, "/v1/status")
}

/// Bytes for people: three digits and a unit.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 99.95 { 0 } else { 1 };
    format!("{value:.decimals$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        let shown = [0, 999, 1000, 1024, 10 << 20, 999 << 20, 1 << 30, u64::MAX].map(size);
        assert_eq!(shown, ["0 B", "999 B", "1.0 KiB", "1.0 KiB", "10.0 MiB", "999 MiB", "1.0 GiB", "16.0 EiB"]);
    }
}
