//! `cfs`: the one binary. Joins runtime, server, client and management.

#![allow(clippy::disallowed_methods, reason = "the binary and its management plane run beside the cores")]

#[macro_use]
mod output;

mod args;
mod dev;
mod device;
mod format;
mod fsck;
mod http;
mod management;
mod mount_option;
mod mounting;
mod notices;
mod place;
mod pool;
mod registry;
mod scrub;
mod serving;
mod status;
mod stop_sign;
mod store_watch;
mod system;
mod top;

use args::{Arguments, Command, DeviceCommand};
use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a command failed, in words for its user.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    what: String,
    exit_code: u8,
}

impl Failure {
    /// What went wrong, where that says it all.
    pub fn plain(what: impl std::fmt::Display) -> Self {
        Failure { what: what.to_string(), exit_code: 1 }
    }
    /// What was being done, and what went wrong.
    pub fn new(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Failure::plain(format!("{doing}: {error}"))
    }
    /// The command cannot mean that.
    pub fn usage(what: impl std::fmt::Display) -> Self {
        Failure { exit_code: 2, ..Failure::plain(what) }
    }
    /// What was being done when it failed.
    pub fn within(self, doing: impl std::fmt::Display) -> Self {
        Failure { what: format!("{doing}: {}", self.what), ..self }
    }
    /// A stop leaves undone what this command is for.
    pub fn that_counts(self) -> Self {
        Failure { exit_code: self.exit_code.max(1), ..self }
    }
    /// It was asked to stop before it had begun to serve, and nothing is left of what it had begun.
    pub fn stopped() -> Self {
        Failure { exit_code: 0, ..Failure::plain("stopped before it was ready") }
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
        Command::Top(options) => top::run(&options),
        Command::Device(DeviceCommand::Add(options)) => device::add(&options),
        Command::Device(DeviceCommand::Retire(options)) => device::retire(&options),
        Command::Device(DeviceCommand::List(options)) => return exit(device::list(&options)),
        Command::Scrub(options) => return exit(scrub::run(&options)),
        Command::Status(options) => return exit(status::run(&options)),
    };
    exit(done.map(|()| ExitCode::SUCCESS))
}

fn exit(done: Result<ExitCode, Failure>) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(failure) => {
            complain!("cfs: {failure}");
            ExitCode::from(failure.exit_code)
        }
    }
}
