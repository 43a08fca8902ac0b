//! `cfs`: the one binary. Joins runtime, server, client and management.

#![allow(clippy::disallowed_methods, reason = "the binary and its management plane run beside the cores")]

mod args;
mod dev;
mod format;
mod fsck;
mod management;
mod mount_option;
mod mounting;
mod place;
mod registry;
mod serving;
mod status;
mod system;

use args::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a command failed, in words for its user.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    what: String,
    is_usage: bool,
}

impl Failure {
    /// What went wrong, where that says it all.
    pub fn plain(what: impl std::fmt::Display) -> Self {
        Failure { what: what.to_string(), is_usage: false }
    }
    /// What was being done, and what went wrong.
    pub fn new(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Failure::plain(format!("{doing}: {error}"))
    }
    /// The command cannot mean that.
    pub fn usage(what: impl std::fmt::Display) -> Self {
        Failure { is_usage: true, ..Failure::plain(what) }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Dev(options) => dev::run(&options),
        Command::Format(options) => format::run(&options),
        Command::Server(options) => serving::run(&options),
        Command::Mount(options) => mounting::run(&options),
        Command::Umount(options) => mounting::unmount(&options),
        Command::Fsck(options) => return exit(fsck::run(&options)),
        Command::Status(options) => return exit(status::run(&options)),
    };
    exit(done.map(|()| ExitCode::SUCCESS))
}

fn exit(done: Result<ExitCode, Failure>) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("cfs: {failure}");
            ExitCode::from(if failure.is_usage { 2 } else { 1 })
        }
    }
}
