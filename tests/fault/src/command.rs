//! The commands, a line each, and what they are answered.

use crate::medium::{Medium, Request};
use std::io;

/// What can be asked for.
const USAGE: &str =
    "cut SEED [after REQUESTS] | restore | fail read|write|flush [after REQUESTS] | lie on|off | status";

/// Carries out one line and answers it with one.
pub fn obey(medium: &mut Medium, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match carry_out(medium, &words) {
        Ok(Some(answer)) => format!("ok {answer}"),
        Ok(None) => format!("error: say {USAGE}"),
        Err(error) => format!("error: {error}"),
    }
}

fn carry_out(medium: &mut Medium, words: &[&str]) -> io::Result<Option<String>> {
    let number = |word: &str| word.parse::<u64>().ok();
    match *words {
        ["cut", seed] => {
            let Some(seed) = number(seed) else { return Ok(None) };
            let (unflushed, left) = medium.cut(seed)?;
            return Ok(Some(format!("cut: {left} of {unflushed} unflushed sectors are left")));
        }
        ["cut", seed, "after", requests] => match (number(seed), number(requests)) {
            (Some(seed), Some(requests)) => medium.cut_after(requests, seed),
            _ => return Ok(None),
        },
        ["restore"] => medium.restore(),
        ["fail", kind, "after", requests] => match (request(kind), number(requests)) {
            (Some(kind), Some(requests)) => medium.fail(kind, requests),
            _ => return Ok(None),
        },
        ["fail", kind] => match request(kind) {
            Some(kind) => medium.fail(kind, 0),
            None => return Ok(None),
        },
        ["lie", "on"] => medium.lie(true),
        ["lie", "off"] => medium.lie(false),
        ["status"] => {}
        _ => return Ok(None),
    }
    let (counts, power) = (medium.counts(), if medium.has_power() { "on" } else { "off" });
    Ok(Some(format!(
        "power={power} unflushed={} reads={} writes={} flushes={} lies={} failed={}",
        medium.unflushed(),
        counts.reads,
        counts.writes,
        counts.flushes,
        counts.lies,
        counts.failed
    )))
}

fn request(kind: &str) -> Option<Request> {
    match kind {
        "read" => Some(Request::Read),
        "write" => Some(Request::Write),
        "flush" => Some(Request::Flush),
        _ => None,
    }
}
