//! `cfs status`, and the management executor beside the cores.

use crate::Failure;
use crate::args::{Serving, StatusOptions};
use crate::registry;
use cfs_runtime::Remote;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Between two looks at whether the cores still run.
const LOOK: Duration = Duration::from_millis(100);

/// Serves the HTTP API until a signal comes or `ended` says so.
pub fn manage(options: &Serving, remote: &Remote, ended: impl Fn() -> bool) -> Result<(), Failure> {
    let _ = (options, remote);
    wait_for_signal(ended)
}

/// Waits for SIGINT, SIGTERM, or until `ended` says so.
pub fn wait_for_signal(ended: impl Fn() -> bool) -> Result<(), Failure> {
    let failed = |e| Failure::new("starting the management executor", e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = look.tick() => if ended() { return Ok(()) },
            }
        }
    })
}

/// `cfs status`.
pub fn run(options: &StatusOptions) -> Result<(), Failure> {
    let servers = registry::servers();
    if options.json {
        let text = serde_json::to_string_pretty(&servers).map_err(|e| Failure::new("writing JSON", e))?;
        println!("{text}");
        return Ok(());
    }
    if servers.is_empty() {
        println!("no server of this user runs on this machine");
    }
    for s in servers {
        println!("{}  pid {}  {} cores  rpc {}  http {}", s.target.display(), s.pid, s.cores, s.listen, s.http);
    }
    Ok(())
}
