//! `cfs scrub`: what reading and verifying everything has found on running servers.

use crate::args::ScrubOptions;
use crate::registry::{self, Entry};
use crate::status::size;
use crate::{Failure, http};
use cfs_api::{ScrubReport, ScrubStart};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Between two looks while it is waited for.
const LOOK: Duration = Duration::from_millis(250);

/// A server and its scrub.
#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    entry: Entry,
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub: Option<ScrubReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Seen {
    fn look(entry: Entry, wait: bool, asked: Result<(), String>) -> Self {
        let report = asked.and_then(|()| if wait { self::wait(&entry) } else { ask(&entry) });
        match report {
            Ok(report) => Seen { entry, scrub: Some(report), error: None },
            Err(error) => Seen { entry, scrub: None, error: Some(error) },
        }
    }

    fn is_well(&self) -> bool {
        self.scrub.as_ref().is_some_and(|scrub| scrub.open_findings == 0 && scrub.silent_cores.is_empty())
    }
}

/// `cfs scrub`.
pub fn run(options: &ScrubOptions) -> Result<ExitCode, Failure> {
    let start = |entry: &Entry| match options.start {
        true => http::post::<ScrubReport>(&entry.http, "/v1/scrub", &ScrubStart { unpaced: options.unpaced }).map(drop),
        false => Ok(()),
    };
    let asked: Vec<_> = wanted(options)?.into_iter().map(|entry| (start(&entry), entry)).collect();
    let seen: Vec<Seen> = asked.into_iter().map(|(asked, entry)| Seen::look(entry, options.wait, asked)).collect();
    if options.json {
        say!("{}", serde_json::to_string_pretty(&seen).map_err(|e| Failure::new("writing JSON", e))?);
    } else {
        seen.iter().for_each(show);
    }
    Ok(if seen.iter().all(Seen::is_well) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The servers that are meant.
fn wanted(options: &ScrubOptions) -> Result<Vec<Entry>, Failure> {
    let servers = registry::serving_or_all(options.target.as_deref())?;
    let none = || Failure::plain("no server of this user runs on this machine; cfs fsck checks a store offline");
    if servers.is_empty() { Err(none()) } else { Ok(servers) }
}

fn ask(entry: &Entry) -> Result<ScrubReport, String> {
    http::get(&entry.http, "/v1/scrub")
}

/// Everything was verified after this time, seconds since 1970; 0 where some of it never was.
fn verified_since(report: &ScrubReport) -> u64 {
    report.cores.iter().map(|core| core.scrub.verified_since_seconds).min().unwrap_or(0)
}

/// Looks until nothing is left to be verified, or everything was since the first look: a period can be shorter
/// than it takes.
fn wait(entry: &Entry) -> Result<ScrubReport, String> {
    let began = now();
    let style = ProgressStyle::with_template("verifying {bar:40} {pos}/{len}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        let report = ask(entry)?;
        if report.is_idle || verified_since(&report) > began {
            bar.finish_and_clear();
            return Ok(report);
        }
        let (due, all) = report.groups();
        bar.set_length(all);
        bar.set_position(all - due);
        std::thread::sleep(LOOK);
    }
}

fn show(seen: &Seen) {
    let target = seen.entry.target.display();
    let Some(report) = &seen.scrub else {
        let error = seen.error.as_deref().unwrap_or_default();
        return complain!("cfs: {target}: http://{} does not answer: {error}", seen.entry.http);
    };
    let (due, all) = report.groups();
    let how = if due > 0 { format!("{due} of {all} groups to verify") } else { "idle".to_string() };
    let since = match verified_since(report) {
        0 => "not everything was verified yet".to_string(),
        at => format!("everything was verified in the last {}", span(now().saturating_sub(at))),
    };
    let bytes = size(report.cores.iter().map(|core| core.scrub.scrubbed_bytes).sum());
    let found = match report.open_findings {
        0 => "no damage known".to_string(),
        places => format!("DAMAGED in {places} places"),
    };
    say!("{target}: {how}; {since}; {bytes} read since the start; {found}");
    for core in &report.cores {
        core.scrub.findings.iter().for_each(|finding| say!("{target}: damage: {finding}"));
        if core.scrub.more_findings > 0 {
            say!("{target}: and {} more on core {}", core.scrub.more_findings, core.core);
        }
    }
    report.silent_cores.iter().for_each(|core| say!("{target}: core {core} does not answer"));
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A time for people, rounded up.
fn span(seconds: u64) -> String {
    let units = [(86_400, "days"), (3600, "hours"), (60, "minutes")];
    let found = units.into_iter().find(|(unit, _)| seconds >= 2 * unit);
    let (unit, name) = found.unwrap_or((1, "seconds"));
    format!("{} {name}", seconds.div_ceil(unit).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_in_their_unit() {
        assert_eq!(
            [0, 90, 150, 86_400, 604_801].map(span),
            ["1 seconds", "90 seconds", "3 minutes", "24 hours", "8 days"]
        );
    }
}
