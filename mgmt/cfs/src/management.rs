//! The management executor: the wait for a stop, and the HTTP API beside the cores.

use crate::Failure;
use crate::device::Adder;
use crate::serving::Server;
use crate::stop_sign::StopSign;
use crate::store_watch::StoreWatch;
use cfs_api::{Added, Answer, Api, Changed, Cores, DeviceRefused, Facts, Told};
use cfs_runtime::Remote;
use cfs_server::{CoreReply, CoreRequest, Envelope};
use cfs_types::CoreId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// The cores as the API asks them, whether their stores are where they were, and who adds one.
struct RemoteCores(Remote, StoreWatch, Adder);

impl Cores for RemoteCores {
    fn count(&self) -> u16 {
        self.0.cores()
    }

    fn store_gone(&self) -> bool {
        self.1.gone.load(Ordering::Relaxed)
    }

    fn ask(&self, core: u16) -> Answer {
        let answer = self.answer(core, CoreRequest::Status, |reply| match reply {
            CoreReply::Status(status) => Some(*status),
            _ => None,
        });
        Box::pin(answer)
    }

    fn scrub(&self, core: u16, unpaced: bool) -> Told {
        let told = self.answer(core, CoreRequest::Scrub(unpaced), |reply| match reply {
            CoreReply::Done => Some(()),
            _ => None,
        });
        Box::pin(async move { told.await.is_some() })
    }

    fn add_device(&self, request: String, proof: Option<String>) -> Added {
        let adding = tokio::spawn(self.2.clone().add(request, proof));
        Box::pin(async move { adding.await.unwrap_or_else(|e| Err(DeviceRefused::Failed(e.to_string()))) })
    }

    fn change_device(&self, request: String, proof: Option<String>) -> Changed {
        let changing = tokio::spawn(self.2.clone().change(request, proof));
        Box::pin(async move { changing.await.unwrap_or_else(|e| Err(DeviceRefused::Failed(e.to_string()))) })
    }

    fn devices(&self) -> Facts {
        let store = self.1.clone();
        let asked = tokio::task::spawn_blocking(move || store.facts());
        Box::pin(async move { asked.await.unwrap_or_default() })
    }
}

impl RemoteCores {
    /// Asks a core, at once; what `take` makes of its answer, None where there is none.
    fn answer<T: Send + 'static>(
        &self,
        core: u16,
        request: CoreRequest,
        take: fn(CoreReply) -> Option<T>,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let (promise, answer) = oneshot::channel();
        let deliver = move |reply: CoreReply| {
            // Who asked may have lost patience.
            let _gone = promise.send(take(reply));
        };
        // A core that takes nothing drops the promise.
        let _sent = self.0.send(CoreId::new(core), Box::new(Envelope::Outside(request, Box::new(deliver))));
        async move { answer.await.ok().flatten() }
    }
}

/// Serves the HTTP API until a stop is asked for, `ended` says so or the store is shortened.
pub fn manage(api: Api, server: &Server, stop: &StopSign, ended: impl Fn() -> bool) -> Result<(), Failure> {
    let adder = Adder::new(server.remote.clone(), server.store.clone(), server.place.secret()?);
    let cores = Arc::new(RemoteCores(server.remote.clone(), server.store.clone(), adder));
    executor()?.block_on(async {
        tokio::select! {
            served = api.serve(cores) => served.map_err(|e| Failure::new("serving HTTP", e)),
            stopped = stop.wait(ended) => stopped.and_then(|()| server.store.survives()),
            () = write_notices(server) => Ok(()),
            failure = server.store.shortened() => {
                // Said at once: what ends now may have more to say.
                complain!("cfs: {failure}");
                Err(Failure::plain("the store was shortened"))
            }
        }
    })
}

/// Writes what cores have to say; never ends.
async fn write_notices(server: &Server) {
    server.notices.write().await;
    std::future::pending::<()>().await;
}

/// Waits until a stop is asked for or `ended` says so.
pub fn wait_for_stop(stop: &StopSign, ended: impl Fn() -> bool) -> Result<(), Failure> {
    executor()?.block_on(stop.wait(ended))
}

fn executor() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|e| Failure::new("starting the management executor", e))
}
