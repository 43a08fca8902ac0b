//! `cfs-bench`: what CoreFS costs against the bare machine and its peers, measured in one run.
//!
//! Invariants: every figure stands beside a baseline of the same run on the same disk; what was
//! started or mounted is ended and removed, also on failure.

#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

mod all;
mod engine;
mod fio;
mod latency;
mod machine;
mod mesh;
mod native;
mod posix;
mod process;
mod report;
mod workplace;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Failure {
    /// What was being done, and what went wrong.
    pub fn new(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Failure(format!("{doing}: {error}"))
    }
}

/// CoreFS against the bare machine, in one run.
#[derive(Parser, Debug)]
#[command(name = "cfs-bench", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Load a server over RPC, without FUSE.
    #[command(
        after_help = "Examples:\n  cfs-bench native 127.0.0.1:7400 --secret /srv/cfs/secret --job create\n  cfs-bench native --spawn /var/tmp --cores 2"
    )]
    Native(native::NativeOptions),
    /// Load one core in this process, without RPC.
    #[command(after_help = "Example:\n  cfs-bench engine --dir /var/tmp --job cached-read")]
    Engine(engine::EngineOptions),
    /// Create, stat, list, rename and unlink small files below a directory.
    Meta(posix::MetaOptions),
    /// Every row of the table, with its baselines.
    #[command(
        after_help = "Example:\n  cfs-bench all --dir /var/tmp\n\nBuild the peers first: cargo build --release --manifest-path bench/baselines/Cargo.toml"
    )]
    All(all::AllOptions),
    /// Undo what a run left that was killed.
    #[command(hide = true)]
    Clean {
        /// Its folder.
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Native(options) => native::run(&options),
        Command::Engine(options) => engine::run(&options),
        Command::Meta(options) => posix::run(&options),
        Command::All(options) => all::run(&options),
        Command::Clean { folder } => workplace::clean_after(&folder),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cfs-bench: {failure}");
            ExitCode::from(1)
        }
    }
}
