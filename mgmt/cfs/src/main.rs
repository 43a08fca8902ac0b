//! `cfs`: the one binary. Joins runtime, server, client and management.

mod args;
mod dev;
mod format;
mod mounting;
mod place;
mod registry;
mod serving;
mod status;

use args::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a command failed, in words for its user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Failure {
    /// What was being done, and what went wrong.
    pub fn new(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Failure(format!("{doing}: {error}"))
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
        Command::Status(options) => status::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cfs: {failure}");
            ExitCode::from(1)
        }
    }
}
