//! One core of the production runtime on the calling thread.

use cfs_fuse::Host;
use cfs_runtime::{CoreConfig, run as run_core};
use cfs_types::CoreId;
use std::future::Future;

/// Runs the future that `start` makes on this thread, to its end.
pub fn run<F: Future<Output = ()> + 'static>(start: impl FnOnce(Host) -> F) {
    let main = |world, reactor| start(Host::new(&world, &reactor, false));
    run_core(CoreConfig::new(CoreId::new(0)), main).expect("a core");
}
