//! A disk with a volatile write cache whose power is cut: a file of a FUSE mount, under a loop device the disk of a
//! real `cfs server`.
//!
//! `cfs-volatile-disk MOUNTPOINT BACKING BYTES SEED` serves `MOUNTPOINT/disk` and obeys lines of standard input
//! ([`command`]) until that ends. Invariants: a write reaches the backing file only by a flush, or by chance; the
//! kernel keeps nothing of the file (direct I/O), so that what is not flushed is here alone.
#![allow(clippy::disallowed_methods, reason = "a device of its own beside the program under test")]

mod command;
mod front;
mod medium;

use cfs_fuse::{Host, MountOptions, MountedAt, Session};
use cfs_runtime::{CoreConfig, run as run_core};
use cfs_types::CoreId;
use front::Front;
use medium::Medium;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// Ends in words.
type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mountpoint, backing, bytes, seed] = arguments.as_slice() else {
        eprintln!("usage: cfs-volatile-disk MOUNTPOINT BACKING BYTES SEED");
        return ExitCode::from(2);
    };
    let (Ok(bytes), Ok(seed)) = (bytes.parse(), seed.parse()) else {
        eprintln!("cfs-volatile-disk: BYTES and SEED are numbers");
        return ExitCode::from(2);
    };
    match serve(Path::new(mountpoint), Path::new(backing), bytes, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cfs-volatile-disk: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mountpoint: &Path, backing: &Path, bytes: u64, seed: u64) -> Result<(), Failed> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(backing)?;
    let medium = Arc::new(Mutex::new(Medium::new(file, bytes, seed)?));
    let (device, mounted) = cfs_fuse::mount(mountpoint, &MountOptions::default())?;
    let (commanded, at) = (medium.clone(), mounted.at().clone());
    let place = mountpoint.join(front::FILE);
    std::thread::Builder::new().name("commands".into()).spawn(move || {
        let ended = obey(&commanded, &place);
        leave(&at, ended)
    })?;
    let served = run_core(CoreConfig::new(CoreId::new(0)), |world, reactor| async move {
        Session::new(Host::new(&world, &reactor, false), device, Rc::new(Front::new(medium))).serve().await
    });
    Ok(served??)
}

/// Reads commands to their end.
fn obey(medium: &Mutex<Medium>, place: &Path) -> io::Result<()> {
    say(&format!("ready {}", place.display()))?;
    for line in io::stdin().lock().lines() {
        let answer = command::obey(&mut medium.lock().unwrap_or_else(PoisonError::into_inner), &line?);
        say(&answer)?;
    }
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Whoever commanded is gone: so is the disk, also for a loop device that still holds it.
fn leave(at: &MountedAt, ended: io::Result<()>) {
    let unmounted = at.unmount();
    if let (Err(error), _) | (Ok(()), Err(error)) = (ended.map_err(Failed::from), unmounted.map_err(Failed::from)) {
        eprintln!("cfs-volatile-disk: {error}");
        std::process::exit(1);
    }
    std::process::exit(0);
}
