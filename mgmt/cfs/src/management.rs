//! The management executor: signals, and the HTTP API beside the cores.

use crate::Failure;
use crate::system::end_at_next_signal;
use cfs_api::{Answer, Api, Cores};
use cfs_runtime::Remote;
use cfs_server::{CoreReply, CoreRequest, Envelope};
use cfs_types::CoreId;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Between two looks at whether the cores still run.
const LOOK: Duration = Duration::from_millis(100);

/// The cores as the API asks them.
struct RemoteCores(Remote);

impl Cores for RemoteCores {
    fn count(&self) -> u16 {
        self.0.cores()
    }

    fn ask(&self, core: u16) -> Answer {
        let (promise, answer) = oneshot::channel();
        let deliver = move |reply: CoreReply| {
            if let CoreReply::Status(status) = reply {
                // Who asked may have lost patience.
                let _gone = promise.send(*status);
            }
        };
        let question = Envelope::Outside(CoreRequest::Status, Box::new(deliver));
        match self.0.send(CoreId::new(core), Box::new(question)) {
            Ok(()) => Box::pin(async move { answer.await.ok() }),
            Err(_) => Box::pin(async { None }),
        }
    }
}

/// Serves the HTTP API until a signal comes or `ended` says so. A second signal ends the process
/// at once.
pub fn manage(api: Api, remote: &Remote, ended: impl Fn() -> bool) -> Result<(), Failure> {
    let cores = Arc::new(RemoteCores(remote.clone()));
    executor()?.block_on(async {
        tokio::select! {
            served = api.serve(cores) => served.map_err(|e| Failure::new("serving HTTP", e)),
            stopped = stop_sign(ended) => stopped,
        }
    })
}

/// Waits for SIGINT, SIGTERM, or until `ended` says so. A second signal ends the process at once.
pub fn wait_for_signal(ended: impl Fn() -> bool) -> Result<(), Failure> {
    executor()?.block_on(stop_sign(ended))
}

fn executor() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|e| Failure::new("starting the management executor", e))
}

async fn stop_sign(ended: impl Fn() -> bool) -> Result<(), Failure> {
    let failed = |e| Failure::new("listening for signals", e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = look.tick() => if ended() { break },
        }
    }
    end_at_next_signal();
    Ok(())
}
