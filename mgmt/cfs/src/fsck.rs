//! `cfs fsck`: a store that nobody serves is read, verified and counted again.

use crate::Failure;
use crate::args::FsckOptions;
use crate::format::refusal;
use crate::place::Target;
use crate::pool::{self, Purpose};
use cfs_runtime::{CoreConfig, DiskFile, RuntimeError, run as run_core};
use cfs_server::{FsckError, Progress, Severity, Stage};
use cfs_types::CoreId;
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A check that is done sooner shows no bar.
const BAR_AFTER: Duration = Duration::from_secs(1);

/// `cfs fsck`.
pub fn run(options: &FsckOptions) -> Result<ExitCode, Failure> {
    let purpose = if options.return_to_service { Purpose::CheckAndReturn } else { Purpose::Check };
    let devices = pool::open(&options.targets, purpose, &in_use)?;
    let target = devices.first.target.clone();
    let doing = || format!("checking {}", target.path.display());
    if options.return_to_service && devices.all().any(|device| !device.file.is_direct()) {
        let why = "its file system has no direct I/O, so that a check reads what is cached and not what is on the device; copy it elsewhere";
        return Err(Failure::new(doing(), why));
    }
    let checked = devices.clone();
    let checked = run_core(CoreConfig::new(CoreId::new(0)), move |world, reactor| async move {
        let first = checked.first.file.attach(&reactor);
        let disk = cfs_device::open_zones(first, &world.tasks, 0).await.map_err(FsckError::Superblock)?;
        let others = checked.others.iter().map(|(_, other)| other.file.attach(&reactor)).collect();
        let mut bar = Bar::new();
        let report = cfs_server::fsck(&world, disk, others, |progress| bar.show(progress)).await;
        bar.clear();
        report
    });
    let report = match checked.map_err(|e| Failure::new(doing(), e))? {
        Err(FsckError::Superblock(error)) => return Err(refusal(&target, &error)),
        report => report.map_err(|e| Failure::new(doing(), e))?,
    };
    say!("{report}");
    if !report.is_sound() {
        return Ok(ExitCode::from(1));
    }
    if report.findings.iter().any(|f| f.severity == Severity::Leak) {
        say!("note: space leaked and no data is affected");
    }
    if !report.out_of_service {
        return Ok(ExitCode::SUCCESS);
    }
    if !options.return_to_service {
        say!("out of service since a write or flush failed; once its cause is gone: {}", way_back(&target));
        return Ok(ExitCode::from(1));
    }
    return_to_service(&devices.first.file)?;
    say!("in service again");
    Ok(ExitCode::SUCCESS)
}

/// Why the store was not opened; a server verifies its own.
fn in_use(target: &Target, error: &RuntimeError) -> Failure {
    let doing = format!("checking {}", target.path.display());
    let advice = match error {
        RuntimeError::Locked { .. } => {
            format!("; if that is a server: cfs scrub --start --wait {}", target.path.display())
        }
        _ => String::new(),
    };
    Failure::new(doing, format!("{error}{advice}"))
}

/// The command that lets a store be served again.
pub fn way_back(target: &Target) -> String {
    format!("cfs fsck --return-to-service {}", target.path.display())
}

fn return_to_service(file: &DiskFile) -> Result<(), Failure> {
    let returned = pool::on_disk(file, async |disk| cfs_device::return_to_service(&*disk).await)?;
    returned.map_err(|e| Failure::new(format!("returning {} to service", file.path().display()), e))
}

/// A progress bar that appears once the check takes long.
struct Bar {
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn new() -> Self {
        Bar { began: Instant::now(), bar: None }
    }

    fn show(&mut self, progress: Progress) {
        if self.bar.is_none() && self.began.elapsed() >= BAR_AFTER {
            let style = ProgressStyle::with_template("checking {msg:8} {bar:40} {pos}/{len}");
            let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_message(name(progress.stage));
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Device => "device",
        Stage::Tables => "tables",
        Stage::Shards => "shards",
        Stage::Counts => "counts",
    }
}
